"""Vidur's kernel tables: ``mlp.csv`` (every kernel but attention) and ``attention.csv``, one row a size and degree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpuplan.errors import InputError
from gpuplan.profiles.tables.data_files import Columns, read_columns
from gpuplan.profiles.tables.readers.names import Told, device_named, layouts, model_named
from gpuplan.profiles.tables.series import Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable, shipped_shape

_MS = 1e-3
_DEGREE = "num_tensor_parallel_workers"
SOURCE = "Vidur profiling tables (microsoft/vidur, MIT)"


def recognises(path: Path) -> bool:
    """Return whether `path` is such a CSV, or a folder with a ``mlp.csv`` or ``attention.csv``."""
    if path.is_dir():
        return (path / "mlp.csv").is_file() or (path / "attention.csv").is_file()
    return path.suffix == ".csv" and _DEGREE in _header(path) and "time_stats." in _header(path)


def read(path: Path, told: Told) -> list[CostTable]:
    """Return one table a file and tensor-parallel degree."""
    files = [path] if path.is_file() else [p for p in (path / "mlp.csv", path / "attention.csv") if p.is_file()]
    tables = []
    for file in files:
        data = read_columns(file)
        data.require([_DEGREE])
        degrees = sorted({int(data.number(_DEGREE, row)) for row in range(data.rows)})
        wanted = [degree for degree in degrees if told.tensor_parallel in (None, degree)]
        tables += [_table(file, data, degree, told) for degree in wanted]
    if not tables:
        raise InputError(f"expected rows of tensor-parallel degree {told.tensor_parallel}, got none", source=str(path))
    return tables


def _table(file: Path, data: Columns, degree: int, told: Told) -> CostTable:
    above = [file.stem.partition("_")[0], *(part.name for part in file.parents)]
    kind = device_named(above, told, str(file))
    attention = "is_prefill" in data.values
    model = told.model or (_model_of_width(data) if attention else None) or model_named(above, told, str(file))
    _check_heads(data, model, "n_q_head" if attention else "n_head", str(file))
    rows = [row for row in range(data.rows) if int(data.number(_DEGREE, row)) == degree]
    return CostTable(
        name=f"Vidur {'attention' if attention else 'linear layers'} of {model} on {kind}",
        device_kind=kind,
        series=_attention(data, rows) if attention else _kernels(data, rows),
        model=model,
        tensor_parallel=degree,
        source=SOURCE,
    )


def _header(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(65536)
    except OSError:
        return ""


def _model_of_width(data: Columns) -> str | None:
    """Return the shipped model whose heads and width an attention table names, Llama 2 before others."""
    data.require(["n_embd", "n_q_head", "n_kv_head"])
    wanted = tuple(int(data.number(name, 0)) for name in ("n_embd", "n_q_head", "n_kv_head"))
    for name in dict.fromkeys(layouts()["models"].values()):
        shape = shipped_shape(name)
        if shape is not None and (shape.hidden_size, shape.heads, shape.kv_heads) == wanted:
            return str(name)
    return None


def _check_heads(data: Columns, model: str, column: str, source: str) -> None:
    shape = shipped_shape(model)
    names = {"n_embd": "hidden_size", column: "heads", "n_kv_head": "kv_heads"}
    data.require(list(names))
    for name, ours in names.items():
        said = int(data.number(name, 0))
        if shape is not None and said != getattr(shape, ours):
            raise InputError(
                f"expected {name} {getattr(shape, ours)} as {model} has, got {said}; name the model measured in a"
                " manifest with model",
                source=source,
            )


def _kernels(data: Columns, rows: list[int]) -> tuple[Series, ...]:
    operators: Mapping[str, Mapping[str, int]] = layouts()["vidur_mlp"]
    made = []
    for operator, kernels in operators.items():
        columns = {f"time_stats.{kernel}.median": count for kernel, count in kernels.items()}
        data.require(["num_tokens", *columns])
        points = [
            [
                data.number("num_tokens", row),
                _MS * sum(count * data.number(name, row) for name, count in columns.items()),
            ]
            for row in rows
        ]
        made.append(series_from_rows([operator], "both", ["tokens"], points, source=data.source))
    return tuple(made)


def _attention(data: Columns, rows: list[int]) -> tuple[Series, ...]:
    data.require(["batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill"])
    parts = ("attn_input_reshape", "attn_output_reshape")
    prefill, decode = [], []
    for row in rows:
        prefilling = data.text("is_prefill", row).lower() == "true"
        kernel = "attn_prefill" if prefilling else "attn_decode"
        columns = [f"time_stats.{part}.median" for part in (*parts, kernel)]
        data.require(columns)
        seconds = _MS * sum(data.number(name, row) for name in columns)
        batch, context = data.number("batch_size", row), data.number("kv_cache_size", row)
        if prefilling:
            if batch == 1:
                prefill.append([data.number("prefill_chunk_size", row), context, seconds])
        else:
            decode.append([batch, context, seconds])
    made = []
    if prefill:
        made.append(series_from_rows(["attention"], "prefill", ["prompt", "context"], prefill, source=data.source))
    if decode:
        made.append(series_from_rows(["attention"], "decode", ["batch", "context"], decode, source=data.source))
    return tuple(made)
