"""A topology cut at the fabric: cells (hosts) that meet only at relays of no host, and the cells that are alike.

Relays without a host (network switches, a rack's NVSwitch) are *hubs*. Without them the graph falls into cells: a host,
or several that direct links join. Every route between two cells passes a hub, so what a cell looks like inside matters
once for all cells of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.graph import Link, Topology

Edge = tuple[int, int, float, float]


@dataclass(slots=True)
class Shape:
    """The inside of a cell: nodes are numbered, devices first.

    Parameters
    ----------
    devices
        Number of devices.
    nodes
        Number of devices and relays.
    edges
        (node, node, bandwidth in bytes/s, latency in s) of each link inside.
    ports
        (node, port, bandwidth, latency) of each link to a hub; ports are numbered as they are met.
    """

    devices: int
    nodes: int
    edges: tuple[Edge, ...]
    ports: tuple[Edge, ...]


@dataclass(slots=True)
class Cell:
    """One cell: its shape by number, its hubs by port, and the places of its devices in the table (-1: not wanted)."""

    shape: int
    hubs: tuple[int, ...]
    members: NDArray[np.intp]


@dataclass(slots=True)
class Cells:
    """A topology cut into cells; `hub_edges` are the links between hubs, `hosts` the host names of each cell."""

    shapes: list[Shape]
    cells: list[Cell]
    num_hubs: int
    hub_edges: list[Edge]
    hosts: list[tuple[str, ...]]


@dataclass(slots=True)
class _Part:
    """A cell while links are sorted into it."""

    hosts: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    relays: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


def cut(topology: Topology, devices: Sequence[str]) -> Cells:
    """Return the cells of `topology`; the members of each are places in `devices`."""
    hubs, part_of, parts = _sorted_parts(topology)
    hub_edges: list[Edge] = []
    for link in topology.links:
        part = part_of.get(link.a) or part_of.get(link.b)
        if part is None:
            hub_edges.append((hubs[link.a], hubs[link.b], link.bandwidth_bytes_per_s, link.latency_s))
        else:
            part.links.append(link)
    place = {name: number for number, name in enumerate(devices)}
    shapes: dict[tuple[object, ...], int] = {}
    found: list[Shape] = []
    cells: list[Cell] = []
    for part in parts:
        shape, cell_hubs = _shape(part, hubs)
        key = (shape.devices, shape.nodes, shape.edges, shape.ports)
        number = shapes.setdefault(key, len(found))
        if number == len(found):
            found.append(shape)
        members = np.array([place.get(name, -1) for name in part.nodes], dtype=np.intp)
        cells.append(Cell(number, cell_hubs, members))
    return Cells(found, cells, len(hubs), hub_edges, [tuple(part.hosts) for part in parts])


def _sorted_parts(topology: Topology) -> tuple[dict[str, int], dict[str, _Part], list[_Part]]:
    """Return the hubs by number, the part of every other component, and the parts in order."""
    host_of = {device.name: device.host for device in topology.devices}
    hubs: dict[str, int] = {}
    relays: list[str] = []
    for component in topology.components:
        if component.role == "device":
            host_of.setdefault(component.name, component.host or component.name)
        elif component.host is None:
            hubs[component.name] = len(hubs)
        else:
            host_of[component.name] = component.host
            relays.append(component.name)
    lead = _merged_hosts(topology, host_of)
    by_host: dict[str, _Part] = {}
    part_of: dict[str, _Part] = {}
    is_relay = set(relays)
    for name, host in host_of.items():
        part = by_host.setdefault(lead.get(host, host), _Part())
        if host not in part.hosts:
            part.hosts.append(host)
        part_of[name] = part
        (part.relays if name in is_relay else part.nodes).append(name)
    return hubs, part_of, list(by_host.values())


def _merged_hosts(topology: Topology, host_of: dict[str, str]) -> dict[str, str]:
    """Return the first host of every group of hosts that direct links join."""
    lead: dict[str, str] = {}

    def root(host: str) -> str:
        while host in lead:
            host = lead[host]
        return host

    for link in topology.links:
        a, b = host_of.get(link.a), host_of.get(link.b)
        if a != b and a is not None and b is not None:
            first, second = root(a), root(b)
            if first != second:
                lead[second] = first
    return {host: root(host) for host in lead}


def _shape(part: _Part, hubs: dict[str, int]) -> tuple[Shape, tuple[int, ...]]:
    number = {name: place for place, name in enumerate([*part.nodes, *part.relays])}
    ports: dict[int, int] = {}
    edges: list[Edge] = []
    to_hubs: list[Edge] = []
    for link in part.links:
        a, b = number.get(link.a), number.get(link.b)
        if a is not None and b is not None:
            edges.append((a, b, link.bandwidth_bytes_per_s, link.latency_s))
            continue
        inner, hub = (a, hubs[link.b]) if a is not None else (b, hubs[link.a])
        assert inner is not None
        port = ports.setdefault(hub, len(ports))
        to_hubs.append((inner, port, link.bandwidth_bytes_per_s, link.latency_s))
    return Shape(len(part.nodes), len(number), tuple(edges), tuple(to_hubs)), tuple(ports)
