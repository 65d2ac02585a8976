"""The linear programme of column generation: columns, exchanges, pricing, stabilised duals, a bound at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.solvers.batching.exact import pricing_loops
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.limits import Budget

#: Weight of the best duals so far in the prices asked for.
_SMOOTHING: Final = 0.5
_NEW_COLUMNS: Final = 60
#: Columns kept in the programme: the ones with the least reduced costs.
_KEPT: Final = 1_500
_TOLERANCE: Final = 1e-9
#: Feasible duals are shrunk by this much: what rounding can cost.
SAFE: Final = 1.0 - 1e-11


@dataclass(frozen=True, slots=True)
class Side:
    """A branch: at most (or at least) `batches` batches."""

    batches: int
    at_least: bool


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """What the linear programme proves.

    Parameters
    ----------
    dual, reward
        Feasible duals: Σ_{i in batch} dual + reward ≤ cost of every batch. Without a side the reward is 0 and the
        duals are work shares of the sum form.
    bound
        Σ dual + reward·(batches of the side).
    batches
        Number of batches in the last optimum, seldom whole.
    finished
        Whether the duals are the best ones.
    columns
        The batches in the programme.
    """

    dual: FloatArray
    reward: float
    bound: float
    batches: float
    finished: bool
    rounds: int
    columns: list[IntArray]


@dataclass(slots=True, eq=False)
class Pricer:
    """The boxes of a problem and the best batch of each under given duals."""

    form: Additive
    heights: IntArray = field(init=False)
    widths: IntArray = field(init=False)
    reduced: FloatArray = field(init=False)
    count: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.heights, self.widths = np.unique(self.form.prompt), np.unique(self.form.output)
        shape = (len(self.heights), len(self.widths))
        self.reduced, self.count = np.empty(shape), np.zeros(shape, dtype=np.int64)

    def price(self, dual: FloatArray, reward: float) -> float:
        """Price all boxes; return the factor that makes the duals feasible (1 when they are)."""
        form = self.form
        worst = fast(pricing_loops.price_boxes, float(self.reduced.size * len(dual)))(
            form.prompt,
            form.output,
            dual,
            float(reward),
            falling(dual),
            self.heights,
            self.widths,
            form.k,
            form.capacity,
            form.limit,
            self.reduced,
            self.count,
        )
        return 1.0 / worst if worst > 1.0 else 1.0

    def batch(self, x: int, y: int, order: IntArray) -> IntArray:
        """Return the best batch of box (x, y), `order` the requests by the duals last priced."""
        form = self.form
        inside = (form.prompt[order] <= self.heights[x]) & (form.output[order] <= self.widths[y])
        return np.sort(order[inside][: self.count[x, y]])


def falling(dual: FloatArray) -> IntArray:
    """Return the requests by dual, the largest first."""
    return np.argsort(-dual, kind="stable").astype(np.int64)


def exchanges(prompt: IntArray, output: IntArray) -> tuple[IntArray, IntArray]:
    """Return pairs (i, j): j is dominated by i with nothing between; equal requests stand in a row."""
    order = np.lexsort((output, prompt))
    o = output[order]
    larger, smaller = [], []
    for a in range(len(order)):
        low = -1  # the largest output below so far: only larger ones are neighbours
        for b in range(a - 1, -1, -1):
            if low < o[b] <= o[a]:
                larger.append(order[a])
                smaller.append(order[b])
                low = int(o[b])
                if low == o[a]:
                    break
    return np.array(larger, dtype=np.int64), np.array(smaller, dtype=np.int64)


@dataclass(slots=True, eq=False)
class Master:
    """The linear programme over the columns so far."""

    form: Additive
    side: Side | None
    columns: list[IntArray] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    pairs: tuple[IntArray, IntArray] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = exchanges(self.form.prompt, self.form.output)

    def cost(self, rows: IntArray) -> float:
        """Return the cost of one batch."""
        form = self.form
        return float(form.cost(np.array(len(rows)), form.prompt[rows].max(), form.output[rows].max()))

    def add(self, rows: IntArray) -> bool:
        """Take in a batch; False when it is known."""
        rows = np.sort(rows)
        if rows.tobytes() in self.known:
            return False
        self.known.add(rows.tobytes())
        self.columns.append(rows)
        self.costs.append(self.cost(rows))
        return True

    def solve(self) -> tuple[float, FloatArray, float, float]:
        """Return value, duals, reward, number of batches; covering, since smaller batches cost no more.

        The last column covers everything at a price no plan has, so that few batches are never impossible.
        """
        from scipy.optimize import linprog
        from scipy.sparse import csc_array, vstack

        n, count = len(self.form.prompt), len(self.columns)
        larger, smaller = self.pairs
        rows = np.concatenate([*self.columns, np.stack([smaller, larger], axis=1).ravel(), np.arange(n)])
        sizes = [*(len(column) for column in self.columns), *([2] * len(larger)), n]
        ones = -np.ones(sum(sizes[:count]))
        data = np.concatenate([ones, np.tile([-1.0, 1.0], len(larger)), -np.ones(n)])
        matrix = csc_array((data, rows, np.cumsum([0, *sizes])), shape=(n, len(sizes)))
        right = -np.ones(n)
        if self.side is not None:
            sign = -1.0 if self.side.at_least else 1.0
            row = np.concatenate([np.full(count, sign), np.zeros(len(larger) + 1)])
            matrix = vstack([matrix, csc_array(row[None, :])], format="csc")
            right = np.append(right, sign * self.side.batches)
        cost = np.concatenate([self.costs, np.zeros(len(larger)), [10.0 * sum(self.costs[:n]) + 1.0]])
        run: Any = linprog  # its stubs know no sparse matrices
        found = run(cost, A_ub=matrix, b_ub=right, bounds=(0, None), method="highs")
        prices = np.asarray(found.ineqlin.marginals, dtype=np.float64)
        dual = np.maximum(-prices[:n], 0.0)
        reward = 0.0
        if self.side is not None:
            reward = -float(prices[n]) if self.side.at_least else float(prices[n])
        self._forget(cost[:count] - np.array([float(dual[c].sum()) + reward for c in self.columns]), found.x[:count])
        return float(found.fun), dual, reward, float(found.x[:count].sum())

    def _forget(self, reduced: FloatArray, used: FloatArray) -> None:
        """Keep the programme small."""
        if len(self.columns) <= 2 * _KEPT:
            return
        kept = np.sort(np.argsort(np.where(used > 0.0, -1.0, reduced), kind="stable")[:_KEPT])
        self.columns = [self.columns[c] for c in kept.tolist()]
        self.costs = [self.costs[c] for c in kept.tolist()]
        self.known = {column.tobytes() for column in self.columns}


def relax(
    form: Additive, batches: list[IntArray], budget: Budget, *, upper: float = np.inf, side: Side | None = None
) -> Relaxation:
    """Return feasible duals of the set-partitioning LP, the best ones unless the budget ends first.

    Parameters
    ----------
    batches
        Columns to begin with.
    upper
        The search ends early once the bound reaches it.
    side
        A bound on the number of batches, or None.
    """
    master, pricer = Master(form, side), Pricer(form)
    for rows in (*(np.array([i]) for i in range(len(form.prompt))), *batches):
        master.add(rows)
    sized = 0.0 if side is None else float(side.batches)
    best, best_reward, best_bound, rounds = np.zeros(len(form.prompt)), 0.0, 0.0, 0
    while True:
        value, dual, reward, number = master.solve()
        rounds += 1
        fresh = 0
        for mix in (_SMOOTHING, 0.0):
            asked, extra = mix * best + (1.0 - mix) * dual, mix * best_reward + (1.0 - mix) * reward
            factor = pricer.price(asked, extra)
            budget.spend(pricer.reduced.size)
            if factor * (asked.sum() + extra * sized) > best_bound:
                best, best_reward = factor * asked, factor * extra
                best_bound = float(best.sum() + best_reward * sized)
            fresh = _take(master, pricer, asked, dual, reward)
            if fresh:
                break
        reached = best_bound >= min(value, upper) * (1.0 - _TOLERANCE)
        if fresh == 0 or reached or budget.exhausted():
            bound = float(SAFE * best.sum() + SAFE * best_reward * sized)
            bound -= 1e-11 * abs(best_reward * sized)
            done = fresh == 0 or reached
            return Relaxation(best * SAFE, best_reward * SAFE, bound, number, done, rounds, master.columns)


def _take(master: Master, pricer: Pricer, asked: FloatArray, dual: FloatArray, reward: float) -> int:
    """Add the best batches priced (one for each prompt and each output) that improve the master; return how many."""
    best_x, best_y = pricer.reduced.argmin(axis=0), pricer.reduced.argmin(axis=1)
    boxes = {(x, int(y)) for x, y in enumerate(best_y)} | {(int(x), y) for y, x in enumerate(best_x)}
    order, taken = falling(asked), 0
    for x, y in sorted(boxes, key=lambda box: (pricer.reduced[box], box)):
        if taken == _NEW_COLUMNS or pricer.count[x, y] == 0:
            break
        rows = pricer.batch(x, y, order)
        cost = master.cost(rows)
        if cost < float(dual[rows].sum()) + reward - _TOLERANCE * max(cost, 1e-9):
            taken += master.add(rows)
    return taken
