"""Climbing the ladder of efforts: Lagrangian bound, relaxed paths as plans, beams, then the pruned label search.

The return hop couples the first and the last stage, so the plans are split by first group (classes that see the same
return hop). Groups are worked on best bound first, each with rising effort, until every bound reaches the incumbent.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome, FirstGroup, first_groups, without_costs
from gpuplan.solvers.placement.effort import (
    FEW_LABELS,
    JOINT_STEPS,
    LADDER,
    PROBE_LADDER,
    SHORT_JOINT_STEPS,
    SHORT_LADDER,
    Settings,
)
from gpuplan.solvers.placement.labels import search
from gpuplan.solvers.placement.lagrangian import (
    Arrays,
    Relaxation,
    group_relaxation,
    holding_prices,
    joint_relaxation,
    kernel_arrays,
)
from gpuplan.solvers.placement.small import count_labels
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.fill import BY_MEMORY, fill


@dataclass
class _Open:
    """A first group whose plans are not settled: its relaxation and the next rung of effort."""

    group: FirstGroup
    relaxation: Relaxation
    rung: int = 0


#: Relaxation of the plans with this return hop, these last windows and these first classes.
Relax = Callable[[FloatArray, IntArray, IntArray], Relaxation]


class LadderSearch:
    """One core whose counters fit a key, searched with rising effort; `run` for the whole of it.

    `relax` gives relaxations bounded elsewhere, in place of steps on the joint one.
    """

    def __init__(
        self,
        core: Core,
        upper: float,
        budget: Budget,
        settings: Settings,
        hint: ClassPath | None,
        multipliers: dict[str, FloatArray],
        relax: Relax | None = None,
    ) -> None:
        self.core, self.budget, self.settings = core, budget, settings
        self.best = upper
        self.path: ClassPath | None = None
        self.memory = multipliers
        self.relax = relax
        self.arrays: Arrays = kernel_arrays(core)
        self.groups = first_groups(core)
        few = count_labels(core, len(self.groups)) <= FEW_LABELS
        self.ladder = settings.ladder or (SHORT_LADDER if few else LADDER)
        self.probed = False
        self.left = math.inf  # least bound among groups given up at the last rung
        if hint is not None and core.holds(hint):
            self.offer(core.value(hint), hint)

    def run(self) -> CoreOutcome:
        """Climb the ladder group by group, the least bound first."""
        if self.found_any():
            return self.outcome(-math.inf)
        queue = self._open_groups()
        order = itertools.count(len(self.groups))  # ties: the group queued first
        while queue:
            bound, _, item = heapq.heappop(queue)
            if self.settled(bound) or self.found_any():
                self.left = min(self.left, bound)
                break
            if self.budget.exhausted() or item.rung >= len(self.ladder):
                self.left = min(self.left, bound)
                continue
            dropped = self._work_on(item)
            if self._nothing_found(item) and not self._try_feasibility():
                return self.outcome(math.inf)
            self._report(bound)
            if dropped < math.inf:
                heapq.heappush(queue, (dropped, next(order), item))
        least = min([self.left] + [bound for bound, _, _ in queue], default=math.inf)
        return self.outcome(least)

    def found_any(self) -> bool:
        """Whether a plan is known and any will do."""
        return self.core.any_plan and self.path is not None

    def _open_groups(self) -> list[tuple[float, int, _Open]]:
        """Bound all groups: together first, then each with the multipliers of the whole."""
        joint = self.bound_jointly(self._joint_steps())
        if len(self.groups) == 1:
            bound = max(joint.lower, joint.relax_plainly())
            return [] if bound == math.inf else [(bound, 0, _Open(self.groups[0], joint, 1))]
        if joint.lower == math.inf:
            return []
        queue: list[tuple[float, int, _Open]] = []
        for k, group in enumerate(self.groups):
            if self.budget.remaining_s <= 0.0:
                self.left = joint.lower  # which bounds the groups left, too
                break
            relaxation = self._relax_group(group, joint)
            plain = relaxation.relax_plainly()
            bound = max(relaxation.lower, joint.lower, plain)
            if bound < math.inf and np.isfinite(group.term).any():
                queue.append((bound, k, _Open(group, relaxation)))
        heapq.heapify(queue)
        return queue

    def _relax_group(self, group: FirstGroup, joint: Relaxation) -> Relaxation:
        if self.relax is None:
            return group_relaxation(self.arrays, group, joint.best_multipliers)
        return self.relax(group.term, group.ending, np.array(group.classes, dtype=np.int64))

    def _joint_steps(self) -> int:
        if self.settings.joint_steps is not None:
            return self.settings.joint_steps
        return SHORT_JOINT_STEPS if self.ladder is SHORT_LADDER else JOINT_STEPS

    def _nothing_found(self, item: _Open) -> bool:
        """Whether a first beam has left the search without a plan or a value to beat; said once."""
        if math.isfinite(self.best) or self.core.any_plan or self.probed or self.ladder[item.rung - 1].width == 0:
            return False
        self.probed = True
        return True

    def _try_feasibility(self) -> bool:
        """Look for any plan at all where none is known, times left aside; return whether one may exist.

        A search for low cost fills its beam with labels that run out of memory when the packing is hard; asked for
        feasibility alone it prices memory only. Filling devices comes first: it decides most packings at once.
        """
        core = self.core
        if math.isfinite(self.best) or core.any_plan:
            return True
        filled = fill(core, self.budget)
        if filled.path is not None:
            self.offer(core.value(filled.path), filled.path)
        if filled.impossible:
            self.settings.trace.proof = BY_MEMORY
        if filled.path is not None or filled.impossible:
            return not filled.impossible
        bare = LadderSearch(
            without_costs(core), math.inf, self.budget, replace(self.settings, ladder=PROBE_LADDER), None, {}
        )
        answer = bare.run()
        if answer.path is not None:
            self.offer(core.value(answer.path), answer.path)
        return answer.path is not None or not answer.proven

    def bound_jointly(self, steps: int) -> Relaxation:
        """Bound all groups by one relaxation; its path may be a plan."""
        joint = joint_relaxation(self.arrays, self.groups, self._start_multipliers())
        if self.relax is not None:
            return self.relax(joint.term, joint.ending, joint.allowed)
        joint.raise_bound(steps, self.best, self.budget, self.target())
        self._remember(joint)
        if joint.path is not None and self.core.holds(joint.path):
            self.offer(self.core.value(joint.path), joint.path)
        self._report(joint.lower)
        return joint

    def _report(self, bound: float) -> None:
        if not self.core.any_plan:
            known = self.best if self.path is not None else None
            self.budget.report("placement", known, bound if math.isfinite(bound) else None)

    def _start_multipliers(self) -> FloatArray:
        known = self.memory.get("best")
        if known is not None and len(known) == len(self.arrays.limits):
            return known
        start = np.zeros(len(self.arrays.limits))
        if self.arrays.trivial == 0.0:
            # Bare feasibility: what a device can hold at most is a good price for using it.
            prices = holding_prices(self.core)
            start[: len(prices)] = prices
        return start

    def _remember(self, relaxation: Relaxation) -> None:
        if math.isfinite(relaxation.lower):
            self.memory["best"] = relaxation.best_multipliers.copy()

    def target(self) -> float:
        """Bound at which nothing is left to prove."""
        core = self.core
        if math.isinf(self.best):
            return math.inf
        return self.best - core.step * (1.0 - 1e-6) if core.step > 0.0 else self.best - 1e-11 * abs(self.best)

    def settled(self, bound: float) -> bool:
        """Whether plans of at least this bound cannot improve on the incumbent."""
        return bound >= self.target()

    def _work_on(self, item: _Open) -> float:
        """Spend one rung on a group; return the bound of what is left of it (inf: nothing)."""
        effort, relaxation = self.ladder[item.rung], item.relaxation
        item.rung += 1
        if effort.steps:
            relaxation.raise_bound(effort.steps, self.best, self.budget, self.target())
            self.offer(relaxation.upper, relaxation.path)
            self._remember(relaxation)
        bound = relaxation.lower
        if self.settled(bound) or effort.width == 0 or self.found_any():
            return bound
        settings = self.settings
        found = search(relaxation, self.best, effort.width, self.budget, settings.threads, bound, settings.word_bits)
        self.offer(found.value, found.path)
        return max(bound, found.dropped)

    def offer(self, value: float, path: ClassPath | None) -> None:
        """Take a plan if it is better than the incumbent."""
        if path is not None and value < self.best:
            self.best, self.path = value, path

    def outcome(self, least: float) -> CoreOutcome:
        """State the incumbent when nothing below the bound `least` is left unexplored."""
        proven = self.settled(least) if math.isfinite(self.best) else least == math.inf
        if self.core.any_plan and self.path is not None:
            return CoreOutcome(self.best, self.path, -math.inf, False)
        if proven:
            return CoreOutcome(self.best if self.path is not None else math.inf, self.path, self.best, True)
        bound = min(least, self.best)
        return CoreOutcome(self.best if self.path is not None else math.inf, self.path, bound, False)
