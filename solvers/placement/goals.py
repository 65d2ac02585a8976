"""What the generic cross-checks (`milp`, `milp_layers`, `constraint`) share: blocks, goals, objectives made of them.

An objective is one linear goal, or two in turn: efficiency (devices, then latency) and cost (price, then latency) hold
the first while the second is minimised; balanced first finds the two starred values. A method only has to minimise
one `Goal`; it returns a `Step`: a plan, a proven bound, and whether there is none.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Timing
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.baselines.common import (
    balanced_parts,
    check_prices,
    layer_bytes,
    refuse_front,
    room_bytes,
    stage_counts,
    with_micro_batches,
)
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate, hop_s, terms
from gpuplan.solvers.result import Report, Result, Status, Value, relative_gap

#: Relative difference of bound and objective below which a MILP or CP answer counts as proven.
PROVEN = 1e-6
#: The first key of a pair may rise by this much (relative) while the second is minimised.
TIE = 1e-9
OBJECTIVES = ("latency", "bottleneck", "efficiency", "cost", "balanced")

Stages = tuple[StageRange, ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """Minimise ``latency·latency_s + stages·K + price·price_per_hour``, or the bottleneck, under caps.

    stages_cap, price_cap
        Values of an earlier step that must hold.
    """

    latency: float = 0.0
    stages: float = 0.0
    price: float = 0.0
    bottleneck: bool = False
    stages_cap: int | None = None
    price_cap: float | None = None


LATENCY, STAGES, PRICE, BOTTLENECK = Goal(latency=1.0), Goal(stages=1.0), Goal(price=1.0), Goal(bottleneck=True)


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
Once = Callable[[DensePlacement, Goal, int | None, Stages | None], Step]


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


# ------------------------------------------------------------------------------------------------------- the numbers


@dataclass(frozen=True)
class Blocks:
    """What a plan can be made of, M a number.

    blocks
        (d, i, j): layers i..j−1 fit device d and hold what every stage must.
    links
        (d, e, i): a block on d ends and one on e starts at cut i, and d reaches e.

    Returns
    -------
        (d, e): d may send the return hop to e; None without a return hop.
    """

    problem: DensePlacement
    blocks: list[tuple[int, int, int]]
    links: list[tuple[int, int, int]]
    returns: list[tuple[int, int]] | None
    prefix: dict[str, FloatArray] = field(repr=False)

    def timing(self, name: str) -> Timing:
        """Return the numbers of ``latency`` or ``cycle``."""
        return self.problem.latency if name == "latency" else self.problem.cycle

    def block_s(self, name: str, d: int, i: int, j: int) -> float:
        """Compute time of a block."""
        return float(self.prefix[name][d, j] - self.prefix[name][d, i])

    def link_s(self, name: str, d: int, e: int, i: int) -> float:
        """Time of a hand-over at cut i."""
        timing = self.timing(name)
        return hop_s(timing.hop, d, e, float(timing.boundary_bytes[i - 1]))

    def return_s(self, name: str, d: int, e: int) -> float:
        """Time of the return hop, 0 where this timing has none."""
        timing = self.timing(name)
        return 0.0 if timing.return_hop is None else hop_s(timing.return_hop, d, e, timing.return_bytes)


def blocked_pairs(problem: DensePlacement, *, back: bool = False) -> NDArray[np.bool_]:
    """Return where latency or cycle has no route (and the diagonal), shape (D, D); `back`: of the return hop."""
    blocked = np.eye(problem.num_devices, dtype=np.bool_)
    for timing in (problem.latency, problem.cycle):
        table = timing.return_hop if back else timing.hop
        if table is not None:
            blocked |= np.isinf(table.latency_s) | np.isinf(table.s_per_byte)
    return blocked


def has_return_hop(problem: DensePlacement) -> bool:
    """Return whether latency or cycle has a return hop."""
    return problem.latency.return_hop is not None or problem.cycle.return_hop is not None


def fitting_blocks(problem: DensePlacement) -> list[tuple[int, int, int]]:
    """List every (d, i, j) that a plan may hold, M a number."""
    n = problem.num_layers
    sizes = np.concatenate([[0.0], np.cumsum(layer_bytes(problem))])
    room, held = room_bytes(problem), problem.must_hold
    blocks = []
    for d, i in itertools.product(range(problem.num_devices), range(n)):
        for j in range(i + 1, n + 1):
            saved = problem.single_stage_saving_bytes if j - i == n else 0.0
            if sizes[j] - sizes[i] - saved <= room[d] and (held is None or bool(held[i:j].any())):
                blocks.append((d, i, j))
    return blocks


def make_blocks(problem: DensePlacement) -> Blocks:
    """List what a plan can be made of."""
    D, n = problem.num_devices, problem.num_layers
    blocks = fitting_blocks(problem)
    ends, starts = {(d, j) for d, _, j in blocks}, {(d, i) for d, i, _ in blocks}
    open_pairs = np.argwhere(~blocked_pairs(problem)).tolist()
    links = [(d, e, i) for i in range(1, n) for d, e in open_pairs if (d, i) in ends and (e, i) in starts]
    returns = None
    if has_return_hop(problem):
        returns = [(d, e) for d, e in np.argwhere(~blocked_pairs(problem, back=True)).tolist()]
    prefix = {
        name: np.concatenate([np.zeros((D, 1)), np.cumsum(timing.compute_s, axis=1)], axis=1)
        for name, timing in (("latency", problem.latency), ("cycle", problem.cycle))
    }
    return Blocks(problem, blocks, links, returns, prefix)


def goal_value(problem: DensePlacement, goal: Goal, stages: Stages) -> float:
    """Return the exact value of a plan under a goal."""
    worth = evaluate(problem, stages)
    if goal.bottleneck:
        return worth.bottleneck_s
    price = goal.price * worth.price_per_hour if goal.price else 0.0
    return goal.latency * worth.latency_s + goal.stages * worth.devices + price


# ------------------------------------------------------------------------------------------------- objectives


def first_goal(problem: DensePlacement) -> Goal:
    """Return the first goal of the problem's objective."""
    return {"bottleneck": BOTTLENECK, "efficiency": STAGES, "cost": PRICE}.get(problem.objective.name, LATENCY)


def over_stage_counts(
    problem: DensePlacement,
    goal: Goal,
    hint: Stages | None,
    once: Once,
) -> Step:
    """Minimise a goal; where M is as many as the stages, once per number of stages."""
    if problem.micro_batches != "stages":
        return once(problem, goal, None, hint)
    steps = []
    for k in stage_counts(problem):
        start = hint if hint is not None and len(hint) == k else None
        steps.append(once(with_micro_batches(problem, k), goal, k, start))
    plans = [step.stages for step in steps if step.stages is not None]
    best = min(plans, key=lambda stages: goal_value(problem, goal, stages), default=None)
    bound = min(step.bound for step in steps)
    failures = [step.failure for step in steps if step.failure]
    return Step(best, bound, all(step.infeasible for step in steps), failures[0] if failures else "")


def solve_goals(
    problem: DensePlacement,
    name: str,
    once: Once,
    budget: Budget,
    warm_start: PlacementSolution | None,
    report: Callable[[], Report],
) -> Result[PlacementSolution]:
    """Answer a problem by a method that minimises one goal, M a number, in a process of its own.

    Parameters
    ----------
    problem, name
        What is asked, and the method's name.
    once
        Minimises one goal; `budget` is what it may use.
    warm_start
        A plan to start from, or None.
    report
        Asked at the end how the answer was reached.
    """
    start = check_start(problem, warm_start)

    def minimize(goal: Goal, hint: Stages | None) -> Step:
        return over_stage_counts(problem, goal, hint, once)

    with kept_workers():
        answer = solve_objective(problem, minimize, start)
    return conclude(problem, name, answer, budget, report())


def solve_objective(problem: DensePlacement, minimize: Minimize, start: Stages | None = None) -> Answer:
    """Minimise the problem's objective with a method for single goals, from a plan where one is given."""
    method = _Kept(problem, minimize)
    name = problem.objective.name
    if name == "balanced":
        return _balanced(problem, method, start)
    if name in ("latency", "bottleneck"):
        return _single(problem, first_goal(problem), method, start)
    return _pair(problem, first_goal(problem), method, start)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A method that never ends with less than it started from."""

    problem: DensePlacement
    minimize: Minimize

    def __call__(self, goal: Goal, hint: Stages | None) -> Step:
        start = hint if hint is not None and _keeps_to(self.problem, goal, hint) else None
        step = self.minimize(goal, start)
        if start is None:
            return step
        if step.infeasible:
            return Step(start, -math.inf, failure="the engine says infeasible where a plan was given")
        value = goal_value(self.problem, goal, start)
        if step.stages is not None and goal_value(self.problem, goal, step.stages) <= value:
            return step
        return dataclasses.replace(step, stages=start)


def _keeps_to(problem: DensePlacement, goal: Goal, stages: Stages) -> bool:
    """Return whether a plan is within the caps of a goal."""
    few = goal.stages_cap is None or len(stages) <= goal.stages_cap
    if goal.price_cap is None:
        return few
    return few and evaluate(problem, stages).price_per_hour <= goal.price_cap * (1 + TIE)


def _bound(problem: DensePlacement, goal: Goal, step: Step) -> float | None:
    """Return a step's bound, rounding taken off: never above its own plan's value; None when there is none."""
    if not math.isfinite(step.bound):
        return None
    bound = max(step.bound, 0.0)
    if goal == STAGES:
        bound = float(math.ceil(bound - PROVEN))
    return bound if step.stages is None else min(bound, goal_value(problem, goal, step.stages))


def _proven(value: float, bound: float | None) -> bool:
    return bound is not None and abs(value - bound) <= PROVEN * abs(value)


def _single(problem: DensePlacement, goal: Goal, minimize: Minimize, start: Stages | None) -> Answer:
    step = minimize(goal, start)
    value = None if step.stages is None else goal_value(problem, goal, step.stages)
    return Answer(step.stages, value, _bound(problem, goal, step), step.infeasible, failure=step.failure)


def _pair(problem: DensePlacement, first: Goal, minimize: Minimize, start: Stages | None) -> Answer:
    step = minimize(first, start)
    bound = _bound(problem, first, step)
    open_bound = None if bound is None else (bound, 0.0)
    if step.stages is None:
        return Answer(None, None, open_bound, step.infeasible, failure=step.failure)
    value = goal_value(problem, first, step.stages)
    if bound is None or not _proven(value, bound):
        return Answer(step.stages, _pair_value(problem, first, step.stages), open_bound, failure=step.failure)
    by_count = first == STAGES
    capped = Goal(latency=1.0, stages_cap=round(value) if by_count else None, price_cap=None if by_count else value)
    second = minimize(capped, step.stages)
    stages = second.stages
    if stages is None or goal_value(problem, first, stages) > value * (1 + 2 * TIE):
        stages = step.stages  # an engine's tolerance let the first key slip
    latency_bound = _bound(problem, LATENCY, Step(stages, second.bound)) or 0.0
    pair = _pair_value(problem, first, stages)
    return Answer(stages, pair, (pair[0], latency_bound), failure=second.failure)


def _pair_value(problem: DensePlacement, first: Goal, stages: Stages) -> tuple[float, float]:
    return goal_value(problem, first, stages), goal_value(problem, LATENCY, stages)


def _balanced(problem: DensePlacement, minimize: Minimize, start: Stages | None) -> Answer:
    """Minimise ``α₁·latency/latency* + α₂·devices/devices*``; both starred values have to be proven."""
    stars, plans = [], []
    for goal in (LATENCY, STAGES):
        step = minimize(goal, start)
        if step.stages is None:
            return Answer(None, infeasible=step.infeasible, failure=step.failure)
        value = goal_value(problem, goal, step.stages)
        if not _proven(value, _bound(problem, goal, step)):
            return Answer(None, failure=step.failure)
        stars.append(value)
        plans.append(step.stages)
    if stars[0] <= 0.0:
        raise InputError("the balanced objective divides by the least latency, which is 0; give the layers times")
    weights = problem.objective
    goal = Goal(latency=weights.latency_weight / stars[0], stages=weights.devices_weight / stars[1])
    best = min([*plans, *([] if start is None else [start])], key=lambda stages: goal_value(problem, goal, stages))
    return dataclasses.replace(_single(problem, goal, minimize, best), stars=(stars[0], stars[1]))


# --------------------------------------------------------------------------------------------- in and out


def check_supported(problem: DensePlacement, name: str) -> None:
    """Refuse fronts, objectives without a natural linear form, and missing prices."""
    refuse_front(problem, name)
    if problem.objective.name not in OBJECTIVES:
        raise UnsupportedError(
            f"{name} supports {', '.join(OBJECTIVES)}, not {problem.objective.name}; use --solver auto"
        )
    if problem.objective.name == "cost":
        check_prices(problem)


def refuse_large(problem: DensePlacement, name: str, variables: int, most: int) -> None:
    """Refuse problems whose model would be too large to be a useful cross-check."""
    if variables > most:
        n, D = problem.num_layers, problem.num_devices
        raise UnsupportedError(
            f"{name} takes models of up to {most:,} variables, {D} devices and {n} layers need up to {variables:,}; "
            "use --solver auto"
        )


def refuse_counted_micro_batches(problem: DensePlacement) -> None:
    """Refuse to write a model where M follows the number of stages."""
    if problem.micro_batches == "stages":
        raise UnsupportedError("one model has one number of micro-batches; give --micro-batches a number to write it")


def check_start(problem: DensePlacement, warm_start: PlacementSolution | None) -> Stages | None:
    """Return the stages of a plan to start from; UsageError when it is none of this problem."""
    if warm_start is None:
        return None
    fault = broken_rule(problem, warm_start.stages)
    if fault is not None:
        raise UsageError(f"the warm start is not a plan for this problem: {fault}; give one that is, or none")
    return warm_start.stages


def conclude(
    problem: DensePlacement, name: str, answer: Answer, budget: Budget, report: Report
) -> Result[PlacementSolution]:
    """Turn an answer into a Result; ``optimal`` only when value and bound agree within 1e-6."""
    if answer.failure:
        report = dataclasses.replace(report, failure=answer.failure)
    if answer.stages is None:
        if answer.failure:
            return Result("no_solution", None, None, answer.bound, None, report, reasons=(f"{name}: {answer.failure}",))
        if answer.infeasible:
            from gpuplan.solvers.placement.infeasible import explain_infeasible

            reasons = explain_infeasible(problem)
            if reasons:
                return Result("infeasible", None, None, None, None, report, reasons=reasons)
            reasons = (f"{name}: the engine says infeasible, but memory and routes allow a plan; use --solver auto",)
            return Result("no_solution", None, None, None, None, report, reasons=reasons)
        limit = "the limit was reached" if budget.exhausted() else "the engine gave up"
        what = "its reference values were proven" if problem.objective.name == "balanced" else "a plan was found"
        reasons = (f"{name}: {limit} before {what}; allow more time or use --solver auto",)
        return Result("no_solution", None, None, answer.bound, None, report, reasons=reasons)
    assert answer.value is not None
    gap = relative_gap(answer.value, answer.bound)
    status: Status = "optimal" if gap is not None and gap <= PROVEN else "feasible"
    figures = terms(problem, answer.stages)
    if answer.stars is not None:
        figures.update(balanced_parts(problem, evaluate(problem, answer.stages), *answer.stars))
    gap = 0.0 if status == "optimal" else gap
    return Result(status, PlacementSolution(answer.stages), answer.value, answer.bound, gap, report, terms=figures)
