"""Routes without D×D: what every pair of devices costs, from tables within hosts and tables between route groups.

Devices of different cells (see `gpuplan.topology.cells`) that have the same latencies to every hub at every bandwidth
form one *route group*: all they need is one row of a table between groups. Devices of one cell have a small table of
their own, the same for all cells alike. A cluster of 512 equal hosts has a handful of groups, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.cells import Cells, Shape, cut
from gpuplan.topology.graph import Topology
from gpuplan.topology.shortest import Matrix, all_pairs, min_plus, rounded

Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CompactTable:
    """Transfer times of one message size, ``τ(m) = latency_s + m · s_per_byte``, without a D×D matrix.

    Parameters
    ----------
    devices
        Names of the D devices.
    message_bytes
        The message whose fastest routes these are.
    group
        Route group of each device, shape (D,).
    between_latency_s, between_s_per_byte
        Numbers between groups for devices of different cells, shape (G, G); inf where there is no route.
    cell, member
        Cell of each device and its place in it, shape (D,).
    cell_kind
        For each cell the number of its table in `within_latency_s`, shape (C,).
    within_latency_s, within_s_per_byte
        Numbers inside cells, one (n, n) matrix for each kind of cell.
    """

    devices: tuple[str, ...]
    message_bytes: float
    group: Ints
    between_latency_s: Matrix
    between_s_per_byte: Matrix
    cell: Ints
    member: Ints
    cell_kind: Ints
    within_latency_s: tuple[Matrix, ...]
    within_s_per_byte: tuple[Matrix, ...]

    def numbers(self, a: int, b: int) -> tuple[float, float]:
        """Return latency in s and s/byte from device number `a` to device number `b`."""
        if a == b:
            return 0.0, 0.0
        if self.cell[a] == self.cell[b]:
            kind, place = self.cell_kind[self.cell[a]], (self.member[a], self.member[b])
            return float(self.within_latency_s[kind][place]), float(self.within_s_per_byte[kind][place])
        place = (self.group[a], self.group[b])
        return float(self.between_latency_s[place]), float(self.between_s_per_byte[place])

    def row(self, a: int) -> tuple[Matrix, Matrix]:
        """Return latency and s/byte from device number `a` to every device, shape (D,) each."""
        latency = self.between_latency_s[self.group[a], self.group]
        slowness = self.between_s_per_byte[self.group[a], self.group]
        near = np.flatnonzero(self.cell == self.cell[a])
        kind = self.cell_kind[self.cell[a]]
        latency[near] = self.within_latency_s[kind][self.member[a], self.member[near]]
        slowness[near] = self.within_s_per_byte[kind][self.member[a], self.member[near]]
        latency[a] = slowness[a] = 0.0
        return latency, slowness


class CompactRoutes:
    """Candidate routes of all pairs, in tables within cells and between route groups.

    Parameters
    ----------
    topology
        The graph.
    devices
        Names of the devices wanted, in table order.

    Attributes
    ----------
    bandwidths
        The W bandwidths of candidate routes, fastest first.
    group, cell, member, cell_kind
        As in `CompactTable`.
    between
        Latencies between groups by bandwidth, shape (W, G, G); inf where no candidate has it.
    within
        Latencies inside each kind of cell, shape (W, n, n) each.

    Notes
    -----
    With R relays in a cell, H hubs and K kinds of cells: O(W·(shapes·R³ + H³ + K·n²·H + G²·H)), and O(E) to cut.
    """

    def __init__(self, topology: Topology, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self.cells = cut(topology, self.devices)
        self._number_members()
        self.bandwidths, relayed = _bandwidths(self.cells)
        inside = [[_inside(shape, bandwidth) for bandwidth in self.bandwidths] for shape in self.cells.shapes]
        layers = [
            self._layer(number, bandwidth, bandwidth in relayed, [kinds[number] for kinds in inside])
            for number, bandwidth in enumerate(self.bandwidths)
        ]
        self._group([reach for reach, _ in layers], [starts for starts, _ in layers], inside)

    def _number_members(self) -> None:
        """Give every device its cell and place; cells of one shape at the same hubs are of one kind."""
        count = len(self.devices)
        self.cell, self.member = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.intp)
        kinds: dict[tuple[int, tuple[int, ...]], int] = {}
        self.kinds: list[tuple[int, tuple[int, ...]]] = []
        kind_of: list[int] = []
        for number, cell in enumerate(self.cells.cells):
            key = (cell.shape, cell.hubs)
            if key not in kinds:
                kinds[key] = len(self.kinds)
                self.kinds.append(key)
            kind_of.append(kinds[key])
            wanted = np.flatnonzero(cell.members >= 0)
            self.cell[cell.members[wanted]] = number
            self.member[cell.members[wanted]] = wanted
        self.cell_kind = np.array(kind_of, dtype=np.intp)

    def _layer(
        self, number: int, bandwidth: float, relayed: bool, inside: list[_Inside]
    ) -> tuple[list[Matrix], list[Matrix]]:
        """Return for each kind of cell the latency of its devices to every hub, and to the hubs at its own ports."""
        hubs = self.cells.num_hubs
        starts = []
        for shape, ports in self.kinds:
            start = np.full((self.cells.shapes[shape].devices, hubs), np.inf)
            if relayed and ports:
                start[:, list(ports)] = inside[shape].to_ports
            starts.append(start)
        if not hubs or not relayed:
            return starts, starts
        edges = [(a, b, latency) for a, b, rate, latency in self.cells.hub_edges if rate >= bandwidth]
        for shape, ports in self.kinds:
            through = inside[shape].port_to_port
            edges += [
                (ports[a], ports[b], float(through[a, b]))
                for a in range(len(ports))
                for b in range(a + 1, len(ports))
                if np.isfinite(through[a, b])
            ]
        between_hubs = all_pairs(hubs, edges)
        return [min_plus(start, between_hubs) for start in starts], starts

    def _group(
        self, reach: list[list[Matrix]], starts: list[list[Matrix]], inside: list[list[_Inside]]
    ) -> None:  # fmt: skip
        """Find the route groups and fill the tables."""
        counts = [self.cells.shapes[shape].devices for shape, _ in self.kinds]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
        rows_reach = [np.concatenate(layer) if layer else np.zeros((0, 0)) for layer in reach]
        rows_start = [np.concatenate(layer) if layer else np.zeros((0, 0)) for layer in starts]
        together = np.concatenate(rows_reach + rows_start, axis=1) if rows_reach else np.zeros((first[-1], 0))
        leader, group_of_row = _equal_rows(together)
        self.group = group_of_row[first[self.cell_kind[self.cell]] + self.member]
        self.between = _pruned([
            _meeting(layer[leader], start[leader]) for layer, start in zip(rows_reach, rows_start, strict=True)
        ])  # fmt: skip
        self.within = [
            _pruned([
                np.minimum(inside[shape][number].pairs, _meeting(reach[number][kind], starts[number][kind]))
                for number in range(len(self.bandwidths))
            ], diagonal=True)
            for kind, (shape, _) in enumerate(self.kinds)
        ]  # fmt: skip

    def table(self, message_bytes: float) -> CompactTable:
        """Return the numbers of the fastest routes for messages of `message_bytes` bytes."""
        latency, slowness = self._best(self.between, message_bytes)
        pairs = [self._best(layers, message_bytes) for layers in self.within]
        return CompactTable(
            self.devices, message_bytes, self.group, latency, slowness, self.cell, self.member, self.cell_kind,
            tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs),
        )  # fmt: skip

    def _best(self, layers: Matrix, size: float) -> tuple[Matrix, Matrix]:
        best, latency, slowness = (np.full(layers.shape[1:], np.inf) for _ in range(3))
        for bandwidth, layer in zip(self.bandwidths, layers, strict=True):
            time = layer + size / bandwidth
            better = time < best
            best[better], latency[better], slowness[better] = time[better], layer[better], 1.0 / bandwidth
        return latency, slowness

    def dense_layers(self) -> list[tuple[float, Matrix]]:
        """Return (bandwidth, latencies of all pairs), fastest first, each (D, D); only layers with a candidate."""
        blocks = [np.flatnonzero(self.cell == number) for number in range(len(self.cells.cells))]
        layers = []
        for number, bandwidth in enumerate(self.bandwidths):
            layer = self.between[number][self.group[:, None], self.group[None, :]]
            for block, kind in zip(blocks, self.cell_kind, strict=True):
                own = self.member[block]
                layer[np.ix_(block, block)] = self.within[kind][number][np.ix_(own, own)]
            if np.isfinite(layer).any():
                layers.append((bandwidth, layer))
        return layers

    @cached_property
    def host_per_cell(self) -> bool:
        """Whether every cell is one host."""
        return all(len(hosts) == 1 for hosts in self.cells.hosts)


@dataclass(slots=True)
class _Inside:
    """Latencies inside a shape at one bandwidth: between devices, to ports, between ports."""

    pairs: Matrix
    to_ports: Matrix
    port_to_port: Matrix


def _bandwidths(cells: Cells) -> tuple[tuple[float, ...], frozenset[float]]:
    """Return all bandwidths, fastest first, and those of links that routes over relays have."""
    relayed = {rate for _, _, rate, _ in cells.hub_edges}
    direct: set[float] = set()
    for shape in cells.shapes:
        relayed |= {rate for _, _, rate, _ in shape.ports}
        for a, b, rate, _ in shape.edges:
            (direct if max(a, b) < shape.devices else relayed).add(rate)
    # Without any link one layer without a candidate keeps the shapes of the tables.
    return tuple(sorted(direct | relayed, reverse=True)) or (1.0,), frozenset(relayed)


def _inside(shape: Shape, bandwidth: float) -> _Inside:
    """Return what links of at least `bandwidth` allow inside a shape; direct links count at their own alone."""
    count, relays = shape.devices, shape.nodes - shape.devices
    ports = 1 + max((port for _, port, _, _ in shape.ports), default=-1)
    pairs = np.full((count, count), np.inf)
    spoke = np.full((count, relays), np.inf)
    trunk: list[tuple[int, int, float]] = []
    for a, b, rate, latency in shape.edges:
        low, high = min(a, b), max(a, b)
        if high < count:
            if rate == bandwidth:
                pairs[a, b] = pairs[b, a] = min(pairs[a, b], latency)
        elif rate >= bandwidth and low < count:
            spoke[low, high - count] = min(spoke[low, high - count], latency)
        elif rate >= bandwidth:
            trunk.append((a - count, b - count, latency))
    own, gate = np.full((count, ports), np.inf), np.full((relays, ports), np.inf)
    for node, port, rate, latency in shape.ports:
        if rate >= bandwidth:
            table, place = (own, node) if node < count else (gate, node - count)
            table[place, port] = min(table[place, port], latency)
    between = all_pairs(relays, trunk)
    reach = min_plus(spoke, between)
    via = rounded(min_plus(reach, spoke.T))
    return _Inside(
        np.minimum(pairs, np.minimum(via, via.T)),
        np.minimum(own, min_plus(reach, gate)),
        min_plus(gate.T, min_plus(between, gate)),
    )


def _meeting(reach: Matrix, start: Matrix) -> Matrix:
    """Return the least latency between rows that meet at a hub; every such route leaves the other cell by a port."""
    via = rounded(min_plus(reach, start.T))
    return np.minimum(via, via.T)


def _pruned(layers: Sequence[Matrix], *, diagonal: bool = False) -> Matrix:
    """Return the layers, fastest first, without candidates that a faster one beats in latency too."""
    least: Matrix | float = np.inf
    kept = []
    for layer in layers:
        left = np.where(layer < least, layer, np.inf)
        if diagonal:
            np.fill_diagonal(left, np.inf)
        least = np.minimum(least, left)
        kept.append(left)
    return np.array(kept).reshape((len(layers), *(layers[0].shape if layers else (0, 0))))


def _equal_rows(rows: Matrix) -> tuple[Ints, Ints]:
    """Return the first row of every set of equal rows, and the set of each row."""
    seen: dict[bytes, int] = {}
    leaders: list[int] = []
    numbers = np.zeros(len(rows), dtype=np.intp)
    for place, row in enumerate(np.ascontiguousarray(rounded(rows) + 0.0)):
        key = row.tobytes()
        if key not in seen:
            seen[key] = len(leaders)
            leaders.append(place)
        numbers[place] = seen[key]
    return np.array(leaders, dtype=np.intp), numbers
