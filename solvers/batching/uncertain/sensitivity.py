"""How much of a plan's value an imperfect predictor loses: plan with predicted outputs, run with the true ones.

A run keeps the plan's batches, executors and order. A batch takes as long as its true lengths make it. Where they
outgrow the KV cache, the engine drops requests, longest first, until the rest fits; those lose what they had, cost
`restart_s` each and run again right after, in as few batches as fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, Executor, IntArray, Requests
from gpuplan.solvers.batching.sequence import evaluate, run_in_order, schedule_flat, segment_max
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.limits import Limits

Noise = Literal["lognormal", "bucket"]


@dataclass(frozen=True, slots=True)
class Realized:
    """What a plan cost with the true outputs: objective, s, batches that overflowed, and requests run again."""

    objective: float
    overflowed: int
    restarted: int


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """Plans made with predictions of one error, over several draws.

    error
        The noise's size.
    mape
        Mean |predicted − true| / true of the predictions drawn.
    mean_s, worst_s
        Realized objective, s.
    mean_excess, worst_excess
        Over the plan made with the true outputs, relative.
    overflow_share
        Share of batches that overflowed.
    restarts
        Requests run again, on average.
    """

    error: float
    mape: float
    mean_s: float
    worst_s: float
    mean_excess: float
    worst_excess: float
    overflow_share: float
    restarts: float


def realize(
    problem: BatchingProblem, solution: BatchSolution, *, restart_s: float = 0.0, memory: str = "padded"
) -> Realized:
    """Return what the batches of `solution` cost when they run with the outputs of `problem`, the true ones.

    Parameters
    ----------
    restart_s
        What each dropped request costs beside running again, s.
    memory
        ``padded``: b·(S + O) ≤ K, as the problem counts it; ``sum``: Σ(s + o) ≤ K.
    """
    groups: list[IntArray] = []
    owners: list[int] = []
    penalty: list[float] = []
    overflowed = restarted = 0
    for batch in solution:
        executor = problem.executors[batch.executor]
        parts = _parts(problem.requests, batch.requests, executor, memory)
        overflowed += len(parts) > 1
        restarted += len(batch.requests) - len(parts[0])
        groups += parts
        owners += [batch.executor] * len(parts)
        penalty += [0.0, *(restart_s * len(part) for part in parts[1:])]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in groups])]).astype(np.int64)
    rows = np.concatenate(groups) if groups else np.empty(0, dtype=np.int64)
    plan = schedule_flat(problem, np.array(owners, dtype=np.int64), offsets, rows)
    if restart_s > 0.0 and restarted:
        plan = _delayed(problem, plan, np.array(penalty))
    return Realized(evaluate(problem, plan).total, overflowed, restarted)


def sensitivity(
    problem: BatchingProblem,
    *,
    errors: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 1.0),
    noise: Noise = "lognormal",
    draws: int = 3,
    solver: str = "auto",
    restart_s: float = 0.0,
    memory: str = "padded",
    limits: Limits | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[SensitivityRow, ...]:
    """Return how the realized objective grows with the predictor's error.

    Parameters
    ----------
    problem
        With the true outputs.
    errors
        ``lognormal``: σ of log(predicted/true). ``bucket``: the share of requests whose power of two is one too low or
        too high (as a bucket classifier errs); a prediction is its bucket's upper edge then.
    draws
        Predictions drawn for each error.
    solver, limits, options
        As in `solve_batching`, for every plan.
    restart_s, memory
        As in `realize`.
    """
    if draws < 1 or any(not (np.isfinite(error) and error >= 0.0) for error in errors):
        raise UsageError("expected at least one draw, and errors of at least 0")
    limits = limits or Limits(time_limit_s=5.0)
    known = solve_batching(problem, solver=solver, limits=limits, seed=seed, **options).require_plan()
    least = realize(problem, known, restart_s=restart_s, memory=memory).objective
    return tuple(
        _row(problem, error, noise, draws, least, solver, restart_s, memory, limits, seed, options) for error in errors
    )


def predicted_outputs(problem: BatchingProblem, error: float, noise: Noise, seed: int) -> IntArray:
    """Return outputs as a predictor of this error might give them, none larger than fits an executor."""
    rng = np.random.default_rng(seed)
    true = np.maximum(problem.requests.output_tokens, 1)
    if noise == "lognormal":
        guess = np.rint(true * np.exp(rng.normal(0.0, error, len(true)))) if error > 0.0 else true
    else:
        power = np.ceil(np.log2(true))
        wrong = rng.random(len(true)) < error
        guess = 2.0 ** np.maximum(power + np.where(wrong, rng.choice([-1, 1], len(true)), 0), 0.0)
    room = max(executor.kv_tokens for executor in problem.executors) - problem.requests.prompt_tokens
    return np.clip(guess, 1, np.maximum(room, 1)).astype(np.int64)


def _row(
    problem: BatchingProblem,
    error: float,
    noise: Noise,
    draws: int,
    least: float,
    solver: str,
    restart_s: float,
    memory: str,
    limits: Limits,
    seed: int,
    options: dict[str, Any],
) -> SensitivityRow:
    values, off, overflowed, batches, restarted = [], [], 0, 0, 0
    true = np.maximum(problem.requests.output_tokens, 1)
    for draw in range(draws):
        guess = predicted_outputs(problem, error, noise, seed * 1009 + draw)
        requests = problem.requests
        seen = problem.replace(
            requests=Requests(
                requests.id, requests.prompt_tokens, guess, requests.arrival_s, requests.deadline_s, requests.weight
            )
        )
        plan = solve_batching(seen, solver=solver, limits=limits, seed=seed, **options).require_plan()
        found = realize(problem, plan, restart_s=restart_s, memory=memory)
        values.append(found.objective)
        off.append(float(np.mean(np.abs(guess - true) / true)))
        overflowed, restarted = overflowed + found.overflowed, restarted + found.restarted
        batches += plan.num_batches
    mean, worst = float(np.mean(values)), float(np.max(values))
    scale = abs(least) if least else 1.0
    return SensitivityRow(
        error=error,
        mape=float(np.mean(off)),
        mean_s=mean,
        worst_s=worst,
        mean_excess=(mean - least) / scale,
        worst_excess=(worst - least) / scale,
        overflow_share=overflowed / max(batches, 1),
        restarts=restarted / draws,
    )


def _parts(requests: Requests, rows: IntArray, executor: Executor, memory: str) -> list[IntArray]:
    """Return the requests that stay, then the dropped ones in batches that fit; one alone always counts as fitting."""
    parts: list[IntArray] = []
    left = rows[np.argsort(requests.prompt_tokens[rows] + requests.output_tokens[rows], kind="stable")]
    while len(left):
        keep = len(left)
        while keep > 1 and not _fits(requests, left[:keep], executor, memory):
            keep -= 1
        parts.append(left[:keep])
        left = left[keep:]
    return parts


def _fits(requests: Requests, rows: IntArray, executor: Executor, memory: str) -> bool:
    prompt, output = requests.prompt_tokens[rows], requests.output_tokens[rows]
    if memory == "sum":
        return int(prompt.sum()) + int(output.sum()) <= executor.kv_tokens
    return len(rows) * (int(prompt.max()) + int(output.max())) <= executor.kv_tokens


def _delayed(problem: BatchingProblem, plan: BatchSolution, penalty: np.ndarray[Any, Any]) -> BatchSolution:
    release = segment_max(problem.requests.arrival_s[plan.rows], plan.offsets)
    took = plan.finish_s - plan.start_s + penalty
    start, finish = run_in_order(plan.executor, release, took)
    return BatchSolution(
        plan.executor, plan.offsets, plan.rows, plan.prompt_tokens, plan.output_tokens, start, finish, plan.unmet
    )
