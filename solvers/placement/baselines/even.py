"""`even`: the same number of layers on every device.

What pipeline-parallel runtimes do without being told otherwise (vLLM's `get_pp_indices`, Megatron-LM's uniform
pipeline split): all devices, in their order, each the same number of layers. Here layers include the embedding and
the head; where n is no multiple of the number of devices the first ones hold one layer more.
Devices: all of them, or the first ones up to the device limit (and to one layer each).
"""

from __future__ import annotations

import time

from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.baselines.common import Outcome, finish, most_devices, refuse_front, stages_from_counts
from gpuplan.solvers.result import Result


def split_evenly(problem: DensePlacement) -> Outcome:
    """Return ⌈n/K⌉ layers on each of the first devices, ⌊n/K⌋ on the rest of the K."""
    devices = most_devices(problem)
    share, more = divmod(problem.num_layers, devices)
    return stages_from_counts(range(devices), [share + (k < more) for k in range(devices)])


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Split evenly; ``no_solution`` when that does not fit or a hop has no route. O(D)."""
    refuse_front(problem, "even")
    started = time.perf_counter()
    return finish(problem, "even", split_evenly(problem), limits, started=started, seed=seed)
