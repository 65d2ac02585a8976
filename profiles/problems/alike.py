"""Units that trade places without changing a number: equal keys, equal rows and columns of every pair table.

a and b are alike when swapping them leaves every table as it is. With v = the entry between them put on their
diagonals that means equal rows and equal columns, so hashes of rows find the candidates for each value v at once;
every group is then confirmed on the numbers themselves, and a hash that lied costs time, never truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.hops import FloatArray, IntArray

_Words = NDArray[np.uint64]
_ROW, _COLUMN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
#: More values between the units of a group than this are compared one by one.
_MOST_VALUES = 64
#: Rows, and rows and columns, worked on together: temporary arrays stay in the cache.
_BLOCK, _TILE = 32, 256


def alike(
    tables: Sequence[FloatArray], keys: Sequence[bytes], counts: IntArray | None = None, *, merge: bool = False
) -> IntArray:
    """Return for each unit the first unit alike (itself for most), shape (U,).

    Parameters
    ----------
    tables
        Numbers of every ordered pair of units, shape (U, U) each.
    keys
        Units are compared only where these are equal.
    counts
        Devices of each unit, shape (U,); a diagonal entry counts where there are two or more. None: one each.
    merge
        Whether alike units must also look inside as they look to each other, so that all of their devices are
        exchangeable; otherwise the units trade places whole, and the diagonal is left to the keys.

    Notes
    -----
    O(U²) a table, on top of O(g²) for a group of g units of equal keys. Thousands of units whose hops all differ are
    told apart by the extremes of their hops, in a tenth of the time that hashes of all of them take.
    """
    size = len(keys)
    if len(set(keys)) < size:
        keys = [key + row.tobytes() for key, row in zip(keys, _extremes(tables, size), strict=True)]
    several = np.zeros(size, dtype=bool) if counts is None else counts > 1
    leader = np.arange(size)
    places: dict[bytes, list[int]] = {}
    for unit, key in enumerate(keys):
        places.setdefault(key, []).append(unit)
    chosen = np.array([unit for group in places.values() if len(group) > 1 for unit in group], dtype=np.int64)
    if not len(chosen):
        return leader
    bound = several if merge else np.zeros(size, dtype=bool)
    rows = _Rows(tables, np.sort(chosen), bound, counts if merge else None)
    for group in rows.candidates(keys):
        for members in rows.split(group):
            if rows.confirmed(members):
                leader[members] = members[0]
            else:
                _one_by_one(tables, members, several if merge else None, leader)
    return leader


def _extremes(tables: Sequence[FloatArray], size: int) -> FloatArray:
    """Return the least and the largest hop out of and into each unit, which alike units share, shape (U, 4·tables)."""
    found = []
    for table in tables:
        least, largest = np.full((2, size), np.inf), np.full((2, size), -np.inf)
        for begin in range(0, size, _BLOCK):
            rows = np.arange(begin, min(begin + _BLOCK, size))
            block = table[rows]
            for extremes, join, none in ((least, np.minimum, np.inf), (largest, np.maximum, -np.inf)):
                block[rows - begin, rows] = none  # a unit's own entry counts for nothing here
                extremes[0, rows] = join.reduce(block, axis=1)
                join(extremes[1], join.reduce(block, axis=0), out=extremes[1])
        found += [*least, *largest]
    return np.stack(found, axis=1) + 0.0 if found else np.zeros((size, 0))  # + 0.0: no negative zeros


class _Rows:
    """Hashes of the rows and columns of some units, made block by block.

    Attributes
    ----------
    inside
        What devices of one unit see of each other.
    sums
        Rows and columns in their order, the unit's own entry left out, shape (units,).
    multisets
        The same in any order, every unit as often as it has devices.
    """

    def __init__(
        self, tables: Sequence[FloatArray], units: IntArray, bound: NDArray[np.bool_], counts: IntArray | None
    ) -> None:
        self.tables, self.units, self.bound = tables, units, bound
        self.place = {int(unit): k for k, unit in enumerate(units)}
        self.symmetric = all(map(symmetric, tables))
        size = len(bound)
        self.salt = _mix(np.arange(size, dtype=np.uint64) + _COLUMN) | np.uint64(1)
        self.forth = np.empty((len(units), size), dtype=np.uint64)
        self.inside, self.sums, self.multisets = np.empty((3, len(units)), dtype=np.uint64)
        weights = None if counts is None else counts.astype(np.uint64)
        for begin in range(0, len(units), _BLOCK):
            self._hash(slice(begin, begin + _BLOCK), weights)

    def _hash(self, block: slice, counts: _Words | None) -> None:
        units = self.units[block]
        own = np.arange(len(units)), units
        self.forth[block] = pair_words([table[units] for table in self.tables])
        forth = self.forth[block]
        back = forth if self.symmetric else pair_words([table[:, units].T for table in self.tables])
        both = _joined(forth, back)
        self.inside[block] = forth[own]
        both[own] = 0
        self.sums[block] = both @ self.salt
        each = _mix(both ^ _COLUMN)
        each[own] = 0
        if counts is None:
            self.multisets[block] = each.sum(axis=1, dtype=np.uint64)
            return
        inside = self.inside[block]
        once = np.where(self.bound[units], _mix(_joined(inside, inside) ^ _COLUMN), np.uint64(0))
        self.multisets[block] = each @ counts + once * (counts[units] - np.uint64(1))

    def candidates(self, keys: Sequence[bytes]) -> list[IntArray]:
        """Return groups of units with equal keys whose rows hold the same numbers in some order."""
        found: dict[tuple[bytes, int], list[int]] = {}
        for unit, value in zip(self.units.tolist(), self.multisets.tolist(), strict=True):
            found.setdefault((keys[unit], value), []).append(unit)
        return [np.array(group, dtype=np.int64) for group in found.values() if len(group) > 1]

    def split(self, group: IntArray) -> list[IntArray]:
        """Return sets of units of a group that look alike with some value between them."""
        rows = np.array([self.place[int(unit)] for unit in group])
        between = self.forth[np.ix_(rows, group)]
        equal = between == between.T
        np.fill_diagonal(equal, False)
        values = np.unique(between[equal])
        if len(values) > _MOST_VALUES:
            return [group]
        left, found = np.ones(len(group), dtype=bool), []
        for value in values:
            able = left & (~self.bound[group] | (self.inside[rows] == value))
            sums = self.sums[rows] + _joined(value, value) * self.salt[group]
            sets: dict[int, list[int]] = {}
            for k in np.flatnonzero(able):
                sets.setdefault(int(sums[k]), []).append(int(k))
            for members in sets.values():
                if len(members) > 1:
                    left[members] = False
                    found.append(group[members])
        return found

    def confirmed(self, members: IntArray) -> bool:
        """Return whether the numbers bear out that all of `members` are alike."""
        first = members[0]
        outside = np.ones(len(self.bound), dtype=bool)
        outside[members] = False
        bound = np.flatnonzero(self.bound[members])
        for table in self.tables:
            inner = table[np.ix_(members, members)]
            value = inner[0, 1]
            off = inner.copy()
            np.fill_diagonal(off, value)
            if not (off == value).all() or not (inner[bound, bound] == value).all():
                return False
            rows, columns = table[members][:, outside], table[:, members][outside]
            if not (rows == table[first, outside]).all() or not (columns == table[outside, first][:, None]).all():
                return False
        return True


def swappable(tables: Sequence[FloatArray], a: int, b: int) -> bool:
    """Return whether swapping a and b leaves every pair table unchanged, the diagonal aside."""
    for table in tables:
        if table[a, b] != table[b, a]:
            return False
        for first, second in ((table[a], table[b]), (table[:, a], table[:, b])):
            same = first == second
            same[a] = same[b] = True
            if not same.all():
                return False
    return True


def symmetric(table: FloatArray) -> bool:
    """Whether a table equals its transpose, tile by tile: both fit the cache."""
    starts = range(0, len(table), _TILE)
    tiles = ((slice(a, a + _TILE), slice(b, b + _TILE)) for a in starts for b in starts if b <= a)
    return all(np.array_equal(table[rows, columns], table[columns, rows].T) for rows, columns in tiles)


def _one_by_one(
    tables: Sequence[FloatArray], members: IntArray, several: NDArray[np.bool_] | None, leader: IntArray
) -> None:
    """Compare every unit with the first of each set found so far."""
    firsts: list[int] = []
    for unit in members.tolist():
        for first in firsts:
            bound = [] if several is None else [u for u in (first, unit) if several[u]]
            inside = all(table[u, u] == table[first, unit] for u in bound for table in tables)
            if inside and swappable(tables, first, unit):
                leader[unit] = first
                break
        else:
            firsts.append(unit)


def pair_words(tables: Sequence[FloatArray]) -> _Words:
    """Return one hash of the numbers of all tables at each place."""
    words = np.zeros(tables[0].shape if tables else (0, 0), dtype=np.uint64)
    for table in tables:
        words = _mix(words ^ np.ascontiguousarray(table + 0.0).view(np.uint64))  # + 0.0: no negative zeros
    return words


def _joined(forth: _Words | np.uint64, back: _Words | np.uint64) -> _Words:
    with np.errstate(over="ignore"):
        joined: _Words = np.asarray(forth * _ROW + _mix(np.asarray(back) ^ _COLUMN))
    return joined


def _mix(words: _Words) -> _Words:
    """Splitmix64's finaliser."""
    words = words ^ (words >> np.uint64(30))
    words = words * np.uint64(0xBF58476D1CE4E5B9)
    words = words ^ (words >> np.uint64(27))
    words = words * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
