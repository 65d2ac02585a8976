"""Rolling horizon: plan again as requests arrive, the way a serving loop would call it.

    planner = RollingPlanner(executors, time)
    planner.submit(new_requests)
    plan = planner.replan(now_s, budget_s=0.01)
    batch = planner.start("e0", now_s)          # the next batch of an idle executor: from here on it is frozen
    planner.finish("e0", now_s)                 # when it is done, early or late

A running batch is never taken apart: its executor is free when it is expected to finish, and what waits is planned
around it. The last plan is where the next one starts.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError, UsageError
from gpuplan.plans.batch_solution import BatchSolution, FloatArray
from gpuplan.profiles.problems.batching import (
    DEADLINE_SLACK_S,
    BatchingProblem,
    BatchObjective,
    BatchTime,
    Executor,
    IntArray,
    Requests,
    check_executors,
    unservable,
    unservable_message,
)
from gpuplan.solvers.batching.replanning import Draft, Moment, Replanner, warm_up
from gpuplan.solvers.batching.sequence import Terms, evaluate

#: Time a re-planning takes at most unless told, s.
BUDGET_S: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class RollingPlan:
    """What is planned for the requests that wait.

    Parameters
    ----------
    now_s
        When it was made.
    requests
        The waiting requests; `solution` speaks of their rows.
    solution
        Their batches; executors that run one start the next when that is expected to finish.
    terms
        What it is worth: latency counts from arrival.
    start
        The construction it came from (``last plan``, ``12 bands``, …).
    orders, moves
        Orders cut and moves tried.
    wall_time_s
        Time the planning took.
    """

    now_s: float
    requests: Requests
    solution: BatchSolution
    terms: Terms
    start: str
    orders: int
    moves: int
    wall_time_s: float

    @property
    def objective(self) -> float:
        """The objective, s."""
        return self.terms.total


@dataclass(frozen=True, slots=True, eq=False)
class RunningBatch:
    """A batch that has started: its requests, padded lengths, and when it is expected to finish."""

    executor: str
    requests: Requests
    prompt_tokens: int
    output_tokens: int
    start_s: float
    expected_finish_s: float


class RollingPlanner:
    """Plans batches again and again while requests come and go.

    Parameters
    ----------
    executors, time, objective
        As in a `BatchingProblem`. Of hard deadlines as many as possible are kept, and none refused.
    seed
        Of the moves that improve a plan.

    Notes
    -----
    Compiled kernels are loaded here (0.3 s once a process, some seconds the first time ever), so that no re-planning
    waits for them. Not thread-safe: one planner belongs to one loop.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        time: BatchTime,
        objective: BatchObjective | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.executors = tuple(executors)
        check_executors(self.executors)
        self.time, self.objective, self.seed = time, objective or BatchObjective(), seed
        self._waiting = Requests.of([], [])
        self._place: FloatArray = np.empty(0)  # in the last plan's sequence, NaN for requests that came since
        self._running: dict[str, RunningBatch] = {}
        self._plan: RollingPlan | None = None
        self._names: set[str | int] = set()
        warm_up()

    # ------------------------------------------------------------------------------------------------------- what waits

    @property
    def waiting(self) -> Requests:
        """The requests that have not started, in order of submission."""
        return self._waiting

    @property
    def running(self) -> tuple[RunningBatch, ...]:
        """The batches that run, in the order of the executors."""
        return tuple(self._running[e.name] for e in self.executors if e.name in self._running)

    @property
    def plan(self) -> RollingPlan | None:
        """The last plan."""
        return self._plan

    def submit(self, requests: Requests) -> None:
        """Take in requests that have arrived.

        Raises
        ------
        InputError
            An id that waits or runs already, or a request larger than every executor's KV capacity.
        """
        ids = requests.id.tolist()
        again = next((name for name in ids if name in self._names), None)
        if again is not None:
            raise InputError(f"expected a new id, got {again!r}, which waits or runs already")
        rows = unservable(requests, self.executors)
        if len(rows):
            raise InputError(unservable_message(requests, self.executors, rows))
        self._names.update(ids)
        self._waiting = _joined(self._waiting, requests)
        self._place = np.concatenate([self._place, np.full(len(requests), np.nan)])

    def withdraw(self, ids: Iterable[Any]) -> None:
        """Forget waiting requests that were cancelled; UsageError for one that does not wait."""
        gone = set(ids)
        mask = np.array([name in gone for name in self._waiting.id.tolist()], dtype=bool)
        if int(mask.sum()) != len(gone):
            missing = sorted(map(str, gone - set(self._waiting.id.tolist())))
            raise UsageError(f"expected requests that wait, got {', '.join(missing)}")
        self._drop(mask)
        self._names -= gone

    # ------------------------------------------------------------------------------------------------------- planning

    def replan(self, now_s: float, *, budget_s: float = BUDGET_S) -> RollingPlan:
        """Plan everything that waits.

        Parameters
        ----------
        now_s
            Time on the clock of the arrivals; nothing starts before it.
        budget_s
            Wall time to spend: constructions first (one at least, whatever the time), then improvement until it is
            used up; 0 for the first construction alone.
        """
        started = clock.perf_counter()
        self._check_now(now_s)
        free = self._free(now_s)
        if not len(self._waiting):
            self._plan = self._empty(now_s, started)
            return self._plan
        replanner = Replanner(Moment(self._waiting, self.executors, self.time, self.objective, free))
        warm = self._place if np.isfinite(self._place).any() else None
        # Writing the plan down takes about as long as one order: leave room for it.
        draft, orders, moves = replanner.plan(warm, started + 0.85 * budget_s - 5e-4, self.seed)
        solution = self._solution(draft)
        self._remember(solution)
        problem = self._problem()
        self._plan = RollingPlan(
            now_s,
            self._waiting,
            replace(solution, unmet=self._unmet(free)),
            evaluate(problem, solution),
            draft.name,
            orders,
            moves,
            clock.perf_counter() - started,
        )
        return self._plan

    def start(self, executor: str, now_s: float) -> RunningBatch | None:
        """Freeze and return the next batch of an idle executor by the last plan, None when there is none for it.

        Raises
        ------
        UsageError
            An unknown executor, or one that still runs.
        """
        number = self._number(executor)
        self._check_now(now_s)
        if executor in self._running:
            raise UsageError(f"executor {executor} still runs a batch; call finish first")
        if self._plan is None:
            return None
        solution, ids = self._plan.solution, self._plan.requests.id
        waiting = set(self._waiting.id.tolist())
        for m in np.flatnonzero(solution.executor == number).tolist():
            names = ids[solution.rows[solution.offsets[m] : solution.offsets[m + 1]]].tolist()
            chosen = {name for name in names if name in waiting}
            if chosen:
                return self._begin(self.executors[number], chosen, now_s)
        return None

    def finish(self, executor: str, now_s: float) -> RunningBatch:
        """Say that an executor's batch is done; returns it. UsageError when it runs none."""
        self._number(executor)
        self._check_now(now_s)
        batch = self._running.pop(executor, None)
        if batch is None:
            raise UsageError(f"executor {executor} runs no batch")
        self._names.difference_update(batch.requests.id.tolist())
        return batch

    # ------------------------------------------------------------------------------------------------------- in here

    def _begin(self, executor: Executor, names: set[Any], now_s: float) -> RunningBatch:
        mask = np.array([name in names for name in self._waiting.id.tolist()], dtype=bool)
        requests = self._waiting.take(mask)
        prompt, output = int(requests.prompt_tokens.max()), int(requests.output_tokens.max())
        took = float(self.time.batch_s(len(requests), prompt, output, executor.speed))
        batch = RunningBatch(executor.name, requests, prompt, output, now_s, now_s + took)
        self._running[executor.name] = batch
        self._drop(mask)
        return batch

    def _drop(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        self._waiting, self._place = self._waiting.take(~mask), self._place[~mask]

    def _free(self, now_s: float) -> FloatArray:
        """Return when each executor is free: now, or when its batch is expected to finish."""
        ends = [self._running[e.name].expected_finish_s if e.name in self._running else now_s for e in self.executors]
        return np.maximum(np.array(ends, dtype=np.float64), now_s)

    def _solution(self, draft: Draft) -> BatchSolution:
        kept = draft.sequence[draft.size[draft.sequence] > 0]
        kept = kept[np.lexsort((draft.begin[kept], draft.where[kept]))]
        sizes = draft.size[kept]
        filled = np.arange(draft.member.shape[1]) < sizes[:, None]
        return BatchSolution(
            executor=draft.where[kept],
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            rows=draft.member[kept][filled],
            prompt_tokens=draft.facts[kept, 0].astype(np.int64),
            output_tokens=draft.facts[kept, 1].astype(np.int64),
            start_s=draft.begin[kept],
            finish_s=draft.finish[kept],
            unmet=np.empty(0, dtype=np.int64),
        )

    def _remember(self, solution: BatchSolution) -> None:
        """Keep each request's place: batches in the order they start, the whole batch side by side."""
        turn = np.empty(solution.num_batches, dtype=np.int64)
        turn[np.argsort(solution.start_s, kind="stable")] = np.arange(solution.num_batches)
        place = np.empty(len(solution.rows))
        width = float(solution.sizes.max())
        within = np.arange(len(solution.rows)) - np.repeat(solution.offsets[:-1], solution.sizes)
        place[solution.rows] = np.repeat(turn, solution.sizes) * width + within
        self._place = place

    def _problem(self) -> BatchingProblem:
        return BatchingProblem(self._waiting, self.executors, self.time, self.objective)

    def _unmet(self, free: FloatArray) -> IntArray:
        """Return the rows whose deadline no plan from now on can meet."""
        best: FloatArray = np.full(len(self._waiting), np.inf)
        prompt, output = self._waiting.prompt_tokens, self._waiting.output_tokens
        for e, executor in enumerate(self.executors):
            alone = free[e] + self.time.batch_s(1, prompt, output, executor.speed)
            best = np.where(executor.room(prompt + output) >= 1, np.minimum(best, alone), best)
        return np.flatnonzero(best > self._waiting.deadline_s + DEADLINE_SLACK_S).astype(np.int64)

    def _empty(self, now_s: float, started: float) -> RollingPlan:
        none, nothing = np.empty(0, dtype=np.int64), np.empty(0)
        solution = BatchSolution(none, np.zeros(1, dtype=np.int64), none, none, none, nothing, nothing, none)
        spent = clock.perf_counter() - started
        return RollingPlan(now_s, self._waiting, solution, Terms(0.0, 0.0, 0.0, 0.0), "nothing waits", 0, 0, spent)

    def _number(self, executor: str) -> int:
        for number, own in enumerate(self.executors):
            if own.name == executor:
                return number
        raise UsageError(f"no executor is called {executor!r}; known are {', '.join(e.name for e in self.executors)}")

    def _check_now(self, now_s: float) -> None:
        if not np.isfinite(now_s):
            raise UsageError(f"expected a finite time, got {now_s}")


def _joined(first: Requests, second: Requests) -> Requests:
    if not len(first):
        return second
    ids = (first.id, second.id)
    if len({column.dtype.kind for column in ids}) > 1:
        ids = (first.id.astype(object), second.id.astype(object))
    names = ("prompt_tokens", "output_tokens", "arrival_s", "deadline_s", "weight")
    return Requests(
        np.concatenate(ids), *(np.concatenate([getattr(first, name), getattr(second, name)]) for name in names)
    )
