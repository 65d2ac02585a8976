"""`sjf`: shortest job first, by the batch time of the request alone.

References
----------
W. E. Smith, "Various optimizers for single-stage production", Naval Research Logistics Quarterly 3, 1956 (the order
that minimises Σ completion on one machine without batches); for LLM requests with predicted lengths: H. Qiu et al.,
"Efficient Interactive LLM Serving with Proxy Model-based Sequence Length Prediction", 2024.
"""

from __future__ import annotations

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int) -> Result[BatchSolution]:
    """Serve the shortest of the waiting requests first."""
    requests = problem.requests
    alone_s = problem.time.batch_s(1, requests.prompt_tokens, requests.output_tokens)
    return run_queue(problem, OrderedQueue(problem, by_keys(problem, alone_s)), solver="sjf", seed=seed)
