"""Which devices reach which: groups without a route between them, read by unit of exchangeable devices.

Nothing here makes a D×D table unless the problem came with one, so that thousands of devices cost milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.hops import Hops
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.placement.holders import has_return_hop

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Component:
    """Devices that reach each other (over any number of hops).

    devices
        By number.
    units
        Unit of each of them, shape (d,).
    open_units, open_return_units
        Whether unit u reaches unit v (on the diagonal: another device of its own), shape (U, U); the latter of the
        return hop, None without one.
    """

    devices: tuple[int, ...]
    units: IntArray
    open_units: BoolArray
    open_return_units: BoolArray | None

    @cached_property
    def complete(self) -> bool:
        """Return whether every device reaches every other directly, and back."""
        members = np.bincount(self.units, minlength=len(self.open_units))
        here, several = members > 0, members > 1
        tables = [self.open_units] if self.open_return_units is None else [self.open_units, self.open_return_units]
        return all(_all_open(table[np.ix_(here, here)], several[here]) for table in tables)

    @property
    def open_hop(self) -> BoolArray:
        """Whether device d reaches device e, shape (d, d); the diagonal is False."""
        return self._by_device(self.open_units)

    @property
    def open_return(self) -> BoolArray | None:
        """The same of the return hop; None without one."""
        return None if self.open_return_units is None else self._by_device(self.open_return_units)

    def _by_device(self, table: BoolArray) -> BoolArray:
        opened: BoolArray = table[np.ix_(self.units, self.units)] & ~np.eye(len(self.units), dtype=np.bool_)
        return opened


def _all_open(table: BoolArray, several: BoolArray) -> bool:
    """Return whether all pairs are open; the diagonal counts where a unit has several devices."""
    unread = np.zeros_like(table)
    np.fill_diagonal(unread, ~several)
    return bool((table | unread).all())


def components(problem: DensePlacement) -> list[Component]:
    """Split the devices where no hop leads across."""
    units, open_units, open_return = _units(problem)
    joined = open_units | open_units.T
    label = _labels(joined)
    number = int(label.max(initial=-1)) + 1
    of_device = label[units]
    # Devices of a unit that reaches neither another unit nor its own others stand alone.
    members = np.bincount(units, minlength=len(open_units))
    touched = joined.any(axis=0)
    lonely = (members > 1) & ~touched
    parts = []
    for k in range(number):
        devices = np.flatnonzero(of_device == k)
        groups = [devices[[i]] for i in range(len(devices))] if lonely[units[devices[0]]] else [devices]
        parts += [Component(tuple(group.tolist()), units[group], open_units, open_return) for group in groups]
    return parts


def _labels(joined: BoolArray) -> IntArray:
    """Return the number of the component of each unit: every row is read once, and no sparse matrix is made."""
    label = np.full(len(joined), -1, dtype=np.int64)
    number = 0
    for unit in range(len(joined)):
        fresh = np.array([unit]) if label[unit] < 0 else np.zeros(0, dtype=np.int64)
        while len(fresh):
            label[fresh] = number
            fresh = np.flatnonzero(joined[fresh].any(axis=0) & (label < 0))
        number = max(number, int(label[unit]) + 1)
    return label


def _units(problem: DensePlacement) -> tuple[IntArray, BoolArray, BoolArray | None]:
    """Return the unit of each device that all hop tables agree on, and which units reach which."""
    hops = [problem.latency.hop, problem.cycle.hop]
    returns = [t.return_hop for t in (problem.latency, problem.cycle) if t.return_hop is not None]
    homes = np.stack([table.home for table in (*hops, *returns)])
    _, first, units = np.unique(homes, axis=1, return_index=True, return_inverse=True)
    units = units.reshape(-1)

    def opened(tables: list[Hops]) -> BoolArray:
        result = np.ones((len(first), len(first)), dtype=np.bool_)
        for table in tables:
            at = table.home[first]
            for column in (table.unit_latency_s, table.unit_s_per_byte):
                same = len(at) == len(column) and bool((at == np.arange(len(at))).all())
                result &= np.isfinite(column if same else column[np.ix_(at, at)])
        alone = np.bincount(units, minlength=len(first)) < 2
        result[np.flatnonzero(alone), np.flatnonzero(alone)] = False
        return result

    back = opened(returns) if has_return_hop(problem) else None
    return units.astype(np.int64), opened(hops), back
