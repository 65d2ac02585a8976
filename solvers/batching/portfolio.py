"""`best-policy`: every policy that is quick enough, the best plan kept; no bound.

References
----------
B. A. Huberman, R. M. Lukose, T. Hogg, "An Economics Approach to Hard Computational Problems", Science 275, 1997
(portfolios of methods).
"""

from __future__ import annotations

import time
from typing import Final

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import answer, no_solution
from gpuplan.solvers.batching.registry import find_batching
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

#: In the order in which they are tried.
POLICIES: Final = ("sjf", "multi-bin", "fifo", "edf", "priority", "s3", "ljf", "slo-odbs", "odbs-authors")


def solve(problem: BatchingProblem, limits: Limits, seed: int) -> Result[BatchSolution]:
    """Return the best plan of the policies tried within the limits (at least the first one)."""
    started, budget = time.perf_counter(), Budget(limits)
    best: Result[BatchSolution] | None = None
    reasons: tuple[str, ...] = ()
    for name in POLICIES:
        if best is not None and budget.exhausted():
            break
        result = find_batching(name).run(problem, budget.rest(), seed)
        budget.spend(1)
        if result.plan is None:
            reasons = reasons or result.reasons
        elif best is None or _value(result) < _value(best):
            best = result
            budget.report(f"policy {name}", _value(best), None)
    if best is None or best.plan is None:
        return no_solution(problem, solver="best-policy", started=started, seed=seed, work=budget.work, reasons=reasons)
    note = f"the best of {budget.work} policies is {best.report.solver}"
    return answer(problem, best.plan, solver="best-policy", started=started, seed=seed, work=budget.work, notes=(note,))


def _value(result: Result[BatchSolution]) -> float:
    assert isinstance(result.objective, float)
    return result.objective
