"""Bounds and placements where links between regions bind: label searches by regions, from both ends.

What the search of a view (`views.py`) finds impossible lowers the bound. What it finds is not yet a flow on the real
links: it is offered, then made the most of by annealing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.labels import Options
from gpuplan.solvers.flow.parts import share_of
from gpuplan.solvers.flow.prices import PriceMaster
from gpuplan.solvers.flow.views import View, views_of
from gpuplan.solvers.limits import Budget

#: Efforts: labels of a proof; labels a layer and covers a state of the beams.
EFFORTS: tuple[tuple[int, int, int], ...] = (
    (150_000, 300, 20),
    (500_000, 300, 20),
    (1_500_000, 1_000, 20),
    (5_000_000, 3_000, 20),
    (20_000_000, 10_000, 40),
)
#: Shares of what is left of the budget that the proofs, and the beams, of each effort may take.
PROOF_SHARES = (0.15, 0.25, 0.3, 0.4, 0.4)
#: The same for the proofs where the value is within reach: beams have little left to find.
NEAR_SHARE = 0.6
BEAM_SHARES = (0.3, 0.4, 0.4, 0.4, 0.4)
#: Quantiles that beams take all links between two regions to be, in turn; None: the widest. What is found with narrower
#: links passes more on the real ones, if it is found: of five clusters of 24 nodes three need 0.9 and two the widest.
QUANTILES = (0.9, None, 0.7)
#: Random ranking of labels in beams, prices, in turn.
NOISES = (0.05, 0.3, 0.1)
#: Targets tried by the proofs, and by the beams, of one effort.
TRIES = 5
#: Relative width at which an interval of targets is not halved any further.
NEAR = 1e-4
#: Relative distance of the bound at which the value itself is tried first, and the first leap of targets otherwise.
WITHIN_REACH = 0.02
FIRST_LEAP = 0.0025
#: Slack that counts as the same step.
SAME_SLACK = 1e-7
#: Share of that for annealing a placement found.
REALISE_SHARE = 0.5


class RegionCover:
    """Raises the incumbent and lowers its bound by label searches over views of the regions.

    Parameters
    ----------
    top
        Ticks that no placement exceeds.
    realise
        What is done with a placement found for a target (tokens/s), to make the most of it on the real links.
    """

    def __init__(
        self,
        incumbent: Incumbent,
        regions: Sequence[Sequence[int]],
        top: int,
        realise: Callable[[Sequence[NodeRange], float, Budget], None],
    ) -> None:
        self.incumbent = incumbent
        self.upper = top
        self.realise = realise
        self.views = views_of(incumbent.problem, regions, incumbent.budget)
        self._possible: dict[View, int] = {}
        self._strongest = self.views[-1]
        self._beams = 0
        self._master = PriceMaster(incumbent.instance, incumbent.budget)

    def prove(self, effort: int) -> None:
        """Lower the bound step by step, by leaps that grow with success and shrink when they are too hard."""
        share = NEAR_SHARE if self._near() else PROOF_SHARES[effort]
        with share_of(self.incumbent.budget, share) as budget:
            self._prove(effort, budget)

    def seek(self, effort: int) -> None:
        """Raise the value: beams at the tops of steps from the bound down, then halfway to the value."""
        with share_of(self.incumbent.budget, BEAM_SHARES[effort]) as budget:
            self._seek(effort, budget)

    def _prove(self, effort: int, budget: Budget) -> None:
        too_hard: dict[View, int] = {}
        low, high = self._ticks(self.incumbent.value) + 1, self._highest()
        target, leap = low if self._near() else max(self._step_low(high), low), int(FIRST_LEAP * high)
        for _ in range(TRIES):
            if self._over(budget):
                break
            proven = self._disproven(target, EFFORTS[effort][0], too_hard, budget)
            high = self._highest()
            leap = 2 * leap if proven else min(leap, high - target) // 4
            too_hard_a_step = not proven and self._step_low(high) <= target
            if high < low or leap <= NEAR * high or too_hard_a_step:
                break
            target = max(self._step_low(high - leap), low)

    def _seek(self, effort: int, budget: Budget) -> None:
        target = self._highest()
        labels, beam, branch = EFFORTS[effort]
        for _ in range(TRIES):
            for quantile in QUANTILES:
                if self._over(budget):
                    return
                self._beams += 1
                noise = NOISES[self._beams % len(NOISES)]
                options = Options(beam, np.inf, branch, noise, self._beams, most_labels=8 * labels)
                if self._search(self._strongest, target, options, budget, quantile) != "found":
                    break
            value = self._ticks(self.incumbent.value)
            target = max(self._step_low(target) - 1, value + (target - value) // 2, value + 1)

    def _step_low(self, high: int) -> int:
        """Return the lowest target with as little slack as `high`, as far as the limits allow."""
        worth, budget = self._worth(high), self.incumbent.budget
        width, low = max(int(high * NEAR), 1), high
        while low - width > 0 and not budget.exhausted() and self._worth(low - width) <= worth + SAME_SLACK:
            low, width = low - width, 2 * width
        while width > 1 and not budget.exhausted():
            width //= 2
            if low - width > 0 and self._worth(low - width) <= worth + SAME_SLACK:
                low -= width
        return low

    def _worth(self, target: int) -> float:
        return self._master.solve(max(target, 1)).worth

    def _disproven(self, target: int, labels: int, too_hard: dict[View, int], budget: Budget) -> bool:
        """Search the views for a proof, those that could not tell about a higher target left out."""
        for view in list(self.views):
            if target <= max(too_hard.get(view, 0), self._possible.get(view, 0)) or self._over(budget):
                continue
            answer = self._search(view, target, Options(most_labels=labels), budget)
            if answer == "impossible":
                self.views.remove(view)
                self.views.insert(0, view)  # what could tell once is asked first
                return True
            if answer == "found":
                self._possible[view] = target
            too_hard[view] = target
        return False

    def _search(self, view: View, target: int, options: Options, budget: Budget, quantile: float | None = None) -> str:
        outcome, kind = view.search(target, options, budget, quantile)
        if outcome.answer == "impossible":
            self.upper = min(self.upper, target - 1)
            self.incumbent.lower_bound_to(view.instance.bound_tokens(target - 1), kind)
        elif outcome.answer == "found" and view is self._strongest:
            placement = view.place(outcome.ranges)
            self.incumbent.offer(placement)
            if not self._over(budget):
                with share_of(budget, REALISE_SHARE) as part:
                    self.realise(placement, view.instance.tokens(target), part)
        return outcome.answer

    def _highest(self) -> int:
        """Return the largest target not yet ruled out."""
        self.upper = min(self.upper, self._ticks(self.incumbent.bound))
        return self.upper

    def _near(self) -> bool:
        """Return whether the value is so near the bound that it may be the optimum."""
        high = self._highest()
        return high - self._ticks(self.incumbent.value) <= WITHIN_REACH * high

    def _over(self, budget: Budget) -> bool:
        return self.incumbent.closed or budget.exhausted()

    def _ticks(self, tokens_per_s: float) -> int:
        return int(tokens_per_s / self.incumbent.instance.tokens_per_tick)
