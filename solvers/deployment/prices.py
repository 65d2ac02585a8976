"""Prices of devices: the duals of the linear programme over the replicas seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.solvers.deployment.ceilings import Counts
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.packing import Relaxed, relaxed, row_limits

Floats = NDArray[np.float64]
#: A replica that outweighs the prices by no more than this share is as good as none.
CLOSE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica in the programme: its rate, its devices by kind, and its chain where a box brought it."""

    value: float
    devices: Floats
    chain: Chosen | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by kind of device and of a replica; the bound they give is ``base + scale·(1 or 1/λ)``."""

    devices: Floats
    replica: float
    scale: float
    base: float

    def of(self, own: Seen) -> float:
        """Return what a replica's devices and the replica itself are worth."""
        return float(self.devices @ own.devices) + self.replica


class Offers:
    """The replicas seen so far and the programme over them.

    Attributes
    ----------
    loose
        Whether replicas that take more of a kind than there is may be among them: they bring prices near soon, but
        none can be placed.
    """

    def __init__(self, goal: Goal, counts: Counts, known: Sequence[tuple[float, Counts]]) -> None:
        self.goal = goal
        self.counts = np.array(counts, dtype=np.float64)
        self.limits = row_limits(goal, counts)
        self.weights = np.array(goal.weights)
        self.loose = True
        self._seen = [Seen(rate, np.array(own, dtype=np.float64)) for rate, own in known]
        self._found: dict[tuple[float, ...], float] = {}
        self._uses: Floats = np.zeros(0)

    def solve(self) -> Relaxed | None:
        """Solve the programme; None where it has no answer."""
        if not self._seen:
            return None
        devices = np.array([own.devices for own in self._seen])
        solved = relaxed(devices, np.array([own.value for own in self._seen]), self.goal, self.limits)
        if solved is not None:
            self._uses = solved.uses
        return solved

    def add(self, found: Sequence[Seen]) -> bool:
        """Take replicas into the programme; return whether any serves more than one on as many devices did."""
        fresh = [own for own in found if own.value > self._found.get(tuple(own.devices), 0.0)]
        self._found.update((tuple(own.devices), own.value) for own in fresh)
        self._seen += fresh
        return bool(fresh)

    def wanted(self, own: Seen, prices: Prices) -> bool:
        """Return whether a replica outweighs the prices and may be in the programme."""
        return (self.loose or bool((own.devices <= self.counts).all())) and own.value > prices.of(own) * (1 + CLOSE)

    def tighten(self) -> bool:
        """Leave out replicas that take more of a kind than there is; return whether there were any."""
        before = len(self._seen)
        self.loose = False
        self._seen = [own for own in self._seen if (own.devices <= self.counts).all()]
        return len(self._seen) < before

    def chains(self) -> list[Chosen]:
        """Return the chains that the programme was last made of, the most used first."""
        used = sorted(zip(self._uses, self._seen, strict=False), key=lambda pair: -pair[0])
        return [seen.chain for _, seen in used if seen.chain is not None]

    def prices(self, duals: Floats, least: float) -> Prices | None:
        """Return what the duals say of devices and replicas, in units of the rate; None where a rate is worth nothing.

        Parameters
        ----------
        least
            A device of any kind has at least this share of the average price.
        """
        kinds = len(self.counts)
        devices, limits = duals[:kinds] + duals[kinds + 1], self.limits[: kinds + 2]
        fixed = float(duals[: kinds + 2] @ limits)
        if self.goal.maximised:
            floor = np.maximum(least * fixed / self.counts.sum() - devices, 0.0)
            return Prices(devices + floor, float(duals[kinds]), fixed + float(floor @ self.counts), 0.0)
        assert self.goal.problem.demand_rps is not None
        rate = float(duals[-1]) / self.goal.problem.demand_rps
        if rate <= 0.0:
            return None
        floor = np.maximum(1e-9 * float(self.weights.max()) - self.weights - devices, 0.0)
        base = -fixed - float(floor @ self.counts)
        return Prices((self.weights + devices + floor) / rate, float(duals[kinds]) / rate, float(duals[-1]), base)

    def proven(self, prices: Prices, ratio: float) -> float:
        """Return the bound where no replica outweighs the prices by more than the share `ratio`."""
        factor = 1.0 + ratio
        return prices.base + prices.scale * (factor if self.goal.maximised else 1.0 / factor)
