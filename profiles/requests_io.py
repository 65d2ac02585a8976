"""Reads request tables: CSV, JSON Lines or Parquet, told apart by content, in our columns or a known layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.requests import (
    TEXT_COLUMNS,
    TIME_COLUMNS,
    RequestTable,
    checked_numbers,
    checked_tokens,
)
from gpuplan.profiles.requests_csv import csv_header, read_csv
from gpuplan.profiles.requests_jsonl import jsonl_header, read_jsonl
from gpuplan.profiles.requests_layouts import MILLISECONDS, map_columns
from gpuplan.profiles.requests_parquet import parquet_header, read_parquet
from gpuplan.profiles.requests_values import ColumnArray, Kind

Header = Callable[[str], tuple[str, ...]]
Read = Callable[[str, Mapping[str, Kind]], dict[str, ColumnArray]]

_FORMATS: dict[str, tuple[Header, Read]] = {
    "csv": (csv_header, read_csv),
    "jsonl": (jsonl_header, read_jsonl),
    "parquet": (parquet_header, read_parquet),
}
_MAGIC: Final = b"PAR1"


def load_requests(path: str | Path, *, columns: Mapping[str, str] | None = None, outputs: bool = True) -> RequestTable:
    """Read a table of requests.

    Parameters
    ----------
    path
        CSV with a header, JSON Lines, or Parquet; the columns of `gpuplan.profiles.requests.COLUMNS`, or a known
        layout (Azure LLM 2023, Mooncake, BurstGPT, vidur, ShareGPT lengths).
    columns
        Our column name → the file's, where they differ: ``{"prompt_tokens": "n_in"}``. A time in milliseconds is
        mapped as ``arrival_ms``, ``slo_ms``, …
    outputs
        Whether output_tokens is required; without it a table of requests to predict has 0 each.

    Raises
    ------
    InputError
        The file cannot be used; the message names the row or line and the mend.
    UsageError
        `columns` names a column that does not exist.
    SolverUnavailableError
        A Parquet file where the extra ``parquet`` is not installed.
    """
    source = str(path)
    layout, mapping = map_columns(table_header(source), columns or {}, source, outputs=outputs)
    values = read_columns(source, {column: _kind(name) for name, column in mapping.items()})
    try:
        return _table({name: values[column] for name, column in mapping.items()}, layout)
    except InputError as error:
        raise error.at(source) from None


def table_header(source: str) -> tuple[str, ...]:
    """Return the columns of a CSV, JSON Lines or Parquet file; InputError when it is none of them."""
    return _FORMATS[_format(source)][0](source)


def read_columns(source: str, kinds: Mapping[str, Kind]) -> dict[str, ColumnArray]:
    """Return the columns named in `kinds` of a CSV, JSON Lines or Parquet file; InputError as `load_requests`."""
    try:
        return _FORMATS[_format(source)][1](source, kinds)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected one kind of value a column, got {error}", source=source) from None


def _format(source: str) -> str:
    try:
        with open(source, "rb") as stream:
            head = stream.read(4096)
    except FileNotFoundError:
        raise InputError("expected a file, found none at this path", source=source) from None
    except IsADirectoryError:
        raise InputError("expected a file, found a folder", source=source) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"expected a readable file, but it cannot be read: {reason}", source=source) from None
    suffix = Path(source).suffix.lower()
    if head.startswith(_MAGIC):
        return "parquet"
    if not head.strip():
        raise InputError("expected a table of requests, got an empty file", source=source)
    if suffix in (".parquet", ".pq"):
        raise InputError("expected a Parquet file, got something else; write it again", source=source)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "jsonl"
    return "csv"


def _kind(name: str) -> Kind:
    if name == "id":
        return "id"
    if name in TEXT_COLUMNS:
        return "text"
    return "time" if name in ("arrival_s", "deadline_s") else "number"


def _table(values: Mapping[str, ColumnArray], layout: str) -> RequestTable:
    size = len(values["prompt_tokens"])
    if not size:
        raise InputError("expected at least one request, got a header without rows")
    columns: dict[str, Any] = {"prompt_tokens": checked_tokens(values["prompt_tokens"], "prompt_tokens")}
    outputs = values.get("output_tokens", np.zeros(size))
    columns["output_tokens"] = checked_tokens(outputs, "output_tokens")
    columns["id"] = values.get("id", np.arange(size))
    times = _times(values)
    for name in TIME_COLUMNS:
        if name in times:
            negative = name == "slo_s"  # a negative one is a deadline before arrival, said as such
            columns[name] = checked_numbers(times[name], name, blanks=name != "arrival_s", negative=negative)
    columns.setdefault("arrival_s", np.zeros(size))
    for name in ("predicted_output_tokens", "output_bucket"):
        if name in values:
            columns[name] = checked_tokens(values[name], name)
    if "weight" in values:
        columns["weight"] = checked_numbers(values["weight"], "weight", blanks=False)
    if "tenant" in values:
        columns["tenant"] = values["tenant"]
    if "class" in values:
        columns["request_class"] = values["class"]
    return RequestTable(**columns, layout=layout)


def _times(values: Mapping[str, ColumnArray]) -> dict[str, ColumnArray]:
    """Return the columns of times in seconds; dates count from the earliest arrival."""
    times = {name: values[name] for name in TIME_COLUMNS if name in values}
    times |= {seconds: values[ms] / 1e3 for ms, seconds in MILLISECONDS.items() if ms in values}
    dates = [name for name, column in times.items() if column.dtype.kind == "M"]
    if not dates:
        return times
    origin = times["arrival_s"] if "arrival_s" in dates else None
    if origin is None:
        raise InputError(f"expected {dates[0]} in seconds, as arrival_s is; got dates")
    if "deadline_s" in times and "deadline_s" not in dates:
        raise InputError("expected deadline_s as dates, as arrival_s is; got numbers")
    if any(np.isnat(times[name]).any() for name in dates):
        raise InputError("expected a date and time in every row, got blanks")
    first = origin.min()
    return times | {name: (times[name] - first) / np.timedelta64(1, "us") / 1e6 for name in dates}
