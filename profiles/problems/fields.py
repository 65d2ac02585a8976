"""Checked access to the fields of a document: every refusal names the JSON path and the mend.

A `Fields` wraps one object of the document. Numbers are checked by type first (a boolean, a string or null is no
number), then by value with NumPy, so a matrix of a hundred thousand entries costs milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError

FloatArray = NDArray[np.float64]
_NUMBERS = {int, float}


class Fields:
    """One object of a document, its place in it, and the keys it may have."""

    def __init__(self, value: Any, *, place: str, source: str | None, keys: Iterable[str]) -> None:
        self.place = place
        self.source = source
        if not isinstance(value, Mapping):
            self.fail(f"expected an object, got {show(value)}")
        self.value: Mapping[str, Any] = value
        known = tuple(keys)
        for key in value:
            if key not in known:
                self.fail(f"unknown key; remove it, known keys here are {', '.join(known)}", at=f".{key}")

    def fail(self, message: str, *, at: str = "") -> NoReturn:
        """Raise InputError at a path below this object."""
        raise InputError(message, source=self.source, place=self.place + at)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def get(self, key: str, expected: str) -> Any:
        """Return a required value; `expected` says what it should have been."""
        if key not in self.value:
            self.fail(f"expected {expected}, but the key is missing", at=f".{key}")
        return self.value[key]

    def child(self, key: str, keys: Iterable[str]) -> Fields:
        """Return a required object."""
        return Fields(self.get(key, "an object"), place=f"{self.place}.{key}", source=self.source, keys=keys)

    def children(self, key: str, keys: Iterable[str]) -> list[Fields]:
        """Return a required, non-empty list of objects."""
        items = self.get(key, "a list")
        if not isinstance(items, list) or not items:
            self.fail(f"expected a list of at least one object, got {show(items)}", at=f".{key}")
        known = tuple(keys)
        return [
            Fields(item, place=f"{self.place}.{key}[{i}]", source=self.source, keys=known)
            for i, item in enumerate(items)
        ]

    def text(self, key: str, default: str | None = None, *, empty: bool = False) -> str:
        """Return a string, non-empty unless `empty`."""
        if default is not None and key not in self.value:
            return default
        value = self.get(key, "text")
        if not isinstance(value, str) or not (value or empty):
            self.fail(f"expected {'text' if empty else 'non-empty text'}, got {show(value)}", at=f".{key}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            self.fail(f"expected true or false, got {show(value)}", at=f".{key}")
        return value

    def number(self, key: str, default: float | None = None, *, positive: bool = False) -> float:
        """Return a finite number of at least 0 (above 0 when `positive`)."""
        value = self.get(key, "a number") if default is None else self.value.get(key, default)
        expected = "a finite number above 0" if positive else "a finite number of at least 0"
        number = as_float(value)
        if number is None or not math.isfinite(number) or number < 0.0 or (positive and number == 0.0):
            self.fail(f"expected {expected}, got {show(value)}", at=f".{key}")
        return number

    def count(self, key: str) -> int:
        """Return a whole number of at least 1 (``2.0`` counts as whole)."""
        value = self.get(key, "a whole number")
        number = as_float(value)
        if number is None or not math.isfinite(number) or number < 1.0 or number != int(number):
            self.fail(f"expected a whole number of at least 1, got {show(value)}", at=f".{key}")
        return int(value)

    def vector(self, key: str, length: int, what: str) -> FloatArray:
        """Return `length` finite numbers of at least 0, one for each `what`."""
        row = _row(self, self.get(key, f"a list of {length} numbers"), length, what, f".{key}", nulls=False)
        _check_values(self, row[None, :], lambda _, j: f".{key}[{j}]")
        return row

    def matrix(self, key: str, rows: int, columns: int, what: tuple[str, str]) -> FloatArray:
        """Return rows × columns finite numbers of at least 0."""
        table = self._table(key, rows, columns, what, nulls=False)
        _check_values(self, table, lambda i, j: f".{key}[{i}][{j}]")
        return table

    def hop_matrix(self, key: str, size: int) -> FloatArray:
        """Return size × size numbers of at least 0, inf where the file says null; the diagonal is set to 0."""
        table = self._table(key, size, size, ("device", "device"), nulls=True)
        np.fill_diagonal(table, 0.0)
        _check_values(self, np.where(np.isposinf(table), 0.0, table), lambda i, j: f".{key}[{i}][{j}]")
        return table

    def _table(self, key: str, rows: int, columns: int, what: tuple[str, str], *, nulls: bool) -> FloatArray:
        value = self.get(key, f"a list of {rows} lists of {columns} numbers")
        if not isinstance(value, list) or len(value) != rows:
            self.fail(f"expected {rows} rows, one for each {what[0]}, got {_length(value)}", at=f".{key}")
        table = np.empty((rows, columns))
        for i, row in enumerate(value):
            table[i] = _row(self, row, columns, what[1], f".{key}[{i}]", nulls=nulls)
        return table


def _row(fields: Fields, value: Any, length: int, what: str, at: str, *, nulls: bool) -> FloatArray:
    if not isinstance(value, list) or len(value) != length:
        fields.fail(f"expected {length} numbers, one for each {what}, got {_length(value)}", at=at)
    types = set(map(type, value))
    holes = nulls and type(None) in types
    if not types <= (_NUMBERS | {type(None)} if nulls else _NUMBERS):
        j = next(j for j, item in enumerate(value) if type(item) not in _NUMBERS and not (nulls and item is None))
        fields.fail(f"expected a number{' or null' if nulls else ''}, got {show(value[j])}", at=f"{at}[{j}]")
    try:
        row = np.array(value, dtype=np.float64)
    except OverflowError:
        j = next(j for j, item in enumerate(value) if item is not None and as_float(item) is None)
        fields.fail("expected a finite number, got one too large for a double", at=f"{at}[{j}]")
    # null arrives as NaN and Infinity as inf: told apart here, before null turns into inf.
    if nulls and (np.isinf(row).any() or np.isnan(row).sum() != (value.count(None) if holes else 0)):
        j = next(j for j, item in enumerate(value) if item is not None and not math.isfinite(item))
        fields.fail(
            f"expected a finite number of at least 0 (null means no route), got {show(value[j])}", at=f"{at}[{j}]"
        )
    return np.where(np.isnan(row), np.inf, row) if holes else row


def _check_values(fields: Fields, table: FloatArray, at: Any) -> None:
    bad = ~(np.isfinite(table) & (table >= 0.0))
    if bad.any():
        i, j = (int(index) for index in np.argwhere(bad)[0])
        fields.fail(f"expected a finite number of at least 0, got {show(float(table[i, j]))}", at=at(i, j))


def as_float(value: Any) -> float | None:
    """Return a number as a float; None for anything that is no number (booleans too) or too large for a double."""
    if type(value) not in _NUMBERS:
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


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else show(value)
