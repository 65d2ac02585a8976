"""CSV tables of requests, in chunks: a million rows take seconds and little memory."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.requests_values import ColumnArray, Kind, as_ids, join, parse_dates

#: Rows converted at once: few enough to stay in the processor's cache (twice as fast as 50,000).
_CHUNK: Final = 1_000


def csv_header(source: str) -> tuple[str, ...]:
    """Return the columns of the file; InputError when it is empty or no text."""
    with _rows(source) as rows:
        return tuple(name.strip() for name in next(rows))


def read_csv(source: str, kinds: Mapping[str, Kind]) -> dict[str, ColumnArray]:
    """Return the columns named in `kinds`; blanks are NaN or None. InputError with the line of a bad cell."""
    chunks: dict[str, list[ColumnArray]] = {name: [] for name in kinds}
    with _rows(source) as rows:
        header = [name.strip() for name in next(rows)]
        places = {name: header.index(name) for name in kinds}
        start = 0
        while chunk := list(itertools.islice(rows, _CHUNK)):
            if set(map(len, chunk)) != {len(header)}:
                chunk = _checked_widths(source, chunk, header, start)
            if not chunk:
                continue
            columns = list(zip(*chunk, strict=True))
            for name, kind in kinds.items():
                try:
                    chunks[name].append(_CONVERT[kind](columns[places[name]]))
                except ValueError:
                    _refuse(source, columns[places[name]], name, kind, start)
            start += len(chunk)
    return {name: join(parts) for name, parts in chunks.items()}


@contextmanager
def _rows(source: str) -> Iterator[Iterator[list[str]]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream)
            first = next((row for row in rows if row), None)
            if first is None:
                raise InputError("expected a table with a header, got an empty file", source=source)
            yield itertools.chain([first], rows)
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected CSV text in UTF-8, got binary data at byte {error.start} of a block", source=source
        ) from None
    except csv.Error as error:
        raise InputError(f"expected CSV text, got a line that is none: {error}", source=source) from None


def _checked_widths(source: str, chunk: list[list[str]], header: Sequence[str], start: int) -> list[list[str]]:
    """Return the rows that are not blank; InputError with the line of one of another width than the header."""
    rows = [row for row in chunk if row]
    for offset, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(
                f"expected {len(header)} cells as in the header, got {len(row)}; the file may be cut short",
                source=source,
                place=f"line {_line(source, start + offset)}",
            )
    return rows


def _numbers(cells: Sequence[str]) -> ColumnArray:
    try:
        return np.array(list(map(float, cells)))
    except ValueError:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])


def _times(cells: Sequence[str]) -> ColumnArray:
    try:
        return _numbers(cells)
    except ValueError:
        return parse_dates(cells)


def _text(cells: Sequence[str]) -> ColumnArray:
    return np.array([cell if cell else None for cell in cells], dtype=object)


def _ids(cells: Sequence[str]) -> ColumnArray:
    if not all(cells):
        raise ValueError("a blank id")
    return as_ids(cells)


_CONVERT: dict[Kind, Callable[[Sequence[str]], ColumnArray]] = {
    "number": _numbers,
    "time": _times,
    "text": _text,
    "id": _ids,
}
_EXPECTED: dict[Kind, str] = {
    "number": "a number",
    "time": "a number of seconds or a date and time",
    "text": "text",
    "id": "an id",
}


def _refuse(source: str, cells: Sequence[str], name: str, kind: Kind, start: int) -> None:
    for offset, cell in enumerate(cells):
        try:
            _CONVERT[kind]([cell])
        except ValueError:
            got = repr(cell) if cell else "an empty cell"
            raise InputError(
                f"expected {_EXPECTED[kind]} in column {name}, got {got}",
                source=source,
                place=f"line {_line(source, start + offset)}",
            ) from None
    raise InputError(f"expected one kind of value in column {name}, got numbers and dates mixed", source=source)


def _line(source: str, row: int) -> Any:
    """Return the line of data row `row`: read again, since quoted cells may span lines."""
    with open(source, encoding="utf-8-sig", newline="", errors="replace") as stream:
        reader = csv.reader(stream)
        count = -2
        for cells in reader:
            count += bool(cells)
            if count == row:
                break
        return reader.line_num
