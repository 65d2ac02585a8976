"""Chains at prices: of all replicas in a box, the one whose devices and seconds together cost least.

With π_k the price of a group k and β that of a second that adds up, over boxes of exactly K stages at once::

    g_1(i) = min over k of  π_k + β·p_k(i, n)
    g_m(i) = min over k, ends j of  π_k + β·(p_k(i, j) + hop) + g_{m−1}(j)

j runs over the ends at which layers i..j−1 keep to the caps and the memory of k: an interval. g_K(0) is the least of
every chain, any order and cuts, however many groups there are, links and hops as near as any there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Boxes taken at a time, so that they have like numbers of stages and what is kept of them stays small.
AT_ONCE: Final = 50
#: A stage: the place of its group among those of the degree and batch, and layers start..stop−1.
Stage = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Steps:
    """What one group takes, by box: prices, β·hop, prefix sums of β·p, ends of stages with a hop and of last ones."""

    place: int
    price: Floats
    hop: Floats
    seconds: Floats
    ends: Ints
    last: Ints


@dataclass(frozen=True, slots=True)
class Paths:
    """The least of each box, and what it takes to follow the chain there."""

    totals: Floats
    stages: Ints
    steps: tuple[Steps, ...]
    rest: tuple[Floats, ...]

    def chain(self, row: int) -> list[Stage]:
        """Return the stages of the least chain of a box."""
        found: list[Stage] = []
        start, count = 0, int(self.stages[row])
        size = self.rest[0].shape[1] - 1
        while count > 1:
            after = self.rest[count - 2][row]
            best: tuple[float, int, int] | None = None
            for own in self.steps:
                stop = int(own.ends[row, start])
                if stop <= start or not np.isfinite(own.price[row]):
                    continue
                total = own.seconds[row, start + 1 : stop + 1] + after[start + 1 : stop + 1]
                place = int(total.argmin())
                least = float(total[place]) - float(own.seconds[row, start]) + float(own.price[row] + own.hop[row])
                if best is None or least < best[0]:
                    best = least, own.place, start + 1 + place
            assert best is not None  # the total is finite
            found.append((best[1], start, best[2]))
            start, count = best[2], count - 1
        costs = [
            float(own.price[row] + own.seconds[row, size] - own.seconds[row, start])
            if own.last[row, start] >= size
            else np.inf
            for own in self.steps
        ]
        return [*found, (self.steps[int(np.argmin(costs))].place, start, size)]


def shortest(maker: Maker, boxes: Boxes, prices: Floats, slopes: Floats) -> Paths:
    """Return the least of every box (inf where it holds no chain); all of one number of stages each.

    Parameters
    ----------
    prices
        Of a device of each kind, by box, shape (boxes, kinds).
    slopes
        β by box, per second.
    """
    size, groups = maker.fleet.num_layers, max(len(maker.points[int(p)].groups) for p in np.unique(boxes.point))
    count = boxes.stages[:, 1]
    steps = tuple(_steps(maker, boxes, place, prices, slopes) for place in range(groups))
    last = np.full((len(boxes), size + 1), np.inf)
    for own in steps:
        alone = own.price[:, None] + own.seconds[:, -1:] - own.seconds[:, :-1]
        last[:, :-1] = np.minimum(last[:, :-1], np.where(own.last >= size, alone, np.inf))
    rest = [last]
    for _ in range(int(count.max(initial=1)) - 1):
        best = np.full_like(last, np.inf)
        for own in steps:
            least = _range_least(own.seconds + rest[-1], own.ends)
            best[:, :-1] = np.minimum(best[:, :-1], least - own.seconds[:, :-1] + (own.price + own.hop)[:, None])
        rest.append(best)
    totals = np.array([rest[int(m) - 1][row, 0] for row, m in enumerate(count)])
    return Paths(totals, count, steps, tuple(rest))


def _steps(maker: Maker, boxes: Boxes, place: int, prices: Floats, slopes: Floats) -> Steps:
    """Return what the groups in one place of each box's degree and batch take."""
    size = maker.fleet.num_layers
    price, hop, seconds = np.full(len(boxes), np.inf), np.zeros(len(boxes)), np.zeros((len(boxes), size + 1))
    ends = np.tile(np.arange(size), (len(boxes), 1))
    last = np.zeros((len(boxes), size), dtype=np.int64)
    for number in np.unique(boxes.point):
        point, rows = maker.points[int(number)], np.flatnonzero(boxes.point == number)
        if place >= len(point.groups):
            continue
        price[rows] = prices[rows] @ point.groups[place]
        hop[rows] = slopes[rows] * point.hops[place, 0]
        seconds[rows] = slopes[rows, None] * point.prefill[place][None, :]
        ends[rows], last[rows] = maker.ends(point, place, boxes.stages[rows], boxes.caps[rows])
    return Steps(place, price, hop, seconds, ends, last)


def _range_least(values: Floats, ends: Ints) -> Floats:
    """Return for every row and start i the least of values at i+1..ends[i], inf where that is empty.

    A table of the least of 2^d values from each place on, for one d after the other; two of them cover any range.
    """
    length = ends - np.arange(ends.shape[1])[None, :]
    depths = np.frexp(np.maximum(length, 1))[1] - 1
    least: Floats = np.full(ends.shape, np.inf)
    table = values
    for depth in range(int(depths.max(initial=0)) + 1):
        rows, starts = np.nonzero((depths == depth) & (length > 0))
        first, second = starts + 1, ends[rows, starts] + 1 - 2**depth
        least[rows, starts] = np.minimum(table[rows, first], table[rows, second])
        table = np.minimum(table[:, : -(2**depth)], table[:, 2**depth :])
    return least


def runs(stages: Ints) -> Sequence[Ints]:
    """Return places in runs of like numbers of stages, each short enough to be kept."""
    order = np.argsort(stages, kind="stable")
    return [order[first : first + AT_ONCE] for first in range(0, len(order), AT_ONCE)]
