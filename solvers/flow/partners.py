"""What nodes of a group pass at most when each needs partners: real links, not the widest for every one of them.

How many nodes of which groups (alike but for their links) stand on the other side of a boundary is known, not which.
With x_i the most that links give node i and T_i what it passes, they let over Σ_i min(T_i, x_i). Which node has which T
is open too: the sum is greatest when the k-th best links go with the k-th largest T, since min(T, x) has increasing
differences. So with x₍₁₎ ≥ x₍₂₎ ≥ … of *all* nodes of the group, the n on this side pass at most Σ_k min(T₍ₖ₎, x₍ₖ₎).

x_i is Σ over groups h of the other side of the sum of i's m_h widest links to nodes of h. Where few choices of m_h
nodes exist, all are tried, and the best of them is taken for all nodes of this side together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray

#: Choices of nodes on the other side that are tried one by one.
MOST_CHOICES = 16
#: Allowance for sums in double precision, of the largest of them.
ROUNDING = 1e-13

#: By side and region whether nodes count, a column for each answer.
Asked = Sequence[FloatArray]


class Partners:
    """Nodes on one side of a boundary, limited by their links to the other.

    Parameters
    ----------
    links
        Capacities from nodes of this side to nodes of the other (or from those to these, turned), ticks, shape (n, n).
    groups
        Nodes of each group.
    group_of
        Group of each item.
    value
        What a node of each item passes, ticks.
    region_of
        Region of each group.
    """

    def __init__(
        self,
        links: FloatArray,
        groups: Sequence[IntArray],
        group_of: IntArray,
        value: IntArray,
        region_of: IntArray,
        target: int,
    ) -> None:
        self._links = links
        self._groups = groups
        self._group_of = group_of
        self._value = value.astype(np.float64)
        self._target = target
        ahead = (value[:, None] > value[None, :]) | ((value[:, None] == value[None, :]) & _not_after(len(value)))
        self._ranked = ((group_of[:, None] == group_of[None, :]) & ahead).astype(np.int64)
        self._within = (region_of[group_of][:, None] == np.arange(int(region_of.max()) + 1)).astype(np.float64)
        self._most = max((len(nodes) for nodes in groups), default=0)
        self._tables: dict[tuple[int, ...], FloatArray] = {}

    def passed(
        self, sides: Sequence[tuple[IntArray, IntArray]], others: tuple[IntArray, IntArray], asked: Asked
    ) -> IntArray:
        """Return the most that some nodes of this side pass, ticks, shape (N, answers).

        Parameters
        ----------
        sides
            Nodes by item, in one or more manners of counting them: rows (·, I), and which each of N cases has.
        others
            Nodes of the other side by group: rows (·, G), and which each case has.
        asked
            For each of `sides` the regions whose nodes count, (R, answers), 0 or 1.
        """
        found = np.zeros((len(others[1]), asked[0].shape[1]))
        distinct, at = np.unique(others[0], axis=0, return_inverse=True)
        at = at.ravel()[others[1]]
        order = np.argsort(at, kind="stable")
        ends = np.cumsum(np.bincount(at, minlength=len(distinct)))
        for number, counts in enumerate(distinct.tolist()):
            cases = order[ends[number - 1] if number else 0 : ends[number]]
            tables = self._choices(tuple(counts))
            parts = [
                self._shares(tables, rows, which[cases], ask) for (rows, which), ask in zip(sides, asked, strict=True)
            ]
            found[cases] = sum(parts[1:], start=parts[0]).max(axis=0)
        ticks: IntArray = np.minimum(np.ceil(np.minimum(found, 2.0**61)).astype(np.int64), self._target)
        return ticks

    def _shares(self, tables: FloatArray, rows: IntArray, which: IntArray, asked: FloatArray) -> FloatArray:
        """Return what nodes pass by choice of partners, case and answer: those of an item have consecutive ranks."""
        distinct, at = np.unique(which, return_inverse=True)
        count = rows[distinct]
        last = np.minimum(count @ self._ranked, self._most)
        items = np.arange(len(self._value))
        upper, lower = tables[:, items, last], tables[:, items, np.maximum(last - count, 0)]
        by_item = np.where(count > 0, upper - lower + ROUNDING * upper, 0.0)
        shares: FloatArray = (by_item @ (self._within @ asked))[:, at]
        return shares

    def _choices(self, counts: tuple[int, ...]) -> FloatArray:
        """Return, for every choice of partners, Σ over the best k nodes of min(T, links) by item and k."""
        if counts not in self._tables:
            self._tables[counts] = np.stack([self._summed(links) for links in self._chosen(counts)])
        return self._tables[counts]

    def _chosen(self, counts: tuple[int, ...]) -> Iterator[FloatArray]:
        """Yield what links give every node, for every choice of partners."""
        groups = [h for h, count in enumerate(counts) if count]
        groups.sort(key=lambda h: math.comb(len(self._groups[h]), counts[h]))
        tried: list[Iterator[tuple[int, ...]]] = []
        widest, choices = np.zeros(len(self._links)), 1
        for h in groups:
            nodes, count = self._groups[h], counts[h]
            choices *= math.comb(len(nodes), count)
            if choices <= MOST_CHOICES:
                tried.append(itertools.combinations(nodes.tolist(), count))
            else:
                widest = widest + np.sort(self._links[:, nodes], axis=1)[:, ::-1][:, :count].sum(axis=1)
        for chosen in itertools.product(*tried):
            yield widest + self._links[:, list(itertools.chain.from_iterable(chosen))].sum(axis=1)

    def _summed(self, links: FloatArray) -> FloatArray:
        table = np.zeros((len(self._value), self._most + 1))
        for group, nodes in enumerate(self._groups):
            items = np.flatnonzero(self._group_of == group)
            best = np.sort(links[nodes])[::-1]
            sums = np.cumsum(np.minimum(self._value[items, None], best), axis=1)
            table[items, 1 : len(nodes) + 1] = sums
            table[items, len(nodes) + 1 :] = sums[:, -1:]
        return table


def _not_after(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.arange(size)[:, None] <= np.arange(size)[None, :]
