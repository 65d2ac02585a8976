"""The engine for many unlike devices: bound, dive, neighbourhoods, then what reduced costs leave over, exactly.

1. Lagrangian bound over all classes; after every stretch of steps a dive makes a plan.
2. Classes and stages whose least relaxed cost reaches the incumbent are out (exact). What is left goes to the ladder of
   efforts when its counters fit a key.
3. Otherwise neighbourhoods of the incumbent are searched, and bound and fixing tried again with every better plan.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome, bits_of
from gpuplan.solvers.placement.effort import BEAM_LADDER, Settings
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.reduced import best_classes, restore, restrict, useful
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.closing import close
from gpuplan.solvers.placement.unlike.dive import plan_from
from gpuplan.solvers.placement.unlike.fill import BY_MEMORY, fill
from gpuplan.solvers.placement.unlike.links import make_wide
from gpuplan.solvers.placement.unlike.memory import Memory, restrict_sets
from gpuplan.solvers.placement.unlike.neighbourhood import Neighbourhoods
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

#: Subgradient steps before the first two dives (the first few: a plan soon, of thousands of classes too), and with
#: each growth of the memory.
FIRST_STEPS, FIRST_WORK, SECOND_STEPS, MORE_STEPS = 12, 12_000, 100, 50
#: Rise of the bound (share of the gap) that is worth another growth.
WORTH = 0.01
#: Neighbourhoods between two growths, and how many may pass in vain before the search ends.
ROUND, PATIENCE = 4, 60
#: Time that a first dive, a first look at what reduced costs leave, and a first growth of the memory may take, in steps
#: on the bound: what was measured on 4,096 classes, and for the memory on 1,024.
IN_STEPS = {"dive": 3.0, "look": 6.0, "memory": 20.0}
#: Neighbourhoods in vain after which keys of several words are tried.
STUCK = 16


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
    path: ClassPath | None

    def __init__(
        self,
        core: Core,
        upper: float,
        budget: Budget,
        settings: Settings,
        hint: ClassPath | None,
        memory: dict[str, FloatArray],
    ) -> None:
        self.core, self.budget, self.settings, self.known = core, budget, settings, memory
        self.best, self.path = upper, None
        self.wide = make_wide(core)
        self.relaxation = WideRelaxation(self.wide, memory.get("best"))
        self.memory = Memory(core)
        self.lower = -math.inf
        self.closed = False
        self.took_s: dict[str, float] = {}
        if hint is not None and core.holds(hint):
            self._offer(core.value(hint), hint)

    def run(self) -> CoreOutcome:
        """Bound and dive, then close the gap or narrow it."""
        bits, trace = key_bits(self.core, np.arange(self.core.num_classes)), self.settings.trace
        trace.note(
            f"{self.core.num_classes} unlike classes need {bits} bits of a search key of {self.settings.key_bits}: "
            "bounded all together, plans from dives and neighbourhoods, then what reduced costs leave over"
        )
        few = max(3, min(FIRST_STEPS, FIRST_WORK // self.core.num_classes))
        for steps in (few, SECOND_STEPS):
            self.relaxation.restart()
            self._bound(steps)
            if self._over():
                return self._outcome()
            self._dive()
        if self.path is None and math.isinf(self.best) and not self.budget.exhausted():
            self._fill()
        self._narrow()
        return self._outcome()

    # ------------------------------------------------------------------------------------------------ steps

    def _bound(self, steps: int) -> None:
        relaxation = self.relaxation
        relaxation.watch = self.memory.watch
        relaxation.raise_bound(steps, self.best, self.budget, self._target())
        self.lower = max(self.lower, relaxation.lower)
        if math.isfinite(relaxation.lower):
            self.known["best"] = relaxation.best.copy()
        if relaxation.plan is not None:
            self._offer(*relaxation.plan)
        self._report()

    def _dive(self) -> None:
        """Look for a plan along the relaxation."""
        if not self._sure("dive"):
            return
        before = self.budget.elapsed_s
        plan = plan_from(self.wide, self.relaxation, self.best, self.budget)
        self.took_s["dive"] = self.budget.elapsed_s - before
        if plan is not None:
            self._offer(*plan)
        self._report()

    def _fill(self) -> None:
        """Look for any plan where dives found none: packings so tight that they run out of memory."""
        filled = fill(self.core, self.budget)
        if filled.path is not None:
            self._offer(self.core.value(filled.path), filled.path)
        if filled.impossible:
            self.lower, self.closed = math.inf, True
            self.settings.trace.proof = BY_MEMORY
        self._report()

    def _narrow(self) -> None:
        """Grow the memory and search neighbourhoods in turn until nothing moves."""
        search = Neighbourhoods(self.wide, self.budget, self.settings)
        idle, growing = 0, True
        while not self._over():
            stuck = idle >= STUCK and not growing
            if not self._sure("look"):
                self._bound(MORE_STEPS)
                return
            if self._finish(search, self.settings.wide_bits if stuck else self.settings.key_bits):
                return
            if idle >= PATIENCE and not growing:
                return
            growing = growing and self._remember()
            for _ in range(ROUND):
                if self._over() or self.path is None:
                    break
                better = search.improve(self.best, self.path)
                idle = 0 if better is not None else idle + 1
                if better is not None:
                    self._offer(*better)
            if self.path is None and not growing:
                self._best_classes(search)
                return

    def _remember(self) -> bool:
        """Bound again, with more memory where there is any to gain; return whether that still helps."""
        if not self._sure("memory"):
            return False
        before, length, took_s = self.lower, max(self.relaxation.steps.length, 0.3), self.relaxation.took_s
        began_s = self.budget.elapsed_s
        if self.memory.grow():
            self.relaxation = WideRelaxation(self.memory.wide(self.wide), self.relaxation.best)
            self.relaxation.steps.length, self.relaxation.took_s = length, took_s
            self.took_s["memory"] = self.budget.elapsed_s - began_s
        elif self.relaxation.done:
            return False
        self._bound(MORE_STEPS)
        if not self._over():
            self._dive()
        return self.best == math.inf or self.lower - before > WORTH * (self.best - before)

    def _finish(self, search: Neighbourhoods, most_bits: int) -> bool:
        """Close the gap of what reduced costs leave over, if that fits a key; return whether the core is settled."""
        before = self.budget.elapsed_s
        search.look_again(self.relaxation)
        self.took_s["look"] = self.budget.elapsed_s - before
        keep = np.flatnonzero(useful(self.core, self.relaxation.through(), self._target()))
        if len(keep) == 0:
            self.lower = math.inf
            return True
        if self.path is None or self.core.any_plan or key_bits(self.core, keep) > most_bits:
            return False
        self._close(keep)
        return True

    def _close(self, keep: IntArray) -> None:
        num, bits = len(self.core.capacity), key_bits(self.core, keep)
        if bits > self.settings.key_bits:
            self.settings.trace.note(f"neighbourhoods moved nothing more: the rest is searched on keys of {bits} bits")
        whole = self.core.modes is not None or len(keep) == self.core.num_classes
        part = self.core if whole else restrict(self.core, keep)
        chosen = np.arange(self.core.num_classes) if whole else keep
        best = self.relaxation.best
        start = best if whole else np.concatenate([best[keep], best[num:]])
        place = {int(c): k for k, c in enumerate(chosen)}
        path = self.path
        inner = None
        if path is not None and all(c in place for c, _, _ in path):
            inner = tuple((place[c], i, j) for c, i, j in path)
        sets = restrict_sets(self.memory.sets, chosen)
        found = close(part, self.best, inner, self.budget, self.settings, start, sets)
        if found.path is not None:
            self._offer(found.value, restore(found.path, chosen))
        self.lower = math.inf if found.proven else max(self.lower, found.bound)
        self.closed = True

    def _best_classes(self, search: Neighbourhoods) -> None:
        """Look for any plan among the classes of least reduced cost that fit a key."""
        keep = best_classes(self.core, search.reduced, self.settings.key_bits)
        if len(keep) == 0:
            return
        settings = replace(self.settings, ladder=BEAM_LADDER)
        found = LadderSearch(restrict(self.core, keep), self.best, self.budget, settings, None, {}).run()
        if found.path is not None:
            self._offer(found.value, restore(found.path, keep))

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
        return found_any or self.lower >= self._target() or self.budget.exhausted()

    def _sure(self, what: str) -> bool:
        """Whether the time left is sure to suffice for a step that looks at no clock: by its last time, or its size."""
        return self.budget.remaining_s >= self.took_s.get(what, IN_STEPS[what] * self.relaxation.took_s)

    def _report(self) -> None:
        if not self.core.any_plan:
            known = self.best if self.path is not None else None
            self.budget.report("placement", known, self.lower if math.isfinite(self.lower) else None)

    def _outcome(self) -> CoreOutcome:
        value = self.best if self.path is not None else math.inf
        if not self.closed:
            states = self.memory.states
            self.settings.trace.proof = f"Lagrangian relaxation over {self.core.num_classes} classes" + (
                f" whose paths remember ({states} states more)" if states else ""
            )
        if self.core.any_plan and self.path is not None:
            return CoreOutcome(value, self.path, -math.inf, False)
        if self.lower >= self._target():
            return CoreOutcome(value, self.path, self.best, True)
        return CoreOutcome(value, self.path, min(self.lower, self.best), False)


def key_bits(core: Core, keep: IntArray) -> int:
    """Bits of a key over some classes (all resources with modes)."""
    return sum(bits_of(core.counts[keep] if core.modes is None else core.capacity))
