"""`auto`: the method that suits a problem, and why.

1. One length key (the theorem of `dp` holds): `dp`, exact in O(N log B).
2. Few requests: `subset-dp`, exact for any objective.
3. One executor, makespan and padding, up to 150 requests: `colgen`, a gap of about a percent or none.
4. Else: constructions (band orders, deadline blocks, dispatching), a lower bound (for up to 300 requests with work
   shares from column generation), and neighbourhood search for up to 50,000 requests while there is time.
"""

from __future__ import annotations

import dataclasses
import time

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import answer, infeasible
from gpuplan.solvers.batching.bounds.lower import PRICES_S, Bound, lower_bound, relaxed_form
from gpuplan.solvers.batching.compiling import MOVES
from gpuplan.solvers.batching.exact import colgen, dp, subset_dp
from gpuplan.solvers.batching.exact.master import relax
from gpuplan.solvers.batching.heuristics import lns
from gpuplan.solvers.batching.heuristics.starts import best_start
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

NAME = "auto"
#: Requests up to which sets are enumerated (one executor, several), columns generated, and shares taken from the LP.
FEW, FEW_SEVERAL, COLUMNS, SHARES = 15, 9, 150, 300


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0, *, seconds: float = 5.0) -> Result[BatchSolution]:
    """Choose a method, run it, say why in the report's notes.

    Parameters
    ----------
    seconds
        Time of methods that improve while they may; the limits may end them earlier.

    Returns
    -------
    Result
        As of the method chosen, its name in the first note.
    """
    started = time.perf_counter()
    refused = dp.supports(problem)
    if refused is None:
        result = dp.solve(problem, limits, seed)
        if result.status in ("optimal", "infeasible"):
            return _named(result, started, "dp: one length key, contiguous batches are optimal")
    few = FEW if problem.num_executors == 1 else FEW_SEVERAL
    if problem.num_requests <= min(few, subset_dp.most_requests(problem)):
        result = subset_dp.solve(problem, limits, seed)
        if result.status in ("optimal", "infeasible"):
            why = f"subset-dp: {problem.num_requests} requests are few enough to enumerate all sets"
            return _named(result, started, why)
    if problem.num_requests <= COLUMNS and colgen.supports(problem) is None:
        capped = dataclasses.replace(limits, time_limit_s=_least(limits.time_limit_s, seconds))
        why = "colgen: one executor, makespan and padding, up to 150 requests"
        return _named(colgen.solve(problem, capped, seed), started, why)
    return _search(problem, Budget(limits), seed, seconds, started)


def _least(limit: float | None, seconds: float) -> float:
    return seconds if limit is None else min(limit, seconds)


def _named(result: Result[BatchSolution], started: float, why: str) -> Result[BatchSolution]:
    report = dataclasses.replace(
        result.report,
        solver=NAME,
        wall_time_s=time.perf_counter() - started,
        notes=(why, *result.report.notes),
    )
    return dataclasses.replace(result, report=report)


def _search(
    problem: BatchingProblem, budget: Budget, seed: int, seconds: float, started: float
) -> Result[BatchSolution]:
    """Construct, bound, improve."""
    start = best_start(problem, budget)
    notes = [f"{start.name}: no exact method takes {problem.num_requests:,} requests of this kind"]
    proof = _bound(problem, budget, start.objective, min(seconds, budget.remaining_s) / 2.5)
    if proof.infeasible is not None and start.missed:
        return infeasible(problem, (proof.infeasible,), solver=NAME, started=started, seed=seed, work=budget.work)
    open_gap = start.missed > 0 or start.objective - proof.value > 1e-9 * abs(start.objective)
    if open_gap and problem.num_requests <= lns.MOST and not budget.exhausted():
        left = seconds - (time.perf_counter() - started)
        found = lns.improve(problem, start, budget, seed, max(left, 0.05))
        if found is not start:
            notes.append(f"neighbourhood search took {_off(start.objective, found.objective)} off the objective")
        start = found
    return answer(
        problem,
        start.solution,
        solver=NAME,
        started=started,
        seed=seed,
        work=budget.work,
        bound=proof.value,
        bound_kind=proof.kind,
        options={"seconds": seconds},
        notes=tuple(notes),
    )


def _off(before: float, after: float) -> str:
    return f"{(before - after) / before:.2%}" if before > 0.0 else "nothing"


def _bound(problem: BatchingProblem, budget: Budget, upper: float, seconds: float) -> Bound:
    """Return the best bound there is time for."""
    if problem.num_requests > SHARES or seconds <= 0.1:
        return lower_bound(problem, prices=float(budget.remaining_s > PRICES_S and MOVES.prepare(budget)))
    goal, limits = problem.objective, budget.limits
    share, total = None, None
    inner = Budget(Limits(time_limit_s=seconds / 2.0, work_limit=limits.work_limit, cancel=limits.cancel))
    if goal.latency > 0.0 or goal.violation > 0.0 or problem.hard:
        share = relax(relaxed_form(problem, float(problem.speed.sum()), 0.0), [], inner).dual
    if goal.makespan + goal.padding > 0.0:
        inner = Budget(Limits(time_limit_s=seconds / 2.0, work_limit=limits.work_limit, cancel=limits.cancel))
        form = relaxed_form(problem, goal.makespan, goal.padding)
        total = relax(form, [], inner, upper=upper - form.constant).bound + form.constant
    plain = lower_bound(problem, sum_bound=total)
    if share is None:
        return plain
    better = lower_bound(problem, share=share, sum_bound=total)
    kind = better.kind.replace("preemptive machine", "preemptive machine with LP shares")
    better = dataclasses.replace(better, kind=kind)
    best = better if better.value > plain.value else plain
    return dataclasses.replace(best, infeasible=better.infeasible or plain.infeasible)
