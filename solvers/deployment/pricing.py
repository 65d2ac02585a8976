"""A bound on deployments over many devices of several kinds: prices of devices that no replica outweighs.

The linear programme over all replicas c, with rates r_c and a_kc devices of kind k::

    maximise Σ r_c·z_c   under   Σ a_kc·z_c ≤ N_k        (or: minimise what they cost under Σ r_c·z_c ≥ demand)

has as its dual prices π with ``r_c ≤ Σ π_k·a_kc`` for every c, and ``Σ π_k·N_k`` is then a bound. Prices come from the
programme over the replicas seen so far; boxes (see `boxes`) say by how much any replica may outweigh them, λ times,
and λ·Σ π_k·N_k is a bound. The replicas of the boxes that outweigh them most are taken in, and so on: column
generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker, joined
from gpuplan.solvers.deployment.ceilings import Counts
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.limits import Budget

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rounds of prices at most, splits of boxes a round, boxes split at a time (about), replicas taken in a round.
ROUNDS: Final = 60
SPLITS: Final = 5
AT_ONCE: Final = 800
TAKEN: Final = 10
#: A replica that outweighs the prices by no more than this share is as good as none.
CLOSE: Final = 5e-3
#: Multipliers of the number of stages tried in a box, about.
MOST_MULTIPLIERS: Final = 30
#: How closely the factor of the bound is found.
FACTOR: Final = 1e-3
#: Boxes kept, about.
MOST_BOXES: Final = 150_000
#: Rounds without anything to split and without a better programme, at most.
STALLED: Final = 3
#: Share of the best prices so far in the next ones to be tried.
CENTRED: Final = 0.5
#: A device has at least this share of the average price, in the first round and from round to round.
LEAST_PRICE: Final = 1e-3
FIRST_PRICE: Final = 0.3
FADING: Final = 0.75
#: Rounding of the linear programmes, relatively.
SLACK: Final = 1e-7


@dataclass(frozen=True, slots=True)
class Sketch:
    """A replica as a box has it: its value at best, and its devices by kind, in fractions."""

    value: float
    devices: Floats
    degree: int
    batch: int
    stages: int


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by kind of device and of a replica; the bound they give is ``base + scale·(1 or 1/λ)``."""

    devices: Floats
    replica: float
    scale: float
    base: float

    def times(self, factor: float) -> Prices:
        """Return prices `factor` times as high."""
        return Prices(factor * self.devices, factor * self.replica, self.scale, self.base)


@dataclass(slots=True)
class Priced:
    """What the search for prices came to.

    value
        The bound; None where the linear programme was not solved.
    sketches
        Replicas that matter at these prices, the most used first.
    """

    value: float | None
    sketches: list[Sketch]


class Pricing:
    """The search for prices."""

    def __init__(self, maker: Maker, goal: Goal, counts: Counts, budget: Budget) -> None:
        self.maker, self.goal, self.counts, self.budget = maker, goal, counts, budget
        self.sketches: list[Sketch] = []
        self.uses: Floats = np.zeros(0)
        problem, most = goal.problem, sum(counts)
        self.weights = np.array([self._weight(kind) for kind in range(len(counts))])
        self.limits = np.array([*counts, problem.max_replicas or most, problem.max_devices or most], dtype=np.float64)

    def run(self, known: Sequence[tuple[float, Counts]], centre: Floats | None, enough: float | None) -> Priced:
        """Return the bound; stops once it meets `enough`.

        Parameters
        ----------
        known
            Rates and devices of replicas there are.
        centre
            Prices to begin with: of the kinds, of a replica, of a device, of the demand.
        """
        self.sketches = [Sketch(rate, np.array(own, dtype=np.float64), 0, 0, 0) for rate, own in known]
        boxes = self.maker.roots()
        best: float | None = None
        before, stalled = math.nan, 0
        for number in range(ROUNDS):
            solved = self._duals()
            if solved is None or not len(boxes):
                break
            duals, reached = solved
            tried = duals if centre is None else (1 - CENTRED) * duals + CENTRED * centre
            prices = self._as_prices(tried, max(LEAST_PRICE, FIRST_PRICE * FADING**number))
            if prices is None:
                break
            boxes, over, least = self._split(boxes, prices)
            value = self._proven(prices, self._factor(boxes, over, least, prices))
            if math.isfinite(value) and (best is None or self.goal.better(best, value)):
                best, centre = value, tried
            if best is not None and self._close(best, reached, enough):
                break
            if self.budget.exhausted() or len(boxes) > MOST_BOXES:
                break
            taken = self._take_in(boxes, over, least, prices)
            rough = ((over > CLOSE * least) & self.maker.splittable(boxes)).any()
            stalled = 0 if rough or reached != before else stalled + 1
            before = reached
            if stalled >= STALLED or not (taken or rough):
                break
        order = sorted(range(len(self.uses)), key=lambda s: -self.uses[s])
        return Priced(best, [self.sketches[s] for s in order if self.sketches[s].degree])

    def _factor(self, boxes: Boxes, over: Floats, least: Floats, prices: Prices) -> float:
        """Return a factor by which no replica outweighs the prices, as small as halving makes it.

        Where value − price is largest the price may be far above the least of its box: what a box has over the prices
        times the factor says more than over/least.
        """
        low, high = 1.0, 1.0 + _largest_ratio(over, least)
        hot = np.flatnonzero(over > 0.0)
        while len(hot) and high - low > FACTOR and not self.budget.exhausted():
            middle = 0.5 * (low + high)
            own = boxes.take(hot)
            still = self.weigh(own, prices.times(middle))[0] > 0.0
            if still.any():
                low, hot = middle, hot[still]
            else:
                high = middle
        return high

    def _proven(self, prices: Prices, factor: float) -> float:
        return prices.base + prices.scale * (factor if self.goal.maximised else 1.0 / factor)

    def _close(self, best: float, reached: float, enough: float | None) -> bool:
        """Return whether the bound is as good as it gets, or as is asked."""
        if abs(best - reached) <= CLOSE * abs(reached):
            return True
        return enough is not None and not self.goal.better(best, enough)

    def _duals(self) -> tuple[Floats, float] | None:
        """Solve the programme over the replicas seen; return its duals and its value."""
        from scipy.optimize import linprog

        problem, maximised = self.goal.problem, self.goal.maximised
        if not self.sketches:
            return None
        devices = np.array([own.devices for own in self.sketches]).reshape(len(self.sketches), -1)
        rates = np.array([own.value for own in self.sketches])
        costs = -rates if maximised else devices @ self.weights
        scale = 1.0 / max(float(np.abs(costs).max(initial=0.0)), 1e-300)
        rows = [*devices.T, np.ones(len(rates)), devices.sum(axis=1)]
        limits = self.limits
        if problem.demand_rps is not None:
            rows.append(-rates / problem.demand_rps)
            limits = np.append(limits, -1.0)
        found: Any = linprog(costs * scale, A_ub=np.array(rows), b_ub=limits, method="highs")
        if found.x is None or found.status != 0:
            return None
        self.uses = found.x
        duals = np.maximum(-np.asarray(found.ineqlin.marginals) / scale, 0.0)
        return duals, abs(float(found.fun)) / scale

    def _as_prices(self, duals: Floats, least: float) -> Prices | None:
        """Return what the duals say of devices and replicas, in units of the rate."""
        kinds = len(self.counts)
        devices, limits = duals[:kinds] + duals[kinds + 1], self.limits
        fixed = float(duals[: kinds + 2] @ limits)
        if self.goal.maximised:
            floor = np.maximum(least * fixed / sum(self.counts) - devices, 0.0)
            return Prices(devices + floor, float(duals[kinds]), fixed + float(floor @ limits[:kinds]), 0.0)
        assert self.goal.problem.demand_rps is not None
        rate = float(duals[-1]) / self.goal.problem.demand_rps
        if rate <= 0.0:
            return None
        floor = np.maximum(1e-9 * float(self.weights.max()) - self.weights - devices, 0.0)
        base = -fixed - float(floor @ limits[:kinds])
        return Prices((self.weights + devices + floor) / rate, float(duals[kinds]) / rate, float(duals[-1]), base)

    def _weight(self, kind: int) -> float:
        return self.goal.price([kind]) if self.goal.problem.objective == "cost" else 1.0

    def _split(self, boxes: Boxes, prices: Prices) -> tuple[Boxes, Floats, Floats]:
        """Split the boxes that may outweigh the prices; return boxes, by how much each may, and its least price."""
        over, least = self.weigh(boxes, prices)
        for _ in range(SPLITS):
            hot = np.flatnonzero((over > CLOSE * (least + prices.replica)) & self.maker.splittable(boxes))
            if not len(hot) or self.budget.exhausted():
                break
            hot = _foremost(hot, boxes.point[hot], over[hot] / np.maximum(least[hot] + prices.replica, 1e-300))
            children = self.maker.halves(boxes.take(hot))
            kept = np.ones(len(boxes), dtype=bool)
            kept[hot] = False
            own, own_least = self.weigh(children, prices)
            boxes = joined([boxes.take(kept), children])
            over, least = np.concatenate([over[kept], own]), np.concatenate([least[kept], own_least])
        return boxes, over, np.maximum(least + prices.replica, 1e-300)

    def weigh(self, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
        """Return by how much a replica of each box may outweigh its devices, and the least that those are worth."""
        over, least = np.zeros(len(boxes)), np.zeros(len(boxes))
        for number in np.unique(boxes.point):
            rows = np.flatnonzero(boxes.point == number)
            over[rows], least[rows] = self._weigh(int(number), boxes.take(rows), prices)
        return over, least

    def _weigh(self, number: int, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
        point, (amounts, layers) = self.maker.points[number], self.maker.classes[number]
        kinds = list(point.kinds)
        price = point.degree * prices.devices[kinds]
        holds = np.where(boxes.holds[:, kinds] > 0.0, boxes.holds[:, kinds], 1e-12)
        slope = boxes.chord[:, 1]
        hops = (boxes.stages[:, 0] - 1) * (0.0 if self.maker.ceilings.tokens else point.hops[0])
        spare = boxes.spare[:, kinds].max(axis=1)
        net = np.full(len(boxes), -np.inf)
        least = np.zeros(len(boxes))
        shares, seconds = layers[:, 0], layers[:, 1:]
        alone = slope[:, None] * seconds.min(axis=1)
        usual = int((amounts * shares).argmax())
        rooms = holds * (np.array(self.counts)[kinds] / point.degree) / max(float(shares[usual]), 1e-300)
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
        return boxes.chord[:, 0] - slope * hops - net - prices.replica, least

    def _take_in(self, boxes: Boxes, over: Floats, least: Floats, prices: Prices) -> bool:
        """Take in the replicas of the boxes that outweigh the prices most; return whether any does."""
        fine = np.flatnonzero((over > CLOSE * least) & ~self.maker.splittable(boxes))
        taken = 0
        seen: set[tuple[int, int]] = set()
        for row in fine[np.argsort(-over[fine] / least[fine], kind="stable")]:
            key = (int(boxes.point[row]), int(boxes.stages[row, 1]))
            if key in seen:
                continue
            seen.add(key)
            sketch = self._sketch(boxes, int(row), prices)
            if sketch is not None:
                self.sketches.append(sketch)
                taken += 1
            if taken >= TAKEN or len(seen) >= 3 * TAKEN:
                break
        return taken > 0

    def _sketch(self, boxes: Boxes, row: int, prices: Prices) -> Sketch | None:
        """Return the replica of a box that outweighs the prices most, by a linear programme."""
        from scipy.optimize import linprog

        number = int(boxes.point[row])
        point, (amounts, layers) = self.maker.points[number], self.maker.classes[number]
        kinds, holds = list(point.kinds), boxes.holds[row][list(point.kinds)]
        count, classes = len(kinds), len(amounts)
        alpha, beta = boxes.chord[row]
        price = point.degree * prices.devices[kinds]
        costs = np.concatenate([price, (beta * layers[:, 1:]).ravel()])
        cover = np.zeros((count, count + classes * count))
        cover[:, :count] = -np.diag(holds)
        for c in range(classes):
            cover[:, count + c * count : count + (c + 1) * count] += layers[c, 0] * np.eye(count)
        equal = np.zeros((classes, count + classes * count))
        for c in range(classes):
            equal[c, count + c * count : count + (c + 1) * count] = 1.0
        stages = np.concatenate([np.ones(count), np.zeros(classes * count)])
        limits = [self.counts[kind] / point.degree for kind in kinds] + [None] * (classes * count)
        found: Any = linprog(
            costs,
            A_ub=np.concatenate([cover, [stages, -stages]]),
            b_ub=np.concatenate([boxes.spare[row][kinds], [boxes.stages[row, 1], -boxes.stages[row, 0]]]),
            A_eq=equal,
            b_eq=amounts.astype(np.float64),
            bounds=[(0.0, limit) for limit in limits],
            method="highs",
        )
        if found.x is None:
            return None
        hops = (boxes.stages[row, 0] - 1) * (0.0 if self.maker.ceilings.tokens else point.hops[0])
        value = alpha - beta * (hops + float((layers[:, 1:].ravel() * found.x[count:]).sum()))
        devices = np.zeros(len(self.counts))
        devices[kinds] = point.degree * found.x[:count]
        worth = float(prices.devices @ devices) + prices.replica
        if value <= worth * (1 + SLACK):
            return None
        return Sketch(value, devices, point.degree, point.batch, int(boxes.stages[row, 1]))


def _foremost(rows: Ints, groups: Ints, merit: Floats) -> Ints:
    """Return the rows of most merit, the same number of each group, `AT_ONCE` or a few more together."""
    share = math.ceil(AT_ONCE / max(len(np.unique(groups)), 1))
    order = np.lexsort((-merit, groups))
    rows, groups = rows[order], groups[order]
    starts = np.searchsorted(groups, groups, side="left")
    return rows[np.arange(len(rows)) - starts < share]


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


def _largest_ratio(over: Floats, least: Floats) -> float:
    hot = over > 0.0
    return float((over[hot] / least[hot]).max()) if hot.any() else 0.0


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
