"""`colgen`: batches as columns of a set-partitioning programme, priced in polynomial time and closed exactly.

    min Σ_c cost_c·z_c   with every request in exactly one chosen batch, z integer

* **Pricing.** The cost of a batch depends on its largest prompt S, largest output O and size alone. For every box
  (S, O) the best batch takes the largest duals among the requests it dominates: N²·N steps for all 2^N batches.
* **Stabilised** twice. A request that another one dominates (prompt and output no longer) can take its place in any
  batch, so its dual need not be larger: one free exchange column for each neighbouring pair says so. And prices are a
  mix of the best duals so far and the master's. Any prices give a bound: divided by the largest Σπ/cost of all
  batches they are feasible duals (Farley), and their sum is below every plan. Feasible duals are also *work shares*
  (see `bounds.shares`).
* **Branching on the number of batches** first: the LP likes 3.7 batches, a plan has 3 or 4. A bound on Σ z is one more
  dual, the same for all batches, so pricing stays as it is.
* **Closing the gap** on each side: boxes y and (request, box) pairs x as in `boxes`. Its LP is as strong as that over
  all columns (a cardinality polytope is integral), pairs whose reduced cost exceeds the gap cannot be in a better
  plan, and what remains is one small integer programme for HiGHS. That is the branch-and-price of this problem, its
  columns named by boxes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from gpuplan.errors import UnsupportedError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.batching.answer import answer
from gpuplan.solvers.batching.exact.additive import Additive, additive, why_not_additive
from gpuplan.solvers.batching.exact.boxes import close_gap
from gpuplan.solvers.batching.exact.master import Relaxation, Side, relax
from gpuplan.solvers.batching.heuristics.bands import Cut, cut, diagonal_orders
from gpuplan.solvers.batching.heuristics.lns import improve
from gpuplan.solvers.batching.heuristics.starts import Start, rate
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

NAME = "colgen"
MOST: Final = 600
_TOLERANCE: Final = 1e-9
#: Moves of the search for a first plan.
_MOVES: Final = 400_000
#: Searches in a row that find nothing before a side is left open.
_STALLS: Final = 3


def supports(problem: BatchingProblem) -> str | None:
    """Return why columns do not cover `problem`, with the mend, or None."""
    reason = why_not_additive(problem)
    if reason is not None:
        return f"{reason}; use auto, subset-dp (few requests) or cp-sat"
    if problem.num_requests > MOST:
        return f"it takes up to {MOST} requests, and there are {problem.num_requests:,}; use auto or bands"
    return None


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0, *, close: bool = True) -> Result[BatchSolution]:
    """Solve by column generation.

    Parameters
    ----------
    close
        Whether to close the gap by branching and integer programmes over boxes (the time limit permitting).

    Returns
    -------
    Result
        ``optimal``, or ``feasible`` with the bound of the LP or of the branches.
    """
    reason = supports(problem)
    if reason is not None:
        raise UnsupportedError(f"solver {NAME} cannot take this problem: {reason}")
    search = Search(problem, additive(problem), Budget(limits), seed)
    if problem.num_requests:
        search.run(close)
    return search.result(seed, close)


@dataclass(slots=True, eq=False)
class Search:
    """The best plan, the bound, and how it was proven, while the search runs."""

    problem: BatchingProblem
    form: Additive
    budget: Budget
    seed: int
    started: float = field(default_factory=time.perf_counter)
    best: Start = field(init=False)
    bound: float = 0.0
    kind: str = "LP over all batches"
    rounds: int = 0
    searches: int = 0

    def __post_init__(self) -> None:
        self.best = first_plan(self.problem, self.form, self.budget, self.seed)

    @property
    def upper(self) -> float:
        """Σ cost of the best plan."""
        return self.best.objective - self.form.constant

    def open(self, bound: float) -> bool:
        """Whether a plan better than the best is not excluded by `bound`, and there is time to look for it."""
        return self.upper - bound > _TOLERANCE * abs(self.best.objective) and not self.budget.exhausted()

    def run(self, close: bool) -> None:
        """Bound by the LP, branch on the number of batches, close each side."""
        root = relax(self.form, [batch.requests for batch in self.best.solution], self.budget, upper=self.upper)
        self.bound, self.rounds = root.bound, root.rounds
        if not root.finished:
            self.kind = "feasible duals"
        if not close or not self.open(self.bound):
            return
        sides = _sides(root)
        branches = [root if side is None else self._branch(root, side) for side in sides]
        self._raise([max(root.bound, branch.bound) for branch in branches], "LP by number of batches")
        if self.open(self.bound):
            self._search_on()
        closed = [self._close(branch, side) for branch, side in zip(branches, sides, strict=True)]
        self._raise(closed, "LP by number of batches, integer programmes over boxes")

    def _raise(self, bounds: list[float], kind: str) -> None:
        if min(bounds) > self.bound:
            self.bound, self.kind = min(bounds), kind

    def _branch(self, root: Relaxation, side: Side) -> Relaxation:
        branch = relax(self.form, root.columns, self.budget, upper=self.upper, side=side)
        self.rounds += branch.rounds
        return branch

    def _search_on(self) -> None:
        """Look for a better plan in a third of the time that is left: it shrinks the programmes that follow."""
        remaining, limits = self.budget.remaining_s, self.budget.limits
        seconds = min(remaining / 3.0, 2.0) if math.isfinite(remaining) else 2.0
        work = None if limits.work_limit is None else _MOVES
        search = Budget(Limits(time_limit_s=seconds, work_limit=work, cancel=limits.cancel))
        self.searches += 1
        self.best = improve(self.problem, self.best, search, self.seed + self.searches, seconds)

    def _close(self, branch: Relaxation, side: Side | None) -> float:
        """Return the bound of one side after its integer programme, when there is time and it is small enough.

        A better plan makes it smaller: while it is too large, the search goes on.
        """
        stalls = 0
        while self.open(branch.bound) and stalls < _STALLS:
            closed = close_gap(self.form, branch, side, self.upper, self.budget)
            if closed is None:
                before = self.best
                self._search_on()
                stalls += self.best is before
                continue
            if closed.batches is not None:
                found = rate(self.problem, "boxes", [closed.batches])
                self.best = found if found.better_than(self.best) else self.best
            return max(branch.bound, closed.bound)
        return branch.bound

    def result(self, seed: int, close: bool) -> Result[BatchSolution]:
        """Return the answer so far."""
        total, value = self.bound + self.form.constant, self.best.objective
        return answer(
            self.problem,
            self.best.solution,
            solver=NAME,
            started=self.started,
            seed=seed,
            work=self.budget.work,
            bound=total,
            bound_kind=self.kind,
            proven=value - total <= _TOLERANCE * max(abs(value), 1e-300),
            options={"close": close},
            notes=(f"{self.rounds} rounds of pricing",),
        )


def _sides(root: Relaxation) -> list[Side | None]:
    """Return the two sides of a broken number of batches, or the whole when it is not broken."""
    low, high = math.floor(root.batches + 1e-6), math.ceil(root.batches - 1e-6)
    if not root.finished or low >= high or low < 1:
        return [None]
    return [Side(low, at_least=False), Side(high, at_least=True)]


def first_plan(problem: BatchingProblem, form: Additive, budget: Budget, seed: int) -> Start:
    """Return the best contiguous plan of several orders, improved by a search of fixed length."""
    cuts: list[Cut] = []
    for order in diagonal_orders(form.prompt, form.output):
        if not cuts or not budget.exhausted():
            cuts.append(cut(form, order))
    best = min(cuts, key=lambda c: c.cost)
    start = rate(problem, "sums of the keys", [best.groups()])
    if problem.num_requests <= 8 or budget.exhausted():
        return start
    seconds = min(budget.remaining_s / 4.0, 60.0)
    search = Budget(Limits(time_limit_s=seconds, work_limit=_MOVES, cancel=budget.limits.cancel))
    return improve(problem, start, search, seed, seconds)
