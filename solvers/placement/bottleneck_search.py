"""Plans within a cap: a search over (devices used, last one, furthest position), cut by device prices.

Of all ways to use the same devices with the same last one, the one that can start it furthest along the layers stays.
That loses nothing as long as a stage may be left empty where nothing fits behind that position (the order is still a
path of hops within the cap): whatever follows a nearer start follows the further one, too. So a search that ends
without a complete label proves the cap impossible. A complete label is an order of devices, no more: its stages are
set by an exact programme over that order (`CapBounds.plan`), which the empty stages, marked layers, unequal boundaries
or the return hop may leave above the cap. Then nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement import bottleneck_kernels as kernels
from gpuplan.solvers.placement.bottleneck_bounds import Cap, CapBounds, Priced
from gpuplan.solvers.placement.bottleneck_core import CapCore
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.tables import ClassPath

Words = NDArray[np.uint64]
Table = NDArray[np.int32]

#: Labels one level, and all of them together, may hold before the search gives up its proof (about 0.5 GB).
MOST_PER_LEVEL = 2_000_000
MOST_LABELS = 20_000_000
#: Bytes a label takes beside its key: its row, its place in the table, its part of the history.
LABEL_BYTES = 72
#: Candidates of one kernel call: about 10 ms.
CALL_CANDIDATES = 200_000
#: Complete labels of a level whose order is tried.
TRIED = 24
#: Complete labels noted per level.
MOST_ENDS = 10_000
#: A label is cut when it pays more than all devices together (1); the rest covers the rounding of sums of prices.
MOST_PAID = 1.0 + 1e-9


@dataclass(frozen=True)
class Keys:
    """How what is taken is packed into `width` words."""

    packed: kernels.Packed
    width: int


def pack_keys(capacity: IntArray, num_classes: int) -> Keys:
    """Lay the counters of resources out in 64-bit words."""
    word, shift, mask = [], [], []
    at, place = 0, 0
    for count in capacity:
        bits = int(count).bit_length()
        if place + bits > 64:
            at, place = at + 1, 0
        word.append(at)
        shift.append(place)
        mask.append((1 << bits) - 1)
        place += bits
    mixers = np.random.default_rng(1).integers(0, 2**63, at + 1 + num_classes, dtype=np.uint64) | np.uint64(1)
    shifts, masks = np.array(shift, dtype=np.uint64), np.array(mask, dtype=np.uint64)
    return Keys(kernels.Packed(np.array(word, dtype=np.int64), shifts, masks, mixers), at + 1)


@dataclass(frozen=True)
class Labels:
    """Labels of one stage count: packed devices (rows, words); class, position, parent; paid, score (see `kernels`)."""

    words: Words
    ints: IntArray
    floats: FloatArray

    def __len__(self) -> int:
        return len(self.words)

    @property
    def score(self) -> FloatArray:
        """Price paid and still to pay at least."""
        return np.asarray(self.floats[kernels.SCORE])

    def take(self, rows: IntArray | slice) -> Labels:
        """Return some of the labels."""
        columns = np.ascontiguousarray(self.ints[:, rows]), np.ascontiguousarray(self.floats[:, rows])
        return Labels(self.words[rows], *columns)


@dataclass(frozen=True)
class Finding:
    """Answer of one search.

    value, path
        Bottleneck and path of the best plan met, within the cap or not; inf and None without one.
    impossible
        Whether it is proven that no plan of two stages or more keeps within the cap.
    exhaustive
        Whether a wider search cannot prove more: nothing was left out, or complete labels were met.
    """

    value: float
    path: ClassPath | None
    impossible: bool
    exhaustive: bool


class CapSearch:
    """Search the plans of two stages or more within one cap.

    `width` labels a level are kept (None: all). With `strict` no stage is left empty, which finds plans sooner; what
    that leaves out is counted, so that a search it did not touch is a proof all the same.
    """

    def __init__(self, bounds: CapBounds, keys: Keys, cap: Cap, priced: Priced, *, strict: bool) -> None:
        self.bounds, self.keys, self.cap, self.priced, self.strict = bounds, keys, cap, priced, strict
        self.core: CapCore = bounds.core
        self.budget = bounds.budget
        self.price = priced.entry
        ways = bounds.edges.ways
        self.degree = max(1, int((np.diff(ways.own) + np.diff(ways.gate)[ways.door]).max()))
        self.most = most_labels(bounds.budget, keys.width)
        self.history: list[Table] = []
        self.kept = 0
        self.value = np.inf
        self.path: ClassPath | None = None

    def run(self, width: int | None, goal: float, first: NDArray[np.bool_]) -> Finding:
        """Search for a plan below `goal` seconds that starts with one of the classes `first`."""
        labels = self._start(first)
        whole, ended = True, False
        for _ in range(2, self.core.max_stages + 1):
            self.history.append(labels.ints[[kernels.LAST, kernels.PARENT]].astype(np.int32))
            labels, complete, ends = self._next(labels)
            self.kept += len(labels)
            whole &= complete and self.kept <= self.most
            ended |= len(ends) > 0
            self._try(labels, ends)
            if self.value < goal or len(labels) == 0 or self.kept > self.most:
                break
            if width is not None and len(labels) > width:
                whole = False
                labels = labels.take(np.sort(np.argsort(labels.score, kind="stable")[:width]))
        return Finding(self.value, self.path, whole and not ended, whole or (ended and width is None))

    def _try(self, labels: Labels, ends: IntArray) -> None:
        """Make plans of the cheapest complete labels."""
        ends = np.unique(ends)
        for row in ends[np.argsort(labels.score[ends], kind="stable")[:TRIED]]:
            plan = self.bounds.plan(self._sequence(labels, int(row)))
            if plan is not None and plan[0] < self.value:
                self.value, self.path = plan

    def _sequence(self, labels: Labels, row: int) -> IntArray:
        """Return the classes that led to a label."""
        classes = [int(labels.ints[kernels.LAST, row])]
        row = int(labels.ints[kernels.PARENT, row])
        for last, parent in reversed(self.history):
            classes.append(int(last[row]))
            row = int(parent[row])
        return np.array(classes[::-1], dtype=np.int64)

    def _start(self, first: NDArray[np.bool_]) -> Labels:
        cost = self.priced.cost[0]
        stock = self.core.stock
        takers = np.repeat(np.arange(len(cost)), np.diff(stock.begin))
        there = np.ones(len(cost), dtype=np.bool_)
        there[takers[stock.amount > stock.capacity[stock.resource]]] = False
        classes = np.flatnonzero(first & there & (cost <= MOST_PAID)).astype(np.int64)
        packed = self.keys.packed
        words = np.zeros((len(cost), self.keys.width), dtype=np.uint64)
        for c, r, amount in zip(takers, stock.resource, stock.amount.astype(np.uint64), strict=True):
            words[c, packed.word[r]] += amount << packed.shift[r]
        words = words[classes]
        zeros = np.zeros(len(classes), dtype=np.int64)
        return Labels(words, np.stack([classes, zeros, zeros - 1]), np.stack([self.price[classes], cost[classes]]))

    def _next(self, labels: Labels) -> tuple[Labels, bool, IntArray]:
        """Extend a level; return the new one, whether nothing was left out, and its complete labels."""
        num, rows = self.degree, len(labels)
        most = min(MOST_PER_LEVEL, self.most, rows * num) + num
        table = np.full(1 << int(2 * most).bit_length(), -1, dtype=np.int32)
        made = Labels(
            np.empty((most, self.keys.width), dtype=np.uint64), np.empty((3, most), dtype=np.int64), np.empty((2, most))
        )
        ends, filled = np.empty(MOST_ENDS, dtype=np.int64), np.zeros(3, dtype=np.int64)
        per_call = max(1, CALL_CANDIDATES // num)
        at = 0
        while at < rows and not self.budget.exhausted():
            end, before = min(rows, at + per_call), int(filled[kernels.ROWS])
            at = self._expand(labels, at, end, table, made, ends, filled)
            self.budget.spend(int(filled[kernels.ROWS]) - before)
            if at < end:
                break
        kept = made.take(slice(int(filled[kernels.ROWS])))
        return kept, at >= rows and filled[kernels.LEFT_OUT] == 0, ends[: int(filled[kernels.ENDS])]

    def _expand(
        self, labels: Labels, begin: int, end: int, table: Table, made: Labels, ends: IntArray, filled: IntArray
    ) -> int:
        return int(
            kernels.expand(
                labels.words,
                labels.ints,
                labels.floats,
                begin,
                end,
                self.cap.reach,
                self.bounds.edges.ways,
                self.cap.ending,
                self.priced.cost,
                self.price,
                MOST_PAID,
                self.bounds.stock,
                self.keys.packed,
                table,
                made.words,
                made.ints,
                made.floats,
                ends,
                filled,
                self.strict,
            )
        )


def most_labels(budget: Budget, width: int) -> int:
    """Return the labels a search may keep: half of a memory limit, if there is one, for a level is copied once."""
    limit = budget.limits.memory_limit_bytes
    return MOST_LABELS if limit is None else min(MOST_LABELS, limit // (2 * (LABEL_BYTES + 8 * width)))
