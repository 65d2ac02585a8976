"""Re-planning: whether to switch from the deployment in place, by what that gains and what it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.errors import UsageError
from gpuplan.plans.deployment import Deployment
from gpuplan.solvers.deployment.columns import Column
from gpuplan.solvers.deployment.links import overloaded
from gpuplan.solvers.deployment.moving import moved_bytes, placement_of, resident_shares
from gpuplan.solvers.deployment.placing import Placed, Placer


@dataclass(frozen=True, slots=True)
class Switch:
    """What switching from the current deployment costs.

    move_cost
        Objective units for each byte a device has to load.
    hysteresis
        Share of the current objective that a change has to gain beyond that.
    """

    move_cost: float = 0.0
    hysteresis: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("move_cost", self.move_cost), ("hysteresis", self.hysteresis)):
            if isinstance(value, bool) or not (math.isfinite(value) and value >= 0.0):
                raise UsageError(f"expected {name} to be a number of at least 0, got {value!r}")


def settle(
    placer: Placer, switch: Switch, current: Deployment, found: Placed | None, kept: list[Column], columns: list[Column]
) -> tuple[Placed | None, str]:
    """Return what to do about the current deployment, and why in a sentence.

    Parameters
    ----------
    found
        The best plan there is, whatever it moves.
    kept, columns
        Candidates that stay where they are, and the others.
    """
    stays, what = _as_it_is(placer, current, kept), "the current deployment stays"
    if stays is None:
        stays, what = placer.choose([*kept, *columns], hold=True) if kept else None, "what can go on stays"
    if stays is None:
        return found, "the current deployment cannot go on"
    goal, threshold = placer.goal, switch.hysteresis
    if goal.problem.demand_rps is not None and threshold > 0.0:
        # A cheaper plan has to outlast a demand that comes back.
        found = placer.choose([*kept, *columns], goal.problem.demand_rps * (1 + threshold))
    if found is None:
        return stays, f"{what}: nothing else would serve the demand for long"
    gain = found.objective - stays.objective
    gain = gain if goal.maximised else -gain
    net = gain - switch.move_cost * (_moved(placer, current, found) - _moved(placer, current, stays))
    needed = threshold * abs(stays.objective)
    if net > needed:
        return found, f"changed: the gain of {gain:.6g} less {gain - net:.6g} for moving is above {needed:.6g}"
    return stays, f"{what}: a further change would gain {net + 0.0:.6g}, not above {needed:.6g}"


def _as_it_is(placer: Placer, current: Deployment, kept: Sequence[Column]) -> Placed | None:
    """Return the current deployment when it still holds under the problem."""
    problem = placer.goal.problem
    if not kept or len(kept) < len(current.replicas):
        return None
    used = sum(column.size for column in kept)
    if used > (problem.max_devices or used) or len(kept) > (problem.max_replicas or len(kept)):
        return None
    replicas = [column.replica for column in kept]
    placed = placer.placed(replicas, [column.kept for column in kept], [own.value for own in replicas])
    if overloaded(placer.traffic, placed.replicas, placed.rates):
        placed = placer.slowed(placed)
    return placed if placer.meets(placed, placer.goal) else None


def _moved(placer: Placer, current: Deployment, placed: Placed) -> float:
    """Return the bytes to load."""
    resident = resident_shares(placement_of(current))
    return math.fsum(moved_bytes(placer.shaper.fleet, placed.replicas, resident).values())
