"""Types of option values: each refuses what it cannot mean with one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import click

from gpuplan.errors import UsageError
from gpuplan.units import parse_bytes

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # older versions of click have no type parameter here
    _Type = click.ParamType


class Whole(_Type):
    """A whole number of at least `least`."""

    name = "number"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            number = int(str(value))
        except ValueError:
            number = self.least - 1
        if number < self.least:
            self.fail(f"expected a whole number of at least {self.least}, got {str(value)!r}", param, ctx)
        return number


class Seconds(_Type):
    """A positive, finite duration in seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        seconds = _number(value)
        if not (math.isfinite(seconds) and seconds > 0.0):
            self.fail(f"expected seconds above 0, got {str(value)!r}", param, ctx)
        return seconds


class Fraction(_Type):
    """A number above 0 and at most 1."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the fraction."""
        fraction = _number(value)
        if not 0.0 < fraction <= 1.0:
            self.fail(f"expected a fraction above 0 and at most 1, got {str(value)!r}", param, ctx)
        return fraction


class Size(_Type):
    """Bytes, with or without a unit: ``1GiB``, ``500MB``, ``0``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        try:
            return parse_bytes(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Balance(_Type):
    """Two weights ``latency:devices``, not negative and not both 0."""

    name = "a:b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Return the weights of latency and devices."""
        if isinstance(value, tuple):
            return value
        first, _, second = str(value).partition(":")
        weights = (_number(first), _number(second))
        if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights) or sum(weights) <= 0.0:
            self.fail(f"expected two weights such as 10:1 (latency:devices), got {str(value)!r}", param, ctx)
        return weights


class MicroBatches(_Type):
    """A whole number of at least 1, or ``stages``."""

    name = "number|stages"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["stages"]:
        """Return the number, or ``"stages"``."""
        if value == "stages":
            return "stages"
        try:
            return Whole().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number of at least 1, or 'stages', got {str(value)!r}", param, ctx)


class TensorParallel(_Type):
    """Degrees of tensor parallelism: a list of whole numbers, or ``auto``."""

    name = "degrees"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...] | Literal["auto"]:
        """Return the degrees, or ``"auto"``."""
        text = str(value).strip()
        if isinstance(value, tuple):
            return value
        if text == "auto":
            return "auto"
        degrees = [_number(part) for part in text.split(",")]
        if any(not (math.isfinite(degree) and degree >= 1 and degree == int(degree)) for degree in degrees):
            self.fail(f"expected 1, a list of whole numbers or 'auto', got {text!r}", param, ctx)
        return tuple(int(degree) for degree in degrees)


def _number(value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
