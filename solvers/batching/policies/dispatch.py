"""Runs a queue discipline: executors take batches from the waiting requests as they fall free.

The executor that is free first (ties: the lower number) decides next, at the later of its own time and, when nothing
waits, the next arrival. It asks the queue for a batch of requests that have arrived; when none of them fits its KV
cache it looks again at the next arrival. O(N log N) for queues with O(log N) operations.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, BatchTime, IntArray
from gpuplan.solvers.batching.answer import answer
from gpuplan.solvers.batching.sequence import schedule_flat
from gpuplan.solvers.result import Result


class Queue(Protocol):
    """The waiting requests under one discipline."""

    def push(self, row: int) -> None:
        """Take in a request that has arrived."""

    def form(self, executor: int, now_s: float) -> list[int]:
        """Take out the next batch for `executor`; empty when no waiting request fits it."""

    def __len__(self) -> int:
        """Return how many requests wait."""


def run_queue(
    problem: BatchingProblem,
    queue: Queue,
    *,
    solver: str,
    started: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Result[BatchSolution]:
    """Return the plan that executors make when they serve `queue`."""
    started = time.perf_counter() if started is None else started
    solution = schedule_flat(problem, *serve(problem, queue))
    return answer(problem, solution, solver=solver, started=started, seed=seed, options=options, notes=notes)


def serve(problem: BatchingProblem, queue: Queue) -> tuple[IntArray, IntArray, IntArray]:
    """Return (executor, offsets, rows) of the batches in the order in which they start."""
    order, moments = arrival_order(problem)
    duration = scalar_batch_time(problem.time)
    prompt, output = problem.requests.prompt_tokens.tolist(), problem.requests.output_tokens.tolist()
    speeds = problem.speed.tolist()
    free = [(0.0, e) for e in range(problem.num_executors)]
    owners: list[int] = []
    sizes: list[int] = []
    rows: list[int] = []
    arrived, total = 0, len(order)
    while len(rows) < total:
        now, e = heapq.heappop(free)
        if not len(queue) and arrived < total:
            now = max(now, moments[arrived])
        while arrived < total and moments[arrived] <= now:
            queue.push(order[arrived])
            arrived += 1
        batch = queue.form(e, now)
        if batch:
            longest = max([prompt[row] for row in batch]), max([output[row] for row in batch])
            heapq.heappush(free, (now + duration(len(batch), *longest, speeds[e]), e))
            owners.append(e)
            sizes.append(len(batch))
            rows += batch
        elif arrived < total:
            heapq.heappush(free, (moments[arrived], e))
        # else: what is left does not fit this executor, so the others serve it.
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return np.array(owners, dtype=np.int64), offsets, np.array(rows, dtype=np.int64)


def arrival_order(problem: BatchingProblem) -> tuple[list[int], list[float]]:
    """Return rows by arrival (then as in the table) and the times they arrive at, s."""
    order = np.argsort(problem.requests.arrival_s, kind="stable")
    return order.tolist(), problem.requests.arrival_s[order].tolist()


def scalar_batch_time(time_model: BatchTime) -> Any:
    """Return ``batch_s(b, S, O, speed)`` for plain numbers: the formula of `BatchTime.batch_s` without arrays."""
    fixed, per_token = time_model.prefill_fixed_s, time_model.prefill_s_per_token
    step, per_sequence = time_model.step_fixed_s, time_model.step_s_per_sequence
    per_context = time_model.step_s_per_context_token

    def batch_s(b: int, S: int, O: int, speed: float) -> float:  # noqa: E741
        steps = max(O - 1, 0)
        context = b * (steps * S + steps * O / 2.0)
        return (fixed + per_token * b * S + steps * (step + per_sequence * b) + per_context * context) / speed

    return batch_s
