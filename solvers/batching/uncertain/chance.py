"""Whether a batch keeps P(Σ(s+O) > K) ≤ ε, asked as cheaply as the answer allows, and batches cut until they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import InfeasibleError, UsageError
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchingProblem, Executor, IntArray
from gpuplan.solvers.batching.uncertain.overflow import Memory, Overflow, chebyshev, hoeffding, overflow_probability


@dataclass(frozen=True, slots=True)
class ChanceConstraint:
    """P(overflow) ≤ `epsilon` for every batch; `memory` as in `overflow_probability`."""

    epsilon: float
    memory: Memory = "sum"

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon < 1.0:
            raise UsageError(f"expected a probability of at least 0 and below 1, got {self.epsilon}")

    def overflow(self, problem: BatchingProblem, lengths: Lengths, rows: IntArray, executor: Executor) -> Overflow:
        """Return how likely the batch `rows` is to outgrow `executor`."""
        return overflow_probability(
            problem.requests.prompt_tokens[rows], lengths.take(rows), executor.kv_tokens, memory=self.memory
        )

    def holds(self, problem: BatchingProblem, lengths: Lengths, rows: IntArray, executor: Executor) -> bool:
        """Return whether the batch `rows` keeps the constraint: bounds first, then the probability."""
        prompt = problem.requests.prompt_tokens[rows]
        own = lengths.take(rows)
        if self.memory == "sum":
            room = executor.kv_tokens - int(prompt.sum())
            if int(own.most().sum()) <= room:
                return True
            if int(own.least().sum()) > room:
                return False
            if min(hoeffding(own, room), chebyshev(own, room)) <= self.epsilon:
                return True
        found = overflow_probability(prompt, own, executor.kv_tokens, memory=self.memory)
        return found.probability <= self.epsilon

    def check_alone(self, problem: BatchingProblem, lengths: Lengths) -> None:
        """Refuse requests that break the constraint alone on every executor (InfeasibleError, the first named)."""
        largest = max(problem.executors, key=lambda executor: executor.kv_tokens)
        fits = lengths.within(largest.kv_tokens - problem.requests.prompt_tokens)
        wrong = np.flatnonzero(1.0 - fits > self.epsilon + 1e-12)
        if len(wrong):
            row = int(wrong[np.argmin(fits[wrong])])
            more = f", and {len(wrong) - 1} more requests do" if len(wrong) > 1 else ""
            raise InfeasibleError(
                f"request {problem.requests.id[row]} alone outgrows {largest.name} ({largest.kv_tokens} tokens) with "
                f"probability {1.0 - fits[row]:.3g}, over {self.epsilon:g}{more}; allow a larger share, cap the "
                "outputs, or leave them out"
            )


def widest(
    problem: BatchingProblem, lengths: Lengths, order: IntArray, executor: Executor, chance: ChanceConstraint
) -> IntArray:
    """Return, for each end in `order`, how many requests before it (itself included) make a batch that holds.

    A part of a batch that holds holds as well, so one pass with two ends of a window is enough; each is 1 at least.
    """
    outputs = problem.requests.output_tokens
    prompts = problem.requests.prompt_tokens
    most = np.ones(len(order), dtype=np.int64)
    first = 0
    for last in range(len(order)):
        while first < last:
            rows = order[first : last + 1]
            padded = len(rows) * (int(prompts[rows].max()) + int(outputs[rows].max()))
            fits = len(rows) <= executor.max_batch and padded <= executor.kv_tokens
            if fits and chance.holds(problem, lengths, rows, executor):
                break
            first += 1
        most[last] = last - first + 1
    return most


def cut_until_it_holds(
    problem: BatchingProblem, lengths: Lengths, rows: IntArray, executor: Executor, chance: ChanceConstraint
) -> list[IntArray]:
    """Return `rows` as batches that each keep the constraint: as few as a cut by expected size gives."""
    if chance.holds(problem, lengths, rows, executor):
        return [rows]
    order = rows[np.argsort(problem.requests.prompt_tokens[rows] + lengths.mean()[rows], kind="stable")]
    parts: list[IntArray] = []
    while len(order):
        low, high = 1, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            if chance.holds(problem, lengths, order[:middle], executor):
                low = middle
            else:
                high = middle - 1
        parts.append(order[:low])
        order = order[low:]
    return parts


def repaired(
    problem: BatchingProblem,
    lengths: Lengths,
    groups: Sequence[Sequence[IntArray]],
    chance: ChanceConstraint,
) -> list[list[IntArray]]:
    """Return ordered groups by executor in which every batch keeps the constraint; single requests stay as they are."""
    return [
        [part for rows in own for part in cut_until_it_holds(problem, lengths, rows, executor, chance)]
        for own, executor in zip(groups, problem.executors, strict=True)
    ]
