"""Costs from the measured kernel tables that the pip package ``aiconfigurator-core`` carries.

The adapter reads the package's Parquet files, one a family of kernels, and nothing of its Python code: matrix products
by (m, n, k), attention by (batch, tokens, heads, KV heads, head width). They become one table by shape, so that
every model whose attention and matrix products have a measured shape gets times. Element-wise kernels (norms,
activations, the embedding lookup) are not in the data: the roofline fills those in, tagged ``analytic``.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from gpuplan.errors import InputError, SolverUnavailableError, UsageError
from gpuplan.profiles.tables.data_files import Columns, read_columns
from gpuplan.profiles.tables.readers.detect import CostSource
from gpuplan.profiles.tables.series import GEMM, Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable

_MS = 1e-3
_PACKAGE = "aiconfigurator_core"
SOURCE = "aiconfigurator-core {version} (ai-dynamo/aiconfigurator, Apache-2.0)"
BACKENDS = ("vllm", "sglang", "trtllm")

#: gpuplan kinds → the package's systems.
SYSTEMS = {
    "a100-sxm4-80gb": "a100_sxm",
    "h100-sxm5-80gb": "h100_sxm",
    "h200-sxm5-141gb": "h200_sxm",
    "b200-sxm6-180gb": "b200_sxm",
    "b300-sxm6-268gb": "b300_sxm",
    "gb200-186gb": "gb200",
    "gb300-278gb": "gb300",
    "l40s-48gb": "l40s",
    "rtx-pro-6000-96gb": "rtx_pro_6000_server",
}
#: The package's dtype names → ours.
DTYPES = {"bfloat16": "bf16", "fp8": "fp8"}
#: Longer prefills run in chunks of this many tokens: the largest matrix product that every system was measured at.
CHUNK_TOKENS = 8192
#: Head widths read; others are few rows.
HEAD_DIMS = (64, 128, 192, 256)


def aiconfigurator_source(word: str, kinds: Sequence[str]) -> CostSource:
    """Return the tables that ``aiconfigurator[:backend[:version]]`` means for the device kinds of a cluster.

    Raises
    ------
    SolverUnavailableError
        The package is not installed.
    UsageError
        The backend or version is not one the package has, or it has no data on any of the kinds.
    """
    _, backend, version = [*word.split(":"), "", ""][:3]
    root = data_folder()
    known = [kind for kind in dict.fromkeys(kinds) if kind in SYSTEMS and (root / SYSTEMS[kind]).is_dir()]
    if not known:
        asked = ", ".join(dict.fromkeys(kinds)) or "none"
        raise UsageError(
            f"aiconfigurator has data on {', '.join(SYSTEMS)}, asked for {asked}; name another cost source"
        )
    return CostSource(tables=tuple(read_system(kind, backend or None, version or None) for kind in known))


def data_folder() -> Path:
    """Return the folder of the installed package's data; SolverUnavailableError where it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SolverUnavailableError(
            "costs from aiconfigurator need the package aiconfigurator-core, which is not installed;"
            " pip install 'gpuplan[aiconfigurator]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def read_system(
    kind: str, backend: str | None = None, version: str | None = None, *, dtype: str = "bfloat16"
) -> CostTable:
    """Return the table of one device kind.

    Parameters
    ----------
    kind
        A gpuplan device kind among `SYSTEMS`.
    backend, version
        ``vllm``, ``sglang`` or ``trtllm``, and its version; by default vLLM, the newest measured.
    dtype
        The package's name of the matrix products' dtype.
    """
    backend = backend or BACKENDS[0]
    if backend not in BACKENDS:
        raise UsageError(f"expected one of the backends {', '.join(BACKENDS)}, got {backend!r}")
    if kind not in SYSTEMS:
        raise UsageError(f"aiconfigurator has data on {', '.join(SYSTEMS)}, asked for {kind}")
    system = data_folder() / SYSTEMS[kind]
    gemm, used = _file(system, "gemm", "gemm_perf", backend, version)
    series = [_products(read_columns(gemm), dtype)]
    for table, phase in (("context_attention_perf", "prefill"), ("generation_attention_perf", "decode")):
        path, _ = _file(system, "attention", table, backend, version)
        series += _attention(read_columns(path), phase)
    return CostTable(
        name=f"aiconfigurator {backend} {used} on {kind}",
        device_kind=kind,
        series=tuple(series),
        dtype=DTYPES[dtype],
        chunk_tokens=CHUNK_TOKENS,
        software=f"{backend} {used}",
        source=SOURCE.format(version=_package_version()),
        notes=("kernels by shape; the roofline fills in element-wise kernels",),
    )


def _package_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("aiconfigurator-core")
    except PackageNotFoundError:
        return "of an unknown version"


def _file(system: Path, family: str, table: str, backend: str, version: str | None) -> tuple[Path, str]:
    """Return the Parquet file of a table, of the version asked for or the newest that has it, and that version."""
    folder = system / family / backend
    found = {path.parent.name: path for path in sorted(folder.glob(f"*/{table}.parquet"))}
    if not found:
        raise UsageError(f"aiconfigurator has no {table} of {backend} for {system.name}; name another backend")
    if version is None:
        newest = max(found, key=_version_key)
        return found[newest], newest
    if version not in found:
        raise UsageError(f"aiconfigurator has {backend} {', '.join(found)} for {system.name}, asked for {version}")
    return found[version], version


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _products(data: Columns, dtype: str) -> Series:
    data.require(["gemm_dtype", "m", "n", "k", "latency"])
    rows = [
        [data.number("n", row), data.number("k", row), data.number("m", row), _MS * data.number("latency", row)]
        for row in range(data.rows)
        if data.values["gemm_dtype"][row] == dtype
    ]
    if not rows:
        raise InputError(f"expected matrix products in {dtype}, got none", source=data.source)
    return series_from_rows([GEMM], "both", ["n", "k", "tokens"], rows, source=data.source)


def _attention(data: Columns, phase: str) -> list[Series]:
    """Return attention in 16 bits without a window; the context of a decode step is what it reads."""
    names = ["batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step", "latency"]
    data.require([*names, "attn_dtype", "kv_cache_dtype"])
    windows = "window_size" in data.values
    rows = []
    for row in range(data.rows):
        if data.values["attn_dtype"][row] != "bfloat16" or data.values["kv_cache_dtype"][row] != "bfloat16":
            continue
        if windows and data.optional_number("window_size", row):
            continue
        batch, new, heads, kv_heads, width, past, time = (data.number(name, row) for name in names)
        if width in HEAD_DIMS and (phase == "decode" or past == 0.0):
            # The data write 0 KV heads for as many as there are heads.
            size = new + past if phase == "decode" else new
            rows.append([kv_heads or heads, heads, width, batch, size, _MS * time])
    axis = "context" if phase == "decode" else "prompt"
    axes = ["kv_heads", "heads", "head_dim", "batch", axis]
    return [series_from_rows(["attention"], phase, axes, rows, source=data.source)] if rows else []  # type: ignore[arg-type]
