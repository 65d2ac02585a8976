"""Queues that serve requests in a fixed order and cut batches as they go: the common part of most policies."""

from __future__ import annotations

import heapq
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from gpuplan.profiles.problems.batching import BatchingProblem, IntArray


class Rule(Protocol):
    """Whether the next request in order joins the batch that is being formed."""

    def begin(self, row: int) -> None:
        """Start a batch with `row`."""

    def joins(self, row: int, size: int) -> bool:
        """Return whether `row` joins the batch of `size` requests; it is added when it does."""


class OrderedQueue:
    """Waiting requests by rank; a batch is the longest run of them that the executor and the rule allow.

    Parameters
    ----------
    order
        All rows, first to serve first (see `by_keys`).
    rule
        A further condition on joining a batch, or None: batches are filled to the executor's limits.
    size_limit
        Requests in a batch at most, besides the executor's own limit.
    """

    def __init__(
        self, problem: BatchingProblem, order: IntArray, rule: Rule | None = None, size_limit: int | None = None
    ) -> None:
        self._rows: list[int] = order.tolist()
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        self._rank: list[int] = rank.tolist()
        self._prompt: list[int] = problem.requests.prompt_tokens.tolist()
        self._output: list[int] = problem.requests.output_tokens.tolist()
        self._kv = [executor.kv_tokens for executor in problem.executors]
        most = [executor.max_batch for executor in problem.executors]
        self._most = most if size_limit is None else [min(size, size_limit) for size in most]
        self._rule = rule
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, row: int) -> None:
        """Take in a request that has arrived."""
        heapq.heappush(self._heap, self._rank[row])

    def form(self, executor: int, now_s: float) -> list[int]:
        """Take out the first requests in order, as many as fit; larger ones than the whole executor stay."""
        heap, rule = self._heap, self._rule
        kv, most = self._kv[executor], self._most[executor]
        batch: list[int] = []
        aside: list[int] = []
        longest_prompt = longest_output = 0
        while heap and len(batch) < most:
            row = self._rows[heap[0]]
            prompt, output = self._prompt[row], self._output[row]
            if prompt + output > kv:
                aside.append(heapq.heappop(heap))
                continue
            prompt, output = max(longest_prompt, prompt), max(longest_output, output)
            if batch and ((len(batch) + 1) * (prompt + output) > kv or (rule and not rule.joins(row, len(batch)))):
                break
            if not batch and rule:
                rule.begin(row)
            longest_prompt, longest_output = prompt, output
            batch.append(row)
            heapq.heappop(heap)
        for rank in aside:
            heapq.heappush(heap, rank)
        return batch


def by_keys(problem: BatchingProblem, *keys: ArrayLike) -> IntArray:
    """Return rows by rising keys, the first one first; ties by arrival, then as in the table."""
    columns = [np.asarray(key) for key in (*keys, problem.requests.arrival_s)]
    return np.lexsort(columns[::-1]).astype(np.int64)
