"""What is asked of a deployment, in the words of the integer programmes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.master import Programme


@dataclass(frozen=True, slots=True)
class Goal:
    """The objective and its rows."""

    fleet: Fleet
    problem: DeploymentProblem

    @property
    def maximised(self) -> bool:
        """Whether more is better."""
        return self.problem.maximised

    def worth(self, value: float, devices: Sequence[int]) -> float:
        """Return what one replica adds to the objective; `value` is its requests/s or tokens/s."""
        if self.problem.objective == "devices":
            return float(len(devices))
        if self.problem.objective == "cost":
            return self.price([int(self.fleet.kind_of[device]) for device in devices])
        return value

    @property
    def weights(self) -> list[float]:
        """Return what a device of each kind counts under a demand."""
        kinds = range(len(self.fleet.kinds))
        return [self.price([kind]) if self.problem.objective == "cost" else 1.0 for kind in kinds]

    def weight(self, counts: Sequence[int]) -> float:
        """Return what devices count under a demand: their number, or their price; `counts` by kind."""
        if self.problem.objective == "cost":
            return self.price([kind for kind, count in enumerate(counts) for _ in range(count)])
        return float(sum(counts))

    def price(self, kinds: Sequence[int]) -> float:
        """Return the price per hour of devices of these kinds."""
        return sum(self.fleet.kinds[kind].price_per_hour or 0.0 for kind in kinds)

    def limit(self, programme: Programme, sizes: Sequence[int], rates: Sequence[float]) -> None:
        """Add the rows on devices, replicas and demand; `sizes` and `rates` by column, columns of other kinds 0."""
        problem = self.problem
        if problem.max_devices is not None:
            programme.row({c: float(size) for c, size in enumerate(sizes) if size}, float(problem.max_devices))
        if problem.max_replicas is not None:
            programme.row({c: 1.0 for c, size in enumerate(sizes) if size}, float(problem.max_replicas))
        if problem.demand_rps is not None:
            # In shares of the demand, so that the tolerance of the row is relative.
            shares = {c: -rate / problem.demand_rps for c, rate in enumerate(rates) if rate}
            programme.row(shares, -1.0)

    def better(self, a: float, b: float) -> bool:
        """Return whether objective `a` beats `b`."""
        return a > b if self.maximised else a < b
