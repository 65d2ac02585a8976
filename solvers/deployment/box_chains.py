"""The chains that fine boxes stand for: of each box the one that costs least, and what any is worth beyond the prices.

The value M·b/(s + D) lies below its chord over the range of s. Where the chain that costs least under the chord does
not reach it the range is cut there, and each part has a chord of its own. Where the chain takes more of a kind than
there is, each of that kind is fined and what there is of it refunded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker, chord
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.points import Point
from gpuplan.solvers.deployment.prices import CLOSE, Prices, Seen
from gpuplan.solvers.deployment.shortest import Paths, Stage, runs, shortest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Times the range of a box's sums is cut at most.
CUTS: Final = 6


@dataclass(slots=True)
class _Part:
    """A part of a box's range of s, what is fined there by kind, and by how much a chain may outweigh the prices."""

    row: int
    curve: Floats
    fines: Floats
    beyond: float = math.inf

    def halves(self, total_s: float) -> list[_Part]:
        """Return the parts below and above `total_s`; none where it is at an end."""
        if not self.curve[2] < total_s < self.curve[3]:
            return []
        below, above = self.curve.copy(), self.curve.copy()
        below[3], above[2] = total_s, total_s
        return [_Part(self.row, curve, self.fines, self.beyond) for curve in (below, above)]

    def fined(self, excess: Floats) -> list[_Part]:
        """Return the part with other fines (a subgradient step); none where no kind is overdrawn."""
        if (excess <= 0.0).all():
            return []
        step = np.where((excess > 0.0) | (self.fines > 0.0), excess, 0.0)
        fines = np.maximum(self.fines + self.beyond * step / float(step @ step), 0.0)
        return [_Part(self.row, self.curve, fines, self.beyond)]


def box_chains(maker: Maker, boxes: Boxes, prices: Prices, least: Floats) -> tuple[Floats, list[Seen]]:
    """Return by how much a chain of each box may outweigh the prices, and the chains looked at.

    Parameters
    ----------
    boxes
        Of one number of stages each.
    least
        What the devices of each box are worth at least: it is close enough when no chain outweighs a share of that.
    """
    over, found = np.full(len(boxes), -np.inf), []
    parts = [_Part(row, curve, np.zeros(len(prices.devices))) for row, curve in enumerate(boxes.curve)]
    for number in range(CUTS + 1):
        left: list[_Part] = []
        for part, paths, place in _least_of(maker, boxes, parts, prices):
            if part.beyond > CLOSE * least[part.row]:
                seen, total_s = replica_of(maker, maker.points[int(boxes.point[part.row])], paths.chain(place))
                found.append(seen)
                more = part.halves(total_s) or part.fined(seen.devices - maker.counts) if number < CUTS else []
                left += more
                if more:
                    continue
            over[part.row] = max(over[part.row], part.beyond)
        parts = left
    return over, found


def _least_of(maker: Maker, boxes: Boxes, parts: Sequence[_Part], prices: Prices) -> Iterator[tuple[_Part, Paths, int]]:
    """Yield each part, its `beyond` brought down to what the least chain leaves, and where that chain is."""
    rows = np.array([part.row for part in parts], dtype=np.int64)
    for run in runs(boxes.stages[rows, 1]):
        some = [parts[place] for place in run]
        fines, lines = np.array([part.fines for part in some]), chord(np.array([part.curve for part in some]))
        paths = shortest(maker, boxes.take(rows[run]), prices.devices + fines, lines[:, 1])
        beyond = lines[:, 0] - paths.totals + fines @ maker.counts - prices.replica
        for place, part in enumerate(some):
            part.beyond = min(part.beyond, float(beyond[place]))
            yield part, paths, place


def replica_of(maker: Maker, point: Point, stages: Sequence[Stage]) -> tuple[Seen, float]:
    """Return the replica that a chain stands for (of rate 0 where it breaks an SLO), and its s."""
    prefill, decode, devices = [], [], np.zeros(len(maker.counts))
    for number, (place, start, stop) in enumerate(stages):
        final = number == len(stages) - 1
        behind = (0.0, point.back if number else 0.0) if final else point.hops[place]
        prefill.append(float(point.prefill[place, stop] - point.prefill[place, start]) + float(behind[0]))
        decode.append(float(point.decode[place, stop] - point.decode[place, start]) + float(behind[1]))
        devices += point.groups[place]
    micro, slo = maker.problem.micro_batches(len(stages)), maker.ceilings.slo
    total_s, interval = math.fsum(prefill), max(micro * max(decode), math.fsum(decode))
    cycle = interval if maker.ceilings.tokens else total_s + (micro - 1) * max(prefill) + maker.fleet.steps * interval
    holds = total_s <= slo.ttft_s and interval <= slo.token_s
    order = [tuple(map(int, point.groups[place])) for place, _, _ in stages]
    chain = Chosen(point.degree, point.batch, tuple(order), (0, *(stop for _, _, stop in stages)))
    return Seen(micro * point.batch / cycle if holds and cycle > 0.0 else 0.0, devices, chain), total_s
