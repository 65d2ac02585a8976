"""Compiled kernels of the large engine (Numba; serial, without the GIL). Import this module only where it is needed.

Shapes: C classes, n layers, positions 0..n. All arrays are float64 or int64 and contiguous, so that each kernel is
compiled once. `capped` chooses between the memory windows (low[c, j]..top[j]) and windows that depend on the class
that follows (following[d, e, j]..top[j], ending[d] for the last stage).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INF = np.inf

#: No value is ever NaN and no sign of a zero matters: lets minima run on vectors. Infinities are used as such.
FLAGS = {"nnan", "nsz"}


@njit(cache=True, nogil=True, fastmath=FLAGS)
def backward(
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    term: Floats,
    weight: Floats,
    low: Ints,
    top: Ints,
    capped: bool,
    following: Ints,
    ending: Ints,
    after: Floats,
    rest: Floats,
) -> None:
    """Relaxed completion costs, each device usable again and again at its class's weight.

    after[d, j]: least cost to complete from boundary j with d's stage closed there (hop out of d included).
    rest[d, i]: least cost to complete from boundary i with d open there and paid for. Both (C, n+1), written.
    """
    num, n = prefix.shape[0], prefix.shape[1] - 1
    starts = np.empty(n + 1)
    opened = np.empty(num)
    for d in range(num):
        for j in range(n + 1):
            rest[d, j] = INF
            after[d, j] = INF
        after[d, n] = term[d]
    for j in range(n, 0, -1):
        size = boundary[j]
        if j < n:
            for d in range(num):
                rest[d, j] -= prefix[d, j]
            for e in range(num):
                opened[e] = rest[e, j] + weight[e]
            for d in range(num):
                least = INF
                for e in range(num):
                    value = hop_s[d, e] + size * hop_s_per_byte[d, e] + opened[e]
                    least = min(least, value)
                after[d, j] = least
        last = min(top[j], j - 1)
        for d in range(num):
            if after[d, j] == INF:
                continue
            if not capped:
                value = prefix[d, j] + after[d, j]
                for i in range(low[d, j], last + 1):
                    rest[d, i] = min(rest[d, i], value)
            elif j == n:
                value = prefix[d, j] + term[d]
                for i in range(ending[d], last + 1):
                    rest[d, i] = min(rest[d, i], value)
            else:
                first = low[d, j]
                for i in range(first, last + 1):
                    starts[i] = INF
                for e in range(num):
                    s = following[d, e, j]
                    if s <= last:
                        value = hop_s[d, e] + size * hop_s_per_byte[d, e] + (rest[e, j] + weight[e])
                        starts[s] = min(starts[s], value)
                least = INF
                for i in range(first, last + 1):
                    least = min(least, starts[i])
                    rest[d, i] = min(rest[d, i], prefix[d, j] + least)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def relaxed_path(
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    term: Floats,
    weight: Floats,
    low: Ints,
    top: Ints,
    capped: bool,
    following: Ints,
    ending: Ints,
    after: Floats,
    rest: Floats,
    allowed: Ints,
    classes: Ints,
    stops: Ints,
) -> int:
    """Follow the minima of `backward`; write classes and stops of the stages and return how many there are."""
    num, n = prefix.shape[0], prefix.shape[1] - 1
    d = -1
    least = INF
    for f in allowed:
        value = rest[f, 0] + weight[f]
        if value < least:
            least = value
            d = f
    if d < 0:
        return 0
    i = 0
    count = 0
    while i < n:
        least = INF
        stop = -1
        then = -1
        for j in range(i + 1, n + 1):
            if low[d, j] > i:
                break
            if top[j] < i:
                continue
            if not capped or j == n:
                if capped and ending[d] > i:
                    continue
                value = prefix[d, j] + after[d, j]
                if value < least:
                    least = value
                    stop = j
                    then = -1
                continue
            for e in range(num):
                if following[d, e, j] <= i:
                    hop = hop_s[d, e] + boundary[j] * hop_s_per_byte[d, e]
                    value = prefix[d, j] + hop + (rest[e, j] + weight[e])
                    if value < least:
                        least = value
                        stop = j
                        then = e
        if stop < 0:
            return 0
        classes[count] = d
        stops[count] = stop
        count += 1
        i = stop
        if i == n:
            break
        if not capped:
            least = INF
            for e in range(num):
                value = hop_s[d, e] + boundary[i] * hop_s_per_byte[d, e] + (rest[e, i] + weight[e])
                if value < least:
                    least = value
                    then = e
        if then < 0:
            return 0
        d = then
    return count


# Places in the state vector of `subgradient`.
BEST, THETA, IDLE, UPPER, STAGES, STEPS, SCALE, DONE = range(8)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def subgradient(
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    term: Floats,
    entry: Floats,
    low: Ints,
    top: Ints,
    capped: bool,
    following: Ints,
    ending: Ints,
    allowed: Ints,
    uses: Floats,
    limits: Floats,
    max_stages: int,
    trivial: float,
    steps: int,
    patience: int,
    state: Floats,
    multipliers: Floats,
    direction: Floats,
    best_multipliers: Floats,
    best_after: Floats,
    best_rest: Floats,
    classes: Ints,
    stops: Ints,
) -> None:
    """Raise the Lagrangian bound by deflected subgradient steps; everything that lasts is in the arguments.

    Constraints Σ_c uses[m, c]·v_c ≤ limits[m] (v_c: stages on class c) carry multipliers. state[UPPER] is the best
    value known; when a relaxed path is feasible and better, it is lowered, and classes, stops and state[STAGES] hold
    the path. state[BEST] becomes inf when the bound passes `trivial`, which no plan exceeds.
    """
    num, n = prefix.shape[0], prefix.shape[1] - 1
    rows = len(limits)
    after = np.empty((num, n + 1))
    rest = np.empty((num, n + 1))
    weight = np.empty(num)
    path_classes = np.empty(n + 1, np.int64)
    path_stops = np.empty(n + 1, np.int64)
    visits = np.zeros(num)
    excess = np.empty(rows)
    for _ in range(steps):
        state[STEPS] += 1.0
        constant = 0.0
        for c in range(num):
            weight[c] = entry[c]
        for m in range(rows):
            constant += multipliers[m] * limits[m]
            if multipliers[m] > 0.0:
                for c in range(num):
                    weight[c] += multipliers[m] * uses[m, c]
        backward(
            prefix, hop_s, hop_s_per_byte, boundary, term, weight, low, top, capped, following, ending, after, rest
        )
        root = INF
        for f in allowed:
            root = min(root, rest[f, 0] + weight[f])
        if root == INF:
            state[BEST] = INF
            state[DONE] = 1.0
            return
        bound = root - constant
        gain = 1e-7 * max(abs(state[BEST]), 1e-3 * state[SCALE])
        if bound > state[BEST] + gain or state[BEST] == -INF:
            state[BEST] = bound
            state[IDLE] = 0.0
            best_multipliers[:] = multipliers
            best_after[:] = after
            best_rest[:] = rest
            if bound > trivial + 1e-9 * (abs(trivial) + constant):
                state[BEST] = INF
                state[DONE] = 1.0
                return
        else:
            state[IDLE] += 1.0
            if state[IDLE] >= patience:
                state[THETA] *= 0.7
                state[IDLE] = 0.0
                multipliers[:] = best_multipliers
                direction[:] = 0.0
        count = relaxed_path(
            prefix,
            hop_s,
            hop_s_per_byte,
            boundary,
            term,
            weight,
            low,
            top,
            capped,
            following,
            ending,
            after,
            rest,
            allowed,
            path_classes,
            path_stops,
        )
        if count == 0:
            state[DONE] = 1.0
            return
        visits[:] = 0.0
        for k in range(count):
            visits[path_classes[k]] += 1.0
        feasible = 2 <= count <= max_stages
        for m in range(rows):
            use = 0.0
            for c in range(num):
                use += uses[m, c] * visits[c]
            excess[m] = use - limits[m]
            if use > limits[m]:
                feasible = False
        if feasible:
            value = term[path_classes[count - 1]]
            start = 0
            for k in range(count):
                c = path_classes[k]
                if k > 0:
                    value += hop_s[path_classes[k - 1], c] + boundary[start] * hop_s_per_byte[path_classes[k - 1], c]
                value += prefix[c, path_stops[k]] - prefix[c, start] + entry[c]
                start = path_stops[k]
            if value < state[UPPER]:
                state[UPPER] = value
                state[STAGES] = count
                classes[:count] = path_classes[:count]
                stops[:count] = path_stops[:count]
        if state[UPPER] < INF and state[BEST] >= state[UPPER] * (1.0 - 1e-12):
            state[DONE] = 1.0
            return
        norm = 0.0
        for m in range(rows):
            push = excess[m]
            if multipliers[m] <= 0.0 and push < 0.0:
                push = 0.0
            step = push + 0.7 * direction[m]
            direction[m] = 0.0 if multipliers[m] <= 0.0 and step < 0.0 else step
            norm += direction[m] * direction[m]
        if norm == 0.0 or state[THETA] < 2e-3:
            state[DONE] = 1.0
            return
        scale = max(abs(state[BEST]), state[SCALE])
        target = state[UPPER] if state[UPPER] < INF else state[BEST] + 0.1 * scale
        length = state[THETA] * max(target - bound, 1e-4 * scale) / norm
        for m in range(rows):
            multipliers[m] = max(0.0, multipliers[m] + length * direction[m])


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def may_open(
    e: int, used: Ints, capacity: Ints, use: Ints, home: Ints, ahead: Ints, held: Floats, limits: Floats
) -> bool:
    """Return whether a stage on class e fits beside what is used: resources, order of twins, budgets."""
    resources = len(capacity)
    if ahead[e] >= 0 and used[home[e]] == 0 and used[ahead[e]] == 0:
        return False
    fits = True
    for r in range(resources):
        if used[r] + use[r, e] > capacity[r]:
            fits = False
    for m in range(resources, len(limits)):
        total = 0.0
        for r in range(resources):
            total += held[m, r] * (used[r] + use[r, e])
        if total > limits[m]:
            fits = False
    return fits


@njit(cache=True, nogil=True, fastmath=FLAGS)
def expand(
    keys: Ints,
    starts: Ints,
    last: Ints,
    offset: Ints,
    lo: Ints,
    hi: Ints,
    pool: Floats,
    from_group: int,
    to_group: int,
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    term: Floats,
    entry: Floats,
    low: Ints,
    top: Ints,
    capped: bool,
    following: Ints,
    ending: Ints,
    shift: Ints,
    mask: Ints,
    capacity: Ints,
    use: Ints,
    added: Ints,
    home: Ints,
    ahead: Ints,
    held: Floats,
    limits: Floats,
    unit_price: Floats,
    price: Floats,
    slack: float,
    plain_after: Floats,
    plain_rest: Floats,
    best_after: Floats,
    best_rest: Floats,
    step: float,
    cut: Floats,
    out_key: Ints,
    out_last: Ints,
    out_offset: Ints,
    out_lo: Ints,
    out_hi: Ints,
    out_bound: Floats,
    out_final: Floats,
    out_pool: Floats,
    filled: Ints,
) -> int:
    """Extend the labels of some groups (equal keys) by one stage; return the first group not done for lack of space.

    A key counts what is used of every resource (`shift`, `mask`, `capacity`); a stage on e takes use[:, e], which is
    added[e] on the key. Rows of `held` beyond the resources are budgets on what is used. unit_price and price are the
    multipliers' parts per resource and per class.

    A label's vector lies in ``pool[offset:offset + hi − lo]``, positions lo..hi−1. A new one is kept where its cost
    plus the larger of two relaxed completions (multipliers zero; best multipliers less the slack they leave) is at
    most cut[0]. out_final is its cost as a last stage; a better one lowers the cut. filled = (rows, cells) written.
    """
    num, n = prefix.shape[0], prefix.shape[1] - 1
    out = np.empty((num, n + 1))
    closed = np.empty(n + 1)
    place = np.empty(n + 2, np.int64)
    value_at = np.empty(n + 2)
    used = np.empty(len(capacity), np.int64)
    open_to = np.empty(num, np.bool_)
    for g in range(from_group, to_group):
        if filled[0] + num > len(out_key) or filled[1] + num * (n + 1) > len(out_pool):
            return g
        key = keys[starts[g]]
        left = slack
        for r in range(len(capacity)):
            used[r] = (key >> shift[r]) & mask[r]
            left -= unit_price[r] * used[r]
        any_open = False
        for e in range(num):
            open_to[e] = may_open(e, used, capacity, use, home, ahead, held, limits)
            if open_to[e]:
                any_open = True
                for j in range(n + 1):
                    out[e, j] = INF
        if not any_open:
            continue
        earliest = n
        for r in range(starts[g], starts[g + 1]):
            d = last[r]
            base = offset[r] - lo[r]
            earliest = min(earliest, lo[r])
            head = 0
            tail = 0
            p = lo[r]
            final = n
            for j in range(lo[r] + 1, n):
                t = min(top[j], hi[r] - 1)
                while p <= t:
                    v = pool[base + p] - prefix[d, p]
                    if v < INF:
                        while tail > head and value_at[tail - 1] >= v:
                            tail -= 1
                        place[tail] = p
                        value_at[tail] = v
                        tail += 1
                    p += 1
                while head < tail and place[head] < low[d, j]:
                    head += 1
                if head == tail:
                    closed[j] = INF
                    if p >= hi[r]:
                        final = j
                        break
                    continue
                if not capped:
                    v = value_at[head] + prefix[d, j]
                    bound = max(plain_after[d, j], best_after[d, j] - left)
                    closed[j] = v if v + bound <= cut[0] else INF
                    continue
                for e in range(num):
                    if not open_to[e]:
                        continue
                    s = following[d, e, j]
                    a = head
                    b = tail
                    while a < b:
                        middle = (a + b) >> 1
                        if place[middle] < s:
                            a = middle + 1
                        else:
                            b = middle
                    if a < tail:
                        v = value_at[a] + prefix[d, j] + (hop_s[d, e] + boundary[j] * hop_s_per_byte[d, e])
                        out[e, j] = min(out[e, j], v)
            if not capped:
                for e in range(num):
                    if open_to[e] and hop_s[d, e] < INF:
                        fixed = hop_s[d, e]
                        per_byte = hop_s_per_byte[d, e]
                        for j in range(lo[r] + 1, final):
                            out[e, j] = min(out[e, j], closed[j] + (fixed + boundary[j] * per_byte))
        for e in range(num):
            if not open_to[e]:
                continue
            spare = left - price[e]
            first = n
            stop = 0
            least = INF
            for j in range(earliest + 1, n):
                v = out[e, j] + entry[e]
                if v < INF:
                    total = v + max(plain_rest[e, j], best_rest[e, j] - spare)
                    if total <= cut[0]:
                        first = min(first, j)
                        stop = j + 1
                        least = min(least, total)
                        out[e, j] = v
                        continue
                out[e, j] = INF
            if stop == 0:
                continue
            begin = ending[e] if capped else low[e, n]
            complete = INF
            for i in range(max(begin, first), min(top[n] + 1, stop)):
                complete = min(complete, out[e, i] - prefix[e, i])
            complete += prefix[e, n] + term[e]
            if complete < INF:
                worth = complete - step * (1.0 - 1e-6) if step > 0.0 else complete - 1e-11 * abs(complete)
                cut[0] = min(cut[0], worth)
            row = filled[0]
            out_key[row] = key + added[e]
            out_last[row] = e
            out_offset[row] = filled[1]
            out_lo[row] = first
            out_hi[row] = stop
            out_bound[row] = least
            out_final[row] = complete
            for j in range(first, stop):
                out_pool[filled[1] + j - first] = out[e, j]
            filled[0] += 1
            filled[1] += stop - first
    return to_group


@njit(cache=True, nogil=True, fastmath=FLAGS)
def compact(rows: Ints, offset: Ints, lo: Ints, hi: Ints, pool: Floats, new_offset: Ints, new_pool: Floats) -> None:
    """Copy the vectors of some rows into a new pool."""
    at = 0
    for k in range(len(rows)):
        r = rows[k]
        new_offset[k] = at
        for p in range(hi[r] - lo[r]):
            new_pool[at + p] = pool[offset[r] + p]
        at += hi[r] - lo[r]


@njit(cache=True, nogil=True, fastmath=FLAGS)
def forward(
    prefix: Floats,
    hop_s: Floats,
    hop_s_per_byte: Floats,
    boundary: Floats,
    weight: Floats,
    low: Ints,
    top: Ints,
    capped: bool,
    following: Ints,
    allowed: Ints,
    arrive: Floats,
) -> None:
    """Relaxed arrival costs, the mirror of `backward`.

    arrive[d, i]: least cost to reach boundary i with d open there and paid for, each device usable again and again at
    its class's weight; shape (C, n+1), written.
    """
    num, n = prefix.shape[0], prefix.shape[1] - 1
    later = np.empty(n + 2)
    for d in range(num):
        for i in range(n + 1):
            arrive[d, i] = INF
    for f in allowed:
        arrive[f, 0] = weight[f]
    for j in range(1, n):
        last = min(top[j], j - 1)
        for d in range(num):
            first = low[d, j]
            later[last + 1] = INF
            for i in range(last, first - 1, -1):
                later[i] = min(later[i + 1], arrive[d, i] - prefix[d, i])
            if last < first or later[first] == INF:
                continue
            for e in range(num):
                start = following[d, e, j] if capped else first
                if start <= last:
                    hop = hop_s[d, e] + boundary[j] * hop_s_per_byte[d, e]
                    arrive[e, j] = min(arrive[e, j], later[start] + prefix[d, j] + hop + weight[e])
