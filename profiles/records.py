"""Strict reading of JSON objects: every key known, every value of its type, every refusal with its JSON path."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self

from gpuplan.errors import InputError

#: Whole numbers above this do not survive a round trip through JSON readers that use doubles.
LARGEST_WHOLE = 2**53


class Record:
    """A JSON object that is read key by key.

    Parameters
    ----------
    value
        The object; anything else is refused.
    source, path
        The file and the object's JSON path in it, for messages.
    keys
        All keys it may have; None: `expect_keys` is asked, or any key may stand here.
    """

    def __init__(
        self, value: object, *, source: str | None, path: str = "$", keys: Iterable[str] | None = None
    ) -> None:
        self.source = source
        self.path = path
        if not isinstance(value, Mapping):
            raise self.error(f"expected an object, got {show(value)}")
        self.value: Mapping[str, Any] = value
        if keys is not None:
            self.expect_keys((), tuple(keys))

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def error(self, message: str, key: str | None = None) -> InputError:
        """Return an `InputError` that points at `key`, or at the whole object."""
        return InputError(message, source=self.source, place=self.path if key is None else self._at(key))

    def fail(self, message: str, key: str | None = None) -> NoReturn:
        """Raise that error."""
        raise self.error(message, key)

    def names(self) -> tuple[str, ...]:
        """Return the object's keys."""
        return tuple(self.value)

    def expect_keys(self, required: Collection[str], optional: Collection[str]) -> None:
        """Refuse missing and unknown keys."""
        for key in sorted(required):
            if key not in self.value:
                self.fail(f"expected the key {key}, found none; add it", key)
        for key in self.value:
            if key not in required and key not in optional:
                known = ", ".join(sorted({*required, *optional}))
                self.fail(
                    f"expected one of the keys {known}, got the unknown key {json.dumps(key)}; remove it", str(key)
                )

    def get(self, key: str, expected: str, default: Any = None) -> Any:
        """Return a value; where there is none the default, or without one a refusal that says what is expected."""
        if key not in self.value and default is None:
            self.fail(f"expected {expected}, but the key is missing", key)
        return self.value.get(key, default)

    def text(self, key: str, default: str | None = None, *, empty: bool = False) -> str:
        """Return a string, non-empty unless `empty` or by default."""
        value = self.get(key, "text", default)
        if not isinstance(value, str) or not (value or empty or value == default):
            self.fail(f"expected {'text' if empty else 'non-empty text'}, got {show(value)}", key)
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return a string that is one of `choices`."""
        value = self.text(key, default)
        if value not in choices:
            self.fail(f"expected one of {', '.join(choices)}, got {show(value)}", key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        values = self.values(key)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.fail(f"expected text, got {show(value)}", f"{key}[{index}]")
        return tuple(values)

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            self.fail(f"expected true or false, got {show(value)}", key)
        return value

    def number(self, key: str, default: float | None = None, *, positive: bool = False) -> float:
        """Return a finite number of at least 0 (above 0 when `positive`)."""
        expected = "a finite number above 0" if positive else "a finite number of at least 0"
        value = self.get(key, expected, default)
        number = as_float(value)
        if number is None or not 0.0 <= number < math.inf or (positive and number == 0.0):
            self.fail(f"expected {expected}, got {show(value)}", key)
        return number

    def optional_number(self, key: str) -> float | None:
        """Return a finite number of at least 0, or None where it is null or missing."""
        return None if self.value.get(key) is None else self.number(key)

    def whole(self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = LARGEST_WHOLE) -> int:
        """Return a whole number from `minimum` to `maximum` (``2.0`` counts as whole)."""
        expected = f"a whole number from {minimum} to {maximum}"
        value = self.get(key, expected, default)
        number = as_float(value)
        if number is None or not minimum <= number <= maximum or number != int(number):
            if maximum == LARGEST_WHOLE and not (number is not None and number > maximum):
                expected = f"a whole number of at least {minimum}"
            self.fail(f"expected {expected}, got {show(value)}", key)
        return int(value)

    def optional_whole(self, key: str) -> int | None:
        """Return a whole number of at least 1, or None where it is null or missing."""
        return None if self.value.get(key) is None else self.whole(key, minimum=1)

    def record(self, key: str, keys: Iterable[str] | None = None) -> Self:
        """Return the object under `key`."""
        return type(self)(self.get(key, "an object"), source=self.source, path=self._at(key), keys=keys)

    def records(self, key: str, keys: Iterable[str] | None = None, *, least: int = 0) -> list[Self]:
        """Return the list of at least so many objects under `key`."""
        items = self.values(key)
        if len(items) < least:
            self.fail(f"expected a list of at least {least} object{'s' * (least != 1)}, got {show(items)}", key)
        known = None if keys is None else tuple(keys)
        return [
            type(self)(value, source=self.source, path=f"{self._at(key)}[{index}]", keys=known)
            for index, value in enumerate(items)
        ]

    def values(self, key: str) -> Sequence[Any]:
        """Return a list of anything."""
        value = self.get(key, "a list")
        if not isinstance(value, list | tuple):
            self.fail(f"expected a list, got {show(value)}", key)
        return value

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}"


def as_float(value: Any) -> float | None:
    """Return a number as a float; None for anything that is no number (booleans too) or too large for a double."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def show(value: Any) -> str:
    """Return how a refused value reads in a message.

    >>> show("12"), show(True), show(None), show([1, 2]), show(float("nan"))
    ("the text '12'", 'true', 'null', 'a list of 2', 'nan')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, Mapping):
        return "an object"
    return "a number too large for a double" if isinstance(value, int) and abs(value) >= 10**300 else str(value)
