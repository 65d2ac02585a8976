"""Parquet tables of requests (the extra ``parquet``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuplan.errors import InputError, SolverUnavailableError
from gpuplan.profiles.requests_values import ColumnArray, Kind


def require_pyarrow(what: str) -> None:
    """Refuse Parquet where pyarrow is not installed (SolverUnavailableError), naming the extra."""
    if importlib.util.find_spec("pyarrow") is None:
        raise SolverUnavailableError(
            f"{what} needs pyarrow; install it with pip install 'gpuplan[parquet]', or use CSV, JSONL or JSON"
        )


def parquet_header(source: str) -> tuple[str, ...]:
    """Return the columns of the file; InputError when it is no whole Parquet file."""
    return tuple(_open(source).schema_arrow.names)


def read_parquet(source: str, kinds: Mapping[str, Kind]) -> dict[str, ColumnArray]:
    """Return the columns named in `kinds`; nulls are NaN or None. InputError for a column of another type."""
    table = _read(source, list(kinds))
    return {name: _column(table.column(name), name, kind, source) for name, kind in kinds.items()}


def _open(source: str) -> Any:
    require_pyarrow(f"reading {source}")
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    try:
        return parquet.ParquetFile(source)
    except (ArrowException, OSError) as error:
        raise _broken(source, error) from None


def _read(source: str, columns: list[str]) -> Any:
    from pyarrow.lib import ArrowException

    try:
        return _open(source).read(columns=columns)
    except (ArrowException, OSError) as error:
        raise _broken(source, error) from None


def _broken(source: str, error: BaseException) -> InputError:
    reason = str(error).splitlines()[0].rstrip(".")
    return InputError(
        f"expected a whole Parquet file, got one that is cut short or damaged ({reason}); write it again",
        source=source,
    )


def _column(column: Any, name: str, kind: Kind, source: str) -> ColumnArray:
    import pyarrow as pa

    if kind == "text":
        return np.array(column.to_pylist(), dtype=object)
    if kind == "id":
        if column.null_count:
            raise InputError(f"expected an id in every row of column {name}, got nulls", source=source)
        plain = pa.types.is_integer(column.type)
        return np.asarray(column.to_numpy()) if plain else np.array(list(map(str, column.to_pylist())), dtype=object)
    if kind == "time" and pa.types.is_timestamp(column.type):
        return np.asarray(column.to_numpy()).astype("datetime64[us]")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"expected numbers in column {name}, got values of type {column.type}", source=source)
    return np.asarray(column.to_numpy(), dtype=np.float64)
