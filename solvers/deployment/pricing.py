"""A bound on deployments over many devices of several kinds: prices of devices that no replica outweighs.

The linear programme over all replicas c, with rates r_c and a_kc devices of kind k::

    maximise Σ r_c·z_c   under   Σ a_kc·z_c ≤ N_k        (or: minimise what they cost under Σ r_c·z_c ≥ demand)

has as its dual prices π with ``r_c ≤ Σ π_k·a_kc`` for every c, and ``Σ π_k·N_k`` is then a bound. Prices come from the
programme over the replicas seen so far. Boxes (see `boxes`) say by how much any replica may outweigh them, λ times,
and λ·Σ π_k·N_k is a bound. Boxes that may outweigh them are split; in fine ones the chain that costs least is found
(see `box_chains`). Chains that do outweigh the prices are taken into the programme: column generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.box_chains import box_chains
from gpuplan.solvers.deployment.boxes import Boxes, Maker, joined
from gpuplan.solvers.deployment.ceilings import Counts
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.prices import CLOSE, Offers, Prices, Seen
from gpuplan.solvers.deployment.weighing import weigh
from gpuplan.solvers.limits import Budget

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: Rounds of prices at most, and boxes split at a time (about).
ROUNDS: Final = 400
#: Rounds without a new replica or a bound that is better by `CLOSE`, at most.
STALLED: Final = 12
AT_ONCE: Final = 200
#: Chains taken in a round, and fine boxes looked at until it ends.
TAKEN: Final = 10
MOST_LOOKED: Final = 600
#: Ranges of the slowest stages, largest to least, at which chains are looked for in a box, and at which it stays whole.
FINE: Final = 1.015
FINEST: Final = 1.001
#: Boxes kept, about.
MOST_BOXES: Final = 300_000
#: Share of the best prices so far in the next ones to be tried, and below which it is left out.
CENTRED: Final = 0.5
LEAST_SHARE: Final = 0.01
#: A device has at least this share of the average price, and this for each share of the best prices so far.
LEAST_PRICE: Final = 1e-3
FIRST_PRICE: Final = 0.3


@dataclass(slots=True)
class Priced:
    """What the search for prices came to.

    value
        The bound; None where the linear programme was not solved.
    chains
        Replicas that matter at these prices, the most used first.
    """

    value: float | None
    chains: list[Chosen]


@dataclass(slots=True)
class _Course:
    """Which prices are tried next: the programme's own, or between those and the ones of the best bound so far.

    centre
        Duals of the best bound so far, of the kinds, of a replica, of a device, of the demand; None: not known.
    share
        What of them is in the next prices.
    stalled
        Rounds without a new replica or a bound that is better by `CLOSE`.
    """

    goal: Goal
    centre: Floats | None
    best: float | None = None
    share: float = CENTRED
    stalled: int = 0

    def next(self, duals: Floats) -> Floats:
        """Return the duals to be tried."""
        if self.centre is None or self.share < LEAST_SHARE:
            self.share = 0.0
        return duals if self.centre is None else (1 - self.share) * duals + self.share * self.centre

    def hear(self, value: float, tried: Floats, *, fresh: bool) -> None:
        """Take note of the bound that `tried` give, and of whether new replicas came with it."""
        self.stalled = 0 if fresh else self.stalled + 1
        if math.isfinite(value) and (self.best is None or self.goal.better(self.best, value)):
            if self.best is None or abs(self.best - value) > CLOSE * abs(self.best):
                self.stalled = 0
            self.best, self.centre = value, tried

    def ended(self, reached: float, *, more: bool) -> bool:
        """Return whether these replicas lead no further: the bound meets their programme, or nothing has changed.

        Parameters
        ----------
        more
            Whether replicas may outweigh the prices still.
        """
        met = self.best is not None and abs(self.best - reached) <= CLOSE * abs(reached)
        return met or self.stalled >= STALLED or (self.share == 0.0 and not more)

    def begin_again(self) -> None:
        """Go on from the best prices so far."""
        self.share, self.stalled = CENTRED, 0

    def steer(self, *, fresh: bool, late: bool) -> None:
        """Go nearer to the programme's own prices where nothing outweighs these, less near where boxes are in doubt."""
        self.share = CENTRED if fresh else 0.5 * (1.0 + self.share) if late else 0.5 * self.share


class Pricing:
    """The search for prices."""

    def __init__(self, maker: Maker, goal: Goal, counts: Counts, budget: Budget) -> None:
        self.maker, self.goal, self.counts, self.budget = maker, goal, counts, budget

    def run(self, known: Sequence[tuple[float, Counts]], centre: Floats | None, enough: float | None) -> Priced:
        """Return the bound; stops once it meets `enough`.

        Parameters
        ----------
        known
            Rates and devices of replicas there are.
        centre
            Duals to begin with: of the kinds, of a replica, of a device, of the demand.
        """
        offers, course, boxes = Offers(self.goal, self.counts, known), _Course(self.goal, centre), self.maker.roots()
        for _ in range(ROUNDS):
            solved = offers.solve()
            if solved is None or not len(boxes):
                break
            tried = course.next(solved.duals)
            prices = offers.prices(tried, max(LEAST_PRICE, FIRST_PRICE * course.share))
            if prices is None:
                break
            boxes, ratio, found = self._round(boxes, prices, offers)
            fresh, late = offers.add(found), not found and ratio > CLOSE
            course.hear(offers.proven(prices, ratio), tried, fresh=fresh)
            if self._enough(course.best, enough) or self.budget.exhausted() or len(boxes) > MOST_BOXES:
                break
            if not course.ended(solved.value, more=fresh or late):
                course.steer(fresh=fresh, late=late)
            elif offers.tighten():
                course.begin_again()
            else:
                break
        return Priced(course.best, offers.chains())

    def _enough(self, best: float | None, enough: float | None) -> bool:
        return enough is not None and best is not None and not self.goal.better(best, enough)

    def _round(self, boxes: Boxes, prices: Prices, offers: Offers) -> tuple[Boxes, float, list[Seen]]:
        """Split boxes and find chains until enough of them outweigh the prices, or nothing does.

        Returns
        -------
        tuple
            The boxes, by what share of its price any replica outweighs the prices at most, and replicas that do.
        """
        sheet, looked = _Sheet(self.maker, boxes, prices), 0
        found: list[Seen] = []
        while not self.budget.exhausted() and len(found) < TAKEN and looked < MOST_LOOKED:
            fine = sheet.unseen()
            if len(fine):
                chains = [seen for seen in sheet.look(fine) if offers.wanted(seen, prices)]
                found += _best_of(chains, prices)
                looked += len(fine)
                continue
            rows = sheet.dividable()
            if rows is None:
                break
            sheet.divide(rows)
        return sheet.boxes, sheet.largest_ratio(), found


class _Sheet:
    """Boxes weighed at one set of prices.

    Attributes
    ----------
    over, least
        By how much a replica of each box may outweigh its devices, and what those are worth at least.
    seen
        Which boxes have had their chains looked at.
    fresh
        Which boxes the last split made.
    """

    def __init__(self, maker: Maker, boxes: Boxes, prices: Prices) -> None:
        self.maker, self.boxes, self.prices = maker, boxes, prices
        self.over, self.least = weigh(maker, boxes, prices)
        self.seen, self.fresh = np.zeros(len(boxes), dtype=bool), np.zeros(len(boxes), dtype=bool)

    def hot(self) -> Bools:
        """Return which boxes may outweigh the prices."""
        return self.over > CLOSE * self.least

    def ratios(self, rows: Ints | Bools) -> Floats:
        """Return by what share of its price each box may outweigh it; inf where it may be worth next to nothing."""
        with np.errstate(over="ignore"):
            ratios: Floats = self.over[rows] / self.least[rows]
        return ratios

    def unseen(self) -> Ints:
        """Return the hot boxes fine enough to have their chains looked at, those that may outweigh most first."""
        fine = np.flatnonzero(self.hot() & ~self.maker.splittable(self.boxes, FINE) & ~self.seen)
        return fine[np.argsort(-self.ratios(fine), kind="stable")][:AT_ONCE]

    def look(self, rows: Ints) -> list[Seen]:
        """Look at the chains of boxes; return what replicas they stand for."""
        over, chains = box_chains(self.maker, self.boxes.take(rows), self.prices, self.least[rows])
        self.over[rows] = np.minimum(self.over[rows], over)
        self.seen[rows] = True
        return chains

    def dividable(self) -> Ints | None:
        """Return the boxes to split: first down to fine boxes, then the others, and only then finer ones."""
        hot, rough = self.hot(), self.maker.splittable(self.boxes, FINE)
        choices = (hot & rough & self.fresh, hot & rough, hot & self.maker.splittable(self.boxes, FINEST))
        rows = next((some for choice in choices if len(some := np.flatnonzero(choice))), None)
        return None if rows is None else _foremost(rows, self.boxes.point[rows], self.ratios(rows))

    def divide(self, rows: Ints) -> None:
        """Put the halves of boxes in their place."""
        children = self.maker.halves(self.boxes.take(rows))
        over, least = weigh(self.maker, children, self.prices)
        kept = np.ones(len(self.boxes), dtype=bool)
        kept[rows] = False
        self.boxes = joined([self.boxes.take(kept), children])
        self.over, self.least = np.concatenate([self.over[kept], over]), np.concatenate([self.least[kept], least])
        self.seen = np.concatenate([self.seen[kept], np.zeros(len(children), dtype=bool)])
        self.fresh = np.arange(len(self.boxes)) >= len(self.boxes) - len(children)

    def largest_ratio(self) -> float:
        """Return by what share of its price any replica outweighs the prices at most."""
        hot = self.over > 0.0
        return float(self.ratios(hot).max()) if hot.any() else 0.0


def _best_of(found: Sequence[Seen], prices: Prices) -> list[Seen]:
    """Return the replicas that outweigh the prices most, each vector of devices once."""
    ranked = sorted(found, key=lambda own: own.value / prices.of(own))
    return list({tuple(own.devices): own for own in ranked}.values())[::-1][:TAKEN]


def _foremost(rows: Ints, groups: Ints, merit: Floats) -> Ints:
    """Return the rows of most merit, the same number of each group, `AT_ONCE` or a few more together."""
    share = math.ceil(AT_ONCE / max(len(np.unique(groups)), 1))
    order = np.lexsort((-merit, groups))
    rows, groups = rows[order], groups[order]
    starts = np.searchsorted(groups, groups, side="left")
    return rows[np.arange(len(rows)) - starts < share]
