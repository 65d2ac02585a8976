"""`fifo`: first in, first out, batches filled to the executor's limits.

References
----------
The dynamic batching of serving systems: D. Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving
System", NSDI 2017, section 4.3; and UELLM's baseline (arXiv 2409.14961, section 5).
"""

from __future__ import annotations

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int) -> Result[BatchSolution]:
    """Serve requests in order of arrival."""
    return run_queue(problem, OrderedQueue(problem, by_keys(problem)), solver="fifo", seed=seed)
