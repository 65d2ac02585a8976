"""`multi-bin`: requests wait in bins of like output length; batches are formed within a bin.

Bins hold equal shares of the workload by output length. A bin gives a batch when it has enough requests to fill one;
full batches are served in the order in which they filled up. When an executor is free and no bin is full, the bin with
the longest-waiting request gives what it has (the source waits instead, since it studies throughput under overload).

References
----------
O. Guldogan, J. Kunde, K. Lee, R. Pedarsani, "Multi-Bin Batching for Increasing LLM Inference Throughput", 2024
(arXiv 2412.04504), algorithm 1.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, IntArray
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int, *, bins: int = 8) -> Result[BatchSolution]:
    """Batch requests of like output length, `bins` bins of equal shares."""
    started = time.perf_counter()
    if bins < 1:
        raise UsageError(f"expected bins of at least 1, got {bins}")
    queue = BinQueue(problem, bin_of(problem.requests.output_tokens, bins))
    return run_queue(problem, queue, solver="multi-bin", started=started, seed=seed, options={"bins": bins})


def bin_of(output_tokens: IntArray, bins: int) -> IntArray:
    """Return the bin of each request; the edges are the quantiles of the lengths, equal lengths share a bin.

    >>> bin_of(np.array([5, 1, 9, 5]), 2).tolist()
    [0, 0, 1, 0]
    """
    edges = np.quantile(output_tokens, np.arange(1, bins) / bins, method="inverted_cdf") if bins > 1 else np.empty(0)
    return np.searchsorted(np.unique(edges), output_tokens, side="left").astype(np.int64)


class BinQueue:
    """Waiting requests by bin, each bin in order of arrival."""

    def __init__(self, problem: BatchingProblem, bins: IntArray) -> None:
        self._bin: list[int] = bins.tolist()
        self._bins: list[deque[int]] = [deque() for _ in range(int(bins.max(initial=0)) + 1)]
        self._prompt: list[int] = problem.requests.prompt_tokens.tolist()
        self._output: list[int] = problem.requests.output_tokens.tolist()
        self._kv = [executor.kv_tokens for executor in problem.executors]
        self._most = [executor.max_batch for executor in problem.executors]
        self._turn = [0] * len(self._bin)  # when each waiting request came in
        self._pushed = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, row: int) -> None:
        """Take in a request that has arrived."""
        self._turn[row] = self._pushed
        self._pushed += 1
        self._bins[self._bin[row]].append(row)
        self._waiting += 1

    def form(self, executor: int, now_s: float) -> list[int]:
        """Take out the batch that was full first, else the batch of the longest-waiting request that fits."""
        most = self._most[executor]
        # A bin was full when its request number `most` came in; the others wait, so they come after all full ones.
        turns = [
            (0, self._turn[bin_[most - 1]], k) if len(bin_) >= most else (1, self._turn[bin_[0]], k)
            for k, bin_ in enumerate(self._bins)
            if bin_
        ]
        for _, _, k in sorted(turns):
            batch = self._take(self._bins[k], self._kv[executor], most)
            if batch:
                self._waiting -= len(batch)
                return batch
        return []

    def _take(self, bin_: deque[int], kv: int, most: int) -> list[int]:
        batch: list[int] = []
        aside: list[int] = []
        prompt = output = 0
        while bin_ and len(batch) < most:
            row = bin_[0]
            if self._prompt[row] + self._output[row] > kv:
                aside.append(bin_.popleft())
                continue
            tall, long = max(prompt, self._prompt[row]), max(output, self._output[row])
            if (len(batch) + 1) * (tall + long) > kv:
                break
            prompt, output = tall, long
            batch.append(bin_.popleft())
        bin_.extendleft(reversed(aside))
        return batch
