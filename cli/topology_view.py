"""A topology as tables: devices, the matrix of their links, islands and exchangeable devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuplan.cli.style import plain_table, plural
from gpuplan.units import format_bandwidth, format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Report = Mapping[str, Any]

#: More devices than this make no readable matrix.
MATRIX_DEVICES = 16


def topology_view(name: str, report: Report) -> list[RenderableType]:
    """Return the tables of a topology report (the document of ``topology show --format json``)."""
    from rich.text import Text

    devices = report["devices"]
    hosts = len({device["host"] for device in devices})
    parts: list[RenderableType] = [
        Text(f"{name}: {plural(len(devices), 'device')} on {plural(hosts, 'host')}\n", style="bold"),
        device_table(devices),
        "",
    ]
    if 1 < len(devices) <= MATRIX_DEVICES:
        parts += [pair_matrix(report), ""]
    parts += [link_table(report["pairs"]), "", *_groups(report)]
    return parts


def device_table(devices: Sequence[Report]) -> Table:
    """Return one line a device."""
    table = plain_table("device", "kind", "available", right=("available",))
    for device in devices:
        table.add_row(device["name"], device["kind"], format_bytes(device["available_bytes"]))
    return table


def pair_matrix(report: Report) -> Table:
    """Return the kind of every pair's route, as ``nvidia-smi topo -m`` lays it out."""
    names = [device["name"] for device in report["devices"]]
    one_host = len({device["host"] for device in report["devices"]}) == 1
    short = [name.split("/", 1)[-1] if one_host else name for name in names]
    kinds = {(pair["a"], pair["b"]): str(pair["kind"]) for pair in report["pairs"]}
    table = plain_table("", *short)
    for a, label in zip(names, short, strict=True):
        table.add_row(label, *("×" if a == b else kinds.get((a, b)) or kinds.get((b, a)) or "none" for b in names))
    return table


def link_table(pairs: Sequence[Report]) -> Table:
    """Return the distinct kinds of routes between devices: how many, how fast."""
    counts = Counter((pair["kind"], pair["bandwidth_bytes_per_s"], pair["latency_s"]) for pair in pairs)
    table = plain_table("route", "pairs", "bandwidth", "latency", right=("pairs", "bandwidth", "latency"))
    for (kind, bandwidth, latency), count in sorted(counts.items(), key=lambda item: -(item[0][1] or 0.0)):
        table.add_row(
            str(kind),
            str(count),
            "no route" if bandwidth is None else format_bandwidth(bandwidth),
            "" if latency is None else format_seconds(latency),
        )
    return table


def _groups(report: Report) -> list[str]:
    lines = [
        f"island {island['name']} ({island['kind']}): {plural(len(island['devices']), 'device')}: "
        f"{_span(island['devices'])}"
        for island in report["islands"]
    ]
    classes = [group for group in report["classes"] if len(group) > 1]
    if classes:
        lines.append("exchangeable: " + " · ".join(_span(group) for group in classes))
    return lines


def _span(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, … {names[-1]} ({len(names)})"
