"""Routes, searched anew from the links a plan embeds."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from gpuplan.plans.verify.islands import island_numbers

#: Routes whose times are this close (relative) are equally fast.
TIE = 1e-12


class Network:
    """The links of an embedded topology.

    A message of m bytes takes ``Σ latency + m / min bandwidth`` over a route; no route passes through a device other
    than its two ends. The fastest is found by one shortest-path search (by latency) for every bandwidth that some link
    has, over the links at least that fast: one of them is the bottleneck of the fastest route.
    """

    def __init__(self, topology: Mapping[str, Any]) -> None:
        self._topology = topology
        self._devices = frozenset(device["name"] for device in topology["devices"])
        components = topology.get("components", ())
        self._devices |= {component["name"] for component in components if component.get("role") == "device"}
        self._neighbours: dict[str, list[tuple[float, str, float]]] = {}
        self._links: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for link in topology["links"]:
            latency, bandwidth = link["latency_s"], link["bandwidth_bytes_per_s"]
            for here, there in ((link["a"], link["b"]), (link["b"], link["a"])):
                self._neighbours.setdefault(here, []).append((latency, there, bandwidth))
                self._links.setdefault((here, there), []).append((latency, bandwidth))
        self._onward: dict[tuple[str, float], list[tuple[float, str]]] = {}
        self._bandwidths = sorted({link["bandwidth_bytes_per_s"] for link in topology["links"]})
        self._latencies: dict[tuple[str, str], list[tuple[float, float]]] = {}

    @cached_property
    def order(self) -> dict[str, int]:
        """The place of every device in the topology."""
        return {device["name"]: i for i, device in enumerate(self._topology["devices"])}

    @cached_property
    def islands(self) -> dict[str, int]:
        """The number of every device's island."""
        return island_numbers(self._topology)

    def fastest(self, sender: str, receiver: str, message_bytes: float) -> list[tuple[float, float]]:
        """Return (latency_s, bandwidth_bytes_per_s) of every equally fast way for a message; none without a route."""
        ways = self._ways(sender, receiver)
        if not ways:
            return []
        best = min(latency + message_bytes / bandwidth for latency, bandwidth in ways)
        return [
            (latency, bandwidth)
            for latency, bandwidth in ways
            if latency + message_bytes / bandwidth <= best * (1 + TIE)
        ]

    def time_over(self, route: Sequence[str], message_bytes: float) -> float | None:
        """Return the seconds of a message over the components named; None when they are no route."""
        if len(route) < 2 or len(set(route)) != len(route) or any(name in self._devices for name in route[1:-1]):
            return None
        times = [self._time_at(route, bandwidth, message_bytes) for bandwidth in self._bandwidths]
        best = min(times, default=math.inf)
        return None if math.isinf(best) else best

    def _time_at(self, route: Sequence[str], slowest: float, message_bytes: float) -> float:
        total = message_bytes / slowest
        for here, there in itertools.pairwise(route):
            hops = [latency for latency, bandwidth in self._links.get((here, there), ()) if bandwidth >= slowest]
            total += min(hops, default=math.inf)
        return total

    def _ways(self, sender: str, receiver: str) -> list[tuple[float, float]]:
        key = (sender, receiver)
        if key not in self._latencies:
            rows = [(self._least_latency(sender, receiver, slowest), slowest) for slowest in self._bandwidths]
            self._latencies[key] = [row for row in rows if math.isfinite(row[0])]
        return self._latencies[key]

    def _least_latency(self, sender: str, receiver: str, slowest: float) -> float:
        """Return the least latency over links of at least `slowest` bytes/s: Dijkstra's search from both ends."""
        if sender == receiver:
            return 0.0
        sides = _Side(), _Side()
        self._settle(sides[0], 0.0, sender, slowest)
        self._settle(sides[1], 0.0, receiver, slowest)
        best = self._meeting(sides[1], receiver, sides[0], slowest)
        while all(side.queue for side in sides) and sides[0].queue[0][0] + sides[1].queue[0][0] < best:
            here, there = sides if sides[0].queue[0][0] <= sides[1].queue[0][0] else sides[::-1]
            latency, came_from, place = heapq.heappop(here.queue)
            self._follow(here, came_from, place + 1, slowest)
            name = self._links_from(came_from, slowest)[place][1]
            if name not in here.settled and name not in self._devices:
                self._settle(here, latency, name, slowest)
                best = min(best, self._meeting(here, name, there, slowest))
        return best

    def _meeting(self, here: _Side, name: str, there: _Side, slowest: float) -> float:
        """Return the least latency from end to end through a component just settled: it, or a link, joins both."""
        ways = [
            far + latency
            for other, far in there.settled.items()
            for latency, bandwidth in self._links.get((name, other), ())
            if bandwidth >= slowest
        ]
        return here.settled[name] + min([there.settled.get(name, math.inf), *ways])

    def _settle(self, side: _Side, latency: float, name: str, slowest: float) -> None:
        side.settled[name] = latency
        self._follow(side, name, 0, slowest)

    def _follow(self, side: _Side, name: str, place: int, slowest: float) -> None:
        """Queue the link number `place` of a settled component."""
        links = self._links_from(name, slowest)
        if place < len(links):
            heapq.heappush(side.queue, (side.settled[name] + links[place][0], name, place))

    def _links_from(self, name: str, slowest: float) -> list[tuple[float, str]]:
        """Return latency and far end of a component's links of at least `slowest` bytes/s, nearest first."""
        key = (name, slowest)
        if key not in self._onward:
            rows = self._neighbours.get(name, ())
            self._onward[key] = sorted((latency, there) for latency, there, bandwidth in rows if bandwidth >= slowest)
        return self._onward[key]


class _Side:
    """One end of a search: what is settled at which latency, and the next link of each settled component."""

    def __init__(self) -> None:
        self.settled: dict[str, float] = {}
        self.queue: list[tuple[float, str, int]] = []
