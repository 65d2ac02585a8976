"""From groups to a `Result`: times, terms, bound, and the deadlines that do not hold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import DEADLINE_SLACK_S, BatchingProblem, IntArray
from gpuplan.solvers.batching.proofs import proof_of
from gpuplan.solvers.batching.sequence import evaluate
from gpuplan.solvers.result import Report, Result, Status, relative_gap

#: A bound this close to the objective proves it (relative).
PROOF: Final = 1e-9
_SHOWN: Final = 5


def answer(
    problem: BatchingProblem,
    solution: BatchSolution,
    *,
    solver: str,
    started: float,
    seed: int = 0,
    work: int = 0,
    bound: float | None = None,
    bound_kind: str | None = None,
    proven: bool = False,
    options: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Result[BatchSolution]:
    """Return the result that holds `solution`.

    Parameters
    ----------
    started
        `time.perf_counter()` when the solver began.
    bound
        A lower bound on the objective, or None. It is cut to the objective; within 1e-9 of it (or with `proven`) the
        status is ``optimal`` and the gap 0.

    Returns
    -------
    Result
        ``optimal`` or ``feasible``; ``no_solution`` when hard deadlines are missed by this plan (another may hold).
    """
    report = Report(
        solver=solver,
        seed=seed,
        wall_time_s=time.perf_counter() - started,
        work=work,
        bound_kind=bound_kind,
        options=dict(options or {}),
        notes=notes,
        proof=proof_of(bound_kind),
    )
    missed = missed_rows(problem, solution) if problem.hard else np.empty(0, dtype=np.int64)
    if len(missed):
        return Result("no_solution", None, None, bound, None, report, reasons=(_missed(problem, solution, missed),))
    terms = evaluate(problem, solution)
    total = terms.total
    if bound is not None:
        bound = min(bound, total)
    status: Status = "feasible"
    if proven or (bound is not None and total - bound <= PROOF * abs(total)):
        status, bound = "optimal", total
    return Result(status, solution, total, bound, relative_gap(total, bound), report, terms=terms.as_dict())


def infeasible(
    problem: BatchingProblem, reasons: tuple[str, ...], *, solver: str, started: float, seed: int = 0, work: int = 0
) -> Result[BatchSolution]:
    """Return a proven ``infeasible``, with sentences that say which deadlines cannot hold."""
    report = Report(solver=solver, seed=seed, wall_time_s=time.perf_counter() - started, work=work)
    return Result("infeasible", None, None, None, None, report, reasons=reasons)


def no_solution(
    problem: BatchingProblem,
    *,
    solver: str,
    started: float,
    seed: int = 0,
    work: int = 0,
    bound: float | None = None,
    bound_kind: str | None = None,
    reasons: tuple[str, ...] = (),
) -> Result[BatchSolution]:
    """Return a ``no_solution``: a limit was reached first."""
    kind = bound_kind if bound is not None else None
    wall_time_s = time.perf_counter() - started
    report = Report(solver, seed=seed, wall_time_s=wall_time_s, work=work, bound_kind=kind, proof=proof_of(kind))
    return Result("no_solution", None, None, bound, None, report, reasons=reasons)


def missed_rows(problem: BatchingProblem, solution: BatchSolution) -> IntArray:
    """Return the rows of the requests that `solution` finishes after their deadline, rising."""
    late = solution.completion_s() > problem.requests.deadline_s + DEADLINE_SLACK_S
    return np.flatnonzero(late).astype(np.int64)


def unmet_reasons(problem: BatchingProblem) -> tuple[str, ...]:
    """Return why hard deadlines cannot hold whatever the plan: each request alone is late already; () when none is."""
    rows = problem.unmet()
    if not len(rows):
        return ()
    short = problem.earliest_finish_s() - problem.requests.deadline_s
    worst = rows[np.argsort(-short[rows], kind="stable")]
    named = ", ".join(f"request {problem.requests.id[row]} by {short[row]:.6g} s" for row in worst[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return (
        f"deadlines that no plan can meet, even served alone at once: {named}{more}; "
        "--relax-deadlines gives the plan with the fewest violations",
    )


def _missed(problem: BatchingProblem, solution: BatchSolution, missed: IntArray) -> str:
    late = solution.completion_s() - problem.requests.deadline_s
    worst = missed[np.argsort(-late[missed], kind="stable")]
    named = ", ".join(f"request {problem.requests.id[row]} by {late[row]:.6g} s" for row in worst[:_SHOWN])
    more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
    return f"the plan misses hard deadlines: {named}{more}; another method or --relax-deadlines may help"
