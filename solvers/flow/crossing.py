"""How much of a flow can be in which regions, layer by layer: what slow links between regions let over.

Nodes of a region are joined by links that cannot bind; x_r is the flow inside region r on a layer. At a boundary only
nodes that *end* there send, to nodes that hold the next layer; the others keep their flow, so nodes that *start* there
have only what they are sent. What is possible is kept as the set function

    ρ(B) = the most flow that can be in the regions of B,

a minimum cut, so the flows x possible are those with x(B) ≤ ρ(B). With E_a what the nodes of a that end pass, K_b and
S_b what those of b pass that stay and that start, the cut of a boundary gives

    ρ'(B) = min over U of ρ(U^c) + Σ_{b ∈ B∩U} K_b + Y(U, B),

U the regions whose flow the cut leaves uncut before the boundary, and Y what the nodes of U that end can hand to nodes
of B: to those that start, in regions of U (whose nodes that stay the cut has paid for), to all that hold the next layer
in the others. Inside a region they do so without limit, so Y is the least of

    Σ_{a ∈ U∖A} E_a + Σ_{b ∈ B∩A} S_b + Σ over nodes of B∖A of min(what they pass, their links from nodes of A),

A ⊆ U the regions whose ended nodes the cut leaves uncut, and, the cut leaving uncut the receivers of Z ⊆ B,

    Σ over receivers of B∖Z of what they pass + Σ_{a ∈ U∩Z} E_a
        + Σ over ended nodes of U∖Z of min(what they pass, their links to receivers of Z).

Which nodes of a group (alike but for their links) hold and end is open: `partners.py` bounds the sums over nodes.
Inside a region flow may move between nodes at will, so every ρ is an upper bound: where ρ(all regions) is below a
target, no placement that looks like this reaches it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray
from gpuplan.solvers.flow.growth import OutOfWork
from gpuplan.solvers.flow.instance import Items
from gpuplan.solvers.flow.partners import Partners
from gpuplan.solvers.limits import Budget

#: Rows that can be told apart.
MOST_ROWS = 2**20
#: Boundaries looked into between two looks at the clock: 0.2 s with four regions.
AT_ONCE = 2_000
#: Cuts of boundaries kept: bounds memory, 8 bytes each.
MOST_KNOWN = 10_000_000


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
    budget
        Looked at between boundaries; None: no limit.
    """

    def __init__(
        self,
        problem: FlowProblem,
        regions: Sequence[int],
        items: Items,
        tokens_per_tick: float,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget
        self.target = items.target
        region_of = np.array(regions, dtype=np.int64)
        self.num_regions = int(region_of.max()) + 1
        self.columns = 2**self.num_regions - 1
        self._cuts = list(itertools.product(range(self.columns + 1), self._masks()))
        self._known: dict[int, int] = {}
        self._over: IntArray = np.zeros((len(self._cuts), 0), dtype=np.int64)
        self._most_known = MOST_KNOWN // len(self._cuts)
        self._tick = tokens_per_tick
        groups = [np.flatnonzero(problem.node_kinds == g) for g in range(len(regions))]
        links = self._ticks(problem.link_tokens_per_s).astype(np.float64)
        self._senders = Partners(links, groups, items.kind, items.value, region_of, self.target)
        self._receivers = Partners(links.T, groups, items.kind, items.value, region_of, self.target)
        source = self._ends(problem.source_tokens_per_s, groups)[items.kind]
        sink = self._ends(problem.sink_tokens_per_s, groups)[items.kind]
        self._group: IntArray = (items.kind[:, None] == np.arange(len(regions))).astype(np.int64)
        self._in_region: IntArray = (region_of[:, None] == np.arange(self.num_regions)).astype(np.int64)
        within = region_of[items.kind][:, None] == np.arange(self.num_regions)
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

    def step(self, rho: IntArray, rows: IntArray, ended: IntArray, stay: IntArray, start: IntArray) -> IntArray:
        """Return ρ after a boundary.

        Parameters
        ----------
        rho
            ρ before it, ticks, shape (N, 2^R−1).
        rows
            Nodes by item, shape (·, I), a number always for the same row.
        ended, stay, start
            Numbers of rows: of the nodes that end there, of those that hold the layers on both sides, and of those that
            start; shape (N,).

        Raises
        ------
        OutOfWork
            At the limits, and for more rows than can be told apart.
        """
        if len(rows) > MOST_ROWS:
            raise OutOfWork
        triples, at = np.unique((ended * MOST_ROWS + stay) * MOST_ROWS + start, return_inverse=True)
        let_over = self._let_over(rows, triples)[:, at]
        before = [np.zeros(len(rho), dtype=np.int64), *rho.T]
        after = np.full(rho.shape, self.target, dtype=np.int64)
        for (uncut, into), least in zip(self._cuts, let_over, strict=True):
            np.minimum(after[:, into - 1], before[self.columns & ~uncut] + least, out=after[:, into - 1])
        return after

    def _let_over(self, rows: IntArray, triples: IntArray) -> IntArray:
        """Return Σ K_b + Y by cut (U, B) and triple of rows, those found before looked up."""
        if len(self._known) > self._most_known:
            self._known, self._over = {}, self._over[:, :0]
        keys = triples.tolist()
        fresh = [key for key in keys if key not in self._known]
        parts = [self._over]
        for first in range(0, len(fresh), AT_ONCE):
            if self._budget is not None and self._budget.exhausted():
                raise OutOfWork
            parts.append(self._cut(rows, np.array(fresh[first : first + AT_ONCE], dtype=np.int64)))
        if fresh:
            self._known.update(zip(fresh, range(len(self._known), len(self._known) + len(fresh)), strict=True))
            self._over = np.concatenate(parts, axis=1)
        return self._over[:, [self._known[key] for key in keys]]

    def _cut(self, rows: IntArray, triples: IntArray) -> IntArray:
        """Return Σ K_b + Y by cut (U, B) and triple: what regions B can hold of what regions U had."""
        ended, stay, start = triples // MOST_ROWS**2, triples // MOST_ROWS % MOST_ROWS, triples % MOST_ROWS
        worth = rows @ self._worth
        ends, stays, starts = (self._sums(worth[numbers]) for numbers in (ended, stay, start))
        taken, given = self._taken(rows, ended, stay, start), self._given(rows, ended, stay, start)
        over = []
        for uncut, into in self._cuts:
            cuts = []
            for a in _subsets(uncut):
                receivers = into & ~a
                cuts.append(ends[uncut & ~a] + starts[into & a] + taken[a, receivers & uncut, receivers & ~uncut])
            for z in _subsets(into):
                paid = into & ~z
                cut = starts[paid] + stays[paid & ~uncut] + ends[uncut & z]
                cuts.append(cut + given[uncut & ~z, z & uncut, z & ~uncut])
            over.append(stays[into & uncut] + np.minimum.reduce(cuts))
        return np.stack(over)

    def _taken(
        self, rows: IntArray, ended: IntArray, stay: IntArray, start: IntArray
    ) -> dict[tuple[int, int, int], IntArray]:
        """Return what receivers get by links from ended nodes of A: nodes that start, of some regions; all, of others.

        The keys are masks: A, regions of those that start, regions of all.
        """
        found = {}
        distinct, at = np.unique(ended, return_inverse=True)
        counts = rows[distinct] @ self._group
        for senders in range(self.columns + 1):
            keys = list(_partings(self.columns & ~senders))
            asked = (self._regions([new | every for new, every in keys]), self._regions([every for _, every in keys]))
            others = counts * self._members(senders), at
            passed = self._receivers.passed(((rows, start), (rows, stay)), others, asked)
            found.update({(senders, *key): column for key, column in zip(keys, passed.T, strict=True)})
        return found

    def _given(
        self, rows: IntArray, ended: IntArray, stay: IntArray, start: IntArray
    ) -> dict[tuple[int, int, int], IntArray]:
        """Return what ended nodes of a set of regions give by links to receivers, keys as above."""
        found = {}
        distinct, at = np.unique(start * MOST_ROWS + stay, return_inverse=True)
        starts, stays = rows[distinct // MOST_ROWS] @ self._group, rows[distinct % MOST_ROWS] @ self._group
        for new, every in _partings(self.columns):
            others = starts * self._members(new | every) + stays * self._members(every), at
            sets = _subsets(self.columns & ~(new | every))
            passed = self._senders.passed(((rows, ended),), others, (self._regions(sets),))
            found.update({(senders, new, every): column for senders, column in zip(sets, passed.T, strict=True)})
        return found

    def _ends(self, capacity: FloatArray, groups: Sequence[IntArray]) -> IntArray:
        """Return the widest link to an end of any node of each group, ticks."""
        return np.array([int(self._ticks(capacity[nodes]).max(initial=0)) for nodes in groups], dtype=np.int64)

    def _ticks(self, tokens: FloatArray) -> IntArray:
        # No flow exceeds the target, so wider links are as good as the target.
        capped = np.minimum(tokens / self._tick, float(self.target))
        ticks: IntArray = np.minimum(np.ceil(capped * (1.0 + 1e-12)).astype(np.int64), self.target)
        return ticks

    def _members(self, mask: int) -> IntArray:
        """Return 1 for groups in the regions of a mask."""
        chosen: IntArray = self._in_region[:, self._bits(mask)].sum(axis=1)
        return chosen

    def _regions(self, masks: Sequence[int]) -> FloatArray:
        """Return, a column for each mask, 1.0 for its regions."""
        return np.array([[float(mask >> r & 1) for mask in masks] for r in range(self.num_regions)])

    def _bits(self, mask: int) -> IntArray:
        return np.array([r for r in range(self.num_regions) if mask >> r & 1], dtype=np.int64)

    def _sums(self, by_region: IntArray) -> list[IntArray]:
        """Return the sums over every set of regions, by mask."""
        return [by_region[:, self._bits(mask)].sum(axis=1) for mask in range(self.columns + 1)]

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


def _partings(mask: int) -> Iterator[tuple[int, int]]:
    """Yield every pair of disjoint subsets of a bit mask."""
    for one in _subsets(mask):
        for other in _subsets(mask & ~one):
            yield one, other
