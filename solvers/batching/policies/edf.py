"""`edf`: earliest deadline first; requests without a deadline come last, by arrival.

References
----------
C. L. Liu and J. W. Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment", Journal of
the ACM 20, 1973, section 7.
"""

from __future__ import annotations

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int) -> Result[BatchSolution]:
    """Serve the most urgent of the waiting requests first."""
    order = by_keys(problem, problem.requests.deadline_s)
    return run_queue(problem, OrderedQueue(problem, order), solver="edf", seed=seed)
