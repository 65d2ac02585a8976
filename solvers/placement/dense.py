"""Solving a dense placement problem: reduce to classes, minimise, name the devices, state what is proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuplan.errors import UsageError
from gpuplan.plans.placement_solution import PlacementFront, PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits, refuse_memory
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.evaluate import Evaluation, broken_rule, evaluate, terms
from gpuplan.solvers.placement.front import front_points
from gpuplan.solvers.placement.objectives import METHODS
from gpuplan.solvers.placement.outcome import Outcome
from gpuplan.solvers.placement.query import SMALL_FRONT_QUERIES, EngineName, Session
from gpuplan.solvers.placement.tables import ClassPath, ClassTables, class_tables
from gpuplan.solvers.result import Report, Result, Status, Value, relative_gap

#: Tables by pair of classes, and by class and boundary, that a search holds at once.
PAIR_TABLES, LAYER_TABLES = 4, 10


def solve_dense(
    problem: DensePlacement,
    limits: Limits,
    seed: int = 0,
    *,
    engine: EngineName = "auto",
    warm_start: PlacementSolution | None = None,
    latency_second: bool = False,
) -> Result[PlacementSolution]:
    """Solve one objective of a dense problem.

    Parameters
    ----------
    problem
        Its `front` flag is not read here.
    limits
        Time, work, threads, cancel, progress.
    seed
        Kept in the report; the search draws nothing.
    engine
        ``auto`` (by size), ``dp``, ``labels`` or ``beam`` (truncated: a plan with a bound, seldom a proof).
    warm_start
        A plan to start from; one that does not fit the problem is refused.
    latency_second
        Whether the latency is minimised behind a bottleneck, and its value and bound carry it (objective
        ``throughput``); without, the bottleneck alone counts.

    Returns
    -------
    Result
        ``optimal``, ``feasible`` (with a bound where one is known), ``infeasible`` (with reasons) or ``no_solution``.
    """
    budget = Budget(limits)
    goal = problem.objective
    tables = class_tables(problem, with_price=goal.name == "cost")
    refuse_tables(tables, limits)
    session = Session(tables, engine, budget, Settings(limits.threads), second_key=latency_second)
    hint = None if warm_start is None else tables.to_path(checked_start(problem, warm_start).stages)
    outcome = METHODS[goal.name](session, hint)
    if outcome.path is None and hint is not None:
        outcome = _kept(problem, tables, hint, outcome)
    path = outcome.path
    stages = None if path is None else tables.to_stages(path)
    report = make_report(session, seed, budget, engine)
    return to_result(problem, stages, outcome, report, latency_second=latency_second)


def solve_front(
    problem: DensePlacement, limits: Limits, seed: int = 0, *, engine: EngineName = "auto"
) -> Result[PlacementFront]:
    """Return all non-dominated (latency, bottleneck, devices) of a dense problem.

    ``optimal`` when the front is proven complete; ``feasible`` with the points found so far at a limit.
    """
    budget = Budget(limits)
    tables = class_tables(problem)
    refuse_tables(tables, limits)
    session = Session(tables, engine, budget, Settings(limits.threads), SMALL_FRONT_QUERIES)
    points, proven, infeasible = front_points(session)
    report = make_report(session, seed, budget, engine)
    if points:
        status: Status = "optimal" if proven else "feasible"
        return Result(status, PlacementFront(points), None, None, 0.0 if proven else None, report)
    if infeasible:
        return Result("infeasible", None, None, None, None, report, reasons=reasons(problem))
    return Result("no_solution", None, None, None, None, report)


def refuse_tables(tables: ClassTables, limits: Limits) -> None:
    """Refuse a problem whose tables by class, not yet made, would pass the memory limit."""
    classes, layers = tables.num_classes, tables.num_layers + 1
    what = f"a search over {classes:,} classes of devices"
    refuse_memory(what, 8.0 * (PAIR_TABLES * classes * classes + LAYER_TABLES * classes * layers), limits)


def checked_start(problem: DensePlacement, warm_start: PlacementSolution) -> PlacementSolution:
    """Return a warm start that fits the problem; UsageError otherwise."""
    fault = broken_rule(problem, warm_start.stages)
    if fault is not None:
        raise UsageError(f"the warm start is not a plan for this problem: {fault}; give one that is, or none")
    return warm_start


def _kept(problem: DensePlacement, tables: ClassTables, hint: ClassPath, outcome: Outcome) -> Outcome:
    """Hand back the warm start when a limit left nothing else; a balanced one is measured by itself."""
    if problem.objective.name != "balanced":
        return Outcome("feasible", hint, outcome.bound)
    worth = evaluate(problem, tables.to_stages(hint))
    return Outcome("feasible", hint, 0.0, {"latency_star_s": worth.latency_s, "devices_star": float(worth.devices)})


def make_report(session: Session, seed: int, budget: Budget, engine: EngineName) -> Report:
    """Describe how the answer was reached."""
    limits = budget.limits
    options: dict[str, Any] = {
        "time_limit_s": limits.time_limit_s,
        "work_limit": limits.work_limit,
        "threads": limits.threads,
    }
    notes = (*session.notes, *session.settings.trace.notes)
    if engine == "auto":
        notes = (*notes, _choice(session))
    return Report(
        engine,
        seed,
        budget.elapsed_s,
        budget.work,
        _method(session),
        options,
        notes,
        _proof(session, budget),
    )


def _proof(session: Session, budget: Budget) -> str:
    """Say in words how the bound was proven."""
    labels = f"{budget.work:,} label{'' if budget.work == 1 else 's'}"
    if not session.engines:
        return "every one-stage plan was priced"
    if session.engines == {"dp"}:
        return f"exhaustive label search, {labels}"
    if session.engines == {"quotient"}:
        found = session.hierarchy()
        return f"quotient of {found.describe()}, {labels}" if found is not None else f"quotient, {labels}"
    how = session.settings.trace.proof or "Lagrangian relaxation and the label search it prunes"
    return f"{how}, {labels}"


def _method(session: Session) -> str:
    """Say what the bound rests on."""
    if session.engines == {"dp"}:
        return "exhaustive search"
    if session.settings.trace.kind:
        return session.settings.trace.kind
    return "host and rack quotient" if session.engines == {"quotient"} else "Lagrangian and label search"


def _choice(session: Session) -> str:
    """Say what ``auto`` picked and why."""
    classes, devices = session.tables.num_classes, session.tables.problem.num_devices
    picked = " and ".join(name for name in ("dp", "quotient", "labels") if name in session.engines)
    if not session.engines:
        return "auto searched nothing: one-stage plans decide"
    size = "few enough for a plain search" if session.engines == {"dp"} else "too many for a plain search"
    kinds = "1 class" if classes == 1 else f"{classes} classes"
    found = session.hierarchy() if "quotient" in session.engines else None
    if found is not None:
        return f"auto picked {picked}: {devices} devices in {found.describe()}, hosts alike and hops alike by level"
    return f"auto picked {picked}: {devices} devices in {kinds}, {size}"


def to_result(
    problem: DensePlacement,
    stages: tuple[StageRange, ...] | None,
    outcome: Outcome,
    report: Report,
    *,
    latency_second: bool = False,
) -> Result[PlacementSolution]:
    """State the outcome with the canonical value of its plan."""
    if stages is None:
        if outcome.status == "infeasible":
            return Result("infeasible", None, None, None, None, report, reasons=reasons(problem))
        known = outcome.bound if isinstance(outcome.bound, float) else None
        return Result("no_solution", None, None, known, None, report)
    value = objective_value(problem, stages, outcome.extra)
    if latency_second and problem.objective.name == "bottleneck":
        assert isinstance(value, float)
        value = (value, evaluate(problem, stages).latency_s)
    plan = PlacementSolution(stages)
    breakdown = _terms(problem, stages, outcome.extra)
    if outcome.status == "optimal" or _first_key_suffices(value, outcome.bound):
        return Result("optimal", plan, value, value, 0.0, report, breakdown)
    bound = _clipped(value, outcome.bound)
    return Result("feasible", plan, value, bound, relative_gap(value, bound), report, breakdown)


def _first_key_suffices(value: Value, bound: Value | None) -> bool:
    """Whether a number is proven although the second key searched behind it is not."""
    return not isinstance(value, tuple) and isinstance(bound, tuple) and bound[0] >= value - 1e-9 * abs(value)


def objective_value(problem: DensePlacement, stages: tuple[StageRange, ...], extra: Mapping[str, float]) -> Value:
    """Value of a plan under the problem's objective, as the file format states it."""
    worth = evaluate(problem, stages)
    goal = problem.objective
    if goal.name == "latency":
        return worth.latency_s
    if goal.name == "bottleneck":
        return worth.bottleneck_s
    if goal.name == "efficiency":
        return (float(worth.devices), worth.latency_s)
    if goal.name == "cost":
        return (worth.price_per_hour, worth.latency_s)
    if goal.name == "kv-capacity":
        assert worth.kv_capacity_tokens is not None
        return (-float(worth.kv_capacity_tokens), worth.latency_s)
    return sum(balanced_terms(problem, worth, extra).values())


def balanced_terms(problem: DensePlacement, worth: Evaluation, extra: Mapping[str, float]) -> dict[str, float]:
    """Return the two weighted parts of the balanced objective."""
    goal = problem.objective
    return {
        "latency_term": goal.latency_weight * (worth.latency_s / extra["latency_star_s"]),
        "devices_term": goal.devices_weight * (worth.devices / extra["devices_star"]),
    }


def _terms(problem: DensePlacement, stages: tuple[StageRange, ...], extra: Mapping[str, float]) -> dict[str, float]:
    parts = {**terms(problem, stages), **extra}
    if problem.objective.name == "balanced":
        parts.update(balanced_terms(problem, evaluate(problem, stages), extra))
    return parts


def _clipped(value: Value, bound: Value | None) -> Value | None:
    """Drop the second key where the objective has none, and rounding that lifts a bound above its plan."""
    if bound is None:
        return None
    if isinstance(value, tuple):
        assert isinstance(bound, tuple)
        return min(bound, value)
    return min(bound[0] if isinstance(bound, tuple) else bound, value)


def reasons(problem: DensePlacement) -> tuple[str, ...]:
    """Say why no plan exists."""
    try:
        from gpuplan.solvers.placement.infeasible import explain_infeasible
    except ImportError:
        return ()
    return explain_infeasible(problem)
