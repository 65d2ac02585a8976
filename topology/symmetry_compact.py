"""Exchangeable devices and hosts of large clusters, from tables within cells and between route groups.

Cells of one kind with equal devices can be swapped whole, so what holds between two of them holds between any two. Two
devices are compared on the rows of their cells and on their row between groups: a few dozen numbers, not D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.topology.compact import CompactRoutes
from gpuplan.topology.shortest import Matrix

Ids = NDArray[np.int64]


@dataclass(slots=True)
class _Kind:
    """Cells that are alike, devices included.

    `places` are the devices of each cell in order, `ids` the pair ids inside, `colours` and `groups` those of each
    device, `own` how many devices of the cell each group has.
    """

    places: list[NDArray[np.intp]]
    ids: Ids
    colours: Ids
    groups: NDArray[np.intp]
    own: Ids


class CompactSymmetry:
    """Classes of exchangeable devices and hosts without D×D.

    Parameters
    ----------
    routes
        The candidate routes.
    sizes
        Message sizes whose tables must stay unchanged; None: every size there is.
    colours
        One number per device, equal where everything but the routes is equal.
    """

    def __init__(self, routes: CompactRoutes, sizes: Sequence[float] | None, colours: Ids) -> None:
        self.routes = routes
        self.between, within = _pair_ids(routes, sizes)
        self.counts = np.bincount(routes.group, minlength=len(self.between)).astype(np.int64)
        self.kinds = _kinds(routes, within, colours, len(self.between))

    def classes(self) -> list[list[int]]:
        """Return the classes of exchangeable devices, as places in order."""
        merged: dict[tuple[int, bytes], list[_Class]] = {}
        result: list[list[int]] = []
        for kind in self.kinds:
            for members in self._inside(kind):
                one = _Class(kind, members)
                if not self._spreads(one):
                    result += [[int(places[member]) for member in members] for places in kind.places]
                    continue
                found = merged.setdefault(self._key(one), [])
                for other in found:
                    if self._across(other, one):
                        other.more.append(one)
                        break
                else:
                    found.append(one)
        for leaders in merged.values():
            for leader in leaders:
                result.append(sorted(place for one in (leader, *leader.more) for place in one.all_places()))
        return sorted(result)

    def _inside(self, kind: _Kind) -> list[NDArray[np.intp]]:
        """Return the classes within one cell, as members."""
        outside = self.counts - kind.own > 0
        rows = self.between[kind.groups][:, outside]
        classes = []
        for colour in np.unique(kind.colours):
            left = np.flatnonzero(kind.colours == colour)
            while left.size:
                first = left[0]
                differs = kind.ids[left] != kind.ids[first]
                differs[:, first] = False
                differs[np.arange(left.size), left] = False
                equal = ~differs.any(axis=1) & (rows[left] == rows[first]).all(axis=1)
                classes.append(left[equal])
                left = left[~equal]
        return classes

    def _spreads(self, one: _Class) -> bool:
        """Return whether a class reaches beyond its cell: over two cells of its kind, or, of a single one, may."""
        if len(one.kind.places) > 1:
            return self._across(one, one)
        # Alone of its kind: its inside must look as it does from elsewhere, or no other cell can have its like.
        row = np.delete(one.kind.ids[one.first], one.first)
        return bool(np.isin(row, self.between).all())

    def _across(self, one: _Class, two: _Class) -> bool:
        """Return whether the first member of `one` in one cell and that of `two` in another can be swapped."""
        a, b = one.kind, two.kind
        if a is b and len(a.places) < 2 or a.colours[one.first] != b.colours[two.first]:  # noqa: RUF021
            return False
        row_a, row_b = self.between[a.groups[one.first]], self.between[b.groups[two.first]]
        outside = self.counts - a.own - b.own > 0
        near_a = np.delete(a.ids[one.first] == row_b[a.groups], one.first)
        near_b = np.delete(b.ids[two.first] == row_a[b.groups], two.first)
        return bool(near_a.all() and near_b.all() and (row_a == row_b)[outside].all())

    def _key(self, one: _Class) -> tuple[int, bytes]:
        """Return what all members of a class over several cells have in common: colour and the numbers of a row."""
        kind = one.kind
        seen = np.zeros(int(self.between.max(initial=0)) + 1, dtype=np.int64)
        np.add.at(seen, self.between[kind.groups[one.first]], self.counts - kind.own)
        np.add.at(seen, np.delete(kind.ids[one.first], one.first), 1)
        return int(kind.colours[one.first]), seen.tobytes()

    def host_classes(self) -> list[list[int]]:
        """Return the classes of exchangeable cells (hosts), each by the place of its first device."""
        classes: list[tuple[_Kind, list[int]]] = []
        for kind in self.kinds:
            firsts = [int(places[0]) for places in kind.places]
            for other, members in classes:
                if self._swap_cells(other, kind):
                    members += firsts
                    break
            else:
                classes.append((kind, firsts))
        return [sorted(members) for _, members in classes]

    def _swap_cells(self, a: _Kind, b: _Kind) -> bool:
        if len(a.groups) != len(b.groups) or not np.array_equal(a.colours, b.colours):
            return False
        outside = self.counts - a.own - b.own > 0
        between = self.between[np.ix_(a.groups, b.groups)]
        return (
            np.array_equal(a.ids, b.ids)
            and np.array_equal(between, between.T)
            and np.array_equal(self.between[a.groups][:, outside], self.between[b.groups][:, outside])
        )


class _Class:
    """A class within each cell of a kind, and the classes elsewhere that turned out to be the same."""

    __slots__ = ("first", "kind", "members", "more")

    def __init__(self, kind: _Kind, members: NDArray[np.intp]) -> None:
        self.kind, self.members, self.more = kind, members, list[_Class]()
        self.first = int(members[0])

    def all_places(self) -> list[int]:
        """Return the devices of all cells of the kind."""
        return [int(places[member]) for places in self.kind.places for member in self.members]


def _pair_ids(routes: CompactRoutes, sizes: Sequence[float] | None) -> tuple[Ids, list[Ids]]:
    """Return one number per pair, equal where all numbers are equal: between groups, and inside each kind of cell."""
    if sizes is None:
        stacks = [[layer, *(inside[number] for inside in routes.within)] for number, layer in enumerate(routes.between)]
    else:
        tables = [routes.table(size) for size in sizes]
        stacks = [
            stack
            for table in tables
            for stack in (
                [table.between_latency_s, *table.within_latency_s],
                [table.between_s_per_byte, *table.within_s_per_byte],
            )
        ]
    shapes = [layer.shape for layer in (routes.between[0], *(inside[0] for inside in routes.within))]
    ids = np.zeros(sum(a * b for a, b in shapes), dtype=np.int64)
    for stack in stacks:
        ids = _combined(ids, np.concatenate([matrix.ravel() for matrix in stack]))
    cuts = np.cumsum([a * b for a, b in shapes])[:-1]
    parts = [part.reshape(shape) for part, shape in zip(np.split(ids, cuts), shapes, strict=True)]
    return parts[0], parts[1:]


def _combined(ids: Ids, numbers: Matrix) -> Ids:
    _, found = np.unique(numbers, return_inverse=True)
    together = ids * (int(found.max(initial=0)) + 1) + found.reshape(-1)
    renumbered: Ids = np.unique(together, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return renumbered


def _kinds(routes: CompactRoutes, within: list[Ids], colours: Ids, groups: int) -> list[_Kind]:
    found: dict[tuple[object, ...], _Kind] = {}
    for number, cell in enumerate(routes.cells.cells):
        wanted = np.flatnonzero(cell.members >= 0)
        if not wanted.size:
            continue
        places = cell.members[wanted]
        kind = int(routes.cell_kind[number])
        key = (kind, wanted.tobytes(), colours[places].tobytes())
        if key not in found:
            own_groups = routes.group[places]
            own = np.bincount(own_groups, minlength=groups).astype(np.int64)
            found[key] = _Kind([], within[kind][np.ix_(wanted, wanted)], colours[places], own_groups, own)
        found[key].places.append(places)
    return list(found.values())
