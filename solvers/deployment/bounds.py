"""Bounds on any deployment: what no choice of replicas can reach.

*Ceilings*: every vector of device counts by kind is a column worth its ceiling (see `ceilings`), and a table
packs them into the devices there are, whatever host they are in. Each ceiling in the answer is sharpened until none
is left to sharpen. *Fluid* (see `fluid`), where there are
too many vectors, and beside the packing where kinds differ.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.boxes import Maker
from gpuplan.solvers.deployment.ceilings import Ceilings, Counts
from gpuplan.solvers.deployment.columns import Column, vectors
from gpuplan.solvers.deployment.emptiness import no_replica
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.fleet import Fleet, sheet
from gpuplan.solvers.deployment.fluid import LateError, fluid_prices, layer_seconds, rooms_beyond
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.packing import least_for, most_worth, pack, relaxed, row_limits
from gpuplan.solvers.deployment.pricing import Pricing
from gpuplan.solvers.limits import Budget

Floats = NDArray[np.float64]
#: Vectors of counts by kind up to which each gets a ceiling.
MOST_VECTORS: Final = 1100
#: The same where all devices are of one kind: packing takes far less.
MOST_ALIKE: Final = 20_000
#: Kinds up to which a quick bound tells each apart, a hundredth of a second; 8,192 would take 27 s.
MOST_TOLD_APART: Final = 64
#: Rounding of a sum, relatively.
SLACK: Final = 1e-12
#: Rounds of sharpening at most.
ROUNDS: Final = 200
#: Rounds of sharpening by the packing in fractions at most, and chains looked at for each vector.
RELAXED_ROUNDS: Final = 2000
CHAINS: Final = 2
#: The same where there are more than `FEW` vectors, each round of which takes longer. Prices come first then: 16
#: devices of 4 kinds (625 vectors) are within 3 % in 20 s so, else 18 %; 9 of 6 kinds (192) within 0.5 %, else 19 %.
ROUNDS_OF_MANY: Final = 12
FEW: Final = 300


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the objective (None: none known) and how it was proven; or a proof that there is no deployment."""

    value: float | None
    kind: str
    infeasible: bool = False
    chains: tuple[Chosen, ...] = ()


def counts_of_kinds(fleet: Fleet) -> Counts:
    """Return how many devices of each kind there are."""
    return tuple(int(count) for count in np.bincount(fleet.kind_of, minlength=len(fleet.kinds)))


def few_vectors(fleet: Fleet) -> bool:
    """Return whether every vector of counts by kind gets a ceiling."""
    counts = counts_of_kinds(fleet)
    return math.prod(count + 1 for count in counts) <= (MOST_ALIKE if len(counts) == 1 else MOST_VECTORS)


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
    found = _bound(fleet, ceilings, goal, incumbent, budget, known)
    if goal.problem.objective != "devices" or found.value is None:
        return found
    # Devices are whole; what sums may have lost is taken off first.
    return dataclasses.replace(found, value=float(math.ceil(found.value * (1.0 - 1e-9) - 1e-9)))


def _bound(
    fleet: Fleet,
    ceilings: Ceilings,
    goal: Goal,
    incumbent: float | None,
    budget: Budget,
    known: Sequence[tuple[float, Counts]],
) -> Bound:
    counts = counts_of_kinds(fleet)
    if budget.exhausted():
        return quick(ceilings, goal, counts)
    if not few_vectors(fleet):
        return _by_prices(ceilings, goal, counts, incumbent, budget, known)
    packing = functools.partial(packed, ceilings, goal, counts, incumbent, budget)
    if len(counts) == 1:
        steps = [packing]
    elif math.prod(count + 1 for count in counts) <= FEW:
        steps = [packing, functools.partial(_by_prices, ceilings, goal, counts, incumbent, budget, known)]
    else:
        half = part_of(budget, 0.5)
        steps = [functools.partial(_by_prices, ceilings, goal, counts, incumbent, half, known), packing]
    return _closest(steps, goal, incumbent) or quick(ceilings, goal, counts)


def _closest(steps: Sequence[Callable[[], Bound]], goal: Goal, incumbent: float | None) -> Bound | None:
    """Return the closest bound of some steps, with the chains of all; the later ones only while there is a gap."""
    best: Bound | None = None
    chains: tuple[Chosen, ...] = ()
    for step in steps:
        own = step()
        if own.infeasible:
            return own
        chains += own.chains
        if own.value is not None and (best is None or best.value is None or goal.better(best.value, own.value)):
            best = own
        if best is not None and best.value is not None and incumbent is not None and _met(goal, best.value, incumbent):
            break
    return None if best is None else dataclasses.replace(best, chains=chains)


def part_of(budget: Budget, share: float) -> Budget:
    """Return a budget of its own with a share of the time that is left."""
    left = budget.remaining_s
    limit = None if math.isinf(left) else share * left
    return Budget(dataclasses.replace(budget.limits, time_limit_s=limit))


def exact_bound(fleet: Fleet, goal: Goal, columns: Sequence[Column]) -> Bound:
    """Return the bound of packing the best replica of every vector of class counts."""
    problem, kind = goal.problem, "packing of every replica there is"
    counts = tuple(map(len, fleet.classes))
    shapes = [tuple(column.needs.get(("class", i, ()), 0) for i in range(len(counts))) for column in columns]
    table = pack(counts, shapes, [column.replica.value * (1 + SLACK) for column in columns], problem.max_replicas)

    def weight(vector: Counts) -> float:
        kinds = [0] * len(fleet.kinds)
        for members, count in zip(fleet.classes, vector, strict=True):
            kinds[int(fleet.kind_of[members[0]])] += count
        return goal.weight(kinds)

    if problem.demand_rps is None:
        value = float(table.values[most_worth(table, problem.max_devices)])
        return Bound(value, kind) if value > 0.0 else Bound(None, kind, infeasible=True)
    state = least_for(table, problem.demand_rps * (1 - SLACK), weight, problem.max_devices)
    if state is None:
        return Bound(None, kind, infeasible=True)
    return Bound(weight(tuple(table.states[state].tolist())), kind)


def _by_prices(
    ceilings: Ceilings,
    goal: Goal,
    counts: Counts,
    incumbent: float | None,
    budget: Budget,
    known: Sequence[tuple[float, Counts]],
) -> Bound:
    """Return the fluid bound, or that of prices where it is better; with the replicas that the prices ask for.

    The fluid knows no SLO: where no replica is known yet, boxes tell whether there is any.
    """
    try:
        value, centre = fluid_prices(ceilings, goal, counts, budget.exhausted)
    except LateError:
        return quick(ceilings, goal, counts)
    kind = "fluid of layers over devices"
    if value is None:
        return Bound(None, kind, infeasible=True)
    maker = Maker(ceilings, counts)
    if not any(sum(own) <= maker.devices for _, own in known) and no_replica(maker, budget):
        return Bound(None, kind, infeasible=True)
    if not known or budget.exhausted() or (incumbent is not None and _met(goal, value, incumbent)):
        return Bound(value, kind)
    priced = Pricing(maker, goal, counts, budget).run(known, centre, incumbent)
    if priced.value is not None and goal.better(value, priced.value):
        return Bound(priced.value, "prices of devices that no replica outweighs", chains=tuple(priced.chains))
    return Bound(value, kind, chains=tuple(priced.chains))


def packed(ceilings: Ceilings, goal: Goal, counts: Counts, incumbent: float | None, budget: Budget) -> Bound:
    """Return the bound of packing ceilings into the devices."""
    kind = "packing of ceilings per device counts"
    shapes = []
    for vector in vectors(counts):
        if budget.exhausted():  # a ceiling is missing: nothing is proven
            return Bound(None, "none: the limit came first")
        if ceilings.best(vector) > 0.0:
            shapes.append(vector)
    sharp = _Sharpening(ceilings, goal, counts, incumbent, budget)
    if ceilings.families is not None:
        shapes = sharp.by_relaxation(shapes)
    value = None
    for _ in range(ROUNDS if len(shapes) <= FEW else ROUNDS_OF_MANY):
        found = _pack(shapes, ceilings, goal, counts)
        if found is None:
            return Bound(None, kind, infeasible=True)
        value, used = found
        if sharp.enough(value) or not sharp.refine(used):
            break
        shapes = sharp.alive(shapes)
    return Bound(value, kind, chains=sharp.chains())


@dataclass(slots=True)
class _Sharpening:
    """Sharpens the ceilings that a bound is made of."""

    ceilings: Ceilings
    goal: Goal
    counts: Counts
    incumbent: float | None
    budget: Budget
    touched: dict[Counts, None] = field(default_factory=dict)

    def by_relaxation(self, shapes: list[Counts]) -> list[Counts]:
        """Sharpen what the packing in fractions is made of until nothing is left; return the vectors still alive."""
        values = {shape: self.ceilings.best(shape) for shape in shapes}
        limits = row_limits(self.goal, self.counts)
        for _ in range(RELAXED_ROUNDS):
            if not values:
                break
            own = list(values)
            found = relaxed(np.array(own, dtype=np.float64), np.array(list(values.values())), self.goal, limits)
            if found is None or self.enough(found.value):
                break
            used = [own[int(c)] for c in np.flatnonzero(found.uses > 1e-9)]
            if not self.refine(used):
                break
            values.update((shape, self.ceilings.best(shape)) for shape in used)
            values = {shape: value for shape, value in values.items() if value > 0.0}
        return list(values)

    def enough(self, value: float) -> bool:
        """Return whether there is no use in a closer bound."""
        return self.budget.exhausted() or (self.incumbent is not None and _met(self.goal, value, self.incumbent))

    def refine(self, used: Sequence[Counts]) -> bool:
        """Sharpen the ceilings of `used`; return whether any was left to do."""
        self.touched.update(dict.fromkeys(used))
        left = [self.ceilings.refine(vector) for vector in used]
        return any(left)

    def alive(self, shapes: list[Counts]) -> list[Counts]:
        """Return the vectors that may still hold a replica."""
        return [vector for vector in shapes if self.ceilings.best(vector) > 0.0]

    def chains(self) -> tuple[Chosen, ...]:
        """Return the chains that the ceilings touched come from, those of the last ones first."""
        families = self.ceilings.families
        if families is None:
            return ()
        found = []
        for vector in reversed(self.touched):
            for top in self.ceilings.of(vector)[:CHAINS]:
                chain = families.chain(vector, top.degree, top.batch) if top.refined else None
                if chain is not None:
                    found.append(chain)
        return tuple(found)


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


def quick(ceilings: Ceilings, goal: Goal, counts: Counts) -> Bound:
    """Return a bound that takes no search: the work of a request, and the most work a device does in a second.

    With any w_l of some layers, here the decoder layers, a device of kind k does at most
    ``max over t, b of b / (t·min_l c_lk/w_l)`` of the work ``Σ w_l`` of a request in a second; c_lk is the time of
    layer l for one batch, prefill and o − 1 decode steps, without collectives where kinds are many.
    """
    fleet, kind = ceilings.fleet, "work of devices, each at its best"
    work: Floats | None = None
    speeds, sorts = np.zeros(len(counts)), _sorts(fleet)
    every = [sort[0] for sort in sorts]
    decoder = np.diff(fleet.decoders) > 0
    usual = decoder if decoder.any() else ~decoder
    for degree in fleet.degrees:
        for batch in fleet.batches():
            deepest = min(fleet.num_layers, sum(counts) // degree)
            if deepest < 1 or max(rooms_beyond(ceilings, every, degree, batch, deepest)) < 0.0:
                continue
            workspace = fleet.memory(degree, batch).workspace
            for k, *others in sorts:
                if fleet.kinds[k].available_bytes * (1 + 1e-9) < workspace:
                    continue
                own = layer_seconds(ceilings, k, degree, batch, joined=not others)
                if own is None:
                    continue
                seconds = own.sum(axis=0)[usual]
                if work is None:
                    work = np.maximum(seconds, 1e-12 * float(seconds.sum()))
                slowness = float((seconds / work).min()) * degree / batch
                speeds[[k, *others]] = max(speeds[k], 1.0 / slowness if slowness > 0.0 else math.inf)
    if work is None or not np.isfinite(speeds).all():
        return Bound(None, "none: the limit came first")
    rates = speeds / float(work.sum()) * (1 + 1e-9)
    if goal.problem.demand_rps is None:
        return Bound(_served(rates, counts, goal.problem.max_devices), kind)
    least = min(weight / rate for weight, rate in zip(goal.weights, rates, strict=True) if rate > 0.0)
    return Bound(goal.problem.demand_rps * least, kind)


def _sorts(fleet: Fleet) -> list[list[int]]:
    """Return the kinds that a quick bound tells apart; of many, those of one sheet together, the roomiest first."""
    if len(fleet.kinds) <= MOST_TOLD_APART:
        return [[k] for k in range(len(fleet.kinds))]
    roomiest = sorted(range(len(fleet.kinds)), key=lambda k: -fleet.kinds[k].available_bytes)
    sorts: dict[Hashable, list[int]] = {}
    for k in roomiest:
        sorts.setdefault(sheet(fleet.kinds[k].device), []).append(k)
    return list(sorts.values())


def _served(rates: Floats, counts: Counts, most: int | None) -> float:
    """Return the sum of the rates of all devices, of the `most` fastest where those are limited."""
    left, served = sum(counts) if most is None else most, 0.0
    for k in np.argsort(-rates, kind="stable"):
        served += min(left, counts[k]) * float(rates[k])
        left -= min(left, counts[k])
    return served
