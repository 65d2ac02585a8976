"""What one plan is worth, from the formulas of the problem format; every solver reports these values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement, Hops, Timing

MEMORY_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Worth of one plan.

    latency_s
        Σ compute + Σ hops + return hop; inf where a hop has no route.
    bottleneck_s
        Largest stage compute + outgoing hop of the cycle.
    devices
        Stages, which is devices used.
    price_per_hour
        Σ of the used devices' prices; NaN when one is missing.
    kv_capacity_tokens
        Least room for KV tokens over the stages that hold KV, or None when no layer does.
    """

    latency_s: float
    bottleneck_s: float
    devices: int
    price_per_hour: float
    kv_capacity_tokens: int | None


def hop_s(table: Hops, sender: int, receiver: int, message_bytes: float) -> float:
    """Seconds of one message; inf where there is no route, also for an empty message."""
    latency_s, s_per_byte = table.pair(sender, receiver)
    if math.isinf(latency_s) or math.isinf(s_per_byte):
        return math.inf
    return latency_s + message_bytes * s_per_byte


def stage_hops(timing: Timing, stages: Sequence[StageRange]) -> list[float]:
    """Outgoing hop of every stage, s; the last of several stages sends the return hop when there is one."""
    hops = [
        hop_s(timing.hop, stage.device, after.device, float(timing.boundary_bytes[stage.stop - 1]))
        for stage, after in itertools.pairwise(stages)
    ]
    back = timing.return_hop
    if back is None or len(stages) == 1:
        return [*hops, 0.0]
    return [*hops, hop_s(back, stages[-1].device, stages[0].device, timing.return_bytes)]


def stage_computes(timing: Timing, stages: Sequence[StageRange]) -> list[float]:
    """Compute time of every stage, s."""
    return [math.fsum(timing.compute_s[stage.device, stage.start : stage.stop].tolist()) for stage in stages]


def stage_kv_tokens(problem: DensePlacement, stage: StageRange) -> int | None:
    """KV tokens the stage's device has room for, or None when the stage holds no KV."""
    layers = slice(stage.start, stage.stop)
    per_token = math.fsum(problem.kv_bytes_per_token[layers].tolist())
    if per_token <= 0.0:
        return None
    weights = math.fsum(problem.memory_bytes[layers].tolist())
    if stage.stop - stage.start == problem.num_layers:
        weights -= problem.single_stage_saving_bytes
    free = float(problem.available_bytes[stage.device]) - problem.fixed_bytes - weights
    return math.floor(free / per_token)


def evaluate(problem: DensePlacement, stages: Sequence[StageRange]) -> Evaluation:
    """Price one plan; it is not checked for feasibility (`broken_rule` does that)."""
    hops = stage_hops(problem.latency, stages)
    latency_s = math.fsum([*stage_computes(problem.latency, stages), *hops])
    cycle = zip(stage_computes(problem.cycle, stages), stage_hops(problem.cycle, stages), strict=True)
    tokens = [room for stage in stages if (room := stage_kv_tokens(problem, stage)) is not None]
    return Evaluation(
        latency_s,
        max(compute + hop for compute, hop in cycle),
        len(stages),
        math.fsum(float(problem.price_per_hour[stage.device]) for stage in stages),
        min(tokens, default=None),
    )


def used_bytes(problem: DensePlacement, stage: StageRange, num_stages: int) -> float:
    """Memory the stage takes on its device in a plan of `num_stages` stages."""
    micro_batches = num_stages if problem.micro_batches == "stages" else problem.micro_batches
    layers = slice(stage.start, stage.stop)
    kv = math.fsum(problem.kv_bytes_per_token[layers].tolist())
    used = problem.fixed_bytes + math.fsum(problem.memory_bytes[layers].tolist())
    used += micro_batches * problem.tokens_per_micro_batch * kv
    whole = stage.stop - stage.start == problem.num_layers
    return used - problem.single_stage_saving_bytes if whole else used


def broken_shape(problem: DensePlacement, stages: Sequence[StageRange]) -> str | None:
    """Return why some stages are no pipeline of the problem's layers and devices, or None where they are one."""
    if not stages or stages[0].start != 0 or stages[-1].stop != problem.num_layers:
        return "not every layer is placed"
    if any(stage.stop <= stage.start for stage in stages):
        return "a stage is empty"
    if any(before.stop != after.start for before, after in itertools.pairwise(stages)):
        return "the stages do not join"
    if not all(0 <= stage.device < problem.num_devices for stage in stages):
        return "a device does not exist"
    for stage in stages:
        if problem.must_hold is not None and not problem.must_hold[stage.start : stage.stop].any():
            return f"layers {stage.start}..{stage.stop - 1} hold no layer that every stage must have one of"
    return None


def broken_rule(problem: DensePlacement, stages: Sequence[StageRange]) -> str | None:
    """Return the first constraint a plan breaks, or None when it is feasible."""
    fault = broken_shape(problem, stages)
    if fault is not None:
        return fault
    devices = [stage.device for stage in stages]
    if len(set(devices)) != len(devices):
        return "a device is used twice"
    if problem.max_devices is not None and len(stages) > problem.max_devices:
        return f"{len(stages)} devices are used where {problem.max_devices} are allowed"
    for stage in stages:
        room = float(problem.available_bytes[stage.device]) * (1.0 + MEMORY_TOLERANCE)
        if used_bytes(problem, stage, len(stages)) > room:
            return f"layers {stage.start}..{stage.stop - 1} do not fit {problem.device_names[stage.device]}"
    worth = evaluate(problem, stages)
    if math.isinf(worth.latency_s) or math.isinf(worth.bottleneck_s):
        return "a hop has no route"
    return None


def terms(problem: DensePlacement, stages: Sequence[StageRange]) -> dict[str, float]:
    """Return the breakdown every result carries.

    ``compute_s + hops_s + return_hop_s`` is the latency; the other metrics stand beside it. Price and KV capacity are
    left out where the problem does not have them.
    """
    worth = evaluate(problem, stages)
    hops = stage_hops(problem.latency, stages)
    parts = {
        "compute_s": math.fsum(stage_computes(problem.latency, stages)),
        "hops_s": math.fsum(hops[:-1]),
        "return_hop_s": hops[-1],
        "latency_s": worth.latency_s,
        "bottleneck_s": worth.bottleneck_s,
        "devices": float(worth.devices),
    }
    if not math.isnan(worth.price_per_hour):
        parts["price_per_hour"] = worth.price_per_hour
    if worth.kv_capacity_tokens is not None:
        parts["kv_capacity_tokens"] = float(worth.kv_capacity_tokens)
    return parts
