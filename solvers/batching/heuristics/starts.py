"""First plans: the constructions that suit a problem, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, IntArray
from gpuplan.solvers.batching.answer import missed_rows
from gpuplan.solvers.batching.exact.additive import Additive, coefficients, deadlines_count, equal_arrivals
from gpuplan.solvers.batching.heuristics.assign import Groups, assign
from gpuplan.solvers.batching.heuristics.bands import search
from gpuplan.solvers.batching.heuristics.dispatch import deadline_blocks, deadline_cut, dispatch
from gpuplan.solvers.batching.heuristics.windows import windows
from gpuplan.solvers.batching.sequence import evaluate, schedule
from gpuplan.solvers.limits import Budget

#: Beyond this many requests with arrivals, time is walked through once only.
_MANY = 200_000
#: Up to this many, orders that seldom win are tried as well.
_FEW = 5_000
#: Shares of the requests that run by deadline, the rest by likeness.
_URGENT = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A plan, its name, what it is worth, and how late it is where deadlines are hard."""

    name: str
    solution: BatchSolution
    objective: float
    missed: int

    def better_than(self, other: Start | None) -> bool:
        """Whether fewer hard deadlines are missed, or as many at a lower objective."""
        return other is None or (self.missed, self.objective) < (other.missed, other.objective)


def best_start(problem: BatchingProblem, budget: Budget) -> Start:
    """Return the best plan of all constructions, the first one whatever the time."""
    best: Start | None = None
    for name, groups in constructions(problem, budget):
        if groups is not None:
            start = rate(problem, name, groups)
            if start.better_than(best):
                best = start
        if best is not None and budget.exhausted():
            break
    if best is None:  # each alone always fits somewhere
        groups = assign(problem, [np.array([row]) for row in range(problem.num_requests)], "smith")
        assert groups is not None
        best = rate(problem, "one by one", groups)
    return best


def rate(problem: BatchingProblem, name: str, groups: Groups) -> Start:
    """Return what `groups` are worth."""
    solution = schedule(problem, groups)
    missed = len(missed_rows(problem, solution)) if problem.hard else 0
    return Start(name, solution, evaluate(problem, solution).total, missed)


def constructions(problem: BatchingProblem, budget: Budget) -> Iterator[tuple[str, Groups | None]]:
    """Yield plans by name, the most promising first."""
    if not equal_arrivals(problem):
        yield from _in_time(problem)
        return
    if deadlines_count(problem):
        yield from _by_deadline(problem, budget)
    yield from _by_bands(problem, budget)


def _in_time(problem: BatchingProblem) -> Iterator[tuple[str, Groups | None]]:
    requests = problem.requests
    output = requests.output_tokens.astype(np.float64)
    if problem.num_requests > _MANY:
        yield "dispatch by arrival", dispatch(problem, requests.arrival_s, front=True)
        return
    if deadlines_count(problem):
        yield "dispatch by deadline", dispatch(problem, requests.deadline_s, front=True)
    yield "dispatch by output", dispatch(problem, output, front=False)
    yield "dispatch by arrival", dispatch(problem, requests.arrival_s, front=True)
    smallest = min(problem.executors, key=lambda e: (e.kv_tokens, e.max_batch))
    limit = min(executor.max_batch for executor in problem.executors)
    yield from windows(problem, _form(problem, limit, smallest.kv_tokens, per_second=True))
    if problem.num_requests <= _FEW:
        yield "dispatch by length", dispatch(problem, output + requests.prompt_tokens, front=False)


def _by_deadline(problem: BatchingProblem, budget: Budget) -> Iterator[tuple[str, Groups | None]]:
    if problem.num_executors == 1:
        for urgent in _URGENT:
            for blocks in (1, 2, 4, 8, 16, 32, 64):
                if blocks <= max(1, round(urgent * problem.num_requests)) and not budget.exhausted():
                    order = deadline_blocks(problem, blocks, urgent)
                    batches = deadline_cut(problem, order, times=7 * len(_URGENT))
                    if batches is not None:
                        yield f"{blocks} deadline blocks of the first {urgent:.0%}", [batches]
    yield "dispatch by deadline", dispatch(problem, problem.requests.deadline_s, front=True)


def _by_bands(problem: BatchingProblem, budget: Budget) -> Iterator[tuple[str, Groups | None]]:
    """Band orders; where latency counts each batch pays for all that wait, and batches run by Smith's ratio."""
    goal = problem.objective
    rate = _waiting(problem) if goal.latency > 0.0 else None
    kinds = sorted({(e.max_batch, e.kv_tokens) for e in problem.executors}, reverse=True)
    for limit, capacity in kinds[:2]:
        form = _form(problem, limit, capacity, per_second=goal.latency == 0.0)
        batches = search(form, budget, rate=rate).groups()
        yield "bands", assign(problem, batches, "smith" if goal.latency > 0.0 else "longest")


def _waiting(problem: BatchingProblem) -> FloatArray:
    """Return what a second costs after i requests are done, by output rising, shared by the executors."""
    goal, requests = problem.objective, problem.requests
    total = float(requests.weight.sum())
    done = np.linspace(0.0, total, problem.num_requests, endpoint=False) if problem.num_requests else np.empty(0)
    return np.asarray((goal.latency * (total - done) + goal.makespan) / problem.num_executors)


def _form(problem: BatchingProblem, limit: int, capacity: int, *, per_second: bool) -> Additive:
    goal = problem.objective
    speed = float(problem.speed.sum() if per_second else problem.speed.mean())
    weight = (goal.makespan if goal.makespan + goal.padding > 0.0 else 1.0) if per_second else 1.0
    if deadlines_count(problem) and weight == 0.0:
        weight = 1.0
    k = coefficients(problem.time, weight, speed, goal.padding)
    fits: IntArray = problem.requests.prompt_tokens + problem.requests.output_tokens
    return Additive(
        prompt=problem.requests.prompt_tokens,
        output=problem.requests.output_tokens,
        k=k,
        capacity=max(capacity, int(fits.max(initial=0))),
        limit=limit,
        constant=0.0,
    )
