"""Numbers by the thousand in a document: vectors and matrices, read strictly and fast.

Numbers are checked by type first (a boolean, a string or null is no number), then by value with NumPy, so a matrix of
a hundred thousand entries costs milliseconds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.records import Record, as_float, show

FloatArray = NDArray[np.float64]
_NUMBERS = {int, float}


class Fields(Record):
    """A record with tables of numbers."""

    def vector(self, key: str, length: int, what: str) -> FloatArray:
        """Return `length` finite numbers of at least 0, one for each `what`."""
        row = _row(self, self.get(key, f"a list of {length} numbers"), length, what, key, nulls=False)
        _check_values(self, row[None, :], lambda _, j: f"{key}[{j}]")
        return row

    def matrix(self, key: str, rows: int, columns: int, what: tuple[str, str]) -> FloatArray:
        """Return rows × columns finite numbers of at least 0."""
        table = self._table(key, rows, columns, what, nulls=False)
        _check_values(self, table, lambda i, j: f"{key}[{i}][{j}]")
        return table

    def hop_matrix(self, key: str, size: int) -> FloatArray:
        """Return size × size numbers of at least 0, inf where the file says null; the diagonal is set to 0."""
        table = self._table(key, size, size, ("device", "device"), nulls=True)
        np.fill_diagonal(table, 0.0)
        _check_values(self, np.where(np.isposinf(table), 0.0, table), lambda i, j: f"{key}[{i}][{j}]")
        return table

    def _table(self, key: str, rows: int, columns: int, what: tuple[str, str], *, nulls: bool) -> FloatArray:
        value = self.get(key, f"a list of {rows} lists of {columns} numbers")
        if not isinstance(value, list) or len(value) != rows:
            self.fail(f"expected {rows} rows, one for each {what[0]}, got {_length(value)}", key)
        table = np.empty((rows, columns))
        for i, row in enumerate(value):
            table[i] = _row(self, row, columns, what[1], f"{key}[{i}]", nulls=nulls)
        return table


def _row(fields: Fields, value: Any, length: int, what: str, at: str, *, nulls: bool) -> FloatArray:
    if not isinstance(value, list) or len(value) != length:
        fields.fail(f"expected {length} numbers, one for each {what}, got {_length(value)}", at)
    types = set(map(type, value))
    holes = nulls and type(None) in types
    if not types <= (_NUMBERS | {type(None)} if nulls else _NUMBERS):
        j = next(j for j, item in enumerate(value) if type(item) not in _NUMBERS and not (nulls and item is None))
        fields.fail(f"expected a number{' or null' if nulls else ''}, got {show(value[j])}", f"{at}[{j}]")
    try:
        row = np.array(value, dtype=np.float64)
    except OverflowError:
        j = next(j for j, item in enumerate(value) if item is not None and as_float(item) is None)
        fields.fail("expected a finite number, got one too large for a double", f"{at}[{j}]")
    # null arrives as NaN and Infinity as inf: told apart here, before null turns into inf.
    if nulls and (np.isinf(row).any() or np.isnan(row).sum() != (value.count(None) if holes else 0)):
        j = next(j for j, item in enumerate(value) if item is not None and not math.isfinite(item))
        fields.fail(f"expected a finite number of at least 0 (null means no route), got {show(value[j])}", f"{at}[{j}]")
    return np.where(np.isnan(row), np.inf, row) if holes else row


def _check_values(fields: Fields, table: FloatArray, at: Any) -> None:
    bad = ~(np.isfinite(table) & (table >= 0.0))
    if bad.any():
        i, j = (int(index) for index in np.argwhere(bad)[0])
        fields.fail(f"expected a finite number of at least 0, got {show(float(table[i, j]))}", at(i, j))


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else show(value)
