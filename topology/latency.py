"""Latencies between devices at every bandwidth that matters: what all route tables are made of.

Devices never relay, so only the graph of sockets, switches and NICs needs a shortest-path search, once for every
distinct bandwidth; direct links are compared last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.graph import Link, Topology
from gpuplan.topology.paths import device_names

Matrix = NDArray[np.float64]
Edge = tuple[int, int, Link]

#: Above this many relays Floyd-Warshall in NumPy loses to SciPy's Dijkstra (whose import costs 0.3 s).
_MANY_RELAYS = 160
#: Significant digits of a sum of latencies that are kept: sums taken in another order then agree to the last bit.
_DIGITS: Final = 14
#: Stands for a latency of zero where a sparse matrix needs an entry, s.
_NOTHING: Final = 1e-30


def rounded(latency_s: Matrix) -> Matrix:
    """Return sums of latencies to 14 significant digits; zero and inf stay what they are."""
    result = latency_s.copy()
    usual = np.isfinite(latency_s) & (latency_s > _NOTHING)
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(latency_s[usual])))
    result[usual] = np.round(latency_s[usual] * scale) / scale
    return result


def latency_layers(topology: Topology, devices: Sequence[str]) -> list[tuple[float, Matrix]]:
    """Return (bandwidth, latency of the candidate routes with at least that bandwidth), fastest first.

    The latencies are (D, D), inf where there is no candidate. Candidates that another one beats in both numbers are
    left out.
    """
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
    via = rounded(_min_plus(reach, spoke.T))
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
    # A zero would vanish from a sparse matrix; its stand-in is taken out again below.
    weight = np.maximum(np.array(list(least.values())), _NOTHING)
    graph = coo_array((weight, (ends[:, 0], ends[:, 1])), shape=(devices + relays, devices + relays)).tocsr()
    found = np.asarray(dijkstra(graph, directed=True, indices=np.arange(relays, relays + devices)))[:, :relays]
    return np.where(found < _NOTHING * (devices + relays + 1), 0.0, found)
