"""A topology as tables: devices, the matrix of their links, islands and exchangeable devices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuplan.cli.style import plain_table, plural
from gpuplan.units import format_bandwidth, format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Report = Mapping[str, Any]

#: A matrix wider than this is left out.
MATRIX_WIDTH = 80
#: Of more islands or classes than this only the first are named.
MOST_GROUPS = 16


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
    if report["pairs"] or len(devices) < 2:
        for matrix in host_matrices(report):
            parts += [matrix, ""]
        parts += [link_table(report["pairs"]), ""]
    else:
        parts += ["routes are left out: there are too many pairs of devices", ""]
    return [*parts, *_groups(report)]


def device_table(devices: Sequence[Report]) -> Table:
    """Return the devices, neighbours that are alike on one line, of one host unless that takes many lines."""
    table = plain_table("devices", "kind", "memory available", right=("memory available",))
    groups = [list(group) for _, group in itertools.groupby(devices, key=_likeness)]
    if len(groups) > MOST_GROUPS:
        groups = [list(group) for _, group in itertools.groupby(devices, key=lambda device: _likeness(device)[1:])]
    for alike in groups:
        table.add_row(
            span([device["name"] for device in alike]),
            alike[0]["kind"],
            format_bytes(alike[0]["available_bytes"]) + (" each" if len(alike) > 1 else ""),
        )
    return table


def _likeness(device: Report) -> tuple[Any, ...]:
    return device["host"], device["kind"], device["available_bytes"]


def host_matrices(report: Report) -> Iterator[Table]:
    """Yield the links within each host, as ``nvidia-smi topo -m`` lays them out; hosts alike are shown once."""
    kinds = {frozenset((pair["a"], pair["b"])): str(pair["kind"]) for pair in report["pairs"]}
    shown: list[list[list[str]]] = []
    for host, group in itertools.groupby(report["devices"], key=lambda device: device["host"]):
        names = [device["name"] for device in group]
        cells = [["×" if a == b else kinds.get(frozenset((a, b)), "none") for b in names] for a in names]
        short = [name.removeprefix(f"{host}/") for name in names]
        width = max(map(len, short)) + sum(
            1 + max(map(len, [label, *column])) for label, column in zip(short, zip(*cells, strict=True), strict=True)
        )
        if len(names) > 1 and width <= MATRIX_WIDTH and cells not in shown:
            shown.append(cells)
            yield _matrix(host, short, cells)


def _matrix(host: str, labels: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    table = plain_table(host, *labels)
    for label, row in zip(labels, cells, strict=True):
        table.add_row(label, *row)
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
    islands = report["islands"]
    lines = [
        f"island {island['name']} ({island['kind']}): {span(island['devices'])}" for island in islands[:MOST_GROUPS]
    ]
    if len(islands) > MOST_GROUPS:
        lines.append(f"… {len(islands) - MOST_GROUPS} more islands")
    classes = [group for group in report["classes"] if len(group) > 1]
    if classes:
        more = f" · … {len(classes) - MOST_GROUPS} more" if len(classes) > MOST_GROUPS else ""
        lines.append("exchangeable: " + " · ".join(span(group) for group in classes[:MOST_GROUPS]) + more)
    return lines


def span(names: Sequence[str]) -> str:
    """Return a list of devices in few words.

    >>> span(["a/gpu0", "a/gpu1"]), span([f"a/gpu{k}" for k in range(8)])
    ('a/gpu0, a/gpu1', 'a/gpu0 … a/gpu7 (8 devices)')
    """
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} devices)"
