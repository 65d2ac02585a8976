"""Growing covers of a layer range by range: every multiset of ranges that wastes no more than a window.

A cover starts ranges on the current layer of a state until the layer has its target. It costs the nodes it uses and
saves what the layers ahead no longer need; the difference is its *excess* over the least those layers cost,

    e = p·used + ahead(next) − ahead(state),   ahead(s) = Σ_x m(F − s_x),

never negative and never falling as a cover grows, since m allows any number of copies of a range, more than there are
nodes. So a window on the excess bounds the growth.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.instance import Instance, Items
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.limits import Budget

#: Partial covers grown at once at most; past it the dearest are dropped and the growth proves nothing.
MOST_ROWS = 60_000
#: Layers on which a candidate is priced before it is priced on all.
NEXT_LAYERS = 4
#: Rounding allowed in sums of prices; far above what double precision loses, far below any price.
ROUNDING = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """Covers being grown: owner, promises and holders (R, ·), next item allowed, use (R, K), excess and its limit."""

    owner: IntArray
    rows: IntArray
    first: IntArray
    used: IntArray
    excess: FloatArray
    limit: FloatArray
    picks: list[tuple[int, ...]]

    def take(self, at: IntArray) -> Partial:
        """Return some of the covers."""
        picks = self.picks
        return Partial(
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


class Growth:
    """Covers for one target and its prices.

    Parameters
    ----------
    items
        Ranges a cover may start; those of `prices` unless given. `prices` must value none of them too low.
    count_holders
        Whether rows tell how many ranges (0, 1, or 2 and more) hold each layer, after what each is promised.
    most_rows
        Partial covers looked at before `OutOfWork`.
    branch
        Partial covers of a state kept at each growth, the cheapest; None for all.
    """

    def __init__(
        self,
        instance: Instance,
        prices: Prices,
        budget: Budget,
        *,
        items: Items | None = None,
        count_holders: bool = False,
        most_rows: int,
        branch: int | None = None,
    ) -> None:
        self.items = prices.items if items is None else items
        self.target = self.items.target
        single = [] if prices.single_price is None else [prices.single_price]
        self.price: FloatArray = np.concatenate([prices.price, single])
        self.width = int(self.items.layers.max())
        self.count_holders = count_holders
        self.columns = instance.num_kinds + count_holders
        self.complete = True
        self.cost_of = prices.layer_cost(instance, limited=False)
        self._counts = instance.counts
        self._budget = budget
        self._rows_left = most_rows
        self._branch = branch
        self._rates = self.items.rates(self.price)
        self._shape = self.items.layers[:, None] > np.arange(self.width)

    @property
    def row_width(self) -> int:
        """Columns of a row: promises of the next W layers, and their holders where these count."""
        return self.width * (2 if self.count_holders else 1)

    def ahead(self, rows: IntArray) -> FloatArray:
        """Return the least price of what the next W layers still need."""
        ahead: FloatArray = self.cost(rows, 0, self.width).sum(axis=1)
        return ahead

    def cost(self, rows: IntArray, first: int, stop: int) -> FloatArray:
        """Return the least price of what layers `first` up to `stop` still need, shape (N, stop−first)."""
        return self.cost_of.cost(*self.need(rows, first, stop))

    def need(self, rows: IntArray, first: int, stop: int) -> tuple[IntArray, IntArray | None]:
        """Return what the layers from `first` up to `stop` lack, and their holders where these count."""
        need = self.target - rows[:, first:stop]
        return need, rows[:, self.width + first : self.width + stop] if self.count_holders else None

    def minimal_covers(self, rows: IntArray, windows: FloatArray) -> Partial:
        """Return the covers with no range too many, within a window for each row."""
        grown, before = self._bare(rows, windows), self.ahead(rows)
        done = []
        while len(grown.owner):
            closed = grown.rows[:, 0] >= self.target
            done += self._settled(grown.take(np.flatnonzero(closed)), before)
            grown = self._grown(grown.take(np.flatnonzero(~closed)), before)
        return _joined(done)

    def all_covers(self, rows: IntArray, windows: FloatArray) -> Partial:
        """Return the covers within a window for each row, ranges too many included."""
        grown, before = self._bare(rows, windows), self.ahead(rows)
        done = []
        while len(grown.owner):
            done.append(grown.take(np.flatnonzero(grown.rows[:, 0] >= self.target)))
            grown = self._grown(grown, before)
        return _joined(done)

    def _bare(self, rows: IntArray, windows: FloatArray) -> Partial:
        size = len(rows)
        zero = np.zeros(size, dtype=np.int64)
        used = np.zeros((size, self.columns), dtype=np.int64)
        return Partial(np.arange(size), rows, zero, used, np.zeros(size), windows + ROUNDING, [()] * size)

    def _grown(self, partial: Partial, before: FloatArray) -> Partial:
        """Return every partial cover with one more range, no larger than its smallest, within the window."""
        lacking, held = self.need(partial.rows, 0, 1)
        left = np.maximum(lacking - self.items.value, 0)
        then = None if held is None else np.broadcast_to(np.minimum(held + 1, 2), left.shape)
        # On this layer alone the range may waste no more than the window: a cheap test of most candidates.
        wasted = self._rates + self.cost_of.cost(left, then) - self.cost_of.cost(lacking, held)
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
        self, partial: Partial, row: IntArray, item: IntArray, wasted: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """Return the candidates whose waste on the next few layers fits the window: most do not, found cheaply."""
        spent = partial.excess[row] + wasted
        for x in range(1, min(NEXT_LAYERS + 1, self.width)):
            reach = self._shape[item, x]
            need, held = self.need(partial.rows[row], x, x + 1)
            left = np.maximum(need[:, 0] - reach * self.items.value[item], 0)
            now = None if held is None else held[:, 0]
            then = None if now is None else np.minimum(now + reach, 2)
            saved = self.cost_of.cost(need[:, 0], now) - self.cost_of.cost(left, then)
            spent = spent + reach * self._rates[item] - saved
            keep = np.flatnonzero(spent <= partial.limit[row])
            row, item, spent = row[keep], item[keep], spent[keep]
        return row, item

    def _spend(self, rows: int) -> None:
        self._budget.spend(rows)
        self._rows_left -= rows
        if self._rows_left < 0 or self._budget.exhausted():
            raise OutOfWork

    def _with(self, partial: Partial, row: IntArray, item: IntArray, before: FloatArray) -> Partial:
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
        excess = used @ self.price + self.ahead(rows) - before[owner]
        limit = partial.limit[row]
        there = (used[:, : len(self._counts)] <= self._counts).all(axis=1)
        keep = np.flatnonzero(there & (excess <= limit))
        if len(keep) > MOST_ROWS:
            self.complete = False
            keep = np.sort(keep[np.argsort(excess[keep], kind="stable")[:MOST_ROWS]])
        if self._branch is not None:
            keep = self._cheapest_of_each(owner, excess, keep)
        picks = partial.picks
        chosen = zip(row[keep].tolist(), item[keep].tolist(), strict=True)
        grown = [(*picks[r], i) for r, i in chosen]
        return Partial(owner[keep], rows[keep], item[keep], used[keep], excess[keep], limit[keep], grown)

    def _cheapest_of_each(self, owner: IntArray, excess: FloatArray, keep: IntArray) -> IntArray:
        """Return the rows of `keep` that are among the cheapest few of their state."""
        assert self._branch is not None
        ranked = keep[np.lexsort((excess[keep], owner[keep]))]
        first = np.searchsorted(owner[ranked], owner[ranked], side="left")
        within = np.arange(len(ranked)) - first < self._branch
        self.complete &= bool(within.all())
        return np.sort(ranked[within])

    def _settled(self, closed: Partial, before: FloatArray) -> list[Partial]:
        """Return closed covers; where holders count, those of one node alone also with a second one."""
        if not self.count_holders or not len(closed.owner):
            return [closed]
        alone = closed.rows[:, self.width] == 1
        single = closed.take(np.flatnonzero(alone))
        row, item = np.nonzero(np.arange(len(self._rates)) >= single.first[:, None])
        paired = self._with(single, row, item, before)
        # Until a layer is left behind its second holder is still owed; now it is paid for instead.
        single.used[:, -1] = 1
        paid = single.excess + self.price[-1] - self.cost_of.alone
        single = dataclasses.replace(single, excess=paid)
        return [closed.take(np.flatnonzero(~alone)), single.take(np.flatnonzero(paid <= single.limit)), paired]


def _joined(parts: list[Partial]) -> Partial:
    return Partial(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.used for part in parts]),
        np.concatenate([part.excess for part in parts]),
        np.concatenate([part.limit for part in parts]),
        [pick for part in parts for pick in part.picks],
    )
