"""By how much a replica of a box may outweigh the prices of its devices: a closed bound of a small linear programme."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker, chord
from gpuplan.solvers.deployment.points import SLACK
from gpuplan.solvers.deployment.prices import Prices

Floats = NDArray[np.float64]
#: Multipliers of the number of stages tried in a box, about.
MOST_MULTIPLIERS: Final = 30
#: Boxes weighed at a time, so that what is kept of them stays small.
AT_ONCE: Final = 1000
#: How many times as steep as the chord lines are tried under a TTFT. 64 devices of 4 kinds, TTFT ≤ 3 s: gap 0.1 %, with
#: chords alone 34 %; at 5 s 0.7 %, and 0.6 % in nearly twice the time with seven of them.
TILTS: Final = (2.0, 4.0, 8.0)


def weigh(maker: Maker, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
    """Return by how much a replica of each box may outweigh its devices, and the least that those are worth."""
    over = _under(maker, boxes, prices, chord(boxes.curve))
    # Devices that serve nothing: lines of height 0.
    least = -_under(maker, boxes, prices, np.zeros((len(boxes), 2))) - prices.replica
    ttft_s = maker.ceilings.slo.ttft_s
    for tilt in TILTS if math.isfinite(ttft_s) else ():
        rows = np.flatnonzero(over > 0.0)
        some = boxes.take(rows)
        lines = _charged(some.curve, tilt, ttft_s) if maker.ceilings.tokens else _steeper(some.curve, tilt)
        over[rows] = np.minimum(over[rows], _under(maker, some, prices, lines))
    return over, np.maximum(np.maximum(least, 0.0) + prices.replica, 1e-300)


def _steeper(curve: Floats, tilt: float) -> Floats:
    """Return lines through the value at the largest s, `tilt` times as steep as the chord: above it up to there.

    What a chain takes beyond the largest s costs it more than it would save in devices where the tilt is right.
    """
    intercept, slope = chord(curve).T
    return np.stack([intercept + (tilt - 1.0) * slope * curve[:, 3], tilt * slope], axis=1)


def _charged(curve: Floats, tilt: float, ttft_s: float) -> Floats:
    """Return lines through the value, of tokens, at a TTFT: `tilt` eighths of the value a TTFT beyond it are lost."""
    value = chord(curve)[:, 0]
    return np.stack([value * (1.0 + tilt / 8.0 * (1.0 + SLACK)), tilt / 8.0 * value / ttft_s], axis=1)


def _under(maker: Maker, boxes: Boxes, prices: Prices, lines: Floats) -> Floats:
    """Return by how much replicas under the lines (intercept and slope by box) may outweigh their devices."""
    over = np.zeros(len(boxes))
    for number in np.unique(boxes.point):
        rows = np.flatnonzero(boxes.point == number)
        for first in range(0, len(rows), AT_ONCE):
            some = rows[first : first + AT_ONCE]
            over[some] = _weigh(maker, int(number), boxes.take(some), prices, lines[some])
    return over


def _weigh(maker: Maker, number: int, boxes: Boxes, prices: Prices, lines: Floats) -> Floats:
    """Return the same for boxes of one degree and batch; arrays have axes multipliers, boxes, groups."""
    point, (amounts, layers) = maker.points[number], maker.classes[number]
    groups = len(point.groups)
    price = point.groups @ prices.devices
    holds = np.where(boxes.holds[:, :groups] > 0.0, boxes.holds[:, :groups], 1e-12)
    top, slope = lines.T
    hops = (boxes.stages[:, 0] - 1) * float(point.hops[:, 0].min())
    spare = boxes.spare[:, :groups].max(axis=1)
    shares, seconds = layers[:, 0], slope[:, None, None] * layers[None, :, 1:]
    usual = int((amounts * shares).argmax())
    share = max(float(shares[usual]), 1e-300)
    multipliers = np.stack(_multipliers(price, holds, seconds[:, usual] / share))
    each = (price + multipliers[:, :, None]) / holds
    stages = multipliers * np.where(multipliers > 0.0, boxes.stages[:, 1], boxes.stages[:, 0])
    rooms = np.broadcast_to(holds * point.there / share, each.shape)
    net, last = _filled(each * shares[usual] + seconds[:, usual], rooms, float(amounts[usual]))
    alone = seconds.min(axis=2)
    saved = (last - alone[:, usual]) / share
    for c in np.delete(np.arange(len(amounts)), usual):
        best = (each * shares[c] + seconds[:, c]).min(axis=2)
        net = net + amounts[c] * best
        saved = np.maximum(saved, (best - alone[:, c]) / max(float(shares[c]), 1e-300))
    least: Floats = (net - saved * spare - stages).max(axis=0)
    over: Floats = top - slope * hops - least - prices.replica
    return over


def _filled(costs: Floats, rooms: Floats, need: float) -> tuple[Floats, Floats]:
    """Return the least cost of `need` layers at `costs` each on kinds with `rooms`, and that of the last layer.

    Kinds are the last axis. What no room is left for costs what the dearest kind takes.

    >>> _filled(np.array([[3.0, 1.0]]), np.array([[9.0, 2.0]]), 5.0)
    (array([11.]), array([3.]))
    """
    order = np.argsort(costs, axis=-1, kind="stable")
    price, room = np.take_along_axis(costs, order, axis=-1), np.take_along_axis(rooms, order, axis=-1)
    before = np.cumsum(room, axis=-1) - room
    taken = np.clip(need - before, 0.0, room)
    taken[..., -1] = np.maximum(need - before[..., -1], 0.0)
    total: Floats = (price * taken).sum(axis=-1)
    last: Floats = np.where(taken > 0.0, price, price[..., :1]).max(axis=-1)
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
