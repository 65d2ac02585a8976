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
from numpy.typing import NDArray

from gpuplan.errors import UsageError
from gpuplan.topology.graph import Link, Topology
from gpuplan.topology.paths import Adjacency, adjacency, device_names, shortest_from

Matrix = NDArray[np.float64]
Edge = tuple[int, int, Link]

#: Above this many relays Floyd-Warshall in NumPy loses to SciPy's Dijkstra (whose import costs 0.3 s).
_MANY_RELAYS = 160
#: Decimals of a latency in s that are kept: sums taken in another order then agree to the last bit.
_LATENCY_DECIMALS = 18


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
        self._adjacency: Adjacency | None = None

    def layers(self) -> list[tuple[float, Matrix]]:
        """Return (bandwidth, latency of the candidate routes with at least that bandwidth), fastest first.

        The latencies are (D, D), inf where there is no candidate. Candidates that another one beats in both numbers
        are left out; every message's table follows from the rest.
        """
        if self._layers is None:
            self._layers = _latency_layers(self.topology, self.devices)
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
    With R relays and W distinct bandwidths O(W·(R³ + D·R² + D²·R)) up to 160 relays, then O(W·D·E·log R).
    `Router` shares that work between message sizes.
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
    for bandwidth in graph.bandwidths:
        for target, links in shortest_from(graph, source, bandwidth, set(targets) - {source}).items():
            found = _as_route(source, links)
            time = found.latency_s + size / bandwidth
            if target not in best or time < best[target][0]:
                best[target] = (time, found)
    return {target: best[target][1] for target in targets if target in best}


def _as_route(source: str, links: Sequence[Link]) -> Route:
    names = [source]
    for link in links:
        names.append(link.b if link.a == names[-1] else link.a)
    return Route(
        tuple(names),
        tuple(link.kind for link in links),
        tuple(link.code for link in links),
        min(link.bandwidth_bytes_per_s for link in links),
        round(math.fsum(link.latency_s for link in links), _LATENCY_DECIMALS),
        tuple(links),
    )


# ---------------------------------------------------------------------------------------------------- latency layers


def _latency_layers(topology: Topology, devices: Sequence[str]) -> list[tuple[float, Matrix]]:
    """Return the candidate routes by bandwidth, as `Router.layers` describes."""
    known = device_names(topology)
    place = {name: index for index, name in enumerate(devices)}
    ends = (end for link in topology.links for end in (link.a, link.b))
    relays = {name: index for index, name in enumerate(dict.fromkeys(end for end in ends if end not in known))}
    direct, spokes, trunks = _sorted_edges(topology, known, place, relays)
    layers = _direct_layers(direct, len(devices))
    relayed = {link.bandwidth_bytes_per_s for _, _, link in spokes + trunks} if spokes else set()
    for bandwidth in relayed:
        via = _relayed_latency(spokes, trunks, len(devices), len(relays), bandwidth)
        layers[bandwidth] = np.minimum(layers.get(bandwidth, np.inf), via)
    return _undominated(layers)


def _undominated(layers: dict[float, Matrix]) -> list[tuple[float, Matrix]]:
    """Return the layers, fastest first, without candidates that a faster one beats in latency too."""
    kept: list[tuple[float, Matrix]] = []
    least: Matrix | float = np.inf
    for bandwidth in sorted(layers, reverse=True):
        layer = np.where(layers[bandwidth] < least, layers[bandwidth], np.inf)
        least = np.minimum(least, layer)
        if np.isfinite(layer).any():
            kept.append((bandwidth, layer))
    return kept


def _sorted_edges(
    topology: Topology, known: frozenset[str], place: dict[str, int], relays: dict[str, int]
) -> tuple[list[Edge], list[Edge], list[Edge]]:
    """Return the links device to device, device to relay, and relay to relay, as pairs of indices."""
    direct: list[Edge] = []
    spokes: list[Edge] = []
    trunks: list[Edge] = []
    for link in topology.links:
        a, b = (link.a, link.b) if link.a in known else (link.b, link.a)
        if a not in known:
            trunks.append((relays[a], relays[b], link))
        elif a in place and b in relays:
            spokes.append((place[a], relays[b], link))
        elif a in place and b in place:
            direct.append((place[a], place[b], link))
    return direct, spokes, trunks


def _direct_layers(direct: Sequence[Edge], count: int) -> dict[float, Matrix]:
    layers: dict[float, Matrix] = {}
    for a, b, link in direct:
        layer = layers.setdefault(link.bandwidth_bytes_per_s, np.full((count, count), np.inf))
        layer[a, b] = layer[b, a] = min(layer[a, b], link.latency_s)
    return layers


def _matrix(edges: Sequence[Edge], shape: tuple[int, int], bandwidth: float) -> Matrix:
    matrix = np.full(shape, np.inf)
    for a, b, link in edges:
        if link.bandwidth_bytes_per_s >= bandwidth:
            matrix[a, b] = min(matrix[a, b], link.latency_s)
    return matrix


def _relayed_latency(
    spokes: Sequence[Edge], trunks: Sequence[Edge], devices: int, relays: int, bandwidth: float
) -> Matrix:
    """Return the least latency of routes over relays and links of at least `bandwidth`, shape (D, D)."""
    spoke = _matrix(spokes, (devices, relays), bandwidth)
    if relays > _MANY_RELAYS:
        reach = _reach_sparse(spoke, trunks, bandwidth)
    else:
        trunk = _matrix(trunks, (relays, relays), bandwidth)
        trunk = np.minimum(trunk, trunk.T)
        np.fill_diagonal(trunk, 0.0)
        for relay in range(relays):
            np.minimum(trunk, trunk[:, relay, None] + trunk[relay], out=trunk)
        reach = _min_plus(spoke, trunk)
    via = np.round(_min_plus(reach, spoke.T), _LATENCY_DECIMALS)
    return np.minimum(via, via.T)


def _min_plus(left: Matrix, right: Matrix) -> Matrix:
    """Return ``out[i, j] = min_k left[i, k] + right[k, j]``; columns of `left` that are all inf cost nothing."""
    out = np.full((left.shape[0], right.shape[1]), np.inf)
    for k in range(left.shape[1]):
        rows = np.flatnonzero(np.isfinite(left[:, k]))
        columns = np.flatnonzero(np.isfinite(right[k]))
        if rows.size and columns.size:
            block = np.ix_(rows, columns)
            out[block] = np.minimum(out[block], left[rows, k, None] + right[k, columns])
    return out


def _reach_sparse(spoke: Matrix, trunks: Sequence[Edge], bandwidth: float) -> Matrix:
    """Return the least latency from every device to every relay by SciPy's Dijkstra, shape (D, R)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    devices, relays = spoke.shape
    rows, columns = np.nonzero(np.isfinite(spoke))
    fast = [(a, b, link.latency_s) for a, b, link in trunks if link.bandwidth_bytes_per_s >= bandwidth]
    # Nodes 0..R-1 are relays, R.. the devices, which have outgoing edges only and so never relay.
    edges = [(a, b, cost) for a, b, cost in fast] + [(b, a, cost) for a, b, cost in fast]
    edges += zip((rows + relays).tolist(), columns.tolist(), spoke[rows, columns].tolist(), strict=True)
    least: dict[tuple[int, int], float] = {}
    for tail, head, cost in edges:
        least[tail, head] = min(cost, least.get((tail, head), np.inf))
    ends = np.array(list(least), dtype=np.intp).reshape(-1, 2)
    # A zero would vanish from a sparse matrix; the rounding of the sums removes its stand-in again.
    weight = np.maximum(np.array(list(least.values())), 1e-30)
    graph = coo_array((weight, (ends[:, 0], ends[:, 1])), shape=(devices + relays, devices + relays)).tocsr()
    return np.asarray(dijkstra(graph, directed=True, indices=np.arange(relays, relays + devices)))[:, :relays]
