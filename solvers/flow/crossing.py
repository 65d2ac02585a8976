"""How much of a flow can be in which regions, layer by layer: what slow links between regions let over.

Nodes of a region are joined by links that cannot bind; x_r is the flow inside region r on a layer. At a boundary only
nodes that *end* there send, to nodes that hold the next layer, so between regions a and b go at most

    Y_ab = Σ over groups g of a, h of b of U_gh(ended nodes of g, holding nodes of h),

U_gh(n, m) the most that n nodes of g and m of h have links for: the lesser of the n largest sums of m links in a row
and the m largest sums of n links in a column. What is possible is kept as the set function

    ρ(B) = the most flow that can be in the regions of B,

a minimum cut, so the flows x possible are those with x(B) ≤ ρ(B). With C_b the coverage of the next layer by region b
and E_a the throughput of the nodes of a that end, the cut of a boundary gives

    ρ'(B) = min over S, T ⊆ B∖S of ρ(S^c) + Σ_{b ∈ B∖T} C_b + Σ_{a ∈ S} min(E_a, Σ_{b ∈ T} Y_ab),

S the regions whose flow the cut leaves uncut before the boundary. Inside a region flow may move between nodes at will,
so every ρ is an upper bound: where ρ(all regions) is below a target, no placement that looks like this reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FlowProblem, IntArray


class Crossing:
    """Set functions ρ for one target; sets of regions are bit masks, ρ has a column for each mask from 1 on.

    Parameters
    ----------
    problem
        Its kinds are the groups: nodes of equal throughput in the same region.
    regions
        Region of each group.
    target
        F, ticks.
    tokens_per_tick
        Tokens/s a tick stands for.
    """

    def __init__(self, problem: FlowProblem, regions: Sequence[int], target: int, tokens_per_tick: float) -> None:
        self.target = target
        self.regions = np.array(regions, dtype=np.int64)
        self.num_regions = int(self.regions.max()) + 1
        self.columns = 2**self.num_regions - 1
        groups = [np.flatnonzero(problem.node_kinds == g) for g in range(len(regions))]
        self._tick = tokens_per_tick
        self._links = self._between(problem, groups)
        self._source = self._ends(problem.source_tokens_per_s, groups)
        self._sink = self._ends(problem.sink_tokens_per_s, groups)

    def from_source(self, covers: IntArray) -> IntArray:
        """Return ρ on layer 0 for cover rows (holding nodes by group, then coverage by region)."""
        groups = len(self.regions)
        links = self._by_region(covers[:, :groups], self._source)
        room = np.minimum(covers[:, groups:], links)
        return np.stack([np.minimum(self._sum(room, mask), self.target) for mask in self._masks()], axis=1)

    def to_sink(self, rho: IntArray, ended: IntArray) -> IntArray:
        """Return what reaches the sink from nodes that end with the last layer, rows as in `step`."""
        groups = len(self.regions)
        room = np.minimum(ended[:, groups:], self._by_region(ended[:, :groups], self._sink))
        full = self.columns
        best = np.minimum(rho[:, full - 1], self._sum(room, full))
        for mask in range(1, full):
            best = np.minimum(best, rho[:, mask - 1] + self._sum(room, full & ~mask))
        return best

    def step(self, rho: IntArray, ended: IntArray, covers: IntArray) -> IntArray:
        """Return ρ after a boundary.

        Parameters
        ----------
        rho
            ρ before it, ticks, shape (N, 2^R−1).
        ended, covers
            Rows of nodes by group, then ticks by region: of the nodes that end there, and of those that hold the next
            layer; shape (N, G+R).
        """
        groups, full = len(self.regions), self.columns
        over = self._over(ended, covers)
        room = covers[:, groups:]
        uncut = [np.zeros(len(rho), dtype=np.int64), *rho.T]
        before = [self._sum(room, mask) for mask in range(full + 1)]
        after = np.full(rho.shape, self.target, dtype=np.int64)
        for inside in range(full + 1):
            outside = full & ~inside
            # Sets T with what the links let over into them; a set B then pays C for the rest of it.
            for cut in _subsets(outside):
                crossed = uncut[outside] + over[cut, inside]
                for rest in _subsets(full & ~cut):
                    if cut | rest:
                        column = (cut | rest) - 1
                        np.minimum(after[:, column], crossed + before[rest], out=after[:, column])
        return after

    def _over(self, ended: IntArray, covers: IntArray) -> dict[tuple[int, int], IntArray]:
        """Return Σ_{a ∈ S} min(E_a, Σ_{b ∈ T} Y_ab) by (T, S), T and S disjoint."""
        groups, full = len(self.regions), self.columns
        pairs: dict[tuple[int, int], IntArray] = {}
        for a in range(self.num_regions):
            for b in range(self.num_regions):
                if a != b:
                    pairs[a, b] = self._between_regions(a, b, ended, covers)
        zero = np.zeros(len(ended), dtype=np.int64)
        sent: dict[tuple[int, int], IntArray] = {}
        for a in range(self.num_regions):
            for cut in _subsets(full & ~(1 << a)):
                links = zero + sum(pairs[a, b] for b in range(self.num_regions) if cut >> b & 1)
                sent[a, cut] = np.minimum(ended[:, groups + a], links)
        return {
            (cut, inside): zero + sum(sent[a, cut] for a in range(self.num_regions) if inside >> a & 1)
            for inside in range(full + 1)
            for cut in _subsets(full & ~inside)
        }

    def _between_regions(self, a: int, b: int, ended: IntArray, covers: IntArray) -> IntArray:
        total = np.zeros(len(ended), dtype=np.int64)
        for g in np.flatnonzero(self.regions == a).tolist():
            for h in np.flatnonzero(self.regions == b).tolist():
                total = np.minimum(total + self._links[g, h][ended[:, g], covers[:, h]], self.target)
        return total

    def _between(self, problem: FlowProblem, groups: Sequence[IntArray]) -> dict[tuple[int, int], IntArray]:
        """Return U as tables by counts of senders and receivers, for groups of different regions."""
        tables = {}
        for g, senders in enumerate(groups):
            for h, receivers in enumerate(groups):
                if self.regions[g] != self.regions[h]:
                    links = self._ticks(problem.link_tokens_per_s[np.ix_(senders, receivers)])
                    tables[g, h] = np.minimum(_largest(links), _largest(links.T).T)
        return tables

    def _ends(self, capacity: np.ndarray[tuple[int], np.dtype[np.float64]], groups: Sequence[IntArray]) -> IntArray:
        """Return the widest link to an end of any node of each group, ticks."""
        return np.array([int(self._ticks(capacity[nodes]).max(initial=0)) for nodes in groups], dtype=np.int64)

    def _ticks(self, tokens: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> IntArray:
        # No flow exceeds the target, so wider links are as good as the target.
        capped = np.minimum(tokens / self._tick, float(self.target))
        ticks: IntArray = np.minimum(np.ceil(capped * (1.0 + 1e-12)).astype(np.int64), self.target)
        return ticks

    def _by_region(self, nodes: IntArray, links: IntArray) -> IntArray:
        """Return, by region, what the links to an end carry of some nodes of each group."""
        capped = np.minimum(nodes * links.astype(np.float64), float(self.target)).astype(np.int64)
        member = self.regions[:, None] == np.arange(self.num_regions)
        return np.stack([capped[:, member[:, r]].sum(axis=1) for r in range(self.num_regions)], axis=1)

    def _sum(self, by_region: IntArray, mask: int) -> IntArray:
        chosen = [r for r in range(self.num_regions) if mask >> r & 1]
        total: IntArray = by_region[:, chosen].sum(axis=1)
        return total

    def _masks(self) -> range:
        return range(1, self.columns + 1)


def _subsets(mask: int) -> list[int]:
    """Return the subsets of a bit mask, the empty one included."""
    found, subset = [], mask
    while True:
        found.append(subset)
        if subset == 0:
            return found
        subset = (subset - 1) & mask


def _largest(links: IntArray) -> IntArray:
    """Return the n largest sums of the m largest entries in a row, by n and m."""
    rows, columns = links.shape
    table = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    widest = np.cumsum(np.sort(links, axis=1)[:, ::-1].astype(np.float64), axis=1)
    ranked = np.sort(widest, axis=0)[::-1]
    table[1:, 1:] = np.ceil(np.minimum(np.cumsum(ranked, axis=0), 2.0**60) * (1.0 + 1e-12))
    return table
