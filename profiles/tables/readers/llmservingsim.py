"""LLMServingSim's per-layer tables: ``meta.yaml`` and ``tpN/{dense,per_sequence,attention,moe}.csv`` in a folder.

One variant folder holds one model on one device; each ``tpN`` folder becomes a table of one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuplan.errors import InputError
from gpuplan.profiles.tables.data_files import Columns, read_columns
from gpuplan.profiles.tables.manifest import read_yaml
from gpuplan.profiles.tables.readers.names import Told, device_named, layouts, model_named
from gpuplan.profiles.tables.series import Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable

_US = 1e-6
SOURCE = "LLMServingSim profiler tables (casys-kaist/LLMServingSim, MIT)"


def recognises(path: Path) -> bool:
    """Return whether `path` is a variant folder or one of its ``tpN`` folders."""
    return (path / "meta.yaml").is_file() or ((path / "dense.csv").is_file() and (path / "attention.csv").is_file())


def read(path: Path, told: Told) -> list[CostTable]:
    """Return one table a tensor-parallel degree."""
    variant = path if (path / "meta.yaml").is_file() else path.parent
    folders = [path] if (path / "dense.csv").is_file() else sorted(variant.glob("tp*"))
    meta: Mapping[str, Any] = read_yaml(variant / "meta.yaml") if (variant / "meta.yaml").is_file() else {}
    tables = [_table(folder, meta, told) for folder in folders if (folder / "dense.csv").is_file()]
    if not tables:
        raise InputError("expected folders tp1, tp2, … with a dense.csv, found none", source=str(path))
    return tables


def _table(folder: Path, meta: Mapping[str, Any], told: Told) -> CostTable:
    above = [part.name for part in folder.parents]
    degree = told.tensor_parallel or _degree(folder)
    model = model_named([str(meta.get("model", "")), *above], told, str(folder))
    kind = device_named([str(meta.get("hardware", "")), *above], told, str(folder))
    engine = meta.get("engine_effective")
    chunk = engine.get("max_num_batched_tokens") if isinstance(engine, Mapping) else None
    dense = read_columns(folder / "dense.csv")
    series = [
        *_kernels(dense, "tokens", "tokens", layouts()["llmservingsim_dense"]),
        *_kernels(read_columns(folder / "per_sequence.csv"), "sequences", "batch",
                  layouts()["llmservingsim_per_sequence"]),
        *_attention(read_columns(folder / "attention.csv")),
    ]  # fmt: skip
    if (folder / "moe.csv").is_file():
        series.append(_experts(read_columns(folder / "moe.csv")))
    return CostTable(
        name=f"LLMServingSim {model} on {kind}",
        device_kind=kind,
        series=tuple(series),
        model=model,
        tensor_parallel=degree,
        chunk_tokens=chunk if isinstance(chunk, int) and chunk > 0 else None,
        software=_software(meta),
        source=SOURCE,
    )


def _degree(folder: Path) -> int:
    digits = folder.name.removeprefix("tp")
    if not digits.isdigit() or int(digits) < 1:
        raise InputError("expected a folder named after its tensor-parallel degree, such as tp1", source=str(folder))
    return int(digits)


def _software(meta: Mapping[str, Any]) -> str:
    parts = [
        f"{label} {meta[key]}" for label, key in (("vLLM", "vllm_version"), ("CUDA", "cuda_version")) if key in meta
    ]
    return ", ".join(parts)


def _kernels(data: Columns, column: str, axis: str, operators: Mapping[str, Mapping[str, int]]) -> list[Series]:
    """Return the series of operators whose kernels are listed by name: their times summed at each size."""
    data.require(["layer", column, "time_us"])
    times: dict[str, dict[float, float]] = {}
    for row in range(data.rows):
        size = data.number(column, row)
        times.setdefault(data.text("layer", row), {})[size] = _US * data.number("time_us", row)
    made = []
    for operator, kernels in operators.items():
        present = [(times[kernel], count) for kernel, count in kernels.items() if kernel in times]
        if not present:
            continue
        sizes = sorted(set.intersection(*(set(each) for each, _ in present)))
        rows = [[size, sum(count * each[size] for each, count in present)] for size in sizes]
        made.append(series_from_rows([operator], "both", [axis], rows, source=data.source))
    return made


def _attention(data: Columns) -> list[Series]:
    """Return pure prefill chunks (chunk, cached before it) and pure decode batches (sequences, context)."""
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    data.require([*names, "time_us"])
    prefill, decode = [], []
    for row in range(data.rows):
        chunk, cached, batch, context = (data.number(name, row) for name in names)
        seconds = _US * data.number("time_us", row)
        if chunk > 0 and batch == 0:
            prefill.append([chunk, cached, seconds])
        elif chunk == 0 and cached == 0 and batch > 0:
            decode.append([batch, context, seconds])
    return [
        series_from_rows(["attention"], "prefill", ["prompt", "context"], prefill, source=data.source),
        series_from_rows(["attention"], "decode", ["batch", "context"], decode, source=data.source),
    ]


def _experts(data: Columns) -> Series:
    """Return the router and experts by tokens and the share of experts touched of those they could touch.

    The model's experts and those a token chooses are the most that any row and the one-token row touch.
    """
    data.require(["tokens", "activated_experts", "time_us"])
    read = [
        (data.number("tokens", row), data.number("activated_experts", row), _US * data.number("time_us", row))
        for row in range(data.rows)
    ]
    chosen = max((touched for tokens, touched, _ in read if tokens == 1.0), default=0.0)
    if chosen < 1.0:
        raise InputError("expected a row of one token, which says how many experts a token chooses", source=data.source)
    experts = max(touched for _, touched, _ in read)
    rows = [[tokens, touched / min(tokens * chosen, experts), seconds] for tokens, touched, seconds in read]
    return series_from_rows(["router", "experts"], "both", ["tokens", "experts"], rows, source=data.source)
