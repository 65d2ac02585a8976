"""Least bottleneck of modes: one pass where the small engine runs, else bisection on the cap."""

from __future__ import annotations

import math

from gpuplan.solvers.placement.bottleneck import TIE, path_bottleneck
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Answer, Session
from gpuplan.solvers.placement.tables import ClassPath

#: Bound and plan this close (relative) prove each other.
CLOSE = 1e-10


def minimise_group_bottleneck(session: Session, hint: ClassPath | None) -> Outcome:
    """Least bottleneck, then latency at that bottleneck (1e-9 relative)."""
    least = session.ask(Query(bottleneck=True)) if session.runs_small() else _bisect(session, hint)
    if least.path is None:
        return Outcome(status_of(least), None, None)
    if not least.proven:
        return Outcome("feasible", least.path, (max(least.bound, 0.0), 0.0))
    answer = session.ask(Query(cap_s=least.value * (1.0 + TIE)), hint=least.path)
    path = answer.path if answer.path is not None else least.path
    latency = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (least.value, latency))


def _bisect(session: Session, hint: ClassPath | None) -> Answer:
    """Halve the interval between a bound and a plan; every probe asks for any plan within a cap."""
    start = session.ask(Query(time_weight=0.0, any_plan=True), hint=hint)
    if start.path is None:
        return start
    path, best = start.path, path_bottleneck(session.tables, start.path)
    lower = floor = 0.0  # proven, and where a limit hid the answer
    while floor < best * (1.0 - CLOSE) and not session.budget.exhausted():
        middle = 0.5 * (floor + best) if floor > 0.0 else 0.5 * best
        answer = session.ask(Query(time_weight=0.0, cap_s=middle, any_plan=True), hint=path)
        if answer.path is not None:
            path, best = answer.path, min(best, path_bottleneck(session.tables, answer.path))
            continue
        if answer.infeasible and lower == floor:
            lower = middle
        floor = middle
        session.budget.report("bottleneck", best, lower)
    proven = lower >= best * (1.0 - CLOSE)
    return Answer(best, path, best if proven else lower, proven)
