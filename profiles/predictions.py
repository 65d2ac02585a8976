"""What a length predictor said, whichever it was: a table with one row a request.

Columns: ``id`` and one of

* ``predicted_output_tokens``: a length;
* ``output_bucket``: the upper edge of a bucket (8, 16, … 2048 in the preset);
* ``quantiles``: ``{"0.5": 120, "0.9": 400}``, in CSV also ``0.5:120;0.9:400``;
* ``samples``: ``[96, 120, 400]``, in CSV also ``96;120;400``.

CSV, JSON Lines and Parquet are told apart by content. Without ``id``, row i speaks of request i.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.lengths import UELLM_BUCKETS, Buckets, Lengths, Spread
from gpuplan.profiles.problems.batching import IdArray, first_repeated, id_column
from gpuplan.profiles.requests import checked_tokens
from gpuplan.profiles.requests_io import read_columns, table_header
from gpuplan.profiles.requests_values import ColumnArray

PredictionKind = Literal["predicted_output_tokens", "output_bucket", "quantiles", "samples"]
KINDS: Final[tuple[PredictionKind, ...]] = ("predicted_output_tokens", "output_bucket", "quantiles", "samples")
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predicted lengths by request.

    Parameters
    ----------
    id
        Names of the requests, or None when the rows are in the order of the request table.
    lengths
        One distribution a row.
    kind
        The column they were read from.
    """

    id: IdArray | None
    lengths: Lengths
    kind: PredictionKind

    def of(self, ids: IdArray) -> Lengths:
        """Return the lengths of the requests `ids`, in that order; InputError when some have no prediction."""
        if self.id is None:
            if len(self.lengths) != len(ids):
                raise InputError(
                    f"expected a prediction for each of {len(ids)} requests, got {len(self.lengths)} rows; "
                    "add a column id to say which is which"
                )
            return self.lengths
        rows = {str(name): row for row, name in enumerate(self.id.tolist())}
        found = [rows.get(str(name), -1) for name in ids.tolist()]
        missing = [str(name) for name, row in zip(ids.tolist(), found, strict=True) if row < 0]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"expected a prediction for every request, got none for {', '.join(missing[:_SHOWN])}{more}"
            )
        return self.lengths.take(np.array(found, dtype=np.int64))


def load_predictions(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    buckets: Buckets = UELLM_BUCKETS,
    spread: Spread = "upper",
    limit: int | None = None,
) -> Predictions:
    """Read what a predictor wrote.

    Parameters
    ----------
    columns
        Our column name → the file's, where they differ.
    buckets, spread
        What ``output_bucket`` counts in, and where within a bucket lengths are taken to be.
    limit
        Most output tokens of any request; where the mass above the last quantile sits.

    Raises
    ------
    InputError
        The file cannot be used; the message names the row and the mend.
    UsageError
        `columns` names a column that predictions do not have.
    """
    source = str(path)
    mapping = _mapping(table_header(source), columns or {}, source)
    (kind,) = (name for name in KINDS if name in mapping)
    values = read_columns(source, {mapping[name]: _VALUE[name] for name in mapping})
    try:
        ids = _ids(values[mapping["id"]]) if "id" in mapping else None
        return Predictions(ids, _lengths(kind, values[mapping[kind]], buckets, spread, limit), kind)
    except InputError as error:
        raise error.at(source) from None


_VALUE: Final[Mapping[str, Any]] = {
    "id": "id",
    "predicted_output_tokens": "number",
    "output_bucket": "number",
    "quantiles": "text",
    "samples": "text",
}


def _mapping(header: tuple[str, ...], chosen: Mapping[str, str], source: str) -> dict[str, str]:
    for name, column in chosen.items():
        if name not in _VALUE:
            raise UsageError(f"no column {name!r} in predictions; the columns are {', '.join(_VALUE)}")
        if column not in header:
            raise InputError(
                f"expected the column {column!r} that {name} is mapped to; the columns are {', '.join(header)}",
                source=source,
            )
    mapping = {name: chosen.get(name, name) for name in _VALUE if name in chosen or name in header}
    named = [name for name in KINDS if name in mapping]
    picked = [name for name in KINDS if name in chosen]
    if len(picked) == 1:
        named = picked
    if len(named) != 1:
        raise InputError(
            f"expected one column out of {', '.join(KINDS)}, got {' and '.join(named) or ', '.join(header)}; "
            + ("leave one of them" if named else "rename the column of predictions"),
            source=source,
        )
    return {name: column for name, column in mapping.items() if name in ("id", named[0])}


def _ids(column: ColumnArray) -> IdArray:
    ids = id_column(column)
    row = first_repeated(ids)
    if row is not None:
        raise InputError(
            f"expected distinct ids, got {ids.tolist()[row]!r} again; predict every request once",
            place=f"row {row + 1}",
        )
    return ids


def _lengths(kind: PredictionKind, column: ColumnArray, buckets: Buckets, spread: Spread, limit: int | None) -> Lengths:
    if not len(column):
        raise InputError("expected at least one prediction, got a header without rows")
    if kind == "quantiles":
        return _of_quantiles(column, limit)
    if kind == "samples":
        rows = [_numbers(_list(cell, row), row) for row, cell in enumerate(column.tolist())]
        return Lengths.of_rows(rows)
    tokens = checked_tokens(column, kind)
    if kind == "predicted_output_tokens":
        return Lengths.of_points(tokens)
    number = buckets.index(tokens)
    wrong = np.array(buckets.edges)[number] != tokens
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"expected an upper edge out of {', '.join(map(str, buckets.edges))} in column output_bucket, got "
            f"{tokens[row]}; write edges, or name your own with --buckets",
            place=f"row {row + 1}",
        )
    return Lengths.of_buckets(number, buckets, spread=spread)


def _of_quantiles(column: ColumnArray, limit: int | None) -> Lengths:
    """Return lengths row by row; rows of equal levels are taken together."""
    groups: dict[tuple[float, ...], list[int]] = {}
    values: list[list[float]] = []
    for row, cell in enumerate(column.tolist()):
        pairs = sorted(_pairs(cell, row))
        groups.setdefault(tuple(level for level, _ in pairs), []).append(row)
        values.append([tokens for _, tokens in pairs])
    parts = []
    for levels, rows in groups.items():
        try:
            parts.append(Lengths.of_quantiles(levels, [values[row] for row in rows], limit=limit))
        except InputError as error:
            raise InputError(error.message, place=f"row {_row_of(error, rows) + 1}") from None
    order = np.concatenate([np.array(rows) for rows in groups.values()])
    return Lengths.joined(parts).take(np.argsort(order))


def _row_of(error: InputError, rows: list[int]) -> int:
    within = int(error.place.removeprefix("row ")) - 1 if error.place else 0
    return rows[within]


def _parsed(cell: Any, row: int) -> Any:
    """Return a cell as the list or object it is or spells in JSON, else its text."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(cell)
        except ValueError:
            raise InputError(f"expected JSON, got {cell[:40]!r}", place=f"row {row + 1}") from None
    return cell


def _pairs(cell: Any, row: int) -> list[tuple[float, float]]:
    value = _parsed(cell, row)
    if isinstance(value, str):
        value = dict(part.partition(":")[::2] for part in value.replace(",", ";").split(";") if part.strip())
    if isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        value = dict(value)  # a map of a Parquet file
    if not isinstance(value, dict) or not value:
        raise InputError(
            f'expected quantiles such as {{"0.5": 120, "0.9": 400}} or 0.5:120;0.9:400, got {str(cell)[:40]!r}',
            place=f"row {row + 1}",
        )
    known = {level: tokens for level, tokens in value.items() if tokens is not None}
    return list(zip(_numbers(list(known), row), _numbers(list(known.values()), row), strict=True))


def _list(cell: Any, row: int) -> list[Any]:
    value = _parsed(cell, row)
    if isinstance(value, str):
        value = [part for part in value.replace(",", ";").split(";") if part.strip()]
    if not isinstance(value, list) or not value:
        raise InputError(
            f"expected samples such as [96, 120, 400] or 96;120;400, got {str(cell)[:40]!r}", place=f"row {row + 1}"
        )
    return value


def _numbers(values: list[Any], row: int) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise InputError(f"expected numbers, got {str(values)[:40]}", place=f"row {row + 1}") from None


def predictions_csv(ids: IdArray, lengths: Lengths) -> str:
    """Return a table of predictions as CSV text, ``id`` and ``quantiles``; `load_predictions` takes it back."""
    import csv
    import io

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "quantiles"))
    for row, name in enumerate(ids.tolist()):
        tokens, probability = lengths.row(row)
        levels = np.append(np.minimum(np.cumsum(probability)[:-1], 1.0), 1.0).tolist()
        # A level that rounding makes equal to the next would stand twice.
        pairs = dict(zip(levels, tokens.tolist(), strict=True))
        rows.writerow((name, ";".join(f"{level!r}:{length}" for level, length in pairs.items())))
    return text.getvalue()
