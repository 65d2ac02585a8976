"""Strict reading of JSON objects: every key known, every value of its type, every refusal with its JSON path."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gpuplan.errors import InputError
from gpuplan.profiles.architectures.fields import describe

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
    """

    def __init__(self, value: object, *, source: str | None, path: str) -> None:
        self.source = source
        self.path = path
        if not isinstance(value, Mapping):
            raise self.error(f"expected an object, got {describe(value)}")
        self._values: Mapping[str, Any] = value

    def error(self, message: str, key: str | None = None) -> InputError:
        """Return an `InputError` that points at `key`, or at the whole object."""
        return InputError(message, source=self.source, place=self.path if key is None else self._at(key))

    def names(self) -> tuple[str, ...]:
        """Return the object's keys."""
        return tuple(self._values)

    def expect_keys(self, required: Collection[str], optional: Collection[str]) -> None:
        """Refuse missing and unknown keys."""
        for key in sorted(required):
            if key not in self._values:
                raise self.error(f"expected the key {key}, found none; add it", key)
        for key in self._values:
            if key not in required and key not in optional:
                known = ", ".join(sorted({*required, *optional}))
                raise self.error(f"expected one of the keys {known}, got {json.dumps(key)}; remove it", str(key))

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"expected a string, got {describe(value)}", key)
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return a string that is one of `choices`."""
        value = self.text(key, default)
        if value not in choices:
            raise self.error(f"expected one of {', '.join(choices)}, got {describe(value)}", key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        for index, value in enumerate(self._list(key)):
            if not isinstance(value, str):
                raise self.error(f"expected a string, got {describe(value)}", f"{key}[{index}]")
        return tuple(self._list(key))

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, got {describe(value)}", key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number of at least 0."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise self.error(f"expected a finite number of at least 0, got {describe(value)}", key)
        if value > sys.float_info.max:
            raise self.error("expected a finite number of at least 0, got one too large for a double", key)
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """Return a finite number of at least 0, or None where it is null or missing."""
        return None if self._values.get(key) is None else self.number(key)

    def whole(self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = LARGEST_WHOLE) -> int:
        """Return a whole number from `minimum` to `maximum`."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.error(f"expected a whole number from {minimum} to {maximum}, got {describe(value)}", key)
        return value

    def optional_whole(self, key: str) -> int | None:
        """Return a whole number of at least 1, or None where it is null or missing."""
        return None if self._values.get(key) is None else self.whole(key, minimum=1)

    def record(self, key: str) -> Record:
        """Return the object under `key`."""
        return Record(self._values.get(key), source=self.source, path=self._at(key))

    def records(self, key: str) -> list[Record]:
        """Return the list of objects under `key`."""
        return [
            Record(value, source=self.source, path=f"{self._at(key)}[{index}]")
            for index, value in enumerate(self._list(key))
        ]

    def values(self, key: str) -> Sequence[Any]:
        """Return a list of anything."""
        return self._list(key)

    def _list(self, key: str) -> Sequence[Any]:
        value = self._values.get(key)
        if not isinstance(value, (list, tuple)):
            raise self.error(f"expected a list, got {describe(value)}", key)
        return value

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}"
