"""A bound where there are too many groups to search: the optimum over best-case groups of every island."""

from __future__ import annotations

from gpuplan.profiles.problems.best_case import best_cases, whole_islands
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.groups.asked import Asked
from gpuplan.solvers.placement.groups.proofs import BEST_CASES
from gpuplan.solvers.placement.groups.quotient import QuotientSession
from gpuplan.solvers.placement.groups.search import Found, GroupSession, clipped, goal_of, run_method
from gpuplan.solvers.placement.groups.tables import mode_tables, shared_segments
from gpuplan.solvers.placement.groups.worth import group_worth


def bound_by_best_cases(asked: Asked) -> Found:
    """Return what best-case groups prove: a bound without a plan, or that no plan exists."""
    problem, segments, budget = asked.problem, asked.segments, asked.budget
    goal = goal_of(problem)
    modes = best_cases(problem, segments, asked.degrees)
    whole = whole_islands(segments)
    tables = mode_tables(problem, modes, shared_segments(whole, modes))
    repeats = len(set(segments.leaders.tolist())) < len(segments.islands)
    session: GroupSession
    if repeats and len(segments.islands) > 2:
        session = QuotientSession(tables, whole, modes, asked.engine, budget)
    else:
        session = GroupSession(tables, asked.engine, budget, Settings(budget.limits.threads))
    if goal.name == "balanced":  # measured against the best plans themselves, which best cases do not know
        return Found("no_solution")
    outcome = run_method(session, goal.name)
    if outcome.status == "infeasible":
        return Found("infeasible", how=BEST_CASES)
    if outcome.path is None:
        return Found("no_solution")
    value = goal.value(group_worth(tables, outcome.path), outcome.extra)
    bound = value if outcome.status == "optimal" else clipped(value, outcome.bound)
    return Found("feasible", None, value, bound, how=BEST_CASES, bound_kind=BEST_CASES)
