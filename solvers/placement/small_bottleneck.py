"""Least bottleneck of a small problem in one pass of the level search: vectors hold maxima instead of sums.

G[l] is the least bottleneck of all stages closed before boundary l. Closing a stage of d at j towards e gives

    min over low ≤ l ≤ top of max( G[l], prefix[d, j] − prefix[d, l] + hop(d, e, j) )

Replacing G[l] by m(l) = min of G over l..top changes nothing (a later start only shortens the stage), and m rises with
l while the stage time falls, so the minimum lies where they cross: a binary descent over the doubling tables.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome
from gpuplan.solvers.placement.small import Level, LevelSearch, RangeMinimum


def minimise_bottleneck(core: Core, upper: float, budget: Budget) -> CoreOutcome:
    """Return the least bottleneck below `upper` over plans of two stages or more, and that of every stage count.

    The core holds the cycle's numbers, no entry costs and no cap.
    """
    return LevelSearch(core, upper, budget, _BottleneckClosing).run()


class _BottleneckClosing:
    def __init__(self, search: LevelSearch, level: Level) -> None:
        self.search, self.level = search, level
        self.group = search.layout.group(level.keys)
        self._ranges: RangeMinimum | None = None

    def _tables(self) -> RangeMinimum:
        if self._ranges is None:
            self._ranges = RangeMinimum(self.level.vectors, check=self.search.check)
        return self._ranges

    def complete(self) -> FloatArray:
        search, core, last = self.search, self.search.core, self.level.last
        n = core.num_layers
        end = (core.prefix[last, n] + search.term[self.group, last])[:, None]
        top = search.top[n:]
        return crossing(self._tables().table, core.prefix[last], core.low[last, n:], top, end)[:, 0]

    def arrive(self, rows: IntArray, e: int) -> FloatArray:
        search, core = self.search, self.search.core
        before = self.level.last[rows]
        end = core.prefix[before] + search.hop[before, e]
        return crossing(self._tables().table[:, rows], core.prefix[before], core.low[before], search.top, end)

    def start(self, row: int, stop: int, after: int | None) -> tuple[float, int]:
        search, core = self.search, self.search.core
        c = int(self.level.last[row])
        hop = search.term[self.group[row], c] if after is None else search.hop[c, after, stop]
        low = int(core.low[c, stop])
        window = slice(low, int(search.top[stop]) + 1)
        stage = core.prefix[c, stop] - core.prefix[c, window] + hop
        values = np.maximum(self.level.vectors[row, window], stage)
        if len(values) == 0:
            return np.inf, stop
        k = int(np.argmin(values))
        return float(values[k]), low + k


def crossing(table: FloatArray, prefix: FloatArray, low: IntArray, top: IntArray, end: FloatArray) -> FloatArray:
    """Return out[r, j] = min over low[r, j] ≤ l ≤ top[j] of max(G[r, l], end[r, j] − prefix[r, l]).

    table[p][r, l] = min of G[r] over l .. l + 2^p − 1; inf where the window is empty.
    """
    powers, num, width = table.shape
    base = (np.arange(num) * width)[:, None]
    flat, starts = table.reshape(powers, -1), prefix.ravel()
    position = np.broadcast_to(top + 1, low.shape).copy()  # m(position) = suffix is above the stage time there
    suffix = np.full(low.shape, np.inf)
    for power in range(powers - 1, -1, -1):
        back = position - (1 << power)
        index = base + np.maximum(back, 0)
        least = np.minimum(suffix, flat[power].take(index))
        further = (back >= low) & (least > end - starts.take(index))
        position = np.where(further, back, position)
        suffix = np.where(further, least, suffix)
    # One step on, the stage time is at least the suffix minimum: the other side of the crossing.
    back = position - 1
    index = base + np.maximum(back, 0)
    other = np.where(back >= low, np.maximum(flat[0].take(index), end - starts.take(index)), np.inf)
    return np.asarray(np.minimum(suffix, other))
