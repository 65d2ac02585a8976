"""A bound on deployments over many devices of several kinds: prices of devices that no replica outweighs.

The linear programme over all replicas c, with rates r_c and a_kc devices of kind k::

    maximise Σ r_c·z_c   under   Σ a_kc·z_c ≤ N_k        (or: minimise what they cost under Σ r_c·z_c ≥ demand)

has as its dual prices π with ``r_c ≤ Σ π_k·a_kc`` for every c, and ``Σ π_k·N_k`` is then a bound. Prices come from the
programme over the replicas seen so far. Boxes (see `boxes`) say by how much any replica may outweigh them, λ times,
and λ·Σ π_k·N_k is a bound. Boxes that may outweigh them are split; in fine ones the chain that costs least is found
(see `shortest`). Chains that do outweigh the prices are taken into the programme: column generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Boxes, Maker, chord, joined
from gpuplan.solvers.deployment.ceilings import Counts
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.shortest import Paths, runs, shortest
from gpuplan.solvers.limits import Budget

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rounds of prices at most, and boxes split at a time (about).
ROUNDS: Final = 400
#: Rounds without a new replica or a bound that is better by `CLOSE`, at most.
STALLED: Final = 12
AT_ONCE: Final = 200
#: Chains taken in a round, and fine boxes looked at until it ends.
TAKEN: Final = 10
MOST_LOOKED: Final = 600
#: A replica that outweighs the prices by no more than this share is as good as none.
CLOSE: Final = 1e-3
#: Ranges of the slowest stages, largest to least, at which chains are looked for in a box, and at which it stays whole.
FINE: Final = 1.015
FINEST: Final = 1.001
#: Multipliers of the number of stages tried in a box, about.
MOST_MULTIPLIERS: Final = 30
#: Boxes kept, about.
MOST_BOXES: Final = 300_000
#: Times the range of a box's sums is cut at most.
CUTS: Final = 6
#: Share of the best prices so far in the next ones to be tried, and below which it is left out.
CENTRED: Final = 0.5
LEAST_SHARE: Final = 0.01
#: A device has at least this share of the average price, and this for each share of the best prices so far.
LEAST_PRICE: Final = 1e-3
FIRST_PRICE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica in the programme: its rate, its devices by kind, and its chain where a box brought it."""

    value: float
    devices: Floats
    chain: Chosen | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by kind of device and of a replica; the bound they give is ``base + scale·(1 or 1/λ)``."""

    devices: Floats
    replica: float
    scale: float
    base: float


@dataclass(slots=True)
class Priced:
    """What the search for prices came to.

    value
        The bound; None where the linear programme was not solved.
    chains
        Replicas that matter at these prices, the most used first.
    """

    value: float | None
    chains: list[Chosen]


class Pricing:
    """The search for prices."""

    def __init__(self, maker: Maker, goal: Goal, counts: Counts, budget: Budget) -> None:
        self.maker, self.goal, self.counts, self.budget = maker, goal, counts, budget
        self.seen: list[Seen] = []
        self.uses: Floats = np.zeros(0)
        self.loose = True
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
        self.seen = [Seen(rate, np.array(own, dtype=np.float64)) for rate, own in known]
        rates: dict[tuple[float, ...], float] = {}
        boxes = self.maker.roots()
        best: float | None = None
        share, stalled = CENTRED, 0
        for _ in range(ROUNDS):
            solved = self._duals()
            if solved is None or not len(boxes):
                break
            duals, reached = solved
            share = 0.0 if centre is None or share < LEAST_SHARE else share
            tried = duals if centre is None else (1 - share) * duals + share * centre
            prices = self._as_prices(tried, max(LEAST_PRICE, FIRST_PRICE * share))
            if prices is None:
                break
            boxes, ratio, found = self._round(boxes, prices)
            late = not found and ratio > CLOSE
            found = [own for own in found if own.value > rates.get(tuple(own.devices), 0.0)]
            rates.update((tuple(own.devices), own.value) for own in found)
            value = self._proven(prices, 1.0 + ratio)
            stalled = 0 if found else stalled + 1
            if math.isfinite(value) and (best is None or self.goal.better(best, value)):
                stalled = 0 if best is None or abs(best - value) > CLOSE * abs(best) else stalled
                best, centre = value, tried
            if self._enough(best, enough) or self.budget.exhausted() or len(boxes) > MOST_BOXES:
                break
            met = best is not None and abs(best - reached) <= CLOSE * abs(reached)
            if met or stalled >= STALLED or (share == 0.0 and not (found or late)):
                if not self._tightened():
                    break
                share, stalled = CENTRED, 0
                continue
            # Where nothing outweighs them go nearer to the programme's own, where nothing that does is found less near.
            share = CENTRED if found else 0.5 * (1.0 + share) if late else 0.5 * share
            self.seen += found
        used = sorted(zip(self.uses, self.seen, strict=False), key=lambda pair: -pair[0])
        return Priced(best, [seen.chain for _, seen in used if seen.chain is not None])

    def _enough(self, best: float | None, enough: float | None) -> bool:
        return enough is not None and best is not None and not self.goal.better(best, enough)

    def _round(self, boxes: Boxes, prices: Prices) -> tuple[Boxes, float, list[Seen]]:
        """Split boxes and find chains until enough of them outweigh the prices, or nothing does.

        Returns
        -------
        tuple
            The boxes, by what share of its price any replica outweighs the prices at most, and replicas that do.
        """
        over, least = self.weigh(boxes, prices)
        exact, fresh = np.zeros(len(boxes), dtype=bool), np.zeros(len(boxes), dtype=bool)
        found: list[Seen] = []
        looked = 0
        while not self.budget.exhausted() and len(found) < TAKEN and looked < MOST_LOOKED:
            hot = over > CLOSE * least
            rough = self.maker.splittable(boxes, FINE)
            fine = np.flatnonzero(hot & ~rough & ~exact)
            if len(fine):
                fine = fine[np.argsort(-over[fine] / least[fine], kind="stable")][:AT_ONCE]
                own, taken = self._chains(boxes, fine, prices, least)
                over[fine] = np.minimum(over[fine], own)
                exact[fine] = True
                found += taken
                looked += len(fine)
                continue
            # First down to fine boxes, then the others, and only then finer ones.
            choices = (hot & rough & fresh, hot & rough, hot & self.maker.splittable(boxes, FINEST))
            rows = next((some for choice in choices if len(some := np.flatnonzero(choice))), None)
            if rows is None:
                break
            rows = _foremost(rows, boxes.point[rows], over[rows] / least[rows])
            children = self.maker.halves(boxes.take(rows))
            kept = np.ones(len(boxes), dtype=bool)
            kept[rows] = False
            own, own_least = self.weigh(children, prices)
            boxes = joined([boxes.take(kept), children])
            over, least = np.concatenate([over[kept], own]), np.concatenate([least[kept], own_least])
            exact = np.concatenate([exact[kept], np.zeros(len(children), dtype=bool)])
            fresh = np.arange(len(boxes)) >= len(boxes) - len(children)
        return boxes, _largest_ratio(over, least), found

    def _proven(self, prices: Prices, factor: float) -> float:
        return prices.base + prices.scale * (factor if self.goal.maximised else 1.0 / factor)

    def _tightened(self) -> bool:
        """Leave out replicas that take more of a kind than there is; return whether there were any.

        They bring prices near soon, but none can be placed.
        """
        limits, before = self.limits[: len(self.counts)], len(self.seen)
        self.loose = False
        self.seen = [own for own in self.seen if (own.devices <= limits).all()]
        return len(self.seen) < before

    def _duals(self) -> tuple[Floats, float] | None:
        """Solve the programme over the replicas seen; return its duals and its value."""
        from scipy.optimize import linprog

        problem, maximised = self.goal.problem, self.goal.maximised
        if not self.seen:
            return None
        devices = np.array([own.devices for own in self.seen]).reshape(len(self.seen), -1)
        rates = np.array([own.value for own in self.seen])
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

    def weigh(self, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
        """Return by how much a replica of each box may outweigh its devices, and the least that those are worth."""
        over, least = np.zeros(len(boxes)), np.zeros(len(boxes))
        for number in np.unique(boxes.point):
            rows = np.flatnonzero(boxes.point == number)
            over[rows], least[rows] = self._weigh(int(number), boxes.take(rows), prices)
        return over, np.maximum(least + prices.replica, 1e-300)

    def _weigh(self, number: int, boxes: Boxes, prices: Prices) -> tuple[Floats, Floats]:
        point, (amounts, layers) = self.maker.points[number], self.maker.classes[number]
        groups = len(point.groups)
        price = point.groups @ prices.devices
        holds = np.where(boxes.holds[:, :groups] > 0.0, boxes.holds[:, :groups], 1e-12)
        top, slope = chord(boxes.curve).T
        hops = (boxes.stages[:, 0] - 1) * (0.0 if self.maker.ceilings.tokens else float(point.hops[:, 0].min()))
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

    def _chains(self, boxes: Boxes, rows: Ints, prices: Prices, least: Floats) -> tuple[Floats, list[Seen]]:
        """Return by how much a chain of each box may outweigh the prices, and chains that do.

        The value M·b/(s + D) lies below its chord over the range of s. Where the chain that costs least under the
        chord does not reach it the range is cut there, and each part has a chord of its own. Where the chain takes
        more of a kind than there is, each of that kind is fined and what there is of it refunded.
        """
        over, found = np.full(len(rows), -np.inf), []
        parts = [_Part(row, curve, np.zeros(len(self.counts))) for row, curve in enumerate(boxes.curve[rows])]
        for number in range(CUTS + 1):
            left: list[_Part] = []
            for run in runs(boxes.stages[rows[[part.row for part in parts]], 1]):
                some = [parts[place] for place in run]
                own, fines = boxes.take(rows[[part.row for part in some]]), np.array([part.fines for part in some])
                lines = chord(np.array([part.curve for part in some]))
                paths = shortest(self.maker, own, prices.devices + fines, lines[:, 1])
                beyond = lines[:, 0] - paths.totals + fines @ self.limits[: len(self.counts)] - prices.replica
                for place, part in enumerate(some):
                    part.beyond = min(part.beyond, float(beyond[place]))
                    if part.beyond > CLOSE * least[rows[part.row]]:
                        seen, total_s = self._follow(own, paths, place)
                        excess = seen.devices - self.limits[: len(self.counts)]
                        if (self.loose or (excess <= 0.0).all()) and seen.value > _price(seen, prices) * (1 + CLOSE):
                            found.append(seen)
                        if number < CUTS:
                            more = part.halves(total_s) or part.fined(excess)
                            left += more
                            if more:
                                continue
                    over[part.row] = max(over[part.row], part.beyond)
            parts = left
        return over, _best_of(found, prices)

    def _follow(self, boxes: Boxes, paths: Paths, row: int) -> tuple[Seen, float]:
        """Return the replica that the least chain of a box stands for (of rate 0 where it breaks an SLO), and its s."""
        maker, point = self.maker, self.maker.points[int(boxes.point[row])]
        stages, devices = paths.chain(row), np.zeros(len(self.counts))
        prefill, decode = [], []
        for number, (place, start, stop) in enumerate(stages):
            final = number == len(stages) - 1
            behind = (0.0, point.back if number else 0.0) if final else point.hops[place]
            prefill.append(float(point.prefill[place, stop] - point.prefill[place, start]) + float(behind[0]))
            decode.append(float(point.decode[place, stop] - point.decode[place, start]) + float(behind[1]))
            devices += point.groups[place]
        work, total_s = float(boxes.curve[row, 0]), math.fsum(prefill)
        micro, slo = work / point.batch, maker.ceilings.slo
        interval = max(micro * max(decode), math.fsum(decode))
        cycle = (
            interval if maker.ceilings.tokens else total_s + (micro - 1) * max(prefill) + maker.fleet.steps * interval
        )
        holds = total_s <= slo.ttft_s and interval <= slo.token_s
        order = [tuple(map(int, point.groups[place])) for place, _, _ in stages]
        cuts = (0, *(stop for _, _, stop in stages))
        chain = Chosen(point.degree, point.batch, tuple(order), cuts)
        return Seen(work / cycle if holds and cycle > 0.0 else 0.0, devices, chain), total_s


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


def _price(own: Seen, prices: Prices) -> float:
    return float(prices.devices @ own.devices) + prices.replica


def _best_of(found: Sequence[Seen], prices: Prices) -> list[Seen]:
    """Return the replicas that outweigh the prices most, each vector of devices once."""
    ranked = sorted(found, key=lambda own: own.value / _price(own, prices))
    return list({tuple(own.devices): own for own in ranked}.values())[::-1][:TAKEN]


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
