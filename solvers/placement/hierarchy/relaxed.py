"""Relaxed plans of a hierarchy: any number of fresh hosts and racks, and what the best of them costs.

State: kind of the class, place in its host (at most as many as the host has devices), with `track` also the devices of
that kind used in this stay in the innermost unit (at most what a unit has). A hand-over goes to the next device of the
host (level 0), to a fresh host in the same unit (level 1), or to a fresh host in a fresh unit (level 2 and up). Every
plan maps to such a path of the same cost, with a host or unit met again taken for a fresh one, so the least cost is a
lower bound. The return hop depends on the level between the last class and the first: a *phase* carries the level
between this class and the first one, and a path may come back to the first class's units. Counters bound what a
path uses of some kinds, or its stages, exactly; prices charge for uses instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.hops import FloatArray, IntArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.hierarchy.detect import Hierarchy

#: Table entries of one programme at most: about 0.3 s and 200 MB.
MOST_CELLS = 1e7
#: Bytes of one entry: value, where it came from, its start and its place in a queue.
BYTES_PER_CELL = 16
#: Operations between two looks at the clock: about 20 ms.
CHUNK_CELLS = 1e6


@dataclass(frozen=True, slots=True)
class Leg:
    """One stage of a relaxed path: its kind, the level of the hop it was reached by, its level to the first class."""

    kind: int
    level: int
    phase: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class KindCore:
    """A core problem by kinds.

    per
        Devices of a class of each kind, at most n; shape (T,).
    cap
        Most devices of each kind in one innermost unit, at most n; shape (T,).
    total
        Devices of each kind, shape (T,).
    prefix, low, entry
        As in `Core`, by kind.
    lat, per_byte
        Hop numbers by (level, kind, kind).
    back
        Return hop by (level, last kind, first kind), or None.
    shared
        shared[l, f, a]: most devices of kind a in a unit of level l that holds a class of kind f; shape (L+1, T, T).
    """

    core: Core
    hierarchy: Hierarchy
    per: IntArray
    cap: IntArray
    total: IntArray
    prefix: FloatArray
    low: IntArray
    entry: FloatArray
    lat: FloatArray
    per_byte: FloatArray
    back: FloatArray | None
    shared: IntArray


def kind_core(core: Core, hierarchy: Hierarchy) -> KindCore:
    """Read a core by kinds."""
    kinds = hierarchy.num_kinds
    per = hierarchy.of_kinds(core.counts)
    shared = np.stack([_shared(core.counts, units, hierarchy.kind, kinds) for units in hierarchy.unit])
    return KindCore(
        core,
        hierarchy,
        per,
        np.minimum(np.diagonal(shared[1]), core.num_layers),
        np.bincount(hierarchy.kind, weights=core.counts, minlength=kinds).astype(np.int64),
        hierarchy.of_kinds(core.prefix),
        hierarchy.of_kinds(core.low),
        hierarchy.of_kinds(core.entry),
        hierarchy.numbers(core.hop_s, np.inf),
        hierarchy.numbers(core.hop_s_per_byte, 0.0),
        None if core.back is None else hierarchy.numbers(core.back, np.inf),
        shared,
    )


def _shared(counts: IntArray, units: IntArray, kind: IntArray, kinds: int) -> IntArray:
    """Return the most devices of kind a in a unit that holds kind f, shape (T, T)."""
    held = np.zeros((len(units), kinds), dtype=np.int64)
    np.add.at(held, (units, kind), counts)
    return np.stack([held[held[:, f] > 0].max(axis=0) for f in range(kinds)])


@dataclass(frozen=True, slots=True)
class Counter:
    """One thing counted exactly.

    limits
        Most there may be, by the kind of the first class, shape (T,).
    adds
        What a device of each kind adds, by level to the first class; shape (L+1, T).
    """

    limits: IntArray
    adds: IntArray

    @property
    def width(self) -> int:
        """Values it can have."""
        return int(self.limits.max()) + 1


@dataclass(frozen=True, slots=True)
class Counters:
    """What is counted exactly, mixed into one number."""

    parts: tuple[Counter, ...] = ()

    @property
    def size(self) -> int:
        """Number of counter values."""
        return math.prod(part.width for part in self.parts)

    def after(self, phases: int, kinds: int, first: int) -> IntArray:
        """Return after[q, φ, a]: the counters after one more device of kind a at level φ, −1 beyond a limit."""
        values = np.arange(self.size)[:, None, None]
        result = np.broadcast_to(values, (self.size, phases, kinds))
        unit = 1
        for part in self.parts:
            adds = part.adds[None, :phases]
            limit = part.width - 1 if first < 0 else int(part.limits[first])
            over = values // unit % part.width + adds > limit
            result = np.where(over | (result < 0), -1, result + unit * adds)
            unit *= part.width
        return np.array(result, dtype=np.int64, order="C")  # a copy: what is read-only compiles anew


@dataclass(slots=True)
class Relaxed:
    """The best relaxed path: its cost (prices included) and its legs; cost inf when no plan exists."""

    cost: float
    legs: tuple[Leg, ...] = ()


@dataclass(slots=True)
class _Layout:
    """States by kind, and the size of the tables."""

    base: IntArray
    kind: IntArray
    phases: int
    size: int


def _layout(kinds: KindCore, track: bool, phases: int, counters: Counters) -> _Layout:
    stays = kinds.cap if track else np.ones_like(kinds.cap)
    widths = kinds.per * stays
    base = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    kind = np.repeat(np.arange(len(widths)), widths)
    size = int(base[-1]) * phases * counters.size
    return _Layout(base, kind, phases, size)


def first_groups(kinds: KindCore) -> list[tuple[int, FloatArray]]:
    """Return (first kind or −1 for any, return hop by (phase, kind)) for every case that needs a programme of its own.

    Without a return hop, or with one that is the same for all pairs, there is a single case of a single phase.
    """
    num = len(kinds.per)
    if kinds.back is None:
        return [(-1, np.zeros((1, num)))]
    exists = kinds.hierarchy.example >= 0
    if len(np.unique(kinds.back[exists])) == 1:
        return [(-1, np.full((1, num), kinds.back[exists][0]))]
    flat = all(
        len(np.unique(kinds.back[exists[:, a, first], a, first])) <= 1 for a in range(num) for first in range(num)
    )
    columns = (np.ascontiguousarray(kinds.back[:, :, first]) for first in range(num))
    return [(first, column.min(axis=0)[None, :] if flat else column) for first, column in enumerate(columns)]


def cells(kinds: KindCore, track: bool, counters: Counters) -> float:
    """Return the largest number of table entries of a programme."""
    phases = max(len(term) for _, term in first_groups(kinds))
    return float(_layout(kinds, track, phases, Counters()).size) * counters.size * (kinds.core.num_layers + 1)


def solve_relaxed(
    kinds: KindCore, prices: FloatArray, track: bool, counters: Counters, budget: Budget, upper: float = math.inf
) -> Relaxed | None:
    """Return the best relaxed path, or None when a limit ended the search.

    Parameters
    ----------
    prices
        Charge for one use of each kind, shape (T,).
    track
        Whether devices used in one stay in a unit are counted.
    upper
        Cases that cannot be better may be left out.
    """
    best = Relaxed(math.inf)
    for first, term in first_groups(kinds):
        if not np.isfinite(term).any():
            continue
        found = _one_case(kinds, prices, track, counters, first, term, budget)
        if found is None:
            return None
        if found.cost < best.cost:
            best = found
    return best


def _one_case(
    kinds: KindCore, prices: FloatArray, track: bool, counters: Counters, first: int, term: FloatArray, budget: Budget
) -> Relaxed | None:
    from gpuplan.solvers.placement.hierarchy import kernels

    core, n = kinds.core, kinds.core.num_layers
    layout = _layout(kinds, track, len(term), counters)
    after = counters.after(layout.phases, len(kinds.per), first)
    shifted = np.full((layout.size, n + 1), np.inf)
    before = np.zeros((layout.size, n + 1), dtype=np.int32)
    start, queue = (np.zeros((layout.size, n + 1), dtype=np.int16) for _ in range(2))
    head, tail = (np.zeros(layout.size, dtype=np.int16) for _ in range(2))
    reach = np.empty(layout.size)
    weight = kinds.entry + prices
    states = int(layout.base[-1])
    for a in range(len(kinds.per)):
        q = after[0, 0, a]
        if first in (-1, a) and q >= 0:
            shifted[int(q) * layout.phases * states + layout.base[a], 0] = weight[a]
    chunk = max(1, int(CHUNK_CELLS / layout.size))
    for begin in range(1, n + 1, chunk):
        if budget.exhausted():
            return None
        end = min(begin + chunk, n + 1)
        kernels.advance(
            begin, end, layout.phases, first, layout.base, kinds.per, kinds.cap, layout.kind, kinds.prefix,
            kinds.low, core.top, kinds.lat, kinds.per_byte, core.boundary, weight, after, track,
            shifted, before, start, queue, head, tail, reach,
        )  # fmt: skip
        budget.spend(max(1, (end - begin) * layout.size // 1000))
    final = reach.reshape(-1, layout.phases, states) + term[:, layout.kind]
    x = int(np.argmin(final))
    cost = float(final.ravel()[x])
    if math.isinf(cost):
        return Relaxed(math.inf)
    return Relaxed(cost, _legs(x, n, layout, before, start))


def _legs(x: int, n: int, layout: _Layout, before: NDArray[np.int32], start: NDArray[np.int16]) -> tuple[Leg, ...]:
    """Follow the predecessors back from the last state."""
    from gpuplan.solvers.placement.hierarchy.kernels import LEVELS

    states = int(layout.base[-1])
    legs = []
    stop = n
    while stop > 0:
        begin = int(start[x, stop])
        source = int(before[x, begin]) if begin else 0
        phase = x // states % layout.phases
        legs.append(Leg(int(layout.kind[x % states]), source % LEVELS, phase, begin, stop))
        x, stop = source // LEVELS, begin
    return tuple(legs[::-1])
