"""Compiled kernels of the rolling planner (Numba, without the GIL). Import this module only where it is needed.

A plan is batches and a sequence. Batch m holds the requests ``member[m, :size[m]]``; `sequence[:count]` names batches
in the order in which executors take them: each goes where it finishes first, executor e being free from `free[e]` on.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Entries of `goal`: weights of latency, makespan, padding, violation, and of hard deadlines missed (s and times).
LATENCY, MAKESPAN, PADDING, VIOLATION, TARDY = range(5)
#: Columns of `table`: a request's prompt, output, deadline, weight.
PROMPT, OUTPUT, DEADLINE, WEIGHT = range(4)
#: Columns of `facts`: a batch's longest prompt and output, Σ w, first deadline.
LONGEST_PROMPT, LONGEST_OUTPUT, WEIGHTS, DUE = range(4)
#: Requests of like output that a move looks at.
REACH = 12


@njit(cache=True, nogil=True)
def fill(m: int, member: Ints, size: Ints, table: Floats, facts: Floats) -> None:
    """Compute the facts of batch m."""
    S, O, weight, due = 0.0, 0.0, 0.0, np.inf  # noqa: E741
    for spot in range(size[m]):
        i = member[m, spot]
        S, O = max(S, table[i, PROMPT]), max(O, table[i, OUTPUT])  # noqa: E741
        weight += table[i, WEIGHT]
        due = min(due, table[i, DEADLINE])
    facts[m, 0], facts[m, 1], facts[m, 2], facts[m, 3] = S, O, weight, due


@njit(cache=True, nogil=True)
def deal(
    sequence: Ints,
    count: int,
    member: Ints,
    size: Ints,
    table: Floats,
    facts: Floats,
    k: Floats,
    speed: Floats,
    capacity: Ints,
    limit: Ints,
    free: Floats,
    goal: Floats,
    clock: Floats,
    where: Ints,
    begin: Floats,
    finish: Floats,
) -> float:
    """Give each batch of the sequence to the executor that finishes it first; return the cost, inf if one fits none."""
    clock[:] = free
    cost, last = 0.0, 0.0
    for place in range(count):
        m = sequence[place]
        b = size[m]
        if b == 0:
            continue
        S, O = facts[m, LONGEST_PROMPT], facts[m, LONGEST_OUTPUT]  # noqa: E741
        steps = max(O - 1.0, 0.0)
        took = k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * steps * (S + 0.5 * O)
        best, at = np.inf, -1
        for e in range(len(free)):
            if b <= limit[e] and b * (S + O) <= capacity[e] and clock[e] + took / speed[e] < best:
                best, at = clock[e] + took / speed[e], e
        if at < 0:
            return np.inf
        where[m], begin[m], finish[m] = at, clock[at], best
        clock[at] = best
        last = max(last, best)
        cost += goal[LATENCY] * facts[m, WEIGHTS] * best + goal[PADDING] * b * (S + O)
        if best > facts[m, DUE] + 1e-9 and goal[VIOLATION] + goal[TARDY] > 0.0:
            for spot in range(b):
                i = member[m, spot]
                late = best - table[i, DEADLINE]
                if late > 1e-9:
                    cost += goal[VIOLATION] * table[i, WEIGHT] + goal[TARDY] * (1.0 + late)
    return float(cost + goal[MAKESPAN] * last)


@njit(cache=True, nogil=True)
def keep(a: int, b: int, member: Ints, size: Ints, kept: Ints) -> tuple[int, int]:
    """Copy two batches into `kept`; return their sizes."""
    for spot in range(size[a]):
        kept[0, spot] = member[a, spot]
    for spot in range(size[b]):
        kept[1, spot] = member[b, spot]
    return size[a], size[b]


@njit(cache=True, nogil=True)
def put_back(a: int, b: int, size_a: int, size_b: int, member: Ints, size: Ints, kept: Ints) -> None:
    """Undo a change of two batches."""
    size[a], size[b] = size_a, size_b
    for spot in range(size_a):
        member[a, spot] = kept[0, spot]
    for spot in range(size_b):
        member[b, spot] = kept[1, spot]


@njit(cache=True, nogil=True)
def exchange(both: bool, i: int, j: int, a: int, b: int, member: Ints, size: Ints) -> None:
    """Let requests i of batch a and j of batch b change places (`both`), or i join batch b."""
    for spot in range(size[a]):
        if member[a, spot] == i:
            member[a, spot] = j if both else member[a, size[a] - 1]
            break
    if not both:
        size[a] -= 1
        member[b, size[b]] = i
        size[b] += 1
        return
    for spot in range(size[b]):
        if member[b, spot] == j:
            member[b, spot] = i
            break


@njit(cache=True, nogil=True)
def climb(
    seed: int,
    tries: int,
    value: float,
    near: Ints,
    rank: Ints,
    owner: Ints,
    sequence: Ints,
    count: int,
    member: Ints,
    size: Ints,
    table: Floats,
    facts: Floats,
    k: Floats,
    speed: Floats,
    capacity: Ints,
    limit: Ints,
    free: Floats,
    goal: Floats,
    clock: Floats,
    where: Ints,
    begin: Floats,
    finish: Floats,
    kept: Ints,
) -> float:
    """Try moves and keep those that lower the cost; return the cost.

    A request joins the batch of one of like output, two such requests change places, or two batches change places in
    the sequence. `near` lists requests by output, `rank` is its inverse; `kept` is scratch for two batches.
    """
    state = (seed * 2654435761 + 12345) % 2147483647 + 1
    n, width = len(owner), member.shape[1]
    for _ in range(tries):
        state = state * 48271 % 2147483647
        kind = state % 4
        state = state * 48271 % 2147483647
        if kind == 3:
            first = state % count
            state = state * 48271 % 2147483647
            second = state % count
            sequence[first], sequence[second] = sequence[second], sequence[first]
            found = deal(
                sequence, count, member, size, table, facts, k, speed, capacity, limit, free, goal, clock, where,
                begin, finish,
            )  # fmt: skip
            if found < value:
                value = found
            else:
                sequence[first], sequence[second] = sequence[second], sequence[first]
            continue
        i = state % n
        state = state * 48271 % 2147483647
        j = near[min(max(rank[i] + state % (2 * REACH + 1) - REACH, 0), n - 1)]
        a, b = owner[i], owner[j]
        if a == b or (kind != 1 and size[b] >= width):
            continue
        size_a, size_b = keep(a, b, member, size, kept)
        exchange(kind == 1, i, j, a, b, member, size)
        fill(a, member, size, table, facts)
        fill(b, member, size, table, facts)
        found = deal(
            sequence, count, member, size, table, facts, k, speed, capacity, limit, free, goal, clock, where,
            begin, finish,
        )  # fmt: skip
        if found < value:
            value = found
            owner[i] = b
            if kind == 1:
                owner[j] = a
            continue
        put_back(a, b, size_a, size_b, member, size, kept)
        fill(a, member, size, table, facts)
        fill(b, member, size, table, facts)
    return value
