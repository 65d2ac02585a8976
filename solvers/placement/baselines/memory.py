"""`memory`: layers in proportion to the devices' memory, the default of llama.cpp.

llama.cpp (`llama-model.cpp`, layer split mode): the devices' free memory, summed up and divided by the total, gives
split points in 0..1; layer i of n goes to the first device whose split point is greater than i/n. Sizes of layers play
no part. llama.cpp keeps the embedding on the CPU and counts the output layer as one more; here the embedding is a
layer that is split like the others. Devices: all of them, or the first ones up to the device limit.
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.baselines.common import Outcome, run_rule, stages_from_counts
from gpuplan.solvers.result import Result


def split_by_memory(problem: DensePlacement) -> Outcome:
    """Return the stages of llama.cpp's rule; devices that get no layer are left out."""
    limit = problem.num_devices if problem.max_devices is None else problem.max_devices
    free = problem.available_bytes[:limit]
    if free.sum() <= 0.0:
        return "no device has memory"
    points = np.cumsum(free) / free.sum()
    points[-1] = 1.0
    n = problem.num_layers
    device = np.searchsorted(points, np.arange(n) / n, side="right")
    return stages_from_counts(range(len(free)), np.bincount(device, minlength=len(free)).tolist())


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Split in proportion to memory; ``no_solution`` when that does not fit. O(n log D)."""
    return run_rule(problem, "memory", split_by_memory, limits, seed)
