"""`s3-nextfit`: the variant of S³ that UELLM compared with: next fit by rising output.

Requests are taken by rising predicted output; one joins the batch while the outputs in it sum to at most
`output_budget` and it holds fewer than `size_limit` requests, else it starts the next batch.

References
----------
UELLM (arXiv 2409.14961), the run scripts of its public repository HYIUYOU/UELLM: Σ output ≤ 1024, 20 a batch.
"""

from __future__ import annotations

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(
    problem: BatchingProblem, limits: Limits, seed: int, *, output_budget: int = 1024, size_limit: int = 20
) -> Result[BatchSolution]:
    """Serve the shortest predicted outputs first, in batches of a budget of output tokens."""
    if output_budget < 1 or size_limit < 1:
        raise UsageError(f"expected output_budget and size_limit of at least 1, got {output_budget} and {size_limit}")
    order = by_keys(problem, problem.requests.output_tokens)
    queue = OrderedQueue(problem, order, OutputBudget(problem, output_budget), size_limit)
    options = {"output_budget": output_budget, "size_limit": size_limit}
    return run_queue(problem, queue, solver="s3-nextfit", seed=seed, options=options)


class OutputBudget:
    """A request joins while the outputs of the batch sum to at most the budget."""

    def __init__(self, problem: BatchingProblem, budget: int) -> None:
        self._output: list[int] = problem.requests.output_tokens.tolist()
        self._budget = budget
        self._used = 0

    def begin(self, row: int) -> None:
        """Start a batch with `row`."""
        self._used = self._output[row]

    def joins(self, row: int, size: int) -> bool:
        """Return whether the budget has room for `row`."""
        if self._used + self._output[row] > self._budget:
            return False
        self._used += self._output[row]
        return True
