"""The sweep that both label searches make: layer by layer, children of labels, dominance, a beam where asked for.

A search says what a label is, which children it has and which of them another makes needless; the sweep keeps the
budget, the history a plan is read from, and whether anything was left out, since only a sweep that leaves out nothing
proves a target impossible by ending empty.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.growth import OutOfWork
from gpuplan.solvers.flow.instance import Instance, Items
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget

#: Labels compared with each other within one set of equal states.
DOMINANCE_WINDOW = 24


@dataclass(frozen=True, slots=True)
class Range:
    """One node of a kind holds layers ``start..start+layers−1``."""

    kind: int
    start: int
    layers: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    `answer` is ``found`` (with ranges that pass every test of the search), ``impossible`` (proven), ``missed`` (a beam
    or a window ended empty) or ``stopped`` (a limit was reached). Of several `endings` the first has most slack.
    """

    answer: Literal["found", "impossible", "missed", "stopped"]
    endings: tuple[tuple[Range, ...], ...] = ()
    labels: int = 0

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges found with most slack; none where none were."""
        return self.endings[0] if self.endings else ()


@dataclass(frozen=True, slots=True)
class Options:
    """How thorough a search is: most labels a layer, the prices a cover may waste, covers a state, random ranking.

    `single_layers` is the most layers that may be left to one node, or None for any number; `endings` is how many
    ways through are returned at most.
    """

    beam: int | None = None
    window: float = np.inf
    branch: int | None = None
    noise: float = 0.0
    seed: int = 0
    single_layers: int | None = None
    most_labels: int = 3_000_000
    endings: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labels at one boundary: state (N,), nodes used (N, K), slack left (N,), parent label and pick of the step here.

    `margin` is the least any prices leave to waste.
    """

    state: IntArray
    used: IntArray
    slack: FloatArray
    margin: FloatArray
    parent: IntArray
    pick: IntArray

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: IntArray) -> Self:
        """Return some of the labels."""
        return type(self)(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def identity(self) -> Sequence[IntArray]:
        """Return what two labels must share to be compared."""
        return (self.state,)

    def no_better(self, rows: IntArray, back: int) -> NDArray[np.bool_]:
        """Return whether the label `back` before each of `rows` leaves at least as much."""
        return np.asarray((self.used[rows - back] <= self.used[rows]).all(axis=1))


L = TypeVar("L", bound=Labels)


class Walk(Protocol):
    """What a sweep asks of an automaton."""

    @property
    def items(self) -> Items:
        """Ranges that transitions start."""

    @property
    def complete(self) -> bool:
        """Whether no transition within a window was left out."""


class Sweep(abc.ABC, Generic[L]):
    """Labels from the first layer to the last.

    Parameters
    ----------
    slack, window
        What all transitions may waste in all, and one of them.
    most_rows
        Children made at once at most: bounds memory.
    """

    def __init__(
        self, instance: Instance, walk: Walk, options: Options, budget: Budget, slack: float, most_rows: int
    ) -> None:
        self.instance = instance
        self.options = options
        self.budget = budget
        self.slack = slack
        self.window = min(slack, options.window, Transitions.MOST_EXCESS)
        self.truncated = self.window < slack
        self.made = 0
        self._walk = walk
        self._most_rows = most_rows
        self._rng = np.random.default_rng(options.seed)

    @abc.abstractmethod
    def start(self) -> L:
        """Return the label before the first layer."""

    @abc.abstractmethod
    def transitions(self, labels: L, layer: int) -> Transitions:
        """Return a table with the transitions of the labels' states."""

    @abc.abstractmethod
    def children(self, labels: L, table: Transitions, parent: IntArray, step: IntArray, layer: int) -> L:
        """Return the children of some labels, by some transitions, that nothing rules out and none dominates."""

    def run(self) -> Outcome:
        """Sweep over all layers."""
        try:
            return self._run()
        except OutOfWork:
            return Outcome("stopped", labels=self.made)

    def _run(self) -> Outcome:
        labels = self.start()
        history: list[tuple[L, list[tuple[int, ...]]]] = []
        for layer in range(self.instance.num_layers):
            table = self.transitions(labels, layer)
            following = self._step(labels, table, layer)
            if following is None:
                return Outcome("stopped", labels=self.made)
            if len(following) == 0:
                proven = not self.truncated and self._walk.complete
                return Outcome("impossible" if proven else "missed", labels=self.made)
            history.append((following, table.picks))
            labels = following
        return Outcome("found", self._endings(history), self.made)

    def _step(self, labels: L, table: Transitions, layer: int) -> L | None:
        """Return the labels at the next boundary, or None when a limit was reached."""
        first, counts = table.affordable(labels.state, np.minimum(labels.slack, self.window))
        ends = np.cumsum(counts)
        parts: list[L] = []
        start = 0
        while start < len(labels):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + self._most_rows, side="right")), start + 1)
            rows = np.arange(start, stop)
            sizes = counts[rows]
            parent = np.repeat(rows, sizes)
            step = np.arange(len(parent)) + np.repeat(first[rows] - (np.cumsum(sizes) - sizes), sizes)
            parts.append(self.children(labels, table, parent, step, layer))
            self.budget.spend(int(ends[stop - 1]) - done)
            self.made += len(parts[-1])
            if self.budget.exhausted() or self.made > self.options.most_labels:
                return None
            start = stop
        return self._trimmed(parts[0] if len(parts) == 1 else self.undominated(_joined(parts)))

    def undominated(self, labels: L) -> L:
        """Drop labels when one of the same identity is no worse (found among those of most slack)."""
        if len(labels) < 2:
            return labels
        labels = labels.take(np.lexsort((labels.used.sum(axis=1), -labels.slack, *labels.identity()[::-1])))
        keep = np.ones(len(labels), dtype=bool)
        for back in range(1, DOMINANCE_WINDOW + 1):
            same = np.ones(max(len(labels) - back, 0), dtype=bool)
            for key in labels.identity():
                same &= key[back:] == key[:-back]
            rows = np.flatnonzero(same) + back
            if not len(rows):
                break
            keep[rows[labels.no_better(rows, back)]] = False
        return labels.take(np.flatnonzero(keep))

    def _trimmed(self, labels: L) -> L:
        beam = self.options.beam
        if beam is None or len(labels) <= beam:
            return labels
        self.truncated = True
        rank = labels.margin
        if self.options.noise:
            rank = rank + self.options.noise * self._rng.random(len(rank))
        return labels.take(np.sort(np.argsort(-rank, kind="stable")[:beam]))

    def _endings(self, history: list[tuple[L, list[tuple[int, ...]]]]) -> tuple[tuple[Range, ...], ...]:
        last = history[-1][0]
        rows = self._rng.permutation(len(last))[: self.options.endings]
        rows[0] = np.argmax(last.slack)
        return tuple(dict.fromkeys(self._ranges(history, row) for row in rows.tolist()))

    def _ranges(self, history: list[tuple[L, list[tuple[int, ...]]]], row: int) -> tuple[Range, ...]:
        items, num_layers = self._walk.items, self.instance.num_layers
        ranges = []
        for layer in range(num_layers - 1, -1, -1):
            labels, picks = history[layer]
            for item in picks[int(labels.pick[row])]:
                layers = int(items.layers[item])
                ranges.append(Range(int(items.kind[item]), min(layer, num_layers - layers), layers))
            row = int(labels.parent[row])
        return tuple(sorted(ranges, key=lambda r: (r.start, r.kind, r.layers)))


def most_slack(states: IntArray, slack: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the distinct states and the most slack any label of each has."""
    distinct, at = np.unique(states, return_inverse=True)
    most = np.zeros(len(distinct))
    np.maximum.at(most, at, slack)
    return distinct, most


def _joined(parts: Sequence[L]) -> L:
    names = [field.name for field in dataclasses.fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
