"""Plans straight from relaxed completions: a beam over boundaries whose labels remember the classes they used.

A label (boundary i, class e opened there) carries its value so far. Each boundary keeps the labels of least
value + completion; a label reaches every end of its stage, and hands over there to the few unused classes of least
hop + completion. Fast at any number of devices, and never a proof.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.kernels import FLAGS, INF, Floats, Frame, Ints, Links
from gpuplan.solvers.placement.unlike.links import Wide
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

#: Labels kept at each boundary, hand-overs tried from each end of a stage, classes of least completion looked at.
WIDTH, BRANCHES, LEADERS = 64, 4, 32
#: Boundaries between two looks at the clock: 3 ms at 1,024 classes, 20 ms at 4,096.
PIECE = 4


class Labels(NamedTuple):
    """Labels by boundary and place, shape (n+1, width): the columns of the search.

    value
        Value so far, multipliers of the classes used included.
    rank
        Value plus completion; inf in an empty place.
    last, before
        Class opened, and the place of the parent label at `start`.
    start
        Boundary of the parent label (where the previous stage began).
    stages, mark
        Stages so far, and a number that tells sets of used classes apart.
    spent
        Budget used.
    """

    value: Floats
    rank: Floats
    last: Ints
    before: Ints
    start: Ints
    stages: Ints
    mark: Ints
    spent: Floats


class Rules(NamedTuple):
    """Limits a plan must keep, and marks of the classes (C,).

    home, amount
        Resource each class draws on (itself without modes), and how much of it.
    capacity
        Of the resources.
    """

    home: Ints
    amount: Ints
    capacity: Ints
    max_stages: int
    weights: Floats
    limit: float
    marks: Ints


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _uses(labels: Labels, i: int, place: int, home: int, rules: Rules) -> int:
    """Return what a label and its ancestors take of a resource."""
    used = 0
    while True:
        d = labels.last[i, place]
        if rules.home[d] == home:
            used += rules.amount[d]
        if i == 0:
            return used
        parent, start = labels.before[i, place], labels.start[i, place]
        i, place = start, parent


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _offer(labels: Labels, parent: tuple[int, int], j: int, e: int, value: float, rank: float, rules: Rules) -> None:
    """Put a label in the worst place of a boundary, or in that of a worse one with the same class and set."""
    i, place = parent
    ranks = labels.rank[j]
    mark = labels.mark[i, place] + rules.marks[e]
    worst = 0
    for k in range(len(ranks)):
        if ranks[k] < INF and labels.mark[j, k] == mark and labels.last[j, k] == e:
            if ranks[k] <= rank:
                return
            worst = k
            break
        if ranks[k] > ranks[worst]:
            worst = k
    if ranks[worst] <= rank:
        return
    labels.rank[j, worst] = rank
    labels.value[j, worst] = value
    labels.last[j, worst] = e
    labels.before[j, worst] = place
    labels.start[j, worst] = i
    labels.stages[j, worst] = labels.stages[i, place] + 1
    labels.mark[j, worst] = mark
    labels.spent[j, worst] = labels.spent[i, place] + rules.weights[e]


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _allowed(labels: Labels, i: int, place: int, e: int, rules: Rules) -> bool:
    if labels.spent[i, place] + rules.weights[e] > rules.limit:
        return False
    home = rules.home[e]
    return bool(_uses(labels, i, place, home, rules) + rules.amount[e] <= rules.capacity[home])


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _hand_over(
    frame: Frame,
    links: Links,
    weight: Floats,
    rest: Floats,
    leaders: Ints,
    rules: Rules,
    labels: Labels,
    parent: tuple[int, int],
    j: int,
    branches: int,
    tried: Floats,
) -> None:
    """Close a label's stage at j and offer the best unused classes the next one."""
    i, place = parent
    d = labels.last[i, place]
    begin = links.first[d]
    near = links.first[d + 1] - begin
    closed = labels.value[i, place] + frame.prefix[j, d] - frame.prefix[i, d]
    size = frame.boundary[j]
    worst = labels.rank[j].max()
    for k in range(near + len(leaders)):
        e = links.near[begin + k] if k < near else leaders[k - near]
        rank = closed + links.into_s[e, d] + size * links.into_pb[e, d] + rest[j, e] + weight[e]
        tried[k] = rank if rank < worst else INF
    for k in range(near + len(leaders), len(tried)):
        tried[k] = INF
    taken = 0
    while taken < branches:
        k = int(np.argmin(tried))
        rank = tried[k]
        if rank == INF:
            return
        e = links.near[begin + k] if k < near else leaders[k - near]
        for again in range(near + len(leaders)):
            if (links.near[begin + again] if again < near else leaders[again - near]) == e:
                tried[again] = INF
        if _allowed(labels, i, place, e, rules):
            taken += 1
            _offer(labels, parent, j, e, rank - rest[j, e], rank, rules)


@njit(cache=True, nogil=True, fastmath=FLAGS)
def _finish(
    frame: Frame, back: Floats, labels: Labels, i: int, place: int, price: Floats, best: float, end: Ints
) -> float:
    """Close a label's stage at the last boundary; note it when it is the best plan."""
    n = frame.prefix.shape[0] - 1
    d = labels.last[i, place]
    value = labels.value[i, place] + frame.prefix[n, d] - frame.prefix[i, d]
    at, where = i, place
    while True:
        value -= price[labels.last[at, where]]
        if at == 0:
            break
        before, start = labels.before[at, where], labels.start[at, where]
        at, where = start, before
    if len(back):
        value += back[d, labels.last[at, where]]
    if value < best:
        end[0] = i
        end[1] = place
        return float(value)
    return best


@njit(cache=True, nogil=True, fastmath=FLAGS)
def dive(
    frame: Frame,
    links: Links,
    back: Floats,
    weight: Floats,
    price: Floats,
    rest: Floats,
    leading: Ints,
    rules: Rules,
    labels: Labels,
    branches: int,
    begin: int,
    upper: float,
    end: Ints,
) -> float:
    """Extend the labels of `PIECE` boundaries; return the best value below `upper` (or it), its last label in `end`."""
    n = frame.prefix.shape[0] - 1
    best = upper
    most_near = (links.first[1:] - links.first[:-1]).max()
    tried = np.empty(most_near + leading.shape[1])
    for i in range(begin, min(begin + PIECE, n)):
        for place in range(labels.rank.shape[1]):
            if labels.rank[i, place] == INF:
                continue
            d = labels.last[i, place]
            for j in range(frame.nearest[i], frame.reach[i, d] + 1):
                if j == n:
                    if labels.stages[i, place] >= 2:
                        best = _finish(frame, back, labels, i, place, price, best, end)
                elif labels.stages[i, place] < rules.max_stages:
                    _hand_over(frame, links, weight, rest, leading[j], rules, labels, (i, place), j, branches, tried)
    return best


def plan_from(
    wide: Wide, relaxation: WideRelaxation, upper: float, budget: Budget, width: int = WIDTH
) -> tuple[float, ClassPath] | None:
    """Return a plan of `wide` (classes, not states) better than `upper` along a relaxation's completions, or None."""
    core, frame = wide.core, wide.frame
    weight, rest = relaxation.weight(), relaxation.class_rest()
    rules = _rules(core)
    labels = _first_labels(core, rest[0] + weight, weight, rules, width)
    back = np.zeros((0, 0)) if core.back is None else core.back
    end = np.zeros(2, dtype=np.int64)
    price = weight - core.entry
    # A long plan uses many of the best classes before its end, so more are looked at.
    leading = np.argsort(rest + weight, axis=1, kind="stable")[:, : LEADERS + 2 * relaxation.stages].copy()
    value = upper
    for begin in range(0, core.num_layers, PIECE):
        if budget.exhausted():
            break
        value = dive(frame, wide.links, back, weight, price, rest, leading, rules, labels, BRANCHES, begin, value, end)
    if not value < upper:
        return None
    path = _trace(labels, int(end[0]), int(end[1]), core.num_layers)
    value = core.value(path)
    return (value, path) if value < upper and core.holds(path) else None


def _rules(core: Core) -> Rules:
    marks = np.random.default_rng(0).integers(1, 2**62, size=core.num_classes)
    weights = np.zeros(core.num_classes) if core.weights is None else core.weights
    modes = core.resources
    amount = modes.use[modes.home, np.arange(core.num_classes)]
    return Rules(modes.home, amount, modes.capacity, core.max_stages, weights, core.limit, marks)


def _first_labels(core: Core, ranks: FloatArray, weight: FloatArray, rules: Rules, width: int) -> Labels:
    """Open the first stage on the classes of least relaxed value `ranks`."""
    shape = (core.num_layers + 1, width)
    floats = [np.zeros(shape), np.full(shape, np.inf), np.zeros(shape)]
    ints = [np.zeros(shape, dtype=np.int64) for _ in range(5)]
    labels = Labels(floats[0], floats[1], ints[0], ints[1], ints[2], ints[3], ints[4], floats[2])
    ranks = np.where(rules.weights <= rules.limit, ranks, math.inf)
    first = np.argsort(ranks, kind="stable")[:width]
    here = slice(0, len(first))
    labels.value[0, here], labels.rank[0, here] = weight[first], ranks[first]
    labels.last[0, here], labels.stages[0, here] = first, 1
    labels.mark[0, here], labels.spent[0, here] = rules.marks[first], rules.weights[first]
    return labels


def _trace(labels: Labels, i: int, place: int, stop: int) -> ClassPath:
    path: list[tuple[int, int, int]] = []
    while True:
        path.append((int(labels.last[i, place]), i, stop))
        if i == 0:
            return tuple(reversed(path))
        stop = i
        i, place = int(labels.start[i, place]), int(labels.before[i, place])
