"""Routes: transfer times between devices, exact for every message size.

    τ_R(m) = Σ_{e∈R} latency_e + m / min_{e∈R} bandwidth_e

The best route for a message of m bytes is found among few candidates: for every distinct bandwidth w, the route of
least latency that uses only links of at least w. One of them attains ``min_R τ_R(m)`` for whatever m. Devices never
relay, so only the graph of sockets, switches and NICs needs a shortest-path search; a direct link is compared last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.topology.compact import CompactRoutes, CompactTable
from gpuplan.topology.graph import Link, Topology
from gpuplan.topology.paths import Adjacency, adjacency, shortest_between, shortest_from
from gpuplan.topology.shortest import Matrix, rounded


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Transfer times of one message size: ``τ(m) = latency_s + m · s_per_byte``.

    Parameters
    ----------
    devices
        Names of the D devices, in the order of the rows and columns.
    message_bytes
        The message whose fastest routes these are.
    latency_s, s_per_byte
        Shape (D, D); inf where there is no route, 0 on the diagonal.
    """

    devices: tuple[str, ...]
    message_bytes: float
    latency_s: Matrix
    s_per_byte: Matrix


@dataclass(frozen=True, slots=True)
class Route:
    """The way of a message from one device to another.

    Parameters
    ----------
    components
        Names along the way, both devices included.
    kinds, codes
        Kind, and matrix code or None, of each link.
    bandwidth_bytes_per_s
        Of the slowest link, bytes/s.
    latency_s
        Sum over the links, s.
    """

    components: tuple[str, ...]
    kinds: tuple[str, ...]
    codes: tuple[str | None, ...]
    bandwidth_bytes_per_s: float
    latency_s: float
    links: tuple[Link, ...] = ()

    def transfer_s(self, message_bytes: float) -> float:
        """Return the time of a message of `message_bytes` bytes, s."""
        return self.latency_s + message_bytes / self.bandwidth_bytes_per_s


def check_message(message_bytes: float) -> float:
    """Return the size of a message when it is a finite number of at least 0."""
    if not math.isfinite(message_bytes) or message_bytes < 0.0:
        raise UsageError(f"expected a message of at least 0 bytes, got {message_bytes!r}")
    return float(message_bytes)


class Router:
    """Routes of one topology; asks for several message sizes share its work.

    Parameters
    ----------
    topology
        The graph.
    devices
        The devices of the tables, in this order; all usable devices by default. The others still do not relay.
    """

    def __init__(self, topology: Topology, devices: Sequence[str] | None = None) -> None:
        self.topology = topology
        self.devices = _chosen(topology, devices)
        self._layers: list[tuple[float, Matrix]] | None = None
        self._compact: CompactRoutes | None = None
        self._adjacency: Adjacency | None = None

    def compact(self) -> CompactRoutes:
        """Return the candidate routes in tables within hosts and between route groups: no D×D matrix."""
        if self._compact is None:
            self._compact = CompactRoutes(self.topology, self.devices)
        return self._compact

    def compact_table(self, message_bytes: float) -> CompactTable:
        """Return the fastest routes for messages of `message_bytes` bytes, without a D×D matrix."""
        return self.compact().table(check_message(message_bytes))

    def layers(self) -> list[tuple[float, Matrix]]:
        """Return (bandwidth, latency of the candidate routes with at least that bandwidth), fastest first.

        The latencies are (D, D), inf where there is no candidate. Candidates that another one beats in both numbers
        are left out; every message's table follows from the rest.
        """
        if self._layers is None:
            self._layers = self.compact().dense_layers()
        return self._layers

    def table(self, message_bytes: float) -> RouteTable:
        """Return the tables of the fastest routes for messages of `message_bytes` bytes."""
        size = check_message(message_bytes)
        count = len(self.devices)
        best, latency, slowness = (np.full((count, count), np.inf) for _ in range(3))
        for bandwidth, layer in self.layers():
            time = layer + size / bandwidth
            better = time < best
            best[better], latency[better], slowness[better] = time[better], layer[better], 1.0 / bandwidth
        np.fill_diagonal(latency, 0.0)
        np.fill_diagonal(slowness, 0.0)
        return RouteTable(self.devices, size, latency, slowness)

    def routes_from(self, device: str, message_bytes: float, targets: Sequence[str] | None = None) -> dict[str, Route]:
        """Return the fastest route from `device` to each target (by default all devices) that it reaches."""
        size = check_message(message_bytes)
        if self._adjacency is None:
            self._adjacency = adjacency(self.topology)
        return _best_routes(self._adjacency, device, self.devices if targets is None else targets, size)

    def route_within(self, device: str, target: str, bandwidth_bytes_per_s: float) -> Route | None:
        """Return the route of least latency over links of at least a bandwidth; None where there is none.

        With the bandwidth that a table has for the two it is their fastest, one search instead of one a bandwidth.
        """
        if self._adjacency is None:
            self._adjacency = adjacency(self.topology)
        path = shortest_between(self._adjacency, device, bandwidth_bytes_per_s, target)
        return None if path is None else _as_route(device, path)


def _chosen(topology: Topology, devices: Sequence[str] | None) -> tuple[str, ...]:
    known = [device.name for device in topology.devices]
    if devices is None:
        return tuple(known)
    have = set(known)
    for name in devices:
        if name not in have:
            raise UsageError(f"unknown device {name!r}; the topology has {', '.join(known[:8])}")
    if len(set(devices)) != len(devices):
        raise UsageError(f"expected distinct devices, got {', '.join(devices)}")
    return tuple(devices)


def route_tables(topology: Topology, message_bytes: float, *, devices: Sequence[str] | None = None) -> RouteTable:
    """Return latency and slowness of the fastest route between every two devices for one message size.

    Parameters
    ----------
    topology
        The graph.
    message_bytes
        Size of the message, bytes.
    devices
        Names of the devices wanted, in the order of the rows; all of them by default.

    Returns
    -------
    RouteTable
        Matrices of shape (D, D); inf where there is no route, 0 on the diagonal.

    Raises
    ------
    UsageError
        An unknown device, or a size that is negative or not finite.

    Notes
    -----
    O(W·D²) for W distinct bandwidths, on top of what `gpuplan.topology.compact.CompactRoutes` needs, which hardly
    depends on the number of equal hosts. `Router` shares the work between message sizes; `Router.compact_table` has
    the same numbers without D×D.
    """
    return Router(topology, devices).table(message_bytes)


def route(topology: Topology, a: str, b: str, message_bytes: float) -> Route:
    """Return the fastest route from device `a` to device `b` for a message of `message_bytes` bytes.

    Raises
    ------
    UsageError
        A device is unknown, or no route joins the two.
    """
    router = Router(topology, (a, b) if a != b else (a,))
    if a == b:
        return Route((a,), (), (), math.inf, 0.0)
    found = router.routes_from(a, message_bytes)
    if b not in found:
        raise UsageError(f"no route joins {a} and {b}; add a link to the topology")
    return found[b]


def _best_routes(graph: Adjacency, source: str, targets: Sequence[str], size: float) -> dict[str, Route]:
    """Return the fastest route to each target: least time, then the faster bottleneck, as in `Router.table`."""
    best: dict[str, tuple[float, Route]] = {}
    wanted = set(targets) - {source}
    for bandwidth in graph.bandwidths:
        if len(wanted) == 1:
            (target,) = wanted
            path = shortest_between(graph, source, bandwidth, target)
            paths = {} if path is None else {target: path}
        else:
            paths = shortest_from(graph, source, bandwidth, wanted)
        for target, links in paths.items():
            found = _as_route(source, links)
            time = found.latency_s + size / bandwidth
            if target not in best or time < best[target][0]:
                best[target] = (time, found)
    return {target: best[target][1] for target in targets if target in best}


def _as_route(source: str, links: Sequence[Link]) -> Route:
    names = [source]
    for link in links:
        names.append(link.b if link.a == names[-1] else link.a)
    total = math.fsum(link.latency_s for link in links)
    return Route(
        tuple(names),
        tuple(link.kind for link in links),
        tuple(link.code for link in links),
        min(link.bandwidth_bytes_per_s for link in links),
        links[0].latency_s if len(links) == 1 else float(rounded(np.array(total))),
        tuple(links),
    )
