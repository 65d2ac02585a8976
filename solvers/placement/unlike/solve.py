"""The engine for many unlike devices: bound, dive, neighbourhoods, then what reduced costs leave over, exactly.

1. Lagrangian bound over all classes; after every stretch of steps a dive makes a plan.
2. Classes and stages whose least relaxed cost reaches the incumbent are out (exact). What is left goes to the ladder of
   efforts when its counters fit a key.
3. Otherwise neighbourhoods of the incumbent are searched, and bound and fixing tried again with every better plan.
"""

from __future__ import annotations

import math

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.reduced import restore, restrict, useful
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.dive import plan_from
from gpuplan.solvers.placement.unlike.links import make_wide
from gpuplan.solvers.placement.unlike.neighbourhood import Neighbourhoods
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

#: Subgradient steps before each of the first dives, and of each later stretch.
FIRST_STEPS, MORE_STEPS = (30, 50, 80), 60
#: Neighbourhoods between two stretches of steps, and how many may pass in vain before the search ends.
ROUND, PATIENCE = 12, 120


def minimise_unlike(
    core: Core,
    upper: float,
    budget: Budget,
    settings: Settings,
    hint: ClassPath | None = None,
    multipliers: dict[str, FloatArray] | None = None,
) -> CoreOutcome:
    """Return the best plan of two stages or more below `upper`; see `large.minimise` for the parameters."""
    return _Unlike(core, upper, budget, settings, hint, {} if multipliers is None else multipliers).run()


class _Unlike:
    def __init__(
        self,
        core: Core,
        upper: float,
        budget: Budget,
        settings: Settings,
        hint: ClassPath | None,
        memory: dict[str, FloatArray],
    ) -> None:
        self.core, self.budget, self.settings, self.memory = core, budget, settings, memory
        self.best, self.path = upper, None
        self.wide = make_wide(core)
        self.relaxation = WideRelaxation(self.wide, memory.get("best"))
        self.lower = -math.inf
        if hint is not None and core.holds(hint):
            self._offer(core.value(hint), hint)

    path: ClassPath | None

    def run(self) -> CoreOutcome:
        """Bound and dive, then close the gap or narrow it."""
        for steps in FIRST_STEPS:
            self._bound(steps)
            if self._over():
                return self._outcome()
            self._dive()
        if self._finish() or self._over():
            return self._outcome()
        self._narrow()
        return self._outcome()

    # ------------------------------------------------------------------------------------------------ steps

    def _bound(self, steps: int) -> None:
        relaxation = self.relaxation
        relaxation.restart()
        relaxation.raise_bound(steps, self.best, self.budget, self._target())
        self.lower = max(self.lower, relaxation.lower)
        if math.isfinite(relaxation.lower):
            self.memory["best"] = relaxation.best.copy()
        if relaxation.plan is not None:
            self._offer(*relaxation.plan)
        self._report()

    def _dive(self) -> None:
        plan = plan_from(self.relaxation, self.best)
        if plan is not None:
            self._offer(*plan)
        self._report()

    def _narrow(self) -> None:
        """Search neighbourhoods and raise the bound in turn until nothing moves."""
        search = Neighbourhoods(self.relaxation, self.budget, self.settings)
        idle = 0
        while idle < PATIENCE and self.path is not None and not self._over():
            before = self.best
            for _ in range(ROUND):
                if self._over():
                    return
                better = search.improve(self.best, self.path)
                idle = 0 if better is not None else idle + 1
                if better is not None:
                    self._offer(*better)
            self._bound(MORE_STEPS)
            if self.best < before:
                self._dive()
            search.look_again()
            if self._finish():
                return

    def _finish(self) -> bool:
        """Search exactly what reduced costs leave over, where it fits a key; return whether the core is settled."""
        keep = np.flatnonzero(useful(self.core, self.relaxation.through(), self._target()))
        if len(keep) == 0:
            self.lower = math.inf
            return True
        if sum(bits_of(self.core.counts[keep])) > self.settings.key_bits:
            return False
        return self._search(keep)

    def _search(self, keep: IntArray) -> bool:
        num = self.core.num_classes
        start = {"best": np.concatenate([self.relaxation.best[keep], self.relaxation.best[num:]])}
        part = LadderSearch(restrict(self.core, keep), self.best, self.budget, self.settings, None, start).run()
        if part.path is not None:
            self._offer(part.value, restore(part.path, keep))
        self.lower = math.inf if part.proven else max(self.lower, part.bound)
        return True

    # ------------------------------------------------------------------------------------------------ state

    def _offer(self, value: float, path: ClassPath) -> None:
        if value < self.best:
            self.best, self.path = value, path

    def _target(self) -> float:
        """Bound at which nothing is left to prove."""
        if math.isinf(self.best):
            return math.inf
        step = self.core.step
        return self.best - step * (1.0 - 1e-6) if step > 0.0 else self.best - 1e-11 * abs(self.best)

    def _over(self) -> bool:
        found_any = self.core.any_plan and self.path is not None
        return found_any or self.lower >= self._target() or self.lower == math.inf or self.budget.exhausted()

    def _report(self) -> None:
        if not self.core.any_plan:
            known = self.best if self.path is not None else None
            self.budget.report("placement", known, self.lower if math.isfinite(self.lower) else None)

    def _outcome(self) -> CoreOutcome:
        value = self.best if self.path is not None else math.inf
        if self.core.any_plan and self.path is not None:
            return CoreOutcome(value, self.path, -math.inf, False)
        if self.lower == math.inf or self.lower >= self._target():
            return CoreOutcome(value, self.path, self.best, True)
        return CoreOutcome(value, self.path, min(self.lower, self.best), False)
