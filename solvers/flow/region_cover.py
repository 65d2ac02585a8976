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

#: Efforts: labels of a proof; labels a layer and covers a state of the (narrow) beams. With more labels a proof has
#: steps of 3 s that look at no clock.
EFFORTS: tuple[tuple[int, int, int], ...] = (
    (500_000, 300, 20),
    (500_000, 300, 20),
    (1_000_000, 1_000, 20),
    (1_000_000, 3_000, 20),
    (1_000_000, 10_000, 20),
)
#: How much wider a beam is when the narrow one has missed: measured with 24 nodes, 300 labels a layer find placements
#: of 80 layers in 3 s (3,000 in 18 s), while those of 60 layers near the bound take 3,000.
WIDER = 10
#: Shares of what is left of the budget that the proofs of each effort may take, and the beams.
PROOF_SHARES = (0.2, 0.25, 0.3, 0.4, 0.4)
BEAM_SHARE = 0.5
#: The share for proofs where the value is within reach: beams have little left to find.
NEAR_SHARE = 0.6
#: Quantiles that beams take all links between two regions to be, in turn; None: every link as it is, ranked anew. What
#: is found with narrower links passes more on the real ones, if it is found.
QUANTILES = (None, None, None, 0.9)
#: Placements taken from one beam.
ENDINGS = 12
#: Random ranking of labels in beams, prices, in turn; with less, beams find the same placements again.
NOISES = (0.3, 0.5, 1.0)
#: Targets tried by the proofs, and by the beams, of one effort.
TRIES = 5
#: Relative width at which an interval of targets is not halved any further.
NEAR = 1e-4
#: Relative distance of the bound at which the value itself is tried first, and the first leap of targets otherwise.
WITHIN_REACH = 0.02
FIRST_LEAP = 0.0025
#: Halvings of what is left above a target that is too hard.
HALVINGS = 8
#: Divisor of the labels of a proof for views other than the first, the one that proved last.
OTHERS = 50
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
        What is done with placements found for a target (tokens/s), to make the most of one on the real links.
    """

    def __init__(
        self,
        incumbent: Incumbent,
        regions: Sequence[Sequence[int]],
        top: int,
        realise: Callable[[Sequence[Sequence[NodeRange]], float, Budget], None],
    ) -> None:
        self.incumbent = incumbent
        self.upper = top
        self.realise = realise
        self.views = views_of(incumbent.problem, regions, incumbent.budget)
        self._possible: dict[View, int] = {}
        self._strongest = self.views[-1]
        self._beams = 0
        self._told = False
        self._wide = False
        self._master = PriceMaster(incumbent.instance, incumbent.budget)

    def prove(self, effort: int) -> None:
        """Lower the bound by leaps that grow with success; halve what is left above a target that is too hard."""
        share = NEAR_SHARE if self.near() else PROOF_SHARES[effort]
        with share_of(self.incumbent.budget, share) as budget:
            self._prove(effort, budget)

    def seek(self, effort: int) -> None:
        """Raise the value: beams at targets from the bound down by growing leaps, at most halfway to the value."""
        with share_of(self.incumbent.budget, BEAM_SHARE) as budget:
            self._seek(effort, budget)

    def _prove(self, effort: int, budget: Budget) -> None:
        too_hard: dict[View, int] = {}
        labels, leap = EFFORTS[effort][0], FIRST_LEAP
        low = self._ticks(self.incumbent.value) + 1
        target = low if self.near() else max(self._step_low(self._highest()), low)
        for _ in range(TRIES):
            if self._over(budget) or not self._disproven(target, labels, too_hard, budget):
                break
            high = self._highest()
            target = max(self._step_low(high - int(leap * high)), low)
            leap *= 2.0
        for _ in range(HALVINGS):
            high = self._highest()
            if self._over(budget) or high - target < NEAR * high:
                break
            middle = (target + high) // 2
            if not self._disproven(middle, EFFORTS[0][0], too_hard, budget, others=not self._told):
                target = middle

    def _seek(self, effort: int, budget: Budget) -> None:
        # Just below the bound: the last halving need not have met the largest possible target.
        target, leap = max(int((1.0 - NEAR) * self._highest()), self._ticks(self.incumbent.value) + 1), FIRST_LEAP
        for _ in range(TRIES):
            for quantile in QUANTILES:
                found = self._beamed(target, effort, budget, quantile)
                value = self._ticks(self.incumbent.value)
                if not found or value >= target or self._over(budget):
                    break
            if self._over(budget):
                return
            target = max(target - int(leap * target), value + (target - value) // 2, value + 1)
            leap *= 2.0

    def _beamed(self, target: int, effort: int, budget: Budget, quantile: float | None) -> bool:
        """Return whether a beam found a placement: a narrow one, then a wide one, or at once what found one before."""
        labels, beam, branch = EFFORTS[effort]
        answer = "missed"
        for wide in (self._wide, True):
            if self._over(budget):
                break
            width = WIDER * beam if wide else beam
            self._beams += 1
            noise = NOISES[self._beams % len(NOISES)]
            options = Options(width, np.inf, branch, noise, self._beams, most_labels=4 * labels, endings=ENDINGS)
            answer = self._search(self._strongest, target, options, budget, quantile)
            if answer != "missed" or wide:
                break
        self._wide = wide if answer == "found" else self._wide
        return answer == "found"

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

    def _disproven(
        self, target: int, labels: int, too_hard: dict[View, int], budget: Budget, *, others: bool = True
    ) -> bool:
        """Search the views for a proof, those that could not tell about a higher target left out."""
        for view in self.views[:] if others else self.views[:1]:
            if target <= max(too_hard.get(view, 0), self._possible.get(view, 0)) or self._over(budget):
                continue
            some = labels if view is self.views[0] else labels // OTHERS
            answer = self._search(view, target, Options(most_labels=some), budget)
            if answer == "impossible":
                self.views.remove(view)
                self.views.insert(0, view)  # what could tell once is asked first
                self._told = True
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
            placements = [view.place(ranges) for ranges in outcome.endings]
            self.incumbent.offer(placements[0])
            if not self._over(budget):
                with share_of(budget, REALISE_SHARE) as part:
                    self.realise(placements, view.instance.tokens(target), part)
        return outcome.answer

    def _highest(self) -> int:
        """Return the largest target not yet ruled out."""
        self.upper = min(self.upper, self._ticks(self.incumbent.bound))
        return self.upper

    def near(self) -> bool:
        """Return whether the value is so near the bound that it may be the optimum."""
        high = self._highest()
        return high - self._ticks(self.incumbent.value) <= WITHIN_REACH * high

    def _over(self, budget: Budget) -> bool:
        return self.incumbent.closed or budget.exhausted()

    def _ticks(self, tokens_per_s: float) -> int:
        return int(tokens_per_s / self.incumbent.instance.tokens_per_tick)
