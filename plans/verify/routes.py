"""Routes, searched anew from the links a plan embeds."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Routes whose times are this close (relative) are equally fast.
TIE = 1e-12


class Network:
    """The links of an embedded topology.

    A message of m bytes takes ``Σ latency + m / min bandwidth`` over a route; no route passes through a device other
    than its two ends. The fastest is found by one shortest-path search (by latency) for every bandwidth that some link
    has, over the links at least that fast: one of them is the bottleneck of the fastest route.
    """

    def __init__(self, topology: Mapping[str, Any]) -> None:
        self._devices = frozenset(device["name"] for device in topology["devices"])
        components = topology.get("components", ())
        self._devices |= {component["name"] for component in components if component.get("role") == "device"}
        self._neighbours: dict[str, list[tuple[str, float, float]]] = {}
        for link in topology["links"]:
            row = (link["latency_s"], link["bandwidth_bytes_per_s"])
            self._neighbours.setdefault(link["a"], []).append((link["b"], *row))
            self._neighbours.setdefault(link["b"], []).append((link["a"], *row))
        self._bandwidths = sorted({link["bandwidth_bytes_per_s"] for link in topology["links"]})
        self._latencies: dict[tuple[str, str], list[tuple[float, float]]] = {}

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
            hops = [
                latency
                for name, latency, bandwidth in self._neighbours.get(here, ())
                if name == there and bandwidth >= slowest
            ]
            total += min(hops, default=math.inf)
        return total

    def _ways(self, sender: str, receiver: str) -> list[tuple[float, float]]:
        key = (sender, receiver)
        if key not in self._latencies:
            rows = [(self._least_latency(sender, receiver, slowest), slowest) for slowest in self._bandwidths]
            self._latencies[key] = [row for row in rows if math.isfinite(row[0])]
        return self._latencies[key]

    def _least_latency(self, sender: str, receiver: str, slowest: float) -> float:
        queue = [(0.0, sender)]
        reached = {sender: 0.0}
        while queue:
            latency, here = heapq.heappop(queue)
            if here == receiver:
                return latency
            if latency > reached[here]:
                continue
            for there, step, bandwidth in self._neighbours.get(here, ()):
                if bandwidth < slowest or (there in self._devices and there != receiver):
                    continue
                if latency + step < reached.get(there, math.inf):
                    reached[there] = latency + step
                    heapq.heappush(queue, (latency + step, there))
        return math.inf
