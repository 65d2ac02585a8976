"""The oracle: every partition, every executor, every order, with arithmetic of its own; and the small instances."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests

Pair = tuple[float, float]


def batch_time(time: BatchTime, size: int, prompt: int, output: int, speed: float) -> float:
    """Return the time of one batch, summed step by step as the formula of the file format stands."""
    total = time.prefill_fixed_s + time.prefill_s_per_token * size * prompt
    for k in range(1, output):
        total += time.step_fixed_s + time.step_s_per_sequence * size
        total += time.step_s_per_context_token * size * (prompt + k)
    return total / speed


@dataclass(frozen=True)
class _Row:
    prompt: int
    output: int
    arrival: float
    deadline: float
    weight: float


def _rows(problem: BatchingProblem) -> list[_Row]:
    r = problem.requests
    columns = (r.prompt_tokens, r.output_tokens, r.arrival_s, r.deadline_s, r.weight)
    return [_Row(int(s), int(o), float(a), float(d), float(w)) for s, o, a, d, w in zip(*columns, strict=True)]


def _front(pairs: set[Pair]) -> list[Pair]:
    """Keep the pairs that no other beats in both components."""
    kept: list[Pair] = []
    for finish, cost in sorted(pairs):
        if not kept or cost < kept[-1][1]:
            kept.append((finish, cost))
    return kept


def _sequences(problem: BatchingProblem, executor: Executor) -> list[list[Pair]]:
    """Return, for each set of requests, (finish, cost) of every ordered partition of it on one executor."""
    rows, goal, hard = _rows(problem), problem.objective, problem.objective.deadlines == "hard"
    found: list[set[Pair]] = [set() for _ in range(1 << len(rows))]

    def extend(used: int, clock: float, cost: float) -> None:
        found[used].add((clock, cost))
        left = [i for i in range(len(rows)) if not used >> i & 1]
        for size in range(1, min(len(left), executor.max_batch) + 1):
            for group in itertools.combinations(left, size):
                members = [rows[i] for i in group]
                prompt, output = max(m.prompt for m in members), max(m.output for m in members)
                if size * (prompt + output) > executor.kv_capacity_tokens * (1 + 1e-12):
                    continue
                start = max(clock, max(m.arrival for m in members))
                finish = start + batch_time(problem.time, size, prompt, output, executor.speed)
                late = [m for m in members if finish > m.deadline + 1e-9]
                if hard and late:
                    continue
                more = goal.latency * sum(m.weight * (finish - m.arrival) for m in members)
                more += goal.padding * sum(prompt + output - m.prompt - m.output for m in members)
                more += goal.violation * sum(m.weight for m in late)
                extend(used | sum(1 << i for i in group), finish, cost + more)

    extend(0, 0.0, 0.0)
    return [_front(pairs) for pairs in found]


def brute_force(problem: BatchingProblem) -> float:
    """Return the least objective over every plan, inf when hard deadlines cannot hold; for N ≤ 6."""
    everything = (1 << problem.num_requests) - 1
    best: list[list[Pair]] = [[(0.0, 0.0)] if mask == 0 else [] for mask in range(everything + 1)]
    for executor in problem.executors:
        own = _sequences(problem, executor)
        joined: list[set[Pair]] = [set() for _ in range(everything + 1)]
        for mask in range(everything + 1):
            part = mask
            while True:
                joined[mask].update((max(f1, f2), c1 + c2) for f1, c1 in own[part] for f2, c2 in best[mask ^ part])
                if part == 0:
                    break
                part = (part - 1) & mask
        best = [_front(pairs) for pairs in joined]
    values = [cost + problem.objective.makespan * finish for finish, cost in best[everything]]
    return min(values, default=math.inf)


def subset_dp(problem: BatchingProblem) -> float:
    """Return the least λ·(Σ batch time) + padding of one executor with equal arrivals; for N ≤ 12."""
    rows, executor, goal = _rows(problem), problem.executors[0], problem.objective
    count = 1 << len(rows)
    best = [math.inf] * count
    best[0] = goal.makespan * rows[0].arrival
    price: dict[int, float] = {}
    for size in range(1, executor.max_batch + 1):
        for group in itertools.combinations(range(len(rows)), size):
            members = [rows[i] for i in group]
            prompt, output = max(m.prompt for m in members), max(m.output for m in members)
            if size * (prompt + output) <= executor.kv_capacity_tokens * (1 + 1e-12):
                waste = sum(prompt + output - m.prompt - m.output for m in members)
                took = batch_time(problem.time, size, prompt, output, executor.speed)
                price[sum(1 << i for i in group)] = goal.makespan * took + goal.padding * waste
    for mask in range(1, count):
        low = mask & -mask
        rest = mask ^ low
        part = rest
        while True:
            cost = price.get(part | low)
            if cost is not None:
                best[mask] = min(best[mask], best[mask ^ (part | low)] + cost)
            if part == 0:
                break
            part = (part - 1) & rest
    return best[count - 1]


Goal = Literal["makespan", "latency", "mixed"]
Due = Literal["none", "soft", "hard", "agreeable"]


@dataclass(frozen=True)
class Family:
    """A family of small instances: how many requests and executors, what binds, what is minimised."""

    requests: tuple[int, int] = (1, 5)
    executors: tuple[int, int] = (1, 1)
    goal: Goal = "makespan"
    due: Due = "none"
    arrivals: bool = False
    weights: bool = False
    one_key: bool = False
    padding: bool = True


def draw(family: Family, seed: int) -> BatchingProblem:
    """Return instance number `seed` of a family; KV limits and batch limits bind in most of them."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(family.requests[0], family.requests[1] + 1))
    prompt, output = _lengths(rng, n, family.one_key)
    time = _times(rng)
    executors = _executors(rng, int(rng.integers(family.executors[0], family.executors[1] + 1)), prompt + output)
    arrival = np.round(rng.uniform(0, 4, n), 2) if family.arrivals else np.full(n, float(rng.integers(0, 2)))
    deadline = _deadlines(rng, family.due, arrival, prompt, output, time)
    weight = rng.integers(0, 4, n).astype(float) if family.weights else np.ones(n)
    return BatchingProblem(
        Requests.of(prompt, output, arrival_s=arrival, deadline_s=deadline, weight=weight),
        executors,
        time,
        _objective(rng, family),
        name=f"small-{seed}",
    )


def _lengths(rng: np.random.Generator, n: int, one_key: bool) -> tuple[np.ndarray, np.ndarray]:
    prompt, output = rng.integers(0, 15, n), rng.integers(0, 10, n)
    if one_key:
        kind = rng.integers(0, 3)
        if kind == 0:
            prompt[:] = prompt[0]
        elif kind == 1:
            output[:] = output[0]
        else:
            rank = rng.permutation(n)
            prompt, output = np.sort(prompt)[rank], np.sort(output)[rank]
    return prompt, output


def _times(rng: np.random.Generator) -> BatchTime:
    values = rng.uniform(0, 1, 5) * (0.8, 0.05, 0.3, 0.1, 0.01) * (rng.random(5) < 0.8)
    return BatchTime(*(float(v) for v in values))


def _executors(rng: np.random.Generator, count: int, tokens: np.ndarray) -> tuple[Executor, ...]:
    largest = max(float(tokens.max()), 1.0)
    alike = rng.random() < 0.4
    made = []
    for e in range(count):
        if e == 0 or not alike:
            capacity = largest * float(rng.uniform(1, 4) if e == 0 else rng.uniform(0.6, 4))
            limit, speed = int(rng.integers(1, 5)), float(rng.choice([0.5, 1.0, 1.0, 2.0]))
        made.append(Executor(f"e{e}", float(np.floor(capacity)), limit, speed))
    return tuple(made)


def _deadlines(
    rng: np.random.Generator, due: Due, arrival: np.ndarray, prompt: np.ndarray, output: np.ndarray, time: BatchTime
) -> np.ndarray:
    n = len(arrival)
    if due == "none":
        return np.full(n, np.inf)
    alone = time.batch_s(1, prompt, output)
    room = np.round(alone + rng.uniform(0.2, 1.6) * rng.uniform(0, 1, n) * (float(alone.sum()) + 0.1), 3)
    if due == "agreeable":  # longer means later
        room = np.round(np.sort(room)[np.argsort(np.argsort(np.lexsort((output, prompt))))], 3)
        room = np.maximum(room, np.round(alone, 3) + 0.001)
        order = np.lexsort((output, prompt))
        room[order] = np.maximum.accumulate(np.sort(room))
    room[rng.random(n) < (0.0 if due == "agreeable" else 0.15)] = np.inf
    return arrival + room


def _objective(rng: np.random.Generator, family: Family) -> BatchObjective:
    padding = float(rng.choice([0.0, 0.02, 0.3])) if family.padding else 0.0
    makespan = {"makespan": 1.0, "latency": 0.0, "mixed": float(rng.choice([0.5, 2.0]))}[family.goal]
    return BatchObjective(
        latency=0.0 if family.goal == "makespan" else 1.0,
        makespan=makespan,
        padding=padding,
        violation=float(rng.choice([0.5, 3.0])) if family.due == "soft" else 0.0,
        deadlines="hard" if family.due in ("hard", "agreeable") else "soft",
    )
