"""What a plan of groups really takes where the cuts of a model hand over messages of unequal size.

The search takes for every hand-over the pair of ranks that is slowest at the pass's largest message. With a smaller
message another pair may be slower: then the searched value is below the plan's, and is a bound on it only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from gpuplan.plans.stage_times import StageTimes
from gpuplan.solvers.placement.groups.search import Found, goal_of, with_bound
from gpuplan.solvers.result import Value

if TYPE_CHECKING:
    from gpuplan.plans.placement_solution import FrontPoint, GroupStage
    from gpuplan.profiles.problems.build import PlacementProblem

#: Values this close (relative) are the same.
SAME = 1e-12


def restated(problem: PlacementProblem, found: Found) -> Found:
    """Return a plan with its own latency and bottleneck; what was searched stays as the bound."""
    sizes = {layer.boundary_bytes_per_token for layer in problem.model.layers[:-1]}
    if found.stages is None or found.value is None or len(sizes) < 2:
        return found
    latency_s, bottleneck_s = own_seconds(problem, found.stages)
    terms = dict(found.terms or {})
    changes = (latency_s - terms["latency_s"], bottleneck_s - terms["bottleneck_s"])
    if all(abs(change) <= SAME * latency_s for change in changes):
        return found
    terms |= {"latency_s": latency_s, "bottleneck_s": bottleneck_s, "hops_s": terms["hops_s"] + changes[0]}
    goal = goal_of(problem)
    if goal.name == "balanced":
        terms["latency_term"] = goal.latency_weight * latency_s / terms["latency_star_s"]
    value: Value
    if goal.name == "balanced":
        value = terms["latency_term"] + terms["devices_term"]
    elif goal.name == "latency":
        value = latency_s
    elif goal.name == "bottleneck":
        value = (bottleneck_s, latency_s)
    else:
        assert isinstance(found.value, tuple)
        value = (found.value[0], latency_s)
    return with_bound(replace(found, status="feasible", value=value, terms=terms), found)


def own_point(problem: PlacementProblem, point: FrontPoint) -> FrontPoint:
    """Return a point of a front with its own latency and bottleneck; itself where they are what was searched."""
    sizes = {layer.boundary_bytes_per_token for layer in problem.model.layers[:-1]}
    if len(sizes) < 2:
        return point
    latency_s, bottleneck_s = own_seconds(problem, cast("tuple[GroupStage, ...]", point.stages))
    changes = (latency_s - point.latency_s, bottleneck_s - point.bottleneck_s)
    if all(abs(change) <= SAME * latency_s for change in changes):
        return point
    return replace(point, latency_s=latency_s, bottleneck_s=bottleneck_s)


def own_seconds(problem: PlacementProblem, planned: tuple[GroupStage, ...]) -> tuple[float, float]:
    """Return latency and bottleneck of a plan, each hand-over by its own message."""
    times, workload = StageTimes(problem, planned), problem.workload
    prefill_s, decode_s = times.pass_s(workload, "prefill"), times.pass_s(workload, "decode")
    stages = range(len(planned))
    cycles = [times.seconds(k, workload, "decode") + times.hop_s(k, workload, "decode") for k in stages]
    return prefill_s + workload.decode_steps * decode_s, max(cycles)
