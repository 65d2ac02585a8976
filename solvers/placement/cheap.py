"""A plan and a bound without compiled code: relaxations in NumPy, and greedy walks along them.

For the first call after installation, whose time limit may pass before the kernels are compiled (see `compiling`).
A relaxation lets devices be used again and again at a multiplier each, so its value bounds every plan. A walk takes at
each end of a stage what costs least with the relaxed completion, of devices not used yet; where none ends, devices are
filled up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.fill import QUICK, fill

#: First devices that walks are tried from, and the length below which steps end.
WALKS, SHORTEST = 8, 0.01
#: Hops one relaxation may look at; beyond, devices are filled up and the bound is plain. Seconds for each of them.
MOST_WORK, WORK_S = 200_000_000, 3e-9


class Cheap:
    """A plan and a bound that rise step by step: `step` while it returns True, then `outcome`."""

    def __init__(self, core: Core, upper: float, budget: Budget, hint: ClassPath | None = None) -> None:
        self.core, self.upper, self.budget = core, upper, budget
        self.low = core.low if core.cap is None else core.cap.loosest
        self.multipliers = np.zeros(core.num_classes)
        self.bound = plain_bound(core)
        self.impossible = self.walked = self.filled = False
        self.value, self.length = math.inf, 1.0
        self.path: ClassPath | None = None
        if hint is not None:
            self._offer(hint)

    def step(self) -> bool:
        """Bound and walk once; return whether another step may help. Devices are filled up where no walk ends."""
        core = self.core
        work = core.num_classes**2 * core.num_layers
        if work > MOST_WORK:
            self._fill()
            return False
        if self.budget.remaining_s < WORK_S * work:
            return False
        if self.walked and self.path is None and not self.filled:
            self._fill()
            return not self.impossible
        self.walked = True
        weight = core.entry + self.multipliers
        rest = relaxed_rest(core, self.low, weight)
        opened = rest[0] + weight
        first = np.argsort(opened, kind="stable")[:WALKS]
        bound = float(opened[first[0]]) - float(self.multipliers @ core.counts)
        self.length *= 1.0 if bound > self.bound else 0.8
        self.bound = max(self.bound, bound)
        for d in first.tolist():
            self._offer(_walk(core, self.low, rest, weight, d, core.counts.copy()))
        relaxed = _walk(core, self.low, rest, weight, int(first[0]), np.full(core.num_classes, core.num_layers))
        if relaxed is None or core.modes is not None or not math.isfinite(bound) or self.length < SHORTEST:
            return False
        excess = np.bincount([c for c, _, _ in relaxed], minlength=core.num_classes) - core.counts
        excess = np.where((self.multipliers <= 0.0) & (excess < 0), 0, excess)
        norm = float(excess @ excess)
        best = min(self.value, self.upper)
        aim = best if math.isfinite(best) else self.bound + 0.1 * abs(self.bound)
        if norm == 0.0 or aim <= bound:
            return False
        self.multipliers = np.maximum(0.0, self.multipliers + self.length * (aim - bound) / norm * excess)
        return True

    def outcome(self) -> CoreOutcome:
        """State the best plan and bound; devices are filled up where no walk ended."""
        if self.path is None and math.isinf(self.upper) and not self.filled:
            for path in greedy(self.core):
                self._offer(path)
            if self.path is None:
                self._fill()
        if self.impossible:
            return CoreOutcome(math.inf, None, math.inf, True)
        if self.path is None or self.value >= self.upper:
            return CoreOutcome(math.inf, None, min(self.bound, self.upper), self.bound >= self.upper)
        return CoreOutcome(self.value, self.path, min(self.bound, self.value), False)

    def _fill(self) -> None:
        self.filled = True
        filled = fill(self.core, self.budget, QUICK)
        self.impossible = filled.impossible
        self._offer(filled.path)

    def _offer(self, path: ClassPath | None) -> None:
        if path is not None and self.core.holds(path) and self.core.value(path) < self.value:
            self.value, self.path = self.core.value(path), path


def plain_bound(core: Core) -> float:
    """Return what no plan is below: layers on their fastest devices, hops for nothing, stages as long as any may be."""
    return plain_sum(core.prefix, core.low, core.entry)


def plain_sum(prefix: FloatArray, low: IntArray, entry: FloatArray) -> float:
    """Return the plain bound from the times and windows of the classes, and the cost of opening them, alone."""
    seconds = float(np.diff(prefix, axis=1).min(axis=0).sum()) * (1.0 - 1e-12)
    least_start, start, stages = low.min(axis=0), prefix.shape[1] - 1, 0
    while start > 0 and least_start[start] < start:
        start, stages = int(least_start[start]), stages + 1
    return seconds + max(stages, 2) * float(entry.min())


def last_resort(core: Core, found: CoreOutcome, budget: Budget) -> CoreOutcome:
    """Return what rules find where a search had to end without a plan and without a proof; the better bound is kept."""
    simple = Cheap(core, math.inf, budget).outcome()
    bound = max(found.bound, simple.bound)
    return CoreOutcome(simple.value, simple.path, min(bound, simple.value), simple.proven)


def relaxed_rest(core: Core, low: IntArray, weight: FloatArray) -> FloatArray:
    """Return rest[i, c]: least cost from boundary i with c open there and paid for by its weight; shape (n+1, C)."""
    n, num = core.num_layers, core.num_classes
    prefix = core.prefix.T
    after, rest = np.full((n + 1, num), np.inf), np.full((n + 1, num), np.inf)
    after[n] = 0.0 if core.back is None else core.back.min(axis=1)
    for i in range(n - 1, -1, -1):
        ends = np.flatnonzero((low[:, i + 1 :] <= i).any(axis=0) & (core.top[i + 1 :] >= i)) + i + 1
        if len(ends):
            values = np.where(i >= low[:, ends].T, after[ends] + prefix[ends], np.inf)
            rest[i] = values.min(axis=0) - prefix[i]
        if i > 0:
            hops = core.hop_s + core.boundary[i] * core.hop_s_per_byte
            after[i] = (hops + (rest[i] + weight)).min(axis=1)
    return rest


def _walk(
    core: Core, low: IntArray, rest: FloatArray, weight: FloatArray, first: int, left: IntArray
) -> ClassPath | None:
    """Follow the relaxation from one device with devices that are left; None where that ends too soon."""
    n = core.num_layers
    path: list[tuple[int, int, int]] = []
    d, i = first, 0
    while len(path) < n:
        left[d] -= 1
        ends = np.flatnonzero((low[d] <= i) & (core.top >= i) & (np.arange(n + 1) > i))
        best, stop, then = math.inf, -1, -1
        for j in ends.tolist():
            if j == n:
                value, e = float(core.prefix[d, n]), -1
            else:
                hops = core.hop_s[d] + core.boundary[j] * core.hop_s_per_byte[d]
                costs = np.where(left > 0, hops + rest[j] + weight, np.inf)
                e = int(np.argmin(costs))
                value = float(core.prefix[d, j] + costs[e])
            if value < best:
                best, stop, then = value, j, e
        if stop < 0:
            return None
        path.append((d, i, stop))
        if stop == n:
            return tuple(path)
        d, i = then, stop
    return None


def greedy(core: Core) -> Iterator[ClassPath]:
    """Yield the paths that three rules make, whatever the clock says: each next stage goes as far as its device holds.

    The next device is the one that goes furthest, the one that is cheapest a layer, or the one that fills best.
    O(K·C) each.
    """
    starts = np.arange(core.num_layers + 1)
    low = core.low if core.cap is None else core.cap.loosest
    reach = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in low])
    longest = np.maximum((reach - starts).max(axis=1), 1)
    for rule in range(3):
        path = _greedy(core, reach, longest, rule)
        if path is not None:
            yield path


def _greedy(core: Core, reach: IntArray, longest: IntArray, rule: int) -> ClassPath | None:
    n, left = core.num_layers, core.counts.copy()
    path: list[tuple[int, int, int]] = []
    i = 0
    while i < n:
        ends = np.minimum(reach[:, i], n if path else n - 1)
        layers = ends - i
        cost = core.prefix[np.arange(len(ends)), ends] - core.prefix[:, i] + core.entry
        if path:
            cost = cost + core.hop_s[path[-1][0]] + core.boundary[i] * core.hop_s_per_byte[path[-1][0]]
        able = np.flatnonzero((left > 0) & (layers > 0) & np.isfinite(cost))
        if len(able) == 0:
            return None
        each = cost[able] / layers[able]
        keys = (each, -layers[able]), (-layers[able], each), (-layers[able], -layers[able] / longest[able])
        c = int(able[np.lexsort(keys[rule])[0]])
        path.append((c, i, int(ends[c])))
        left[c] -= 1
        i = int(ends[c])
    return tuple(path)
