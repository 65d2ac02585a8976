"""`bands`: the best construction (band orders, deadline blocks, dispatching) with a lower bound, for any size."""

from __future__ import annotations

import time

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import answer, infeasible
from gpuplan.solvers.batching.bounds.lower import PRICES_S, lower_bound
from gpuplan.solvers.batching.compiling import MOVES
from gpuplan.solvers.batching.heuristics.starts import best_start
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

NAME = "bands"
#: Requests up to which box prices would take longer than the plan, and from which on they get their full effort.
_FEW, _MANY = 10_000, 100_000


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0, *, bound: bool = True) -> Result[BatchSolution]:
    """Construct plans, keep the best, bound it.

    Parameters
    ----------
    bound
        Whether to compute a lower bound as well.

    Returns
    -------
    Result
        ``feasible`` with a proven gap, ``infeasible`` when the bound proves that hard deadlines cannot hold,
        ``no_solution`` when every construction misses some.
    """
    started, budget = time.perf_counter(), Budget(limits)
    start = best_start(problem, budget)
    # A plan that takes milliseconds gets a bound that takes milliseconds.
    effort = min(problem.num_requests / _MANY, 1.0) if problem.num_requests >= _FEW else 0.0
    prices = effort if budget.remaining_s > PRICES_S and MOVES.prepare(budget) else 0.0
    proof = lower_bound(problem, prices=prices) if bound else None
    if proof is not None and proof.infeasible is not None and start.missed:
        return infeasible(problem, (proof.infeasible,), solver=NAME, started=started, seed=seed)
    return answer(
        problem,
        start.solution,
        solver=NAME,
        started=started,
        seed=seed,
        work=budget.work,
        bound=None if proof is None else proof.value,
        bound_kind=None if proof is None else proof.kind,
        options={"bound": bound},
        notes=(f"from {start.name}",),
    )
