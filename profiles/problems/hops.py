"""Transfer times of every ordered pair of devices: as a D×D table, or by unit of exchangeable devices.

A cluster of thousands of devices has few kinds of pairs. Devices that no route tells apart form a *unit*: one row of
the table stands for all of them, and its diagonal for two different devices of the unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import UnsupportedError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Most devices whose D×D tables are made.
MOST_DENSE: Final = 2048
#: Most entries of one matrix, after devices are reduced to classes or hosts.
MOST_ENTRIES: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class HopTable:
    """Transfer times between devices: ``latency_s[d, e] + bytes·s_per_byte[d, e]``.

    latency_s, s_per_byte
        Shape (D, D); the diagonal is never read. A pair without a route has latency inf; its seconds per byte are 0
        in tables made by gpuplan, so that the sum is inf for any number of bytes (0 among them).
    """

    latency_s: FloatArray
    s_per_byte: FloatArray

    @property
    def home(self) -> IntArray:
        """Unit of each device: every one its own, shape (D,)."""
        return np.arange(len(self.latency_s))

    @property
    def unit_latency_s(self) -> FloatArray:
        """Latency by unit, shape (D, D)."""
        return self.latency_s

    @property
    def unit_s_per_byte(self) -> FloatArray:
        """Seconds per byte by unit, shape (D, D)."""
        return self.s_per_byte

    def pair(self, sender: int, receiver: int) -> tuple[float, float]:
        """Return latency in s and s/byte from one device to another."""
        return float(self.latency_s[sender, receiver]), float(self.s_per_byte[sender, receiver])


@dataclass(frozen=True, slots=True, eq=False)
class UnitHops:
    """Transfer times by unit: the pair d ≠ e costs what ``(home[d], home[e])`` says, without a D×D table.

    home
        Unit of each device, shape (D,).
    unit_latency_s, unit_s_per_byte
        Shape (U, U); an entry on the diagonal is for two different devices of the unit (not read where it has one).
        No route: inf and 0, as in `HopTable`.
    """

    home: IntArray
    unit_latency_s: FloatArray
    unit_s_per_byte: FloatArray
    _dense: list[HopTable] = field(default_factory=list, init=False, repr=False)

    def pair(self, sender: int, receiver: int) -> tuple[float, float]:
        """Return latency in s and s/byte from one device to another; 0 from a device to itself."""
        if sender == receiver:
            return 0.0, 0.0
        place = self.home[sender], self.home[receiver]
        return float(self.unit_latency_s[place]), float(self.unit_s_per_byte[place])

    def dense(self) -> HopTable:
        """Return the D×D tables, for code that goes through every pair of devices.

        Raises
        ------
        UnsupportedError
            There are more than 2,048 devices.
        """
        if not self._dense:
            count = len(self.home)
            if count > MOST_DENSE:
                raise UnsupportedError(
                    f"expected at most {MOST_DENSE:,} devices for a method that reads every pair of them, "
                    f"got {count:,}; use the solver auto, quotient or labels"
                )
            tables = [table[np.ix_(self.home, self.home)] for table in (self.unit_latency_s, self.unit_s_per_byte)]
            for table in tables:
                np.fill_diagonal(table, 0.0)
            self._dense.append(HopTable(*tables))
        return self._dense[0]

    @property
    def latency_s(self) -> FloatArray:
        """Latency of every pair, shape (D, D); refused above 2,048 devices."""
        return self.dense().latency_s

    @property
    def s_per_byte(self) -> FloatArray:
        """Seconds per byte of every pair, shape (D, D); refused above 2,048 devices."""
        return self.dense().s_per_byte


Hops: TypeAlias = HopTable | UnitHops


def hop_table(latency_s: FloatArray, s_per_byte: FloatArray) -> HopTable:
    """Return a table whose pairs without a route are inf + 0·bytes, and whose diagonal is 0."""
    closed = ~(np.isfinite(latency_s) & np.isfinite(s_per_byte))
    np.fill_diagonal(closed, False)
    latency, per_byte = np.where(closed, np.inf, latency_s), np.where(closed, 0.0, s_per_byte)
    np.fill_diagonal(latency, 0.0)
    np.fill_diagonal(per_byte, 0.0)
    return HopTable(latency, per_byte)


def unit_hops(home: IntArray, latency_s: FloatArray, s_per_byte: FloatArray) -> UnitHops:
    """Return a table by unit whose pairs without a route are inf + 0·bytes."""
    closed = ~(np.isfinite(latency_s) & np.isfinite(s_per_byte))
    if not closed.any():
        return UnitHops(home, latency_s, s_per_byte)
    return UnitHops(home, np.where(closed, np.inf, latency_s), np.where(closed, 0.0, s_per_byte))


def check_hops(hops: Hops, devices: int) -> dict[str, tuple[NDArray[Any], tuple[int, int]]]:
    """Return for each column its numbers that are ever read, and the shape they should have."""
    if isinstance(hops, HopTable):
        shape, unread = (devices, devices), np.ones(devices, dtype=bool)
    else:
        units = len(hops.unit_latency_s)
        shape, unread = (units, units), np.bincount(hops.home, minlength=units) < 2
    columns = {}
    for name, values in (("latency_s", hops.unit_latency_s), ("s_per_byte", hops.unit_s_per_byte)):
        read = values
        if values.shape == shape:
            read = values.copy()
            read[np.flatnonzero(unread), np.flatnonzero(unread)] = 0.0
        columns[name] = (read, shape)
    return columns


def check_entries(entries: int, what: str) -> None:
    """Refuse a matrix of more than 50 million entries.

    Raises
    ------
    UnsupportedError
        Naming what it would hold and how many entries there are.
    """
    if entries > MOST_ENTRIES:
        raise UnsupportedError(
            f"expected at most {MOST_ENTRIES // 10**6} million matrix entries, got {entries:,} for {what}; "
            "leave devices out, or plan parts of the cluster on their own"
        )
