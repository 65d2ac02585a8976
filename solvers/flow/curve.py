"""Cheapest multisets of items by the sum they reach: the knapsack curve that every price bound reads.

    cost(s) = min { Σ q_i·c_i : Σ q_i·v_i ≥ s, q whole }

Kept as its corner points (sum, cost), found item by item: add up to `most` copies by binary splitting, then drop every
point that another reaches with as large a sum at no greater cost. Past `MOST_POINTS` corners, sums are rounded up onto
a grid, so costs only fall: the curve stays a lower bound. O(m·P·log P) for P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray

#: Corners kept before sums are rounded onto a grid of this size.
MOST_POINTS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Corners of the knapsack curve, sums rising; the last is the target or the largest sum affordable.

    Parameters
    ----------
    sums, costs
        Shape (P,); both rise.
    counts
        Copies of each item at each corner, shape (P, m); exact only while `exact`.
    """

    sums: IntArray
    costs: FloatArray
    target: int
    counts: IntArray | None
    exact: bool

    def cost(self, need: IntArray) -> FloatArray:
        """Return the least cost to reach each sum; inf where the budget of the curve does not reach it."""
        at = np.searchsorted(self.sums, need)
        padded = np.append(self.costs, np.inf)
        found: FloatArray = padded[at]
        return found

    def reach(self, budget: float) -> int:
        """Return the largest sum that costs at most `budget`; 0 if none does."""
        within = int(np.searchsorted(self.costs, budget, side="right"))
        return int(self.sums[within - 1]) if within else 0


def knapsack_curve(
    values: IntArray,
    costs: FloatArray,
    target: int,
    *,
    most: IntArray | None = None,
    budget: float = np.inf,
    lower_only: bool = False,
    with_counts: bool = False,
) -> Curve:
    """Return the curve of items up to `target`, at most `most` copies of each, without points above `budget`.

    With `lower_only` points that cannot reach the target within the budget go as well: enough to price the target.
    """
    order = np.argsort(costs / np.maximum(values, 1), kind="stable")
    ratio = costs[order] / np.maximum(values[order], 1)
    sums, spent = np.zeros(1, dtype=np.int64), np.zeros(1)
    counts = np.zeros((1, len(values)), dtype=np.int64)
    exact = True
    for position, item in enumerate(order.tolist()):
        value, cost = int(values[item]), float(costs[item])
        left = -(-target // value) if most is None else min(-(-target // value), int(most[item]))
        step = 1
        while left > 0:
            copies = min(step, left)
            left -= copies
            step *= 2
            more, paid = np.minimum(sums + copies * value, target), spent + copies * cost
            keep = paid <= budget
            if lower_only:
                # From here on a tick costs at least the next ratio (this one while copies are left).
                keep &= paid + (target - more) * ratio[position] <= budget
            merged = np.concatenate([sums, more[keep]]), np.concatenate([spent, paid[keep]])
            kept = corners(*merged)
            if with_counts:
                added = counts[keep]
                added[:, item] += copies
                counts = np.concatenate([counts, added])[kept]
            sums, spent = merged[0][kept], merged[1][kept]
            if len(sums) > MOST_POINTS:
                sums, spent, exact = *_thinned(sums, spent, target), False
                with_counts = False
    return Curve(sums, spent, target, counts if with_counts else None, exact)


def corners(sums: IntArray, costs: FloatArray) -> IntArray:
    """Return the points no other reaches more than at no greater cost, sums rising."""
    order = np.lexsort((costs, -sums))
    ranked = costs[order]
    cheapest = np.minimum.accumulate(ranked)
    first = np.empty(len(order), dtype=bool)
    first[0] = True
    first[1:] = ranked[1:] < cheapest[:-1]
    found: IntArray = order[first][::-1]
    return found


def _thinned(sums: IntArray, costs: FloatArray, target: int) -> tuple[IntArray, FloatArray]:
    grid = max(target // (MOST_POINTS // 2), 1)
    rounded = np.minimum(-(-sums // grid) * grid, target)
    kept = corners(rounded, costs)
    return rounded[kept], costs[kept]
