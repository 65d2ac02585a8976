"""One degree at a time on islands of alike devices: any solver of dense problems, the best degree, the least bound."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from gpuplan.errors import UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.groups.asked import Asked
from gpuplan.solvers.placement.groups.proofs import EACH_SIZE
from gpuplan.solvers.placement.groups.search import Found, as_pair, goal_of
from gpuplan.solvers.placement.groups.units import UnitProblem, unit_problem
from gpuplan.solvers.result import Result, Value


def best_degree(asked: Asked, *, chosen: bool = False) -> Found:
    """Solve the problem of every degree by one solver and return the best plan, with the least of the bounds.

    With `chosen` the groups are those of `unit_problem`, of many possible ones: then no bound and no proof is known.
    """
    degrees = asked.degrees
    if goal_of(asked.problem).name == "balanced" and len(degrees) > 1:
        raise UnsupportedError(
            f"solver {asked.entry.name} measures the objective balanced against the best plans of one degree, and"
            f" {len(degrees)} were asked for; ask for one, or for another objective"
        )
    answers: list[Found] = []
    for left, degree in zip(range(len(degrees), 0, -1), degrees, strict=True):
        units = unit_problem(asked.problem, asked.segments, degree, chosen=chosen)
        if units is not None:
            answers.append(_solve(asked, units, _share(asked.budget, left)))
    found = merged(answers)
    return _unproven(found) if chosen else found


def _unproven(found: Found) -> Found:
    """Keep a plan alone: other groups may give better ones, or any at all."""
    if found.value is None:
        return Found("no_solution", how=found.how, reasons=("no plan over groups of neighbours was found",))
    return dataclasses.replace(found, status="feasible", bound=None, how="groups of neighbours, one size at a time")


def merged(answers: list[Found]) -> Found:
    """Return the best of several answers that together cover all plans."""
    if all(answer.status == "infeasible" for answer in answers):
        return Found("infeasible", how=answers[0].how if answers else "")
    plans = [answer for answer in answers if answer.value is not None]
    if not plans:
        return Found("no_solution", how=answers[0].how, reasons=answers[0].reasons)
    best = min(plans, key=lambda answer: as_pair(answer.value))
    bounds = [answer.bound for answer in answers if answer.status != "infeasible"]
    if any(bound is None for bound in bounds):
        return dataclasses.replace(best, status="feasible", bound=None)
    bound = min(bounds, key=as_pair)
    closed = all(low >= high - 1e-12 * abs(high) for low, high in zip(as_pair(bound), as_pair(best.value), strict=True))
    proven = closed or all(answer.status in ("optimal", "infeasible") for answer in answers)
    return dataclasses.replace(best, status="optimal" if proven else "feasible", bound=best.value if proven else bound)


def _share(budget: Budget, left: int) -> Limits:
    """Return an equal share of what is left for each problem to come."""
    limits = budget.limits
    work = None if limits.work_limit is None else max(1, (limits.work_limit - budget.work) // left)
    seconds = None if limits.time_limit_s is None else max(budget.remaining_s / left, 1e-3)
    return dataclasses.replace(limits, time_limit_s=seconds, work_limit=work)


def _solve(asked: Asked, units: UnitProblem, limits: Limits) -> Found:
    from gpuplan.solvers.placement.dense import solve_dense

    entry, start = asked.entry, _start(asked, units)
    throughput = units.dense.objective.name == "bottleneck"
    entry.check(units.dense)
    if entry.engine is None:
        more: dict[str, Any] = {} if start is None else {"warm_start": start}
        if throughput and entry.kind == "exact":
            more["latency_second"] = True
        result = entry.solver()(units.dense, limits, asked.seed, **more)
    else:
        result = solve_dense(
            units.dense, limits, asked.seed, engine=asked.engine, warm_start=start, latency_second=throughput
        )
    asked.budget.spend(result.report.work)
    return _found(asked.problem, units, result)


def _start(asked: Asked, units: UnitProblem) -> PlacementSolution | None:
    """Return the plan to start from on units, those of the same kinds of devices in order; None where it has others."""
    part_of = {device: s for s, devices in enumerate(asked.segments.devices) for device in devices}
    free: dict[tuple[int, ...], list[int]] = {}
    for unit, devices in enumerate(units.members):
        free.setdefault(tuple(sorted(part_of[device] for device in devices)), []).append(unit)
    chosen = []
    for stage in asked.start or ():
        alike = free.get(tuple(sorted(part_of[device] for device in stage.devices)))
        if not alike:
            return None
        chosen.append(StageRange(alike.pop(0), stage.start, stage.stop))
    return PlacementSolution(tuple(chosen)) if chosen else None


def _found(problem: PlacementProblem, units: UnitProblem, result: Result) -> Found:  # type: ignore[type-arg]
    """Put an answer over groups into devices."""
    name = goal_of(problem).name
    if result.plan is None or result.objective is None:
        return Found(result.status, how=EACH_SIZE, reasons=result.reasons)
    value, bound, status = result.objective, result.bound, result.status
    if name == "bottleneck" and not isinstance(value, tuple):
        value = (float(value), result.terms["latency_s"])
        bound = bound if bound is None or isinstance(bound, tuple) else (bound, 0.0)
        status = "feasible"  # nothing is proven about the latency
    if name == "efficiency":
        value = _times(value, units.degree)
        bound = None if bound is None else _times(bound, units.degree)
    terms = dict(result.terms)
    for key in ("devices", "devices_star"):
        if key in terms:
            terms[key] *= units.degree
    if status == "optimal":
        bound = value
    stages = units.to_groups(result.plan.stages)
    return Found(status, stages, value, bound, terms, EACH_SIZE, result.report.bound_kind, (), _proof(result))


def _proof(result: Result) -> str:  # type: ignore[type-arg]
    """Say how the bound of one size was proven; those of the others likewise."""
    proof = result.report.proof or result.report.bound_kind
    return f"each size of groups by itself, the least of their bounds: {proof}" if proof else ""


def _times(pair: Value, factor: int) -> Value:
    assert isinstance(pair, tuple)
    return (math.ceil(pair[0] - 1e-9) * float(factor), pair[1])
