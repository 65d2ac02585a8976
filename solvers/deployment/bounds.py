"""Bounds on any deployment: what no choice of replicas can reach.

*Ceilings*: every vector of device counts by kind is a column worth its ceiling (see `ceilings`), and a table
packs them into the devices there are, whatever host they are in. Each ceiling in the answer is sharpened until none
is left to sharpen. *Fluid*, where there are too many vectors: every layer of every request runs somewhere,

    Σ_i x_li = R for each layer l,   Σ_l e_li·x_li ≤ devices of kind i

with e_li the device seconds of layer l for one request on kind i at the best degree and batch that fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.columns import vectors
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.master import Programme, solve_programme
from gpuplan.solvers.deployment.packing import least_for, most_worth, pack
from gpuplan.solvers.limits import Budget

Floats = NDArray[np.float64]
#: Vectors of counts by kind up to which each gets a ceiling.
MOST_VECTORS: Final = 3000
#: Rounding of a sum, relatively.
SLACK: Final = 1e-12
#: Rounds of sharpening at most.
ROUNDS: Final = 200


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the objective (None: none known) and how it was proven; or a proof that there is no deployment."""

    value: float | None
    kind: str
    infeasible: bool = False


def counts_of_kinds(fleet: Fleet) -> Counts:
    """Return how many devices of each kind there are."""
    return tuple(int(count) for count in np.bincount(fleet.kind_of, minlength=len(fleet.kinds)))


def bound(fleet: Fleet, ceilings: Ceilings, goal: Goal, incumbent: float | None, budget: Budget) -> Bound:
    """Return a bound on the objective of any deployment; stops early once it meets `incumbent`."""
    counts = counts_of_kinds(fleet)
    if math.prod(count + 1 for count in counts) > MOST_VECTORS:
        return fluid(fleet, ceilings, goal, counts)
    return packed(ceilings, goal, counts, incumbent, budget)


def packed(ceilings: Ceilings, goal: Goal, counts: Counts, incumbent: float | None, budget: Budget) -> Bound:
    """Return the bound of packing ceilings into the devices."""
    shapes = [vector for vector in vectors(counts) if ceilings.best(vector) > 0.0]
    kind = "packing of ceilings per device counts"
    value: float | None = None
    for _ in range(ROUNDS):
        found = _pack(shapes, ceilings, goal, counts)
        if found is None:
            return Bound(None, kind, infeasible=True)
        value, used = found
        met = incumbent is not None and not goal.better(value, incumbent * _nearly(goal))
        if met or budget.exhausted():
            break
        sharpened = [ceilings.refine(vector) for vector in used]
        if not any(sharpened):
            break
        shapes = [vector for vector in shapes if ceilings.best(vector) > 0.0]
    return Bound(value, kind)


def _nearly(goal: Goal) -> float:
    return 1 + 1e-9 if goal.maximised else 1 - 1e-9


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


def fluid(fleet: Fleet, ceilings: Ceilings, goal: Goal, counts: Counts) -> Bound:
    """Return the bound of layers spread over devices like a fluid."""
    kind_name = "fluid of layers over devices"
    seconds = _device_seconds(fleet, ceilings, counts)
    columns, amounts = np.unique(np.where(np.isfinite(seconds), seconds, -1.0), axis=1, return_counts=True)
    if (columns < 0.0).all(axis=0).any():
        return Bound(None, kind_name, infeasible=True)
    programme = Programme()
    problem = goal.problem
    rate = programme.column(1.0 if goal.maximised else 0.0)
    if problem.demand_rps is not None:
        programme.row({rate: -1.0 / problem.demand_rps}, -1.0)
    used = [_fluid_devices(goal, programme, kind, count) for kind, count in enumerate(counts)]
    rows: list[dict[int, float]] = [{} if use is None else {use: -1.0} for use in used]
    for layer in range(columns.shape[1]):
        spread: dict[int, float] = {rate: float(amounts[layer])}
        for kind in range(len(counts)):
            if columns[kind, layer] >= 0.0:
                share = programme.column(0.0)
                spread[share] = -1.0
                rows[kind][share] = float(columns[kind, layer])
        programme.row(spread, 0.0)
    if problem.max_devices is not None:
        programme.row({use: 1.0 for use in used if use is not None}, float(problem.max_devices))
    for row, use, count in zip(rows, used, counts, strict=True):
        programme.row(row, 0.0 if use is not None else float(count))
    outcome = solve_programme(programme, maximise=goal.maximised, integral=False)
    if outcome.infeasible:
        return Bound(None, kind_name, infeasible=True)
    if outcome.bound is None:
        return Bound(None, kind_name)
    return Bound(outcome.bound * (1 + 1e-9 if goal.maximised else 1 - 1e-9), kind_name)


def _fluid_devices(goal: Goal, programme: Programme, kind: int, count: int) -> int | None:
    """Return the column of the devices of a kind in use, or None where their number does not matter."""
    if goal.maximised and goal.problem.max_devices is None:
        return None
    worth = {"devices": 1.0, "cost": goal.price([kind])}.get(goal.problem.objective, 0.0)
    return programme.column(worth, float(count))


def _device_seconds(fleet: Fleet, ceilings: Ceilings, counts: Counts) -> Floats:
    """Return the least device seconds of each layer for one request (one token), by kind, shape (kinds, n)."""
    best = np.full((len(counts), fleet.num_layers), np.inf)
    most = max(kind.available_bytes for kind in fleet.kinds)
    for degree in fleet.degrees:
        link = {batch: ceilings.units.nearest_link(degree, batch) for batch in fleet.batches()}
        for batch, pair in link.items():
            memory = fleet.memory(degree, batch)
            deep = fleet.problem.micro_batches_from_stages
            # M = K: a stage's fair share of the state is that of one micro-batch of the whole model.
            need = memory.workspace + (batch * float(memory.kv[-1]) if deep else 0.0)
            if need > most:
                continue
            for kind in range(len(counts)):
                if memory.workspace > fleet.kinds[kind].available_bytes:
                    continue
                times = (
                    fleet.kind_times(kind, 1, batch)
                    if pair is None
                    else fleet.joined_times((kind,), degree, batch, pair)
                )
                spent = times.decode_s if ceilings.tokens else times.prefill_s + fleet.steps * times.decode_s
                best[kind] = np.minimum(best[kind], degree * spent / batch)
    return best
