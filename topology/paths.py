"""Shortest paths by latency over links that are fast enough; devices end a path and never relay."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator
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


def shortest_between(graph: Adjacency, source: str, bandwidth: float, target: str) -> list[Link] | None:
    """Return the links of the path of least latency from `source` to `target`, None where there is none.

    As `shortest_from`, searched from both ends in turn: where a switch joins thousands of hosts, it is met before
    either search goes through them. Ties go to the path with fewer links.
    """
    ends = _End(source), _End(target)
    best: _Length = (math.inf, 0)
    meeting = None
    while ends[0].heap and ends[1].heap:
        if _joined(ends[0].heap[0][0], ends[1].heap[0][0]) >= best:
            break
        turn = 0 if ends[0].heap[0][0] <= ends[1].heap[0][0] else 1
        own, other = ends[turn], ends[1 - turn]
        for node, length in own.grow(graph, bandwidth, other.root):
            if node in other.length and _joined(length, other.length[node]) < best:
                best, meeting = _joined(length, other.length[node]), node
    if meeting is None:
        return None
    return [*_walk_back(ends[0].came, meeting), *_walk_back(ends[1].came, meeting)[::-1]]


#: Latency in s and links of a path.
_Length = tuple[float, int]


def _joined(one: _Length, two: _Length) -> _Length:
    """Return the length of two halves; latencies that differ by rounding alone count as equal."""
    return round(one[0] + two[0], 15), one[1] + two[1]


class _End:
    """The search from one end of a path."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.length: dict[str, _Length] = {root: (0.0, 0)}
        self.came: dict[str, tuple[str, Link] | None] = {root: None}
        self.heap: list[tuple[_Length, int, str]] = [((0.0, 0), 0, root)]
        self._settled: set[str] = set()
        self._pushed = 0

    def grow(self, graph: Adjacency, bandwidth: float, goal: str) -> Iterator[tuple[str, _Length]]:
        """Settle the nearest open node; yield its neighbours that are nearer now. Devices but the goal are left out."""
        length, _, node = heapq.heappop(self.heap)
        if node in self._settled or (node in graph.devices and node != self.root):
            return
        self._settled.add(node)
        for neighbour, link in graph.neighbours[node]:
            if link.bandwidth_bytes_per_s < bandwidth or (neighbour in graph.devices and neighbour != goal):
                continue
            found = length[0] + link.latency_s, length[1] + 1
            if neighbour not in self.length or found < self.length[neighbour]:
                self.length[neighbour], self.came[neighbour] = found, (node, link)
                self._pushed += 1
                heapq.heappush(self.heap, (found, self._pushed, neighbour))
                yield neighbour, found


def _walk_back(settled: dict[str, tuple[str, Link] | None], target: str) -> list[Link]:
    links: list[Link] = []
    step = settled[target]
    while step is not None:
        links.append(step[1])
        step = settled[step[0]]
    return links[::-1]
