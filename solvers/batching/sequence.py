"""From ordered groups to times, and from times to what a plan is worth.

Each executor runs its batches one after the other: a batch starts at the later of its last arrival and the end of the
batch before it, S and O are the longest prompt and output in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuplan.plans.batch_solution import BatchSolution, flatten
from gpuplan.profiles.problems.batching import (
    DEADLINE_SLACK_S,
    BatchingProblem,
    BatchObjective,
    FloatArray,
    IntArray,
)

NumberT = TypeVar("NumberT", np.int64, np.float64)


@dataclass(frozen=True, slots=True)
class Terms:
    """The objective's breakdown: each weight times its quantity; `total` is their sum, s."""

    latency: float
    makespan: float
    padding: float
    violation: float

    @property
    def total(self) -> float:
        """The objective, s."""
        return self.latency + self.makespan + self.padding + self.violation

    def as_dict(self) -> dict[str, float]:
        """Return the terms by name, without the total."""
        return {name: getattr(self, name) for name in ("latency", "makespan", "padding", "violation")}


@dataclass(frozen=True, slots=True)
class Quantities:
    """What the objective weighs: Σ w(C−arrival) and max C, s; padded tokens; Σ w and the number of late requests."""

    latency_s: float
    makespan_s: float
    padding_tokens: float
    violation_weight: float
    violations: int

    def weigh(self, objective: BatchObjective) -> Terms:
        """Return the terms under `objective`."""
        return Terms(
            latency=objective.latency * self.latency_s,
            makespan=objective.makespan * self.makespan_s,
            padding=objective.padding * self.padding_tokens,
            violation=objective.violation * self.violation_weight,
        )


def schedule(problem: BatchingProblem, groups: Sequence[Sequence[Sequence[int] | IntArray]]) -> BatchSolution:
    """Return the plan that runs `groups` (rows, one ordered list of groups an executor) as early as it can.

    Nothing is checked: the caller keeps every request in one group and every group within its executor.
    """
    return schedule_flat(problem, *flatten(groups))


def schedule_flat(problem: BatchingProblem, executor: IntArray, offsets: IntArray, rows: IntArray) -> BatchSolution:
    """Return the same plan from columns: batch m runs ``rows[offsets[m]:offsets[m+1]]`` on ``executor[m]``.

    Batches of one executor run in the order given; batches of different executors may come mixed. O(N + M log M).
    """
    executor, offsets, rows = _by_executor(executor, offsets, rows)
    requests = problem.requests
    prompt = segment_max(requests.prompt_tokens[rows], offsets)
    output = segment_max(requests.output_tokens[rows], offsets)
    release = segment_max(requests.arrival_s[rows], offsets)
    duration = problem.time.batch_s(np.diff(offsets), prompt, output, problem.speed[executor])
    start, finish = run_in_order(executor, release, duration)
    return BatchSolution(
        executor=executor,
        offsets=offsets,
        rows=rows,
        prompt_tokens=prompt,
        output_tokens=output,
        start_s=start,
        finish_s=finish,
        unmet=problem.unmet(),
    )


def run_in_order(executor: IntArray, release: FloatArray, duration: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return start and finish of batches that run in order on each executor, s."""
    free: dict[int, float] = {}
    starts: list[float] = []
    finishes: list[float] = []
    for e, earliest, length in zip(executor.tolist(), release.tolist(), duration.tolist(), strict=True):
        start = max(earliest, free.get(e, 0.0))
        free[e] = finish = start + length
        starts.append(start)
        finishes.append(finish)
    return np.array(starts, dtype=np.float64), np.array(finishes, dtype=np.float64)


def segment_max(values: NDArray[NumberT], offsets: IntArray) -> NDArray[NumberT]:
    """Return the largest value of each segment ``values[offsets[m]:offsets[m+1]]`` (none of them empty)."""
    if len(offsets) <= 1:
        return values[:0]
    largest: NDArray[NumberT] = np.maximum.reduceat(values, offsets[:-1])
    return largest


def measure(problem: BatchingProblem, solution: BatchSolution) -> Quantities:
    """Return the quantities that the objective of `problem` weighs, from the times of `solution`."""
    requests = problem.requests
    finish = solution.completion_s()
    late = finish > requests.deadline_s + DEADLINE_SLACK_S
    padded = solution.sizes * (solution.prompt_tokens + solution.output_tokens)
    tokens = int(requests.prompt_tokens.sum()) + int(requests.output_tokens.sum())
    return Quantities(
        latency_s=float(np.sum(requests.weight * (finish - requests.arrival_s))),
        makespan_s=float(finish.max(initial=0.0)),
        padding_tokens=float(int(padded.sum()) - tokens),
        violation_weight=float(np.sum(requests.weight[late])),
        violations=int(late.sum()),
    )


def evaluate(problem: BatchingProblem, solution: BatchSolution) -> Terms:
    """Return what `solution` is worth: the objective by term and, as `total`, in one number."""
    return measure(problem, solution).weigh(problem.objective)


def _by_executor(executor: IntArray, offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    executor = np.ascontiguousarray(executor, dtype=np.int64)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    if len(executor) == 0 or bool((np.diff(executor) >= 0).all()):
        return executor, offsets, rows
    order = np.argsort(executor, kind="stable")
    sizes = np.diff(offsets)[order]
    new_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    within = np.arange(len(rows)) - np.repeat(new_offsets[:-1], sizes)
    return executor[order], new_offsets, rows[np.repeat(offsets[:-1][order], sizes) + within]
