"""One re-planning of waiting requests: orders cut into batches, dealt out to executors, then improved while time lasts.

Each order of the requests is cut by the contiguous programme (`loops.ordered`, exact for its order), its batches run
by Smith's ratio, by length or by deadline, each on the executor that finishes it first. Orders: the last plan's with
new requests beside those of like output, outputs alone (exact for one length key), bands of outputs with prompts
inside, and deadlines where they count. What is left of the budget goes to a hill climb that moves requests between
batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gpuplan.profiles.problems.batching import BatchObjective, BatchTime, Executor, FloatArray, IntArray, Requests
from gpuplan.solvers.batching.exact import loops
from gpuplan.solvers.batching.exact.additive import coefficients
from gpuplan.solvers.batching.exact.speed import compiled
from gpuplan.solvers.batching.heuristics.bands import Bands

#: Moves between two looks at the clock.
_CHUNK: Final = 64
#: Bands tried, in multiples of 1.4·√(N/B), and the rank's share in where they are cut; the best first by experience.
_BANDS: Final = ((2, 0.5), (4, 0.0), (3, 0.0), (2, 0.0), (1, 0.5))
#: A hard deadline missed costs this times all the rest, once and for each second.
_HARD: Final = 1e3


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What there is to plan: requests that have arrived, and from when on each executor is free, s."""

    requests: Requests
    executors: tuple[Executor, ...]
    time: BatchTime
    objective: BatchObjective
    free_s: FloatArray


@dataclass(slots=True, eq=False)
class Draft:
    """A plan in the arrays of the kernels (see `horizon_loops`); `value` leaves out what no plan changes."""

    name: str
    member: IntArray
    size: IntArray
    facts: FloatArray
    sequence: IntArray
    value: float = np.inf
    where: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    begin: FloatArray = field(default_factory=lambda: np.empty(0))
    finish: FloatArray = field(default_factory=lambda: np.empty(0))


class Replanner:
    """The columns of a moment, and what works on them."""

    def __init__(self, moment: Moment) -> None:
        requests, goal = moment.requests, moment.objective
        self.moment = moment
        self.n = len(requests)
        self.prompt, self.output = requests.prompt_tokens, requests.output_tokens
        columns = (self.prompt, self.output, requests.deadline_s, requests.weight)
        self.table = np.ascontiguousarray(np.stack([c.astype(np.float64) for c in columns], axis=1))
        self.speed = np.array([executor.speed for executor in moment.executors])
        self.capacity = np.array([executor.kv_tokens for executor in moment.executors], dtype=np.int64)
        self.limit = np.array([executor.max_batch for executor in moment.executors], dtype=np.int64)
        self.k = coefficients(moment.time, 1.0, 1.0, 0.0)
        dated = bool(np.isfinite(requests.deadline_s).any())
        hard = dated and goal.deadlines == "hard"
        worth = goal.latency * float(requests.weight.sum()) + goal.makespan + goal.padding
        self.dated = hard or (dated and goal.violation > 0.0)
        self.goal = np.array(
            [
                goal.latency,
                goal.makespan,
                goal.padding,
                goal.violation if dated and not hard else 0.0,
                _HARD * max(worth, 1.0) if hard else 0.0,
            ]
        )

    def plan(self, warm: FloatArray | None, until: float, seed: int) -> tuple[Draft, int, int]:
        """Return the best draft, how many orders were tried and how many moves; at least one order, whatever the time.

        Parameters
        ----------
        warm
            Place of each request in the last plan, NaN for new ones; None without one.
        until
            Reading of `time.perf_counter()` at which to stop.
        """
        best: Draft | None = None
        tried = 0
        for name, order, limit, capacity in self._orders(warm):
            draft = self._best_sequence(self._cut(name, order, limit, capacity))
            tried += 1
            if best is None or draft.value < best.value:
                best = draft
            if time.perf_counter() >= until and np.isfinite(best.value):
                break
        if best is None or not np.isfinite(best.value):
            best = self._best_sequence(self._draft("one by one", np.arange(self.n), np.ones(self.n, dtype=np.int64)))
        moves = self.climb(best, until, seed) if self.n > 1 else 0
        return best, tried, moves

    # ---------------------------------------------------------------------------------------------------------- orders

    def _orders(self, warm: FloatArray | None) -> Iterator[tuple[str, IntArray, int, int]]:
        kinds = sorted({(e.max_batch, e.kv_tokens) for e in self.moment.executors}, reverse=True)[:2]
        bands = Bands(self.prompt, self.output)
        root = max(1, round(1.4 * (self.n / kinds[0][0]) ** 0.5))
        for limit, capacity in kinds:
            if warm is not None and np.isfinite(warm).any():
                yield "last plan", self._warm_order(warm), limit, capacity
            yield "by output", bands.order(self.n, 1.0), limit, capacity
            if self.dated:
                due = self.moment.requests.deadline_s
                yield "by deadline", np.lexsort((self.output, due)).astype(np.int64), limit, capacity
                yield "in deadline blocks", self._blocks(limit), limit, capacity
            for factor, share in _BANDS:
                count = min(factor * root, self.n)
                yield f"{count} bands", bands.order(count, share), limit, capacity
            if bool((self.moment.requests.weight != self.moment.requests.weight[0]).any()):
                yield "by weight", self._by_weight(), limit, capacity

    def _warm_order(self, warm: FloatArray) -> IntArray:
        """Return the last order with each new request beside the one of most alike output."""
        known = np.flatnonzero(np.isfinite(warm))
        by_output = known[np.lexsort((self.prompt[known], self.output[known]))]
        spot = np.searchsorted(self.output[by_output], self.output)
        place = np.where(np.isfinite(warm), warm, warm[by_output[np.minimum(spot, len(by_output) - 1)]] + 0.5)
        return np.lexsort((self.output, place)).astype(np.int64)

    def _blocks(self, limit: int) -> IntArray:
        rank = np.empty(self.n, dtype=np.int64)
        rank[np.argsort(self.moment.requests.deadline_s, kind="stable")] = np.arange(self.n)
        return np.lexsort((self.output, rank // (4 * limit))).astype(np.int64)

    def _by_weight(self) -> IntArray:
        alone = self.moment.time.batch_s(1, self.prompt, self.output)
        return np.argsort(alone / np.maximum(self.table[:, 3], 1e-12), kind="stable").astype(np.int64)

    # ------------------------------------------------------------------------------------------- from order to a draft

    def _cut(self, name: str, order: IntArray, limit: int, capacity: int) -> Draft:
        n, executors = self.n, len(self.speed)
        f, back, sizes = np.empty(n + 1), np.empty(n + 1, dtype=np.int64), np.empty(n, dtype=np.int64)
        k = coefficients(self.moment.time, 1.0, float(self.speed.mean()), self.moment.objective.padding)
        compiled(loops.ordered)(
            self.prompt[order], self.output[order], self._rate(order) / executors, k, capacity, limit, f, back
        )
        first = compiled(loops.unwind)(back, sizes)
        return self._draft(name, order, sizes[first:])

    def _rate(self, order: IntArray) -> FloatArray:
        """Return what a second costs once the requests before each place are done."""
        weight = self.table[order, 3]
        rate = self.goal[0] * np.cumsum(weight[::-1])[::-1] + self.goal[1]
        return np.asarray(np.maximum(rate, 0.0 if self.goal[2] > 0.0 and not self.dated else 1e-9))

    def _draft(self, name: str, order: IntArray, sizes: IntArray) -> Draft:
        starts = np.cumsum(sizes) - sizes
        member = np.zeros((len(sizes), int(self.limit.max())), dtype=np.int64)
        within = np.arange(self.n) - np.repeat(starts, sizes)
        member[np.repeat(np.arange(len(sizes)), sizes), within] = order
        facts = np.column_stack(
            [
                np.maximum.reduceat(self.table[order, 0], starts),
                np.maximum.reduceat(self.table[order, 1], starts),
                np.add.reduceat(self.table[order, 3], starts),
                np.minimum.reduceat(self.table[order, 2], starts),
            ]
        )
        return Draft(name, member, sizes.copy(), np.ascontiguousarray(facts), np.arange(len(sizes)))

    def _best_sequence(self, draft: Draft) -> Draft:
        """Run the batches in the order, among a few, that costs least."""
        size, facts = draft.size, draft.facts
        took = self.moment.time.batch_s(size, facts[:, 0], facts[:, 1])
        sequences = [draft.sequence]
        if self.goal[0] > 0.0:
            sequences.append(np.argsort(took / np.maximum(facts[:, 2], 1e-12), kind="stable"))
        if self.goal[1] > 0.0 and len(self.speed) > 1:
            sequences.append(np.argsort(-took, kind="stable"))
        if self.dated:
            sequences.append(np.lexsort((took, facts[:, 3])))
        for sequence in sequences:
            trial = Draft(draft.name, draft.member, size, facts, np.ascontiguousarray(sequence, dtype=np.int64))
            self.price(trial)
            if trial.value < draft.value or len(draft.where) == 0:
                draft = trial
        return draft

    def price(self, draft: Draft) -> None:
        """Deal a draft's batches out: fill its value, executors and times."""
        from gpuplan.solvers.batching import horizon_loops

        slots = len(draft.size)
        draft.where = np.zeros(slots, dtype=np.int64)
        draft.begin, draft.finish = np.zeros(slots), np.zeros(slots)
        draft.value = float(horizon_loops.deal(draft.sequence, slots, *self._kernel(draft)))

    def _kernel(self, draft: Draft) -> tuple[Any, ...]:
        return (
            draft.member,
            draft.size,
            self.table,
            draft.facts,
            self.k,
            self.speed,
            self.capacity,
            self.limit,
            self.moment.free_s,
            self.goal,
            np.empty(len(self.speed)),
            draft.where,
            draft.begin,
            draft.finish,
        )

    def climb(self, draft: Draft, until: float, seed: int) -> int:
        """Improve `draft` in place until the clock says stop; return how many moves were tried."""
        from gpuplan.solvers.batching import horizon_loops

        near = np.lexsort((self.prompt, self.output)).astype(np.int64)
        rank = np.empty(self.n, dtype=np.int64)
        rank[near] = np.arange(self.n)
        owner = np.empty(self.n, dtype=np.int64)
        for m, size in enumerate(draft.size.tolist()):
            owner[draft.member[m, :size]] = m
        kept = np.zeros((2, draft.member.shape[1]), dtype=np.int64)
        kernel: Any = horizon_loops.climb  # a splatted tuple is more than a typed signature takes
        arguments = self._kernel(draft)
        done, chunk, now = 0, _CHUNK, time.perf_counter()
        while now < until:
            draft.value = float(
                kernel(
                    seed + done,
                    chunk,
                    draft.value,
                    near,
                    rank,
                    owner,
                    draft.sequence,
                    len(draft.sequence),
                    *arguments,
                    kept,
                )
            )
            done += chunk
            before, now = now, time.perf_counter()
            # As many moves as take a tenth of what is left, so that the budget holds.
            chunk = max(16, min(4096, int(chunk * 0.1 * max(until - now, 0.0) / max(now - before, 1e-9))))
        self.price(draft)
        return done


def warm_up() -> None:
    """Load (or, the first time ever, compile) the kernels, so that no re-planning waits for them."""
    moment = Moment(
        Requests.of([1, 2], [1, 2]), (Executor("warm", 1e6, 2),), BatchTime(), BatchObjective(), np.zeros(1)
    )
    replanner = Replanner(moment)
    draft, _, _ = replanner.plan(None, 0.0, 0)
    replanner.climb(draft, time.perf_counter() + 1e-4, 0)
