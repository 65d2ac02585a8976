"""Which candidates, how many of each, and on which devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gpuplan.solvers.deployment.columns import (
    Column,
    Make,
    Resource,
    Sources,
    Vector,
    best_by_needs,
    by_device,
    piece_devices,
)
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.layout import Stock
from gpuplan.solvers.deployment.master import Outcome, Programme, patterns, solve_programme
from gpuplan.solvers.deployment.packing import least_for, most_worth, pack

#: Gap at which a choice by kinds ends: what it loses on real islands is more.
KIND_GAP: Final = 1e-4
#: Ways to cut one make of island at most.
MOST_PATTERNS: Final = 1500


@dataclass(frozen=True, slots=True)
class Pick:
    """A replica of `column` on concrete devices, piece by piece as in the column's sources."""

    column: Column
    devices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Ways to cut some copies of a make: how many of each piece a way gives, and its column in the programme."""

    make: Make
    copies: list[int]
    keys: list[Resource]
    ways: list[tuple[int, ...]]
    columns: list[int]


@dataclass(slots=True)
class Market:
    """The columns and the devices they compete for.

    Parameters
    ----------
    makes
        Makes of islands, or None where columns take classes.
    handicap
        Subtracted from (added to, when minimising) what a column is worth, by its place.
    hold
        Whether every kept replica has to stay.
    by_kind
        Whether columns take devices by kind (see `by_kinds`), whatever island they are in.
    """

    fleet: Fleet
    goal: Goal
    columns: Sequence[Column]
    makes: Sequence[Make] | None
    worths: Sequence[float]
    handicap: Sequence[float] | None = None
    time_limit_s: float | None = None
    hold: bool = False
    by_kind: bool = False
    _cuts: list[_Cut] = field(default_factory=list)

    def choose(self) -> tuple[Outcome, list[Pick]]:
        """Return the outcome of the programme, and its replicas on devices of their own."""
        if self.makes is None and self.handicap is None:
            return self._choose_by_table()
        programme = Programme()
        for number, column in enumerate(self.columns):
            programme.column(self._net(number), 1.0 if column.kept is not None else float("inf"))
        if self.by_kind:
            self._kind_rows(programme)
        elif self.makes is None:
            self._class_rows(programme)
        else:
            self._piece_rows(programme, self.makes)
        if self.hold:
            for number, column in enumerate(self.columns):
                if column.kept is not None:
                    programme.row({number: -1.0}, -1.0)
        extra = len(programme.values) - len(self.columns)
        sizes = [column.size for column in self.columns] + [0] * extra
        rates = [column.replica.value for column in self.columns] + [0.0] * extra
        self.goal.limit(programme, sizes, rates)
        gap = KIND_GAP if self.by_kind else 0.0
        outcome = solve_programme(programme, maximise=self.goal.maximised, time_limit_s=self.time_limit_s, gap=gap)
        if outcome.counts is None:
            return outcome, []
        return outcome, self._laid_out(outcome.counts) if self.by_kind else self._picks(outcome.counts)

    def _choose_by_table(self) -> tuple[Outcome, list[Pick]]:
        """Pack classes by the table: exact, and without a linear solver."""
        problem = self.goal.problem
        counts = tuple(map(len, self.fleet.classes))
        shapes = [self._class_counts(column) for column in self.columns]
        values = [column.replica.value for column in self.columns]
        table = pack(counts, shapes, values, problem.max_replicas)
        if problem.demand_rps is None:
            state: int | None = most_worth(table, problem.max_devices)
        else:
            state = least_for(table, problem.demand_rps, self._class_weight, problem.max_devices)
        if state is None:
            return Outcome(None, None, infeasible=True), []
        taken = table.shapes(state)
        chosen = [taken.count(c) for c in range(len(self.columns))]
        return Outcome(tuple(chosen), None), self._picks(chosen)

    def _class_counts(self, column: Column) -> Vector:
        return tuple(column.needs.get(("class", i, ()), 0) for i in range(len(self.fleet.classes)))

    def _class_weight(self, vector: Vector) -> float:
        kinds = [0] * len(self.fleet.kinds)
        for members, count in zip(self.fleet.classes, vector, strict=True):
            kinds[int(self.fleet.kind_of[members[0]])] += count
        return self.goal.weight(kinds)

    def _net(self, number: int) -> float:
        worth = self.worths[number]
        if self.handicap is None:
            return worth
        return worth - self.handicap[number] if self.goal.maximised else worth + self.handicap[number]

    def _class_rows(self, programme: Programme) -> None:
        for i, members in enumerate(self.fleet.classes):
            key: Resource = ("class", i, ())
            uses = {c: float(column.needs[key]) for c, column in enumerate(self.columns) if key in column.needs}
            if uses:
                programme.row(uses, float(len(members)))

    def _kind_rows(self, programme: Programme) -> None:
        for kind, count in enumerate(np.bincount(self.fleet.kind_of)):
            key: Resource = ("kind", kind, ())
            uses = {c: float(column.needs[key]) for c, column in enumerate(self.columns) if key in column.needs}
            if uses:
                programme.row(uses, float(count))

    def _laid_out(self, counts: Sequence[int]) -> list[Pick]:
        """Return the replicas on devices there are, those of large groups first; what finds no place is left out."""
        stock, picks = Stock(self.fleet), []
        chosen = [(column, counts[c]) for c, column in enumerate(self.columns) if counts[c]]
        for column, count in sorted(chosen, key=lambda entry: -entry[0].replica.degree):
            order = [self._sort_of(group) for group in column.replica.groups]
            for _ in range(count):
                groups = stock.take(order)
                if groups is not None:
                    picks.append(Pick(column, tuple(own for _, own in _by_kind(self.fleet, groups))))
        return picks

    def _sort_of(self, group: Sequence[int]) -> Vector:
        return tuple(np.bincount(self.fleet.kind_of[list(group)], minlength=len(self.fleet.kinds)).tolist())

    def _piece_rows(self, programme: Programme, makes: Sequence[Make]) -> None:
        """Add the ways to cut islands as columns: what is needed of a piece may not exceed what is cut."""
        needs: dict[Resource, dict[int, float]] = {}
        for c, column in enumerate(self.columns):
            for key, count in column.needs.items():
                needs.setdefault(key, {})[c] = float(count)
        for make in makes:
            for islands, held in self._groups(make):
                self._cut(programme, make, islands, held, needs)
        for row in needs.values():
            programme.row(row, 0.0)

    def _cut(
        self,
        programme: Programme,
        make: Make,
        islands: list[int],
        held: Mapping[Resource, Vector],
        needs: dict[Resource, dict[int, float]],
    ) -> None:
        keys: list[Resource] = list(held)
        keys += [key for key in needs if key[0] == "piece" and key[1] == make.number]
        shapes = [held.get(key, key[2]) for key in keys]
        order = sorted(range(len(keys)), key=lambda k: -sum(shapes[k]))
        keys, shapes = [keys[k] for k in order], [shapes[k] for k in order]
        ways = patterns(make.whole, shapes, MOST_PATTERNS)
        columns = [programme.column(0.0, float(len(islands))) for _ in ways]
        programme.row(dict.fromkeys(columns, 1.0), float(len(islands)))
        for column, way in zip(columns, ways, strict=True):
            for key, count in zip(keys, way, strict=True):
                if count:
                    needs[key][column] = -float(count)
        self._cuts.append(_Cut(make, islands, keys, ways, columns))

    def _groups(self, make: Make) -> list[tuple[list[int], dict[Resource, Vector]]]:
        """Return the copies of a make that hold the same kept pieces: together where they hold none."""
        free: list[int] = []
        groups: list[tuple[list[int], dict[Resource, Vector]]] = []
        for number, parts in enumerate(make.copies):
            held = self._held(parts)
            if held:
                groups.append(([number], held))
            else:
                free.append(number)
        return [*groups, (free, {})] if free else groups

    def _held(self, parts: Sequence[Sequence[int]]) -> dict[Resource, Vector]:
        members = {device for part in parts for device in part}
        held: dict[Resource, Vector] = {}
        for column in self.columns:
            if column.kept is None:
                continue
            for key, devices in column.sources:
                if members.issuperset(devices):
                    held[key] = tuple(sum(device in part for device in devices) for part in parts)
        return held

    def _picks(self, counts: Sequence[int]) -> list[Pick]:
        chosen = [(column, counts[c]) for c, column in enumerate(self.columns) if counts[c]]
        kept = [column for column, _ in chosen if column.kept is not None]
        taken = {device for column in kept for device in column.replica.devices}
        picks = [Pick(column, tuple(devices for _, devices in column.sources)) for column in kept]
        stock = self._class_stock(taken) if self.makes is None else self._piece_stock(counts, taken)
        fresh = [entry for entry in chosen if entry[0].kept is None]
        for column, count in sorted(fresh, key=lambda entry: -len(entry[0].sources)):
            for _ in range(count):
                picks.append(Pick(column, tuple(_take(stock, key, len(devices)) for key, devices in column.sources)))
        return picks

    def _class_stock(self, taken: set[int]) -> dict[Resource, list[tuple[int, ...]]]:
        return {
            ("class", i, ()): [(device,) for device in members if device not in taken]
            for i, members in enumerate(self.fleet.classes)
        }

    def _piece_stock(self, counts: Sequence[int], taken: set[int]) -> dict[Resource, list[tuple[int, ...]]]:
        """Cut the islands as the programme says; return the pieces of each shape."""
        stock: dict[Resource, list[tuple[int, ...]]] = {}
        for cut in self._cuts:
            free = iter(cut.copies)
            for way, column in zip(cut.ways, cut.columns, strict=True):
                for _ in range(counts[column]):
                    parts = [[d for d in part if d not in taken] for part in cut.make.copies[next(free)]]
                    for key, count in zip(cut.keys, way, strict=True):
                        for _ in range(count if key[0] == "piece" else 0):
                            devices = piece_devices(parts, key[2])
                            parts = [[d for d in part if d not in devices] for part in parts]
                            stock.setdefault(key, []).append(devices)
        for pieces in stock.values():
            pieces.sort()
        return stock


def _take(stock: dict[Resource, list[tuple[int, ...]]], key: Resource, count: int) -> tuple[int, ...]:
    """Take a piece, or `count` devices of a class, off the stock."""
    if key[0] == "piece":
        return stock[key].pop(0)
    taken = stock[key][:count]
    del stock[key][:count]
    return tuple(device for (device,) in taken)


def by_kinds(fleet: Fleet, columns: Sequence[Column]) -> list[Column]:
    """Return the columns as takers of devices by kind, the best of those that take the same."""
    replicas = (column.replica for column in columns)
    return best_by_needs(by_device(replica, _by_kind(fleet, replica.groups)) for replica in replicas)


def _by_kind(fleet: Fleet, groups: Sequence[Sequence[int]]) -> Sources:
    """Return the devices of groups by kind, in their order."""
    found: dict[int, list[int]] = {}
    for group in groups:
        for device in group:
            found.setdefault(int(fleet.kind_of[device]), []).append(device)
    return tuple((("kind", kind, ()), tuple(found[kind])) for kind in sorted(found))


def with_handicap(market: Market, handicap: Sequence[float]) -> Market:
    """Return the market with another handicap."""
    return dataclasses.replace(market, handicap=handicap, _cuts=[])
