"""Label search over layers: whether every layer can get `target` ticks with the nodes there are.

Left to right, a label is what the next layers have been promised and how many nodes of each kind are used. At each
layer it starts one of the minimal covers of what the layer lacks. Labels go when

* the prices of what is used and of what the layers ahead still need exceed what all nodes are worth,
* a kind runs out,
* another label with the same promises uses no more nodes of any kind.

All three keep some way to the target if there is one, so an untruncated search that ends empty *proves* the target
impossible. A beam keeps the cheapest labels only and proves nothing. All labels of a layer are one set of arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.automaton import Automaton
from gpuplan.solvers.flow.growth import OutOfWork
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget

#: Labels compared with each other within one set of equal promises.
DOMINANCE_WINDOW = 24
#: Labels made at once at most: bounds memory.
MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """One node of a kind holds layers ``start..start+layers−1``."""

    kind: int
    start: int
    layers: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    `answer` is ``found`` (with ranges that give every layer the target), ``impossible`` (proven), ``missed`` (a beam
    or a window ended empty) or ``stopped`` (a limit was reached).
    """

    answer: Literal["found", "impossible", "missed", "stopped"]
    ranges: tuple[Range, ...] = ()
    labels: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How thorough a search is: most labels a layer, the prices a cover may waste, covers a state, random ranking.

    `single_layers` is the most layers that may be left to one node, or None for any number.
    """

    beam: int | None = None
    window: float = np.inf
    branch: int | None = None
    noise: float = 0.0
    seed: int = 0
    single_layers: int | None = None
    most_labels: int = 3_000_000


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Labels at one layer: state (N,), nodes used (N, K), slack left (N,), parent label and pick of the step here.

    `margin` is the least any prices leave to waste.
    """

    state: IntArray
    used: IntArray
    slack: FloatArray
    parent: IntArray
    pick: IntArray
    margin: FloatArray

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: IntArray) -> _Labels:
        """Return some of the labels."""
        return _Labels(
            self.state[rows], self.used[rows], self.slack[rows], self.parent[rows], self.pick[rows], self.margin[rows]
        )


def search_labels(
    instance: Instance, prices: Prices, options: Options, budget: Budget, pool: Sequence[Prices] = ()
) -> Outcome:
    """Look for ranges that give every layer the target of `prices`; `pool` holds further prices for that target."""
    if prices.impossible(instance.num_layers) or len(prices.items.value) == 0:
        return Outcome("impossible")
    search = _Search(instance, prices, options, budget, pool)
    try:
        return search.run()
    except OutOfWork:
        return Outcome("stopped", labels=search.made)


class _Search:
    def __init__(
        self, instance: Instance, prices: Prices, options: Options, budget: Budget, pool: Sequence[Prices]
    ) -> None:
        self.instance = instance
        self.options = options
        self.budget = budget
        singles = options.single_layers
        # Sums of whole counts times prices: rounding is far below this.
        worth = prices.worth * (1.0 + 1e-9) + 1e-9
        slack = worth - instance.num_layers * prices.layer_cost(instance, limited=False).full
        window = min(slack, options.window)
        self.walk = Automaton(
            instance,
            prices,
            window,
            budget,
            pool,
            count_holders=singles is not None,
            most_rows=4 * options.most_labels,
            branch=options.branch,
        )
        self.slack = worth - instance.num_layers * self.walk.full
        self.window = window
        limit = instance.counts if singles is None else np.append(instance.counts, singles)
        self.limit: IntArray = limit.astype(np.int64)
        self.rng = np.random.default_rng(options.seed)
        self.truncated = window < slack
        self.made = 0

    def run(self) -> Outcome:
        labels = self._start()
        history: list[tuple[_Labels, list[tuple[int, ...]]]] = []
        for layer in range(self.instance.num_layers):
            table = self._transitions(labels)
            following = self._step(labels, table, self.instance.num_layers - layer - 1)
            if following is None:
                return Outcome("stopped", labels=self.made)
            if len(following) == 0:
                proven = not self.truncated and self.walk.complete
                return Outcome("impossible" if proven else "missed", labels=self.made)
            history.append((following, table.picks))
            labels = following
        return Outcome("found", self._ranges(history), self.made)

    def _transitions(self, labels: _Labels) -> Transitions:
        states, at = np.unique(labels.state, return_inverse=True)
        slack = np.zeros(len(states))
        np.maximum.at(slack, at, labels.slack)
        return self.walk.transitions(states, slack)

    def _start(self) -> _Labels:
        zero = np.zeros(1, dtype=np.int64)
        used = np.zeros((1, len(self.limit)), dtype=np.int64)
        return _Labels(np.array([self.walk.first]), used, np.array([self.slack]), zero, zero, np.array([self.slack]))

    def _step(self, labels: _Labels, table: Transitions, layers_left: int) -> _Labels | None:
        """Return the labels at the next layer, or None when a limit was reached."""
        first, counts = table.affordable(labels.state, np.minimum(labels.slack, self.window))
        ends = np.cumsum(counts)
        parts: list[_Labels] = []
        start = 0
        while start < len(labels):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + MOST_ROWS, side="right")), start + 1)
            rows = np.arange(start, stop)
            expanded = self._expanded(labels, table, rows, first, counts)
            parts.append(self._payable(self._undominated(expanded), layers_left))
            self.budget.spend(int(ends[stop - 1]) - done)
            self.made += len(parts[-1])
            if self.budget.exhausted() or self.made > self.options.most_labels:
                return None
            start = stop
        joined = parts[0] if len(parts) == 1 else self._undominated(_joined(parts))
        return self._trimmed(joined)

    def _expanded(
        self, labels: _Labels, table: Transitions, rows: IntArray, first: IntArray, counts: IntArray
    ) -> _Labels:
        sizes = counts[rows]
        parent = np.repeat(rows, sizes)
        step = np.arange(len(parent)) + np.repeat(first[rows] - (np.cumsum(sizes) - sizes), sizes)
        used = labels.used[parent] + table.used[step]
        fits = np.flatnonzero((used <= self.limit).all(axis=1))
        parent, step = parent[fits], step[fits]
        slack = labels.slack[parent] - table.excess[step]
        return _Labels(table.following[step], used[fits], slack, parent, step, slack)

    def _payable(self, labels: _Labels, layers_left: int) -> _Labels:
        """Drop labels that have paid too much for layers that do not exist, or that further prices disprove."""
        left = labels.slack - self.walk.overhang(labels.state, layers_left)
        margin = np.minimum(left, self.walk.margin(labels.state, labels.used, layers_left))
        labels = dataclasses.replace(labels, margin=margin)
        return labels.take(np.flatnonzero(margin >= 0.0))

    def _undominated(self, labels: _Labels) -> _Labels:
        """Drop labels when one of the same state uses no more of any kind (found among those of most slack)."""
        if len(labels) < 2:
            return labels
        labels = labels.take(np.lexsort((labels.used.sum(axis=1), -labels.slack, labels.state)))
        keep = np.ones(len(labels), dtype=bool)
        state, used = labels.state, labels.used
        for back in range(1, DOMINANCE_WINDOW + 1):
            rows = np.flatnonzero(state[back:] == state[:-back]) + back
            if not len(rows):
                break
            worse = (used[rows - back] <= used[rows]).all(axis=1)
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
        items, num_layers = self.walk.items, self.instance.num_layers
        row = int(np.argmax(history[-1][0].slack))
        ranges = []
        for layer in range(num_layers - 1, -1, -1):
            labels, picks = history[layer]
            for item in picks[int(labels.pick[row])]:
                layers = int(items.layers[item])
                ranges.append(Range(int(items.kind[item]), min(layer, num_layers - layers), layers))
            row = int(labels.parent[row])
        return tuple(sorted(ranges, key=lambda r: (r.start, r.kind, r.layers)))


def _joined(parts: list[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([part.state for part in parts]),
        np.concatenate([part.used for part in parts]),
        np.concatenate([part.slack for part in parts]),
        np.concatenate([part.parent for part in parts]),
        np.concatenate([part.pick for part in parts]),
        np.concatenate([part.margin for part in parts]),
    )
