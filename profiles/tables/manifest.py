"""gpuplan's own cost tables: a YAML manifest that says what was measured, and a CSV or Parquet file with the times.

The manifest (`gpuplan/cost-table/1`)::

    schema: gpuplan/cost-table/1
    name: my bench
    device_kind: rtx-4090-24gb
    model: llama-3.1-8b           # or leave it out, and time shapes: columns n, k, heads, kv_heads, head_dim
    data: times.csv
    columns: {covers: layer, tokens: tokens, time: time_us}      # ours: theirs, where they differ
    time_unit: us                 # s, ms, us
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.problems.documents import read_document
from gpuplan.profiles.records import Record
from gpuplan.profiles.tables.data_files import Columns, check_data_path, read_columns
from gpuplan.profiles.tables.series import AXES, WHOLE_LAYER, WHOLE_LAYERS, Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable, ModelShape
from gpuplan.writing import write_text

SCHEMA = "gpuplan/cost-table/1"
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}

_REQUIRED = ("schema", "name", "device_kind", "data")
_OPTIONAL = (
    "model", "shape", "columns", "time_unit", "tensor_parallel", "dtype", "power_cap_w", "chunk_tokens", "software",
    "source", "comment", "notes",
)  # fmt: skip
_OWN_COLUMNS = ("covers", "phase", "time", *AXES)
_SHAPE = tuple(ModelShape.__dataclass_fields__)


def load_table(path: str | Path) -> CostTable:
    """Read a cost table by its manifest.

    Raises
    ------
    InputError
        The manifest or its data file is missing or malformed; the message gives the key, or the row and column.
    """
    manifest = Path(path)
    return table_from_dict(read_yaml(manifest), folder=manifest.parent, source=str(path))


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a YAML (or JSON) file."""
    document = read_document(path)
    if not isinstance(document, Mapping):
        raise InputError("expected a mapping of keys to values", source=str(path), place="$")
    return document


def table_from_dict(document: Mapping[str, Any], *, folder: Path, source: str) -> CostTable:
    """Return the table that a manifest describes; its data file stands in `folder`."""
    record = Record(document, source=source, path="$")
    if document.get("schema") != SCHEMA:
        raise record.error(f"expected the schema {SCHEMA!r}, got {document.get('schema')!r}", "schema")
    record.expect_keys(_REQUIRED, _OPTIONAL)
    unit = TIME_UNITS[record.choice("time_unit", tuple(TIME_UNITS), "s")]
    columns = _columns(record, document)
    data = read_columns(check_data_path(folder, record.text("data"), source))
    return CostTable(
        name=record.text("name"),
        device_kind=record.text("device_kind"),
        series=read_series(data, columns, unit),
        model=record.text("model") if document.get("model") is not None else None,
        shape=_shape(record, document),
        tensor_parallel=record.whole("tensor_parallel", 1, minimum=1),
        dtype=record.text("dtype", "bf16"),
        power_cap_w=record.number("power_cap_w") if document.get("power_cap_w") is not None else None,
        chunk_tokens=record.optional_whole("chunk_tokens"),
        software=record.text("software", ""),
        source=record.text("source", ""),
        notes=record.texts("notes") if "notes" in document else (),
    )


def _columns(record: Record, document: Mapping[str, Any]) -> dict[str, str]:
    """Return our column names → the file's; names left out are the same in both."""
    given = document.get("columns") or {}
    inner = Record(given, source=record.source, path="$.columns")
    inner.expect_keys((), _OWN_COLUMNS)
    return {name: inner.text(name) for name in inner.names()}


def _shape(record: Record, document: Mapping[str, Any]) -> ModelShape | None:
    if document.get("shape") is None:
        return None
    inner = record.record("shape")
    inner.expect_keys(_SHAPE, ())
    return ModelShape(
        **{name: inner.whole(name) for name in _SHAPE if name not in ("dtype", "kv_dtype")},
        dtype=inner.text("dtype"),
        kv_dtype=inner.text("kv_dtype"),
    )


def read_series(data: Columns, names: Mapping[str, str], unit_s: float) -> tuple[Series, ...]:
    """Return the series in a file's rows: one for each (covers, phase, axes that are filled in).

    `covers` holds operator names joined by ``+``, ``layer:decoder`` (``embedding``, ``head``) or ``gemm``; `phase`
    (default ``both``) says prefill, decode or both; empty cells of an axis mean that the time does not depend on it.
    """
    file = {name: names.get(name, name) for name in _OWN_COLUMNS}
    data.require([file["covers"], file["time"], *names.values()])
    axes = [axis for axis in AXES if file[axis] in data.values]
    phases = file["phase"] in data.values
    groups: dict[tuple[str, str, tuple[str, ...]], list[list[float]]] = {}
    for row in range(data.rows):
        covers = data.text(file["covers"], row)
        if not covers:
            raise data.error("the name of an operator or a layer", file["covers"], row)
        if covers.startswith(WHOLE_LAYER) and covers not in WHOLE_LAYERS:
            raise data.error(" or ".join(WHOLE_LAYERS), file["covers"], row)
        phase = (data.text(file["phase"], row) or "both") if phases else "both"
        if phase not in ("prefill", "decode", "both"):
            raise data.error("prefill, decode or both", file["phase"], row)
        filled = [(axis, value) for axis in axes if (value := data.optional_number(file[axis], row)) is not None]
        if not filled:
            raise InputError(
                f"expected a number in at least one of the columns {', '.join(file[axis] for axis in axes) or AXES}",
                source=data.source,
                place=f"row {row + 2}",
            )
        key = covers, phase, tuple(axis for axis, _ in filled)
        seconds = unit_s * data.number(file["time"], row)
        groups.setdefault(key, []).append([*(value for _, value in filled), seconds])
    return tuple(
        series_from_rows(covers.split("+"), phase, axes_of, rows, source=data.source)  # type: ignore[arg-type]
        for (covers, phase, axes_of), rows in groups.items()
    )


def save_table(table: CostTable, path: str | Path) -> None:
    """Write a table as a manifest at `path` and a CSV file of the same name beside it.

    Raises
    ------
    UsageError
        A file cannot be written.
    """
    import yaml

    manifest = Path(path)
    if manifest.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"expected a manifest name that ends in .yaml, got {str(path)!r}")
    data = manifest.with_suffix(".csv")
    document = {"schema": SCHEMA, **_manifest(table), "data": data.name, "time_unit": "s"}
    # The times first: a manifest never points at a file that is not there.
    write_text(_rows_text(table), data)
    write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), manifest)


def _manifest(table: CostTable) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": table.name,
        "device_kind": table.device_kind,
        "model": table.model,
        "shape": None if table.shape is None else asdict(table.shape),
        "tensor_parallel": table.tensor_parallel,
        "dtype": table.dtype,
        "power_cap_w": table.power_cap_w,
        "chunk_tokens": table.chunk_tokens,
        "software": table.software,
        "source": table.source,
        "notes": list(table.notes),
    }
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def _rows_text(table: CostTable) -> str:
    axes = [axis for axis in AXES if any(axis in series.axes for series in table.series)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["covers", "phase", *axes, "time"])
    for series in table.series:
        for point, seconds in zip(series.points, series.measured, strict=True):
            cells = dict(zip(series.axes, point, strict=True))
            row = [f"{cells[axis]:.12g}" if axis in cells else "" for axis in axes]
            writer.writerow(["+".join(series.covers), series.phase, *row, repr(float(seconds))])
    return stream.getvalue()
