"""What the generic cross-checks (`milp`, `milp_layers`, `constraint`) minimise: goals, and objectives made of them.

An objective is one linear goal, or two in turn: efficiency (devices, then latency), cost (price, then latency) and
throughput (bottleneck, then latency) hold the first while the second is minimised; balanced first finds the two
starred values. A method only has to minimise one `Goal`; it returns a `Step`: a plan, a proven bound, and whether
there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from gpuplan.errors import InputError
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.placement.holders import Holders, Stages
from gpuplan.solvers.result import Value

#: What an engine's tolerances may raise its bound by, relatively: CBC was seen 3.4e-9 above an optimum.
TOLERANCE = 1e-8
#: Relative difference of bound and objective below which a MILP or CP answer counts as proven.
PROVEN = 1e-6
#: The first key of a pair may rise by this much (relative) while the second is minimised.
TIE = 1e-9
OBJECTIVES = ("latency", "bottleneck", "efficiency", "cost", "balanced")


@dataclass(frozen=True, slots=True)
class Goal:
    """Minimise ``latency·latency_s + devices·used + price·price_per_hour``, or the bottleneck, under caps.

    devices_cap, price_cap, cycle_cap
        Values of an earlier step that must hold.
    """

    latency: float = 0.0
    devices: float = 0.0
    price: float = 0.0
    bottleneck: bool = False
    devices_cap: int | None = None
    price_cap: float | None = None
    cycle_cap: float | None = None


LATENCY, DEVICES, PRICE, BOTTLENECK = Goal(latency=1.0), Goal(devices=1.0), Goal(price=1.0), Goal(bottleneck=True)


@dataclass(frozen=True, slots=True)
class Step:
    """Outcome of minimising one goal.

    stages
        The best plan found, or None.
    bound
        Proven lower bound; −inf when nothing is known, inf when infeasible.
    infeasible
        Whether it is proven that there is no plan.
    failure
        What went wrong with the engine, in one sentence; empty where nothing did.
    """

    stages: Stages | None
    bound: float
    infeasible: bool = False
    failure: str = ""


#: Minimises a goal, from a plan that keeps to it or from None.
Minimize = Callable[[Goal, Stages | None], Step]
#: The same for a problem whose M is a number, with as many stages as given or any (None).
Once = Callable[[Holders, Goal, int | None, Stages | None], Step]


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of an objective: plan, its value, proven bound (None: none), proof of infeasibility.

    stars
        The proven reference values (latency, devices) of the balanced objective.
    failure
        What went wrong with the engine, in one sentence.
    """

    stages: Stages | None
    value: Value | None = None
    bound: Value | None = None
    infeasible: bool = False
    stars: tuple[float, float] | None = None
    failure: str = ""


def goal_value(holders: Holders, goal: Goal, stages: Stages) -> float:
    """Return the exact value of a plan under a goal."""
    worth = holders.worth(stages)
    if goal.bottleneck:
        return worth.bottleneck_s
    price = goal.price * worth.price_per_hour if goal.price else 0.0
    return goal.latency * worth.latency_s + goal.devices * worth.devices + price


# ------------------------------------------------------------------------------------------------- objectives


def first_goal(problem: DensePlacement) -> Goal:
    """Return the first goal of the problem's objective."""
    return {"bottleneck": BOTTLENECK, "efficiency": DEVICES, "cost": PRICE}.get(problem.objective.name, LATENCY)


def over_stage_counts(holders: Holders, goal: Goal, hint: Stages | None, once: Once) -> Step:
    """Minimise a goal; where M is as many as the stages, once per number of stages."""
    if holders.problem.micro_batches != "stages":
        return once(holders, goal, None, hint)
    steps = []
    for k in holders.stage_counts():
        start = hint if hint is not None and len(hint) == k else None
        steps.append(once(holders.with_micro_batches(k), goal, k, start))
    plans = [step.stages for step in steps if step.stages is not None]
    best = min(plans, key=lambda stages: goal_value(holders, goal, stages), default=None)
    bound = min(step.bound for step in steps)
    failures = [step.failure for step in steps if step.failure]
    return Step(best, bound, all(step.infeasible for step in steps), failures[0] if failures else "")


def solve_objective(
    holders: Holders, minimize: Minimize, start: Stages | None = None, *, latency_second: bool = False
) -> Answer:
    """Minimise the problem's objective with a method for single goals, from a plan where one is given.

    `latency_second`: of all plans with the least bottleneck the fastest is asked for, and the answer is a pair.
    """
    method = _Kept(holders, minimize)
    name, first = holders.problem.objective.name, first_goal(holders.problem)
    if name == "balanced":
        return _balanced(holders, method, start)
    if name == "latency" or (name == "bottleneck" and not latency_second):
        return _single(holders, first, method, start)
    return _pair(holders, first, method, start)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A method that never ends with less than it started from."""

    holders: Holders
    minimize: Minimize

    def __call__(self, goal: Goal, hint: Stages | None) -> Step:
        start = hint if hint is not None and _keeps_to(self.holders, goal, hint) else None
        step = self.minimize(goal, start)
        if start is None:
            return step
        if step.infeasible:
            return Step(start, -math.inf, failure="the engine says infeasible where a plan was given")
        value = goal_value(self.holders, goal, start)
        if step.stages is not None and goal_value(self.holders, goal, step.stages) <= value:
            return step
        return dataclasses.replace(step, stages=start)


def _keeps_to(holders: Holders, goal: Goal, stages: Stages) -> bool:
    """Return whether a plan is within the caps of a goal."""
    worth = holders.worth(stages)
    few = goal.devices_cap is None or worth.devices <= goal.devices_cap
    cheap = goal.price_cap is None or worth.price_per_hour <= goal.price_cap * (1 + TIE)
    return few and cheap and (goal.cycle_cap is None or worth.bottleneck_s <= goal.cycle_cap * (1 + TIE))


def _bound(holders: Holders, goal: Goal, step: Step) -> float | None:
    """Return a step's bound, rounding taken off: never above its own plan's value; None when there is none."""
    if not math.isfinite(step.bound):
        return None
    bound = max(step.bound * (1.0 - TOLERANCE), 0.0)
    if goal == DEVICES:
        bound = float(math.ceil(bound - PROVEN))
    return bound if step.stages is None else min(bound, goal_value(holders, goal, step.stages))


def _proven(value: float, bound: float | None) -> bool:
    return bound is not None and abs(value - bound) <= PROVEN * abs(value)


def _single(holders: Holders, goal: Goal, minimize: Minimize, start: Stages | None) -> Answer:
    step = minimize(goal, start)
    value = None if step.stages is None else goal_value(holders, goal, step.stages)
    return Answer(step.stages, value, _bound(holders, goal, step), step.infeasible, failure=step.failure)


def _pair(holders: Holders, first: Goal, minimize: Minimize, start: Stages | None) -> Answer:
    step = minimize(first, start)
    bound = _bound(holders, first, step)
    open_bound = None if bound is None else (bound, 0.0)
    if step.stages is None:
        return Answer(None, None, open_bound, step.infeasible, failure=step.failure)
    value = goal_value(holders, first, step.stages)
    if bound is None or not _proven(value, bound):
        return Answer(step.stages, _pair_value(holders, first, step.stages), open_bound, failure=step.failure)
    second = minimize(_capped(first, value), step.stages)
    stages = second.stages
    if stages is None or goal_value(holders, first, stages) > value * (1 + 2 * TIE):
        stages = step.stages  # an engine's tolerance let the first key slip
    latency_bound = _bound(holders, LATENCY, Step(stages, second.bound)) or 0.0
    pair = _pair_value(holders, first, stages)
    return Answer(stages, pair, (pair[0], latency_bound), failure=second.failure)


def _capped(first: Goal, value: float) -> Goal:
    """Return the second goal: latency, the first held at its optimum."""
    if first == DEVICES:
        return Goal(latency=1.0, devices_cap=round(value))
    return Goal(latency=1.0, cycle_cap=value) if first.bottleneck else Goal(latency=1.0, price_cap=value)


def _pair_value(holders: Holders, first: Goal, stages: Stages) -> tuple[float, float]:
    return goal_value(holders, first, stages), goal_value(holders, LATENCY, stages)


def _balanced(holders: Holders, minimize: Minimize, start: Stages | None) -> Answer:
    """Minimise ``α₁·latency/latency* + α₂·devices/devices*``; both starred values have to be proven."""
    stars, plans = [], []
    for goal in (LATENCY, DEVICES):
        step = minimize(goal, start)
        if step.stages is None:
            return Answer(None, infeasible=step.infeasible, failure=step.failure)
        value = goal_value(holders, goal, step.stages)
        if not _proven(value, _bound(holders, goal, step)):
            return Answer(None, failure=step.failure)
        stars.append(value)
        plans.append(step.stages)
    if stars[0] <= 0.0:
        raise InputError("the balanced objective divides by the least latency, which is 0; give the layers times")
    weights = holders.problem.objective
    goal = Goal(latency=weights.latency_weight / stars[0], devices=weights.devices_weight / stars[1])
    best = min([*plans, *([] if start is None else [start])], key=lambda stages: goal_value(holders, goal, stages))
    return dataclasses.replace(_single(holders, goal, minimize, best), stars=(stars[0], stars[1]))
