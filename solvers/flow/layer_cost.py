"""What a layer still costs: the least price of ranges that give it what it lacks, and a second holder where asked.

Without a limit on layers held by one node this is the knapsack curve m(need). With one, a layer left to a single node
pays the price of that, so the cost also depends on how many ranges (0, 1, 2 and more) hold the layer already:

    m₂(x) = m(x);   m₁(x) = m(x) for x > 0, else min(single, r);   m₀(x) = min over items i of r_i + m₁(x − v_i),

r_i the rate of item i, v_i its value and r the least rate. With any number of copies of a range, adding one never
saves more than its rate, in each: m(x) ≤ r_i + m(x − v_i). With copies limited to the nodes there are, it may: the
cheapest set for x − v_i may hold the last copy of i already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.curve import Curve, corners, knapsack_curve
from gpuplan.solvers.flow.instance import Items


@dataclass(frozen=True, slots=True, eq=False)
class LayerCost:
    """Costs of needs, by holders.

    Parameters
    ----------
    curve
        m₂.
    alone
        m₁ of a layer that lacks nothing; 0 without a limit on single holders.
    fresh
        m₀; the curve itself without such a limit.
    """

    curve: Curve
    alone: float
    fresh: Curve

    @property
    def full(self) -> float:
        """Cost of a layer that has nothing yet; inf where it is out of reach."""
        return float(self.fresh.cost(np.array([self.fresh.target]))[0])

    def cost(self, need: IntArray, holders: IntArray | None) -> FloatArray:
        """Return what layers cost that still need `need` and are held by `holders` ranges."""
        if holders is None:
            return self.curve.cost(need)
        held = self.curve.cost(need)
        held = np.where((holders == 1) & (need <= 0), self.alone, held)
        costs: FloatArray = np.where(holders == 0, self.fresh.cost(need), held)
        return costs


def layer_cost(
    items: Items, rates: FloatArray, most: IntArray | None, single_price: float | None, *, budget: float = np.inf
) -> LayerCost:
    """Return the costs of layers at some rates; costs above `budget` count as infinite."""
    curve = knapsack_curve(items.value, rates, items.target, most=most, budget=budget)
    if single_price is None:
        return LayerCost(curve, 0.0, curve)
    alone = min(single_price, float(rates.min()))
    sums = np.minimum(items.value[:, None] + curve.sums, items.target).reshape(-1)
    then = curve.costs.copy()
    then[0] = alone  # nothing more for the need: a second holder, or the price of having none
    costs = (rates[:, None] + then).reshape(-1)
    keep = corners(sums, costs)
    fresh = Curve(sums[keep], costs[keep], items.target, None, curve.exact)
    return LayerCost(curve, alone, fresh)
