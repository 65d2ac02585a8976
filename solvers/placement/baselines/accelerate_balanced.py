"""`accelerate-balanced`: fill the devices in order, each up to an equal share (`device_map="auto"` or "balanced").

Hugging Face accelerate (`utils/modeling.py`, `get_balanced_memory`): every device but the last is capped at
``total // devices + int(1.25·block)``, `block` the size of one block that must not be split (a decoder layer; here
the median layer), then `infer_auto_device_map` fills in order. The share depends on the model alone: unlike devices
get the same. Sizes as in `accelerate-sequential`.
"""

from __future__ import annotations

import numpy as np

from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.baselines.accelerate_sequential import fill, usable
from gpuplan.solvers.placement.baselines.common import Outcome, layer_bytes, room_bytes, run_rule
from gpuplan.solvers.result import Result


def fill_to_share(problem: DensePlacement) -> Outcome:
    """Fill the devices in order, every one but the last up to its share."""
    devices = usable(problem)
    sizes = layer_bytes(problem)
    room = room_bytes(problem)[: len(devices)]
    having = max(1, int((room > 0.0).sum()))
    share = float(sizes.sum()) // having + int(1.25 * float(np.median(sizes)))
    caps = np.minimum(room, share)
    caps[-1] = room[-1]
    return fill(problem, caps, devices)


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Fill to equal shares; ``no_solution`` when the rule would offload. O(n log n + D)."""
    return run_rule(problem, "accelerate-balanced", fill_to_share, limits, seed)
