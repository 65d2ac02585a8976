"""Ranges under way as states, all covers as transitions: what the search by regions walks on.

Where links bind, a range too many may be what lets flow change its region, so covers of every kind count, not minimal
ones only; and a state must tell which ranges are under way, since a node sends where its range ends. A state is how
many ranges of each (group, layers) have how many layers left; a transition starts a cover of the current layer
(`growth.py`) and moves on one layer; it notes the rows of nodes that end with the layer, that held the layer before too
(*stay*) and that *start* with it (`crossing.py` reads them). Where no node ends before a layer, no node that starts on
it has any flow there: a cover with a range *too many* may then start that range one layer later, its end the same, and
no flow changes, if with one layer less a node passes as much or more.

A node that holds fewer layers than would pass as much (k' < k, T(k') ≤ T(k)) may as well start k − k' layers earlier:
flow may enter a range anywhere. Only at layer 0 is there no earlier layer, so such ranges start there and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.growth import Growth, OutOfWork, Partial
from gpuplan.solvers.flow.instance import Instance, Items
from gpuplan.solvers.flow.prices import PoolMargin, Prices
from gpuplan.solvers.flow.transitions import Numbered, Transitions
from gpuplan.solvers.limits import Budget

#: What a transition notes: its rows of nodes that end, stay and start, its longest range, whether it starts a range too
#: many that could start later.
ENDED, STAY, START, LONGEST, TOO_MANY = range(5)
#: Covers noted between two looks at the clock: a tenth of a second.
AT_ONCE = 20_000


class RegionStates:
    """States and transitions for one target, prices and window.

    Parameters
    ----------
    instance
        Its kinds are groups: nodes of equal throughput in the same region.
    window, pool, most_rows, branch
        As for `Automaton`.
    """

    def __init__(
        self,
        instance: Instance,
        prices: Prices,
        window: float,
        budget: Budget,
        pool: Sequence[Prices] = (),
        *,
        most_rows: int,
        branch: int | None = None,
    ) -> None:
        items, worth_of = _with_shorter_ones(instance, prices.items)
        self.items = items
        self._budget = budget
        self.window = window
        self._first_growth = Growth(instance, prices, budget, items=items, most_rows=most_rows, branch=branch)
        self._growth = Growth(instance, prices, budget, most_rows=most_rows, branch=branch)
        self.full = self._growth.cost_of.full
        self._groups = instance.num_kinds
        self._offset = np.concatenate([[0], np.cumsum(items.layers)])
        self._left = np.arange(self._offset[-1]) - np.repeat(self._offset[:-1], items.layers) + 1
        self._worth_of = worth_of
        self._describe = _descriptions(items, worth_of, len(prices.items.value))
        self._shortens = self._shortenable(prices.items)
        self._acts = Numbered(int(self._offset[-1]), np.uint8 if instance.counts.sum() < 256 else np.uint16)
        self._rows = Numbered(self._describe.shape[1])
        self._table = Transitions(self._groups, notes=5)
        self._pool = PoolMargin(instance, pool, self._groups)
        self._promised: IntArray = np.zeros((0, self._growth.width), dtype=np.int64)
        nothing = np.zeros((1, len(self._left)), dtype=np.int64)
        self.first = int(self._follow(nothing, np.zeros((1, self._growth.width), dtype=np.int64))[0])
        self.none = int(self._rows.numbers(np.zeros((1, self._describe.shape[1]), dtype=np.int64))[0])

    @property
    def complete(self) -> bool:
        """Whether no cover within a window was left out."""
        return self._growth.complete and self._first_growth.complete

    @property
    def rows(self) -> IntArray:
        """Rows of nodes that end, stay or start by number: nodes by item of the prices."""
        rows: IntArray = self._rows.rows.astype(np.int64, copy=False)
        return rows

    def transitions(self, states: IntArray, slack: FloatArray, *, first: bool) -> Transitions:
        """Return a table with the transitions of (at least) `states`, up to an excess of `slack` (or the window)."""
        growth = self._first_growth if first else self._growth
        for rows, windows in self._table.missing(states, slack, self.window):
            covers = growth.all_covers(self._promised[rows], windows)
            covers = covers.take(np.lexsort((covers.excess, covers.owner)))
            for part, begin, end in _in_parts(covers, len(rows)):
                self._record(rows[begin:end], windows[begin:end], part)
                if self._budget.exhausted():
                    raise OutOfWork
        self._table.pack()
        return self._table

    def margin(self, states: IntArray, used: IntArray, layers_left: int) -> FloatArray:
        """Return what labels may still waste by the further prices, the least of them; below 0 a label is disproven."""
        if not len(self._pool):
            return np.full(len(states), np.inf)
        distinct, at = np.unique(states, return_inverse=True)
        near = min(layers_left, self._growth.width)
        need = self._growth.target - self._promised[distinct, :near]
        return self._pool.margin(need, None, at, used, layers_left)

    def _record(self, states: IntArray, windows: FloatArray, covers: Partial) -> None:
        owners, of = np.unique(covers.owner, return_inverse=True)
        stay, ended, moved = self._before(states[owners])
        ended, moved = ended[of], moved[of]
        start = np.zeros_like(ended)
        longest = np.zeros(len(of), dtype=np.int64)
        at = np.repeat(np.arange(len(of)), [len(picks) for picks in covers.picks])
        picked = np.array([item for picks in covers.picks for item in picks], dtype=np.int64)
        layers, column = self.items.layers[picked], self._worth_of[picked]
        short, long = layers == 1, layers > 1
        np.maximum.at(longest, at, layers)
        np.add.at(start, (at, column), 1)
        np.add.at(ended, (at[short], column[short]), 1)
        np.add.at(moved, (at[long], self._offset[picked[long]] + layers[long] - 2), 1)
        numbers = self._rows.numbers
        too_many = self._too_many(covers, stay[of] + start)
        notes = [numbers(ended), numbers(stay)[of], numbers(start), longest, too_many]
        self._table.add(
            states,
            windows,
            np.bincount(covers.owner, minlength=len(states)),
            np.maximum(covers.excess, 0.0),
            covers.used,
            self._follow(moved, np.pad(covers.rows[:, 1:], ((0, 0), (0, 1)))),
            covers.picks,
            np.stack(notes, axis=1),
        )

    def _before(self, states: IntArray) -> tuple[IntArray, IntArray, NDArray[Any]]:
        """Return what ranges under way add to the rows of nodes that stay and that end, and themselves moved on."""
        acts = self._acts.rows[states]
        ends = self._left == 1
        moved = np.zeros_like(acts)
        moved[:, :-1] = np.where(self._left[1:] > 1, acts[:, 1:], 0)
        return acts @ self._describe, acts[:, ends] @ self._describe[ends], moved

    def _follow(self, acts: NDArray[Any], rows: IntArray) -> IntArray:
        """Return the states of ranges under way, which promise the next layers `rows`."""
        states = self._acts.numbers(acts)
        if len(self._acts) > len(self._promised):
            larger = np.zeros((2 * len(self._acts), rows.shape[1]), dtype=np.int64)
            larger[: len(self._promised)] = self._promised
            self._promised = larger
        self._promised[states] = rows
        return states

    def _too_many(self, covers: Partial, held: IntArray) -> IntArray:
        """Return whether a cover would do without a range it starts, one that passes as much with one layer less."""
        spare = held @ self.items.value[: held.shape[1]] - self._growth.target
        found = np.zeros(len(spare), dtype=np.int64)
        for at in np.flatnonzero(spare >= self.items.value.min()).tolist():
            found[at] = any(self._shortens[i] and self.items.value[i] <= spare[at] for i in covers.picks[at])
        return found

    def _shortenable(self, items: Items) -> list[bool]:
        """Return whether a range with one layer less passes as much or more: then it may start later."""
        known = set(zip(items.kind.tolist(), items.layers.tolist(), strict=True))
        pairs = zip(self.items.kind.tolist(), self.items.layers.tolist(), strict=True)
        return [(kind, layers - 1) in known for kind, layers in pairs]


def _in_parts(covers: Partial, states: int) -> Iterator[tuple[Partial, int, int]]:
    """Yield covers sorted by owner, those of a few states at once, with the first of these and the one after."""
    ends = np.cumsum(np.bincount(covers.owner, minlength=states))
    first = done = 0
    while first < states:
        stop = max(int(np.searchsorted(ends, done + AT_ONCE, side="right")), first + 1)
        part = covers.take(np.arange(done, ends[stop - 1]))
        yield dataclasses.replace(part, owner=part.owner - first), first, stop
        first, done = stop, int(ends[stop - 1])


def _with_shorter_ones(instance: Instance, items: Items) -> tuple[Items, IntArray]:
    """Return the items, then those that a longer one beats, worth what that one is; and whose worth each has."""
    known = set(zip(items.kind.tolist(), items.layers.tolist(), strict=True))
    rows = []
    for at, (kind, layers) in enumerate(zip(items.kind.tolist(), items.layers.tolist(), strict=True)):
        shorter = layers - 1
        while shorter >= 1 and (kind, shorter) not in known:
            rows.append((at, shorter))
            shorter -= 1
    extra = np.array(rows, dtype=np.int64).reshape(len(rows), 2)
    worth_of = np.concatenate([np.arange(len(items.value)), extra[:, 0]])
    layers_of = np.concatenate([items.layers, extra[:, 1]])
    return Items(items.target, items.value[worth_of], items.kind[worth_of], layers_of), worth_of


def _descriptions(items: Items, worth_of: IntArray, columns: int) -> IntArray:
    """Return what a range on a layer adds to a row, by slot: one node of its worth."""
    rows = np.zeros((len(items.layers), columns), dtype=np.int64)
    rows[np.arange(len(items.layers)), worth_of] = 1
    return np.repeat(rows, items.layers, axis=0)
