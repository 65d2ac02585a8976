"""`lns`: neighbourhood search from the best construction, for any objective, arrivals, deadlines and executors.

Moves: a request joins another batch, two change places, one leaves, two batches become one or are dealt out anew by a
random mix of prompt and output, a batch changes its place or executor. Partners are mostly requests of like output or
prompt. Worse plans are accepted at a temperature that falls (simulated annealing), the best plan is kept. Missed hard
deadlines cost a penalty by the second, so that the search finds its way to plans that keep them.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, IntArray
from gpuplan.solvers.batching.answer import answer
from gpuplan.solvers.batching.bounds.lower import PRICES_S, lower_bound
from gpuplan.solvers.batching.compiling import MOVES
from gpuplan.solvers.batching.exact.additive import coefficients, deadlines_count, equal_arrivals
from gpuplan.solvers.batching.heuristics.starts import Start, best_start, rate
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

NAME = "lns"
#: Moves between two looks at the clock, and requests a search makes sense for.
CHUNK: Final = 4_000
MOST: Final = 50_000
_COOL: Final = 300.0


class State:
    """A plan in the arrays of `moves`."""

    def __init__(self, problem: BatchingProblem, solution: BatchSolution) -> None:
        r, goal = problem.requests, problem.objective
        self.problem = problem
        columns = (r.prompt_tokens, r.output_tokens, r.arrival_s, r.deadline_s, r.weight)
        self.table = np.ascontiguousarray(np.stack([c.astype(np.float64) for c in columns], axis=1))
        self.k = coefficients(problem.time, 1.0, 1.0, 0.0)
        objective = max(abs(float(solution.finish_s.max(initial=1.0))), 1e-9)
        counts = deadlines_count(problem)
        tardy = (
            10.0 * (goal.latency * float(r.weight.sum()) + goal.makespan)
            + goal.padding * float(r.prompt_tokens.sum() + r.output_tokens.sum()) * 10.0 / objective
        )
        self.goal = np.array(
            [
                goal.latency,
                goal.makespan,
                goal.padding,
                goal.violation if counts and not problem.hard else 0.0,
                max(tardy, 1.0) if problem.hard else 0.0,
            ]
        )
        self.speed = problem.speed
        self.limit = problem.max_batch
        self.capacity = np.array([e.kv_tokens for e in problem.executors], dtype=np.int64)
        self.near = np.stack(
            [np.lexsort((r.prompt_tokens, r.output_tokens)), np.lexsort((r.output_tokens, r.prompt_tokens))]
        ).astype(np.int64)
        self.rank = np.empty_like(self.near)
        for side in (0, 1):
            self.rank[side, self.near[side]] = np.arange(len(r))
        self.ordered = problem.num_executors > 1 or goal.latency > 0.0 or counts or not equal_arrivals(problem)
        self.load(solution)

    def load(self, solution: BatchSolution) -> None:
        """Take over a plan."""
        from gpuplan.solvers.batching.heuristics import moves

        n, executors = self.problem.num_requests, self.problem.num_executors
        slots = min(n, 2 * solution.num_batches + 64)
        width = int(self.limit.max())
        self.member = np.zeros((slots + 2, width), dtype=np.int64)
        self.size = np.zeros(slots + 2, dtype=np.int64)
        self.facts = np.zeros((slots + 2, 8))
        self.owner = np.zeros(n, dtype=np.int64)
        self.home = np.zeros(slots + 2, dtype=np.int64)
        self.sequence = np.zeros((executors, slots + 2), dtype=np.int64)
        self.length = np.zeros(executors, dtype=np.int64)
        for m, batch in enumerate(solution):
            self.member[m, : len(batch.requests)] = batch.requests
            self.size[m], self.home[m] = len(batch.requests), batch.executor
            self.owner[batch.requests] = m
            self.sequence[batch.executor, self.length[batch.executor]] = m
            self.length[batch.executor] += 1
            moves.fill_facts(m, self.member, self.size, self.table, self.k, self.facts)
        self.cost, self.finish = np.zeros(executors), np.zeros(executors)
        for e in range(executors):
            self.cost[e], self.finish[e] = moves.price(
                self.sequence[e],
                int(self.length[e]),
                float(self.speed[e]),
                self.member,
                self.size,
                self.facts,
                self.table,
                self.goal,
            )

    def value(self) -> float:
        """Return the objective with its penalties."""
        return float(self.cost.sum() + self.goal[1] * self.finish.max(initial=0.0))

    def groups(self) -> list[list[IntArray]]:
        """Return the plan as ordered groups by executor."""
        return [
            [self.member[m, : self.size[m]].copy() for m in self.sequence[e, : self.length[e]].tolist()]
            for e in range(self.problem.num_executors)
        ]

    def anneal(self, seed: int, count: int, hot: float) -> float:
        """Make `count` moves; return the objective with its penalties."""
        from gpuplan.solvers.batching.heuristics import moves

        return float(
            moves.anneal(
                seed,
                count,
                hot,
                self.table,
                self.k,
                self.goal,
                self.speed,
                self.limit,
                self.capacity,
                self.near,
                self.rank,
                self.ordered,
                self.member,
                self.size,
                self.facts,
                self.owner,
                self.home,
                self.sequence,
                self.length,
                self.cost,
                self.finish,
            )
        )


def improve(problem: BatchingProblem, start: Start, budget: Budget, seed: int, seconds: float) -> Start:
    """Return the best plan found from `start` in at most `seconds` (and within the budget).

    With a work limit the temperature follows the work, so that equal seeds give equal plans.
    """
    if problem.num_requests < 2 or budget.exhausted() or not MOVES.prepare(budget):
        return start
    state = State(problem, start.solution)
    until = time.perf_counter() + seconds
    began, limit = time.perf_counter(), budget.limits.work_limit
    first_work = budget.work
    warm = 0.3 * max(abs(state.value()), 1e-12) / max(start.solution.num_batches, 1) / 10.0
    best, best_value, step = start, state.value(), 0
    while not budget.exhausted() and (limit is not None or time.perf_counter() < until):
        if limit is not None:
            share = (budget.work - first_work) / max(limit - first_work, 1)
        else:
            share = (time.perf_counter() - began) / max(min(seconds, budget.remaining_s + budget.elapsed_s), 1e-9)
        hot = warm * _COOL ** -min(share, 1.0) if share < 0.95 else 0.0
        value = state.anneal((seed * 1_000_003 + step) % 2**31, CHUNK, hot)
        budget.spend(CHUNK)
        step += 1
        if value < best_value * (1.0 - 1e-12):
            found = rate(problem, f"{start.name}, then neighbourhood search", state.groups())
            best_value = value
            if found.better_than(best):
                best = found
                budget.report(NAME, best.objective, None)
    return best


def supports(problem: BatchingProblem) -> str | None:
    """Return why the problem is too large, or None."""
    if problem.num_requests > MOST:
        return f"it takes up to {MOST:,} requests, and there are {problem.num_requests:,}; use auto or bands"
    return None


def solve(
    problem: BatchingProblem, limits: Limits, seed: int = 0, *, seconds: float = 5.0, bound: bool = True
) -> Result[BatchSolution]:
    """Search, then bound.

    Parameters
    ----------
    seconds
        Time of the search; the limits may end it earlier. With a work limit only that counts.
    bound
        Whether to compute a lower bound as well.

    Returns
    -------
    Result
        ``feasible`` with a proven gap (``optimal`` when bound and plan meet), ``no_solution`` when hard deadlines are
        missed by the best plan found.
    """
    started, budget = time.perf_counter(), Budget(limits)
    start = best_start(problem, budget)
    prices = float(budget.remaining_s > PRICES_S and MOVES.prepare(budget))
    proof = lower_bound(problem, prices=prices) if bound else None
    found = improve(problem, start, budget, seed, seconds)
    return answer(
        problem,
        found.solution,
        solver=NAME,
        started=started,
        seed=seed,
        work=budget.work,
        bound=None if proof is None else proof.value,
        bound_kind=None if proof is None else proof.kind,
        options={"seconds": seconds, "bound": bound},
        notes=(f"from {found.name}",),
    )
