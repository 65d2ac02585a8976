"""`priority`: highest weight first, with ageing, so that nothing starves.

At time t a request counts ``weight + ageing_per_s·(t − arrival)``. All of them age alike, so the order of two requests
never changes: ``weight − ageing_per_s·arrival``, falling.

References
----------
L. Kleinrock, "A delay dependent queue discipline", Naval Research Logistics Quarterly 11, 1964 (here with one slope
for all classes, as the ageing of A. Silberschatz et al., "Operating System Concepts", chapter CPU scheduling).
"""

from __future__ import annotations

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int, *, ageing_per_s: float = 0.01) -> Result[BatchSolution]:
    """Serve the request with the highest aged weight first; 100 s of waiting count like weight 1 by default."""
    if not ageing_per_s >= 0.0:
        raise UsageError(f"expected ageing_per_s of at least 0, got {ageing_per_s}")
    requests = problem.requests
    order = by_keys(problem, ageing_per_s * requests.arrival_s - requests.weight)
    options = {"ageing_per_s": ageing_per_s}
    return run_queue(problem, OrderedQueue(problem, order), solver="priority", seed=seed, options=options)
