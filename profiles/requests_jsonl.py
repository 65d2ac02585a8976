"""JSON Lines tables of requests: one object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.records import as_float, show
from gpuplan.profiles.requests_values import ColumnArray, Kind, join, parse_dates

_CHUNK: Final = 50_000


def jsonl_header(source: str) -> tuple[str, ...]:
    """Return the keys of the first object; InputError when there is none."""
    for _, item in _objects(source):
        return tuple(item)
    raise InputError("expected one JSON object a line, got an empty file", source=source)


def read_jsonl(source: str, kinds: Mapping[str, Kind]) -> dict[str, ColumnArray]:
    """Return the values under the keys named in `kinds`; missing and null are NaN or None. InputError with the line."""
    chunks: dict[str, list[ColumnArray]] = {name: [] for name in kinds}
    cells: dict[str, list[Any]] = {name: [] for name in kinds}
    lines: list[int] = []
    for line, item in _objects(source):
        lines.append(line)
        for name, column in cells.items():
            column.append(item.get(name))
        if len(lines) == _CHUNK:
            _convert(source, cells, kinds, lines, chunks)
            cells, lines = {name: [] for name in kinds}, []
    if lines:
        _convert(source, cells, kinds, lines, chunks)
    return {name: join(parts) for name, parts in chunks.items()}


def _objects(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with open(source, encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                item = json.loads(text)
                if not isinstance(item, dict):
                    raise InputError(
                        f"expected one JSON object a line, got {show(item)}", source=source, place=f"line {number}"
                    )
                yield number, item
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected JSON text in UTF-8, got binary data at byte {error.start} of a block", source=source
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested or numbered past all use"
        raise InputError(
            f"expected one JSON object a line, got text that is none ({reason}); the file may be cut short",
            source=source,
            place=f"line {number}",
        ) from None


def _convert(
    source: str,
    cells: Mapping[str, list[Any]],
    kinds: Mapping[str, Kind],
    lines: Sequence[int],
    chunks: Mapping[str, list[ColumnArray]],
) -> None:
    for name, kind in kinds.items():
        column = cells[name]
        try:
            chunks[name].append(_CONVERT[kind](column))
        except _BadValueError as error:
            raise InputError(
                f"expected {error.expected} under {name!r}, got {show(column[error.row])}",
                source=source,
                place=f"line {lines[error.row]}",
            ) from None


class _BadValueError(Exception):
    def __init__(self, row: int, expected: str) -> None:
        self.row = row
        self.expected = expected
        super().__init__(row)


def _numbers(values: list[Any]) -> ColumnArray:
    if set(map(type, values)) <= {int, float, type(None)}:
        try:
            column = np.array(values, dtype=np.float64)
        except OverflowError:
            column = np.array([np.inf])
        # A written NaN is no blank: null is how JSON leaves a value out.
        if np.isnan(column).sum() == values.count(None) and not np.isinf(column).any():
            return column
    row = next(i for i, value in enumerate(values) if value is not None and not _finite(value))
    raise _BadValueError(row, "a finite number")


def _finite(value: Any) -> bool:
    number = as_float(value)
    return number is not None and abs(number) != np.inf and number == number


def _times(values: list[Any]) -> ColumnArray:
    if not values or not all(isinstance(value, str) for value in values):
        return _numbers(values)
    try:
        return parse_dates(values)
    except ValueError:
        row = next(i for i, value in enumerate(values) if not _is_date(value))
        raise _BadValueError(row, "a number of seconds or a date and time") from None


def _is_date(value: str) -> bool:
    try:
        parse_dates([value])
    except ValueError:
        return False
    return True


def _text(values: list[Any]) -> ColumnArray:
    return np.array([_as_text(value) for value in values], dtype=object)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _ids(values: list[Any]) -> ColumnArray:
    types = set(map(type, values))
    if not types <= {int, str}:
        row = next(i for i, value in enumerate(values) if type(value) not in (int, str))
        raise _BadValueError(row, "text or a whole number")
    if types == {int} and max(map(abs, values)) < 2**62:
        return np.array(values, dtype=np.int64)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


_CONVERT: dict[Kind, Callable[[list[Any]], ColumnArray]] = {
    "number": _numbers,
    "time": _times,
    "text": _text,
    "id": _ids,
}
