"""What a batch plan is worth to its users: latencies, padding, deadlines kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution, FloatArray
from gpuplan.profiles.problems.batching import DEADLINE_SLACK_S, BatchingProblem


@dataclass(frozen=True, slots=True)
class ServiceLevels:
    """Service levels beside the deadlines, by request, s; NaN where there is none."""

    ttft_slo_s: FloatArray | None = None
    tpot_slo_s: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """Metrics of a batch plan.

    Latency is completion − arrival (quantiles interpolate linearly), padding b·(S+O) − Σ(s+o) over batches, also as a
    share of b·(S+O). `slo_attainment` is the share of the requests with a deadline that keep it, `violations` the
    number of those that do not. A request's TTFT is the start of its batch + prefill − arrival, its TPOT the mean
    decode step of its batch; their attainments are over the requests that have such a service level. None: nobody has.
    """

    makespan_s: float
    mean_latency_s: float
    p50_latency_s: float
    p95_latency_s: float
    p99_latency_s: float
    padding_tokens: int
    padding_fraction: float
    slo_attainment: float | None
    violations: int
    mean_ttft_s: float
    ttft_slo_attainment: float | None = None
    tpot_slo_attainment: float | None = None


def batch_metrics(
    problem: BatchingProblem, solution: BatchSolution, levels: ServiceLevels | None = None
) -> BatchMetrics:
    """Return the metrics of `solution`, from its times."""
    requests = problem.requests
    finish = solution.completion_s()
    latency = finish - requests.arrival_s
    p50, p95, p99 = (float(value) for value in np.quantile(latency, [0.5, 0.95, 0.99]))
    padded = int((solution.sizes * (solution.prompt_tokens + solution.output_tokens)).sum())
    padding = padded - int(requests.prompt_tokens.sum()) - int(requests.output_tokens.sum())
    bound = np.isfinite(requests.deadline_s)
    late = int((finish > requests.deadline_s + DEADLINE_SLACK_S).sum())
    first, step = _tokens_s(problem, solution)
    levels = levels or ServiceLevels()
    ttft = first - requests.arrival_s
    return BatchMetrics(
        makespan_s=float(finish.max()),
        mean_latency_s=float(latency.mean()),
        p50_latency_s=p50,
        p95_latency_s=p95,
        p99_latency_s=p99,
        padding_tokens=padding,
        padding_fraction=padding / padded if padded else 0.0,
        slo_attainment=1.0 - late / int(bound.sum()) if bound.any() else None,
        violations=late,
        mean_ttft_s=float(ttft.mean()),
        ttft_slo_attainment=_attainment(ttft, levels.ttft_slo_s),
        tpot_slo_attainment=_attainment(step, levels.tpot_slo_s),
    )


def _tokens_s(problem: BatchingProblem, solution: BatchSolution) -> tuple[FloatArray, FloatArray]:
    """Return when each request has its first token, and the mean decode step of its batch, by row, s."""
    speed = problem.speed[solution.executor]
    prefill = problem.time.prefill_s(solution.sizes, solution.prompt_tokens, speed)
    steps = np.maximum(solution.output_tokens - 1, 1)
    step = (solution.finish_s - solution.start_s - prefill) / steps
    owner = solution.batch_of_request()
    return (solution.start_s + prefill)[owner], step[owner]


def _attainment(value: FloatArray, level: FloatArray | None) -> float | None:
    if level is None or not np.isfinite(level).any():
        return None
    known = np.isfinite(level)
    return float((value[known] <= level[known] + DEADLINE_SLACK_S).mean())
