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

from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.growth import Growth, Partial
from gpuplan.solvers.flow.instance import Instance, Items
from gpuplan.solvers.flow.prices import PoolMargin, Prices
from gpuplan.solvers.flow.transitions import Numbered, Transitions
from gpuplan.solvers.limits import Budget

#: What a transition notes: its rows of nodes that end, stay and start, its longest range, whether it starts a range too
#: many that could start later.
ENDED, STAY, START, LONGEST, TOO_MANY = range(5)


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
        self.window = window
        self._first_growth = Growth(instance, prices, budget, items=items, most_rows=most_rows, branch=branch)
        self._growth = Growth(instance, prices, budget, most_rows=most_rows, branch=branch)
        self.full = self._growth.cost_of.full
        self._groups = instance.num_kinds
        self._offset = np.concatenate([[0], np.cumsum(items.layers)])
        self._item_of = np.repeat(np.arange(len(items.layers)), items.layers)
        left = np.arange(self._offset[-1]) - self._offset[self._item_of] + 1
        self._left = left
        self._promise = items.value[self._item_of][:, None] * (left[:, None] > np.arange(self._growth.width))
        self._describe = _descriptions(items, worth_of, len(prices.items.value))
        self._shortens = self._shortenable(prices.items)
        self._acts = Numbered(int(self._offset[-1]), np.uint16)
        self._rows = Numbered(self._describe.shape[1])
        self._table = Transitions(self._groups, notes=5)
        self._pool = PoolMargin(instance, pool, self._groups)
        self.first = int(self._acts.numbers(np.zeros((1, len(left)), dtype=np.uint16))[0])
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
            acts = self._acts.rows[rows].astype(np.int64)
            promised = np.minimum(acts @ self._promise, growth.target)
            self._record(rows, acts, windows, growth.all_covers(promised, windows))
        self._table.pack()
        return self._table

    def margin(self, states: IntArray, used: IntArray, layers_left: int) -> FloatArray:
        """Return what labels may still waste by the further prices, the least of them; below 0 a label is disproven."""
        if not len(self._pool):
            return np.full(len(states), np.inf)
        distinct, at = np.unique(states, return_inverse=True)
        near = min(layers_left, self._growth.width)
        promised = self._acts.rows[distinct].astype(np.int64) @ self._promise[:, :near]
        return self._pool.margin(self._growth.target - promised, None, at, used, layers_left)

    def _record(self, states: IntArray, acts: IntArray, windows: FloatArray, covers: Partial) -> None:
        covers = covers.take(np.lexsort((covers.excess, covers.owner)))
        under_way = acts[covers.owner].copy()
        longest = np.zeros(len(covers.owner), dtype=np.int64)
        at = np.repeat(np.arange(len(covers.picks)), [len(picks) for picks in covers.picks])
        picked = np.array([item for picks in covers.picks for item in picks], dtype=np.int64)
        np.add.at(under_way, (at, self._offset[picked] + self.items.layers[picked] - 1), 1)
        np.maximum.at(longest, at, self.items.layers[picked])
        stay = acts[covers.owner] @ self._describe
        start = under_way @ self._describe - stay
        ends = self._left == 1
        ended = under_way[:, ends] @ self._describe[ends]
        moved = np.zeros_like(under_way)
        moved[:, :-1] = np.where(self._left[1:] > 1, under_way[:, 1:], 0)
        too_many = self._too_many(covers, stay + start)
        numbers = self._rows.numbers
        notes = np.stack([numbers(ended), numbers(stay), numbers(start), longest, too_many], axis=1)
        self._table.add(
            states,
            windows,
            np.bincount(covers.owner, minlength=len(states)),
            np.maximum(covers.excess, 0.0),
            covers.used,
            self._acts.numbers(moved),
            covers.picks,
            notes,
        )

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
