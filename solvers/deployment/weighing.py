"""By how much a replica of a box may outweigh the prices of its devices: a closed bound of a small linear programme."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker, chord
from gpuplan.solvers.deployment.prices import Prices

Floats = NDArray[np.float64]
#: Multipliers of the number of stages tried in a box, about.
MOST_MULTIPLIERS: Final = 30
#: How many times as steep as the chord lines are tried under a TTFT. 64 devices of 4 kinds, TTFT ≤ 3 s: gap 0.1 %, with
#: chords alone 34 %; at 5 s 0.7 % in 17 s, and 0.6 % in 30 s with seven of them.
TILTS: Final = (2.0, 4.0, 8.0)


def weigh(maker: Maker, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
    """Return by how much a replica of each box may outweigh its devices, and the least that those are worth."""
    over, least = _under(maker, boxes, prices, chord(boxes.curve))
    if math.isfinite(maker.ceilings.slo.ttft_s) and not maker.ceilings.tokens:
        for tilt in TILTS:
            rows = np.flatnonzero(over > 0.0)
            some = boxes.take(rows)
            over[rows] = np.minimum(over[rows], _under(maker, some, prices, _steeper(some.curve, tilt))[0])
    return over, np.maximum(least + prices.replica, 1e-300)


def _steeper(curve: Floats, tilt: float) -> Floats:
    """Return lines through the value at the largest s, `tilt` times as steep as the chord: above it up to there.

    What a chain takes beyond the largest s costs it more than it would save in devices where the tilt is right.
    """
    intercept, slope = chord(curve).T
    return np.stack([intercept + (tilt - 1.0) * slope * curve[:, 3], tilt * slope], axis=1)


def _under(maker: Maker, boxes: Boxes, prices: Prices, lines: Floats) -> tuple[Floats, Floats]:
    """Return by how much the lines (intercept and slope by box) may outweigh the devices, and what those are worth."""
    over, least = np.zeros(len(boxes)), np.zeros(len(boxes))
    for number in np.unique(boxes.point):
        rows = np.flatnonzero(boxes.point == number)
        over[rows], least[rows] = _weigh(maker, int(number), boxes.take(rows), prices, lines[rows])
    return over, least


def _weigh(maker: Maker, number: int, boxes: Boxes, prices: Prices, lines: Floats) -> tuple[Floats, Floats]:
    point, (amounts, layers) = maker.points[number], maker.classes[number]
    groups = len(point.groups)
    price = point.groups @ prices.devices
    holds = np.where(boxes.holds[:, :groups] > 0.0, boxes.holds[:, :groups], 1e-12)
    top, slope = lines.T
    hops = (boxes.stages[:, 0] - 1) * (0.0 if maker.ceilings.tokens else float(point.hops[:, 0].min()))
    spare = boxes.spare[:, :groups].max(axis=1)
    net = np.full(len(boxes), -np.inf)
    least = np.zeros(len(boxes))
    shares, seconds = layers[:, 0], layers[:, 1:]
    alone = slope[:, None] * seconds.min(axis=1)
    usual = int((amounts * shares).argmax())
    rooms = holds * point.there / max(float(shares[usual]), 1e-300)
    total, others = float(amounts @ shares), np.delete(np.arange(len(amounts)), usual)
    slowness = slope[:, None] * seconds[usual][None, :] / max(float(shares[usual]), 1e-300)
    for multiplier in _multipliers(price, holds, slowness):
        each = (price[None, :] + multiplier[:, None]) / holds
        stages = multiplier * np.where(multiplier > 0.0, boxes.stages[:, 1], boxes.stages[:, 0])
        held, last = _filled(each * shares[usual], rooms, float(amounts[usual]))
        cheapest = each.min(axis=1) * (total - float(amounts[usual] * shares[usual]))
        least = np.maximum(least, held + cheapest - last / max(float(shares[usual]), 1e-300) * spare - stages)
        whole, last = _filled(each * shares[usual] + slope[:, None] * seconds[usual], rooms, float(amounts[usual]))
        saved = (last - alone[:, usual]) / max(float(shares[usual]), 1e-300)
        for c in others:
            best = (each * shares[c] + slope[:, None] * seconds[c]).min(axis=1)
            whole = whole + amounts[c] * best
            saved = np.maximum(saved, (best - alone[:, c]) / max(float(shares[c]), 1e-300))
        net = np.maximum(net, whole - saved * spare - stages)
    return top - slope * hops - net - prices.replica, least


def _filled(costs: Floats, rooms: Floats, need: float) -> tuple[Floats, Floats]:
    """Return the least cost of `need` layers at `costs` each on kinds with `rooms`, and that of the last layer.

    One row a box. What no room is left for costs what the dearest kind takes.

    >>> _filled(np.array([[3.0, 1.0]]), np.array([[9.0, 2.0]]), 5.0)
    (array([11.]), array([3.]))
    """
    order = np.argsort(costs, axis=1, kind="stable")
    price, room = np.take_along_axis(costs, order, axis=1), np.take_along_axis(rooms, order, axis=1)
    total, last = np.zeros(len(costs)), price[:, 0].copy()
    left = np.full(len(costs), need)
    final = costs.shape[1] - 1
    for k in range(final + 1):
        taken = left if k == final else np.minimum(left, room[:, k])
        used = taken > 0.0
        total[used] += (price[:, k] * taken)[used]
        last[used] = price[used, k]
        left = left - taken
    return total, last


def _multipliers(price: Floats, holds: Floats, slowness: Floats) -> list[Floats]:
    """Return multipliers of the number of stages, one a box each: below 0 it is at least, above at most that number.

    Where two kinds would share the layers, the multiplier is that at which a layer costs the same on both, in devices
    alone and with what its seconds take off the value (`slowness`, by box and kind).
    """
    boxes, count = holds.shape
    low, high = -float(price.min()), 100.0 * float(price.max())
    found = [np.zeros(boxes), np.full(boxes, low), np.full(boxes, 0.5 * low)]
    for a in range(count):
        for b in range(a + 1, count):
            gap = holds[:, b] - holds[:, a]
            gap = np.where(gap == 0.0, np.inf, -gap)
            even = (price[a] * holds[:, b] - price[b] * holds[:, a]) / gap
            slower = (slowness[:, a] - slowness[:, b]) * holds[:, a] * holds[:, b] / gap
            for multiplier in (even, even + slower) if len(found) < MOST_MULTIPLIERS else ():
                found.append(np.clip(multiplier, low, high))
    return found
