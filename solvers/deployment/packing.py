"""Packing by dynamic programming: the most that every number of devices of each sort can do together.

    f(v) = max over shapes w ≤ v of  value(w) + f(v − w),   f(0) = 0

over vectors v of counts, exact in floating point. One table answers every question: the largest f within a limit on
devices, or the smallest v whose f meets a demand. With at most r replicas the table is built r times over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.goal import Goal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vector = tuple[int, ...]
#: Values this close (relative) are equal: the one of fewer devices is taken.
EQUAL: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Table:
    """f by state.

    states
        Vectors of counts, shape (S, sorts).
    last
        The shape each state takes last (−1: none), shape (S,); one row for each number of replicas where that is
        limited.
    steps
        By how many states each shape leads back.
    """

    states: Ints
    values: Floats
    last: tuple[Ints, ...]
    steps: Ints

    def shapes(self, state: int) -> list[int]:
        """Return the shapes that `state` is packed with."""
        found: list[int] = []
        row = len(self.last) - 1
        while row >= 0 and self.last[row][state] >= 0:
            shape = int(self.last[row][state])
            found.append(shape)
            state -= int(self.steps[shape])
            if len(self.last) > 1:
                row -= 1
        return found


def pack(counts: Vector, shapes: Sequence[Vector], values: Sequence[float], max_replicas: int | None) -> Table:
    """Return the table of `shapes` (counts of each sort of device, worth `values`) packed into `counts`."""
    strides = np.array([math.prod(most + 1 for most in counts[i + 1 :]) for i in range(len(counts))], dtype=np.int64)
    states = np.indices([most + 1 for most in counts]).reshape(len(counts), -1).T.astype(np.int64)
    needs = np.array(shapes, dtype=np.int64).reshape(-1, len(counts))
    steps = needs @ strides
    worth = np.array(values, dtype=np.float64)
    if max_replicas is None or max_replicas >= sum(counts):
        best, last = np.zeros(len(states)), np.full(len(states), -1, dtype=np.int64)
        _fill(states, needs, steps, worth, best, best, last)
        return Table(states, best, (last,), steps)
    best = np.zeros(len(states))
    rows = []
    for _ in range(max_replicas):
        before, best = best, np.zeros(len(states))
        last = np.full(len(states), -1, dtype=np.int64)
        _fill(states, needs, steps, worth, before, best, last)
        rows.append(last)
    return Table(states, best, tuple(rows), steps)


def _fill(
    states: Ints,
    needs: Ints,
    steps: Ints,
    worth: Floats,
    before: Floats,
    best: Floats,
    last: Ints,
) -> None:
    """Give every state its best last shape; `before` holds what is left to the rest (`best` itself: any number)."""
    if not len(needs):
        return
    for state in range(1, len(states)):
        fits = np.flatnonzero((needs <= states[state]).all(axis=1))
        if not len(fits):
            continue
        total = worth[fits] + before[state - steps[fits]]
        place = int(total.argmax())
        if total[place] > 0.0:
            best[state], last[state] = float(total[place]), int(fits[place])


def most_worth(table: Table, max_devices: int | None) -> int:
    """Return the state of the largest value within a limit on devices, the smallest of equals."""
    sizes = table.states.sum(axis=1)
    allowed = np.ones(len(sizes), dtype=bool) if max_devices is None else sizes <= max_devices
    top = float(table.values[allowed].max())
    equal = np.flatnonzero(allowed & (table.values >= top * (1 - EQUAL)))
    return int(equal[np.argmin(sizes[equal], keepdims=True)[0]])


def least_for(table: Table, demand: float, weight: Callable[[Vector], float], max_devices: int | None) -> int | None:
    """Return the state of least weight that serves `demand`, the best served of equals; None when none does."""
    sizes = table.states.sum(axis=1)
    meets = table.values * (1 + EQUAL) >= demand
    if max_devices is not None:
        meets &= sizes <= max_devices
    found = np.flatnonzero(meets)
    if not len(found):
        return None
    weights = np.array([weight(tuple(table.states[state].tolist())) for state in found])
    least = weights.min()
    equal = found[weights <= least + EQUAL * abs(least)]
    return int(equal[np.argmax(table.values[equal])])


@dataclass(frozen=True, slots=True)
class Relaxed:
    """The packing in fractions: its value, how often each shape is in it, and the duals of its rows (at least 0)."""

    value: float
    uses: Floats
    duals: Floats


def row_limits(goal: Goal, counts: Vector) -> Floats:
    """Return the limits of the rows of `relaxed`: devices of each kind, replicas, devices, and the demand if any."""
    problem, most = goal.problem, sum(counts)
    limits = [*counts, problem.max_replicas or most, problem.max_devices or most]
    return np.array(limits if problem.demand_rps is None else [*limits, -1.0], dtype=np.float64)


def relaxed(needs: Floats, rates: Floats, goal: Goal, limits: Floats) -> Relaxed | None:
    """Return the best packing in fractions of shapes that need devices by kind; None without an answer."""
    from scipy.optimize import linprog

    costs = -rates if goal.maximised else needs @ np.array(goal.weights)
    scale = 1.0 / max(float(np.abs(costs).max()), 1e-300)
    rows = [*needs.T, np.ones(len(rates)), needs.sum(axis=1)]
    if goal.problem.demand_rps is not None:
        rows.append(-rates / goal.problem.demand_rps)
    found: Any = linprog(costs * scale, A_ub=np.array(rows), b_ub=limits, method="highs")
    if found.x is None or found.status != 0:
        return None
    return Relaxed(
        abs(float(found.fun)) / scale, found.x, np.maximum(-np.asarray(found.ineqlin.marginals) / scale, 0.0)
    )
