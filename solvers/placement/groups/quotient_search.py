"""The search by kinds of islands: the same objectives over a session that answers by the quotient."""

from __future__ import annotations

import dataclasses

from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.groups import group_modes, of_one_degree, words_of
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.groups.quotient import QuotientSession
from gpuplan.solvers.placement.groups.search import Found, goal_of, run_method, state
from gpuplan.solvers.placement.groups.tables import mode_tables, shared_segments
from gpuplan.solvers.placement.query import EngineName


def search_quotient(
    problem: PlacementProblem, segments: Segments, degrees: tuple[int, ...], budget: Budget, engine: EngineName
) -> Found:
    """Search plans by kinds of islands; exact once their runs are packed into the islands there are."""
    modes = group_modes(problem, segments, words_of(segments, degrees))
    if not len(modes.words):
        return Found("infeasible", how="no group")
    if not problem.uneven_tensor_parallel:
        modes = of_one_degree(modes)
    tables = mode_tables(problem, modes, shared_segments(segments, modes))
    session = QuotientSession(tables, segments, modes, engine, budget)
    outcome = run_method(session, goal_of(problem).name)
    found = state(problem, segments, modes, session, outcome)
    return dataclasses.replace(found, how=f"{found.how} over kinds of islands")
