"""Least latencies in small graphs of relays, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

#: Above this many nodes Floyd-Warshall in NumPy loses to SciPy's Dijkstra (whose import costs 0.3 s).
_MANY: Final = 160
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


def min_plus(left: Matrix, right: Matrix) -> Matrix:
    """Return ``out[i, j] = min_k left[i, k] + right[k, j]``; entries that are inf cost nothing."""
    out = np.full((left.shape[0], right.shape[1]), np.inf)
    for k in range(left.shape[1]):
        rows = np.flatnonzero(np.isfinite(left[:, k]))
        columns = np.flatnonzero(np.isfinite(right[k]))
        if rows.size and columns.size:
            block = np.ix_(rows, columns)
            out[block] = np.minimum(out[block], left[rows, k, None] + right[k, columns])
    return out


def all_pairs(count: int, edges: Sequence[tuple[int, int, float]]) -> Matrix:
    """Return the least latency between every two of `count` nodes over undirected `edges`; 0 on the diagonal."""
    direct = np.full((count, count), np.inf)
    for a, b, latency in edges:
        direct[a, b] = direct[b, a] = min(direct[a, b], latency)
    np.fill_diagonal(direct, 0.0)
    if count > _MANY:
        return _dijkstra(direct)
    for node in range(count):
        np.minimum(direct, direct[:, node, None] + direct[node], out=direct)
    return direct


def _dijkstra(direct: Matrix) -> Matrix:
    """Return all pairs by SciPy's Dijkstra."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    rows, columns = np.nonzero(np.isfinite(direct))
    # A zero would vanish from a sparse matrix; its stand-in is taken out again below.
    weight = np.maximum(direct[rows, columns], _NOTHING)
    graph = coo_array((weight, (rows, columns)), shape=direct.shape).tocsr()
    found = np.asarray(dijkstra(graph, directed=False))
    return np.where(found < _NOTHING * (len(direct) + 1), 0.0, found)
