"""Compiled kernels of the large engine (Numba; serial, without the GIL). Import this module only where it is needed.

Shapes: C classes, n layers, positions 0..n. All arrays are float64 or int64 and contiguous, so that each kernel is
compiled once. `capped` chooses between the memory windows (low[c, j]..top[j]) and windows that depend on the class
that follows (following[d, e, j]..top[j], ending[d] for the last stage).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

INF = np.inf

#: No value is ever NaN and no sign of a zero matters: lets minima run on vectors. Infinities are used as such.
FLAGS = {"nnan", "nsz"}


class Tables(NamedTuple):
    """A core as the kernels read it: `Core` has the meanings, `term` is the return hop of each last class."""

    prefix: Floats
    hop_s: Floats
    hop_s_per_byte: Floats
    boundary: Floats
    term: Floats
    entry: Floats
    low: Ints
    top: Ints
    capped: bool
    following: Ints
    ending: Ints


# ------------------------------------------------------------------------------------------------ relaxed paths


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _hand_over(tables: Tables, j: int, opened: Floats, after: Floats) -> None:
    """after[d, j] = least over e of the hop from d to e plus opened[e]."""
    size = tables.boundary[j]
    for d in range(len(opened)):
        fixed, per_byte = tables.hop_s[d], tables.hop_s_per_byte[d]
        least = INF
        for e in range(len(opened)):
            value = fixed[e] + size * per_byte[e] + opened[e]
            least = min(least, value)
        after[d, j] = least


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _open_capped(
    tables: Tables, d: int, j: int, last: int, opened: Floats, starts: Floats, row: Floats, closed: float
) -> None:
    """Lower the row of d by stages that end at j, where the start depends on the class that follows."""
    first = tables.low[d, j]
    for i in range(first, last + 1):
        starts[i] = INF
    for e in range(len(opened)):
        s = tables.following[d, e, j]
        if s <= last:
            value = tables.hop_s[d, e] + tables.boundary[j] * tables.hop_s_per_byte[d, e] + opened[e]
            starts[s] = min(starts[s], value)
    least = INF
    for i in range(first, last + 1):
        least = min(least, starts[i])
        row[i] = min(row[i], closed + least)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def backward(tables: Tables, weight: Floats, after: Floats, rest: Floats) -> None:
    """Relaxed completion costs, each device usable again and again at its class's weight.

    after[d, j]: least cost to complete from boundary j with d's stage closed there (hop out of d included).
    rest[d, i]: least cost to complete from boundary i with d open there and paid for. Both (C, n+1), written.
    """
    prefix, low, capped = tables.prefix, tables.low, tables.capped
    num, n = prefix.shape[0], prefix.shape[1] - 1
    starts = np.empty(n + 1)
    opened = np.empty(num)
    for d in range(num):
        for j in range(n + 1):
            rest[d, j] = INF
            after[d, j] = INF
        after[d, n] = tables.term[d]
    for j in range(n, 0, -1):
        if j < n:
            for d in range(num):
                rest[d, j] -= prefix[d, j]
                opened[d] = rest[d, j] + weight[d]
            _hand_over(tables, j, opened, after)
        last = min(tables.top[j], j - 1)
        for d in range(num):
            if after[d, j] == INF:
                continue
            if capped and j < n:
                _open_capped(tables, d, j, last, opened, starts, rest[d], prefix[d, j])
                continue
            value = prefix[d, j] + after[d, j]
            for i in range(tables.ending[d] if capped else low[d, j], last + 1):
                rest[d, i] = min(rest[d, i], value)


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _best_class(tables: Tables, weight: Floats, rest: Floats, d: int, j: int, i: int) -> tuple[int, float]:
    """Return the class of least hop and completion behind a stage i..j of d, and the least; −1 where there is none.

    A start i < 0 is any: without a cap the class that follows does not depend on it.
    """
    then, least = -1, INF
    for e in range(len(weight)):
        if i >= 0 and tables.following[d, e, j] > i:
            continue
        hop = tables.hop_s[d, e] + tables.boundary[j] * tables.hop_s_per_byte[d, e]
        value = hop + (rest[e, j] + weight[e])
        if value < least:
            least = value
            then = e
    return then, least


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _best_stage(tables: Tables, weight: Floats, after: Floats, rest: Floats, d: int, i: int) -> tuple[int, int]:
    """Return the end of d's stage from i and the class behind it that cost least; −1 where there is none."""
    n = tables.prefix.shape[1] - 1
    stop, then, least = -1, -1, INF
    for j in range(i + 1, n + 1):
        if tables.low[d, j] > i:
            break
        if tables.top[j] < i or (tables.capped and j == n and tables.ending[d] > i):
            continue
        follower, value = -1, after[d, j]
        if tables.capped and j < n:
            follower, value = _best_class(tables, weight, rest, d, j, i)
        if tables.prefix[d, j] + value < least:
            least = tables.prefix[d, j] + value
            stop = j
            then = follower
    if not tables.capped and 0 <= stop < n:
        then, _ = _best_class(tables, weight, rest, d, stop, -1)
    return stop, then


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def relaxed_path(
    tables: Tables, weight: Floats, after: Floats, rest: Floats, allowed: Ints, classes: Ints, stops: Ints
) -> int:
    """Follow the minima of `backward`; write classes and stops of the stages and return how many there are."""
    n = tables.prefix.shape[1] - 1
    d = -1
    least = INF
    for f in allowed:
        value = rest[f, 0] + weight[f]
        if value < least:
            least = value
            d = f
    i = 0
    count = 0
    while d >= 0:
        stop, then = _best_stage(tables, weight, after, rest, d, i)
        if stop < 0:
            return 0
        classes[count] = d
        stops[count] = stop
        count += 1
        i = stop
        d = then
        if i == n:
            return count
    return 0


# ------------------------------------------------------------------------------------------- subgradient steps

# Places in the state vector of `subgradient`.
BEST, THETA, IDLE, UPPER, STAGES, STEPS, SCALE, DONE = range(8)


class Rows(NamedTuple):
    """Constraints Σ_c uses[m, c]·v_c ≤ limits[m] on the stages v_c of each class, and two numbers.

    trivial
        A value no plan exceeds.
    """

    uses: Floats
    limits: Floats
    max_stages: int
    trivial: float


class Ascent(NamedTuple):
    """What lasts from one step to the next: multipliers of the rows, and the best ones with their completions."""

    state: Floats
    multipliers: Floats
    direction: Floats
    best_multipliers: Floats
    best_after: Floats
    best_rest: Floats


class Path(NamedTuple):
    """Room for a path: classes and stops of its stages."""

    classes: Ints
    stops: Ints


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _weigh(tables: Tables, rows: Rows, multipliers: Floats, weight: Floats) -> float:
    """Write entry cost plus multipliers of each class; return what the multipliers give back."""
    constant = 0.0
    for c in range(len(weight)):
        weight[c] = tables.entry[c]
    for m in range(len(rows.limits)):
        constant += multipliers[m] * rows.limits[m]
        if multipliers[m] > 0.0:
            for c in range(len(weight)):
                weight[c] += multipliers[m] * rows.uses[m, c]
    return constant


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _copy(source: Floats, target: Floats, count: int) -> None:
    """Copy numbers; an assignment of slices would take seconds to compile, for the error it may raise."""
    for k in range(count):
        target[k] = source[k]


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _note_bound(ascent: Ascent, bound: float, patience: int, after: Floats, rest: Floats) -> bool:
    """Remember a better bound; after too many steps in vain shorten them and go back. Return whether it is better."""
    state = ascent.state
    gain = 1e-7 * max(abs(state[BEST]), 1e-3 * state[SCALE])
    if bound > state[BEST] + gain or state[BEST] == -INF:
        state[BEST] = bound
        state[IDLE] = 0.0
        _copy(ascent.multipliers, ascent.best_multipliers, len(ascent.multipliers))
        for d in range(len(after)):
            _copy(after[d], ascent.best_after[d], after.shape[1])
            _copy(rest[d], ascent.best_rest[d], rest.shape[1])
        return True
    state[IDLE] += 1.0
    if state[IDLE] >= patience:
        state[THETA] *= 0.7
        state[IDLE] = 0.0
        for m in range(len(ascent.direction)):
            ascent.multipliers[m] = ascent.best_multipliers[m]
            ascent.direction[m] = 0.0
    return False


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _value(tables: Tables, path: Path, count: int) -> float:
    """Value of a path."""
    value = tables.term[path.classes[count - 1]]
    start = 0
    for k in range(count):
        c = path.classes[k]
        if k > 0:
            before = path.classes[k - 1]
            value += tables.hop_s[before, c] + tables.boundary[start] * tables.hop_s_per_byte[before, c]
        value += tables.prefix[c, path.stops[k]] - tables.prefix[c, start] + tables.entry[c]
        start = path.stops[k]
    return float(value)


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _take_path(tables: Tables, rows: Rows, count: int, path: Path, best: Path, state: Floats, excess: Floats) -> None:
    """Write by how much a path exceeds the limits; where it keeps them and is better, it is the best plan."""
    visits = np.zeros(tables.prefix.shape[0])
    for k in range(count):
        visits[path.classes[k]] += 1.0
    feasible = 2 <= count <= rows.max_stages
    for m in range(len(rows.limits)):
        use = 0.0
        for c in range(len(visits)):
            use += rows.uses[m, c] * visits[c]
        excess[m] = use - rows.limits[m]
        if use > rows.limits[m]:
            feasible = False
    if not feasible:
        return
    value = _value(tables, path, count)
    if value < state[UPPER]:
        state[UPPER] = value
        state[STAGES] = count
        for k in range(count):
            best.classes[k] = path.classes[k]
            best.stops[k] = path.stops[k]


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _move(ascent: Ascent, excess: Floats, bound: float) -> bool:
    """Move the multipliers along the deflected excess; return False when no step is left."""
    state, multipliers, direction = ascent.state, ascent.multipliers, ascent.direction
    norm = 0.0
    for m in range(len(excess)):
        push = excess[m]
        if multipliers[m] <= 0.0 and push < 0.0:
            push = 0.0
        step = push + 0.7 * direction[m]
        direction[m] = 0.0 if multipliers[m] <= 0.0 and step < 0.0 else step
        norm += direction[m] * direction[m]
    if norm == 0.0 or state[THETA] < 2e-3:
        return False
    scale = max(abs(state[BEST]), state[SCALE])
    target = state[UPPER] if state[UPPER] < INF else state[BEST] + 0.1 * scale
    length = state[THETA] * max(target - bound, 1e-4 * scale) / norm
    for m in range(len(excess)):
        multipliers[m] = max(0.0, multipliers[m] + length * direction[m])
    return True


@njit(cache=True, nogil=True, fastmath=FLAGS)
def subgradient(
    tables: Tables, allowed: Ints, rows: Rows, steps: int, patience: int, ascent: Ascent, best: Path
) -> None:
    """Raise the Lagrangian bound by deflected subgradient steps; everything that lasts is in the arguments.

    The rows carry multipliers. state[UPPER] is the best value known; when a relaxed path is feasible and better, it is
    lowered, and `best` and state[STAGES] hold the path. state[BEST] becomes inf when the bound passes `trivial`.
    """
    num, n = tables.prefix.shape[0], tables.prefix.shape[1] - 1
    state = ascent.state
    after = np.empty((num, n + 1))
    rest = np.empty((num, n + 1))
    weight = np.empty(num)
    path = Path(np.empty(n + 1, np.int64), np.empty(n + 1, np.int64))
    excess = np.empty(len(rows.limits))
    for _ in range(steps):
        state[STEPS] += 1.0
        constant = _weigh(tables, rows, ascent.multipliers, weight)
        backward(tables, weight, after, rest)
        root = INF
        for f in allowed:
            root = min(root, rest[f, 0] + weight[f])
        if root == INF:
            state[BEST] = INF
            state[DONE] = 1.0
            return
        bound = root - constant
        better = _note_bound(ascent, bound, patience, after, rest)
        if better and bound > rows.trivial + 1e-9 * (abs(rows.trivial) + constant):
            state[BEST] = INF
            state[DONE] = 1.0
            return
        count = relaxed_path(tables, weight, after, rest, allowed, path.classes, path.stops)
        if count == 0:
            state[DONE] = 1.0
            return
        _take_path(tables, rows, count, path, best, state, excess)
        reached = state[UPPER] < INF and state[BEST] >= state[UPPER] * (1.0 - 1e-12)
        if reached or not _move(ascent, excess, bound):
            state[DONE] = 1.0
            return


# ----------------------------------------------------------------------------------------------- label search


class Labels(NamedTuple):
    """Labels of one level sorted by key (shape (W, rows)); starts[g] is the first of the g-th group of equal keys.

    A label's vector lies in ``pool[offset:offset + hi − lo]``, positions lo..hi−1.
    """

    keys: Ints
    starts: Ints
    last: Ints
    offset: Ints
    lo: Ints
    hi: Ints
    pool: Floats


class Counters(NamedTuple):
    """What a key of W words counts: what is used of every resource, each in one word.

    A stage on e takes use[:, e] of the resources (none outside first[e]..stop[e]−1), added[:, e] on the key. Rows of
    `held` beyond the resources are budgets on what is used.
    """

    word: Ints
    shift: Ints
    mask: Ints
    capacity: Ints
    use: Ints
    first: Ints
    stop: Ints
    added: Ints
    home: Ints
    ahead: Ints
    held: Floats
    limits: Floats


class Prices(NamedTuple):
    """Completions that bound a label: multipliers zero; best multipliers, less the slack they leave.

    unit_price and price are the multipliers' parts per resource and per class.
    """

    unit_price: Floats
    price: Floats
    slack: float
    plain_after: Floats
    plain_rest: Floats
    best_after: Floats
    best_rest: Floats


class Made(NamedTuple):
    """New labels. bound: least bound of the vector; final: cost as a last stage; filled = (rows, cells) written."""

    keys: Ints
    last: Ints
    offset: Ints
    lo: Ints
    hi: Ints
    bound: Floats
    final: Floats
    pool: Floats
    filled: Ints


class Queue(NamedTuple):
    """Rising starts of a stage with their values, the least first: a sliding minimum."""

    place: Ints
    value: Floats


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _may_open(e: int, used: Ints, counters: Counters) -> bool:
    """Return whether a stage on class e fits beside what is used: resources, order of twins, budgets."""
    use, held = counters.use, counters.held
    resources = len(counters.capacity)
    ahead = counters.ahead[e]
    if ahead >= 0 and used[counters.home[e]] == 0 and used[ahead] == 0:
        return False
    fits = True
    for r in range(counters.first[e], counters.stop[e]):
        if used[r] + use[r, e] > counters.capacity[r]:
            fits = False
    for m in range(resources, len(counters.limits)):
        total = 0.0
        for r in range(resources):
            total += held[m, r] * (used[r] + use[r, e])
        if total > counters.limits[m]:
            fits = False
    return fits


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _offer_capped(
    tables: Tables, d: int, j: int, queue: Queue, head: int, tail: int, open_to: Bools, out: Floats
) -> None:
    """Offer a stage of d that ends at j to every open class, each from the starts that its cap allows."""
    place = queue.place
    for e in range(len(open_to)):
        if not open_to[e]:
            continue
        s = tables.following[d, e, j]
        a = head
        b = tail
        while a < b:
            middle = (a + b) >> 1
            if place[middle] < s:
                a = middle + 1
            else:
                b = middle
        if a < tail:
            hop = tables.hop_s[d, e] + tables.boundary[j] * tables.hop_s_per_byte[d, e]
            out[e, j] = min(out[e, j], queue.value[a] + tables.prefix[d, j] + hop)


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _close_stages(
    labels: Labels,
    r: int,
    tables: Tables,
    prices: Prices,
    most: float,
    left: float,
    queue: Queue,
    closed: Floats,
    open_to: Bools,
    out: Floats,
) -> int:
    """Close the open stage of a label at every boundary; return the first boundary from which on it cannot end.

    Without a cap closed[j] is the least cost there (inf where its bound passes `most`); with one the stages are
    offered to `out` at once.
    """
    d, hi = labels.last[r], labels.hi[r]
    base = labels.offset[r] - labels.lo[r]
    pool, prefix, low, top = labels.pool, tables.prefix[d], tables.low[d], tables.top
    plain, best, place, value = prices.plain_after[d], prices.best_after[d], queue.place, queue.value
    n = len(prefix) - 1
    head = 0
    tail = 0
    p = labels.lo[r]
    for j in range(labels.lo[r] + 1, n):
        t = min(top[j], hi - 1)
        while p <= t:
            v = pool[base + p] - prefix[p]
            if v < INF:
                while tail > head and value[tail - 1] >= v:
                    tail -= 1
                place[tail] = p
                value[tail] = v
                tail += 1
            p += 1
        while head < tail and place[head] < low[j]:
            head += 1
        if head == tail:
            closed[j] = INF
            if p >= hi:
                return j
            continue
        if tables.capped:
            _offer_capped(tables, d, j, queue, head, tail, open_to, out)
            continue
        v = value[head] + prefix[j]
        bound = max(plain[j], best[j] - left)
        closed[j] = v if v + bound <= most else INF
    return n


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _offer(tables: Tables, d: int, begin: int, end: int, closed: Floats, open_to: Bools, out: Floats) -> None:
    """Hand the closed stages of d over to every open class."""
    boundary = tables.boundary
    for e in range(len(open_to)):
        fixed = tables.hop_s[d, e]
        if open_to[e] and fixed < INF:
            per_byte = tables.hop_s_per_byte[d, e]
            for j in range(begin, end):
                out[e, j] = min(out[e, j], closed[j] + (fixed + boundary[j] * per_byte))


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _complete(tables: Tables, e: int, first: int, stop: int, row: Floats) -> float:
    """Cost of a stage on e, open at first..stop−1, as the last."""
    n = len(row) - 1
    begin = tables.ending[e] if tables.capped else tables.low[e, n]
    complete = INF
    for i in range(max(begin, first), min(tables.top[n] + 1, stop)):
        complete = min(complete, row[i] - tables.prefix[e, i])
    return float(complete + (tables.prefix[e, n] + tables.term[e]))


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _keep(
    tables: Tables,
    prices: Prices,
    e: int,
    keys: Ints,
    parent: int,
    added: Ints,
    left: float,
    earliest: int,
    step: float,
    cut: Floats,
    row: Floats,
    made: Made,
) -> None:
    """Write the label of a stage on e behind key `parent` where its bound is at most the cut, which a plan lowers."""
    n = len(row) - 1
    spare = left - prices.price[e]
    plain, best, most, entry = prices.plain_rest[e], prices.best_rest[e], cut[0], tables.entry[e]
    first = n
    stop = 0
    least = INF
    for j in range(earliest + 1, n):
        v = row[j] + entry
        if v < INF:
            total = v + max(plain[j], best[j] - spare)
            if total <= most:
                first = min(first, j)
                stop = j + 1
                least = min(least, total)
                row[j] = v
                continue
        row[j] = INF
    if stop == 0:
        return
    complete = _complete(tables, e, first, stop, row)
    if complete < INF:
        worth = complete - step * (1.0 - 1e-6) if step > 0.0 else complete - 1e-11 * abs(complete)
        cut[0] = min(most, worth)
    at, cells = made.filled[0], made.filled[1]
    for w in range(len(keys)):
        made.keys[w, at] = keys[w, parent] + added[w, e]
    made.last[at], made.offset[at] = e, cells
    made.lo[at], made.hi[at] = first, stop
    made.bound[at], made.final[at] = least, complete
    for j in range(first, stop):
        made.pool[cells + j - first] = row[j]
    made.filled[0] += 1
    made.filled[1] += stop - first


@njit(cache=True, nogil=True, fastmath=FLAGS, inline="always")
def _read_key(keys: Ints, row: int, counters: Counters, used: Ints, open_to: Bools, out: Floats) -> bool:
    """Write what a key says is used, which classes may follow, and clear their rows; return whether any may."""
    for r in range(len(used)):
        used[r] = (keys[counters.word[r], row] >> counters.shift[r]) & counters.mask[r]
    any_open = False
    for e in range(len(open_to)):
        open_to[e] = _may_open(e, used, counters)
        if open_to[e]:
            any_open = True
            for j in range(out.shape[1]):
                out[e, j] = INF
    return any_open


@njit(cache=True, nogil=True, fastmath=FLAGS)
def expand(
    labels: Labels,
    from_group: int,
    to_group: int,
    tables: Tables,
    counters: Counters,
    prices: Prices,
    step: float,
    cut: Floats,
    made: Made,
) -> int:
    """Extend the labels of some groups (equal keys) by one stage; return the first group not done for lack of space.

    A new label is kept where its cost plus the larger of two relaxed completions is at most cut[0].
    """
    num, n = tables.prefix.shape[0], tables.prefix.shape[1] - 1
    out = np.empty((num, n + 1))
    closed = np.empty(n + 1)
    queue = Queue(np.empty(n + 2, np.int64), np.empty(n + 2))
    used = np.empty(len(counters.capacity), np.int64)
    open_to = np.empty(num, np.bool_)
    for g in range(from_group, to_group):
        if made.filled[0] + num > len(made.last) or made.filled[1] + num * (n + 1) > len(made.pool):
            return g
        parent = labels.starts[g]
        if not _read_key(labels.keys, parent, counters, used, open_to, out):
            continue
        left = prices.slack
        for r in range(len(used)):
            left -= prices.unit_price[r] * used[r]
        earliest = n
        for r in range(labels.starts[g], labels.starts[g + 1]):
            earliest = min(earliest, labels.lo[r])
            end = _close_stages(labels, r, tables, prices, cut[0], left, queue, closed, open_to, out)
            if not tables.capped:
                _offer(tables, labels.last[r], labels.lo[r] + 1, end, closed, open_to, out)
        for e in range(num):
            if open_to[e]:
                row = out[e]
                _keep(tables, prices, e, labels.keys, parent, counters.added, left, earliest, step, cut, row, made)
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
