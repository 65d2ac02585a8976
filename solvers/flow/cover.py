"""The search where no link binds: best covers from below, the bound from above, until they meet.

By *cover = flow* a placement passes the least coverage of any layer, so the question is how large F can be with every
layer covered by F. The configuration bound is where the search starts; there prices leave hardly any slack, and the
label search finds a cover or proves that there is none. The slack is a step function of F: a whole step is as hard as
its top, and disproving its low end disproves all of it. So proofs go down step by step, while beams look for covers
from below; efforts grow until one meets the other.
"""

from __future__ import annotations

from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.labels import Options, Outcome, Range, search_labels
from gpuplan.solvers.flow.parts import part_of
from gpuplan.solvers.flow.prices import PriceMaster, PricePool, Prices, configuration_bound

#: Shares of the bound at which beams look for a first cover.
FIRST_TARGETS = (0.99, 0.96, 0.9, 0.8, 0.65, 0.45, 0.25, 0.1, 0.02)
#: Efforts: labels a layer of a beam; covers a state; window of its transitions, as a multiple of the slack a layer and
#: at most; labels in all of a search without a beam.
EFFORTS = (
    (200, 20, 3.0, 0.05, 60_000),
    (200, 30, 8.0, 0.1, 200_000),
    (1_000, 100, 40.0, 0.2, 600_000),
    (3_000, 150, 80.0, 0.4, 2_000_000),
    (10_000, 200, 160.0, 0.5, 8_000_000),
    (30_000, 300, 300.0, 0.7, 30_000_000),
    (100_000, 500, 600.0, 1.0, 100_000_000),
)
#: Targets tried by the beams of one effort.
TRIES = 7
#: Relative width at which an interval of targets is not halved any further.
NEAR = 2e-6
#: Slack that counts as the same step.
SAME_SLACK = 1e-7


class CoverSearch:
    """Raises the best cover and lowers the bound until they meet, effort by effort.

    With `covers_first` a cover is looked for before any proof: where covers are what matters, and time may be short.
    """

    def __init__(self, incumbent: Incumbent, master: PriceMaster, top: Prices, *, covers_first: bool = False) -> None:
        self.covers_first = covers_first
        self.incumbent = incumbent
        self.instance = incumbent.instance
        self.budget = incumbent.budget
        self.master = master
        self.pool = PricePool(master)
        self.upper = top.items.target
        self.lower = 0
        self.best: tuple[Range, ...] = ()

    def run(self, efforts: int = len(EFFORTS), share: float = 1.0) -> None:
        """Search until settled, out of efforts, or out of a share of the budget."""
        outer = self.incumbent.budget
        self.budget = part_of(outer, share) if share < 1.0 else outer
        self._run(efforts)
        if self.budget is not outer:
            outer.spend(self.budget.work)

    def _run(self, efforts: int) -> None:
        for effort in range(efforts):
            proof_first = effort == 0 and not self.covers_first
            for step in (self._prove, self._raise) if proof_first else (self._raise, self._prove):
                if self.settled or self.budget.exhausted():
                    return
                step(effort)

    @property
    def settled(self) -> bool:
        """Whether no larger target is left."""
        return self.lower >= self.upper

    def _prove(self, effort: int) -> None:
        """Disprove targets below the bound, by leaps that grow with success and shrink when they are too hard."""
        labels = EFFORTS[effort][4]
        leap, hard = 0 if effort == 0 else max(int(self.upper * 1e-4), 1), 0
        for _ in range(TRIES):
            target = max(self._step_low(self.upper - leap), self.lower + 1)
            if effort == 0 and leap == 0:
                target = self.upper
            if target <= hard * (1.0 + 5.0 * NEAR):  # the step that was too hard already
                return
            answer = self._thorough(target, labels)
            if answer == "found":
                self._climb(labels)
            if answer == "found" or self.settled or self.budget.exhausted():
                return
            hard = hard if answer == "impossible" else target
            leap = max(3 * leap, int(self.upper * 1e-4), 1) if answer == "impossible" else leap // 4
            if leap < NEAR * self.upper:
                return

    def _climb(self, labels: int) -> None:
        """Halve what is left between a cover and the bound of its step."""
        while not self.settled and not self.budget.exhausted():
            near = self.upper - self.lower <= NEAR * self.upper
            target = self.lower + 1 if near else self.lower + (self.upper - self.lower + 1) // 2
            if self._thorough(target, labels) not in ("found", "impossible"):
                return

    def _step_low(self, high: int) -> int:
        """Return (nearly) the lowest target with as little slack as `high`, as far as the limits allow."""
        worth = self._worth(high)
        width, low = max(int(high * NEAR), 1), high
        while (
            low - width > self.lower and not self.budget.exhausted() and self._worth(low - width) <= worth + SAME_SLACK
        ):
            low, width = low - width, 2 * width
        while width > max(int(high * NEAR), 1) and not self.budget.exhausted():
            width //= 2
            if low - width > self.lower and self._worth(low - width) <= worth + SAME_SLACK:
                low -= width
        return low

    def _worth(self, target: int) -> float:
        return self.master.solve(target).worth

    def _raise(self, effort: int) -> None:
        """Beams at falling targets until one finds a cover, then halfway up."""
        high = self.upper
        if self.lower == 0:
            for share in FIRST_TARGETS:
                target = max(int(self.upper * share), 1)
                if self._beam(target, effort) or self.settled or self.budget.exhausted():
                    break
                high = min(high, target)
        for _ in range(TRIES):
            high = min(high, self.upper)
            if high - self.lower <= NEAR * high or self.budget.exhausted():
                return
            target = self.lower + max((high - self.lower) // 2, 1)
            if not self._beam(target, effort):
                high = max(self._step_low(target), self.lower + 1)

    def _beam(self, target: int, effort: int) -> bool:
        prices = self._prices(target)
        if prices is None:
            return False
        beam, branch, multiple, most, labels = EFFORTS[effort]
        layers = self.instance.num_layers
        window = min(multiple * max(prices.worth / layers - 1.0, 0.0), most)
        options = Options(beam, window, branch, single_layers=self.incumbent.single_layers, most_labels=8 * labels)
        pool = self.pool.scaled_to(prices) if effort > 0 else ()
        outcome = search_labels(self.instance, prices, options, self.budget, pool)
        if outcome.answer == "impossible":
            self._lower_upper(target - 1, "label search")
        return self._take(outcome)

    def _thorough(self, target: int, labels: int) -> str:
        """Search without a beam; return its answer."""
        prices = self._prices(target)
        if prices is None:
            return "impossible"
        options = Options(single_layers=self.incumbent.single_layers, most_labels=labels)
        pool = self.pool.scaled_to(prices) if labels > EFFORTS[0][4] else ()
        outcome = search_labels(self.instance, prices, options, self.budget, pool)
        self._take(outcome)
        if outcome.answer == "impossible":
            self._lower_upper(target - 1, "label search")
        return outcome.answer

    def _prices(self, target: int) -> Prices | None:
        """Return prices for a target; None when they disprove it (the bound then falls)."""
        prices = self.master.solve(target)
        if not prices.impossible(self.instance.num_layers):
            return prices
        self._lower_upper(target - 1, "configuration bound")
        return None

    def _lower_upper(self, upper: int, kind: str) -> None:
        if upper < self.upper:
            self.upper = max(upper, self.lower)
            self.incumbent.lower_bound_to(self.instance.bound_tokens(self.upper), kind)

    def _take(self, outcome: Outcome) -> bool:
        if outcome.answer != "found":
            return False
        self.incumbent.offer(self.incumbent.place(outcome.ranges))
        ticks = [0] * self.instance.num_layers
        for item in outcome.ranges:
            for layer in range(item.start, item.start + item.layers):
                ticks[layer] += int(self.instance.ticks[item.kind, item.layers])
        if min(ticks) > self.lower:
            self.lower, self.best = min(ticks), outcome.ranges
        return True


def start(incumbent: Incumbent, top: int) -> tuple[PriceMaster, Prices]:
    """Return the configuration LP and prices at its bound, which the incumbent takes over."""
    master = PriceMaster(incumbent.instance, incumbent.budget, incumbent.single_layers)
    prices = configuration_bound(master, top)
    incumbent.lower_bound_to(incumbent.instance.bound_tokens(prices.items.target), "configuration bound")
    return master, prices
