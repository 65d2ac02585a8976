"""A low bottleneck and a bound on it without compiled code: what fits within a cap in NumPy, and greedy walks.

For the first call after installation, whose time limit may pass before the kernels are compiled (see `compiling`).
Within a cap T no stage of a class holds more than its longest block, and what stages take of each resource is limited:
where all together hold too few layers (or too little of their mean time), no plan keeps within T. A walk hands over to
the device from which the stage behind reaches furthest.
"""

from __future__ import annotations

import math

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.cheap import greedy
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, trivial_upper
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.fill import QUICK, fill

#: Relative interval at which caps are not halved any more, and first devices that walks are tried from.
CLOSE, WALKS = 1e-3, 6
#: Classes whose hops are summed at once: few enough for a cache, since large arrays take longest to allocate.
ROWS = 64
#: Covers the rounding of sums and differences of times.
TOLERANCE = 1e-9


class CheapCaps:
    """Plans of two stages or more of one core of the cycle's numbers: `step` while it returns True."""

    def __init__(self, core: Core) -> None:
        self.core = core
        # Some stage holds the layer that is slowest on its fastest device.
        self.lower, self.upper = float(np.diff(core.prefix, axis=1).min(axis=0).max()), trivial_upper(core)
        self.lower *= 1.0 - TOLERANCE
        self.value = math.inf
        self.path: ClassPath | None = None
        starts = np.arange(core.num_layers)
        self.furthest = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in core.low])
        self.least = self._least_hops()
        mean = np.diff(core.prefix, axis=1).mean(axis=0)
        self.weights = [np.arange(core.num_layers + 1.0), np.concatenate([[0.0], np.cumsum(mean)])]
        self.low, self.walked = self.lower, False

    def step(self) -> bool:
        """Walk within the widest cap, then halve caps for the bound, then for plans; False when nothing is left."""
        if not self.walked:
            self.walked = True
            self._walks(self.upper)
        elif self.upper - self.lower > CLOSE * self.upper:
            cap_s = 0.5 * (self.lower + self.upper)
            if self.impossible(cap_s):
                self.lower = self.low = cap_s
            else:
                self.upper = cap_s
        elif self.path is None or self.value - self.low <= CLOSE * self.value:
            return False
        elif not self._walks(0.5 * (self.low + self.value)):
            self.low = 0.5 * (self.low + self.value)
        return True

    def walk(self, halvings: int, budget: Budget) -> None:
        """Look for plans alone: within the widest cap, then within caps halved so many times."""
        self._walks(self.upper, budget)
        for _ in range(halvings):
            cap_s = 0.5 * (self.low + min(self.value, self.upper))
            if self.path is None or self.value - self.low <= CLOSE * self.value or budget.exhausted():
                return
            if not self._walks(cap_s, budget):
                self.low = cap_s

    def impossible(self, cap_s: float) -> bool:
        """Whether the longest blocks within a cap are too little in all: then no plan keeps within it."""
        ends, core = self._ends(cap_s), self.core
        for weight in self.weights:
            holds = (weight[ends] - weight[:-1]).max(axis=1)
            most = min(self._together(holds), core.max_stages * float(holds.max()))
            if most < weight[-1] * (1.0 - TOLERANCE):
                return True
        return False

    def _together(self, holds: FloatArray) -> float:
        """Return the most that stages hold together, given what one of each class holds."""
        modes = self.core.modes
        if modes is None:
            return float(holds @ self.core.counts)
        each = np.where(modes.use > 0, holds / np.maximum(modes.use.sum(axis=0), 1), 0.0).max(axis=1)
        return float(each @ modes.capacity)

    def _least_hops(self) -> FloatArray:
        """Return the least hop out of each class, to a follower or back, shape (C,): never more than a stage pays."""
        core = self.core
        small = float(core.boundary[1:-1].min(initial=np.inf)) if core.num_layers > 1 else 0.0
        rows = range(0, core.num_classes, ROWS)
        parts = [(core.hop_s[c : c + ROWS] + small * core.hop_s_per_byte[c : c + ROWS]).min(axis=1) for c in rows]
        hops = np.concatenate(parts)
        back = np.zeros(core.num_classes) if core.back is None else core.back.min(axis=1)
        return np.asarray(np.minimum(hops, back))

    def _ends(self, cap_s: float) -> IntArray:
        """Return the furthest end of a stage by class and start, shape (C, n); its start where there is none."""
        core, n = self.core, self.core.num_layers
        room = cap_s * (1.0 + TOLERANCE) - self.least
        ends = [
            np.searchsorted(row, row[:-1] + free, side="right") - 1
            for row, free in zip(core.prefix, np.maximum(room, -1.0), strict=True)
        ]
        return np.asarray(np.maximum(np.minimum(np.stack(ends), self.furthest), np.arange(n)))

    def _walks(self, cap_s: float, budget: Budget | None = None) -> bool:
        """Whether a walk from a class that reaches furthest ends; keeps the best plan, at a limit the first."""
        ends = self._ends(cap_s)
        first = np.flatnonzero(self.core.pred < 0)
        order = first[np.argsort(-ends[first, 0], kind="stable")][:WALKS]
        before = self.value
        for d in order.tolist():
            if self.path is not None and budget is not None and budget.exhausted():
                break
            path = self._walk(d, cap_s, ends)
            if path is not None and self.core.holds(path):
                self._offer(path)
        return self.value < before

    def _walk(self, d: int, cap_s: float, ends: IntArray) -> ClassPath | None:
        core, n = self.core, self.core.num_layers
        left, size = core.capacity.copy(), float(core.boundary.max(initial=0.0))
        path: list[tuple[int, int, int]] = []
        start, first = 0, d
        while len(path) < core.max_stages:
            if core.modes is None:
                left[d] -= 1
            else:
                left -= core.modes.use[:, d]
            back = 0.0 if core.back is None else float(core.back[d, first])
            if core.low[d, n] <= start and core.prefix[d, n] - core.prefix[d, start] + back <= cap_s and path:
                return (*path, (d, start, n))
            hops = core.hop_s[d] + size * core.hop_s_per_byte[d]
            stop = np.searchsorted(core.prefix[d], core.prefix[d, start] + cap_s - hops, side="right") - 1
            stop = np.minimum(np.minimum(stop, self.furthest[d, start]), n - 1)
            free = left > 0 if core.modes is None else (core.modes.use <= left[:, None]).all(axis=0)
            free = free & (stop > start)
            if not free.any():
                return None
            further = np.where(free, ends[np.arange(core.num_classes), np.maximum(stop, 0)], -1)
            e = int(np.argmax(further))
            path.append((d, start, int(stop[e])))
            d, start = e, int(stop[e])
        return None

    def _offer(self, path: ClassPath) -> None:
        value = path_value(self.core, path)
        if value < self.value:
            self.value, self.path = value, path

    def fill(self, budget: Budget) -> None:
        """Fill up devices by rules, or else by memory alone, where no walk ended."""
        for path in greedy(self.core):
            if self.core.holds(path):
                self._offer(path)
        filled = None if self.path is not None else fill(self.core, budget, QUICK).path
        if filled is not None and self.core.holds(filled):
            self._offer(filled)


def path_value(core: Core, path: ClassPath) -> float:
    """Return the largest stage + outgoing hop of a path of two stages or more of a core."""
    worst = 0.0
    for k, (c, start, stop) in enumerate(path):
        if k + 1 < len(path):
            after = path[k + 1][0]
            hop = core.hop_s[c, after] + core.boundary[stop] * core.hop_s_per_byte[c, after]
        else:
            hop = 0.0 if core.back is None else core.back[c, path[0][0]]
        worst = max(worst, float(core.prefix[c, stop] - core.prefix[c, start] + hop))
    return worst
