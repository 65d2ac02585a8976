"""`ljf`: longest job first, by the batch time of the request alone.

References
----------
R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied Mathematics 17, 1969 (longest
processing time first, for the makespan on several machines).
"""

from __future__ import annotations

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int) -> Result[BatchSolution]:
    """Serve the longest of the waiting requests first."""
    requests = problem.requests
    alone_s = problem.time.batch_s(1, requests.prompt_tokens, requests.output_tokens)
    return run_queue(problem, OrderedQueue(problem, by_keys(problem, -alone_s)), solver="ljf", seed=seed)
