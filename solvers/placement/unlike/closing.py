"""Closing the gap of a core whose counters fit a key: memory for the bound, labels and a MILP for the proof.

The relaxation of `memory` replaces the plain one: its completions cut the labels, its reduced costs leave classes,
blocks and links out of the MILP. All cuts are exact.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome
from gpuplan.solvers.placement.effort import Effort, Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.lagrangian import Relaxation
from gpuplan.solvers.placement.reduced import restore, restrict, useful
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.dive import plan_from
from gpuplan.solvers.placement.unlike.fixing import finish
from gpuplan.solvers.placement.unlike.links import make_wide
from gpuplan.solvers.placement.unlike.memory import Memory
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

#: Steps between two growths of the memory, growths at most, and the rise of the bound (share of the gap) that is
#: worth another.
STEPS, ROUNDS, WORTH = 60, 15, 0.02
#: Slow steps where no class has anything to remember (classes of several devices): at most, by size, and patience.
SLOW_STEPS, SLOW_WORK, SLOW_PATIENCE = 600, 6e7, 25
#: Label searches before and after the MILP. The widest beam before it takes 0.1-1 s on 32 unlike devices and ends with
#: the proof on half of those that narrower ones leave open; the MILP takes seconds there.
BEFORE = (Effort(0, 0), Effort(0, 100), Effort(0, 1_000), Effort(0, 30_000))
AFTER = (Effort(0, 0), Effort(0, None))


def close(
    core: Core,
    upper: float,
    path: ClassPath | None,
    budget: Budget,
    settings: Settings,
    multipliers: FloatArray | None,
    sets: dict[int, list[int]] | None = None,
) -> CoreOutcome:
    """Return the best plan of a core below `upper` (the value of `path`, if given), with as much proof as it takes."""
    return _Closing(core, upper, path, budget, settings, multipliers, sets or {}).run()


class _Closing:
    def __init__(
        self,
        core: Core,
        upper: float,
        path: ClassPath | None,
        budget: Budget,
        settings: Settings,
        multipliers: FloatArray | None,
        sets: dict[int, list[int]],
    ) -> None:
        self.core, self.budget, self.settings = core, budget, settings
        self.best, self.path = upper, path
        self.keep: IntArray = np.arange(core.num_classes)
        self.inner = core
        self.memory = Memory(core, sets)
        self.plain = make_wide(core)
        self.relaxation = WideRelaxation(self.memory.wide(self.plain), multipliers)
        self.lower = -math.inf

    def run(self) -> CoreOutcome:
        """Raise the bound with memory, then search."""
        self._remember()
        if not self._over() and not self.memory.sets:
            self._step_slowly()
        self._say("Lagrangian relaxation whose paths remember")
        for step in (self._search_narrow, self._milp, self._search_all):
            if self._over():
                break
            step()
        return self._outcome()

    def _say(self, proof: str) -> None:
        self.settings.trace.proof = f"{proof} ({self.inner.num_classes} classes left by reduced costs)"

    def _search_narrow(self) -> None:
        self._labels(BEFORE)

    def _search_all(self) -> None:
        self._labels(AFTER)

    def _remember(self) -> None:
        """Grow the memory while the bound rises by it."""
        for _ in range(ROUNDS):
            before = self.lower
            self.relaxation.watch = self.memory.watch
            self.relaxation.raise_bound(STEPS, self.best, self.budget, self._target())
            self.lower = max(self.lower, self.relaxation.lower)
            if self.relaxation.plan is not None:
                self._offer(*self.relaxation.plan)
            if self._over():
                return
            plan = plan_from(self.plain, self.relaxation, self.best, self.budget)
            if plan is not None:
                self._offer(*plan)
            self._leave_out()
            gap = self.best - self.lower
            if self._over() or (self.lower - before < WORTH * gap and math.isfinite(before)):
                return
            if self.memory.grow():
                self._rebuild(self.relaxation.best)
            elif self.relaxation.done:
                return

    def _step_slowly(self) -> None:
        """Take many more steps: nothing but prices can raise the bound."""
        core = self.inner
        self.relaxation.restart(SLOW_PATIENCE)
        steps = min(SLOW_STEPS, int(SLOW_WORK / (core.num_classes**2 * core.num_layers)))
        self.relaxation.raise_bound(steps, self.best, self.budget, self._target())
        self.lower = max(self.lower, self.relaxation.lower)
        if self.relaxation.plan is not None:
            self._offer(*self.relaxation.plan)
        if not self._over():
            self._leave_out()

    def _rebuild(self, multipliers: FloatArray) -> None:
        length = max(self.relaxation.steps.length, 0.3)
        self.relaxation = WideRelaxation(self.memory.wide(self.plain), multipliers)
        self.relaxation.steps.length = length

    def _leave_out(self) -> None:
        """Drop classes that no better plan uses."""
        if not math.isfinite(self.best) or self.core.modes is not None:
            return
        left = np.flatnonzero(useful(self.inner, self.relaxation.through(), self._target()))
        if len(left) == self.inner.num_classes:
            return
        if len(left) == 0:
            self.lower = math.inf
            return
        num = self.inner.num_classes
        best = np.concatenate([self.relaxation.best[left], self.relaxation.best[num:]])
        self.inner, self.keep = restrict(self.inner, left), self.keep[left]
        self.memory = self.memory.of_classes(self.inner, left)
        self.plain = make_wide(self.inner)
        self._rebuild(best)
        self.relaxation.raise_bound(1, self.best, self.budget, math.inf)

    def _labels(self, ladder: tuple[Effort, ...]) -> None:
        search = LadderSearch(
            self.inner, self.best, self.budget, replace(self.settings, ladder=ladder), None, {}, self._completions
        )
        found = search.run()
        if found.path is not None:
            self._offer(found.value, found.path)
        self.lower = math.inf if found.proven else max(self.lower, found.bound)
        self._say("label search pruned by a Lagrangian relaxation whose paths remember")

    def _completions(self, term: FloatArray, ending: IntArray, allowed: IntArray) -> Relaxation:
        return self.relaxation.completions(term, ending, allowed)

    def _milp(self) -> None:
        place = {int(c): k for k, c in enumerate(self.keep)}
        path = self.path
        start = None
        if path is not None and all(c in place for c, _, _ in path):
            start = tuple((place[c], i, j) for c, i, j in path)
        answer = finish(self.relaxation, self.best, start, self.budget)
        if answer is None:
            return
        if answer.path is not None:
            self._offer(self.inner.value(answer.path), answer.path)
        if answer.bound > self.lower:
            self.lower = answer.bound
            self._say("MILP (HiGHS) over the blocks and links left by reduced costs")

    # ------------------------------------------------------------------------------------------------ state

    def _offer(self, value: float, path: ClassPath) -> None:
        """Take a plan in the classes that are left, if it is better."""
        if value < self.best:
            self.best, self.path = value, restore(path, self.keep)

    def _target(self) -> float:
        if math.isinf(self.best):
            return math.inf
        step = self.core.step
        return self.best - step * (1.0 - 1e-6) if step > 0.0 else self.best - 1e-11 * abs(self.best)

    def _over(self) -> bool:
        return self.lower >= self._target() or self.budget.exhausted()

    def _outcome(self) -> CoreOutcome:
        value = self.best if self.path is not None else math.inf
        if self.lower >= self._target():
            return CoreOutcome(value, self.path, self.best, True)
        return CoreOutcome(value, self.path, min(self.lower, self.best), False)
