"""Any plan at all, by memory alone: devices put in an order in which each, filled up, holds the whole model.

Where hops do not matter, of two partial plans with the same devices the one that reaches further is at least as good.
So states are sets of used devices (counts per *sort*: classes of equal windows), each with the furthest boundary it
reaches, extended level by level; the least waste of room stays where there are too many.

Before that, sorts of similar size are merged into a few groups, each as large as its largest member everywhere. The
furthest-reaching plans of groups, counted from the end, tell from which boundary what is left can still reach the
end: states beyond it are cut, and when even the whole cannot, no plan exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.tables import ClassPath

BoolArray = NDArray[np.bool_]

#: Group states of the bound, and states kept per level: rising, the last few with disturbed sizes.
EFFORTS = ((20_000, 30, 3), (20_000, 300, 2), (500_000, 4_000, 3), (500_000, 20_000, 2))
#: Cells (states × sorts) looked at in one level, at most.
MOST_CELLS = 300_000
#: Effort of a first look, and the share of all room from which it comes before anything else.
QUICK, TIGHT = EFFORTS[:1], 0.7
#: Disturbance of the sizes that waste is measured by, from the second try on.
NOISE = 0.05
#: How a proof of none is named.
BY_MEMORY = "no order of the devices holds the model, by memory alone"


@dataclass(frozen=True, slots=True)
class Filled:
    """A path that holds, or None; whether it is proven that there is none."""

    path: ClassPath | None
    impossible: bool


@dataclass(frozen=True)
class Sorts:
    """Classes told apart by their windows, budget weight and (where routes are missing) routes alone.

    members
        Classes of each sort.
    counts, reach, weights
        Devices, furthest end of a stage from each start (shape (G, n+1)), budget weights.
    routes
        Open hand-overs between sorts, or None where all are open; then the last sort belongs to the state.
    room
        Layers that each holds, in units of layers of equal difficulty.
    worth
        Difficulty of the layers before each boundary, shape (n+1,).
    """

    members: tuple[IntArray, ...]
    counts: IntArray
    reach: IntArray
    weights: FloatArray
    routes: BoolArray | None
    room: FloatArray
    worth: FloatArray


class _Level(NamedTuple):
    """States of one number of stages; `before` is the row of the parent."""

    used: IntArray
    end: IntArray
    last: IntArray
    spent: FloatArray
    waste: FloatArray
    before: IntArray

    def take(self, rows: IntArray) -> _Level:
        """Return some of the states."""
        used, end, last, spent, waste, before = self
        return _Level(used[rows], end[rows], last[rows], spent[rows], waste[rows], before[rows])


def fill(core: Core, budget: Budget, efforts: tuple[tuple[int, int, int], ...] = EFFORTS) -> Filled:
    """Look for any plan of a core without a cap; a plan found keeps every limit, a proof of none is exact."""
    if core.cap is not None or core.modes is not None:
        return Filled(None, impossible=False)
    sorts = make_sorts(core)
    for attempt, (states, width, tries) in enumerate(efforts):
        rest = Rest(sorts, core, states)
        if rest.least(rest.total) > 0:
            return Filled(None, impossible=True)
        for again in range(tries):
            search = _Search(core, sorts, rest, budget, width, seed=0 if again == 0 else 100 * attempt + again)
            path = search.run()
            if path is not None or search.complete:
                return Filled(path, impossible=path is None and _only_memory(core))
            if budget.exhausted():
                return Filled(None, impossible=False)
    return Filled(None, impossible=False)


def fill_if_tight(core: Core, budget: Budget) -> Filled:
    """Take a first look where memory is tight, or any plan will do; nothing elsewhere."""
    if core.any_plan or is_tight(core):
        return fill(core, budget, QUICK)
    return Filled(None, impossible=False)


def is_tight(core: Core) -> bool:
    """Whether the model takes most of what the devices that a plan may use hold, each at its best place."""
    ends = np.arange(core.num_layers + 1)
    longest = (ends - np.minimum(core.low, ends)).max(axis=1)
    order = np.argsort(-longest, kind="stable")
    before = np.cumsum(core.counts[order]) - core.counts[order]
    used = np.clip(core.max_stages - before, 0, core.counts[order])
    return bool(core.num_layers >= TIGHT * float(longest[order] @ used))


def _only_memory(core: Core) -> bool:
    """Whether the furthest reach is all that counts: with marked layers a stage may have to end sooner."""
    n = core.num_layers
    return bool((core.top[1:] == np.arange(n)).all())


def make_sorts(core: Core) -> Sorts:
    """Join the classes of a core that memory does not tell apart."""
    n, num = core.num_layers, core.num_classes
    weights = np.zeros(num) if core.weights is None else core.weights
    several = ~np.diag(core.counts == 1)
    tables = [core.hop_s] if core.back is None else [core.hop_s, core.back]
    closed = any(bool((np.isinf(table) & several).any()) for table in tables)
    label = np.arange(num)[:, None] if closed else np.zeros((num, 1))
    found, place = np.unique(np.hstack([core.low, weights[:, None], label]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    members = tuple(np.flatnonzero(place == g) for g in range(len(found)))
    low = found[:, : n + 1].astype(np.int64)
    starts = np.arange(n + 1)
    reach = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in low])
    counts = np.array([min(int(core.counts[list(m)].sum()), core.max_stages, n) for m in members], dtype=np.int64)
    worth = _worth(reach)
    room = (worth[np.maximum(reach, starts)] - worth).max(axis=1)
    each = np.array([m[0] for m in members])
    routes = np.isfinite(core.hop_s[np.ix_(each, each)]) if closed else None
    return Sorts(members, counts, reach, found[:, n + 1].astype(np.float64), routes, room, worth)


def _worth(reach: IntArray) -> FloatArray:
    """Sum up how hard layers are to hold: a layer counts 1/length of the full stages around it, on average."""
    n = reach.shape[1] - 1
    total, hits = np.zeros(n), np.full(n, 1e-9)
    for row in reach:
        starts = np.flatnonzero(row[:n] > np.arange(n))
        lengths = row[starts] - starts
        for table, values in ((total, 1.0 / lengths), (hits, np.ones(len(starts)))):
            change = np.zeros(n + 1)
            np.add.at(change, starts, values)
            np.add.at(change, row[starts], -values)
            table += np.cumsum(change)[:n]
    share = total / hits
    share /= share.mean() or 1.0
    return np.concatenate([[0.0], np.cumsum(np.where(share > 0.0, share, 1.0))])


class Rest:
    """From which boundary the devices left can still reach the end, with sorts merged into groups (a relaxation).

    group
        Group of each sort.
    stride
        What one device of each sort adds to a state of groups.
    total
        State of all devices.
    """

    def __init__(self, sorts: Sorts, core: Core, most: int) -> None:
        self.group = _merge(sorts, most)
        num = int(self.group.max()) + 1
        counts = np.bincount(self.group, weights=sorts.counts, minlength=num).astype(np.int64)
        counts = np.minimum(counts, min(core.max_stages, core.num_layers))
        strides = np.concatenate([[1], np.cumprod(counts + 1)[:-1]]).astype(np.int64)
        self.stride, self.total = strides[self.group], int((strides * counts).sum())
        reach = np.stack([sorts.reach[self.group == g].max(axis=0) for g in range(num)])
        low = _least_start(reach)
        self.counts, self.strides = counts, strides
        self._least = self._fill_up(low)
        self.by_stages = _by_stages(low.min(axis=0), core.max_stages)

    def least(self, state: IntArray | int) -> IntArray:
        """Return the first boundary from which the devices of a state may reach the end."""
        return np.asarray(self._least[state])

    def left(self, used: IntArray) -> IntArray:
        """Return the states of groups that used counts of sorts (rows) leave."""
        held = np.zeros((len(used), len(self.counts)), dtype=np.int64)
        for sort, group in enumerate(self.group):
            held[:, group] += used[:, sort]
        return np.asarray(np.maximum(self.counts - held, 0) @ self.strides)

    def _fill_up(self, low: IntArray) -> IntArray:
        states = np.arange(self.total + 1)
        digits = [states // s % (c + 1) for s, c in zip(self.strides, self.counts, strict=True)]
        size = np.sum(digits, axis=0)
        order = np.argsort(size, kind="stable")
        edges = np.searchsorted(size[order], np.arange(int(self.counts.sum()) + 2))
        least = np.full(len(states), low.shape[1] - 1)
        for level in range(1, len(edges) - 1):
            level_states = order[edges[level] : edges[level + 1]]
            for g, digit in enumerate(digits):
                mine = level_states[digit[level_states] > 0]
                least[mine] = np.minimum(least[mine], low[g][least[mine - self.strides[g]]])
        return least


def _merge(sorts: Sorts, most: int) -> IntArray:
    """Return a group for each sort, so that the states of the groups are at most `most`: neighbours by room."""
    order = np.argsort(sorts.room, kind="stable")
    room, counts = sorts.room[order], sorts.counts[order].astype(np.float64)
    ends = np.arange(1, len(order) + 1)  # group k holds the sorts behind ends[k − 1] and before ends[k]
    while len(room) > 1 and float(np.log(counts + 1.0).sum()) > math.log(most):
        # The smaller of two neighbours is taken to be as large as the other.
        k = int(np.argmin(counts[:-1] * np.diff(room)))
        counts[k + 1] += counts[k]
        room, counts, ends = np.delete(room, k), np.delete(counts, k), np.delete(ends, k)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.searchsorted(ends, np.arange(len(order)), side="right")
    return place


def _least_start(reach: IntArray) -> IntArray:
    """Turn reach[g, i] (monotone made) into the least start of a stage that ends at each boundary or behind it."""
    reach = np.maximum.accumulate(np.maximum(reach, np.arange(reach.shape[1])), axis=1)
    ends = np.arange(reach.shape[1])
    return np.stack([np.searchsorted(row, ends, side="left") for row in reach]).astype(np.int64)


def _by_stages(low: IntArray, stages: int) -> IntArray:
    """Return from which boundary k of the largest devices may reach the end, k = 0..stages."""
    found = [len(low) - 1]
    for _ in range(stages):
        found.append(int(low[found[-1]]))
    return np.array(found, dtype=np.int64)


class _Search:
    """One beam over sets of devices; `complete` when nothing was left out."""

    def __init__(self, core: Core, sorts: Sorts, rest: Rest, budget: Budget, width: int, seed: int) -> None:
        self.core, self.sorts, self.rest, self.budget = core, sorts, rest, budget
        self.width = max(1, min(width, MOST_CELLS // len(sorts.counts)))
        self.complete = True
        rng = np.random.default_rng(seed)
        self.room = sorts.room * (1.0 if seed == 0 else rng.uniform(1.0 - NOISE, 1.0 + NOISE, len(sorts.room)))
        self.levels: list[_Level] = []
        bits = [int(count).bit_length() for count in sorts.counts]
        self.words = np.cumsum(bits) // 63
        self.shift = np.zeros(len(bits), dtype=np.int64)
        for word in np.unique(self.words):
            mine = np.flatnonzero(self.words == word)
            self.shift[mine] = np.concatenate([[0], np.cumsum(np.array(bits)[mine])[:-1]])

    def run(self) -> ClassPath | None:
        """Extend the states stage by stage; return a path that holds, or None."""
        num = len(self.sorts.counts)
        nothing, zero = np.zeros((1, num), dtype=np.int64), np.zeros(1, dtype=np.int64)
        level = _Level(nothing, zero, zero - 1, np.zeros(1), np.zeros(1), zero)
        self.levels = [level]
        for count in range(1, min(self.core.max_stages, self.core.num_layers) + 1):
            level = self._extend(level, count)
            self.levels.append(level)
            self.budget.spend(len(level.end))
            for row in np.flatnonzero(level.end == self.core.num_layers)[:8]:
                path = self._path(count, int(row))
                if self.core.holds(path):
                    return path
            open_ = np.flatnonzero(level.end < self.core.num_layers)
            if len(open_) < len(level.end):
                self.complete = False  # plans that fell at a return route or a mark
            if len(open_) == 0:
                break
            if len(open_) < len(level.end):
                level = level.take(open_)
                self.levels[-1] = level
            if self.budget.exhausted():
                self.complete = False
                break
        return None

    def _extend(self, level: _Level, count: int) -> _Level:
        sorts, n = self.sorts, self.core.num_layers
        reached = sorts.reach[:, level.end].T
        if count == 1:
            reached = np.minimum(reached, n - 1)  # plans of one stage are priced apart
        allowed = (level.used < sorts.counts) & (reached > level.end[:, None])
        allowed &= level.spent[:, None] + sorts.weights <= self.core.limit
        allowed &= reached >= self.rest.by_stages[self.core.max_stages - count]
        if sorts.routes is not None and count > 1:
            allowed &= sorts.routes[level.last]
        rows, columns = np.nonzero(allowed)
        end = reached[rows, columns]
        waste = level.waste[rows] + self.room[columns] - (sorts.worth[end] - sorts.worth[level.end[rows]])
        used = level.used[rows]
        used[np.arange(len(rows)), columns] += 1
        made = _Level(used, end, columns, level.spent[rows] + sorts.weights[columns], waste, rows)
        made = made.take(np.flatnonzero(end >= self.rest.least(self.rest.left(used))))
        made = self._furthest(made)
        if len(made.end) > self.width:
            self.complete = False
            made = made.take(np.sort(np.argpartition(made.waste, self.width)[: self.width]))
        return made

    def _furthest(self, level: _Level) -> _Level:
        """Keep of equal sets (and equal last sorts, where routes are missing) the one that reaches furthest."""
        if len(level.end) == 0:
            return level
        keys = [
            (level.used[:, self.words == w] << self.shift[self.words == w]).sum(axis=1) for w in np.unique(self.words)
        ]
        if self.sorts.routes is not None:
            keys.append(level.last)
            keys.append(self._first(level))
        order = np.lexsort([-level.end, *keys])
        fresh = np.ones(len(order), dtype=np.bool_)
        fresh[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
        return level.take(np.sort(order[fresh]))

    def _first(self, level: _Level) -> IntArray:
        """First sort of each state where the return hop may be closed; nothing elsewhere."""
        rows, last = level.before, level.last
        if self.core.back is None:
            return np.zeros(len(rows), dtype=np.int64)
        for above in reversed(self.levels[1:]):
            rows, last = above.before[rows], above.last[rows]
        return last

    def _path(self, count: int, row: int) -> ClassPath:
        """Walk back, then name a class for every stage: the cheapest of its sort behind the one before."""
        stages: list[tuple[int, int]] = []
        for depth in range(count, 0, -1):
            level = self.levels[depth]
            stages.append((int(level.last[row]), int(level.end[row])))
            row = int(level.before[row])
        return _name(self.core, self.sorts, stages[::-1])


def _name(core: Core, sorts: Sorts, stages: list[tuple[int, int]]) -> ClassPath:
    left = core.counts.copy()
    path: list[tuple[int, int, int]] = []
    start = 0
    for sort, end in stages:
        open_ = sorts.members[sort][left[sorts.members[sort]] > 0]
        cost = core.prefix[open_, end] - core.prefix[open_, start] + core.entry[open_]
        if path:
            before = path[-1][0]
            cost = cost + core.hop_s[before, open_] + core.boundary[start] * core.hop_s_per_byte[before, open_]
        chosen = int(open_[np.argmin(cost)])
        left[chosen] -= 1
        path.append((chosen, start, end))
        start = end
    return tuple(path)
