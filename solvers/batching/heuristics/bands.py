"""`bands`: orders in which neighbours have alike prompts *and* outputs, cut into batches exactly.

Requests are dealt into bands of alike outputs; within a band they run by prompt, up in one band and down in the next,
so that the last of one and the first of the next are alike too. One band is prompt order, as many as requests is
output order; in between, two keys are short on both sides. Which number is best is found by trying: a contiguous
programme over each order, O(N·B), tells what it is worth. Bands are cut evenly between the rank and the logarithm
of the output, so that neither the bulk nor the tail lies in one band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.solvers.batching.exact import loops
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.exact.speed import fast
from gpuplan.solvers.limits import Budget

#: Share of the rank in where bands are cut; the logarithm has the rest.
_RANK_SHARES = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Rows in an order, the size of the last batch at each position, and what the batches cost."""

    order: IntArray
    back: IntArray
    cost: float

    def sizes(self) -> IntArray:
        """Return the sizes of the batches in order."""
        sizes = np.empty(len(self.order), dtype=np.int64)
        return sizes[fast(loops.unwind, len(self.order))(self.back, sizes) :]

    def groups(self) -> list[IntArray]:
        """Return the batches in order, as arrays of rows."""
        return np.split(self.order, np.cumsum(self.sizes())[:-1]) if len(self.order) else []


def cut(form: Additive, order: IntArray, rate: FloatArray | None = None, *, times: int = 1) -> Cut:
    """Cut an order into batches, at the least cost that contiguous batches have.

    `rate` as in `loops.ordered`; `times` says how many such cuts there will be (many are worth compiled code).
    """
    n = len(order)
    f, back = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64)
    run = fast(loops.ordered, n * form.limit, times=times)
    rates = np.ones(n) if rate is None else rate
    run(form.prompt[order], form.output[order], rates, form.k, form.capacity, form.limit, f, back)
    return Cut(order, back, float(f[n]))


class Bands:
    """Band orders of a table of requests."""

    def __init__(self, prompt: IntArray, output: IntArray) -> None:
        self.prompt = prompt
        self.by_output = np.lexsort((prompt, output)).astype(np.int64)
        x = np.log1p(output[self.by_output].astype(np.float64))
        spread = x[-1] - x[0] if len(x) else 0.0
        self.logarithm = (x - x[0]) / spread if spread > 0.0 else np.zeros(len(x))
        self.rank = np.arange(len(x)) / max(len(x), 1)

    def order(self, bands: int, rank_share: float) -> IntArray:
        """Return the rows, cut into `bands` by output and by prompt within each."""
        place = rank_share * self.rank + (1.0 - rank_share) * self.logarithm
        band = np.minimum((place * bands).astype(np.int64), bands - 1)
        prompt = self.prompt[self.by_output]
        signed = np.where(band % 2 == 0, prompt, -prompt)
        return np.asarray(self.by_output[np.lexsort((signed, band))])


def search(form: Additive, budget: Budget, *, rate: FloatArray | None = None, tries: int = 14) -> Cut:
    """Return the best cut of `tries` band orders, fewer when the time is up (one at least).

    The cost falls and rises again as bands get narrower: the number is searched from about √(N/B) by doubling and
    halving, then between the neighbours of the best.
    """
    bands = Bands(form.prompt, form.output)
    best: Cut | None = None
    seen: dict[tuple[int, float], float] = {}

    def attempt(count: int, share: float) -> float:
        nonlocal best
        key = (max(1, min(count, len(form.prompt))), share)
        if key not in seen and (best is None or (len(seen) < tries and not budget.exhausted())):
            trial = cut(form, bands.order(*key), rate, times=tries)
            budget.spend(len(trial.order))
            seen[key] = trial.cost
            if best is None or trial.cost < best.cost:
                best = trial
        return seen.get(key, np.inf)

    attempt(len(form.prompt), 1.0)  # by output alone
    start = max(2, round(1.4 * (len(form.prompt) / form.limit) ** 0.5))
    share = min(_RANK_SHARES, key=lambda s: attempt(start, s))
    centre, factor = start, 2.0
    while factor > 1.05 and len(seen) < tries and not budget.exhausted():
        around = (centre, max(1, round(centre / factor)), round(centre * factor))
        values = [attempt(count, share) for count in around]
        centre = around[int(np.argmin(values))]
        factor = factor if int(np.argmin(values)) else factor**0.5
    assert best is not None
    return best


def diagonal_orders(prompt: IntArray, output: IntArray) -> Iterator[IntArray]:
    """Yield orders by sums of the two keys: starts for methods that combine batches of many plans."""
    for a, b in ((0, 1), (1, 1), (1, 4), (1, 16), (4, 1), (1, 0)):
        yield np.argsort(a * prompt + b * output, kind="stable").astype(np.int64)
