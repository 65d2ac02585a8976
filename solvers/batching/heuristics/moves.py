"""Compiled kernel of the neighbourhood search (Numba; without the GIL). Import this module only where it is needed.

A plan is slots and sequences. Slot m is a batch: `member[m, :size[m]]` are its requests and `facts[m]` its numbers
(below). `sequence[e, :length[e]]` are the slots that executor e runs, in order. The last two slots are scratch: a move
writes the two batches it would make there, prices the sequences with them, and keeps them or forgets them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Columns of `facts`: padded tokens, last arrival, first deadline, Σ w, Σ w·arrival, Σ (s+o), time at speed 1.
PROMPT, OUTPUT, RELEASE, DUE, WEIGHT, ARRIVED, TOKENS, TOOK = range(8)
#: Entries of `goal`: weights of latency, makespan, padding, violation and of each second a hard deadline is missed by.
LATENCY, MAKESPAN, PADDING, VIOLATION, TARDY = range(5)
#: Columns of `table`: a request's numbers.
R_PROMPT, R_OUTPUT, R_ARRIVAL, R_DEADLINE, R_WEIGHT = range(5)


@njit(cache=True, nogil=True)
def fill_facts(m: int, member: Ints, size: Ints, table: Floats, k: Floats, facts: Floats) -> None:
    """Compute the numbers of slot m."""
    S, O, release, due, weight, arrived, tokens = 0.0, 0.0, 0.0, np.inf, 0.0, 0.0, 0.0  # noqa: E741
    for place in range(size[m]):
        i = member[m, place]
        S, O = max(S, table[i, R_PROMPT]), max(O, table[i, R_OUTPUT])  # noqa: E741
        release, due = max(release, table[i, R_ARRIVAL]), min(due, table[i, R_DEADLINE])
        weight += table[i, R_WEIGHT]
        arrived += table[i, R_WEIGHT] * table[i, R_ARRIVAL]
        tokens += table[i, R_PROMPT] + table[i, R_OUTPUT]
    b, steps = float(size[m]), max(O - 1.0, 0.0)
    facts[m, PROMPT], facts[m, OUTPUT], facts[m, RELEASE], facts[m, DUE] = S, O, release, due
    facts[m, WEIGHT], facts[m, ARRIVED], facts[m, TOKENS] = weight, arrived, tokens
    facts[m, TOOK] = k[0] + k[1] * b * S + steps * (k[2] + k[3] * b) + k[4] * b * steps * (S + 0.5 * O)


@njit(cache=True, nogil=True)
def price(
    slots: Ints, length: int, speed: float, member: Ints, size: Ints, facts: Floats, table: Floats, goal: Floats
) -> tuple[float, float]:
    """Return (cost without makespan, finish) of one executor's sequence."""
    clock, cost = 0.0, 0.0
    for place in range(length):
        m = slots[place]
        clock = max(clock, facts[m, RELEASE]) + facts[m, TOOK] / speed
        cost += goal[LATENCY] * (facts[m, WEIGHT] * clock - facts[m, ARRIVED])
        if goal[PADDING] > 0.0:
            cost += goal[PADDING] * (size[m] * (facts[m, PROMPT] + facts[m, OUTPUT]) - facts[m, TOKENS])
        if clock > facts[m, DUE] + 1e-9 and goal[VIOLATION] + goal[TARDY] > 0.0:
            for spot in range(size[m]):
                i = member[m, spot]
                if clock > table[i, R_DEADLINE] + 1e-9:
                    cost += goal[VIOLATION] * table[i, R_WEIGHT] + goal[TARDY] * (clock - table[i, R_DEADLINE])
    return cost, clock


@njit(cache=True, nogil=True)
def fits(m: int, e: int, size: Ints, facts: Floats, limit: Ints, capacity: Ints) -> bool:
    """Return whether slot m may run on executor e."""
    return bool(size[m] <= limit[e] and size[m] * (facts[m, PROMPT] + facts[m, OUTPUT]) <= capacity[e])


@njit(cache=True, nogil=True)
def propose(kind: int, i: int, j: int, owner: Ints, member: Ints, size: Ints, table: Floats, half: Ints) -> bool:
    """Write the batches of a move of requests into the scratch slots; False when there is nothing to try.

    kinds: 0 i joins j's batch, 1 i and j change places, 2 i alone, 3 both batches in one, 4 both dealt out anew.
    """
    top = len(size) - 2
    a, b = owner[i], owner[j]
    if kind != 2 and a == b:
        return False
    size[top], size[top + 1] = 0, 0
    if kind == 2:
        if size[a] == 1:
            return False
        for place in range(size[a]):
            if member[a, place] != i:
                member[top, size[top]] = member[a, place]
                size[top] += 1
        member[top + 1, 0] = i
        size[top + 1] = 1
        return True
    if kind == 4:
        return deal(a, b, member, size, table, half)
    if (kind == 0 and size[b] + 1 > member.shape[1]) or (kind == 3 and size[a] + size[b] > member.shape[1]):
        return False
    for place in range(size[a]):
        request = member[a, place]
        goes = kind == 3 or request == i
        slot = top + 1 if goes else top
        member[slot, size[slot]] = request
        size[slot] += 1
    for place in range(size[b]):
        request = member[b, place]
        slot = top if kind == 1 and request == j else top + 1
        member[slot, size[slot]] = request
        size[slot] += 1
    return True


@njit(cache=True, nogil=True)
def deal(a: int, b: int, member: Ints, size: Ints, table: Floats, half: Ints) -> bool:
    """Sort the requests of two batches by a random mix of prompt and output and part them at a random place."""
    top = len(size) - 2
    count = size[a] + size[b]
    for place in range(size[a]):
        half[place] = member[a, place]
    for place in range(size[b]):
        half[size[a] + place] = member[b, place]
    angle = np.random.random()
    keys = np.empty(count)
    for place in range(count):
        i = half[place]
        keys[place] = angle * table[i, R_OUTPUT] + (1.0 - angle) * table[i, R_PROMPT]
    order = np.argsort(keys)
    low, high = max(1, count - member.shape[1]), min(member.shape[1], count - 1)
    first = low + int(np.random.random() * (high - low + 1))
    flip = np.random.random() < 0.5  # which of the two runs first
    size[top], size[top + 1] = 0, 0
    for place in range(count):
        slot = top if (place < first) != flip else top + 1
        if size[slot] >= member.shape[1]:
            return False
        member[slot, size[slot]] = half[order[place]]
        size[slot] += 1
    return True


@njit(cache=True, nogil=True)
def lay_out(
    e: int,
    drop: int,
    instead: int,
    other: int,
    other_instead: int,
    new_at: int,
    new: int,
    sequence: Ints,
    length: Ints,
    size: Ints,
    out: Ints,
) -> int:
    """Write e's sequence with slots `drop` and `other` replaced (left out when empty) and `new` put at `new_at`."""
    count = 0
    for place in range(length[e] + 1):
        if place == new_at:
            out[count] = new
            count += 1
        if place == length[e]:
            break
        slot = sequence[e, place]
        if slot == drop:
            slot = instead
        elif slot == other:
            slot = other_instead
        if slot >= 0 and size[slot] > 0:
            out[count] = slot
            count += 1
    return count


@njit(cache=True, nogil=True)
def pick(n: int, near: Ints, rank: Ints, ordered: bool) -> tuple[int, int, int]:
    """Draw a move: its kind (see `propose`; 5: a batch goes to another place) and two requests, mostly alike."""
    i = int(np.random.random() * n)
    draw = np.random.random()
    kind = 0 if draw < 0.25 else 1 if draw < 0.55 else 2 if draw < 0.6 else 3 if draw < 0.65 else 4
    if ordered and np.random.random() < 0.3:
        kind = 5
    j = int(np.random.random() * n)
    if np.random.random() < 0.8:
        side = 0 if np.random.random() < 0.6 else 1
        reach = 2.0 + 0.1 * n * np.random.random() ** 3
        place = int(rank[side, i] + (np.random.random() * 2.0 - 1.0) * reach)
        j = near[side, min(max(place, 0), n - 1)]
    return kind, i, j


@njit(cache=True, nogil=True)
def lift(a: int, member: Ints, size: Ints) -> None:
    """Copy batch a into the second scratch slot and leave the first empty."""
    top = len(size) - 2
    size[top], size[top + 1] = 0, size[a]
    for place in range(size[a]):
        member[top + 1, place] = member[a, place]


@njit(cache=True, nogil=True)
def settle(
    ea: int,
    eb: int,
    member: Ints,
    size: Ints,
    table: Floats,
    k: Floats,
    facts: Floats,
    limit: Ints,
    capacity: Ints,
) -> bool:
    """Compute the facts of the scratch slots; return whether they may run on executors ea and eb."""
    top = len(size) - 2
    good = True
    for slot in (top, top + 1):
        if size[slot] > 0:
            fill_facts(slot, member, size, table, k, facts)
            good = good and fits(slot, ea if slot == top else eb, size, facts, limit, capacity)
    return good


@njit(cache=True, nogil=True)
def whole(
    ea: int,
    cost_a: float,
    end_a: float,
    eb: int,
    cost_b: float,
    end_b: float,
    cost: Floats,
    finish: Floats,
    goal: Floats,
) -> float:
    """Return the objective with new figures for executors ea and eb (−1: none)."""
    total, last = 0.0, 0.0
    for e in range(len(cost)):
        total += cost_a if e == ea else cost_b if e == eb else cost[e]
        last = max(last, end_a if e == ea else end_b if e == eb else finish[e])
    return float(total + goal[MAKESPAN] * last)


@njit(cache=True, nogil=True)
def anneal(
    seed: int,
    moves: int,
    hot: float,
    table: Floats,
    k: Floats,
    goal: Floats,
    speed: Floats,
    limit: Ints,
    capacity: Ints,
    near: Ints,
    rank: Ints,
    ordered: bool,
    member: Ints,
    size: Ints,
    facts: Floats,
    owner: Ints,
    home: Ints,
    sequence: Ints,
    length: Ints,
    cost: Floats,
    finish: Floats,
) -> float:
    """Make `moves` random moves at temperature `hot`; return the objective. All state arrays are changed in place.

    near, rank: requests by output and by prompt (rows 0 and 1), and their places in these orders.
    ordered: whether the order of batches or their executors matter.
    """
    np.random.seed(seed)
    n, executors, top = len(owner), len(speed), len(size) - 2
    half = np.empty(2 * member.shape[1], dtype=np.int64)
    out = np.empty((2, sequence.shape[1] + 2), dtype=np.int64)
    value = np.sum(cost) + goal[MAKESPAN] * np.max(finish)
    for _ in range(moves):
        kind, i, j = pick(n, near, rank, ordered)
        a, b = owner[i], owner[j]
        ea = home[a]
        eb, new_at, new = home[b], -1, -1
        if kind == 5:
            lift(a, member, size)
        elif not propose(kind, i, j, owner, member, size, table, half):
            continue
        if kind == 2 or kind == 5:
            eb = int(np.random.random() * executors)
            new_at, new, b = int(np.random.random() * (length[eb] + 1)), top + 1, -1
            if kind == 2 and np.random.random() < 0.5:
                eb = ea
        if new_at > length[eb]:
            new_at = length[eb]
        if kind == 3:
            size[top] = 0
        if not settle(ea, eb, member, size, table, k, facts, limit, capacity):
            continue
        same = ea == eb
        la = lay_out(ea, a, top, b, top + 1, new_at if same else -1, new, sequence, length, size, out[0])
        cost_a, end_a = price(out[0], la, speed[ea], member, size, facts, table, goal)
        lb, cost_b, end_b = 0, 0.0, 0.0
        if not same:
            lb = lay_out(eb, b, top + 1, -1, -1, new_at, new, sequence, length, size, out[1])
            cost_b, end_b = price(out[1], lb, speed[eb], member, size, facts, table, goal)
        total = whole(ea, cost_a, end_a, -1 if same else eb, cost_b, end_b, cost, finish, goal)
        if total > value and (hot <= 0.0 or np.random.random() >= np.exp((value - total) / hot)):
            continue
        if b < 0:
            b = a if size[top] == 0 else free_slot(size)
            if b < 0:
                continue
        value = total
        keep(a, top, ea, member, size, facts, owner, home)
        keep(b, top + 1, eb, member, size, facts, owner, home)
        write(ea, la, out[0], a, b, top, sequence, length)
        cost[ea], finish[ea] = cost_a, end_a
        if not same:
            write(eb, lb, out[1], a, b, top, sequence, length)
            cost[eb], finish[eb] = cost_b, end_b
    return float(value)


@njit(cache=True, nogil=True)
def free_slot(size: Ints) -> int:
    """Return a slot without a batch, −1 when there is none."""
    for slot in range(len(size) - 2):
        if size[slot] == 0:
            return slot
    return -1


@njit(cache=True, nogil=True)
def keep(slot: int, scratch: int, e: int, member: Ints, size: Ints, facts: Floats, owner: Ints, home: Ints) -> None:
    """Make a scratch batch the batch of `slot`."""
    if size[scratch] == 0:
        size[slot] = 0
        return
    size[slot] = size[scratch]
    home[slot] = e
    for place in range(size[scratch]):
        member[slot, place] = member[scratch, place]
        owner[member[slot, place]] = slot
    for column in range(facts.shape[1]):
        facts[slot, column] = facts[scratch, column]


@njit(cache=True, nogil=True)
def write(e: int, count: int, out: Ints, a: int, b: int, top: int, sequence: Ints, length: Ints) -> None:
    """Store a sequence, scratch slots by their new names."""
    length[e] = count
    for place in range(count):
        slot = out[place]
        sequence[e, place] = a if slot == top else b if slot == top + 1 else slot
