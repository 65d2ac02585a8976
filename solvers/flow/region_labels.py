"""Label search over layers by regions: whether the target can flow when links between regions are slow.

As in `labels.py` a label is a state, the nodes used and what prices leave to waste; here also ρ, how much of the flow
can be in which regions (`crossing.py`). Labels go when the prices, the nodes or a boundary rule them out, when a range
they start is needless, or when another label of the same state uses no more nodes and lets as much flow be anywhere.

Why a needless range may go: let a label have a completion that passes the target, and take the one with fewest layers
held in all. If it started, on this layer, a range whose variant has the same ρ, then starting that range one layer
later, its end the same, would be a completion too, with one layer less. So every label that can be completed has a
child that can, and what dominates that child can be completed likewise. Hence an untruncated search that ends empty
*proves* the target impossible, for these regions and any placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.crossing import Crossing
from gpuplan.solvers.flow.growth import OutOfWork
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.labels import DOMINANCE_WINDOW, Options, Outcome, Range
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.flow.region_states import COVER, ENDED, LONGEST, VARIANTS, VARIANTS_END, RegionStates
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget

#: Labels made at once at most: bounds memory.
MOST_ROWS = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Labels at one boundary, shapes (N,) or (N, ·): state, ended row, nodes used, ρ, slack, margin, parent, pick."""

    state: IntArray
    ended: IntArray
    used: IntArray
    rho: IntArray
    slack: FloatArray
    margin: FloatArray
    parent: IntArray
    pick: IntArray

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: IntArray) -> _Labels:
        return _Labels(
            self.state[rows],
            self.ended[rows],
            self.used[rows],
            self.rho[rows],
            self.slack[rows],
            self.margin[rows],
            self.parent[rows],
            self.pick[rows],
        )


def search_region_labels(
    instance: Instance,
    crossing: Crossing,
    prices: Prices,
    options: Options,
    budget: Budget,
    pool: Sequence[Prices] = (),
) -> Outcome:
    """Look for ranges of groups (the kinds of `instance`) whose flow may reach the target of `prices`.

    ``found`` ranges pass every boundary of this search, which is not yet a flow on the real links.
    """
    if prices.impossible(instance.num_layers) or len(prices.items.value) == 0:
        return Outcome("impossible")
    search = _Search(instance, crossing, prices, options, budget, pool)
    try:
        return search.run()
    except OutOfWork:
        return Outcome("stopped", labels=search.made)


class _Search:
    def __init__(
        self,
        instance: Instance,
        crossing: Crossing,
        prices: Prices,
        options: Options,
        budget: Budget,
        pool: Sequence[Prices],
    ) -> None:
        self.instance = instance
        self.crossing = crossing
        self.options = options
        self.budget = budget
        worth = prices.worth * (1.0 + 1e-9) + 1e-9
        self.slack = worth - instance.num_layers * prices.layer_cost(instance, limited=False).full
        self.window = min(self.slack, options.window)
        self.walk = RegionStates(
            instance,
            crossing.regions.tolist(),
            prices,
            self.window,
            budget,
            pool,
            most_rows=4 * options.most_labels,
            branch=options.branch,
        )
        self.rng = np.random.default_rng(options.seed)
        self.truncated = self.window < self.slack
        self.made = 0

    def run(self) -> Outcome:
        labels = self._start()
        history: list[tuple[_Labels, list[tuple[int, ...]]]] = []
        for layer in range(self.instance.num_layers):
            table = self._transitions(labels, first=layer == 0)
            following = self._step(labels, table, layer)
            if following is None:
                return Outcome("stopped", labels=self.made)
            if len(following) == 0:
                proven = not self.truncated and self.walk.complete
                return Outcome("impossible" if proven else "missed", labels=self.made)
            history.append((following, table.picks))
            labels = following
        return Outcome("found", self._ranges(history), self.made)

    def _start(self) -> _Labels:
        zero = np.zeros(1, dtype=np.int64)
        used = np.zeros((1, self.instance.num_kinds), dtype=np.int64)
        rho = np.full((1, self.crossing.columns), self.crossing.target, dtype=np.int64)
        slack = np.array([self.slack])
        return _Labels(np.array([self.walk.first]), np.array([self.walk.none]), used, rho, slack, slack, zero, zero)

    def _transitions(self, labels: _Labels, *, first: bool) -> Transitions:
        states, at = np.unique(labels.state, return_inverse=True)
        slack = np.zeros(len(states))
        np.maximum.at(slack, at, labels.slack)
        return self.walk.transitions(states, slack, first=first)

    def _step(self, labels: _Labels, table: Transitions, layer: int) -> _Labels | None:
        """Return the labels at the next boundary, or None when a limit was reached."""
        first, counts = table.affordable(labels.state, np.minimum(labels.slack, self.window))
        ends = np.cumsum(counts)
        parts: list[_Labels] = []
        start = 0
        while start < len(labels):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + MOST_ROWS, side="right")), start + 1)
            rows = np.arange(start, stop)
            parts.append(self._undominated(self._expanded(labels, table, rows, first, counts, layer)))
            self.budget.spend(int(ends[stop - 1]) - done)
            self.made += len(parts[-1])
            if self.budget.exhausted() or self.made > self.options.most_labels:
                return None
            start = stop
        joined = parts[0] if len(parts) == 1 else self._undominated(_joined(parts))
        return self._trimmed(joined)

    def _expanded(
        self, labels: _Labels, table: Transitions, rows: IntArray, first: IntArray, counts: IntArray, layer: int
    ) -> _Labels:
        """Return the children of some labels that nodes, prices, layers and boundaries allow."""
        left = self.instance.num_layers - layer
        sizes = counts[rows]
        parent = np.repeat(rows, sizes)
        step = np.arange(len(parent)) + np.repeat(first[rows] - (np.cumsum(sizes) - sizes), sizes)
        used = labels.used[parent] + table.used[step]
        fits = (used <= self.instance.counts).all(axis=1) & (table.notes[step, LONGEST] <= left)
        if layer:  # where nothing ends no flow can change its region, so a range too many is needless
            excess_range = table.notes[step, VARIANTS_END] > table.notes[step, VARIANTS]
            fits &= ~excess_range | (labels.ended[parent] != self.walk.none)
        kept = np.flatnonzero(fits)
        parent, step, used = parent[kept], step[kept], used[kept]
        state = table.following[step]
        slack = labels.slack[parent] - table.excess[step]
        margin = np.minimum(slack, self.walk.margin(state, used, left - 1))
        kept = np.flatnonzero(margin >= 0.0)
        parent, step = parent[kept], step[kept]
        rho = self._after(labels, parent, table.notes[step, COVER], layer)
        ended = table.notes[step, ENDED]
        through = rho[:, -1] if left > 1 else self.crossing.to_sink(rho, self.walk.rows[ended])
        flows = np.flatnonzero(through >= self.crossing.target)
        flows = flows[self._needed(labels, parent[flows], table.notes[step[flows]], rho[flows], layer)]
        kept, parent, step = kept[flows], parent[flows], step[flows]
        return _Labels(state[kept], ended[flows], used[kept], rho[flows], slack[kept], margin[kept], parent, step)

    def _after(self, labels: _Labels, parent: IntArray, cover: IntArray, layer: int) -> IntArray:
        """Return ρ on the layer for covers that follow labels."""
        rows = self.walk.rows
        if layer == 0:
            return self.crossing.from_source(rows[cover])
        return self.crossing.step(labels.rho[parent], rows[labels.ended[parent]], rows[cover])

    def _needed(self, labels: _Labels, parent: IntArray, notes: IntArray, rho: IntArray, layer: int) -> IntArray:
        """Return the children all of whose variants let less flow through."""
        sizes = notes[:, VARIANTS_END] - notes[:, VARIANTS]
        if not sizes.any():
            return np.arange(len(parent))
        child = np.repeat(np.arange(len(parent)), sizes)
        within = np.arange(len(child)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        variants = np.array(self.walk.variants, dtype=np.int64)[notes[child, VARIANTS] + within]
        same = (self._after(labels, parent[child], variants, layer) == rho[child]).all(axis=1)
        needed = np.ones(len(parent), dtype=bool)
        needed[child[same]] = False
        return np.flatnonzero(needed)

    def _undominated(self, labels: _Labels) -> _Labels:
        """Drop labels when one of the same state uses no more of any group and lets as much flow be anywhere."""
        if len(labels) < 2:
            return labels
        order = np.lexsort((labels.used.sum(axis=1), -labels.slack, labels.ended, labels.state))
        labels = labels.take(order)
        keep = np.ones(len(labels), dtype=bool)
        for back in range(1, DOMINANCE_WINDOW + 1):
            same = (labels.state[back:] == labels.state[:-back]) & (labels.ended[back:] == labels.ended[:-back])
            rows = np.flatnonzero(same) + back
            if not len(rows):
                break
            worse = (labels.used[rows - back] <= labels.used[rows]).all(axis=1)
            worse &= (labels.rho[rows - back] >= labels.rho[rows]).all(axis=1)
            keep[rows[worse]] = False
        return labels.take(np.flatnonzero(keep))

    def _trimmed(self, labels: _Labels) -> _Labels:
        beam = self.options.beam
        if beam is None or len(labels) <= beam:
            return labels
        self.truncated = True
        rank = labels.margin
        if self.options.noise:
            rank = rank + self.options.noise * self.rng.random(len(rank))
        return labels.take(np.sort(np.argsort(-rank, kind="stable")[:beam]))

    def _ranges(self, history: list[tuple[_Labels, list[tuple[int, ...]]]]) -> tuple[Range, ...]:
        row = int(np.argmax(history[-1][0].slack))
        items, ranges = self.walk.items, []
        for layer in range(self.instance.num_layers - 1, -1, -1):
            labels, picks = history[layer]
            for item in picks[int(labels.pick[row])]:
                ranges.append(Range(int(items.kind[item]), layer, int(items.layers[item])))
            row = int(labels.parent[row])
        return tuple(sorted(ranges, key=lambda r: (r.start, r.kind, r.layers)))


def _joined(parts: list[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([part.state for part in parts]),
        np.concatenate([part.ended for part in parts]),
        np.concatenate([part.used for part in parts]),
        np.concatenate([part.rho for part in parts]),
        np.concatenate([part.slack for part in parts]),
        np.concatenate([part.margin for part in parts]),
        np.concatenate([part.parent for part in parts]),
        np.concatenate([part.pick for part in parts]),
    )
