"""Columns as readers hand them on: numbers, dates, ids and text, joined from chunks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ColumnArray = NDArray[Any]
#: number: float64, NaN for a blank. time: the same, or datetime64[us]. text: objects, None for a blank. id: see as_ids.
Kind = Literal["number", "time", "text", "id"]


def parse_dates(cells: Sequence[str]) -> ColumnArray:
    """Return ISO 8601 dates and times as datetime64[us]; ValueError for anything else.

    >>> parse_dates(["2023-11-16 18:15:46.6805900", "2023-11-16T18:15:46Z"]).astype(str).tolist()
    ['2023-11-16T18:15:46.680590', '2023-11-16T18:15:46.000000']
    """
    return np.array([_date(cell) for cell in cells], dtype="datetime64[us]")


def _date(cell: str) -> datetime:
    moment = datetime.fromisoformat(cell.strip())
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def as_ids(cells: Sequence[str]) -> ColumnArray:
    """Return ids as int64 when all are whole numbers written plainly, else as the text they are.

    >>> as_ids(["3", "10"]).dtype, as_ids(["3", "010"]).tolist()
    (dtype('int64'), ['3', '010'])
    """
    try:
        numbers = list(map(int, cells))
    except ValueError:
        return np.array(list(cells), dtype=object)
    if list(map(str, numbers)) != list(cells) or max(map(abs, numbers)) >= 2**62:
        return np.array(list(cells), dtype=object)
    return np.array(numbers, dtype=np.int64)


def join(parts: Sequence[ColumnArray]) -> ColumnArray:
    """Return the chunks of one column as one array; ids turn to text when one chunk is text.

    Raises
    ------
    ValueError
        Numbers and dates in one column.
    """
    if not parts:
        return np.empty(0)
    kinds = {part.dtype.kind for part in parts}
    if "O" in kinds and "i" in kinds:
        parts = [part if part.dtype.kind == "O" else part.astype(str).astype(object) for part in parts]
    elif "M" in kinds and len(kinds) > 1:
        raise ValueError("numbers and dates mixed")
    return np.concatenate(parts)
