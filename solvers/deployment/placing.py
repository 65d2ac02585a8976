"""The best choice of candidates on devices, whose links hold: slowed down, or made anew where that costs too much."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gpuplan.solvers.deployment.choice import Market, Pick, with_handicap
from gpuplan.solvers.deployment.columns import Column, Make
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.links import Traffic, overloaded, throttled
from gpuplan.solvers.deployment.moving import Resident, moved_bytes, total_weights
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.limits import Budget

#: Choices made anew at most because a link would be overdrawn.
LINK_ROUNDS: Final = 3
#: Share of its value that a replica may lose on other devices before they are searched anew.
MOVING: Final = 0.01


@dataclass(frozen=True, slots=True)
class Placed:
    """Replicas on their devices, the requests/s (tokens/s) each is to serve, and what all are worth."""

    replicas: tuple[Replica, ...]
    kept: tuple[int | None, ...]
    rates: tuple[float, ...]
    objective: float

    @property
    def throttled(self) -> bool:
        """Whether a link holds a replica back."""
        return any(rate < own.value * (1 - 1e-12) for rate, own in zip(self.rates, self.replicas, strict=True))


@dataclass(frozen=True, slots=True)
class Placer:
    """Chooses replicas and puts them on devices.

    Attributes
    ----------
    makes
        Makes of islands, or None where candidates take classes.
    move_cost
        Objective units for each byte that a device has to load; None where nothing is in place.
    resident
        What devices hold already.
    """

    goal: Goal
    shaper: Shaper
    traffic: Traffic
    makes: Sequence[Make] | None
    budget: Budget
    move_cost: float | None
    resident: Resident = field(default_factory=dict)

    def choose(
        self, columns: Sequence[Column], demand: float | None = None, *, hold: bool = False, by_kind: bool = False
    ) -> Placed | None:
        """Return the best choice whose links hold.

        `demand` replaces the problem's; with `hold` every kept replica stays; `by_kind` as for `Market`.
        """
        goal = self.goal
        if demand is not None:
            goal = dataclasses.replace(goal, problem=goal.problem.replace(demand_rps=demand))
        best: Placed | None = None
        for _ in range(LINK_ROUNDS):
            market = self._market(columns, goal)
            market.hold, market.by_kind = hold, by_kind
            _, picks = market.choose()
            if not picks:
                break
            whole = self._realise(self._polished(picks))
            hot = overloaded(self.traffic, whole.replicas, whole.rates)
            placed = self.slowed(whole) if hot else whole
            if self.meets(placed, goal) and (best is None or goal.better(placed.objective, best.objective)):
                best = placed
            if not hot or self.budget.exhausted():
                break
            columns = _slower_columns(columns, picks, placed)
        return best

    def placed(self, replicas: Sequence[Replica], kept: Sequence[int | None], rates: Sequence[float]) -> Placed:
        """Return replicas that serve `rates`, with what they are worth."""
        worths = [self.goal.worth(rate, replica.devices) for replica, rate in zip(replicas, rates, strict=True)]
        return Placed(tuple(replicas), tuple(kept), tuple(rates), math.fsum(worths))

    def slowed(self, placed: Placed) -> Placed:
        """Return the same replicas at rates that overdraw no link."""
        return self.placed(placed.replicas, placed.kept, throttled(self.traffic, placed.replicas, placed.rates))

    def trimmed(self, placed: Placed) -> Placed:
        """Return what is left when replicas go that the demand does not need, those of least rate for their worth."""
        assert self.goal.problem.demand_rps is not None
        rows = list(zip(placed.replicas, placed.kept, placed.rates, strict=True))
        spare = math.fsum(placed.rates) - self.goal.problem.demand_rps
        for row in sorted(rows, key=lambda row: row[2] / max(self.goal.worth(row[2], row[0].devices), 1e-300)):
            if row[2] <= spare:
                spare -= row[2]
                rows.remove(row)
        replicas, kept, rates = zip(*rows, strict=True)
        return self.placed(replicas, kept, rates)

    def meets(self, placed: Placed, goal: Goal) -> bool:
        """Return whether the demand is served, if there is one."""
        demand = goal.problem.demand_rps
        return demand is None or math.fsum(placed.rates) >= demand * (1 - 1e-9)

    def _market(self, columns: Sequence[Column], goal: Goal) -> Market:
        worths = [goal.worth(column.replica.value, column.replica.devices) for column in columns]
        fleet, limit = self.shaper.fleet, max(self.budget.remaining_s, 0.1)
        market = Market(fleet, goal, columns, self.makes, worths, time_limit_s=limit)
        if self.move_cost is None or not columns:
            return market
        loads = [0.0 if column.kept is not None else self._load(column) for column in columns]
        heaviest = max(loads)
        # Whatever loads as much: the one that lets more replicas stay.
        loads = [
            -heaviest / 8 if column.kept is not None else load for column, load in zip(columns, loads, strict=True)
        ]
        # Equal plans: the one that moves less. Too small a handicap to change what is best otherwise.
        least = 1e-7 * max(map(abs, worths)) / heaviest if heaviest > 0.0 else 0.0
        price = max(self.move_cost, least)
        return with_handicap(market, [(price if load > 0.0 else least) * load for load in loads])

    def _load(self, column: Column) -> float:
        """Return the bytes that the devices of a column have to load; all of its weights where others may stand in."""
        fleet = self.shaper.fleet
        if self.makes is None and all(len(fleet.classes[number]) == 1 for _, number, _ in column.needs):
            return math.fsum(moved_bytes(fleet, [column.replica], self.resident).values())
        return total_weights(fleet, column.replica)

    def _polished(self, picks: Sequence[Pick]) -> list[Pick]:
        """Return the picks with the new replicas among them cut as well as a thorough search can."""
        better: dict[int, Column] = {}
        for pick in picks:
            column = pick.column
            if id(column) in better:
                continue
            better[id(column)] = column
            limit = self.budget.limits.time_limit_s
            roomy = limit is None or self.budget.remaining_s > 0.3 * limit
            if column.kept is None and roomy and not self.budget.exhausted():
                found = self.shaper.best(sorted(column.replica.devices), thorough=True)
                if found is not None and found.value > column.replica.value:
                    better[id(column)] = dataclasses.replace(column, replica=found)
        return [Pick(better[id(pick.column)], pick.devices) for pick in picks]

    def _realise(self, picks: Sequence[Pick]) -> Placed:
        replicas = [self._on_devices(pick) for pick in picks]
        return self.placed(replicas, [pick.column.kept for pick in picks], [own.value for own in replicas])

    def _on_devices(self, pick: Pick) -> Replica:
        """Return the replica of a pick on its devices; searched anew where it does not do as well on them."""
        own = pick.column.replica
        if pick.column.kept is not None:
            return own
        swap = {
            old: new
            for (_, olds), news in zip(pick.column.sources, pick.devices, strict=True)
            for old, new in zip(olds, news, strict=True)
        }
        moved = self.shaper.moved(own, swap)
        if moved is not None and moved.value >= own.value * (1 - MOVING):
            return moved
        other = self.shaper.best(list(swap.values()))
        return max((found for found in (moved, other) if found is not None), key=lambda found: found.value)


def _slower_columns(columns: Sequence[Column], picks: Sequence[Pick], placed: Placed) -> list[Column]:
    """Return the columns with those that a link holds back at the rate they reach."""
    reached: dict[int, float] = {}
    for pick, replica, rate in zip(picks, placed.replicas, placed.rates, strict=True):
        share = rate / replica.value if replica.value > 0.0 else 0.0
        reached[id(pick.column)] = min(share, reached.get(id(pick.column), 1.0))
    return [
        dataclasses.replace(
            column, replica=dataclasses.replace(column.replica, value=column.replica.value * reached[id(column)])
        )
        if reached.get(id(column), 1.0) < 1.0
        else column
        for column in columns
        if reached.get(id(column), 1.0) > 0.0
    ]
