"""Finds the hierarchy of a cluster in its numbers: kinds of classes, and nested units (racks, pods) they stand in.

Two classes (hosts, mostly) c ≠ e have a *level*: 1 in the same innermost unit, …, L when nothing but the cluster holds
both; a class has level 0 with itself. The structure is valid when every pair table is a function of (kind of c, kind of
e, level) alone. Units are proposed from the top down (what is not as far as its kinds can be belongs together), then
every number of every table is compared: what fails is refused, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.alike import pair_words
from gpuplan.profiles.problems.hops import FloatArray, IntArray
from gpuplan.solvers.placement.tables import ClassTables, class_pair_tables

NumberT = TypeVar("NumberT", np.float64, np.int64)

#: More kinds of classes than this are no help.
MOST_KINDS: Final = 64
#: More levels than this are refused.
MOST_LEVELS: Final = 6
#: More different hops than this are no hierarchy.
MOST_HOPS: Final = 1024


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Kinds and units of the classes of a problem.

    kind
        Kind of each class, shape (C,).
    unit
        unit[l, c]: number of the unit of level l that c stands in; level 0 is the class itself, level L the cluster;
        shape (L+1, C).
    level
        Least level of a unit that holds both classes, shape (C, C).
    example
        A pair c·C + e with level l and kinds a, b, or −1 where there is none; shape (L+1, T, T).
    """

    kind: IntArray
    unit: IntArray
    level: IntArray
    example: IntArray

    @property
    def num_kinds(self) -> int:
        """Kinds, T."""
        return int(self.example.shape[1])

    @property
    def levels(self) -> int:
        """Levels, L."""
        return len(self.unit) - 1

    def numbers(self, table: FloatArray, missing: float) -> FloatArray:
        """Return a (C, C) table by (level, kind, kind), `missing` where no such pair exists."""
        found = table.ravel()[np.maximum(self.example, 0)]
        return np.ascontiguousarray(np.where(self.example < 0, missing, found))

    def of_kinds(self, values: NDArray[NumberT]) -> NDArray[NumberT]:
        """Return what classes have in common, by kind: shape (C, …) → (T, …)."""
        first = np.unique(self.kind, return_index=True)[1]
        return np.ascontiguousarray(values[first])

    def fits(self, values: NDArray[Any]) -> bool:
        """Return whether all classes of a kind have the same numbers, shape (C,) or (C, …)."""
        return bool((self.of_kinds(values)[self.kind] == values).all())

    def describe(self) -> str:
        """Say what was found: kinds and units by level."""
        sizes = [len(np.unique(units)) for units in self.unit[1:-1]]
        racks = "".join(f" in {size} units" for size in sizes[:1]) + "".join(f" in {size}" for size in sizes[1:])
        kinds = "1 kind" if self.num_kinds == 1 else f"{self.num_kinds} kinds"
        return f"{len(self.kind)} classes of {kinds}{racks}"


def find_hierarchy(tables: ClassTables) -> Hierarchy | str:
    """Return the hierarchy of a problem's classes, or why there is none (one clause).

    Complexity
    ----------
    O(C²) a table and level: about 5 ms for 128 classes, 0.1 s for 512.
    """
    alone = _own_colours(tables)
    if int(alone.max()) >= MOST_KINDS:  # hops only split kinds further
        return f"the classes are of more than {MOST_KINDS} kinds"
    pairs = class_pair_tables(tables)
    words = pair_words(pairs)
    if len(np.unique(words[0])) > MOST_HOPS:
        return f"one class alone sees more than {MOST_HOPS} different hops"
    _, ids = np.unique(words, return_inverse=True)
    ids = ids.reshape(words.shape).astype(np.int64)
    if int(ids.max()) >= 4 * MOST_HOPS:
        return f"there are more than {4 * MOST_HOPS} different hops"
    colours = _refined(alone, ids, int(ids.max()) + 1)
    if colours is None:
        return f"the classes are of more than {MOST_KINDS} kinds"
    partitions = _units(_distance(tables), colours)
    if isinstance(partitions, str):
        return partitions
    unit, level = _numbered(partitions)
    together = ids * len(unit) + level
    colours = _refined(colours, together, (int(ids.max()) + 1) * len(unit))
    if colours is None:
        return f"the classes are of more than {MOST_KINDS} kinds"
    return _checked(colours, unit, level, pairs)


def _own_colours(tables: ClassTables) -> IntArray:
    """Return one number per class, equal where everything but the hops to other classes is equal."""
    columns = [tables.room[:, None], tables.latency.prefix, tables.cycle.prefix, tables.price[:, None]]
    alone = _numbers_of([*columns, tables.counts[:, None]])
    if int(alone.max()) >= MOST_KINDS:  # many already: no need for the hops inside classes
        return alone
    inner = np.stack([np.diag(table) for table in class_pair_tables(tables)], axis=1)
    return _numbers_of([alone[:, None], inner])


def _numbers_of(columns: list[NDArray[Any]]) -> IntArray:
    """Return one number per row, equal where all columns are."""
    rows = np.concatenate([np.nan_to_num(c, nan=-1.0, posinf=-2.0) for c in columns], axis=1)
    return _numbers([row.tobytes() for row in rows])


def _numbers(keys: list[bytes]) -> IntArray:
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def _refined(colours: IntArray, ids: IntArray, count: int) -> IntArray | None:
    """Split colours until equal ones see the same set of (hop forth, hop back, colour); None: too many."""
    num = len(colours)
    rows = np.repeat(np.arange(num), num)
    while True:
        kinds = int(colours.max()) + 1
        if kinds > MOST_KINDS or count * kinds * num > 2e8:
            return None
        seen = np.zeros((num, 2 * count * kinds), dtype=np.bool_)
        forth, back = ids * kinds + colours, ids.T * kinds + colours
        seen[rows, forth.ravel()] = True
        seen[rows, (back + count * kinds).ravel()] = True
        packed = np.packbits(seen, axis=1)
        refined = _numbers([bytes([int(c)]) + row.tobytes() for c, row in zip(colours, packed, strict=True)])
        if int(refined.max()) + 1 == kinds:
            return colours
        colours = refined


def _distance(tables: ClassTables) -> FloatArray:
    """Return how long a hop of mean size takes, the longer direction, s; shape (C, C)."""
    timing = tables.latency
    mean = float(timing.boundary[1:].mean())
    far = timing.hop_s + mean * timing.hop_s_per_byte
    return np.maximum(far, far.T)


def _units(far: FloatArray, colours: IntArray) -> list[IntArray] | str:
    """Return partitions into units from the cluster down; no pair in an innermost unit is nearer than its kinds allow.

    A pair that is nearer than the farthest pair of its kinds, inside a unit, belongs together one level further down.
    """
    order = np.argsort(colours, kind="stable")
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(colours[order])) + 1])
    units = np.zeros(len(colours), dtype=np.int64)
    found = [units]
    while len(found) <= MOST_LEVELS:
        same = units[:, None] == units[None, :]
        np.fill_diagonal(same, False)
        inside = np.where(same, far, -np.inf)
        sums = np.maximum.reduceat(np.maximum.reduceat(inside[np.ix_(order, order)], cuts, axis=0), cuts, axis=1)
        near = same & (far < sums[np.ix_(colours, colours)])
        if not near.any():
            return found
        split = _components(near)
        if len(np.unique(split)) == len(np.unique(units)):
            return "hops inside a unit follow no hierarchy"
        units = split
        found.append(units)
    return f"the units are nested more than {MOST_LEVELS} deep"


def _components(near: NDArray[np.bool_]) -> IntArray:
    """Return the least class of each connected component."""
    labels = np.arange(len(near))
    both = near | near.T
    while True:
        least = np.minimum(labels, np.where(both, labels[None, :], len(near)).min(axis=1))
        least = least[least]
        if (least == labels).all():
            return labels
        labels = least


def _numbered(partitions: list[IntArray]) -> tuple[IntArray, IntArray]:
    """Return units by level, innermost first, and the level of every pair."""
    num = len(partitions[0])
    singles = len(np.unique(partitions[-1])) == num and len(partitions) > 1
    nested = partitions[:-1] if singles else partitions
    unit = np.array([np.arange(num), *nested[::-1]], dtype=np.int64)
    level = np.full((num, num), len(unit) - 1, dtype=np.int64)
    for number in range(len(unit) - 2, -1, -1):
        level[unit[number][:, None] == unit[number][None, :]] = number
    return unit, level


def _checked(kind: IntArray, unit: IntArray, level: IntArray, pairs: list[FloatArray]) -> Hierarchy | str:
    """Return the hierarchy when every table is a function of level and kinds."""
    num, kinds = len(kind), int(kind.max()) + 1
    key = ((level * kinds + kind[:, None]) * kinds + kind[None, :]).ravel()
    example = np.full(len(unit) * kinds * kinds, -1, dtype=np.int64)
    example[key] = np.arange(num * num)
    for table in pairs:
        flat = table.ravel()
        if not (flat == flat[example[key]]).all():
            return "hops between alike classes differ within one level"
    return Hierarchy(kind, unit, level, example.reshape(len(unit), kinds, kinds))
