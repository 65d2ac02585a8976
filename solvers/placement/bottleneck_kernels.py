"""Compiled kernels of the bottleneck search (Numba; serial, without the GIL). Import only where they are needed.

Shapes: C classes, n layers, E edges (see `Ways`). A stage of d that starts at i, ends at j and hands over along edge k
is *within the cap* T when compute + hop ≤ T and its layers fit. ``reach[i, k]`` is the furthest such j ≤ n − 1: i when
there is none, −1 when the edge can never be taken. ``ending[d]`` is the first start of a last stage of d. Both may be
too generous (several boundary sizes, marked layers, the return hop), never too strict.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int16]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Table = NDArray[np.int32]

INF = np.inf


class Ways(NamedTuple):
    """Which class may follow which: edges own[d]..own[d+1]−1 of class d, and those of its door, shared with others.

    door
        Door of each class, shape (C,); its edges are gate[g]..gate[g+1]−1.
    target
        Class each edge leads to; −1 − h for whichever is best of group h.
    group
        Group of each class, shape (C,), of so many as `groups`.
    """

    own: Ints
    door: Ints
    gate: Ints
    target: Ints
    group: Ints
    groups: int


class Stock(NamedTuple):
    """What stages take: amount[k] of resource[k] for k in begin[c]..begin[c+1]−1; of resource r there is capacity[r].

    Class c opens resource home[c] only after ahead[c] (−1: any time).
    """

    begin: Ints
    resource: Ints
    amount: Ints
    capacity: Ints
    home: Ints
    ahead: Ints


class Packed(NamedTuple):
    """How amounts taken are packed: resource r counts from bit shift[r] of word[r]; odd mixers make a hash of a key."""

    word: Ints
    shift: Words
    mask: Words
    mixers: Words


@njit(cache=True, nogil=True)
def reaches(
    prefix: Floats, source: Ints, earliest: Floats, furthest: Ints, room: Floats, reach: Shorts, holds: Floats
) -> None:
    """Fill reach[i, k], and holds[d]: layers a stage of d can have, summed over its starts, along its best edge.

    earliest[k, j] is the least prefix + hop over ends ≥ j, furthest[d, i] the last end that memory allows, room[d] the
    cap with its tolerance.
    """
    holds[:] = 0.0
    n = prefix.shape[1] - 1
    for k in range(len(source)):
        d = source[k]
        total = 0
        j = 0
        for i in range(n):
            while j + 1 < n and earliest[k, j + 1] <= prefix[d, i] + room[d]:
                j += 1
            stop = min(j, furthest[d, i])
            reach[i, k] = max(stop, i)
            total += max(stop, i) - i
        if total == 0:
            reach[:, k] = -1
        holds[d] = max(holds[d], float(total))


@njit(cache=True, nogil=True, inline="always")
def _least(reach: Shorts, target: Ints, i: int, begin: int, end: int, cost: Floats, opened: Floats) -> float:
    """Return the least completion behind a stage from i along edges begin..end−1."""
    least = INF
    for k in range(begin, end):
        stop = reach[i, k]
        if stop > i:
            e = target[k]
            least = min(least, cost[stop, e] if e >= 0 else opened[stop, -1 - e])
    return least


@njit(cache=True, nogil=True)
def completions(reach: Shorts, ways: Ways, ending: Ints, price: Floats, exact: Floats, cost: Floats) -> None:
    """Fill exact[i, d]: least price to open d at position i and to complete from there, and its minimum over i.

    Opening class e costs price[e], again and again:

        exact[i, d] = price[d] + (0 if i ≥ ending[d] else min over edges d → e, i < j ≤ reach of exact[j, e])

    cost[i, d] is the minimum over the positions seen so far (those after the current one) up to i, so that the least
    over a window of ends is its entry at the furthest; at the end it is the minimum over 0 … i. `opened` holds the
    minimum of cost over the classes of each group.
    """
    n, num = cost.shape
    doors = len(ways.gate) - 1
    opened = np.full((n, ways.groups), INF)
    through = np.empty(doors)
    cost[:] = INF
    for i in range(n - 1, -1, -1):
        for g in range(doors):
            through[g] = _least(reach, ways.target, i, ways.gate[g], ways.gate[g + 1], cost, opened)
        for d in range(num):
            least = 0.0
            if i < ending[d]:
                least = _least(reach, ways.target, i, ways.own[d], ways.own[d + 1], cost, opened)
                least = min(least, through[ways.door[d]])
            exact[i, d] = least + price[d]
        for d in range(num):
            k, h = i, ways.group[d]
            while k < n and cost[k, d] > exact[i, d]:
                cost[k, d] = exact[i, d]
                opened[k, h] = min(opened[k, h], exact[i, d])
                k += 1


@njit(cache=True, nogil=True, inline="always")
def _edge(ways: Ways, d: int, number: int) -> int:
    """Return an edge out of d by its number: first its own, then those of its door; −1 beyond the last."""
    k = ways.own[d] + number
    if k < ways.own[d + 1]:
        return int(k)
    k += ways.gate[ways.door[d]] - ways.own[d + 1]
    return int(k) if k < ways.gate[ways.door[d] + 1] else -1


@njit(cache=True, nogil=True)
def cheapest_path(reach: Shorts, ways: Ways, ending: Ints, first: Flags, exact: Floats, path: Ints) -> int:
    """Write the classes of a cheapest relaxed path; return how many, 0 when there is none."""
    num = exact.shape[1]
    d = -1
    least = INF
    for f in range(num):
        if first[f] and exact[0, f] < least:
            least = exact[0, f]
            d = f
    i = 0
    count = 0
    while d >= 0:
        path[count] = d
        count += 1
        if i >= ending[d]:
            return count
        least = INF
        then = -1
        at = i
        number = 0
        k = _edge(ways, d, 0)
        while k >= 0:
            low = ways.target[k] if ways.target[k] >= 0 else 0
            high = low + 1 if ways.target[k] >= 0 else num
            for e in range(low, high):
                if ways.target[k] < 0 and ways.group[e] != -1 - ways.target[k]:
                    continue
                for j in range(reach[i, k], i, -1):
                    if exact[j, e] < least:
                        least = exact[j, e]
                        then = e
                        at = j
            number += 1
            k = _edge(ways, d, number)
        d = then
        i = at
    return 0


# Places in the state vector of `raise_prices`.
BEST, THETA, IDLE, DONE = range(4)


@njit(cache=True, nogil=True)
def raise_prices(
    reach: Shorts,
    ways: Ways,
    ending: Ints,
    first: Flags,
    stock: Stock,
    max_stages: float,
    steps: int,
    patience: int,
    hope: float,
    prices: Floats,
    best_prices: Floats,
    best_cost: Floats,
    direction: Floats,
    state: Floats,
    path: Ints,
    length: Ints,
) -> int:
    """Take subgradient steps towards prices under which every relaxed path costs more than all devices together.

    prices[:R] belong to the resources, prices[R] to a stage of any; Σ prices·capacity + prices[R]·max_stages is kept
    at 1. state[BEST] is the largest cost of a cheapest path so far: above 1, no plan keeps within the cap. Returns the
    steps taken; a relaxed path that keeps the counts is left in `path` (length[0] > 0) and ends the steps, too. So does
    a cost so far below 1 that it is not hoped for any more: by `hope` times the step length.
    """
    n, num = best_cost.shape
    cost = np.empty((n, num))
    exact = np.empty((n, num))
    price = np.empty(num)
    use = np.empty(len(prices))
    for done in range(steps):
        stage_prices(stock, prices, price)
        completions(reach, ways, ending, price, exact, cost)
        root = INF
        for f in range(num):
            if first[f]:
                root = min(root, cost[0, f])
        if root > state[BEST] + 1e-6:
            state[BEST] = root
            state[IDLE] = 0.0
            best_prices[:] = prices
            best_cost[:] = cost
        else:
            state[IDLE] += 1.0
        if state[BEST] > 1.0 + 1e-9:
            state[DONE] = 1.0
            return done + 1
        if state[IDLE] >= patience:
            state[THETA] *= 0.7
            state[IDLE] = 0.0
            prices[:] = best_prices
            direction[:] = 0.0
            if state[THETA] < 0.02 or 1.0 - state[BEST] > hope * state[THETA]:
                state[DONE] = 1.0
                return done + 1
            continue
        count = cheapest_path(reach, ways, ending, first, exact, path)
        if count == 0:
            state[DONE] = 1.0
            return done + 1
        if _within(path, count, stock, max_stages, use):
            length[0] = count
            return done + 1
        gain = state[THETA] * (max(state[BEST], 1.0) + 0.02 - root)
        if not _step(use, stock.capacity, max_stages, gain, direction, prices):
            state[DONE] = 1.0
            return done + 1
    return steps


@njit(cache=True, nogil=True)
def stage_prices(stock: Stock, prices: Floats, price: Floats) -> None:
    """Fill price[c]: what a stage on class c pays for what it takes, and its fee."""
    for c in range(len(price)):
        price[c] = prices[-1]
        for k in range(stock.begin[c], stock.begin[c + 1]):
            price[c] += stock.amount[k] * prices[stock.resource[k]]


@njit(cache=True, nogil=True)
def _within(path: Ints, count: int, stock: Stock, max_stages: float, use: Floats) -> bool:
    """Sum up what the stages take into `use` and compare with what there is."""
    use[:] = 0.0
    for c in path[:count]:
        for k in range(stock.begin[c], stock.begin[c + 1]):
            use[stock.resource[k]] += stock.amount[k]
    use[-1] = count
    fits = 2 <= count <= max_stages
    for r in range(len(stock.capacity)):
        if use[r] > stock.capacity[r]:
            fits = False
    return fits


@njit(cache=True, nogil=True)
def _step(use: Floats, counts: Ints, max_stages: float, gain: float, direction: Floats, prices: Floats) -> bool:
    """Move the prices along (use − counts) + 0.7 · the last direction, by as much as would gain `gain`.

    They stay at zero or above and their total is scaled back to 1. False when there is nowhere to go.
    """
    num = len(counts)
    norm = 0.0
    for c in range(num + 1):
        push = use[c] - (counts[c] if c < num else max_stages)
        if prices[c] <= 0.0 and push < 0.0:
            push = 0.0
        push += 0.7 * direction[c]
        direction[c] = 0.0 if prices[c] <= 0.0 and push < 0.0 else push
        norm += direction[c] * direction[c]
    if norm == 0.0:
        return False
    total = 0.0
    for c in range(num + 1):
        prices[c] = max(0.0, prices[c] + gain / norm * direction[c])
        total += prices[c] * (counts[c] if c < num else max_stages)
    if total <= 0.0:
        return False
    for c in range(num + 1):
        prices[c] /= total
    return True


@njit(cache=True, nogil=True)
def best_of_sequence(
    classes: Ints,
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    term: float,
    low: Ints,
    top: Ints,
    stops: Ints,
) -> float:
    """Return the least bottleneck of stages on the given classes in this order, and write where each stage stops.

    best[k, j] = min over low ≤ i ≤ top of max(best[k − 1, i], compute(i, j) + outgoing hop): best rises with i only
    in its running minimum, so every i of the window is tried. `term` is the last stage's return hop.
    """
    count, n = len(classes), prefix.shape[1] - 1
    best = np.full((count + 1, n + 1), INF)
    came = np.zeros((count + 1, n + 1), np.int64)
    best[0, 0] = 0.0
    for k in range(count):
        d = classes[k]
        last = k == count - 1
        for j in range(n if last else k + 1, n + 1 if last else n - (count - k - 1) + 1):
            hop = term
            if not last:
                hop = hop_s[d, classes[k + 1]] + boundary[j] * hop_s_per_byte[d, classes[k + 1]]
            for i in range(min(top[j], j - 1), low[d, j] - 1, -1):
                stage = prefix[d, j] - prefix[d, i] + hop
                if stage >= best[k + 1, j]:
                    break
                value = max(best[k, i], stage)
                if value < best[k + 1, j]:
                    best[k + 1, j] = value
                    came[k + 1, j] = i
    if best[count, n] < INF:
        j = n
        for k in range(count, 0, -1):
            stops[k - 1] = j
            j = came[k, j]
    return float(best[count, n])


# Rows of a label's whole numbers and of its reals.
LAST, AT, PARENT = range(3)
PAID, SCORE = range(2)
# Places in `filled`.
ROWS, ENDS, LEFT_OUT = range(3)


@njit(cache=True, nogil=True)
def expand(
    words: Words,
    ints: Ints,
    floats: Floats,
    begin: int,
    end: int,
    reach: Shorts,
    ways: Ways,
    ending: Ints,
    cost: Floats,
    price: Floats,
    most: float,
    stock: Stock,
    packed: Packed,
    table: Table,
    out_words: Words,
    out_ints: Ints,
    out_floats: Floats,
    ends: Ints,
    filled: Ints,
    strict: bool,
) -> int:
    """Extend labels begin..end−1 by one stage each way; return the first label not done for lack of space.

    A label is (what is taken, last class, the furthest position at which that one can start). Of labels with equal
    takings and last class the furthest stays. One is cut when its price plus that of its cheapest completion is above
    `most`. filled: labels written, complete ones noted in `ends`, and how often `strict` left out an empty stage.
    """
    for r in range(begin, end):
        d, at = ints[LAST, r], ints[AT, r]
        edges = ways.own[d + 1] - ways.own[d] + ways.gate[ways.door[d] + 1] - ways.gate[ways.door[d]]
        if filled[ROWS] + edges > out_ints.shape[1] or 2 * (filled[ROWS] + edges) > len(table):
            return r
        for number in range(edges):
            k = _edge(ways, d, number)
            stop, e = reach[at, k], ways.target[k]
            if stop < 0 or floats[PAID, r] + cost[stop, e] > most:
                continue
            if not _free(words[r], e, stock, packed):
                continue
            if strict and stop == at:
                filled[LEFT_OUT] += 1
                continue
            row = _place(words, r, e, stock, packed, table, out_words, out_ints, filled)
            if row == filled[ROWS]:
                filled[ROWS] += 1
                out_ints[AT, row] = -1
            if stop > out_ints[AT, row]:
                out_ints[AT, row] = stop
                out_ints[PARENT, row] = r
                out_floats[PAID, row] = floats[PAID, r] + price[e]
                out_floats[SCORE, row] = floats[PAID, r] + cost[stop, e]
            if stop >= ending[e] and filled[ENDS] < len(ends):
                ends[filled[ENDS]] = row
                filled[ENDS] += 1
    return end


@njit(cache=True, nogil=True)
def _free(words: Words, e: int, stock: Stock, packed: Packed) -> bool:
    """Whether one more stage on class e may be added; a twin is opened only after the one before it."""
    for k in range(stock.begin[e], stock.begin[e + 1]):
        r = stock.resource[k]
        taken = (words[packed.word[r]] >> packed.shift[r]) & packed.mask[r]
        if taken + np.uint64(stock.amount[k]) > np.uint64(stock.capacity[r]):
            return False
    before, home = stock.ahead[e], stock.home[e]
    if before < 0 or ((words[packed.word[home]] >> packed.shift[home]) & packed.mask[home]) > np.uint64(0):
        return True
    return bool(((words[packed.word[before]] >> packed.shift[before]) & packed.mask[before]) > np.uint64(0))


@njit(cache=True, nogil=True)
def _place(
    words: Words,
    r: int,
    e: int,
    stock: Stock,
    packed: Packed,
    table: Table,
    out_words: Words,
    out_ints: Ints,
    filled: Ints,
) -> int:
    """Return the row of the label (takings of r and a stage on e, last e); filled[ROWS] when new, its key written.

    The table of row numbers is open-addressed; keys are compared in full, so a collision costs time, never a label.
    """
    width = words.shape[1]
    size = np.uint64(len(table) - 1)
    new = filled[ROWS]
    for w in range(width):
        out_words[new, w] = words[r, w]
    for k in range(stock.begin[e], stock.begin[e + 1]):
        at = stock.resource[k]
        out_words[new, packed.word[at]] += np.uint64(stock.amount[k]) << packed.shift[at]
    mix = packed.mixers[width + e]
    for w in range(width):
        mix = (mix ^ (out_words[new, w] * packed.mixers[w])) * np.uint64(0x9E3779B97F4A7C15)
        mix ^= mix >> np.uint64(29)
    slot = mix & size
    while table[slot] >= 0:
        row = table[slot]
        if out_ints[LAST, row] == e and (out_words[row] == out_words[new]).all():
            return int(row)
        slot = (slot + np.uint64(1)) & size
    table[slot] = new
    out_ints[LAST, new] = e
    return int(new)
