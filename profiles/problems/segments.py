"""Segments: runs of exchangeable devices of an island, from which tensor-parallel groups are formed.

Devices of a segment are alike in every number of a problem (kind, power cap, memory, price, routes to all others) and
stand side by side in the topology order of their island. So a group is told by how many devices of each segment it
has: which ones they are changes neither its links, nor its memory, nor which of its ranks meets which of another's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.alike import alike
from gpuplan.profiles.problems.build import PhaseRoutes, PlacementProblem, phase_routes
from gpuplan.profiles.problems.hops import FloatArray, Hops, HopTable, IntArray
from gpuplan.topology.islands import islands


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a cluster.

    devices
        Device numbers of each segment, in topology order.
    islands
        Segments of each island.
    island_names
        For messages.
    leaders
        Of each island the first one that could trade places with it whole (a twin host's), itself for most; shape (I,).
    prefill, decode, back
        Routes between segments, the diagonal between two devices of one (no route where it has one); shape (S, S).
    """

    devices: tuple[tuple[int, ...], ...]
    islands: tuple[tuple[int, ...], ...]
    island_names: tuple[str, ...]
    leaders: IntArray
    prefill: HopTable
    decode: HopTable
    back: HopTable | None

    @property
    def counts(self) -> IntArray:
        """Devices of each segment, shape (S,)."""
        return np.array([len(group) for group in self.devices], dtype=np.int64)

    def island_size(self, island: int) -> int:
        """Devices of an island."""
        return sum(len(self.devices[segment]) for segment in self.islands[island])

    @property
    def largest(self) -> int:
        """Devices of the largest island."""
        return max(self.island_size(island) for island in range(len(self.islands)))

    @property
    def all_alike(self) -> bool:
        """Whether every island is one segment, so that groups differ by island and degree alone."""
        return all(len(parts) == 1 for parts in self.islands)


def find_segments(problem: PlacementProblem) -> Segments:
    """Return the segments of a problem's cluster."""
    devices = problem.topology.devices
    number = {device.name: k for k, device in enumerate(devices)}
    found = islands(problem.topology)
    members = [sorted(number[name] for name in island.devices) for island in found]
    home = np.empty(len(devices), dtype=np.int64)
    for k, group in enumerate(members):
        home[group] = k
    keys = _device_keys(problem)
    routes = phase_routes(problem)
    label = _classes(routes, [f"{home[k]}|{key}" for k, key in enumerate(keys)])
    segments: list[tuple[int, ...]] = []
    parts: list[tuple[int, ...]] = []
    for group in members:
        runs = [tuple(run) for _, run in itertools.groupby(group, key=lambda device: int(label[device]))]
        parts.append(tuple(range(len(segments), len(segments) + len(runs))))
        segments += runs
    tables = [
        None if hops is None else _between(hops, tuple(segments))
        for hops in (routes.prefill, routes.decode, routes.back)
    ]
    prefill, decode, back = tables
    assert prefill is not None
    assert decode is not None
    own = [tuple((keys[segments[s][0]], len(segments[s])) for s in part) for part in parts]
    leaders = _twins(own, parts, [table for table in tables if table is not None])
    names = tuple(island.name for island in found)
    return Segments(tuple(segments), tuple(parts), names, leaders, prefill, decode, back)


def _device_keys(problem: PlacementProblem) -> list[str]:
    """Return what tells devices apart by themselves."""
    kinds: list[object] = []
    numbers: dict[int, int] = {}
    keys = []
    for device in problem.topology.devices:
        kind = device.kind
        if id(kind) not in numbers:
            if kind not in kinds:
                kinds.append(kind)
            numbers[id(kind)] = kinds.index(kind)
        keys.append(f"{numbers[id(kind)]}|{device.power_cap_w}|{device.available_bytes}|{device.price_per_hour}")
    return keys


def _classes(routes: PhaseRoutes, keys: Sequence[str]) -> IntArray:
    """Return the class of exchangeable devices of every device (its first device), shape (D,)."""
    hops = [table for table in (routes.prefill, routes.decode, routes.back) if table is not None]
    places: dict[tuple[object, ...], list[int]] = {}
    for device, key in enumerate(keys):
        places.setdefault((key, *(int(table.home[device]) for table in hops)), []).append(device)
    members = tuple(tuple(group) for group in places.values())
    between = [_between(table, members) for table in hops]
    tables = [np.nan_to_num(part, posinf=-1.0) for table in between for part in (table.latency_s, table.s_per_byte)]
    counts = np.array([len(group) for group in members], dtype=np.int64)
    leader = alike(tables, [keys[group[0]].encode() for group in members], counts, merge=True)
    label = np.empty(len(keys), dtype=np.int64)
    for unit, group in enumerate(members):
        label[list(group)] = members[int(leader[unit])][0]
    return label


def _between(hops: Hops, members: tuple[tuple[int, ...], ...]) -> HopTable:
    """Reduce a table to groups of exchangeable devices; no route inside a group of one."""
    first = hops.home[[group[0] for group in members]]
    second = hops.home[[group[-1] for group in members]]
    single = np.array([len(group) < 2 for group in members])
    reduced = []
    for table, alone in ((hops.unit_latency_s, np.inf), (hops.unit_s_per_byte, 0.0)):
        values = np.array(table[np.ix_(first, first)], dtype=np.float64)
        np.fill_diagonal(values, np.where(single, alone, table[first, second]))
        reduced.append(np.ascontiguousarray(values))
    return HopTable(*reduced)


def _twins(
    own: Sequence[tuple[tuple[str, int], ...]], parts: Sequence[tuple[int, ...]], tables: Sequence[HopTable]
) -> IntArray:
    """Return of each island the first that trades places with it without changing a number."""
    columns = [values for table in tables for values in (table.latency_s, table.s_per_byte)]
    leaders = np.arange(len(parts))
    known: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for island, key in enumerate(own):
        for first in known.setdefault(key, []):
            if all(_swappable(values, parts[first], parts[island]) for values in columns):
                leaders[island] = first
                break
        else:
            known[key].append(island)
    return leaders


def _swappable(table: FloatArray, a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether swapping two blocks of equal size leaves a table as it is."""
    order = np.arange(len(table))
    order[list(a)], order[list(b)] = list(b), list(a)
    rows = [*a, *b]
    return bool(
        (table[np.ix_(order[rows], order)] == table[rows]).all()
        and (table[np.ix_(order, order[rows])] == table[:, rows]).all()
    )
