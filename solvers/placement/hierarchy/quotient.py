"""The quotient engine: relaxed plans by kinds, refined where they use more than exists, until one is real.

Every relaxed cost is a lower bound, so a relaxed path that fits the hosts and racks there are is optimal: that is the
certificate. One that does not is ruled out by what it breaks: devices of a stay in a rack, uses of a kind, stages are
counted exactly while the tables stay small, or priced (Lagrange multipliers); scarce hosts are searched one by one, the
others merged (`merged`). What is left is searched by the general engine, first among the hosts that relaxed paths
suggest, and the better of the bounds is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from gpuplan.profiles.problems.hops import FloatArray, IntArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.compiling import answer_meanwhile
from gpuplan.solvers.placement.core import Core, CoreOutcome
from gpuplan.solvers.placement.effort import BEAM_LADDER, Settings
from gpuplan.solvers.placement.hierarchy.compiling import HIERARCHY
from gpuplan.solvers.placement.hierarchy.detect import Hierarchy
from gpuplan.solvers.placement.hierarchy.merged import merge_plenty
from gpuplan.solvers.placement.hierarchy.realise import realise
from gpuplan.solvers.placement.hierarchy.relaxed import (
    BYTES_PER_CELL,
    MOST_CELLS,
    Counter,
    Counters,
    Leg,
    Relaxed,
    cells,
    first_groups,
    kind_core,
    solve_relaxed,
)
from gpuplan.solvers.placement.reduced import restore, restrict
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.quiet import ShareBudget

#: Rounds of counting one more thing exactly.
MOST_ROUNDS = 6
#: Above so many entries a plan is looked for before the programme runs.
LARGE_CELLS = 3e5
#: Subgradient steps on prices at most, and table entries of them all.
PRICE_STEPS = 300
PRICE_CELLS = 1.5e8
#: Price of the dearest device in a budget, in multiples of the relaxed cost.
BUDGET_PRICE = 10.0
#: Fewer steps than this are not worth a larger table, and so many without a better bound shorten the steps.
FEW_STEPS = 15
PATIENCE = 6
#: Most of what is left of the limits that the search over scarce hosts may take, and prices on large tables.
MERGED_SHARE = 0.25
PRICE_SHARE = 0.2
#: The same of the general engine where no two devices of a host are alike, which kinds say little of.
GENERAL_SHARE = 0.7
#: Bits of the counters of the hosts that the general engine searches first.
KEY_BITS = 56


def refusal(core: Core, hierarchy: Hierarchy) -> str | None:
    """Return why the quotient cannot answer a core, or None."""
    if core.modes is not None:
        return "classes draw on common devices"
    if core.cap is not None:
        return "a cap on stages couples each one with the next"
    if hierarchy.num_kinds == core.num_classes:
        return "no two classes are alike"
    by_class = [core.counts, core.prefix, core.low, core.entry]
    if not all(hierarchy.fits(values) for values in (*by_class, *([] if core.weights is None else [core.weights]))):
        return "alike classes differ in what they cost"
    return None


def minimise(
    core: Core, hierarchy: Hierarchy, upper: float, budget: Budget, settings: Settings, hint: ClassPath | None = None
) -> CoreOutcome:
    """Return the best plan of two stages or more below `upper`, as `large.minimise` does.

    The core must not be refused by `refusal`.
    """
    until_ready = answer_meanwhile(HIERARCHY, core, upper, budget, settings, hint)
    if until_ready is not None:
        return until_ready
    search = _Quotient(core, hierarchy, upper, budget, settings)
    if hint is not None and core.holds(hint):
        search.offer(hint)
    return search.run()


@dataclass
class _Tried:
    """What the last relaxation counted, and what came of it."""

    track: bool = False
    parts: list[Counter] = field(default_factory=list)
    counted: set[tuple[int, int]] = field(default_factory=set)


class _Quotient:
    def __init__(self, core: Core, hierarchy: Hierarchy, upper: float, budget: Budget, settings: Settings) -> None:
        self.core, self.budget, self.settings = core, budget, settings
        self.kinds = kind_core(core, hierarchy)
        self.phases = max(len(term) for _, term in first_groups(self.kinds)) > 1
        self.best = upper
        self.path: ClassPath | None = None
        self.lower = -math.inf
        self.suggested: list[tuple[Leg, ...]] = []
        self.rows, self.limits = self._constraints()
        self.priced: FloatArray | None = None
        self.pricing = budget
        self.multipliers: dict[str, FloatArray] = {}
        limit = budget.limits.memory_limit_bytes
        self.most_cells = MOST_CELLS if limit is None else min(MOST_CELLS, limit / BYTES_PER_CELL)

    def run(self) -> CoreOutcome:
        """Refine, price, then search."""
        if not self._done():
            tried = self._refine()
            if not self._done() and self.suggested:
                self._price(tried)
            if not self._done() and self.suggested:
                self._search_suggested()
        if not self._done() and not self.budget.exhausted():
            self._search_all(self.budget)
        return self._outcome()

    def _constraints(self) -> tuple[FloatArray, FloatArray]:
        """Return what prices are on, by kind: uses of each kind, stages, and the budget where there is one."""
        core, num = self.core, len(self.kinds.per)
        rows: list[FloatArray] = [np.eye(num), np.ones((1, num))]
        limits: list[FloatArray] = [self.kinds.total.astype(np.float64), np.array([float(core.max_stages)])]
        if core.weights is not None:
            weights = self.kinds.hierarchy.of_kinds(core.weights)
            unit = float(weights.max()) or 1.0
            rows.append(weights[None, :] / unit)
            limits.append(np.array([core.limit / unit]))
        return np.vstack(rows), np.concatenate(limits)

    def offer(self, path: ClassPath) -> None:
        """Take a plan if it is better than the incumbent."""
        value = self.core.value(path)
        if value < self.best:
            self.best, self.path = value, path

    def _done(self) -> bool:
        return (self.core.any_plan and self.path is not None) or self.lower >= self._target()

    def _target(self) -> float:
        """Bound at which nothing is left to prove."""
        if math.isinf(self.best):
            return math.inf
        step = self.core.step
        # A price on the budget carries the budget's own tolerance into the bound; 1e-9 is what a proof may leave.
        slack = 1e-11 if self.core.weights is None else 1e-9
        return self.best - step * (1.0 - 1e-6) if step > 0.0 else self.best - slack * abs(self.best)

    def _refine(self) -> _Tried:
        """Solve the relaxation, counting whatever its path breaks, as long as the tables allow."""
        tried = _Tried()
        prices = np.zeros(len(self.limits))
        for _ in range(MOST_ROUNDS):
            counters = Counters(tuple(tried.parts))
            size = cells(self.kinds, tried.track, counters)
            if size > self.most_cells:
                break
            if size > LARGE_CELLS and self.suggested and self.priced is None:
                self._prepare()  # the table takes its time
                if self._done():
                    break
            relaxed = solve_relaxed(self.kinds, prices @ self.rows, tried.track, counters, self.budget)
            if relaxed is None:
                break
            self._take(relaxed, relaxed.cost - float(prices @ self.limits))
            if self._done():
                break
            if self._over_budget(relaxed.legs) and prices[-1] == 0.0:
                # Against the least price there is, as here mostly, one price that outweighs all times is exact.
                prices[-1] = BUDGET_PRICE * max(relaxed.cost, 1e-9)
            elif not self._count_more(tried, relaxed.legs):
                break
        return tried

    def _take(self, relaxed: Relaxed, bound: float) -> None:
        """Keep the bound, and the path where it can be given real hosts."""
        self.lower = max(self.lower, bound)
        if not relaxed.legs or bound >= self._target():
            return
        self.suggested.append(relaxed.legs)
        if self._over(relaxed.legs).any() or len(relaxed.legs) > self.core.max_stages:
            return
        if self._over_budget(relaxed.legs):
            return
        path = realise(self.kinds, relaxed.legs, self.phases, self.budget)
        if path is not None and self.core.holds(path):
            self.offer(path)
        shown = self.best if self.path is not None else None
        if not self.core.any_plan:
            self.budget.report("quotient", shown, self.lower if math.isfinite(self.lower) else None)

    def _used(self, legs: tuple[Leg, ...]) -> IntArray:
        return np.bincount([leg.kind for leg in legs], minlength=len(self.kinds.per))

    def _over(self, legs: tuple[Leg, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        over: np.ndarray[tuple[int], np.dtype[np.bool_]] = self._used(legs) > self.kinds.total
        return over

    def _over_budget(self, legs: tuple[Leg, ...]) -> bool:
        if self.core.weights is None:
            return False
        weights = self.kinds.hierarchy.of_kinds(self.core.weights)
        return float(self._used(legs) @ weights) > self.core.limit

    def _count_more(self, tried: _Tried, legs: tuple[Leg, ...]) -> bool:
        """Add what a path breaks to what is counted; return whether there was anything."""
        found = [(name, counter) for name, counter in self._broken(legs) if name not in tried.counted]
        for name, counter in found:
            tried.counted.add(name)
            tried.parts.append(counter)
        if found or tried.track:
            return bool(found)
        tried.track = True  # no count is wrong: too much of one stay, or a packing that does not work out
        return True

    def _broken(self, legs: tuple[Leg, ...]) -> Iterator[tuple[tuple[int, int], Counter]]:
        """Yield what a path uses too much of, by (level, kind): stages, a kind, a kind near the first class."""
        kinds, levels = self.kinds, self.kinds.hierarchy.levels
        num, most = len(kinds.per), self.core.max_stages
        if len(legs) > most:
            yield (-1, -1), Counter(np.full(num, most), np.ones((levels + 1, num), dtype=np.int64))
        for a in np.flatnonzero(self._over(legs)):
            adds = np.zeros((levels + 1, num), dtype=np.int64)
            adds[:, a] = 1
            yield (levels, int(a)), Counter(np.full(num, int(kinds.total[a])), adds)
        if self.phases and sum(leg.phase == 0 for leg in legs) > kinds.per[legs[0].kind]:
            adds = np.zeros((levels + 1, num), dtype=np.int64)
            adds[0] = 1  # whatever stands in the first host is of its kind
            yield (0, -1), Counter(kinds.per, adds)
            return  # what is too much in the host is too much around it, too
        for level in range(1, levels if self.phases else 0):
            near = self._used(tuple(leg for leg in legs if leg.phase <= level))
            for a in np.flatnonzero(near > kinds.shared[level, legs[0].kind]):
                adds = np.zeros((levels + 1, num), dtype=np.int64)
                adds[: level + 1, a] = 1
                yield (level, int(a)), Counter(np.minimum(kinds.shared[level, :, a], self.core.num_layers), adds)

    def _price(self, tried: _Tried) -> None:
        """Raise the bound by prices on uses of each kind and on stages; the paths met may be plans.

        First on small tables (`_prepare`), then with as much counted exactly as leaves a few dozen steps.
        """
        cases = len(first_groups(self.kinds))
        if self.priced is None:
            self._prepare()
        assert self.priced is not None
        for count in range(len(tried.parts), 0, -1):
            counters = Counters(tuple(tried.parts[:count]))
            if cells(self.kinds, tried.track, counters) > self.most_cells:
                continue
            steps = int(PRICE_CELLS / (cells(self.kinds, tried.track, counters) * cases))
            if steps >= FEW_STEPS and not self._done():
                self.pricing = ShareBudget(self.budget, PRICE_SHARE)
                self._raise_bound(self.priced, counters, tried.track, min(steps, PRICE_STEPS))
                break

    def _prepare(self) -> None:
        """Look for a plan, search scarce hosts, then price uses on the smallest tables."""
        self.priced = np.zeros(len(self.limits))
        if self.core.counts.max() == 1:
            self._search_all(ShareBudget(self.budget, GENERAL_SHARE), anew=True)
        if self.path is None:
            self._search_suggested()
        if not self._done():
            self._search_merged()
        if not self._done():
            self.priced = self._raise_bound(self.priced, Counters(), False, PRICE_STEPS)

    def _raise_bound(self, prices: FloatArray, counters: Counters, track: bool, steps: int) -> FloatArray:
        """Take subgradient steps from given prices (by kind, then of a stage); return the best ones."""
        rows, limits = self.rows, self.limits
        leading, best, theta, idle = prices.copy(), -math.inf, 1.0, 0
        for _ in range(steps):
            relaxed = solve_relaxed(self.kinds, prices @ rows, track, counters, self.pricing)
            if relaxed is None:
                break
            bound = relaxed.cost - float(prices @ limits) if relaxed.legs else math.inf
            self._take(relaxed, bound)
            if self._done() or not relaxed.legs:
                break
            if bound > best + 1e-7 * abs(bound):
                best, leading, idle = bound, prices.copy(), 0
            else:
                idle += 1
            if idle == PATIENCE:
                theta, idle, prices = 0.6 * theta, 0, leading.copy()
            slope = rows @ self._used(relaxed.legs) - limits
            slope[(prices <= 0.0) & (slope < 0.0)] = 0.0
            length = float(slope @ slope)
            if length == 0.0 or theta < 1e-3:
                break
            goal = self.best if math.isfinite(self.best) else 1.05 * max(self.lower, bound)
            prices = np.maximum(0.0, prices + theta * max(goal - bound, 1e-4 * abs(goal)) / length * slope)
        return leading

    def _search_suggested(self) -> None:
        """Search the hosts that relaxed paths suggest with the general engine, truncated."""
        from gpuplan.solvers.placement import large

        keep = self._suggested_classes()
        if not 0 < len(keep) < self.core.num_classes:
            return
        settings = replace(self.settings, ladder=BEAM_LADDER)
        part = large.minimise(restrict(self.core, keep), self.best, self.budget, settings)
        if part.path is not None:
            self.offer(restore(part.path, keep))

    def _search_merged(self) -> None:
        """Search scarce kinds host by host with the general engine, all others merged; within a share of the limits."""
        from gpuplan.solvers.placement import large

        merged = merge_plenty(self.core, self.kinds.hierarchy, self.settings.key_bits - 2)
        if merged is None:
            return
        found = large.minimise(merged.core, self.best, ShareBudget(self.budget, MERGED_SHARE), self.settings)
        if not self.core.any_plan:
            self.lower = max(self.lower, found.bound)
        elif found.path is None and found.proven:
            self.lower = math.inf
        path = None if found.path is None else merged.plan(found.path)
        if path is not None:
            self.offer(path)

    def _suggested_classes(self) -> IntArray:
        """Return classes whose counters fit a key: what the paths use, by rack, then the fastest of the others."""
        tree, counts = self.kinds.hierarchy, self.core.counts
        wanted = np.max([self._used(legs) for legs in self.suggested[-8:]], axis=0)
        useful = np.where(wanted[tree.kind] > 0, counts, 0)
        worth = np.bincount(tree.unit[1], weights=useful)[tree.unit[1]]
        slow = self.kinds.prefix[tree.kind, -1]
        order = np.lexsort((np.arange(len(counts)), tree.unit[1], slow, -worth))
        left, kept = KEY_BITS, set[int]()
        for spare in (False, True):
            for c in order.tolist():
                bits = int(counts[c]).bit_length()
                if bits <= left and c not in kept and (spare or wanted[tree.kind[c]] > 0):
                    kept.add(c)
                    left -= bits
                    wanted[tree.kind[c]] -= counts[c]
        return np.array(sorted(kept), dtype=np.int64)

    def _search_all(self, budget: Budget, *, anew: bool = False) -> None:
        """Hand the rest to the general engine, or begin anew without the plan there is; its bound is valid, too."""
        from gpuplan.solvers.placement import large

        upper, hint = (math.inf, None) if anew else (self.best, self.path)
        rest = large.minimise(self.core, upper, budget, self.settings, hint=hint, multipliers=self.multipliers)
        if rest.path is not None:
            self.offer(rest.path)
        self.lower = max(self.lower, self.best if rest.proven else rest.bound)

    def _outcome(self) -> CoreOutcome:
        value = self.best if self.path is not None else math.inf
        if self.core.any_plan and self.path is not None:
            return CoreOutcome(value, self.path, -math.inf, False)
        if self.lower >= self._target():
            return CoreOutcome(value, self.path, self.best, True)
        return CoreOutcome(value, self.path, min(self.lower, self.best), False)
