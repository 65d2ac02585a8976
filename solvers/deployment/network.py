"""What pairs of a fleet's devices cost, without a D×D table: by the tables within cells and between route groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.compact import CompactRoutes, CompactTable
from gpuplan.topology.routes import Router

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


class Network:
    """Which pairs of devices there are, read off once for the tables of all messages.

    Attributes
    ----------
    patterns
        Islands whose members are alike and whose pairs cost the same are of one pattern: the number of each island's.
    samples
        Members of the first island of each pattern.
    largest
        Devices of the largest island that holds each kind.
    """

    def __init__(
        self,
        router: Router,
        islands: Sequence[tuple[int, ...]],
        island_of: NDArray[np.int64],
        kind_of: NDArray[np.int64],
    ) -> None:
        self._router = router
        self._routes: CompactRoutes = router.compact()
        self.patterns, self.samples = self._patterns(islands, kind_of)
        order = np.argsort(self._routes.cell, kind="stable")
        ends = np.searchsorted(self._routes.cell[order], np.arange(1, len(self._routes.cells.cells)))
        self._cell_devices = np.split(order, ends)
        self._any = self._pairs(np.arange(len(island_of)))
        self._apart = self._pairs(island_of)
        self.largest = np.zeros(int(kind_of.max()) + 1, dtype=np.int64)
        for members in islands:
            own = kind_of[list(members)]
            self.largest[own] = np.maximum(self.largest[own], len(members))
        self._every = np.arange(len(self._any[0])), [np.arange(len(own)) for own in self._any[1]]
        self._senders = [self._places(np.flatnonzero(kind_of == kind)) for kind in range(int(kind_of.max()) + 1)]

    @property
    def entries(self) -> int:
        """How many pairs a table holds."""
        return self._any[0].size + sum(own.size for own in self._any[1])

    def table(self, message_bytes: float) -> CompactTable:
        """Return the numbers of the fastest routes for messages of `message_bytes` bytes."""
        return self._router.compact_table(message_bytes)

    def block(self, table: CompactTable, members: Sequence[int]) -> tuple[Floats, Floats]:
        """Return latency (s) and slowness (s/byte) between `members`, (n, n) each, 0 on the diagonal."""
        own = np.asarray(members)
        cells, places, groups = table.cell[own], table.member[own], table.group[own]
        latency = table.between_latency_s[np.ix_(groups, groups)]
        slowness = table.between_s_per_byte[np.ix_(groups, groups)]
        for cell in np.unique(cells):
            inside = np.flatnonzero(cells == cell)
            kind, block = int(table.cell_kind[cell]), np.ix_(places[inside], places[inside])
            latency[np.ix_(inside, inside)] = table.within_latency_s[kind][block]
            slowness[np.ix_(inside, inside)] = table.within_s_per_byte[kind][block]
        np.fill_diagonal(latency, 0.0)
        np.fill_diagonal(slowness, 0.0)
        return latency, slowness

    def distinct(self, table: CompactTable, *, apart: bool, sender: int | None) -> Floats:
        """Return the distinct (latency, slowness) of the pairs that have a route, shape (pairs, 2).

        apart
            Whether pairs within an island are left out.
        sender
            Kind of the first of each pair; None: of any kind.
        """
        between, within = self._apart if apart else self._any
        groups, members = self._every if sender is None else self._senders[sender]
        latency = [table.between_latency_s[groups][between[groups]]]
        slowness = [table.between_s_per_byte[groups][between[groups]]]
        for kind, (allowed, own) in enumerate(zip(within, members, strict=True)):
            latency.append(table.within_latency_s[kind][own][allowed[own]])
            slowness.append(table.within_s_per_byte[kind][own][allowed[own]])
        numbers = np.stack([np.concatenate(latency), np.concatenate(slowness)])
        numbers = numbers[:, np.isfinite(numbers).all(axis=0)]
        found = np.unique(numbers[0] + 1j * numbers[1])
        return np.stack([found.real, found.imag], axis=1)

    def _patterns(
        self, islands: Sequence[tuple[int, ...]], kind_of: NDArray[np.int64]
    ) -> tuple[list[int], list[tuple[int, ...]]]:
        routes = self._routes
        known: dict[tuple[bytes, ...], int] = {}
        samples: list[tuple[int, ...]] = []
        numbers = []
        for members in islands:
            own = np.asarray(members)
            cells = routes.cell[own]
            order = np.unique(cells, return_inverse=True)[1]
            parts = kind_of[own], routes.group[own], routes.member[own], routes.cell_kind[cells], order
            key = tuple(part.astype(np.int64).tobytes() for part in parts)
            if key not in known:
                known[key] = len(samples)
                samples.append(members)
            numbers.append(known[key])
        return numbers, samples

    def _places(self, devices: NDArray[np.intp]) -> tuple[Ints, list[Ints]]:
        """Return the rows of the tables that stand for some of `devices`: groups, and members of each kind of cell."""
        routes = self._routes
        kinds = routes.cell_kind[routes.cell[devices]]
        members = [np.unique(routes.member[devices[kinds == kind]]) for kind in range(len(routes.within))]
        return np.unique(routes.group[devices]), members

    def _pairs(self, part_of: NDArray[np.int64]) -> tuple[Bools, list[Bools]]:
        """Return which entries of the tables stand for two devices of different parts: between groups, within cells.

        Where a part spans cells, entries between groups that have more than one part are all kept: too many pairs
        make a bound below them lower, never wrong.
        """
        routes = self._routes
        groups = int(routes.group.max()) + 1
        cells = _spans(routes.group, routes.cell, groups)
        parts = _spans(routes.group, part_of, groups)
        between = _several(cells) & _several(parts)
        within = []
        for kind in range(len(routes.within)):
            size = routes.within[kind].shape[-1]
            allowed = np.zeros((size, size), dtype=bool)
            for cell in np.flatnonzero(routes.cell_kind == kind):
                own = np.full(size, -1, dtype=np.int64)
                devices = self._cell_devices[cell]
                own[routes.member[devices]] = part_of[devices]
                there = own >= 0
                allowed |= (own[:, None] != own[None, :]) & there[:, None] & there[None, :]
            within.append(allowed)
        return between, within


def _spans(group: Ints, part: NDArray[np.int64] | Ints, groups: int) -> Floats:
    """Return the least and the largest part that each group has devices in, shape (groups, 2)."""
    found = np.stack([np.full(groups, np.inf), np.full(groups, -np.inf)], axis=1)
    np.minimum.at(found[:, 0], group, part)
    np.maximum.at(found[:, 1], group, part)
    return found


def _several(spans: Floats) -> Bools:
    """Return for every two groups whether they have devices in more than one part."""
    low = np.minimum(spans[:, None, 0], spans[None, :, 0])
    high = np.maximum(spans[:, None, 1], spans[None, :, 1])
    several: Bools = low < high
    return several
