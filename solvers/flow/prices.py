"""Prices of kinds that prove what no placement can reach.

Let every node of kind k cost p_k, and a range of l layers p_k/l on each of its layers. A layer that gets F pays at
least m(p) = min { Σ p_k/l : Σ T_k(l) ≥ F }, so F is impossible when L·m(p) > Σ p_k·n_k. The strongest prices are the
duals of the configuration LP

    max Σ_c y_c   subject to   Σ_c u_kc·y_c ≤ n_k,  y ≥ 0,

over all multisets c of ranges that sum to F, u_kc the nodes of kind k that c takes up on a layer. It has one row a
kind, so a small dense primal simplex does, its columns priced by the knapsack curve. Any prices give a valid bound, so
stopping early or rounding costs strength, never truth.

References
----------
Gilmore and Gomory, *A linear programming approach to the cutting-stock problem* (1961), for the column generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.curve import knapsack_curve
from gpuplan.solvers.flow.instance import BEYOND, Instance, Items, items_for
from gpuplan.solvers.flow.layer_cost import LayerCost, layer_cost
from gpuplan.solvers.limits import Budget

#: Reduced costs below this are rounding.
EPSILON = 1e-9
#: A price bound claims impossibility only with this relative margin.
MARGIN = 1e-9
#: Further prices kept in a pool at most, and random mixes of nodes tried for them.
MOST_POOL = 12
RANDOM_MIXES = 24
#: Relative distance of targets for which the prices of a pool are scaled rather than found anew.
POOL_REACH = 0.003
#: Columns generated for one target at most.
MOST_COLUMNS = 400


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Prices at which covering one layer with `items.target` costs at least 1.

    Parameters
    ----------
    price
        Of a node of each kind, shape (K,).
    single_price
        Of leaving a layer to one node, or None where that is free.
    worth
        Σ p_k·n_k (and single_price times the layers that may be left to one node). Below L the target is impossible;
        the excess over L is the slack a search may spend.
    converged
        Whether no prices are stronger.
    """

    items: Items
    price: FloatArray
    single_price: float | None
    worth: float
    converged: bool

    def impossible(self, num_layers: int) -> bool:
        """Return whether the prices prove that no placement reaches the target."""
        return self.worth < num_layers * (1.0 - MARGIN)

    def layer_cost(self, instance: Instance, budget: float = 1.0, *, limited: bool = True) -> LayerCost:
        """Return the least price of every need of a layer, up to `budget`.

        `limited` costs use no more copies of a range than there are nodes. Only without that limit does a range never
        save more than its rate (see `layer_cost.py`), which a search that prunes by waste relies on.
        """
        most = instance.counts[self.items.kind] if limited else None
        rates = self.items.rates(self.price)
        return layer_cost(self.items, rates, most, self.single_price, budget=budget * (1.0 + MARGIN) + MARGIN)


class PriceMaster:
    """The configuration LP of an instance, its columns kept from target to target.

    Parameters
    ----------
    single_layers
        Most layers that may be left to one node: one more row of the LP; None without such a limit.
    """

    def __init__(self, instance: Instance, budget: Budget, single_layers: int | None = None) -> None:
        self.instance = instance
        self.budget = budget
        self.limited = single_layers is not None
        extra = [] if single_layers is None else [float(single_layers)]
        self.counts: FloatArray = np.concatenate([instance.counts.astype(np.float64), extra])
        self._columns: list[FloatArray] = []
        self._reach: list[int] = []

    def solve(self, target: int, nodes: FloatArray | None = None) -> Prices:
        """Return the strongest prices for a target, or the first that prove it impossible.

        With `nodes` the prices are the strongest for that many nodes of each kind; their worth is the instance's still.
        """
        items = items_for(self.instance, min(target, BEYOND))
        if not len(items.value):
            return self._prices(items, np.zeros(len(self.counts)), 0.0, True)
        simplex = _Simplex(self.counts if nodes is None else nodes)
        known = [c for c, reach in zip(self._columns, self._reach, strict=True) if reach >= target]
        columns = np.array(known).reshape(len(known), len(self.counts))
        best = self._prices(items, np.zeros(len(self.counts)), np.inf, False)
        for _ in range(MOST_COLUMNS):
            price = simplex.optimise(columns)
            cost, column = self._cheapest(items, price)
            done = cost >= 1.0 - EPSILON or column is None
            found = self._scaled(items, price, cost, done)
            if found is not None and (nodes is not None or found.worth < best.worth):
                best = found
            if best.impossible(self.instance.num_layers) or column is None or done:
                return dataclasses.replace(best, converged=done)
            columns = np.vstack([columns, column])
            if self.budget.exhausted():
                break
        return best

    def scaled(self, items: Items, prices: Prices) -> Prices | None:
        """Return prices of another target scaled to this one; None where they price nothing."""
        extra = [] if prices.single_price is None else [prices.single_price]
        price = np.concatenate([prices.price, extra])
        rates, most = items.rates(prices.price), self.instance.counts[items.kind]
        cost = layer_cost(items, rates, most, prices.single_price).full
        return self._scaled(items, price, cost, True) if 0.0 < cost < np.inf else None

    def _prices(self, items: Items, price: FloatArray, worth: float, converged: bool) -> Prices:
        kinds = self.instance.num_kinds
        return Prices(items, price[:kinds], float(price[kinds]) if self.limited else None, worth, converged)

    def _scaled(self, items: Items, price: FloatArray, cost: float, converged: bool) -> Prices | None:
        if cost == np.inf:  # all nodes together do not reach the target on one layer
            return self._prices(items, price, 0.0, True)
        if cost <= 0.0:
            return None
        return self._prices(items, price / cost, float((price / cost) @ self.counts), converged)

    def _cheapest(self, items: Items, price: FloatArray) -> tuple[float, FloatArray | None]:
        """Return the least price of a layer at the target, and what such a layer takes up; None if not exact."""
        self.budget.spend(1)
        rates = items.rates(price[: self.instance.num_kinds])
        most = self.instance.counts[items.kind]
        if self.limited:
            cost, counts, alone = self._cheapest_held(items, rates, most, float(price[-1]))
        else:
            cost, counts = self._cheapest_multiset(items, rates, most)
            alone = False
        if counts is None:
            return cost, None
        column = np.zeros(len(self.counts))
        np.add.at(column, items.kind, counts / items.layers)
        column[-1] += alone
        self._columns.append(column)
        self._reach.append(int((self.instance.ticks[items.kind, items.layers] * counts).sum()))
        return cost, column

    def _cheapest_multiset(self, items: Items, rates: FloatArray, most: IntArray) -> tuple[float, IntArray | None]:
        # Only multisets cheaper than 1 matter while there are any.
        for budget in (1.0, np.inf):
            curve = knapsack_curve(
                items.value, rates, items.target, most=most, budget=budget, lower_only=True, with_counts=True
            )
            if curve.sums[-1] >= items.target:
                return float(curve.costs[-1]), None if curve.counts is None else curve.counts[-1]
        return np.inf, None

    def _cheapest_held(
        self, items: Items, rates: FloatArray, most: IntArray, single_price: float
    ) -> tuple[float, IntArray | None, bool]:
        """Return the cheapest layer with two holders, or with one and the price of that."""
        curve = knapsack_curve(items.value, rates, items.target, most=most, with_counts=True)
        second = int(np.argmin(rates))
        alone = single_price < rates[second]
        left = items.target - items.value
        then = np.where(left > 0, curve.cost(left), min(single_price, float(rates[second])))
        first = int(np.argmin(rates + then))
        cost = float(rates[first] + then[first])
        if cost == np.inf or curve.counts is None:
            return cost, None, False
        if left[first] > 0:
            counts = curve.counts[np.searchsorted(curve.sums, left[first])].copy()
            alone = False
        else:
            counts = np.zeros(len(rates), dtype=np.int64)
            counts[second] += not alone
        counts[first] += 1
        return cost, counts, alone


class PricePool:
    """Further prices, the strongest when nodes of one kind are few or many.

    A label that has used up one kind early is disproven by prices that make this kind dear, not by those of the whole.
    Found for one target, they are scaled for its neighbours.
    """

    def __init__(self, master: PriceMaster) -> None:
        self._master = master
        self._target = 0
        self._found: list[Prices] = []

    def scaled_to(self, prices: Prices) -> tuple[Prices, ...]:
        """Return the pool for the target of `prices`."""
        target = prices.items.target
        if abs(target - self._target) > POOL_REACH * target:
            self._found, self._target = self._search(prices), target
        scaled = (self._master.scaled(prices.items, other) for other in self._found)
        return tuple(other for other in scaled if other is not None)

    def _search(self, prices: Prices) -> list[Prices]:
        found = [prices]
        for nodes in _node_mixes(self._master.counts):
            if self._master.budget.exhausted():
                break
            other = self._master.solve(prices.items.target, nodes)
            if other.converged and all(np.abs(other.price - known.price).max() > 1e-6 for known in found):
                found.append(other)
                if len(found) > MOST_POOL:
                    break
        return found[1:]


class PoolMargin:
    """What labels may still waste by each of several prices for one target."""

    def __init__(self, instance: Instance, pool: Sequence[Prices], columns: int) -> None:
        self._cost_of = tuple(other.layer_cost(instance) for other in pool)
        singles = [[] if other.single_price is None else [other.single_price] for other in pool]
        rows = [np.concatenate([other.price, single]) for other, single in zip(pool, singles, strict=True)]
        self._price = np.array(rows).reshape(len(pool), columns)
        self._worth = np.array([other.worth for other in pool]) * (1.0 + 1e-9) + 1e-9

    def __len__(self) -> int:
        return len(self._cost_of)

    def margin(
        self, need: IntArray, holders: IntArray | None, state: IntArray, used: IntArray, layers_left: int
    ) -> FloatArray:
        """Return what labels may still waste, by the prices that leave least; below 0 a label is disproven.

        `need` is what the next layers of each state lack, `state` the row of each label, `used` its nodes.
        """
        owed = np.zeros((len(need), len(self._cost_of)))
        for q, cost_of in enumerate(self._cost_of):
            owed[:, q] = cost_of.cost(need, holders).sum(axis=1) + cost_of.full * (layers_left - need.shape[1])
        spent = used @ self._price.T
        margin: FloatArray = (self._worth - spent - owed[state]).min(axis=1)
        return margin


def _node_mixes(counts: FloatArray) -> list[FloatArray]:
    mixes: list[FloatArray] = []
    for kind in np.flatnonzero(counts > 0).tolist():
        for share in (0.3, 0.7, 1.4):
            mixes.append(counts.copy())
            mixes[-1][kind] *= share
    rng = np.random.default_rng(0)
    return mixes + [counts * rng.uniform(0.3, 1.7, len(counts)) for _ in range(RANDOM_MIXES)]


class _Simplex:
    """max Σ y over Σ_c u_c·y_c ≤ n, a primal simplex with the basis kept while columns arrive."""

    def __init__(self, counts: FloatArray) -> None:
        size = len(counts)
        # Slightly unlike right-hand sides keep ties, and so cycles, away.
        self._right = counts * (1.0 + 1e-10 * np.arange(1, size + 1)) + 1e-12
        self._basis = np.eye(size)
        self._gain = np.zeros(size)

    def optimise(self, columns: FloatArray) -> FloatArray:
        """Return the duals p ≥ 0 (up to rounding, clipped) once no column and no slack gains."""
        size = len(self._right)
        for _ in range(50 * size + 200):
            price = np.linalg.solve(self._basis.T, self._gain)
            gains = np.concatenate([1.0 - columns @ price, -price])
            enter = int(np.argmax(gains))
            if gains[enter] <= EPSILON:
                break
            is_column = enter < len(columns)
            entering = columns[enter] if is_column else np.eye(size)[enter - len(columns)]
            if not self._pivot(entering, 1.0 if is_column else 0.0):
                break
        duals: FloatArray = np.maximum(price, 0.0)
        return duals

    def _pivot(self, entering: FloatArray, gain: float) -> bool:
        held = np.linalg.solve(self._basis, self._right)
        direction = np.linalg.solve(self._basis, entering)
        rows = np.flatnonzero(direction > 1e-11)
        if not len(rows):
            return False
        leaving = rows[np.argmin(held[rows] / direction[rows])]
        self._basis[:, leaving] = entering
        self._gain[leaving] = gain
        return True


def configuration_bound(master: PriceMaster, top: int) -> Prices:
    """Return prices at the largest target ≤ `top` that no prices disprove: the configuration bound.

    From above: prices that disprove a target leave, as the next one, the largest sum of throughputs that their budget
    a layer, Σ p·n / L, affords. Every target on the way is a proven upper bound.
    """
    instance, target = master.instance, top
    while True:
        prices = master.solve(max(target, 1))
        if target <= 1 or not len(prices.items.value) or not prices.impossible(instance.num_layers):
            return prices
        target = min(next_target(instance, prices), target - 1)


def next_target(instance: Instance, prices: Prices) -> int:
    """Return the largest sum below a disproven target that its prices leave possible, ticks."""
    allowance = prices.worth / instance.num_layers * (1.0 + MARGIN)
    return prices.layer_cost(instance, allowance).fresh.reach(allowance)
