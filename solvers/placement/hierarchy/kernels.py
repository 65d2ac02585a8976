"""Compiled layer-by-layer programme over (counters, phase, state) of a hierarchy; see `relaxed` for the meaning.

Every table of the search is indexed by x = (q·Φ + φ)·S + s: q the counters, φ the level of the unit that holds both
this class and the first one, s the state (kind, place in the host, devices of the kind used in this stay).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Predecessors are kept as x·LEVELS + level of the hop.
LEVELS = 8


@njit(cache=True, inline="always")
def _push(x: int, i: int, shifted: Floats, queue: Any, head: Any, tail: Any) -> None:
    """Append start i to the monotone queue of x."""
    value = shifted[x, i]
    last, first = tail[x], head[x]
    while last > first and shifted[x, queue[x, last - 1]] >= value:
        last -= 1
    queue[x, last] = i
    tail[x] = last + 1


@njit(cache=True)
def _fill(
    j: int, pushed: int, n: int, size: int, kind: Ints, prefix: Floats, low: Ints, top: Ints,
    shifted: Floats, queue: Any, head: Any, tail: Any, start: Any, reach: Floats,
) -> None:  # fmt: skip
    """Set reach[x], the least cost of layers 0..j−1 with the last stage in x, from the starts its window allows."""
    states = len(kind)
    for x in range(size):
        for i in range(pushed, top[j] + 1):
            if shifted[x, i] < np.inf:
                _push(x, i, shifted, queue, head, tail)
        a = kind[x % states]
        least = low[a, j]
        if j == n and least < 1:
            least = 1  # one-stage plans are priced apart
        while head[x] < tail[x] and queue[x, head[x]] < least:
            head[x] += 1
        if head[x] < tail[x]:
            i = queue[x, head[x]]
            reach[x] = shifted[x, i] + prefix[a, j]
            start[x, j] = i
        else:
            reach[x] = np.inf


@njit(cache=True, inline="always")
def _offer(x: int, j: int, value: float, source: int, shifted: Floats, before: Any) -> None:
    if value < shifted[x, j]:
        shifted[x, j] = value
        before[x, j] = source


@njit(cache=True)
def _inside(
    j: int, q: int, phase: int, phases: int, first_x: int, base: Ints, per: Ints, cap: Ints, prefix: Floats,
    hop: Floats, weight: Floats, after: Ints, track: bool, reach: Floats, shifted: Floats, before: Any,
) -> None:  # fmt: skip
    """Hand over to the next device of the same host."""
    kinds, states = len(per), base[len(per)]
    for a in range(kinds):
        q2 = after[q, phase, a]
        cost = hop[0, a, a] + weight[a] - prefix[a, j]
        if q2 < 0 or cost == np.inf:
            continue
        step = per[a] + 1 if track else 1
        for s in range(base[a], base[a + 1] - step):
            place = (s - base[a]) % per[a]
            if place + 1 >= per[a]:
                continue
            x = first_x + s
            if reach[x] < np.inf:
                _offer((q2 * phases + phase) * states + s + step, j, reach[x] + cost, x * LEVELS, shifted, before)


@njit(cache=True)
def _land(
    value: float, source: int, j: int, q: int, phase: int, phases: int, level: int, b: int, first: int, s: int,
    states: int, after: Ints, shifted: Floats, before: Any,
) -> None:  # fmt: skip
    """Enter state s of kind b by a hop of some level: the common unit with the first class follows from both levels."""
    nearest, farthest = max(phase, level), max(phase, level)
    if phases == 1:
        nearest = farthest = 0
    elif phase == level:
        nearest = 0 if b == first else 1
    for common in range(nearest, farthest + 1):
        q2 = after[q, common, b]
        if q2 >= 0:
            _offer((q2 * phases + common) * states + s, j, value, source, shifted, before)


@njit(cache=True)
def _beside(
    j: int, q: int, phase: int, phases: int, first: int, first_x: int, base: Ints, per: Ints, cap: Ints,
    prefix: Floats, hop: Floats, weight: Floats, after: Ints, reach: Floats, shifted: Floats, before: Any,
) -> None:  # fmt: skip
    """Hand over to a fresh host of the same kind in the same unit, where devices of a stay are counted."""
    kinds, states = len(per), base[len(per)]
    for a in range(kinds):
        cost = hop[1, a, a] + weight[a] - prefix[a, j]
        if cost == np.inf:
            continue
        for used in range(cap[a] - 1):
            row = first_x + base[a] + used * per[a]
            best = row
            for x in range(row, row + per[a]):
                if reach[x] < reach[best]:
                    best = x
            if reach[best] < np.inf:
                fresh = base[a] + (used + 1) * per[a]
                source = best * LEVELS + 1
                _land(
                    reach[best] + cost, source, j, q, phase, phases, 1, a, first, fresh, states, after, shifted,
                    before,
                )  # fmt: skip


@njit(cache=True)
def _across(
    j: int, q: int, phase: int, phases: int, first: int, first_x: int, base: Ints, prefix: Floats, hop: Floats,
    weight: Floats, after: Ints, track: bool, reach: Floats, shifted: Floats, before: Any,
) -> None:  # fmt: skip
    """Hand over to a fresh host: of another kind in the unit, or anywhere farther away."""
    kinds, states, levels = len(base) - 1, base[len(base) - 1], len(hop)
    for a in range(kinds):
        best = first_x + base[a]
        for x in range(first_x + base[a], first_x + base[a + 1]):
            if reach[x] < reach[best]:
                best = x
        if reach[best] == np.inf:
            continue
        for b in range(kinds):
            for level in range(1, levels):
                value = reach[best] + hop[level, a, b] + weight[b] - prefix[b, j]
                if value == np.inf or (track and level == 1 and a == b):
                    continue
                source = best * LEVELS + level
                _land(value, source, j, q, phase, phases, level, b, first, base[b], states, after, shifted, before)


@njit(cache=True)
def advance(
    begin: int, end: int, phases: int, first: int, base: Ints, per: Ints, cap: Ints, kind: Ints, prefix: Floats,
    low: Ints, top: Ints, lat: Floats, per_byte: Floats, boundary: Floats, weight: Floats, after: Ints, track: bool,
    shifted: Floats, before: Any, start: Any, queue: Any, head: Any, tail: Any, reach: Floats,
) -> None:  # fmt: skip
    """Work on the positions begin..end−1 (1..n in all); `reach` holds the costs at the last one."""
    n, states = len(boundary) - 1, base[len(base) - 1]
    size = len(reach)
    for j in range(begin, end):
        pushed = max(top[j - 1] + 1, 0) if j > 1 else 0
        _fill(j, pushed, n, size, kind, prefix, low, top, shifted, queue, head, tail, start, reach)
        if j == n:
            break
        hop = lat + boundary[j] * per_byte
        for row in range(size // states):
            q, phase = row // phases, row % phases
            _inside(
                j, q, phase, phases, row * states, base, per, cap, prefix, hop, weight, after, track, reach,
                shifted, before,
            )  # fmt: skip
            if track:
                _beside(
                    j, q, phase, phases, first, row * states, base, per, cap, prefix, hop, weight, after, reach,
                    shifted, before,
                )  # fmt: skip
            _across(
                j, q, phase, phases, first, row * states, base, prefix, hop, weight, after, track, reach, shifted,
                before,
            )  # fmt: skip
