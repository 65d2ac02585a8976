"""More unlike devices than tables by class may hold: the problem rounded to ε-classes answers in its place.

Its bound holds for the true problem; its plan, with the fastest true devices of each class, is checked and priced
there. Then the true problem is searched over some hundreds of its devices: the plan's hosts and the fastest of others.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.hops import Hops, HopTable, IntArray, UnitHops
from gpuplan.profiles.problems.placement import DensePlacement, Timing
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.classes import all_hops
from gpuplan.solvers.placement.evaluate import broken_rule
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.tables import ClassTables
from gpuplan.solvers.placement.unlike.nearly import SLACK, Finest, finest_rounding
from gpuplan.solvers.result import Report, Result, Value

#: Shares of the time left for the problem rounded down, and then for the one rounded up.
DOWN, UP = 0.5, 0.3
#: Devices that the true problem is searched over.
MOST_DEVICES = 512

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
    budget.spend(down.report.work)
    if down.status == "infeasible":
        return dataclasses.replace(down, report=_report(found, down.report, budget))
    stages = None if down.plan is None else _true_stages(problem, found.tables, down.plan.stages)
    if stages is None:
        worse = found.rounding.rounded(found.rounded.group, found.epsilon, up=True)
        up = _solve(worse.problem, _share(budget, UP), seed, latency_second)
        budget.spend(up.report.work)
        stages = None if up.plan is None else _true_stages(problem, found.tables, up.plan.stages)
    if stages is not None and not budget.exhausted():
        stages = _improved(problem, found.tables, stages, _share(budget, 1.0), seed, latency_second)
    outcome = Outcome("feasible", None, _lowered(down.bound))
    report = _report(found, down.report, budget)
    return to_result(problem, stages, outcome, report, latency_second=latency_second)


def _solve(
    problem: DensePlacement, limits: Limits, seed: int, latency_second: bool, start: PlacementSolution | None = None
) -> Result[PlacementSolution]:
    from gpuplan.solvers.placement.dense import solve_dense

    return solve_dense(problem, limits, seed, latency_second=latency_second, warm_start=start)


def _share(budget: Budget, share: float) -> Limits:
    """Return limits of a share of the time and work left."""
    limits = budget.limits
    time, work = limits.time_limit_s, limits.work_limit
    return dataclasses.replace(
        limits,
        time_limit_s=None if time is None else max(share * budget.remaining_s, 1e-3),
        work_limit=None if work is None else max(int(share * (work - budget.work)), 1),
    )


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


def _improved(
    problem: DensePlacement, tables: ClassTables, stages: Stages, limits: Limits, seed: int, latency_second: bool
) -> Stages:
    """Return the best plan found on the classes of a plan and the fastest others."""
    devices = _promising(problem, tables, stages)
    place = {device: k for k, device in enumerate(devices.tolist())}
    start = PlacementSolution(tuple(StageRange(place[s.device], s.start, s.stop) for s in stages))
    found = _solve(part_of(problem, devices), limits, seed, latency_second, start)
    if found.plan is None:
        return stages
    return tuple(StageRange(int(devices[s.device]), s.start, s.stop) for s in found.plan.stages)


def _promising(problem: DensePlacement, tables: ClassTables, stages: Stages) -> IntArray:
    """Return the devices of a plan's classes, then of the classes that are fastest against what they are taken for."""
    used = {stage.device for stage in stages}
    totals = problem.latency.compute_s.sum(axis=1)
    taken_for = np.maximum(tables.latency.prefix[:, -1], 1e-300)
    slowness = [float(totals[list(group)].mean() / taken_for[c]) for c, group in enumerate(tables.members)]
    order = sorted(range(len(slowness)), key=lambda c: (used.isdisjoint(tables.members[c]), slowness[c]))
    chosen: list[int] = []
    for c in order:
        if len(chosen) + len(tables.members[c]) <= MOST_DEVICES:
            chosen += tables.members[c]
    return np.array(sorted(used.union(chosen)), dtype=np.int64)


def part_of(problem: DensePlacement, devices: IntArray) -> DensePlacement:
    """Return the problem on some of its devices, in the order given."""
    made = {id(hops): _part_of_hops(hops, devices) for hops in all_hops(problem)}

    def part(timing: Timing) -> Timing:
        back = None if timing.return_hop is None else made[id(timing.return_hop)]
        return dataclasses.replace(
            timing, compute_s=timing.compute_s[devices], hop=made[id(timing.hop)], return_hop=back
        )

    latency = part(problem.latency)
    return dataclasses.replace(
        problem,
        device_names=tuple(problem.device_names[d] for d in devices),
        available_bytes=problem.available_bytes[devices],
        price_per_hour=problem.price_per_hour[devices],
        latency=latency,
        cycle=latency if problem.cycle is problem.latency else part(problem.cycle),
    )


def _part_of_hops(hops: Hops, devices: IntArray) -> Hops:
    if isinstance(hops, HopTable):
        pairs = np.ix_(devices, devices)
        return HopTable(hops.latency_s[pairs], hops.s_per_byte[pairs])
    units, home = np.unique(hops.home[devices], return_inverse=True)
    pairs = np.ix_(units, units)
    return UnitHops(home.astype(np.int64), hops.unit_latency_s[pairs], hops.unit_s_per_byte[pairs])


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
        work=budget.work,
        bound_kind="ε-classes",
        notes=(note, *inner.notes),
        proof=f"{found.describe()}; {inner.proof}",
    )
