"""Label search of the large engine: the vector labels of `small`, cut by relaxed completions, level by level.

Untruncated it is exact. With a width it is a beam: of each level the labels with the least cost + completion stay,
and the least bound that was dropped remains a proven lower bound.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement import kernels
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, bits_of
from gpuplan.solvers.placement.effort import KEY_BITS
from gpuplan.solvers.placement.lagrangian import Relaxation
from gpuplan.solvers.placement.tables import ClassPath

#: Operations of one kernel call: about 10 ms, so that limits are looked at often enough.
CALL_WORK = 1.5e7
#: Cells (float64) all levels together may hold (0.5 GB) before the search gives up its proof.
MOST_CELLS = 64_000_000


class Level(NamedTuple):
    """Labels of one stage count sorted by key (W words); vector r is pool[offset[r] : offset[r] + hi[r] − lo[r]].

    keys
        Shape (W, rows), contiguous.
    """

    keys: IntArray
    last: IntArray
    offset: IntArray
    lo: IntArray
    hi: IntArray
    bound: FloatArray
    final: FloatArray
    pool: FloatArray

    def take(self, rows: IntArray) -> Level:
        """Return some of the labels, in the order given, on the same pool."""
        return Level(
            np.take(self.keys, rows, axis=1),
            self.last[rows],
            self.offset[rows],
            self.lo[rows],
            self.hi[rows],
            self.bound[rows],
            self.final[rows],
            self.pool,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Answer of one search.

    value, path
        Best plan found below the upper value, or inf and None.
    dropped
        Least bound of the labels dropped by the width or left at a limit; inf when the search was exhaustive.
    """

    value: float
    path: ClassPath | None
    dropped: float


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """Where each resource's counter stands in a key: word, shift and mask, shape (R,) each."""

    word: IntArray
    shift: IntArray
    mask: IntArray

    def added(self, use: IntArray) -> IntArray:
        """Return what a stage on each class adds to a key, shape (W, C); use[r, c] of resource r."""
        words = int(self.word.max()) + 1
        moved = use << self.shift[:, None]
        return np.stack([moved[self.word == w].sum(axis=0) for w in range(words)])


def key_layout(core: Core, word_bits: int = KEY_BITS) -> KeyLayout:
    """Lay the counters out word by word; no counter stands in two.

    Unless it alone is wider, no word holds more than `word_bits` bits.
    """
    bits = bits_of(core.capacity)
    word, shift = np.zeros((2, len(bits)), dtype=np.int64)
    at = filled = 0
    for r, width in enumerate(bits):
        if filled and filled + width > word_bits:
            at, filled = at + 1, 0
        word[r], shift[r] = at, filled
        filled += width
    return KeyLayout(word, shift, (np.int64(1) << np.array(bits, dtype=np.int64)) - 1)


def search(
    relaxation: Relaxation,
    upper: float,
    width: int | None,
    budget: Budget,
    threads: int = 1,
    lower: float = -math.inf,
    word_bits: int = KEY_BITS,
) -> Found:
    """Search the plans of a relaxation's first group for one better than `upper`.

    Parameters
    ----------
    relaxation
        Its completions cut the labels; `relax_plainly` and a bound must have been computed.
    upper
        Value to beat.
    width
        Labels kept per level, or None for all.
    lower
        A proven lower bound: reaching it ends the search.
    word_bits
        Bits of one word of a key; a key has as many words as it takes.
    """
    return _Search(relaxation, upper, width, budget, threads, lower, word_bits).run()


class _Search:
    def __init__(
        self,
        relaxation: Relaxation,
        upper: float,
        width: int | None,
        budget: Budget,
        threads: int,
        lower: float,
        word_bits: int,
    ) -> None:
        self.relaxation = relaxation
        self.core = relaxation.arrays.core
        self.width, self.budget, self.threads, self.lower = width, budget, threads, lower
        self.layout = key_layout(self.core, word_bits)
        self.modes = self.core.resources
        self.added = self.layout.added(self.modes.use)
        self.unit_price = np.ascontiguousarray(relaxation.best_multipliers @ relaxation.arrays.held)
        self.best = upper
        self.cut = cut_below(self.core, upper, relaxation)
        self.price = relaxation.price()
        self.slack = float(relaxation.best_multipliers @ relaxation.arrays.limits)
        self.kernel_arguments = self._kernel_arguments()
        self.levels: list[Level] = []
        self.at: tuple[int, int] | None = None
        self.dropped = math.inf
        self.cells = 0
        self.most_cells = _most_cells(budget)

    def run(self) -> Found:
        """Build level after level until none is left."""
        level = self._first_level()
        for count in range(1, self.core.max_stages + 1):
            if len(level.last) == 0:
                break
            self.levels.append(level)
            self._note_best(level, count)
            if count == self.core.max_stages or self._good_enough():
                break
            level = self._next_level(level)
        if self.at is None:
            return Found(math.inf, None, self.dropped)
        return Found(self.best, self._trace(*self.at), self.dropped)

    def _kernel_arguments(self) -> tuple[kernels.Tables, kernels.Counters, kernels.Prices]:
        relaxation, modes = self.relaxation, self.modes
        arrays, layout = relaxation.arrays, self.layout
        taken = modes.use > 0
        counters = kernels.Counters(
            layout.word,
            layout.shift,
            layout.mask,
            modes.capacity,
            modes.use,
            np.where(taken.any(axis=0), taken.argmax(axis=0), len(taken)),
            np.where(taken.any(axis=0), len(taken) - taken[::-1].argmax(axis=0), 0),
            self.added,
            modes.home,
            modes.ahead,
            arrays.held,
            arrays.limits,
        )
        plain, best = (relaxation.plain_after, relaxation.plain_rest), (relaxation.after, relaxation.rest)
        prices = kernels.Prices(self.unit_price, self.price, self.slack, *plain, *best)
        return relaxation.tables(), counters, prices

    def _good_enough(self) -> bool:
        if self.at is None:
            return False
        return self.core.any_plan or self.best <= self.lower * (1.0 + 1e-12)

    def _first_level(self) -> Level:
        core = self.core
        classes = self.relaxation.allowed
        if core.weights is not None:
            classes = classes[core.weights[classes] <= core.limit]
        classes = classes[core.counts[classes] > 0]
        keys = np.take(self.added, classes, axis=1)
        order = _key_order(keys)
        num = len(classes)
        zeros = np.zeros(num, dtype=np.int64)
        level = Level(
            keys,
            classes,
            np.arange(num, dtype=np.int64),
            zeros,
            zeros + 1,
            np.zeros(num),
            np.full(num, np.inf),
            np.ascontiguousarray(core.entry[classes]),
        )
        return level.take(order)

    def _note_best(self, level: Level, count: int) -> None:
        """Remember the best complete plan (of two stages or more) of a level."""
        if count < 2:
            return
        row = int(np.argmin(level.final))
        if level.final[row] < self.best:
            self.best = float(level.final[row])
            self.at = (count, row)
            self.cut = min(self.cut, cut_below(self.core, self.best, self.relaxation))

    def _next_level(self, level: Level) -> Level:
        made, complete = self._expand(level)
        if not complete:
            # A limit: what was made so far is covered by the bounds of its parents; only a plan in it matters.
            self.dropped = min(self.dropped, float(level.bound.min()))
            best = int(np.argmin(made.final)) if len(made.last) else 0
            return made.take(np.arange(best, min(best + 1, len(made.last))))
        rows = np.arange(len(made.last))
        if self.width is not None and len(rows) > self.width:
            ranked = np.argsort(made.bound, kind="stable")
            rows = ranked[: self.width]
            self.dropped = min(self.dropped, float(made.bound[ranked[self.width]]))
            best = int(np.argmin(made.final))
            if made.final[best] < self.best and best not in rows:
                rows = np.append(rows, best)
        rows = _sorted_by_key(made, rows)
        kept = _compact(made, rows) if len(rows) < len(made.last) else made.take(rows)
        self.cells += len(kept.pool)
        return kept

    def _expand(self, level: Level) -> tuple[Level, bool]:
        """Extend every group of a level, in calls short enough to look at the limits; False when one was reached."""
        core = self.core
        num, n = core.num_classes, core.num_layers
        starts = _group_starts(level.keys)
        groups = len(starts) - 1
        per_call = max(1, int(CALL_WORK / (num * num * n * (1 if core.cap is None else 6))))
        if self.threads > 1 and groups > 2 * per_call:
            return self._expand_threaded(level, starts, per_call)
        # Untouched memory costs nothing, so the output is as large as it may become.
        cells = min(groups * num * (n + 1), max(self.most_cells - self.cells, 0) + num * (n + 1))
        output = _Output(len(self.added), groups * num, cells)
        cut = np.array([self.cut])
        at = 0
        while at < groups and not self.budget.exhausted():
            end = min(groups, at + per_call)
            before = output.rows
            at = output.fill(self, level, starts, at, end, cut)
            self.budget.spend(output.rows - before)
            if at < end:
                break  # out of memory
        self.cut = float(cut[0])
        return output.level(), at >= groups and not self.budget.exhausted()

    def _expand_threaded(self, level: Level, starts: IntArray, per_call: int) -> tuple[Level, bool]:
        """Extend groups on several threads; every call starts from the same cut, so none depends on another."""
        groups, num, n = len(starts) - 1, self.core.num_classes, self.core.num_layers

        def extend(begin: int) -> Level:
            end = min(groups, begin + per_call)
            output = _Output(len(self.added), (end - begin) * num, (end - begin) * num * (n + 1))
            output.fill(self, level, starts, begin, end, np.array([self.cut]))
            return output.level()

        parts: list[Level] = []
        made, wave = 0, 0
        with ThreadPoolExecutor(self.threads) as pool:
            while wave < groups and not self.budget.exhausted() and self.cells + made <= self.most_cells:
                after = min(groups, wave + per_call * self.threads)
                for part in pool.map(extend, range(wave, after, per_call)):
                    parts.append(part)
                    made += len(part.pool)
                    self.budget.spend(len(part.last))
                wave = after
        return _join(parts) if parts else _Output(len(self.added), 0, 0).level(), wave >= groups

    def _trace(self, count: int, row: int) -> ClassPath:
        """Walk back from a complete label, recomputing each minimum."""
        level = self.levels[count - 1]
        stop, after = self.core.num_layers, -1
        path: list[tuple[int, int, int]] = []
        for depth in range(count - 1, -1, -1):
            c = int(level.last[row])
            start = self._start(level, row, stop, after)[1]
            path.append((c, start, stop))
            if depth == 0:
                break
            key = level.keys[:, row] - self.added[:, c]  # as arrays, which wrap around the sign bit
            level = self.levels[depth - 1]
            begin, end = _rows_of(level.keys, key)
            stop, after = start, c
            arrivals = [self._arrival(level, r, stop, c) for r in range(begin, end)]
            row = begin + int(np.argmin(arrivals))
        return tuple(reversed(path))

    def _start(self, level: Level, row: int, stop: int, after: int) -> tuple[float, int]:
        """Least cost of closing a label's stage at `stop` towards class `after` (−1: the end), and its start."""
        core, relaxation = self.core, self.relaxation
        c, lo = int(level.last[row]), int(level.lo[row])
        if core.cap is None:
            low = int(core.low[c, stop])
        else:
            low = int(relaxation.ending[c] if after < 0 else core.cap.following[c, after, stop])
        begin = max(low, lo)
        end = min(int(core.top[stop]) + 1, int(level.hi[row]), stop)
        if begin >= end:
            return math.inf, stop
        at = int(level.offset[row]) - lo
        values = level.pool[at + begin : at + end] - core.prefix[c, begin:end]
        k = int(np.argmin(values))
        return float(values[k] + core.prefix[c, stop]), begin + k

    def _arrival(self, level: Level, row: int, stop: int, after: int) -> float:
        core = self.core
        c = int(level.last[row])
        hop = core.hop_s[c, after] + core.boundary[stop] * core.hop_s_per_byte[c, after]
        return self._start(level, row, stop, after)[0] + float(hop)


def _most_cells(budget: Budget) -> int:
    """Return the values a search may keep: half of a memory limit, if there is one, for a level is copied once."""
    limit = budget.limits.memory_limit_bytes
    return MOST_CELLS if limit is None else min(MOST_CELLS, limit // 16)


class _Output:
    """Columns and pool that a kernel writes new labels into; keys of some words."""

    def __init__(self, words: int, rows: int, cells: int) -> None:
        self.keys = np.empty((words, rows), dtype=np.int64)
        self.ints = np.empty((4, rows), dtype=np.int64)
        self.floats = np.empty((2, rows))
        self.pool = np.empty(cells)
        self.filled = np.zeros(2, dtype=np.int64)

    @property
    def rows(self) -> int:
        """Labels written so far."""
        return int(self.filled[0])

    def level(self) -> Level:
        """Return the labels written, in the order they were made."""
        last, offset, lo, hi = (column[: self.rows] for column in self.ints)
        bound, final = (column[: self.rows] for column in self.floats)
        keys = self.keys[:, : self.rows]
        return Level(keys, last, offset, lo, hi, bound, final, self.pool[: int(self.filled[1])])

    def fill(self, search: _Search, level: Level, starts: IntArray, begin: int, end: int, cut: FloatArray) -> int:
        """Extend groups begin..end−1; return the first group not done for lack of space."""
        labels = kernels.Labels(level.keys, starts, level.last, level.offset, level.lo, level.hi, level.pool)
        last, offset, lo, hi = self.ints
        made = kernels.Made(self.keys, last, offset, lo, hi, self.floats[0], self.floats[1], self.pool, self.filled)
        tables, counters, prices = search.kernel_arguments
        return int(kernels.expand(labels, begin, end, tables, counters, prices, search.core.step, cut, made))


def cut_below(core: Core, upper: float, relaxation: Relaxation) -> float:
    """Return the most that a label's bound may be for it to lead to a plan better than `upper`."""
    trivial = relaxation.arrays.trivial
    slack = float(relaxation.best_multipliers @ relaxation.arrays.limits)
    highest = trivial + 1e-9 * (abs(trivial) + slack)
    if math.isinf(upper):
        return highest
    worth = upper - core.step * (1.0 - 1e-6) if core.step > 0.0 else upper - 1e-11 * abs(upper)
    return min(worth, highest)


def _join(parts: list[Level]) -> Level:
    """Put several outputs on one pool."""
    if len(parts) == 1:
        return parts[0]
    shift = np.cumsum([0] + [len(part.pool) for part in parts[:-1]])
    moved = [part._replace(offset=part.offset + begin) for part, begin in zip(parts, shift, strict=True)]
    keys = np.concatenate([part.keys for part in moved], axis=1)
    columns = list(zip(*moved, strict=True))[1:]
    return Level(keys, *(np.concatenate(column) for column in columns))


def _sorted_by_key(level: Level, rows: IntArray) -> IntArray:
    """Sort labels by key. Those of one class were made in key order, so by class first they are a few sorted runs."""
    rows = rows[np.argsort(level.last[rows].astype(np.int16), kind="stable")]
    return np.asarray(rows[_key_order(np.take(level.keys, rows, axis=1))])


def _key_order(keys: IntArray) -> IntArray:
    """Return the stable order of keys, the first word counting first."""
    return np.argsort(keys[0], kind="stable") if len(keys) == 1 else np.lexsort(keys[::-1])


def _group_starts(keys: IntArray) -> IntArray:
    """Return the first row of every group of equal keys, and the number of rows."""
    changes = keys[0, 1:] != keys[0, :-1]
    for word in keys[1:]:
        changes |= word[1:] != word[:-1]
    return np.flatnonzero(np.concatenate([[True], changes, [True]])).astype(np.int64)


def _rows_of(keys: IntArray, key: IntArray) -> tuple[int, int]:
    """Return the first row of a key among sorted ones, and the row behind its last."""
    begin, end = 0, keys.shape[1]
    for word, wanted in zip(keys, key, strict=True):
        part = word[begin:end]
        left, right = np.searchsorted(part, wanted, "left"), np.searchsorted(part, wanted, "right")
        begin, end = begin + int(left), begin + int(right)
    return begin, end


def _compact(level: Level, rows: IntArray) -> Level:
    """Return some labels on a pool of their own."""
    rows = rows.astype(np.int64)
    offset = np.empty(len(rows), dtype=np.int64)
    pool = np.empty(int((level.hi[rows] - level.lo[rows]).sum()))
    kernels.compact(rows, level.offset, level.lo, level.hi, level.pool, offset, pool)
    kept = level.take(rows)
    return kept._replace(offset=offset, pool=pool)
