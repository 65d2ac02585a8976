"""One lower bound on the whole objective, from the split, from shares, or from both, and how it was proven.

Makespan and padding are bounded together: makespan·max C ≥ makespan·(first arrival + Σ work/V), so the split of that
sum of batch costs, on an executor with the largest limits of all, bounds both terms. Latency and violations add their
own bounds from shares: each term's least value is at most its value in any plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray
from gpuplan.solvers.batching.bounds import shares
from gpuplan.solvers.batching.bounds.prices import box_prices
from gpuplan.solvers.batching.bounds.split import Split, split
from gpuplan.solvers.batching.exact.additive import Additive, coefficients, deadlines_count, equal_arrivals

#: Least time left, s, with which box prices are worth a try: their compiled loops may have to be made first.
PRICES_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound, how it was proven, and why hard deadlines cannot hold (None when that is not proven)."""

    value: float
    kind: str
    infeasible: str | None = None


def relaxed_form(problem: BatchingProblem, makespan: float, padding: float) -> Additive:
    """Return the sum form that bounds makespan·max C + padding·(padded tokens) of any plan from below."""
    requests = problem.requests
    tokens = float(int(requests.prompt_tokens.sum()) + int(requests.output_tokens.sum()))
    return Additive(
        prompt=requests.prompt_tokens,
        output=requests.output_tokens,
        k=coefficients(problem.time, makespan, float(problem.speed.sum()), padding),
        capacity=max(executor.kv_tokens for executor in problem.executors),
        limit=int(problem.max_batch.max()),
        constant=makespan * float(requests.arrival_s.min(initial=np.inf)) - padding * tokens,
    )


def lower_bound(
    problem: BatchingProblem,
    *,
    share: FloatArray | None = None,
    rounds: int = 12,
    sum_bound: float | None = None,
    prices: float = 0.0,
) -> Bound:
    """Return a bound on the objective of any plan.

    Parameters
    ----------
    share
        Work shares, s at speed 1; None takes those of continuous batching.
    sum_bound
        A bound on makespan and padding together found elsewhere (column generation).
    prices
        Effort of box prices, which are close where two keys matter: 1 takes up to two seconds, 0 leaves them out.
    """
    if problem.num_requests == 0:
        return Bound(0.0, "no requests")
    goal = problem.objective
    known = [shares.continuous(problem) if share is None else share]
    if prices > 0.0:
        found, sum_bound = _box_prices(problem, sum_bound, prices)
        known += [] if found is None else [found]
    value, kinds = _makespan_and_padding(problem, known[-1], rounds, sum_bound, prices > 0.0)
    if goal.latency > 0.0:
        work = _work(problem, rounds) if equal_arrivals(problem) else None
        value += goal.latency * max(shares.latency_bound(problem, one, work) for one in known)
        kinds.append("preemptive machine")
    reason = None
    if problem.hard:
        reason = next((told for one in known if (told := shares.overfull(problem, one)) is not None), None)
    elif deadlines_count(problem):
        value += goal.violation * max(shares.violation_bound(problem, one) for one in known)
        kinds.append("overfull intervals")
    return Bound(value, " + ".join(kinds), reason)


def _box_prices(
    problem: BatchingProblem, sum_bound: float | None, effort: float
) -> tuple[FloatArray | None, float | None]:
    """Return work shares from box prices, and the better of `sum_bound` and their bound on makespan and padding."""
    goal, speed = problem.objective, float(problem.speed.sum())
    form = relaxed_form(problem, goal.makespan, goal.padding)
    # Without padding one form serves both: its prices are times, and times the weight of the makespan a bound on it.
    timed = goal.latency > 0.0 or deadlines_count(problem) or (goal.makespan > 0.0 and goal.padding == 0.0)
    work = box_prices(relaxed_form(problem, speed, 0.0), effort) if timed else None
    total = -np.inf
    if work is not None:
        total = goal.makespan / speed * work.bound + form.constant
    if goal.padding > 0.0 and (both := box_prices(form, effort)) is not None:
        total = both.bound + form.constant
    return None if work is None else work.share, total if sum_bound is None else max(total, sum_bound)


def _work(problem: BatchingProblem, rounds: int) -> FloatArray:
    """Return bounds on the time of any n requests at speed 1."""
    form = relaxed_form(problem, float(problem.speed.sum()), 0.0)
    return split(form, rounds=rounds).work


def _makespan_and_padding(
    problem: BatchingProblem, share: FloatArray, rounds: int, sum_bound: float | None, prices: bool
) -> tuple[float, list[str]]:
    goal = problem.objective
    if goal.makespan == 0.0 and goal.padding == 0.0:
        return 0.0, []
    form = relaxed_form(problem, goal.makespan, goal.padding)
    halves: Split = split(form, rounds=rounds)
    values = {
        "Lagrangian split": halves.bound + form.constant,
        "preemptive machine": goal.makespan * shares.makespan_bound(problem, share),
        "box prices" if prices else "column generation": -np.inf if sum_bound is None else sum_bound,
    }
    best = max(values, key=lambda name: values[name])
    return max(values[best], 0.0), [best]
