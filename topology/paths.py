"""Shortest paths by latency over links that are fast enough; devices end a path and never relay."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from gpuplan.topology.graph import Link, Topology


@dataclass(frozen=True, slots=True)
class Adjacency:
    """Neighbours of every component, the devices among them, and the distinct bandwidths, fastest first."""

    neighbours: dict[str, list[tuple[str, Link]]]
    devices: frozenset[str]
    bandwidths: tuple[float, ...]


def adjacency(topology: Topology) -> Adjacency:
    """Return the neighbours of every component of `topology`."""
    neighbours: dict[str, list[tuple[str, Link]]] = {component.name: [] for component in topology.components}
    for link in topology.links:
        neighbours.setdefault(link.a, []).append((link.b, link))
        neighbours.setdefault(link.b, []).append((link.a, link))
    bandwidths = sorted({link.bandwidth_bytes_per_s for link in topology.links}, reverse=True)
    return Adjacency(neighbours, device_names(topology), tuple(bandwidths))


def device_names(topology: Topology) -> frozenset[str]:
    """Return the names of all devices of the graph, also of those a plan may not use."""
    components = {component.name for component in topology.components if component.role == "device"}
    return frozenset(components | {device.name for device in topology.devices})


def shortest_from(graph: Adjacency, source: str, bandwidth: float, targets: Collection[str]) -> dict[str, list[Link]]:
    """Return the links of the path of least latency from `source` to each reachable target.

    Only links of at least `bandwidth` bytes/s count. Ties go to the path with fewer links, then to the one found first.
    """
    settled: dict[str, tuple[str, Link] | None] = {}
    heap: list[tuple[float, int, int, str, tuple[str, Link] | None]] = [(0.0, 0, 0, source, None)]
    pushed = 0
    missing = set(targets)
    while heap and missing:
        latency, hops, _, node, came = heapq.heappop(heap)
        if node in settled:
            continue
        settled[node] = came
        missing.discard(node)
        if node in graph.devices and node != source:
            continue
        for neighbour, link in graph.neighbours[node]:
            if link.bandwidth_bytes_per_s >= bandwidth and neighbour not in settled:
                pushed += 1
                heapq.heappush(heap, (latency + link.latency_s, hops + 1, pushed, neighbour, (node, link)))
    return {target: _walk_back(settled, target) for target in targets if target in settled}


def _walk_back(settled: dict[str, tuple[str, Link] | None], target: str) -> list[Link]:
    links: list[Link] = []
    step = settled[target]
    while step is not None:
        links.append(step[1])
        step = settled[step[0]]
    return links[::-1]
