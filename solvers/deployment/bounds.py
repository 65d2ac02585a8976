"""Bounds on any deployment: what no choice of replicas can reach.

*Ceilings*: every vector of device counts by kind is a column worth its ceiling (see `ceilings`), and a table
packs them into the devices there are, whatever host they are in. Each ceiling in the answer is sharpened until none
is left to sharpen. *Fluid* (see `fluid`), where there are
too many vectors, and beside the packing where kinds differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gpuplan.solvers.deployment.boxes import Maker
from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.columns import vectors
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.fluid import fluid_prices, fluid_value
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.packing import least_for, most_worth, pack
from gpuplan.solvers.deployment.pricing import Pricing, Sketch
from gpuplan.solvers.limits import Budget

#: Vectors of counts by kind up to which each gets a ceiling.
MOST_VECTORS: Final = 3000
#: Rounding of a sum, relatively.
SLACK: Final = 1e-12
#: Rounds of sharpening at most.
ROUNDS: Final = 200
#: The same where there are more than `FEW` vectors, each round of which takes longer.
ROUNDS_OF_MANY: Final = 12
FEW: Final = 300


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the objective (None: none known) and how it was proven; or a proof that there is no deployment."""

    value: float | None
    kind: str
    infeasible: bool = False
    sketches: tuple[Sketch, ...] = ()


def counts_of_kinds(fleet: Fleet) -> Counts:
    """Return how many devices of each kind there are."""
    return tuple(int(count) for count in np.bincount(fleet.kind_of, minlength=len(fleet.kinds)))


def bound(
    fleet: Fleet,
    ceilings: Ceilings,
    goal: Goal,
    incumbent: float | None,
    budget: Budget,
    known: Sequence[tuple[float, Counts]] = (),
) -> Bound:
    """Return a bound on the objective of any deployment; stops early once it meets `incumbent`.

    `known` are rates and devices by kind of replicas there are, where prices begin.
    """
    counts = counts_of_kinds(fleet)
    if math.prod(count + 1 for count in counts) > MOST_VECTORS:
        return _by_prices(ceilings, goal, counts, incumbent, budget, known)
    own = packed(ceilings, goal, counts, incumbent, budget)
    if own.value is None or len(counts) == 1 or (incumbent is not None and _met(goal, own.value, incumbent)):
        return own
    other = _by_prices(ceilings, goal, counts, incumbent, budget, known)
    if other.infeasible or (other.value is not None and goal.better(own.value, other.value)):
        return other
    return dataclasses.replace(own, sketches=other.sketches)


def _by_prices(
    ceilings: Ceilings,
    goal: Goal,
    counts: Counts,
    incumbent: float | None,
    budget: Budget,
    known: Sequence[tuple[float, Counts]],
) -> Bound:
    """Return the fluid bound, or that of prices where it is better; with the replicas that the prices ask for."""
    value, centre = fluid_prices(ceilings, goal, counts)
    kind = "fluid of layers over devices"
    if value is None:
        return Bound(None, kind, infeasible=True)
    if not known or budget.exhausted() or (incumbent is not None and _met(goal, value, incumbent)):
        return Bound(value, kind)
    priced = Pricing(Maker(ceilings, counts), goal, counts, budget).run(known, centre, incumbent)
    if priced.value is not None and goal.better(value, priced.value):
        return Bound(priced.value, "prices of devices that no replica outweighs", sketches=tuple(priced.sketches))
    return Bound(value, kind, sketches=tuple(priced.sketches))


def packed(ceilings: Ceilings, goal: Goal, counts: Counts, incumbent: float | None, budget: Budget) -> Bound:
    """Return the bound of packing ceilings into the devices."""
    shapes = []
    for vector in vectors(counts):
        if budget.exhausted():  # a ceiling is missing: nothing is proven
            return Bound(None, "none: the limit came first")
        if ceilings.best(vector) > 0.0:
            shapes.append(vector)
    kind = "packing of ceilings per device counts"
    value: float | None = None
    for _ in range(ROUNDS if len(shapes) <= FEW else ROUNDS_OF_MANY):
        found = _pack(shapes, ceilings, goal, counts)
        if found is None:
            return Bound(None, kind, infeasible=True)
        value, used = found
        if (incumbent is not None and _met(goal, value, incumbent)) or budget.exhausted():
            break
        sharpened = [ceilings.refine(vector) for vector in used]
        if not any(sharpened):
            break
        shapes = [vector for vector in shapes if ceilings.best(vector) > 0.0]
    return Bound(value, kind)


def _met(goal: Goal, value: float, incumbent: float) -> bool:
    return not goal.better(value, incumbent * (1 + 1e-9 if goal.maximised else 1 - 1e-9))


def _pack(
    shapes: Sequence[Counts], ceilings: Ceilings, goal: Goal, counts: Counts
) -> tuple[float, list[Counts]] | None:
    """Return the bound and the vectors it is made of; None when no packing serves anything, or the demand."""
    problem = goal.problem
    table = pack(counts, shapes, [ceilings.best(vector) for vector in shapes], problem.max_replicas)
    if problem.demand_rps is None:
        state = most_worth(table, problem.max_devices)
        if table.values[state] <= 0.0:
            return None
        value = float(table.values[state]) * (1 + SLACK)
    else:
        found = least_for(table, problem.demand_rps * (1 - SLACK), goal.weight, problem.max_devices)
        if found is None:
            return None
        state = found
        value = goal.weight(tuple(table.states[state].tolist()))
    return value, sorted({shapes[shape] for shape in table.shapes(state)})


def fluid(ceilings: Ceilings, goal: Goal, counts: Counts) -> Bound:
    """Return the bound of layers spread over devices like a fluid."""
    kind = "fluid of layers over devices"
    value = fluid_value(ceilings, goal, counts)
    if value is None:
        return Bound(None, kind, infeasible=True)
    return Bound(value, kind)
