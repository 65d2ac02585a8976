"""The least bottleneck of plans of two stages or more: a search over caps between a proven bound and the best plan.

Each cap is asked the cheap questions first: do prices refute it (`bottleneck_bounds`), is a relaxed path a plan, does
a narrow search find one (`bottleneck_search`)? Rungs of rising effort close the interval; the last one searches
without truncation and ends with a proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.bottleneck_bounds import Cap, CapBounds, Priced
from gpuplan.solvers.placement.bottleneck_core import CapCore, cap_core
from gpuplan.solvers.placement.bottleneck_search import CapSearch, Keys, pack_keys
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.tables import ClassPath

#: A cap this much below the best plan, relative, that is refuted proves the plan optimal.
EXACT = 1e-10
#: Relative interval below a cap that an exhaustive search left open at which the search gives up.
OPEN = 1e-6
#: Caps in a row, neither refuted nor met by a plan, after which a relaxation is left for all classes.
IDLE = 4
#: Devices of the highest price that plans are sought among where all are too many.
CHOSEN = 96


@dataclass(frozen=True)
class Rung:
    """Subgradient steps, labels per level (None: all, 0: no search) and relative interval at which it is done."""

    steps: int
    width: int | None
    precision: float


LADDER = (
    Rung(60, 60, 0.02),
    Rung(300, 0, 2e-4),
    Rung(150, 300, 1e-3),
    Rung(300, 3_000, 4e-4),
    Rung(300, 20_000, 2e-4),
)
TRUNCATED = LADDER[:3]
#: Where few states say it all: a close bound first, then caps from there upwards.
SHORT_LADDER = (Rung(80, 0, 2e-4), Rung(150, 300, 2e-5))
LAST = Rung(300, None, 0.0)
#: The first bound: by least hops where edges are many.
FIRST = Rung(80, 0, 2e-3)
#: Relative stride from a bound to caps above it, doubled each time.
STRIDE = 0.03

#: Asks the general engine for any plan within a cap: (bottleneck, path or None, proven that there is none).
Referee = Callable[[float], tuple[float, ClassPath | None, bool]]


@dataclass
class Incumbent:
    """Best plan of all parts so far."""

    value: float = math.inf
    path: ClassPath | None = None

    def offer(self, value: float, path: ClassPath | None) -> bool:
        """Take a plan if it is better."""
        if path is None or not value < self.value:
            return False
        self.value, self.path = value, path
        return True


def chosen(core: Core, entry: FloatArray) -> NDArray[np.int64]:
    """Return the `CHOSEN` classes whose stages pay most, twins after their predecessors."""
    order = np.lexsort((core.prefix[:, -1], -entry))
    keep = np.zeros(core.num_classes, dtype=np.bool_)
    keep[order[:CHOSEN]] = True
    for c in range(core.num_classes if core.modes is None else 0):  # predecessors come first
        keep[c] &= core.pred[c] < 0 or keep[core.pred[c]]
    return np.flatnonzero(keep)


def cap_multipliers(core: Core, budget: Budget, cap_s: float) -> FloatArray:
    """Return prices under a cap, total 1, laid out as the Lagrangian bound's multipliers (fee only where it binds)."""
    bounds = CapBounds(cap_core(core), budget)
    prices = bounds.price(bounds.cap(cap_s), LAST.steps).prices
    binding = core.max_stages < min(int(core.counts.sum()), core.num_layers)
    return np.ascontiguousarray(prices if binding else prices[:-1])


class CapSpace:
    """Plans of two stages or more of one core; `best` is shared with other cores, `lower` is proven.

    referee
        What settles caps that the search leaves open for another reason than its width.
    eager
        Whether the referee is asked as soon as a search ends in a cap without a plan, however narrow it was.
    relaxed
        Whether sequences need not be plans. A cap that all labels leave open tells that they part from plans there:
        smaller caps would hardly do better, and all classes settle it.
    """

    def __init__(
        self,
        core: CapCore,
        budget: Budget,
        best: Incumbent,
        referee: Referee,
        *,
        eager: bool = False,
        relaxed: bool = False,
    ) -> None:
        self.core, self.budget, self.best, self.referee = core, budget, best, referee
        self.eager, self.relaxed = eager, relaxed
        self.trivial = core.highest
        self.lower = 0.0
        self.begun = False  # whether first prices have been tried
        self.tried = math.inf  # last cap asked for because it was just below the best plan
        self.ceiling = math.inf  # least cap that an exhaustive search left open
        self.open_for_good = False  # whether the last search ended by itself without settling its cap
        self.bounds = CapBounds(core, budget)
        self.keys: Keys = pack_keys(core.stock.capacity, core.num_classes)

    @property
    def settled(self) -> bool:
        """Whether no plan of this core can be better than the best one."""
        return self.lower >= self.best.value * (1.0 - EXACT)

    def bound(self, bounds: CapBounds, rung: Rung) -> None:
        """Raise the bound by prices alone (`bounds`: of this core or a relaxation of it)."""
        high = self._above(bounds, rung)
        while high - self.lower > rung.precision * high and not self.budget.exhausted():
            middle = 0.5 * (self.lower + high)
            if bounds.refutes(middle, rung.steps):
                self._rule_out(middle)
            else:
                high = middle
            self.budget.report("bottleneck", self.best.value if self.best.path else None, self.lower)

    def _above(self, bounds: CapBounds, rung: Rung) -> float:
        """Return a cap that prices do not refute, not far above the bound: in strides that double from there."""
        highest = min(self.best.value, self.trivial)
        if not self.begun:
            self.begun = True
            self._bound_evenly(bounds, highest)
        stride = max(rung.precision * self.lower, 1e-6 * highest)
        while not self.budget.exhausted():
            cap_s = self.lower + stride
            if cap_s >= highest:
                if math.isinf(self.best.value) and bounds.refutes(highest, rung.steps):
                    self._rule_out(highest)
                return highest
            if not bounds.refutes(cap_s, rung.steps):
                return cap_s
            self._rule_out(cap_s)
            stride *= 2.0
        return highest

    def _bound_evenly(self, bounds: CapBounds, high: float) -> None:
        """Raise the bound by even prices, which costs little."""
        least = 1e-6 * high
        while high > least and high - self.lower > STRIDE * high and not self.budget.exhausted():
            middle = 0.5 * (self.lower + high)
            if bounds.refutes(middle, 1):
                self._rule_out(middle)
            else:
                high = middle

    def climb(self, ladder: Sequence[Rung]) -> None:
        """Close the interval between bound and best plan, rung by rung."""
        for rung in ladder:
            self._try_top(rung)
            if self.settled or self.budget.exhausted():
                return
            if rung.width == 0:
                self.bound(self.bounds, rung)
            else:
                self._close(rung)

    def finish(self) -> None:
        """Search without truncation until nothing is left: by turns just below the best plan and in the middle."""
        top = True
        while not self.settled and not self.budget.exhausted():
            if self.relaxed and (self.best.path is None or math.isfinite(self.ceiling)):
                return
            high = min(self.best.value * (1.0 - EXACT), self.trivial)
            if self.ceiling <= high:
                if self.ceiling - self.lower <= OPEN * high:
                    return
                high, top = self.ceiling, False
            self._probe(high if top else 0.5 * (self.lower + high), LAST)
            top = not top

    def _close(self, rung: Rung) -> None:
        """Try caps from the bound upwards, in growing strides, until what is left open and the best plan are close.

        Once prices have raised the bound, the optimum is seldom far above it, and low caps leave few labels.
        """
        floor, stride, idle = self.lower, rung.precision, 0
        while not self.settled and not self.budget.exhausted() and not (self.relaxed and idle >= IDLE):
            best, lower = self.best.value, self.lower
            if floor >= self.trivial or (math.isfinite(best) and best - floor <= rung.precision * best):
                return
            step = stride * max(floor, 1e-3 * self.trivial) if math.isinf(best) else stride * best
            cap_s = min(floor + step, self.trivial, 0.5 * (floor + best))
            self._probe(cap_s, rung)
            self._try_top(rung)
            stride = rung.precision if self.best.value < best else 2.0 * stride
            idle = 0 if self.best.value < best or self.lower > lower else idle + 1
            floor = max(cap_s, self.lower) if self.best.value > cap_s else self.lower

    def _try_top(self, rung: Rung) -> None:
        """Ask once for every best plan whether prices refute all caps below it: they often do for the optimum."""
        top = self.best.value * (1.0 - EXACT)
        if math.isinf(top) or rung is LADDER[0] or top >= self.tried or self.settled or self.budget.exhausted():
            return
        self.tried = top
        if self.bounds.refutes(top, LAST.steps):
            self._rule_out(top)

    def _probe(self, cap_s: float, rung: Rung) -> None:
        """Ask whether a plan within a cap exists: raises `lower`, improves the best plan, or neither."""
        cap = self.bounds.cap(cap_s)
        priced = self.bounds.price(cap, rung.steps)
        goal = min(self.best.value, cap_s * (1.0 + 1e-11))
        if priced.refuted:
            self._rule_out(cap_s)
        elif not self._sequence(priced, goal):
            self._search(cap, priced, rung, goal)
        self.budget.report("bottleneck", self.best.value if self.best.path else None, self.lower)

    def _rule_out(self, cap_s: float) -> None:
        """No plan of this core keeps within the cap."""
        self.lower = math.inf if cap_s >= self.trivial else max(self.lower, cap_s)
        if self.lower >= self.best.value * (1.0 - EXACT):
            self.lower = self.best.value
        self.budget.report("bottleneck", self.best.value if self.best.path else None, self.lower)

    def _sequence(self, priced: Priced, goal: float) -> bool:
        """Whether the relaxed path is a plan below `goal`."""
        if priced.sequence is None:
            return False
        plan = self.bounds.plan(priced.sequence)
        return plan is not None and self.best.offer(*plan) and plan[0] < goal

    def _search(self, cap: Cap, priced: Priced, rung: Rung, goal: float) -> None:
        """Search the plans within a cap, as far as the rung allows."""
        if self._settles(cap, priced, rung.width, goal, self.core.first, strict=True):
            return
        if self.eager and rung is not LADDER[0] and not self.budget.exhausted():
            self._ask_referee(cap.cap_s)
            return
        if rung.width is not None:
            if self.open_for_good and not self.relaxed:  # wider searches say no more
                self._by_first(cap, goal)
            return
        if not self.open_for_good and self._settles(cap, priced, None, goal, self.core.first, strict=False):
            return
        if self.relaxed or self.budget.exhausted() or not self.open_for_good:
            self.ceiling = min(self.ceiling, cap.cap_s)
        elif not self._by_first(cap, goal):
            self._ask_referee(cap.cap_s)

    def _settles(
        self,
        cap: Cap,
        priced: Priced,
        width: int | None,
        goal: float,
        first: NDArray[np.bool_],
        *,
        strict: bool,
        part: bool = False,
    ) -> bool:
        """Run one search; whether it found a plan below `goal` or proved that there is none (of a `part`: so far)."""
        found = CapSearch(self.bounds, self.keys, cap, priced, strict=strict).run(width, goal, first)
        self.best.offer(found.value, found.path)
        self.open_for_good = found.exhaustive and not self.budget.exhausted()
        if found.value < goal:
            return True
        if found.impossible and not part:
            self._rule_out(cap.cap_s)
        return found.impossible

    def _by_first(self, cap: Cap, goal: float) -> bool:
        """Search once per first class, its return hop told apart; whether that settles the cap."""
        if self.core.back is None:
            return False
        for first in np.flatnonzero(self.core.first):
            only = np.arange(self.core.num_classes) == first
            own = self.bounds.cap(cap.cap_s, int(first))
            priced = self.bounds.price(own, LAST.steps, only)
            if priced.refuted:
                continue
            if not self._settles(own, priced, None, goal, only, strict=False, part=True):
                return False
            if self.best.value < goal:
                return True
        self._rule_out(cap.cap_s)
        return True

    def _ask_referee(self, cap_s: float) -> None:
        value, path, none = self.referee(cap_s)
        if self.best.offer(value, path):
            return
        if none:
            self._rule_out(cap_s)
        else:
            self.ceiling = min(self.ceiling, cap_s)
