"""Compiled kernels of relaxed paths over many classes (Numba; serial, without the GIL). Import only where needed.

Tables are position-major here: row i of an (n+1, C) array holds all classes at boundary i, so that inner loops run
over classes. The least of hop(d, e) + opened[e] over e is found without looking at most pairs, exactly: links to a few
near classes are looked at one by one; of the others e can only help some d if opened[e] plus the least hop d has to a
class that is not near lies below the best known for d, and classes are tried in rising order of opened[e].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INF = np.inf

#: No value is ever NaN (inf is never taken from inf) and no sign of a zero matters: lets minima run on vectors.
FLAGS = {"nnan", "nsz"}

#: Classes tried between two looks at how far the rest can still help.
BLOCK = 4


class Frame(NamedTuple):
    """Stages of a core, position-major.

    prefix
        prefix[j, c] = value of layers 0..j−1 on c, shape (n+1, C).
    reach
        reach[i, c] = last end of a stage of c that starts at i, shape (n+1, C).
    farthest
        Largest reach of any class, shape (n+1,).
    nearest
        nearest[i] = first end of a stage that starts at i (marked layers), shape (n+1,).
    boundary
        Bytes at each boundary, shape (n+1,).
    term
        Value behind the last stage by its class, shape (C,).
    """

    prefix: Floats
    reach: Ints
    farthest: Ints
    nearest: Ints
    boundary: Floats
    term: Floats


class Links(NamedTuple):
    """Links of every class or state d, near ones apart.

    first
        The near ones of d are near[first[d]:first[d + 1]]; shape (S + 1,).
    near, near_s, near_pb
        Near classes, their fixed times and times per byte.
    far_s, far_pb
        Least fixed time and least time per byte to one that is not near (inf: there is none), shape (S,).
    into_s, into_pb
        into_s[e, d] = fixed time from d to e (of the turned problem: from e to d), shape (R, S): those that are
        not in this table (e ≥ R) are always near.
    """

    first: Ints
    near: Ints
    near_s: Floats
    near_pb: Floats
    far_s: Floats
    far_pb: Floats
    into_s: Floats
    into_pb: Floats


class Gates(NamedTuple):
    """States with hand-overs of their own: state to[k] is reached from s at from_s[k, s] + size·from_pb[k, s].

    Every other state is its class and reached from all states of all classes. Shapes (T,), (T, S).
    """

    to: Ints
    from_s: Floats
    from_pb: Floats


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _try_near(opened: Floats, size: float, links: Links, least: Floats) -> None:
    """least[d] = least over the near classes of d."""
    near, near_s, near_pb = links.near, links.near_s, links.near_pb
    for d in range(len(opened)):
        best = INF
        for k in range(links.first[d], links.first[d + 1]):
            best = min(best, near_s[k] + size * near_pb[k] + opened[near[k]])
        least[d] = best


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _try_class(e: int, value: float, size: float, links: Links, least: Floats) -> None:
    """Lower least[d] by handing over to e, for all d."""
    into_s, into_pb = links.into_s[e], links.into_pb[e]
    for d in range(len(least)):
        least[d] = min(least[d], into_s[d] + size * into_pb[d] + value)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _still_helps(size: float, links: Links, least: Floats) -> float:
    """Return the value of opened[e] from which on a class that is not near helps nobody."""
    far_s, far_pb = links.far_s, links.far_pb
    need = -INF
    for d in range(len(least)):
        far = far_s[d] + size * far_pb[d]
        if far < INF:
            need = max(need, least[d] - far)
    return need


@njit(cache=True, nogil=True, fastmath=FLAGS)
def link_minima(opened: Floats, size: float, links: Links, least: Floats) -> None:
    """Write least[d] = min over e of hop(d, e) + opened[e]."""
    _try_near(opened, size, links, least)
    listed = opened[: links.into_s.shape[0]]
    best = int(np.argmin(listed))
    if listed[best] < INF:
        _try_class(best, listed[best], size, links, least)
    need = _still_helps(size, links, least)
    found = np.flatnonzero(listed < need)
    order = found[np.argsort(listed[found])]
    for k in range(len(order)):
        e = order[k]
        if k % BLOCK == 0 and k > 0:
            need = _still_helps(size, links, least)
        if opened[e] >= need:
            break
        _try_class(e, opened[e], size, links, least)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def backward(frame: Frame, links: Links, weight: Floats, after: Floats, rest: Floats) -> None:
    """Relaxed completion costs, each class usable again and again at its weight.

    after[j, d]: least cost to complete from boundary j with d's stage closed there (hop out of d included).
    rest[i, d]: least cost to complete from boundary i with d open there and paid for. Both (n+1, C), written.
    """
    prefix = frame.prefix
    n, num = prefix.shape[0] - 1, prefix.shape[1]
    opened = np.empty(num)
    for c in range(num):
        after[n, c] = frame.term[c]
        after[0, c] = INF
        rest[n, c] = INF
    for i in range(n - 1, -1, -1):
        row, reach = rest[i], frame.reach[i]
        for c in range(num):
            row[c] = INF
        for j in range(frame.nearest[i], frame.farthest[i] + 1):
            closed, ahead = after[j], prefix[j]
            for c in range(num):
                value = closed[c] + ahead[c]
                row[c] = min(row[c], value if j <= reach[c] else INF)
        for c in range(num):
            row[c] -= prefix[i, c]
            opened[c] = row[c] + weight[c]
        if i > 0:
            link_minima(opened, frame.boundary[i], links, after[i])


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _arrive(turned: Links, gates: Gates, owner: Ints, size: float, ended: Floats, best: Floats, row: Floats) -> None:
    """row[t] = least over states s of ended[s] + hop(s, t)."""
    for c in range(len(best)):
        best[c] = INF
    for s in range(len(owner)):
        best[owner[s]] = min(best[owner[s]], ended[s])
    link_minima(best, size, turned, row[: len(best)])
    for k in range(len(gates.to)):
        least = INF
        from_s, from_pb = gates.from_s[k], gates.from_pb[k]
        for s in range(len(owner)):
            least = min(least, from_s[s] + size * from_pb[s] + ended[s])
        row[gates.to[k]] = least


@njit(cache=True, nogil=True, fastmath=FLAGS)
def forward(
    frame: Frame, turned: Links, gates: Gates, owner: Ints, weight: Floats, arrive: Floats, ended: Floats
) -> None:
    """Relaxed costs from the start, the mirror of `backward`.

    arrive[i, d]: least cost to reach boundary i with d open there and paid for.
    ended[j, d]: least cost to reach boundary j with d's stage closed there. Both (n+1, S), written.
    """
    prefix = frame.prefix
    n, num = prefix.shape[0] - 1, prefix.shape[1]
    best = np.empty(turned.into_s.shape[0])
    for c in range(num):
        arrive[0, c] = weight[c]
        arrive[n, c] = INF
    for j in range(n + 1):
        for c in range(num):
            ended[j, c] = INF
    for i in range(n):
        if i > 0:
            _arrive(turned, gates, owner, frame.boundary[i], ended[i], best, arrive[i])
            for c in range(num):
                arrive[i, c] += weight[c]
        reach, opened, behind = frame.reach[i], arrive[i], prefix[i]
        for j in range(frame.nearest[i], frame.farthest[i] + 1):
            row, ahead = ended[j], prefix[j]
            for c in range(num):
                value = opened[c] + (ahead[c] - behind[c])
                row[c] = min(row[c], value if j <= reach[c] else INF)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _next(links: Links, size: float, d: int, opened: Floats) -> int:
    """Return the class of least hop + opened value behind d, or −1."""
    then, least = -1, INF
    for e in range(links.into_s.shape[0]):
        value = links.into_s[e, d] + size * links.into_pb[e, d] + opened[e]
        if value < least:
            least = value
            then = e
    for k in range(links.first[d], links.first[d + 1]):
        value = links.near_s[k] + size * links.near_pb[k] + opened[links.near[k]]
        if value < least:
            least = value
            then = links.near[k]
    return then


@njit(cache=True, nogil=True, fastmath=FLAGS)
def follow(frame: Frame, links: Links, weight: Floats, after: Floats, rest: Floats, classes: Ints, stops: Ints) -> int:
    """Follow the minima of `backward`; write classes and stops of the stages and return how many there are."""
    prefix = frame.prefix
    n = prefix.shape[0] - 1
    d = int(np.argmin(rest[0] + weight))
    if rest[0, d] == INF:
        return 0
    i = 0
    count = 0
    while True:
        stop, least = -1, INF
        for j in range(frame.nearest[i], frame.reach[i, d] + 1):
            if after[j, d] + prefix[j, d] < least:
                least = after[j, d] + prefix[j, d]
                stop = j
        if stop < 0:
            return 0
        classes[count] = d
        stops[count] = stop
        count += 1
        if stop == n:
            return count
        i = stop
        d = _next(links, frame.boundary[i], d, rest[i] + weight)
        if d < 0:
            return 0
