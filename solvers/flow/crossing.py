"""How much of a flow can be in which regions, layer by layer: what slow links between regions let over.

Nodes of a region are joined by links that cannot bind; x_r is the flow inside region r on a layer. At a boundary only
nodes that *end* there send, to nodes that hold the next layer. What is possible is kept as the set function

    ρ(B) = the most flow that can be in the regions of B,

a minimum cut, so the flows x possible are those with x(B) ≤ ρ(B). With C_b the coverage of the next layer by region b,
the cut of a boundary gives

    ρ'(B) = min over S of ρ(S^c) + Σ_{b ∈ B∩S} C_b + Y(S, B∖S),

S the regions whose flow the cut leaves uncut before the boundary, Y(S, Z) what the ended nodes of S send into Z: with
E_a the throughput of the nodes of a that end, the least of

    Σ_{a ∈ S∖A} E_a + Σ over nodes of Z of min(what they pass, their links from nodes of A),    A ⊆ S,
    Σ_{b ∈ Z∖T} C_b + Σ over nodes of S of min(what they pass, their links to nodes of T),      T ⊆ Z.

Which nodes of a group (alike but for their links) hold and end is open, so links are the widest: n nodes of group g and
m of h have U_gh(n, m) together, one of h from n of g U_gh(n, 1), and the nodes of h together no more than Σ_g U_gh.
Inside a region flow may move between nodes at will, so every ρ is an upper bound: where ρ(all regions) is below a
target, no placement that looks like this reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FlowProblem, IntArray
from gpuplan.solvers.flow.instance import Items

#: Rows of a table of links all of whose subsets are tried.
MOST_ROWS = 10


class Crossing:
    """Set functions ρ for one target; sets of regions are bit masks, ρ has a column for each mask from 1 on.

    Rows that come in count nodes by item, a group with a number of layers and what a node then passes.

    Parameters
    ----------
    problem
        Its kinds are the groups: nodes of equal throughput in the same region.
    regions
        Region of each group.
    items
        Ranges by group and worth (ticks); their target is F.
    tokens_per_tick
        Tokens/s a tick stands for.
    """

    def __init__(self, problem: FlowProblem, regions: Sequence[int], items: Items, tokens_per_tick: float) -> None:
        self.target = items.target
        self.regions = np.array(regions, dtype=np.int64)
        self.num_regions = int(self.regions.max()) + 1
        self.columns = 2**self.num_regions - 1
        self._items = [np.flatnonzero(items.kind == g) for g in range(len(regions))]
        self._value = items.value
        self._tick = tokens_per_tick
        groups = [np.flatnonzero(problem.node_kinds == g) for g in range(len(regions))]
        self._links = self._between(problem, groups)
        source = self._ends(problem.source_tokens_per_s, groups)[items.kind]
        sink = self._ends(problem.sink_tokens_per_s, groups)[items.kind]
        within = self.regions[items.kind][:, None] == np.arange(self.num_regions)
        self._worth: IntArray = within * items.value[:, None]
        self._from_source: IntArray = within * np.minimum(items.value, source)[:, None]
        self._to_sink: IntArray = within * np.minimum(items.value, sink)[:, None]

    def from_source(self, covers: IntArray) -> IntArray:
        """Return ρ on layer 0 for rows of the nodes that hold it."""
        room = self._sums(covers @ self._from_source)
        return np.stack([np.minimum(room[mask], self.target) for mask in self._masks()], axis=1)

    def to_sink(self, rho: IntArray, ended: IntArray) -> IntArray:
        """Return what reaches the sink for rows of nodes that end with the last layer."""
        room = self._sums(ended @ self._to_sink)
        full = self.columns
        best: IntArray = np.minimum(rho[:, full - 1], room[full])
        for mask in range(1, full):
            best = np.minimum(best, rho[:, mask - 1] + room[full & ~mask])
        return best

    def step(self, rho: IntArray, rows: IntArray, ended: IntArray, covers: IntArray) -> IntArray:
        """Return ρ after a boundary.

        Parameters
        ----------
        rho
            ρ before it, ticks, shape (N, 2^R−1).
        rows
            Nodes by item, shape (·, I).
        ended, covers
            Numbers of rows: of the nodes that end there, and of those that hold the next layer; shape (N,).
        """
        pairs, at = np.unique(ended * len(rows) + covers, return_inverse=True)
        let_over = self._let_over(rows[pairs // len(rows)], rows[pairs % len(rows)])
        uncut = [np.zeros(len(rho), dtype=np.int64), *rho.T]
        after = np.full(rho.shape, self.target, dtype=np.int64)
        for (inside, into), least in let_over.items():
            np.minimum(after[:, into - 1], uncut[self.columns & ~inside] + least[at], out=after[:, into - 1])
        return after

    def _let_over(self, ended: IntArray, covers: IntArray) -> dict[tuple[int, int], IntArray]:
        """Return what regions B can hold of what regions S had, by (S, B): coverage where shared, else what crosses."""
        full = self.columns
        sent, room = self._sums(ended @ self._worth), self._sums(covers @ self._worth)
        pairs = {(a, b) for a in range(full + 1) for b in _subsets(full & ~a)}
        links = {(g, h): (self._count(ended, g), self._count(covers, h)) for g, h in self._links}
        taken = {(a, b): self._taken(covers, links, self._members(a), self._members(b)) for a, b in pairs}
        given = {(a, b): self._given(ended, links, self._members(a), self._members(b)) for a, b in pairs}
        over = {}
        for a, b in pairs:
            cuts = [sent[a & ~some] + taken[some, b] for some in _subsets(a)]
            cuts += [given[a, some] + room[b & ~some] for some in _subsets(b)]
            over[a, b] = np.minimum.reduce(cuts)
        return {(a, b): room[a & b] + over[a, b & ~a] for a in range(full + 1) for b in self._masks()}

    def _taken(self, covers: IntArray, counts: Counts, senders: Sequence[int], receivers: Sequence[int]) -> IntArray:
        """Return Σ over receiving nodes of the lesser of what they pass and what senders have links for."""
        parts = []
        for h in receivers if senders else ():
            one = self._sum([self._links[g, h][counts[g, h][0], 1] for g in senders])
            together = self._sum([self._links[g, h][counts[g, h]] for g in senders])
            parts.append(np.minimum(self._passed(covers, h, one), together))
        return self._sum([np.zeros(len(covers), dtype=np.int64), *parts])

    def _given(self, ended: IntArray, counts: Counts, senders: Sequence[int], receivers: Sequence[int]) -> IntArray:
        """Return Σ over sending nodes of the lesser of what they pass and what they have links for to receivers."""
        parts = []
        for g in senders if receivers else ():
            one = self._sum([self._links[g, h][1, counts[g, h][1]] for h in receivers])
            together = self._sum([self._links[g, h][counts[g, h]] for h in receivers])
            parts.append(np.minimum(self._passed(ended, g, one), together))
        return self._sum([np.zeros(len(ended), dtype=np.int64), *parts])

    def _sum(self, parts: Sequence[IntArray]) -> IntArray:
        """Return the sum, the target at most: 64 bits hold more only where groups are few."""
        total = parts[0]
        for part in parts[1:]:
            total = np.minimum(total + part, self.target)
        return total

    def _count(self, rows: IntArray, group: int) -> IntArray:
        """Return the nodes of a group."""
        count: IntArray = rows[:, self._items[group]].sum(axis=1)
        return count

    def _passed(self, rows: IntArray, group: int, most: IntArray) -> IntArray:
        """Return what the nodes of a group pass, `most` (N,) each at most."""
        items = self._items[group]
        passed: IntArray = (rows[:, items] * np.minimum(self._value[items], most[:, None])).sum(axis=1)
        return passed

    def _between(self, problem: FlowProblem, groups: Sequence[IntArray]) -> dict[tuple[int, int], IntArray]:
        """Return U as tables by counts of senders and receivers, for groups of different regions."""
        tables = {}
        for g, senders in enumerate(groups):
            for h, receivers in enumerate(groups):
                if self.regions[g] != self.regions[h]:
                    links = self._ticks(problem.link_tokens_per_s[np.ix_(senders, receivers)])
                    widest = np.minimum(_largest(links), _largest(links.T).T)
                    tables[g, h] = np.minimum(widest, self.target)
        return tables

    def _ends(self, capacity: np.ndarray[tuple[int], np.dtype[np.float64]], groups: Sequence[IntArray]) -> IntArray:
        """Return the widest link to an end of any node of each group, ticks."""
        return np.array([int(self._ticks(capacity[nodes]).max(initial=0)) for nodes in groups], dtype=np.int64)

    def _ticks(self, tokens: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> IntArray:
        # No flow exceeds the target, so wider links are as good as the target.
        capped = np.minimum(tokens / self._tick, float(self.target))
        ticks: IntArray = np.minimum(np.ceil(capped * (1.0 + 1e-12)).astype(np.int64), self.target)
        return ticks

    def _members(self, mask: int) -> list[int]:
        return [g for g, region in enumerate(self.regions.tolist()) if mask >> region & 1]

    def _sums(self, by_region: IntArray) -> list[IntArray]:
        """Return the sums over every set of regions, by mask."""
        chosen = [[r for r in range(self.num_regions) if mask >> r & 1] for mask in range(self.columns + 1)]
        return [by_region[:, some].sum(axis=1) for some in chosen]

    def _masks(self) -> range:
        return range(1, self.columns + 1)


#: Senders and receivers, each (N,), by their groups.
Counts = Mapping[tuple[int, int], tuple[IntArray, IntArray]]


def _subsets(mask: int) -> list[int]:
    """Return the subsets of a bit mask, the empty one included."""
    found, subset = [], mask
    while True:
        found.append(subset)
        if subset == 0:
            return found
        subset = (subset - 1) & mask


def _largest(links: IntArray) -> IntArray:
    """Return the most that n rows and m columns have together, by n and m; of many rows a bound on it."""
    rows, columns = links.shape
    table = np.zeros((rows + 1, columns + 1))
    exact = links.astype(np.float64)
    if rows <= MOST_ROWS:
        for some in range(1, 2**rows):
            chosen = [row for row in range(rows) if some >> row & 1]
            widest = np.cumsum(np.sort(exact[chosen].sum(axis=0))[::-1])
            table[len(chosen), 1:] = np.maximum(table[len(chosen), 1:], widest)
    else:
        ranked = np.sort(np.cumsum(np.sort(exact, axis=1)[:, ::-1], axis=1), axis=0)[::-1]
        table[1:, 1:] = np.cumsum(ranked, axis=0)
    widest_ticks: IntArray = np.ceil(np.minimum(table, 2.0**60) * (1.0 + 1e-12)).astype(np.int64)
    return widest_ticks
