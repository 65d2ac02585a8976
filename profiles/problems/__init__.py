"""Problems as plain numbers: what solvers read, and the files that carry it."""

from __future__ import annotations

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, ObjectiveName, Timing
from gpuplan.profiles.problems.placement_io import load_problem, placement_from_dict, placement_to_dict

__all__ = [
    "DensePlacement",
    "HopTable",
    "Objective",
    "ObjectiveName",
    "Timing",
    "load_problem",
    "placement_from_dict",
    "placement_to_dict",
]
