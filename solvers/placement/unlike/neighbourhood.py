"""Large-neighbourhood search: a plan's own devices and some promising ones, searched by the label beam.

Long plans are improved part by part, the rest standing still. What is drawn depends on the seed and the plan alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, bits_of
from gpuplan.solvers.placement.effort import Effort, Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.links import Wide
from gpuplan.solvers.placement.unlike.quiet import QuietBudget
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation
from gpuplan.solvers.placement.unlike.segment import make_segment

#: Stages freed at once, stages of a plan that is freed whole, and classes in a neighbourhood.
FREE_STAGES, MOST_WHOLE, CLASSES = 16, 20, 44
#: Effort on one neighbourhood.
JOINT_STEPS = 80
EFFORT = (Effort(0, 0), Effort(0, 100))


class Neighbourhoods:
    """Draws neighbourhoods of a plan and searches them."""

    def __init__(self, wide: Wide, budget: Budget, settings: Settings, seed: int = 0) -> None:
        self.wide, self.budget = wide, QuietBudget(budget)
        self.core: Core = wide.core
        self.settings = replace(settings, ladder=EFFORT, joint_steps=JOINT_STEPS)
        self.rng = np.random.default_rng(seed)
        self.drawn = 0
        self.searched: set[tuple[ClassPath, int, int, bytes]] = set()
        self.reduced: FloatArray = np.zeros(self.core.num_classes)
        self.multipliers: FloatArray = np.zeros(0)

    def look_again(self, relaxation: WideRelaxation) -> None:
        """Take reduced costs and multipliers from the relaxation as it stands."""
        self.multipliers = relaxation.best
        costs = relaxation.through() - relaxation.lower
        self.reduced = np.where(np.isfinite(costs), np.maximum(costs, 0.0), np.inf)

    def improve(self, value: float, path: ClassPath) -> tuple[float, ClassPath] | None:
        """Search one neighbourhood of a plan; return a better plan or None."""
        if self.core.cap is not None or self.core.modes is not None:
            return None
        first, last = self._part(len(path))
        others = self._others(path, first, last)
        drawn = (path, first, last, others.tobytes())
        if drawn in self.searched:
            return None
        self.searched.add(drawn)
        segment = make_segment(self.core, path, first, last, others)
        part = segment.core
        known = part.value(segment.path)
        start = {"best": self._multipliers(segment.keep, part)}
        found = LadderSearch(part, known, self.budget, self.settings, None, start).run()
        if found.path is None:
            return None
        whole = segment.whole(found.path)
        better = self.core.value(whole)
        return (better, whole) if better < value and self.core.holds(whole) else None

    def _part(self, stages: int) -> tuple[int, int]:
        """Draw the stages to free."""
        self.drawn += 1
        if stages <= MOST_WHOLE:
            if self.core.back is None or stages < 3:
                return 0, stages
            # With one end standing still the return hop is a matter of the other end alone.
            return (0, stages - 1) if self.drawn % 2 else (1, stages)
        first = int(self.rng.integers(-FREE_STAGES // 2, stages - FREE_STAGES // 2))
        return max(first, 0), min(first + FREE_STAGES, stages)

    def _others(self, path: ClassPath, first: int, last: int) -> IntArray:
        """Draw the classes to try besides the plan's own: near its devices, or of low reduced cost."""
        core = self.core
        own = np.unique([c for c, _, _ in path[first:last]])
        costs = self.reduced.copy()
        if self.drawn % 3 == 2:
            links = self.wide.links
            near = np.unique(np.concatenate([links.near[links.first[d] : links.first[d + 1]] for d in own]))
            apart = np.ones(core.num_classes, dtype=np.bool_)
            apart[near] = False
            costs[apart] = np.inf
        costs[own] = np.inf
        count = CLASSES - len(own)
        open_ = np.flatnonzero(np.isfinite(costs))
        if len(open_) > count:
            scale = float(np.partition(costs[open_], count)[count]) + 1e-12
            # Gumbel keys: the largest `count` are a draw without replacement with weights exp(−cost/scale).
            keys = -costs[open_] / scale + self.rng.gumbel(size=len(open_))
            open_ = open_[np.argpartition(keys, -count)[-count:]]
        return self._fit(np.sort(open_), own)

    def _fit(self, others: IntArray, own: IntArray) -> IntArray:
        """Leave out classes whose counters do not fit the key any more."""
        room = self.settings.key_bits - 2 - sum(bits_of(self.core.counts[own]))
        bits = np.cumsum(bits_of(self.core.counts[others]))
        return others[bits <= room]

    def _multipliers(self, keep: IntArray, part: Core) -> FloatArray:
        """Multipliers of the whole as a start for a part."""
        num = self.core.num_classes
        best = self.multipliers
        extra = part.num_classes - len(keep)
        return np.concatenate([best[keep], np.zeros(extra), best[num:]])
