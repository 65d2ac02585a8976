"""Which caps on stage + outgoing hop are possible: a bound by device prices.

For a cap T, give every device a price λ ≥ 0, and every stage a fee μ ≥ 0. A plan pays the prices of the devices it
uses and the fee of its stages, at most Λ = Σ λ·count + μ·max_stages, since it uses each device at most once (with
modes: what its stages take of each resource, at most its capacity). The cheapest way to cover all layers by stages
within the cap, with devices used again and again, pays no more than any plan. So when it costs more than Λ, no plan
keeps within T. This is the dual of the linear programme over (device, block of layers) pairs with hops; prices are
found by subgradient steps, and every price vector is a valid proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget, refuse_memory
from gpuplan.solvers.placement import bottleneck_kernels as kernels
from gpuplan.solvers.placement.bottleneck_core import CapCore, Edges
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.tables import ClassPath

#: Covers rounding in the windows: relative to the cap, and to the times of all layers, whose differences stages are
#: (a hundred roundings of them). Caps that differ by less are not told apart, so both stay well below the 1e-9 to which
#: answers are exact, the second one on devices that take a thousand times the cap for all layers, too.
TOLERANCE, OF_WHOLE = 1e-12, 1e-14
#: A cap is refuted when the cheapest relaxed path costs this much more than all devices; covers rounding of sums.
MARGIN = 1e-9
#: Operations of one kernel call: about 10 ms.
CALL_WORK = 1e7
#: Steps without a better bound before the step length shrinks.
PATIENCE = 10
#: Gain still hoped for, in step lengths, where only a refutation counts.
HOPE = 0.1


@dataclass(frozen=True)
class Cap:
    """The stages a cap leaves: see `bottleneck_kernels` for `reach`, `ending` and `holds`."""

    cap_s: float
    reach: NDArray[np.int16]
    ending: IntArray
    holds: FloatArray


@dataclass(frozen=True)
class Priced:
    """Prices under a cap and what they prove.

    prices
        Of the resources, then the fee of a stage; Σ prices·capacity + fee·max_stages = 1.
    entry
        Price and fee of one stage on each class, shape (C,).
    cost
        cost[i, d]: least price to open d at i or earlier and to complete, shape (n, C); d's own price included.
    least
        Cost of a cheapest relaxed path; above 1 it refutes the cap.
    sequence
        Classes of a relaxed path that uses no more devices than there are, or None.
    """

    prices: FloatArray
    entry: FloatArray
    cost: FloatArray
    least: float
    sequence: IntArray | None

    @property
    def refuted(self) -> bool:
        """Whether it is proven that no plan of two stages or more keeps within the cap."""
        return self.least > 1.0 + MARGIN


class CapBounds:
    """Caps of one core: reaches, prices, refutations.

    `edges` in place of the core's own make a relaxation of it (`by_least_hop`), for bounds alone.
    """

    def __init__(self, core: CapCore, budget: Budget, edges: Edges | None = None) -> None:
        self.core, self.budget = core, budget
        self.edges = core.edges if edges is None else edges
        starts = np.arange(core.num_layers)
        self.furthest = np.stack([np.searchsorted(row, starts, side="right") - 1 for row in core.low]).astype(np.int64)
        self.stock = core.stock
        takers = np.repeat(np.arange(core.num_classes), np.diff(core.stock.begin))
        self.shares = takers, 1.0 / np.bincount(takers, core.stock.amount, core.num_classes)[takers]
        refuse_memory("the search over caps", 2.0 * core.num_layers * len(self.edges.source), budget.limits)

    def cap(self, cap_s: float, first: int | None = None) -> Cap:
        """Return the stages within a cap; the return hop goes to class `first`, or to the nearest one when None."""
        core, edges = self.core, self.edges
        reach = np.empty((core.num_layers, len(edges.source)), dtype=np.int16)
        room = cap_s + TOLERANCE * cap_s + OF_WHOLE * core.prefix[:, -1]
        holds = np.empty(core.num_classes)
        kernels.reaches(core.prefix, edges.source, edges.earliest, self.furthest, room, reach, holds)
        return Cap(cap_s, reach, self._ending(cap_s, first), holds)

    def _ending(self, cap_s: float, first: int | None) -> IntArray:
        """Return the first start of a last stage of each class, shape (C,)."""
        core = self.core
        if core.back is None:
            back = np.zeros(core.num_classes)
        else:
            back = core.back[:, core.first].min(axis=1) if first is None else core.back[:, first]
        whole = core.prefix[:, -1]
        over = whole + back - cap_s - TOLERANCE * cap_s - OF_WHOLE * whole
        ending = (core.prefix < over[:, None]).sum(axis=1)
        return np.asarray(np.maximum(ending, core.low[:, -1]), dtype=np.int64)

    def _first_prices(self, cap: Cap) -> FloatArray:
        """Prices to start from: by the layers a stage can have within the cap."""
        holds = cap.holds if cap.holds.any() else np.ones_like(cap.holds)
        takers, share = self.shares
        each = np.zeros(len(self.stock.capacity))
        np.maximum.at(each, self.stock.resource, holds[takers] * share)
        return np.append(each, 0.0) / max(float(each @ self.stock.capacity), 1e-300)

    def refutes(self, cap_s: float, steps: int) -> bool:
        """Whether prices prove that no plan keeps within a cap; given up early where they will hardly do."""
        return self.price(self.cap(cap_s), steps, hope=HOPE).refuted

    def price(self, cap: Cap, steps: int, first: NDArray[np.bool_] | None = None, *, hope: float = math.inf) -> Priced:
        """Raise the prices until the cap is refuted, a relaxed path is a plan, or steps gain nothing.

        Every cap starts from prices of its own: those of another cap lead steps into a corner, as measured.
        """
        core = self.core
        n, num = core.num_layers, core.num_classes
        prices = self._first_prices(cap)
        best = prices.copy()
        direction = np.zeros(len(prices))
        cost = np.full((n, num), np.inf)
        state = np.array([-np.inf, 1.0, 0.0, 0.0])
        path, length = np.zeros(n + 1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        per_call = max(1, int(CALL_WORK / (cap.reach.size + num * n)))
        done = 0
        while done < steps and not state[kernels.DONE] and not length[0]:
            if done and self.budget.exhausted():
                break
            done += kernels.raise_prices(
                cap.reach,
                self.edges.ways,
                cap.ending,
                core.first if first is None else first,
                self.stock,
                float(core.max_stages),
                min(per_call, steps - done),
                PATIENCE,
                hope,
                prices,
                best,
                cost,
                direction,
                state,
                path,
                length,
            )
        self.budget.spend(done)
        entry = np.empty(num)
        kernels.stage_prices(self.stock, best, entry)
        sequence = path[: length[0]].copy() if length[0] else None
        return Priced(best, entry, cost, float(state[kernels.BEST]), sequence)

    def plan(self, sequence: IntArray) -> tuple[float, ClassPath] | None:
        """Return the least bottleneck of stages on these classes in this order and its path, or None."""
        return self.core.plan(sequence)
