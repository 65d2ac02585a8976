"""Whether groups of any size asked for hold a model at all."""

from __future__ import annotations

from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.degrees import degrees_within
from gpuplan.profiles.problems.segments import find_segments
from gpuplan.solvers.placement.groups.units import unit_problem
from gpuplan.solvers.placement.packing import Packing


def groups_fit(problem: PlacementProblem) -> bool:
    """Return whether groups of one size fit; islands of unlike devices are not decided here and count as not fitting.

    A plan of one size is one of unequal sizes, too, so what fits here fits either way.
    """
    segments = find_segments(problem)
    if not segments.all_alike:
        return False
    degrees = degrees_within(problem.model, problem.tensor_parallel, problem.runtime, segments.largest)
    units = [unit_problem(problem, segments, degree) for degree in degrees]
    return any(bool(Packing(part.dense).fits()) for part in units if part is not None)
