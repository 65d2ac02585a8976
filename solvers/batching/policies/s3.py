"""`s3`: decreasing first fit on predicted KV memory, outputs rounded up to buckets.

Requests are sorted by the KV memory they are predicted to need, largest first; each goes into the first batch with
room. The first batch therefore takes, going down the list, whatever still fits it; the next batch the same from the
rest. Here a batch has room while b·(S+O), padded, stays within the KV cache, and it may hold `max_batch` requests.

References
----------
Y. Jin, C.-F. Wu, D. Brooks, G.-Y. Wei, "S³: Increasing GPU Utilization during Generative Inference for Higher
Throughput", NeurIPS 2023, section 3 (ten buckets, bin packing by decreasing first fit).
"""

from __future__ import annotations

import bisect
import time

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, IntArray
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import by_keys
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result


def solve(problem: BatchingProblem, limits: Limits, seed: int, *, buckets: int = 10) -> Result[BatchSolution]:
    """Pack the waiting requests by decreasing first fit; `buckets` equal ones up to the longest output, 0 for none."""
    started = time.perf_counter()
    if buckets < 0:
        raise UsageError(f"expected buckets of at least 0, got {buckets}")
    output = bucketed(problem.requests.output_tokens, buckets)
    queue = FirstFitQueue(problem, output)
    return run_queue(problem, queue, solver="s3", started=started, seed=seed, options={"buckets": buckets})


def bucketed(output_tokens: IntArray, buckets: int) -> IntArray:
    """Return outputs rounded up to the edges of equal buckets between 0 and the longest.

    >>> bucketed(np.array([1, 50, 51, 100]), 2).tolist()
    [50, 50, 100, 100]
    """
    longest = int(output_tokens.max(initial=0))
    if not buckets or longest <= buckets:
        return output_tokens
    number = -(-output_tokens * buckets // longest)  # 1..buckets, rounded up
    return np.maximum(output_tokens, number * longest // buckets)


class FirstFitQueue:
    """Waiting requests by falling KV need; a batch takes from the top whatever still fits."""

    def __init__(self, problem: BatchingProblem, output: IntArray) -> None:
        requests = problem.requests
        need = requests.prompt_tokens + output
        order = by_keys(problem, -need)
        rank = np.empty(len(order), dtype=np.int64)
        # Ranks fall down the list, so the largest request stands last: taking from the end moves nothing.
        rank[order] = np.arange(len(order))[::-1]
        self._rank: list[int] = rank.tolist()
        self._rows: list[int] = order[::-1].tolist()
        self._waiting: list[int] = []
        self._exact = requests.prompt_tokens.tolist(), requests.output_tokens.tolist()
        self._prompt: list[int] = requests.prompt_tokens.tolist()
        self._output: list[int] = output.tolist()
        self._kv = [executor.kv_tokens for executor in problem.executors]
        self._most = [executor.max_batch for executor in problem.executors]

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, row: int) -> None:
        """Take in a request that has arrived."""
        rank = self._rank[row]
        if not self._waiting or rank > self._waiting[-1]:
            self._waiting.append(rank)
        else:
            bisect.insort(self._waiting, rank)

    def form(self, executor: int, now_s: float) -> list[int]:
        """Take out the first batch of the packing."""
        kv, most = self._kv[executor], self._most[executor]
        batch: list[int] = []
        skipped: list[int] = []
        prompt = output = 0
        while self._waiting and len(batch) < most and (len(batch) + 1) * (prompt + output) <= kv:
            rank = self._waiting.pop()
            row = self._rows[rank]
            own_output = self._output[row]
            if self._prompt[row] + own_output > kv:
                own_output = self._exact[1][row]  # the bucket's edge is too much, the request itself may fit
            tall, long = max(prompt, self._prompt[row]), max(output, own_output)
            if (len(batch) + 1) * (tall + long) > kv:
                skipped.append(rank)
                continue
            prompt, output = tall, long
            batch.append(row)
        self._waiting += reversed(skipped)
        return batch
