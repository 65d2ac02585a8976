"""`accelerate-sequential`: fill device 0, then device 1, …, as `device_map="sequential"` of accelerate does.

Hugging Face accelerate (`utils/modeling.py`, `infer_auto_device_map`): modules are taken in order; each goes to the
current device while it fits there, else to the next one; devices never get a second chance. On device 0 room is kept
for the largest module still to come (where an offloaded module would be brought back).
accelerate counts weights alone and leaves KV and workspace to the user's `max_memory`; here `max_memory` is what the
workspace leaves of a device, and a layer counts with its KV, as a careful user would set it.
Offloading to the CPU is not taken: then there is no plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement.baselines.common import Outcome, layer_bytes, room_bytes, run_rule, stages_from_counts
from gpuplan.solvers.result import Result


def fill(problem: DensePlacement, caps: FloatArray, devices: Sequence[int]) -> Outcome:
    """Fill the devices in order, at most `caps` bytes each (shape of `devices`)."""
    sizes = layer_bytes(problem)
    n = problem.num_layers
    largest_after = np.append(np.maximum.accumulate(sizes[::-1])[::-1], 0.0)[1:]
    counts = [0] * len(devices)
    device, used = 0, 0.0
    for layer in range(n):
        while device < len(devices):
            kept = float(largest_after[layer]) if device == 0 else 0.0
            if used + sizes[layer] <= caps[device] - kept:
                break
            device, used = device + 1, 0.0
        if device == len(devices):
            return f"layer {layer} ({problem.layer_names[layer]}) would be offloaded to the CPU, the devices are full"
        counts[device] += 1
        used += float(sizes[layer])
    return stages_from_counts(devices, counts)


def usable(problem: DensePlacement) -> range:
    """Return the devices the rule may fill: all, or the first ones up to the device limit."""
    limit = problem.num_devices if problem.max_devices is None else problem.max_devices
    return range(min(limit, problem.num_devices))


def fill_in_order(problem: DensePlacement) -> Outcome:
    """Fill the devices in their order to the brim."""
    devices = usable(problem)
    whole = float(layer_bytes(problem).sum()) - problem.single_stage_saving_bytes
    room = room_bytes(problem)[: len(devices)]
    if whole <= room[0] and problem.single_stage_saving_bytes > 0.0:
        # Tied modules are counted once where they share a device.
        return stages_from_counts(devices, [problem.num_layers] + [0] * (len(devices) - 1))
    return fill(problem, room, devices)


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Fill in order; ``no_solution`` when the rule would offload. O(n + D)."""
    return run_rule(problem, "accelerate-sequential", fill_in_order, limits, seed)
