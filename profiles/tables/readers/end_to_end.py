"""Sources that time a whole model: Splitwise's runs and DistServe's own fits. Both become fits, not tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.fitted import Fit, Regime, fit_from_result
from gpuplan.profiles.fitting import Coefficients, FitResult, Runs, Triple, fit_runs
from gpuplan.profiles.tables.data_files import Columns, read_columns
from gpuplan.profiles.tables.readers.names import Told, device_named, layouts, plain_model_name

_MS = 1e-3
SPLITWISE = "Splitwise perf_model.csv (Mutinifni/splitwise-sim, MIT)"
DISTSERVE = "DistServe simulator fits (LLMServe/DistServe, Apache-2.0)"
_SPLITWISE_COLUMNS = (
    "model", "hardware", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time", "tensor_parallel",
)  # fmt: skip
_DISTSERVE_KEYS = {"decoding_large_small_bs_threshold", "prefill", "decoding_smallbs", "decoding_largebs"}


def is_splitwise(path: Path) -> bool:
    """Return whether a CSV has the columns of Splitwise's performance model."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        header = stream.readline(4096).strip().split(",")
    return set(_SPLITWISE_COLUMNS) <= set(header)


def read_splitwise(path: Path, told: Told) -> list[Fit]:
    """Return one fit a model, device and degree; devices that gpuplan does not know (capped ones) are left out."""
    data = read_columns(path)
    groups: dict[tuple[str, str, int], list[int]] = {}
    for row in range(data.rows):
        key = data.text("model", row), data.text("hardware", row), int(data.number("tensor_parallel", row))
        groups.setdefault(key, []).append(row)
    known = layouts()["devices"]
    fits = []
    for (model, hardware, degree), rows in sorted(groups.items()):
        if hardware.lower() not in known and told.device_kind is None:
            continue
        fits.append(_splitwise_fit(data, rows, model, device_named([hardware], told, str(path)), degree))
    if not fits:
        raise InputError("expected runs on a device that gpuplan knows, got none", source=str(path))
    return fits


def splitwise_runs(data: Columns, rows: list[int]) -> Runs:
    """Return runs of one model, device and degree: prompt and token times, milliseconds in the file."""

    def column(name: str) -> Any:
        return np.array([data.number(name, row) for row in rows])

    unknown = np.full(len(rows), np.nan)
    return Runs(
        column("batch_size"), column("prompt_size"), column("token_size"), unknown,
        _MS * column("prompt_time"), _MS * column("token_time"),
    )  # fmt: skip


def _splitwise_fit(data: Columns, rows: list[int], model: str, kind: str, degree: int) -> Fit:
    name = layouts()["models"].get(plain_model_name(model), model)
    return fit_from_result(
        fit_runs(splitwise_runs(data, rows)),
        2 * len(rows),
        name=f"Splitwise {name} on {kind}",
        device_kind=kind,
        model=name,
        tensor_parallel=degree,
        source=SPLITWISE,
    )


def is_distserve(path: Path) -> bool:
    """Return whether a JSON file has the form of DistServe's fits."""
    if path.suffix != ".json" or not path.is_file() or path.stat().st_size > 2**20:
        return False
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        return False
    entry = next(iter(document.values()), None) if isinstance(document, dict) else None
    inner = next(iter(entry.values()), None) if isinstance(entry, dict) else None
    return isinstance(inner, dict) and set(inner) >= _DISTSERVE_KEYS


def read_distserve(path: Path, told: Told) -> list[Fit]:
    """Return one fit a model and degree.

    The file's formulas (ms): prefill a + b·Σs + c·Σs², decode a + b·Σcontext + c·batch with other coefficients from a
    batch threshold on. A negative coefficient, which no time can have far out, is fitted away on the file's own values.
    """
    document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kind = device_named([path.name.partition(".")[0]], told, str(path))
    fits = []
    for model, degrees in document.items():
        for degree, entry in degrees.items():
            fits.append(_distserve_fit(path, model, degree, entry, kind))
    return fits


def _distserve_fit(path: Path, model: str, degree: str, entry: Any, kind: str) -> Fit:
    place = f"$.{model!r}.{degree}"
    if not isinstance(entry, Mapping) or not set(entry) >= _DISTSERVE_KEYS or not degree.isdigit():
        raise InputError(f"expected the keys {', '.join(sorted(_DISTSERVE_KEYS))}", source=str(path), place=place)
    rows = {
        key: _numbers(entry[key], str(path), f"{place}.{key}")
        for key in ("prefill", "decoding_smallbs", "decoding_largebs")
    }
    threshold = entry["decoding_large_small_bs_threshold"]
    if isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 2:
        raise InputError("expected a batch threshold of at least 2", source=str(path), place=place)
    notes: list[str] = []
    prefill = _non_negative_prefill(rows["prefill"], notes)
    small, large = (_decode(rows[f"decoding_{size}bs"], notes) for size in ("small", "large"))
    name = layouts()["models"].get(plain_model_name(model), plain_model_name(model))
    return Fit(
        name=f"DistServe {name} on {kind} ({path.stem.rpartition('.')[2]})",
        device_kind=kind,
        model=name,
        prefill=prefill,
        regimes=(Regime(threshold - 1, small), Regime(None, large)),
        tensor_parallel=int(degree),
        source=DISTSERVE,
        notes=tuple(notes),
    )


def _numbers(value: Any, source: str, place: str) -> tuple[float, float, float]:
    good = isinstance(value, list) and len(value) == 3
    if not good or not all(type(x) in (int, float) and abs(x) < 1e15 for x in value):
        raise InputError("expected three finite numbers", source=source, place=place)
    return _MS * value[0], _MS * value[1], _MS * value[2]


def _decode(row: tuple[float, float, float], notes: list[str]) -> Triple:
    constant, per_context, per_sequence = row
    if min(row) < 0.0:
        notes.append("a negative decode coefficient was set to 0")
    return max(constant, 0.0), max(per_sequence, 0.0), max(per_context, 0.0)


def _non_negative_prefill(row: tuple[float, float, float], notes: list[str]) -> Triple:
    if min(row) >= 0.0:
        return row
    own = [(b, s, row[0] + row[1] * b * s + row[2] * b * s * s) for b, s in itertools.product((1, 2, 4, 8), _PROMPTS)]
    table = np.array([entry for entry in own if entry[2] > 0.0])
    unknown = np.full(len(table), np.nan)
    result: FitResult = fit_runs(Runs(table[:, 0], table[:, 1], np.ones(len(table)), unknown, table[:, 2], unknown))
    coefficients: Coefficients = result.coefficients
    notes.append(
        "a negative prefill coefficient was fitted away on prompts of 64 to 2048 tokens, which moved its times by at"
        f" most {result.worst_error:.1%}"
    )
    return coefficients.prefill


_PROMPTS = (64, 128, 256, 512, 1024, 1536, 2048)
