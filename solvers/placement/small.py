"""Exact engine for small problems: a vector-label dynamic programme over stage counts, in plain NumPy.

A label (first group f, used counts S, class d) stands for all ways to have opened a device of d as the next stage,
S counting it. Its vector holds, per boundary l, the least cost to have arrived there (the hop into d paid):

    G[f, S+e, e][j] = entry[e] + min over d of ( hop(d, e, j) + prefix[d, j]
                                                 + min over low ≤ l ≤ top of (G[f, S, d][l] − prefix[d, l]) )

One level a stage count, so the best plan of every count comes at no further cost. Because the stage of d is closed
only when e is known, a cap on stage + outgoing hop is exact. Range minima come from doubling tables, so windows may
have any shape. O(labels·C·n) time, O(labels·n) memory; no compilation, so the first call is as fast as any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome, FirstGroup, bits_of, first_groups
from gpuplan.solvers.placement.tables import ClassPath

#: Labels worked on between two looks at the clock.
LOOK = 4_096


class StoppedError(Exception):
    """A limit came in the middle of a level."""


class Level(NamedTuple):
    """Labels of one stage count, sorted by key: key (first group and counts), class, vectors (rows, n+1)."""

    keys: IntArray
    last: IntArray
    vectors: FloatArray


@dataclass(frozen=True)
class Layout:
    """How counters are packed into a key: resource r from bit shift[r], the first group above them all.

    added[c] is what a stage on class c adds to a key.
    """

    shift: IntArray
    mask: IntArray
    added: IntArray
    group_shift: int

    def count(self, keys: IntArray, r: int) -> IntArray:
        """Units of resource r in use."""
        return np.asarray((keys >> self.shift[r]) & self.mask[r])

    def group(self, keys: IntArray) -> IntArray:
        """Return the first group."""
        return keys >> self.group_shift


def count_labels(core: Core, groups: int | None = None) -> float:
    """Upper bound on the labels a search without pruning makes (`groups` first groups, counted if None)."""
    sizes = [float(count) + 1.0 for count in core.capacity]
    if sum(bits_of(core.capacity)) > 512:
        return math.inf
    states = math.prod(sizes)
    share = [(size - 1.0) / size for size in sizes] if core.modes is None else [1.0] * core.num_classes
    labels = states * sum(share)
    groups = len(first_groups(core)) if groups is None else groups
    # With several first groups a label's counts include its group's device.
    return labels if groups == 1 else labels * min(groups, 0.5 * len(sizes) + 1.0)


def fits(core: Core) -> bool:
    """Return whether keys fit 63 bits, however many first groups a query leads to."""
    return keys_fit(core.capacity, core.num_classes)


def keys_fit(capacity: IntArray, num_classes: int) -> bool:
    """Return whether counters up to `capacity` and a class fit 63 bits: read before pairs of classes are."""
    return sum(bits_of(capacity)) + num_classes.bit_length() <= 63


class Closing(Protocol):
    """How the open stages of a level's labels are closed."""

    def complete(self) -> FloatArray:
        """Value of each label as the last stage, shape (rows,)."""

    def arrive(self, rows: IntArray, e: int) -> FloatArray:
        """Value of handing over to class e at every boundary, shape (rows, n+1); entry cost not included."""

    def start(self, row: int, stop: int, after: int | None) -> tuple[float, int]:
        """Value of closing one label at `stop` towards class `after` (None: the end), hop included, and its start."""


def minimise(core: Core, upper: float, budget: Budget) -> CoreOutcome:
    """Return the best plan of two stages or more below `upper`, and the best of every stage count."""
    return LevelSearch(core, upper, budget, _LatencyClosing).run()


class LevelSearch:
    """The search over levels; `closing` says what a label's vector means."""

    def __init__(
        self, core: Core, upper: float, budget: Budget, closing: Callable[[LevelSearch, Level], Closing]
    ) -> None:
        self.core = core
        self.upper = upper
        self.budget = budget
        self.closing = closing
        self.groups: tuple[FirstGroup, ...] = first_groups(core)
        bits = np.array(bits_of(core.capacity), dtype=np.int64)
        shift = np.concatenate([[0], np.cumsum(bits)])
        self.modes = core.resources
        added = (self.modes.use << shift[:-1, None]).sum(axis=0)
        self.layout = Layout(shift[:-1], (np.int64(1) << bits) - 1, added, int(shift[-1]))
        self.resource_weights = core.resource_weights
        # Where every stage costs the same, more stages only cost more.
        self.dearer = core.step > 0.0 and bool((core.entry == core.entry[0]).all())
        ends = np.arange(core.num_layers + 1)
        # hop[d, e, j]; the column n is not a hand-over.
        self.hop = core.hop_s[:, :, None] + core.boundary * core.hop_s_per_byte[:, :, None]
        self.top = np.minimum(core.top, ends - 1)
        self.term = np.stack([group.term for group in self.groups])
        self.ending = np.stack([group.ending for group in self.groups])
        self.longest = int((self.top - core.low).max()) + 1  # of any window; a cap only shortens them
        self.levels: list[Level] = []

    def run(self) -> CoreOutcome:
        """Build level after level; remember the best complete plan of each."""
        found: list[tuple[float, int, int]] = []
        try:
            proven = self._run(found)
        except StoppedError:
            proven = False
        return self._answer(found, proven=proven)

    def _run(self, found: list[tuple[float, int, int]]) -> bool:
        """Add the best plan of every stage count to `found`; False when a limit came first."""
        core = self.core
        level = self._first_level()
        for count in range(1, core.max_stages + 1):
            if len(level.keys) == 0:
                break
            self.levels.append(level)
            self.budget.spend(len(level.keys))
            closing = self.closing(self, level)
            if count > 1:
                found += self._best_of(closing.complete(), count)
                if found and (core.any_plan or self.dearer):
                    break
            if count == core.max_stages:
                break
            self.budget.report("placement", min((value for value, _, _ in found), default=None), None)
            if self.budget.exhausted():
                return False
            level = self._next_level(level, closing)
        return True

    def check(self) -> None:
        """Raise StoppedError at a limit."""
        if self.budget.exhausted():
            raise StoppedError

    def _first_level(self) -> Level:
        core, layout = self.core, self.layout
        keys, last = [], []
        for g, group in enumerate(self.groups):
            for c in group.classes:
                if core.counts[c] > 0:
                    keys.append((g << layout.group_shift) + int(layout.added[c]))
                    last.append(c)
        classes = np.array(last, dtype=np.int64)
        vectors = np.full((len(keys), core.num_layers + 1), np.inf)
        vectors[:, 0] = core.entry[classes]
        level = Level(np.array(keys, dtype=np.int64), classes, vectors)
        return self._affordable(level)

    def _affordable(self, level: Level) -> Level:
        """Drop labels over the budget, and sort by key."""
        core, layout = self.core, self.layout
        keep = np.ones(len(level.keys), dtype=np.bool_)
        if self.resource_weights is not None:
            spent = sum(weight * layout.count(level.keys, r) for r, weight in enumerate(self.resource_weights))
            keep = np.asarray(spent <= core.limit)
        order = np.flatnonzero(keep)
        order = order[np.argsort(level.keys[order], kind="stable")]
        return Level(level.keys[order], level.last[order], level.vectors[order])

    def _best_of(self, values: FloatArray, count: int) -> list[tuple[float, int, int]]:
        """Best complete plan of a level as (value, stage count, row)."""
        row = int(np.argmin(values))
        return [(float(values[row]), count, row)] if values[row] < self.upper else []

    def _next_level(self, level: Level, closing: Closing) -> Level:
        core, layout = self.core, self.layout
        keys, last, vectors = [], [], []
        for e in range(core.num_classes):
            rows = self._extendable(level, e)
            if len(rows) == 0:
                continue
            if len(level.keys) > LOOK:
                self.check()
            arrive = closing.arrive(rows, e)
            starts = np.flatnonzero(np.concatenate([[True], level.keys[rows][1:] != level.keys[rows][:-1]]))
            merged = np.minimum.reduceat(arrive, starts, axis=0)
            merged += core.entry[e]
            merged[:, 0] = np.inf
            merged[:, -1] = np.inf
            merged[merged >= self.upper] = np.inf
            alive = np.flatnonzero(np.isfinite(merged).any(axis=1))
            if len(alive):
                keys.append(level.keys[rows][starts][alive] + layout.added[e])
                last.append(np.full(len(alive), e, dtype=np.int64))
                vectors.append(merged[alive])
        if not keys:
            return Level(level.keys[:0], level.last[:0], level.vectors[:0])
        return self._affordable(Level(np.concatenate(keys), np.concatenate(last), np.concatenate(vectors)))

    def _extendable(self, level: Level, e: int) -> IntArray:
        """Rows of a level that a device of class e may follow."""
        layout, modes = self.layout, self.modes
        keep = np.isfinite(self.core.hop_s[level.last, e])
        for r in np.flatnonzero(modes.use[:, e]):
            keep &= layout.count(level.keys, int(r)) + modes.use[r, e] <= modes.capacity[r]
        if modes.ahead[e] >= 0:
            used = layout.count(level.keys, int(modes.home[e]))
            keep &= (used > 0) | (layout.count(level.keys, int(modes.ahead[e])) > 0)
        return np.flatnonzero(keep)

    def _answer(self, found: list[tuple[float, int, int]], *, proven: bool) -> CoreOutcome:
        if not found:
            return CoreOutcome(np.inf, None, self.upper if proven else -np.inf, proven)
        by_count = tuple((value, self._trace(count, row)) for value, count, row in found)
        value, path = min(by_count, key=lambda plan: plan[0])
        proven = proven and not self.core.any_plan
        return CoreOutcome(value, path, value if proven else -np.inf, proven, by_count)

    def _trace(self, count: int, row: int) -> ClassPath:
        """Walk back from a complete label, recomputing each minimum."""
        stop, after, key = self.core.num_layers, None, 0
        path: list[tuple[int, int, int]] = []
        for depth in range(count - 1, -1, -1):
            level = self.levels[depth]
            closing = self.closing(self, level)
            if depth < count - 1:
                begin, end = np.searchsorted(level.keys, [key, key + 1])
                row = min(range(int(begin), int(end)), key=lambda r: closing.start(r, stop, after)[0])
            c = int(level.last[row])
            start = closing.start(row, stop, after)[1]
            path.append((c, start, stop))
            key = int(level.keys[row]) - int(self.layout.added[c])
            stop, after = start, c
        return tuple(reversed(path))


class _LatencyClosing:
    """Vectors hold sums: closing adds the least of a window, then compute and hop."""

    def __init__(self, search: LevelSearch, level: Level) -> None:
        self.search, self.level = search, level
        self.group = search.layout.group(level.keys)
        self._minimum: RangeMinimum | None = None
        self._closed: FloatArray | None = None

    def _ranges(self) -> RangeMinimum:
        if self._minimum is None:
            self._minimum = RangeMinimum(
                self.level.vectors - self.search.core.prefix[self.level.last], self.search.longest, self.search.check
            )
        return self._minimum

    def complete(self) -> FloatArray:
        search, core, last = self.search, self.search.core, self.level.last
        n = core.num_layers
        low = core.low[last, n] if core.cap is None else search.ending[self.group, last]
        reach = self._ranges().column(low, int(search.top[n]))
        return np.asarray(reach + core.prefix[last, n] + search.term[self.group, last])

    def arrive(self, rows: IntArray, e: int) -> FloatArray:
        search, core, last = self.search, self.search.core, self.level.last
        if core.cap is not None:
            following = core.cap.following[last[rows], e]
            closed = self._ranges().rows(rows).query(following, search.top) + core.prefix[last[rows]]
        else:
            if self._closed is None:
                self._closed = self._ranges().query(core.low[last], search.top) + core.prefix[last]
            closed = self._closed[rows]
        return np.asarray(closed + search.hop[last[rows], e])

    def start(self, row: int, stop: int, after: int | None) -> tuple[float, int]:
        search, core = self.search, self.search.core
        c = int(self.level.last[row])
        if core.cap is None:
            low = int(core.low[c, stop])
        else:
            low = int(search.ending[self.group[row], c] if after is None else core.cap.following[c, after, stop])
        window = slice(low, int(search.top[stop]) + 1)
        values = self.level.vectors[row, window] - core.prefix[c, window]
        if len(values) == 0:
            return np.inf, stop
        k = int(np.argmin(values))
        hop = search.term[self.group[row], c] if after is None else search.hop[c, after, stop]
        return float(values[k] + core.prefix[c, stop] + hop), low + k


class RangeMinimum:
    """Minima over ranges of positions of every row, from tables of doubling length.

    table[p][r, l] = min of row r over positions l .. l + 2^p − 1; `longest` is the longest range ever asked for.
    """

    def __init__(self, values: FloatArray, longest: int | None = None, check: Callable[[], None] | None = None) -> None:
        self.check = check
        tables = [values]
        length = 1
        while 2 * length <= (values.shape[1] if longest is None else min(longest, values.shape[1])):
            self._look(len(values))
            previous = tables[-1]
            doubled = previous.copy()
            np.minimum(previous[:, :-length], previous[:, length:], out=doubled[:, :-length])
            tables.append(doubled)
            length *= 2
        self.table: NDArray[np.float64] = np.stack(tables)

    @classmethod
    def _of(cls, table: FloatArray, check: Callable[[], None] | None) -> RangeMinimum:
        part = cls.__new__(cls)
        part.table, part.check = table, check
        return part

    def _look(self, rows: int) -> None:
        if self.check is not None and rows > LOOK:
            self.check()

    def rows(self, rows: IntArray) -> RangeMinimum:
        """Return the same for some rows."""
        return self._of(self.table[:, rows], self.check)

    def query(self, low: IntArray, top: IntArray) -> FloatArray:
        """Return out[r, j] = min of row r over low[r, j] .. top[j], inf where that is empty."""
        out = np.empty(low.shape)
        for start in range(0, len(low), LOOK):
            self._look(len(low))
            self._query(low[start : start + LOOK], top, start, out[start : start + LOOK])
        return out

    def _query(self, low: IntArray, top: IntArray, start: int, out: FloatArray) -> None:
        """Fill in the rows from `start` on."""
        _, num, width = self.table.shape
        length = top[None, :] - low + 1
        power = _log2(np.maximum(length, 1))
        base = (power * num + np.arange(start, start + len(low))[:, None]) * width
        flat = self.table.ravel()
        last = np.maximum(top[None, :] + 1 - (np.int64(1) << power), 0)
        np.minimum(flat.take(base + np.minimum(low, width - 1)), flat.take(base + last), out=out)
        out[length <= 0] = np.inf

    def column(self, low: IntArray, top: int) -> FloatArray:
        """Return out[r] = min of row r over low[r] .. top."""
        num = self.table.shape[1]
        length = top - low + 1
        power = _log2(np.maximum(length, 1))
        rows = np.arange(num)
        width = self.table.shape[2]
        last = np.maximum(top + 1 - (np.int64(1) << power), 0)
        out = np.minimum(self.table[power, rows, np.minimum(low, width - 1)], self.table[power, rows, last])
        out[length <= 0] = np.inf
        return np.asarray(out)


def _log2(length: IntArray) -> IntArray:
    """Floor of the binary logarithm of positive integers."""
    return (np.frexp(length.astype(np.float64))[1] - 1).astype(np.int64)
