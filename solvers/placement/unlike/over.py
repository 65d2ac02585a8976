"""More unlike devices than tables by class may hold: the problem rounded to ε-classes answers in its place.

Its bound holds for the true problem; its plan, with the fastest true devices of each class, is checked and priced
there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.evaluate import broken_rule
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.tables import ClassTables
from gpuplan.solvers.placement.unlike.nearly import SLACK, Finest, finest_rounding
from gpuplan.solvers.result import Report, Result, Value

#: Share of the limits for the problem rounded down; what is left is for the one rounded up.
DOWN = 0.6

Stages = tuple[StageRange, ...]


def solve_rounded(
    problem: DensePlacement, limits: Limits, seed: int, *, latency_second: bool = False
) -> Result[PlacementSolution] | None:
    """Solve a problem by ε-classes alone; None where rounding does not make devices alike, or may not be used.

    A balanced objective is measured by optima of the true problem, which are not known here.
    """
    if problem.objective.name == "balanced":
        return None
    from gpuplan.solvers.placement.dense import to_result

    budget = Budget(limits)
    try:
        found = finest_rounding(problem, math.inf)
    except UnsupportedError:
        return None
    if found is None:
        return None
    down = _solve(found.rounded.problem, _share(budget, DOWN), seed, latency_second)
    if down.status == "infeasible":
        return dataclasses.replace(down, report=_report(found, down.report, budget))
    stages = None if down.plan is None else _true_stages(problem, found.tables, down.plan.stages)
    if stages is None:
        worse = found.rounding.rounded(found.rounded.group, found.epsilon, up=True)
        up = _solve(worse.problem, _share(budget, 1.0), seed, latency_second)
        stages = None if up.plan is None else _true_stages(problem, found.tables, up.plan.stages)
    outcome = Outcome("feasible", None, _lowered(down.bound))
    report = _report(found, down.report, budget)
    return to_result(problem, stages, outcome, report, latency_second=latency_second)


def _solve(problem: DensePlacement, limits: Limits, seed: int, latency_second: bool) -> Result[PlacementSolution]:
    from gpuplan.solvers.placement.dense import solve_dense

    return solve_dense(problem, limits, seed, latency_second=latency_second)


def _share(budget: Budget, share: float) -> Limits:
    """Return limits of a share of the time left."""
    limits = budget.limits
    if limits.time_limit_s is None:
        return limits
    return dataclasses.replace(limits, time_limit_s=max(share * budget.remaining_s, 1e-3))


def _true_stages(problem: DensePlacement, tables: ClassTables, stages: Stages) -> Stages | None:
    """Give stages to the fastest devices of their classes, the longest first; None where they are no plan."""
    home = {device: c for c, members in enumerate(tables.members) for device in members}
    left = {c: list(tables.members[c]) for c in {home[stage.device] for stage in stages}}
    compute = problem.latency.compute_s
    chosen = list(stages)
    for k in sorted(range(len(stages)), key=lambda k: stages[k].start - stages[k].stop):
        stage = stages[k]
        free = left[home[stage.device]]
        best = free[int(np.argmin(compute[free, stage.start : stage.stop].sum(axis=1)))]
        free.remove(best)
        chosen[k] = StageRange(best, stage.start, stage.stop)
    for plan in (tuple(chosen), stages):
        if broken_rule(problem, plan) is None:
            return plan
    return None


def _lowered(bound: Value | None) -> Value | None:
    if bound is None:
        return None
    if isinstance(bound, tuple):
        return bound[0], bound[1] - SLACK * abs(bound[1])
    return bound - SLACK * abs(bound)


def _report(found: Finest, inner: Report, budget: Budget) -> Report:
    """Describe how the answer was reached."""
    note = f"too many unlike devices for tables by class: {found.describe()}, and solved so"
    return dataclasses.replace(
        inner,
        wall_time_s=budget.elapsed_s,
        bound_kind="ε-classes",
        notes=(note, *inner.notes),
        proof=f"{found.describe()}; {inner.proof}",
    )
