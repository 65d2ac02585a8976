"""Picks threshold and weights of UELLM's rule for a workload: a grid, judged by the problem's own objective.

Thresholds run geometrically between the smallest and the largest value the condition can take on the workload (at the
largest, batches are cut by the executor alone). Workloads above `SAMPLE` requests are tuned on a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import missed_rows
from gpuplan.solvers.batching.policies.dispatch import serve
from gpuplan.solvers.batching.policies.slo_odbs import Parameters, paper_queue, service_levels
from gpuplan.solvers.batching.sequence import evaluate, schedule_flat
from gpuplan.solvers.limits import Budget

#: Requests that a grid point is judged on at most.
SAMPLE: Final = 2000
#: Thresholds tried for each pair of weights.
THRESHOLDS: Final = 16
#: Shares of w1 tried; w2 has the rest, scaled so that both terms are of one size on average.
SHARES: Final = (0.0, 0.2, 0.5, 0.8, 1.0)


def tune_parameters(
    problem: BatchingProblem, start: Parameters, budget: Budget, *, tune_weights: bool = True
) -> Parameters:
    """Return the best parameters of the grid around `start` for `problem` (ties: the smaller threshold).

    Hard deadlines: the fewest missed first, then the objective. The best of those judged when the time is up.
    """
    sample = _sample(problem)
    best, best_value = start, (np.inf, np.inf)
    for weighted in _weights(sample, start) if tune_weights else iter([start]):
        for threshold in _thresholds(sample, weighted):
            if budget.exhausted():
                return best
            candidate = replace(weighted, threshold=threshold)
            value = _value(sample, candidate)
            if value < best_value:
                best, best_value = candidate, value
    return best


def _sample(problem: BatchingProblem) -> BatchingProblem:
    if problem.num_requests <= SAMPLE:
        return problem
    first = np.argsort(problem.requests.arrival_s, kind="stable")[:SAMPLE]
    if not problem.requests.arrival_s.any():
        # Everything is there at once: every so manieth keeps the mix of a sorted table.
        first = np.linspace(0, problem.num_requests - 1, SAMPLE).astype(np.int64)
    return problem.replace(requests=problem.requests.take(first))


def _weights(problem: BatchingProblem, start: Parameters) -> Iterator[Parameters]:
    slo = 2.0 * float(service_levels(problem).mean()) * start.L1
    length = float(problem.requests.output_tokens.mean()) * start.L2
    scale = slo / length if slo > 0.0 and length > 0.0 else 1.0
    for share in SHARES:
        yield replace(start, w1=share, w2=(1.0 - share) * scale)


def _thresholds(problem: BatchingProblem, parameters: Parameters) -> list[float]:
    most = max(executor.max_batch for executor in problem.executors)
    slo = 2.0 * service_levels(problem) * parameters.L1 * parameters.w1
    length = problem.requests.output_tokens * parameters.L2 * parameters.w2
    longest = float(slo.max() + 2.0 * length.max()) * (most + 1)
    values = np.concatenate([slo, length])
    positive = values[values > 0.0]
    if not len(positive) or longest <= 0.0:
        return [0.0]
    grid: list[float] = np.geomspace(max(float(positive.min()), longest * 1e-6), longest, THRESHOLDS).tolist()
    return grid


def _value(problem: BatchingProblem, parameters: Parameters) -> tuple[float, float]:
    solution = schedule_flat(problem, *serve(problem, paper_queue(problem, parameters)))
    missed = len(missed_rows(problem, solution)) if problem.hard else 0
    return float(missed), evaluate(problem, solution).total
