"""Compiled kernels of the bottleneck search (Numba; serial, without the GIL). Import only where they are needed.

Shapes: C classes, n layers. A stage of d that starts at i, ends at j and hands over to e is *within the cap* T when
compute + hop ≤ T and its layers fit. ``reach[d, i, e]`` is the furthest such j ≤ n − 1: i when there is none, −1 when
d never hands over to e. ``ending[d]`` is the first start of a last stage of d. Both may be too generous (several
boundary sizes, marked layers, the return hop), never too strict.
"""

from __future__ import annotations

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


@njit(cache=True, nogil=True)
def reaches(
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    furthest: Ints,
    cap_s: float,
    tolerance: float,
    reach: Shorts,
) -> None:
    """Fill reach[d, i, e]; furthest[d, i] is the last end that memory allows."""
    num, n = prefix.shape[0], prefix.shape[1] - 1
    hop = np.empty(n + 1)
    for d in range(num):
        room = cap_s + tolerance * (cap_s + prefix[d, n])
        for e in range(num):
            for j in range(n + 1):
                hop[j] = hop_s[d, e] + boundary[j] * hop_s_per_byte[d, e]
            _reach(prefix[d], hop, furthest[d], room, reach[d, :, e])


@njit(cache=True, nogil=True)
def reaches_by_least_hop(
    prefix: Floats, least_hop: Floats, furthest: Ints, cap_s: float, tolerance: float, reach: Shorts
) -> None:
    """Fill reach[d, i, 0] for the least hop out of d at each boundary, whichever device it leads to."""
    num, n = prefix.shape[0], prefix.shape[1] - 1
    for d in range(num):
        room = cap_s + tolerance * (cap_s + prefix[d, n])
        _reach(prefix[d], least_hop[d], furthest[d], room, reach[d, :, 0])


@njit(cache=True, nogil=True)
def _reach(prefix: Floats, hop: Floats, furthest: Ints, room: float, reach: Shorts) -> None:
    """Fill the furthest ends of one device with one hop per boundary."""
    n = len(prefix) - 1
    least = np.empty(n + 1)
    least[n] = INF
    for j in range(n - 1, 0, -1):
        least[j] = min(least[j + 1], prefix[j] + hop[j])
    some = False
    j = 0
    for i in range(n):
        while j + 1 < n and least[j + 1] <= prefix[i] + room:
            j += 1
        stop = min(j, furthest[i])
        if stop > i:
            some = True
        reach[i] = max(stop, i)
    if not some:
        reach[:] = -1


@njit(cache=True, nogil=True)
def completions(reach: Shorts, ending: Ints, price: Floats, exact: Floats, cost: Floats) -> None:
    """Fill exact[i, d]: least price to open d at position i and to complete from there, and its minimum over i.

    Opening a device of class e costs price[e], again and again:

        exact[i, d] = price[d] + (0 if i ≥ ending[d] else min over e, i < j ≤ reach[d, i, e] of exact[j, e])

    cost[i, d] is the minimum over the positions seen so far (those after the current one) up to i, so that the least
    over a window of ends is its entry at the furthest; at the end it is the minimum over 0 … i. Where reach has one
    column for every e, `opened` holds the minimum of cost over e.
    """
    n, num = cost.shape
    alike = reach.shape[2] == 1
    opened = np.full(n, INF)
    cost[:] = INF
    for i in range(n - 1, -1, -1):
        for d in range(num):
            least = INF
            if i >= ending[d]:
                least = 0.0
            elif alike:
                if reach[d, i, 0] > i:
                    least = opened[reach[d, i, 0]]
            else:
                for e in range(num):
                    stop = reach[d, i, e]
                    if stop > i:
                        least = min(least, cost[stop, e])
            exact[i, d] = least + price[d]
        for d in range(num):
            k = i
            while k < n and cost[k, d] > exact[i, d]:
                cost[k, d] = exact[i, d]
                opened[k] = min(opened[k], exact[i, d])
                k += 1


@njit(cache=True, nogil=True)
def cheapest_path(reach: Shorts, ending: Ints, first: Flags, exact: Floats, path: Ints) -> int:
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
        for e in range(num):
            for j in range(reach[d, i, e if reach.shape[2] > 1 else 0], i, -1):
                if exact[j, e] < least:
                    least = exact[j, e]
                    then = e
                    at = j
        d = then
        i = at
    return 0


# Places in the state vector of `raise_prices`.
BEST, THETA, IDLE, DONE = range(4)


@njit(cache=True, nogil=True)
def raise_prices(
    reach: Shorts,
    ending: Ints,
    first: Flags,
    counts: Floats,
    max_stages: float,
    steps: int,
    patience: int,
    prices: Floats,
    best_prices: Floats,
    best_cost: Floats,
    direction: Floats,
    state: Floats,
    path: Ints,
    length: Ints,
) -> int:
    """Take subgradient steps towards prices under which every relaxed path costs more than all devices together.

    prices[:C] belong to the classes, prices[C] to a stage of any; Σ prices·counts + prices[C]·max_stages is kept at 1.
    state[BEST] is the largest cost of a cheapest path so far: above 1, no plan keeps within the cap. Returns the
    steps taken; a relaxed path that keeps the counts is left in `path` (length[0] > 0) and ends the steps, too.
    """
    n, num = best_cost.shape
    cost = np.empty((n, num))
    exact = np.empty((n, num))
    price = np.empty(num)
    use = np.empty(num + 1)
    for done in range(steps):
        for c in range(num):
            price[c] = prices[c] + prices[num]
        completions(reach, ending, price, exact, cost)
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
            if state[THETA] < 0.02:
                state[DONE] = 1.0
                return done + 1
            continue
        count = cheapest_path(reach, ending, first, exact, path)
        if count == 0:
            state[DONE] = 1.0
            return done + 1
        if _within(path, count, counts, max_stages, use):
            length[0] = count
            return done + 1
        gain = state[THETA] * (max(state[BEST], 1.0) + 0.02 - root)
        if not _step(use, counts, max_stages, gain, direction, prices):
            state[DONE] = 1.0
            return done + 1
    return steps


@njit(cache=True, nogil=True)
def _within(path: Ints, count: int, counts: Floats, max_stages: float, use: Floats) -> bool:
    """Count the stages by class into `use` and compare with what there is."""
    num = len(counts)
    use[:] = 0.0
    for k in range(count):
        use[path[k]] += 1.0
    use[num] = count
    fits = 2 <= count <= max_stages
    for c in range(num):
        if use[c] > counts[c]:
            fits = False
    return fits


@njit(cache=True, nogil=True)
def _step(use: Floats, counts: Floats, max_stages: float, gain: float, direction: Floats, prices: Floats) -> bool:
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
    ending: Ints,
    cost: Floats,
    price: Floats,
    most: float,
    counts: Ints,
    pred: Ints,
    word: Ints,
    shift: Words,
    mask: Words,
    mixers: Words,
    table: Table,
    out_words: Words,
    out_ints: Ints,
    out_floats: Floats,
    ends: Ints,
    filled: Ints,
    strict: bool,
) -> int:
    """Extend labels begin..end−1 by one device each way; return the first label not done for lack of space.

    A label is (devices used, last one, the furthest position at which that one can start). Of labels with equal
    devices and last one the furthest stays. One is cut when its price plus that of its cheapest completion is above
    `most`. filled: labels written, complete ones noted in `ends`, and how often `strict` left out an empty stage.
    """
    num = len(counts)
    for r in range(begin, end):
        if filled[ROWS] + num > out_ints.shape[1] or 2 * (filled[ROWS] + num) > len(table):
            return r
        d, at = ints[LAST, r], ints[AT, r]
        for e in range(num):
            stop = reach[d, at, e]
            if stop < 0 or floats[PAID, r] + cost[stop, e] > most:
                continue
            if not _free(words[r], e, counts, pred, word, shift, mask):
                continue
            if strict and stop == at:
                filled[LEFT_OUT] += 1
                continue
            row = _place(words, r, e, word, shift, mixers, table, out_words, out_ints, filled)
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
def _free(words: Words, e: int, counts: Ints, pred: Ints, word: Ints, shift: Words, mask: Words) -> bool:
    """Whether one more device of class e may be used; a twin class is opened only after its predecessor."""
    taken = (words[word[e]] >> shift[e]) & mask[e]
    if taken >= np.uint64(counts[e]):
        return False
    before = pred[e]
    if taken > np.uint64(0) or before < 0:
        return True
    return bool(((words[word[before]] >> shift[before]) & mask[before]) > np.uint64(0))


@njit(cache=True, nogil=True)
def _place(
    words: Words,
    r: int,
    e: int,
    word: Ints,
    shift: Words,
    mixers: Words,
    table: Table,
    out_words: Words,
    out_ints: Ints,
    filled: Ints,
) -> int:
    """Return the row of the label (devices of r and one of e, last e); filled[ROWS] when it is new, its key written.

    The table of row numbers is open-addressed; keys are compared in full, so a collision costs time, never a label.
    """
    width = words.shape[1]
    size = np.uint64(len(table) - 1)
    new = filled[ROWS]
    mix = mixers[width + e]
    for w in range(width):
        value = words[r, w]
        if w == word[e]:
            value += np.uint64(1) << shift[e]
        out_words[new, w] = value
        mix = (mix ^ (value * mixers[w])) * np.uint64(0x9E3779B97F4A7C15)
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
