"""Which caps on stage + outgoing hop are possible: a bound by device prices.

For a cap T, give every device a price λ ≥ 0, and every stage a fee μ ≥ 0. A plan pays the prices of the devices it
uses and the fee of its stages, at most Λ = Σ λ·count + μ·max_stages, since it uses each device at most once. The
cheapest way to cover all layers by stages within the cap, with devices used again and again, pays no more than any
plan. So when it costs more than Λ, no plan keeps within T. This is the dual of the linear programme over (device,
block of layers) pairs with hops; prices are found by subgradient steps, and every price vector is a valid proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement import bottleneck_kernels as kernels
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.tables import ClassPath

#: Covers rounding in the windows; caps that differ by less are not told apart (answers are exact to 1e-9).
TOLERANCE = 1e-12
#: A cap is refuted when the cheapest relaxed path costs this much more than all devices; covers rounding of sums.
MARGIN = 1e-9
#: Operations of one kernel call: about 10 ms.
CALL_WORK = 1e7
#: Steps without a better bound before the step length shrinks.
PATIENCE = 10


@dataclass(frozen=True)
class Cap:
    """The stages a cap leaves: see `bottleneck_kernels` for `reach` and `ending`."""

    cap_s: float
    reach: NDArray[np.int16]
    ending: IntArray


@dataclass(frozen=True)
class Priced:
    """Prices under a cap and what they prove.

    prices
        Of the classes, then the fee of a stage; Σ prices·counts + fee·max_stages = 1.
    cost
        cost[i, d]: least price to open d at i or earlier and to complete, shape (n, C); d's own price included.
    least
        Cost of a cheapest relaxed path; above 1 it refutes the cap.
    sequence
        Classes of a relaxed path that uses no more devices than there are, or None.
    """

    prices: FloatArray
    cost: FloatArray
    least: float
    sequence: IntArray | None

    @property
    def refuted(self) -> bool:
        """Whether it is proven that no plan of two stages or more keeps within the cap."""
        return self.least > 1.0 + MARGIN

    @property
    def entry(self) -> FloatArray:
        """Price and fee of one stage on each class, shape (C,)."""
        return np.ascontiguousarray(self.prices[:-1] + self.prices[-1])


class CapBounds:
    """Caps of one core (cycle numbers, no cap of its own): reaches, prices, refutations.

    With `linked`, a stage's outgoing hop is that to the device which follows; otherwise it is the least out of its
    device, which is less work by a factor C.
    """

    def __init__(self, core: Core, budget: Budget, *, linked: bool) -> None:
        self.core, self.budget = core, budget
        starts = np.arange(core.num_layers)
        self.furthest = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in core.low]).astype(np.int64)
        self.first = core.pred < 0
        self.counts = core.counts.astype(np.float64)
        self.least_hop = None if linked else _least_hop(core)
        self.start = self._even_prices()

    def cap(self, cap_s: float, first: int | None = None) -> Cap:
        """Return the stages within a cap; the return hop goes to class `first`, or to the nearest one when None."""
        core = self.core
        num, n = core.num_classes, core.num_layers
        reach = np.empty((num, n, num if self.least_hop is None else 1), dtype=np.int16)
        if self.least_hop is None:
            kernels.reaches(
                core.prefix,
                core.hop_s,
                core.hop_s_per_byte,
                core.boundary,
                self.furthest,
                cap_s,
                TOLERANCE,
                reach,
            )
        else:
            kernels.reaches_by_least_hop(core.prefix, self.least_hop, self.furthest, cap_s, TOLERANCE, reach)
        return Cap(cap_s, reach, self._ending(cap_s, first))

    def _ending(self, cap_s: float, first: int | None) -> IntArray:
        """Return the first start of a last stage of each class, shape (C,)."""
        core = self.core
        if core.back is None:
            back = np.zeros(core.num_classes)
        else:
            back = core.back.min(axis=1) if first is None else core.back[:, first]
        whole = core.prefix[:, -1]
        over = whole + back - cap_s - TOLERANCE * (cap_s + whole)
        ending = np.array([np.searchsorted(row, limit) for row, limit in zip(core.prefix, over, strict=True)])
        return np.asarray(np.maximum(ending, core.low[:, -1]), dtype=np.int64)

    def _even_prices(self) -> FloatArray:
        """Prices to start from: the share of the layers a device computes in the time of the fastest."""
        speed = 1.0 / np.maximum(self.core.prefix[:, -1], 1e-300)
        prices = np.append(speed / speed.max(), 0.0)
        return np.asarray(prices / float(prices[:-1] @ self.counts))

    def price(self, cap: Cap, steps: int, first: NDArray[np.bool_] | None = None) -> Priced:
        """Raise the prices until the cap is refuted, a relaxed path is a plan, or steps gain nothing.

        Every cap starts from even prices: those of another cap lead steps into a corner, measured again and again.
        """
        core = self.core
        n, num = core.num_layers, core.num_classes
        prices, best = self.start.copy(), self.start.copy()
        direction = np.zeros(num + 1)
        cost = np.full((n, num), np.inf)
        state = np.array([-np.inf, 1.0, 0.0, 0.0])
        path, length = np.zeros(n + 1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        per_call = max(1, int(CALL_WORK / (num * cap.reach.shape[2] * n)))
        done = 0
        while done < steps and not state[kernels.DONE] and not length[0]:
            if done and self.budget.exhausted():
                break
            done += kernels.raise_prices(
                cap.reach,
                cap.ending,
                self.first if first is None else first,
                self.counts,
                float(core.max_stages),
                min(per_call, steps - done),
                PATIENCE,
                prices,
                best,
                cost,
                direction,
                state,
                path,
                length,
            )
        self.budget.spend(done)
        return Priced(best, cost, float(state[kernels.BEST]), path[: length[0]].copy() if length[0] else None)

    def plan(self, sequence: IntArray) -> tuple[float, ClassPath] | None:
        """Return the least bottleneck of stages on these classes in this order and its path, or None."""
        core = self.core
        stops = np.zeros(len(sequence), dtype=np.int64)
        term = 0.0 if core.back is None else float(core.back[sequence[-1], sequence[0]])
        value = kernels.best_of_sequence(
            np.ascontiguousarray(sequence, dtype=np.int64),
            core.prefix,
            core.hop_s,
            core.hop_s_per_byte,
            core.boundary,
            term,
            core.low,
            core.top,
            stops,
        )
        if not np.isfinite(value):
            return None
        starts = [0, *stops[:-1].tolist()]
        path = tuple((int(c), a, int(b)) for c, a, b in zip(sequence, starts, stops, strict=True))
        return float(value), path


def _least_hop(core: Core) -> FloatArray:
    """Return the least hop out of each class at each boundary, shape (C, n+1)."""
    least = np.empty_like(core.prefix)
    for c in range(core.num_classes):
        # A hop is linear in the message: distinct boundaries need one minimum each.
        sizes, place = np.unique(core.boundary, return_inverse=True)
        hops = core.hop_s[c][:, None] + sizes[None, :] * core.hop_s_per_byte[c][:, None]
        least[c] = hops.min(axis=0)[place.reshape(-1)]
    return least
