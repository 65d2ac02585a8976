"""Promises as states, minimal covers as transitions: what the label search walks on, found once and reused.

A state is what the next W layers have been promised (and, where asked, how many ranges hold them). A transition starts
a *minimal cover* of what the current layer lacks, no range too many, and moves on one layer. Minimal covers are enough
where no link binds: a range that is not needed where it starts can start one layer later and lose nothing; ranges that
overhang the last layer are moved back at the end. A transition costs the nodes it uses and saves what the layers ahead
no longer need; the difference is its *excess* over the least those layers cost,

    e = p·used + ahead(next) − ahead(state),   ahead(s) = Σ_x m(F − s_x),

never negative and never falling as a cover grows, since m allows any number of copies of a range, more than there are
nodes. So a search that may spend a slack in all spends the excesses of its transitions. Far from the last layer
transitions do not depend on the layer, so the few states there are (hundreds near the bound) are expanded once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.limits import Budget

#: Partial covers grown at once at most; past it the dearest are dropped and the walk proves nothing.
MOST_ROWS = 60_000
#: Layers on which a candidate is priced before it is priced on all.
NEXT_LAYERS = 4
#: How much further than asked for a state is expanded.
GENEROSITY = 1.2
#: States expanded at once.
CHUNK = 128
#: Rounding allowed in sums of prices; far above what double precision loses, far below any price.
ROUNDING = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class _Partial:
    """Covers being grown: owner, promises and holders (R, ·), next item allowed, use (R, K), excess and its limit."""

    owner: IntArray
    rows: IntArray
    first: IntArray
    used: IntArray
    excess: FloatArray
    limit: FloatArray
    picks: list[tuple[int, ...]]

    def take(self, at: IntArray) -> _Partial:
        picks = self.picks
        return _Partial(
            self.owner[at],
            self.rows[at],
            self.first[at],
            self.used[at],
            self.excess[at],
            self.limit[at],
            [picks[i] for i in at.tolist()],
        )


class OutOfWork(Exception):  # noqa: N818 - no error: the search ends with what it has
    """A limit was reached while transitions were being found."""


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
        self.instance = instance
        self._budget = budget
        self._rows_left = most_rows
        self._branch = branch
        self.items = prices.items
        self.target = prices.items.target
        single = [] if prices.single_price is None else [prices.single_price]
        self.price: FloatArray = np.concatenate([prices.price, single])
        self.width = int(self.items.layers.max())
        self.window = window
        self.count_holders = count_holders
        self.complete = True
        self.columns = instance.num_kinds + count_holders
        self._cost_of = prices.layer_cost(instance, limited=False)
        self.full = self._cost_of.full
        self._rates = self.items.rates(self.price)
        self._shape = self.items.layers[:, None] > np.arange(self.width)
        self._numbers: dict[bytes, int] = {}
        self._states: IntArray = np.zeros((0, self._state_width), dtype=np.int64)
        self._table = Transitions(self.columns)
        self._pool = tuple(other.layer_cost(instance) for other in pool)
        singles = [[] if other.single_price is None else [other.single_price] for other in pool]
        rows = [np.concatenate([other.price, single]) for other, single in zip(pool, singles, strict=True)]
        self._pool_price = np.array(rows).reshape(len(pool), self.columns)
        self._pool_worth = np.array([other.worth for other in pool]) * (1.0 + 1e-9) + 1e-9
        self.first = int(self._intern(np.zeros((1, self._state_width), dtype=np.int64))[0])

    @property
    def _state_width(self) -> int:
        return self.width * (2 if self.count_holders else 1)

    def transitions(self, states: IntArray, slack: FloatArray) -> Transitions:
        """Return a table with the transitions of (at least) `states`, up to an excess of `slack` (or the window)."""
        wanted = np.minimum(slack, self.window)
        fresh = np.flatnonzero(self._table.windows(states) < wanted)
        # A little more than asked for, so that a state is rarely expanded again.
        windows = np.minimum(wanted * GENEROSITY, self.window)
        for first in range(0, len(fresh), CHUNK):
            rows = fresh[first : first + CHUNK]
            self._expand(states[rows], windows[rows])
        self._table.pack()
        return self._table

    def overhang(self, states: IntArray, layers_left: int) -> FloatArray:
        """Return the price of what states have been promised beyond the last layer: paid for, and worth nothing."""
        if layers_left >= self.width:
            return np.zeros(len(states))
        distinct, at = np.unique(states, return_inverse=True)
        beyond = self._cost(self._states[distinct], layers_left, self.width)
        price: FloatArray = (self.full - beyond).sum(axis=1)[at]
        return price

    def margin(self, states: IntArray, used: IntArray, layers_left: int) -> FloatArray:
        """Return what labels may still waste by the further prices, the least of them; below 0 a label is disproven."""
        if not self._pool:
            return np.full(len(states), np.inf)
        distinct, at = np.unique(states, return_inverse=True)
        rows = self._states[distinct]
        owed = np.zeros((len(distinct), len(self._pool)))
        near = min(layers_left, self.width)
        need, holders = self._need(rows, 0, near)
        for q, cost_of in enumerate(self._pool):
            owed[:, q] = cost_of.cost(need, holders).sum(axis=1) + cost_of.full * (layers_left - near)
        spent = used @ self._pool_price.T
        margin: FloatArray = (self._pool_worth - spent - owed[at]).min(axis=1)
        return margin

    def _expand(self, states: IntArray, windows: FloatArray) -> None:
        """Grow covers range by range until each layer has its target, dropping those past the windows."""
        size = len(states)
        rows = self._states[states]
        grown = _Partial(
            np.arange(size),
            rows,
            np.zeros(size, dtype=np.int64),
            np.zeros((size, self.columns), dtype=np.int64),
            np.zeros(size),
            windows + ROUNDING,
            [()] * size,
        )
        before = self._ahead(rows)
        done = []
        while len(grown.owner):
            closed = grown.rows[:, 0] >= self.target
            done.append(self._settled(grown.take(np.flatnonzero(closed)), before))
            grown = self._grown(grown.take(np.flatnonzero(~closed)), before)
        self._record(states, windows, _joined([part for parts in done for part in parts]))

    def _grown(self, partial: _Partial, before: FloatArray) -> _Partial:
        """Return every partial cover with one more range, no larger than its smallest, within the window."""
        lacking, held = self._need(partial.rows, 0, 1)
        left = np.maximum(lacking - self.items.value, 0)
        then = None if held is None else np.broadcast_to(np.minimum(held + 1, 2), left.shape)
        # On this layer alone the range may waste no more than the window: a cheap test of most candidates.
        wasted = self._rates + self._cost_of.cost(left, then) - self._cost_of.cost(lacking, held)
        allowed = np.arange(len(self._rates)) >= partial.first[:, None]
        row, item = np.nonzero(allowed & (wasted + partial.excess[:, None] <= partial.limit[:, None]))
        if len(row) > 4 * MOST_ROWS:
            self.complete = False
            cheapest = np.argsort(wasted[row, item] + partial.excess[row], kind="stable")[: 4 * MOST_ROWS]
            row, item = row[cheapest], item[cheapest]
        self._spend(len(row))
        row, item = self._plausible(partial, row, item, wasted[row, item])
        return self._with(partial, row, item, before)

    def _plausible(
        self, partial: _Partial, row: IntArray, item: IntArray, wasted: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """Return the candidates whose waste on the next few layers fits the window: most do not, found cheaply."""
        spent = partial.excess[row] + wasted
        for x in range(1, min(NEXT_LAYERS + 1, self.width)):
            reach = self._shape[item, x]
            need, held = self._need(partial.rows[row], x, x + 1)
            left = np.maximum(need[:, 0] - reach * self.items.value[item], 0)
            now = None if held is None else held[:, 0]
            then = None if now is None else np.minimum(now + reach, 2)
            saved = self._cost_of.cost(need[:, 0], now) - self._cost_of.cost(left, then)
            spent = spent + reach * self._rates[item] - saved
            keep = np.flatnonzero(spent <= partial.limit[row])
            row, item, spent = row[keep], item[keep], spent[keep]
        return row, item

    def _spend(self, rows: int) -> None:
        self._budget.spend(rows)
        self._rows_left -= rows
        if self._rows_left < 0 or self._budget.exhausted():
            raise OutOfWork

    def _with(self, partial: _Partial, row: IntArray, item: IntArray, before: FloatArray) -> _Partial:
        """Return partial covers `row` with range `item` added, those within the window."""
        rows = partial.rows[row].copy()
        reach = self._shape[item]
        promise = rows[:, : self.width] + reach * self.items.value[item][:, None]
        rows[:, : self.width] = np.minimum(promise, self.target)
        if self.count_holders:
            rows[:, self.width :] = np.minimum(rows[:, self.width :] + reach, 2)
        used = partial.used[row].copy()
        used[np.arange(len(row)), self.items.kind[item]] += 1
        owner = partial.owner[row]
        excess = used @ self.price + self._ahead(rows) - before[owner]
        limit = partial.limit[row]
        keep = np.flatnonzero(excess <= limit)
        if len(keep) > MOST_ROWS:
            self.complete = False
            keep = np.sort(keep[np.argsort(excess[keep], kind="stable")[:MOST_ROWS]])
        if self._branch is not None:
            keep = self._cheapest_of_each(owner, excess, keep)
        picks = partial.picks
        chosen = zip(row[keep].tolist(), item[keep].tolist(), strict=True)
        grown = [(*picks[r], i) for r, i in chosen]
        return _Partial(owner[keep], rows[keep], item[keep], used[keep], excess[keep], limit[keep], grown)

    def _cheapest_of_each(self, owner: IntArray, excess: FloatArray, keep: IntArray) -> IntArray:
        """Return the rows of `keep` that are among the cheapest few of their state."""
        assert self._branch is not None
        ranked = keep[np.lexsort((excess[keep], owner[keep]))]
        first = np.searchsorted(owner[ranked], owner[ranked], side="left")
        within = np.arange(len(ranked)) - first < self._branch
        self.complete &= bool(within.all())
        return np.sort(ranked[within])

    def _settled(self, closed: _Partial, before: FloatArray) -> list[_Partial]:
        """Return closed covers; where holders count, those of one node alone also with a second one."""
        if not self.count_holders or not len(closed.owner):
            return [closed]
        alone = closed.rows[:, self.width] == 1
        single = closed.take(np.flatnonzero(alone))
        row, item = np.nonzero(np.arange(len(self._rates)) >= single.first[:, None])
        paired = self._with(single, row, item, before)
        # Until a layer is left behind its second holder is still owed; now it is paid for instead.
        single.used[:, -1] = 1
        paid = single.excess + self.price[-1] - self._cost_of.alone
        single = dataclasses.replace(single, excess=paid)
        return [closed.take(np.flatnonzero(~alone)), single.take(np.flatnonzero(paid <= single.limit)), paired]

    def _record(self, states: IntArray, windows: FloatArray, closed: _Partial) -> None:
        order = np.lexsort((closed.excess, closed.owner))
        closed = closed.take(order)
        self._table.add(
            states,
            windows,
            np.bincount(closed.owner, minlength=len(states)),
            np.maximum(closed.excess, 0.0),
            closed.used,
            self._intern(self._moved(closed.rows)),
            closed.picks,
        )

    def _moved(self, rows: IntArray) -> IntArray:
        """Return the rows seen from the next layer."""
        moved = np.zeros_like(rows)
        for offset in range(0, self._state_width, self.width):
            moved[:, offset : offset + self.width - 1] = rows[:, offset + 1 : offset + self.width]
        return moved

    def _ahead(self, rows: IntArray) -> FloatArray:
        """Return the least price of what the next W layers still need."""
        ahead: FloatArray = self._cost(rows, 0, self.width).sum(axis=1)
        return ahead

    def _cost(self, rows: IntArray, first: int, stop: int) -> FloatArray:
        return self._cost_of.cost(*self._need(rows, first, stop))

    def _need(self, rows: IntArray, first: int, stop: int) -> tuple[IntArray, IntArray | None]:
        """Return what the layers from `first` up to `stop` lack, and their holders where these count."""
        need = self.target - rows[:, first:stop]
        return need, rows[:, self.width + first : self.width + stop] if self.count_holders else None

    def _intern(self, rows: IntArray) -> IntArray:
        """Return the numbers of states, new ones added."""
        numbers, known = self._numbers, len(self._numbers)
        found = np.empty(len(rows), dtype=np.int64)
        fresh = []
        for at, row in enumerate(rows):
            key = row.tobytes()
            number = numbers.get(key)
            if number is None:
                number = len(numbers)
                numbers[key] = number
                fresh.append(at)
            found[at] = number
        if len(numbers) > known:
            self._grow(rows[fresh], known)
        return found

    def _grow(self, rows: IntArray, known: int) -> None:
        needed = known + len(rows)
        if needed > len(self._states):
            larger = np.zeros((max(2 * needed, 64), self._state_width), dtype=np.int64)
            larger[:known] = self._states[:known]
            self._states = larger
        self._states[known:needed] = rows


class Transitions:
    """Transitions of states, those of one state together and by rising excess."""

    #: Keeps states apart in one sorted array of `rank·SPREAD + excess`.
    SPREAD = 64.0

    def __init__(self, columns: int) -> None:
        self._rank: dict[int, int] = {}
        self._window: dict[int, float] = {}
        self._blocks = 0
        self._parts: list[tuple[FloatArray, IntArray, IntArray]] = []
        self._sizes: list[IntArray] = []
        self.excess: FloatArray = np.zeros(0)
        self.used: IntArray = np.zeros((0, columns), dtype=np.int64)
        self.following: IntArray = np.zeros(0, dtype=np.int64)
        self.picks: list[tuple[int, ...]] = []
        self._keys: FloatArray = np.zeros(0)
        self._offsets: IntArray = np.zeros(1, dtype=np.int64)

    def windows(self, states: IntArray) -> FloatArray:
        """Return the excess up to which the transitions of each state are here; below 0 where none are."""
        return np.array([self._window.get(state, -1.0) for state in states.tolist()])

    def add(
        self,
        states: IntArray,
        windows: FloatArray,
        sizes: IntArray,
        excess: FloatArray,
        used: IntArray,
        following: IntArray,
        picks: list[tuple[int, ...]],
    ) -> None:
        """Append the transitions of states; those that a state had before are forgotten."""
        for state, window in zip(states.tolist(), windows.tolist(), strict=True):
            self._rank[state] = self._blocks
            self._window[state] = window
            self._blocks += 1
        self._sizes.append(sizes)
        self._parts.append((excess, used, following))
        self.picks += picks

    def pack(self) -> None:
        """Join what was added since the last time."""
        if not self._parts:
            return
        self.excess = np.concatenate([self.excess, *(part[0] for part in self._parts)])
        self.used = np.concatenate([self.used, *(part[1] for part in self._parts)])
        self.following = np.concatenate([self.following, *(part[2] for part in self._parts)])
        sizes = np.concatenate([np.diff(self._offsets), *self._sizes])
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._keys = np.repeat(np.arange(len(sizes)), sizes) * self.SPREAD + self.excess
        self._parts, self._sizes = [], []

    def affordable(self, states: IntArray, slack: FloatArray) -> tuple[IntArray, IntArray]:
        """Return, for each state with its slack, the first transition and how many cost at most the slack."""
        distinct, at = np.unique(states, return_inverse=True)
        rank = np.array([self._rank[state] for state in distinct.tolist()], dtype=np.int64)[at]
        first = self._offsets[rank]
        limit = np.minimum(slack + ROUNDING, 0.5 * self.SPREAD)
        stop = np.searchsorted(self._keys, rank * self.SPREAD + limit, side="right")
        return first, np.maximum(stop - first, 0)


def _joined(parts: list[_Partial]) -> _Partial:
    return _Partial(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.used for part in parts]),
        np.concatenate([part.excess for part in parts]),
        np.concatenate([part.limit for part in parts]),
        [pick for part in parts for pick in part.picks],
    )
