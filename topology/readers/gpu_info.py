"""Reader of ``nvidia-smi --query-gpu=index,name,memory.total,memory.free,power.limit --format=csv``."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from gpuplan.errors import InputError, UsageError
from gpuplan.topology.catalog import Catalog
from gpuplan.topology.documents import read_text
from gpuplan.topology.graph import DeviceKind
from gpuplan.units import MIB

_NEEDED = ("index", "name", "memory.total")
_FIELD = re.compile(r"^([0-9]*\.?[0-9]+)\s*(MiB|W)?$")


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """What the driver says of one GPU: kind, total and free memory in bytes, power limit in W (None: not said)."""

    kind: DeviceKind
    total_bytes: int
    free_bytes: int | None
    power_limit_w: float | None

    def available_bytes(self, memory_fraction: float) -> int:
        """Return the memory a plan may use: its share of the total, and never more than is free."""
        share = int(self.total_bytes * memory_fraction)
        return share if self.free_bytes is None else min(share, self.free_bytes)

    def power_cap_w(self) -> float | None:
        """Return the power limit where it lies below the board's own, else None."""
        limit = self.power_limit_w
        return limit if limit is not None and limit < self.kind.power_w else None


def read_gpu_info(path: str | Path, catalog: Catalog) -> dict[int, GpuInfo]:
    """Return what a GPU information file says, by GPU index.

    Raises
    ------
    InputError
        A column is missing, a value is no number, an index appears twice, or a GPU is not in the catalogue.
    """
    return parse_gpu_info(read_text(Path(path)), catalog, str(path))


def parse_gpu_info(content: str, catalog: Catalog, source: str) -> dict[int, GpuInfo]:
    """Return what the text of a GPU information file says, by GPU index."""
    try:
        rows = list(csv.reader(content.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", source=source) from None
    numbered = [(line, [cell.strip() for cell in row]) for line, row in enumerate(rows, 1) if any(row)]
    if not numbered:
        raise InputError("expected a header and a line for each GPU, got neither", source=source)
    first, header = numbered[0]
    columns = {cell.split("[")[0].strip(): place for place, cell in enumerate(header)}
    units = {cell.split("[")[0].strip(): cell.partition("[")[2].rstrip("]") for cell in header}
    for name in _NEEDED:
        if name not in columns:
            message = (
                f"expected a column {name!r}, got {', '.join(header)}; make the file with nvidia-smi"
                " --query-gpu=index,name,memory.total,memory.free,power.limit --format=csv"
            )
            raise InputError(message, source=source, place=f"line {first}")
    found: dict[int, GpuInfo] = {}
    for line, cells in numbered[1:]:
        if len(cells) != len(header):
            message = f"expected {len(header)} values, got {len(cells)}"
            raise InputError(message, source=source, place=f"line {line}")
        index, info = _read_row({name: cells[at] for name, at in columns.items()}, units, catalog, source, line)
        if index in found:
            raise InputError(f"GPU {index} appears twice", source=source, place=f"line {line}")
        found[index] = info
    if not found:
        raise InputError("expected at least one GPU, got only a header", source=source)
    return found


def _read_row(
    row: dict[str, str], units: dict[str, str], catalog: Catalog, source: str, line: int
) -> tuple[int, GpuInfo]:
    place = f"line {line}"
    if not row["index"].isdigit():
        raise InputError(f"expected a GPU index, got {row['index']!r}", source=source, place=place)
    if re.search(r"\bMIG\b", row["name"]):
        message = f"{row['name']!r} is a slice of a GPU; describe it under 'kinds' of a gpuplan YAML file"
        raise InputError(message, source=source, place=place)
    try:
        kind = catalog.kind(row["name"])
    except UsageError as error:
        raise InputError(str(error), source=source, place=place) from None

    def amount(column: str) -> float | None:
        cell = row.get(column, "")
        if cell.strip("[]") in ("", "N/A", "Not Supported", "Unknown Error"):
            return None
        match = _FIELD.match(cell)
        expected_unit = "W" if column == "power.limit" else "MiB"
        unit = (match[2] if match else None) or units.get(column) or expected_unit
        if match is None or unit != expected_unit or not math.isfinite(float(match[1])):
            raise InputError(f"expected {column} in {expected_unit}, got {cell!r}", source=source, place=place)
        return float(match[1])

    total, free, limit = amount("memory.total"), amount("memory.free"), amount("power.limit")
    if not total:
        raise InputError(f"expected memory.total above 0, got {row['memory.total']!r}", source=source, place=place)
    if free is not None and free <= 0:
        raise InputError("memory.free is 0: no plan can use this GPU; free it", source=source, place=place)
    return int(row["index"]), GpuInfo(
        kind, round(total * MIB), None if free is None else round(free * MIB), limit or None
    )
