"""Checks of values read from documents; every refusal names the JSON path."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.units import parse_bytes


def describe(value: object) -> str:
    """Return `value` as a person should see it in a message, cut to a readable length."""
    text = "null" if value is None else _shown(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(value: object) -> str:
    """Return `value` as Python writes it, without spelling out what is huge (YAML aliases nest without end)."""
    if isinstance(value, str):
        return repr(value[:100])
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 3, 12, 12, 100, 100
    return short.repr(value)


def mapping(value: object, path: str) -> Mapping[str, Any]:
    """Return `value` when it is a mapping with text keys."""
    if not isinstance(value, Mapping):
        raise InputError(f"expected a mapping, got {describe(value)}", place=path)
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"expected text keys, got {describe(key)}; put it in quotes", place=path)
        if len(key) > 200 or not key.isprintable():
            raise InputError(f"expected a short key in one line, got {describe(key)}", place=path)
    return value


def sequence(value: object, path: str) -> Sequence[Any]:
    """Return `value` when it is a list."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputError(f"expected a list, got {describe(value)}", place=path)
    return value


def known_keys(value: Mapping[str, Any], allowed: Collection[str], path: str) -> None:
    """Refuse keys outside `allowed`."""
    for key in value:
        if key not in allowed:
            raise InputError(
                f"unknown key {key!r}; expected one of {', '.join(sorted(allowed))}", place=f"{path}.{key}"
            )


def required(value: Mapping[str, Any], key: str, path: str) -> Any:
    """Return ``value[key]``; its absence is an error."""
    if key not in value:
        raise InputError(f"the key {key!r} is missing", place=path)
    return value[key]


def text(value: object, path: str) -> str:
    """Return `value` when it is non-empty text."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"expected non-empty text, got {describe(value)}", place=path)
    if not value.isprintable():
        raise InputError(f"expected text in one line, got {describe(value)}", place=path)
    return value


def boolean(value: object, path: str) -> bool:
    """Return `value` when it is true or false."""
    if not isinstance(value, bool):
        raise InputError(f"expected true or false, got {describe(value)}", place=path)
    return value


def number(value: object, path: str, *, zero: bool = False) -> float:
    """Return `value` as a float when it is a finite number above zero (or at least zero with `zero`)."""
    wanted = "a finite number of at least 0" if zero else "a finite number above 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"expected {wanted}, got {describe(value)}", place=path)
    result = _as_float(value)
    if not math.isfinite(result) or result < 0.0 or (result == 0.0 and not zero):
        raise InputError(f"expected {wanted}, got {describe(value)}", place=path)
    return result


def integer(value: object, path: str, *, minimum: int = 1, maximum: int = 1 << 60) -> int:
    """Return `value` as an int when it is a whole number from `minimum` to `maximum`."""
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(_as_float(value))
    if not whole or not float(value).is_integer():  # type: ignore[arg-type]
        raise InputError(f"expected a whole number of at least {minimum}, got {describe(value)}", place=path)
    result = int(value)  # type: ignore[call-overload]
    if not minimum <= result <= maximum:
        raise InputError(f"expected a whole number from {minimum} to {maximum}, got {describe(value)}", place=path)
    return int(result)


def _as_float(value: int | float) -> float:
    """Return `value` as a float, inf where an int is beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def size(value: object, path: str) -> int:
    """Return bytes from a number or from text with a unit such as ``20GiB``."""
    if isinstance(value, str):
        try:
            value = parse_bytes(value)
        except UsageError as error:
            raise InputError(str(error), place=path) from None
    return round(number(value, path))
