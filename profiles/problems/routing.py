"""Route tables as hop tables: D×D for a host or a few, by unit of exchangeable devices for a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gpuplan.profiles.problems.hops import (
    FloatArray,
    Hops,
    HopTable,
    IntArray,
    UnitHops,
    check_entries,
    hop_table,
    unit_hops,
)

if TYPE_CHECKING:
    from gpuplan.topology.compact import CompactTable
    from gpuplan.topology.routes import Router

#: Up to so many devices the D×D tables are made; above, they take longer than finding the units.
MOST_PAIRWISE: Final = 256


class RouteHops:
    """Hop tables of one topology; several message sizes share the units."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._units: list[list[int]] | None = None
        self._home: IntArray | None = None

    def hops(self, message_bytes: float) -> Hops:
        """Return α and β of the fastest routes for one message size; latency inf and 0 s/byte where there is none.

        Raises
        ------
        UnsupportedError
            The units still need a matrix of more than 50 million entries.
        """
        if len(self.router.devices) <= MOST_PAIRWISE:
            tables = self.router.table(message_bytes)
            return hop_table(tables.latency_s, tables.s_per_byte)
        units, home = self._by_unit()
        table = self.router.compact_table(message_bytes)
        latency, slowness = _between_units(table, units)
        return unit_hops(home, latency, slowness)

    def _by_unit(self) -> tuple[list[list[int]], IntArray]:
        if self._units is None or self._home is None:
            from gpuplan.topology.symmetry import exchangeable_classes

            place = {name: number for number, name in enumerate(self.router.devices)}
            classes = exchangeable_classes(self.router.topology, router=self.router, routes_alone=True)
            self._units = [[place[name] for name in group] for group in classes]
            check_entries(len(classes) ** 2, f"{len(classes):,} classes of devices that routes tell apart")
            self._home = np.zeros(len(place), dtype=np.int64)
            for number, group in enumerate(self._units):
                self._home[group] = number
        return self._units, self._home


def _between_units(table: CompactTable, units: list[list[int]]) -> tuple[FloatArray, FloatArray]:
    """Return latency and s/byte between first devices of units, shape (U, U) each; inside a unit on the diagonal."""
    first = np.array([group[0] for group in units])
    group, cell = table.group[first], table.cell[first]
    latency = table.between_latency_s[np.ix_(group, group)]
    slowness = table.between_s_per_byte[np.ix_(group, group)]
    order = np.argsort(cell, kind="stable")
    for near in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        if len(near) > 1:
            kind, member = table.cell_kind[cell[near[0]]], table.member[first[near]]
            latency[np.ix_(near, near)] = table.within_latency_s[kind][np.ix_(member, member)]
            slowness[np.ix_(near, near)] = table.within_s_per_byte[kind][np.ix_(member, member)]
    for number, members in enumerate(units):
        inside = table.numbers(members[0], members[1]) if len(members) > 1 else (0.0, 0.0)
        latency[number, number], slowness[number, number] = inside
    return latency, slowness


def combined(*phases: tuple[float, float, Hops]) -> Hops:
    """Return Σ (count·latency, messages·s_per_byte) over phases; no route in any phase is no route in all."""
    home = phases[0][2]
    latency, per_byte = np.zeros_like(home.unit_latency_s), np.zeros_like(home.unit_s_per_byte)
    for count, messages, table in phases:
        # 0·inf has no value: pairs without a route are set once, after the sum.
        with np.errstate(invalid="ignore"):
            latency += count * table.unit_latency_s
        per_byte += messages * table.unit_s_per_byte
    if not all(np.isfinite(table.unit_latency_s).all() for _, _, table in phases):
        closed = np.logical_or.reduce([~np.isfinite(table.unit_latency_s) for _, _, table in phases])
        latency[closed], per_byte[closed] = np.inf, 0.0
    return UnitHops(home.home, latency, per_byte) if isinstance(home, UnitHops) else HopTable(latency, per_byte)
