"""Helix' layer tables: ``<model>/<machine>/{prompt,decode}_bs2time.csv``, two numbers a line without a header.

Milliseconds of one decoder layer, rounded to 0.1 and 1 ms, over the prompt tokens of a pass or the sequences of a
decode step. The context is not recorded, so neither is it read: these times hold for prompts of a few hundred tokens.
"""

from __future__ import annotations

import math
from pathlib import Path

from gpuplan.errors import InputError
from gpuplan.profiles.tables.readers.names import Told, layouts, model_named
from gpuplan.profiles.tables.series import Series, series_from_rows
from gpuplan.profiles.tables.table import CostTable, ModelShape

_MS = 1e-3
_FILES = {"prompt_bs2time.csv": ("prefill", "tokens"), "decode_bs2time.csv": ("decode", "batch")}
SOURCE = "Helix layer tables (Thesys-lab/Helix-ASPLOS25, Apache-2.0)"
NOTE = "one whole decoder layer, rounded to 0.1 ms (decode) and 1 ms (prompt); the context is not recorded"


def recognises(path: Path) -> bool:
    """Return whether `path` is a machine's folder or one of its two files."""
    return path.name in _FILES or any((path / name).is_file() for name in _FILES)


def read(path: Path, told: Told) -> list[CostTable]:
    """Return the machine's table."""
    folder = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [folder / name for name in _FILES if (folder / name).is_file()]
    machine = layouts()["helix_devices"].get(folder.name.lower(), {})
    kind, degree = told.device_kind or machine.get("kind"), told.tensor_parallel or machine.get("tensor_parallel", 1)
    if kind is None:
        raise InputError(
            f"expected a machine that gpuplan knows ({', '.join(layouts()['helix_devices'])}), got {folder.name!r};"
            " name its device in a manifest with device_kind",
            source=str(path),
        )
    family = folder.parent.name
    shape = layouts()["shapes"].get(family) if told.model is None else None
    model = family if shape else model_named([family], told, str(path))
    return [
        CostTable(
            name=f"Helix {model} on {kind}",
            device_kind=kind,
            series=tuple(_series(file) for file in files),
            model=model,
            shape=ModelShape(**shape) if shape else None,
            tensor_parallel=degree,
            dtype="fp16",
            source=SOURCE,
            notes=(NOTE,),
        )
    ]


def _series(file: Path) -> Series:
    phase, axis = _FILES[file.name]
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError("expected a text file of two numbers a line", source=str(file)) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            size, time = _pair(line, str(file), number)
            if size > 0.0:  # the first line says that nothing takes no time
                rows.append([size, _MS * time])
    return series_from_rows(["layer:decoder"], phase, [axis], rows, source=str(file))  # type: ignore[arg-type]


def _pair(line: str, source: str, number: int) -> tuple[float, float]:
    try:
        size, time = (float(cell) for cell in line.split(","))
    except ValueError:
        raise InputError(f"expected two numbers, got {line.strip()!r}", source=source, place=f"line {number}") from None
    if not (math.isfinite(size) and math.isfinite(time) and size >= 0.0 and time >= 0.0):
        raise InputError("expected finite numbers of at least 0", source=source, place=f"line {number}")
    return size, time
