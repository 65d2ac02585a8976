"""Promises as states, minimal covers as transitions: what the label search walks on, found once and reused.

A state is what the next W layers have been promised (and, where asked, how many ranges hold them). A transition starts
a *minimal cover* of what the current layer lacks, no range too many, and moves on one layer. Minimal covers are enough
where no link binds: a range that is not needed where it starts can start one layer later and lose nothing; ranges that
overhang the last layer are moved back at the end. A search that may spend a slack in all spends the excesses of its
transitions (`growth.py`). Far from the last layer transitions do not depend on the layer, so the few states there are
(hundreds near the bound) are expanded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.growth import Growth, Partial
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.prices import PoolMargin, Prices
from gpuplan.solvers.flow.transitions import Numbered, Transitions
from gpuplan.solvers.limits import Budget


class Automaton:
    """States and transitions for one target, prices and window.

    Parameters
    ----------
    window
        Transitions with more excess are left out.
    count_holders
        Whether states tell how many ranges (0, 1, or 2 and more) hold each layer. The last column of what a
        transition uses is then 1 where it leaves its layer to one node.
    pool
        Further prices for the same target, to disprove labels with.
    branch
        Partial covers of a state kept at each growth, the cheapest; None for all.
    most_rows
        Partial covers looked at before `OutOfWork`.
    """

    def __init__(
        self,
        instance: Instance,
        prices: Prices,
        window: float,
        budget: Budget,
        pool: Sequence[Prices] = (),
        *,
        count_holders: bool,
        most_rows: int,
        branch: int | None = None,
    ) -> None:
        growth = Growth(instance, prices, budget, count_holders=count_holders, most_rows=most_rows, branch=branch)
        self._growth = growth
        self.items = growth.items
        self.window = window
        self.full = growth.cost_of.full
        self._states = Numbered(growth.row_width)
        self._table = Transitions(growth.columns)
        self._pool = PoolMargin(instance, pool, growth.columns)
        self.first = int(self._states.numbers(np.zeros((1, growth.row_width), dtype=np.int64))[0])

    @property
    def complete(self) -> bool:
        """Whether no cover within a window was left out."""
        return self._growth.complete

    def transitions(self, states: IntArray, slack: FloatArray) -> Transitions:
        """Return a table with the transitions of (at least) `states`, up to an excess of `slack` (or the window)."""
        for rows, windows in self._table.missing(states, slack, self.window):
            covers = self._growth.minimal_covers(self._states.rows[rows], windows)
            self._record(rows, windows, covers)
        self._table.pack()
        return self._table

    def promised(self, states: IntArray, row: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the states with a row more promised (no holders counted), and the price that saves each."""
        rows = self._states.rows[states]
        more = np.minimum(rows + row, self._growth.target)
        return self._states.numbers(more), self._growth.ahead(rows) - self._growth.ahead(more)

    def overhang(self, states: IntArray, layers_left: int) -> FloatArray:
        """Return the price of what states have been promised beyond the last layer: paid for, and worth nothing."""
        if layers_left >= self._growth.width:
            return np.zeros(len(states))
        distinct, at = np.unique(states, return_inverse=True)
        beyond = self._growth.cost(self._states.rows[distinct], layers_left, self._growth.width)
        price: FloatArray = (self.full - beyond).sum(axis=1)[at]
        return price

    def margin(self, states: IntArray, used: IntArray, layers_left: int) -> FloatArray:
        """Return what labels may still waste by the further prices, the least of them; below 0 a label is disproven."""
        if not len(self._pool):
            return np.full(len(states), np.inf)
        distinct, at = np.unique(states, return_inverse=True)
        near = min(layers_left, self._growth.width)
        need, holders = self._growth.need(self._states.rows[distinct], 0, near)
        return self._pool.margin(need, holders, at, used, layers_left)

    def _record(self, states: IntArray, windows: FloatArray, covers: Partial) -> None:
        covers = covers.take(np.lexsort((covers.excess, covers.owner)))
        self._table.add(
            states,
            windows,
            np.bincount(covers.owner, minlength=len(states)),
            np.maximum(covers.excess, 0.0),
            covers.used,
            self._states.numbers(self._moved(covers.rows)),
            covers.picks,
        )

    def _moved(self, rows: IntArray) -> IntArray:
        """Return the rows seen from the next layer."""
        width = self._growth.width
        moved = np.zeros_like(rows)
        for offset in range(0, rows.shape[1], width):
            moved[:, offset : offset + width - 1] = rows[:, offset + 1 : offset + width]
        return moved
