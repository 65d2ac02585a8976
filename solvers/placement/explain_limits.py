"""What limits each stage of a plan: its memory, its device's bandwidth or compute, its hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuplan.profiles.memory import kv_share, weight_share

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap
    from gpuplan.plans.device_map import Stage
    from gpuplan.profiles import PlacementProblem
    from gpuplan.topology.graph import Device, DeviceKind

Bound = Literal["memory bandwidth", "compute", "overhead"]

#: Doubling what binds fully halves the time; a gain below this share binds nothing.
_NOTICEABLE = 0.05


@dataclass(frozen=True, slots=True)
class StageLimit:
    """What limits one stage.

    free_bytes
        Memory left on its device.
    next_layer_bytes
        Least memory one more layer (of a neighbouring stage) would take, or None when the plan has one stage.
    memory_full
        Whether that layer does not fit.
    prefill_bound, decode_bound
        What its compute time would shrink with; found by timing it again with twice the bandwidth, twice the peaks.
    hop_share
        Outgoing hop over stage and hop, of one decode step.
    kv_room_tokens
        Tokens of KV cache the device has room for, or None when the stage keeps none.
    """

    device: str
    free_bytes: float
    next_layer_bytes: float | None
    memory_full: bool
    prefill_bound: Bound
    decode_bound: Bound
    hop_share: float
    kv_room_tokens: float | None


def stage_limits(problem: PlacementProblem, plan: DeviceMap) -> tuple[StageLimit, ...]:
    """Return what limits each stage of `plan`, an answer to `problem`."""
    return tuple(_stage_limit(problem, plan, number) for number in range(len(plan.stages)))


def _stage_limit(problem: PlacementProblem, plan: DeviceMap, number: int) -> StageLimit:
    stage = plan.stages[number]
    free = stage.memory.available_bytes - stage.memory.used_bytes
    wanted = _next_layer_bytes(problem, plan, number)
    prefill, decode = _bounds(problem, stage)
    hop_s = 0.0 if stage.hop is None else stage.hop.decode_s
    return StageLimit(
        device=stage.devices[0],
        free_bytes=free,
        next_layer_bytes=wanted,
        memory_full=wanted is not None and wanted > free,
        prefill_bound=prefill,
        decode_bound=decode,
        hop_share=hop_s / (stage.decode_s + hop_s) if hop_s else 0.0,
        kv_room_tokens=_kv_room_tokens(plan, stage),
    )


def _kv_room_tokens(plan: DeviceMap, stage: Stage) -> float | None:
    memory, work = stage.memory, plan.workload
    if memory.kv_bytes <= 0.0:
        return None
    tokens = work.micro_batches * work.batch * (work.prompt_tokens + work.output_tokens)
    return (memory.available_bytes - memory.weights_bytes - memory.workspace_bytes) * tokens / memory.kv_bytes


def _next_layer_bytes(problem: PlacementProblem, plan: DeviceMap, number: int) -> float | None:
    span = plan.stages[number].layers
    neighbours = [position for position in (span.start - 1, span.stop) if 0 <= position < problem.model.num_layers]
    if not neighbours:
        return None
    sequences = plan.workload.micro_batches * plan.workload.batch
    layers = [problem.model.layers[position] for position in neighbours]
    degree, work = plan.stages[number].tensor_parallel, problem.workload
    return min(weight_share(layer, degree) + sequences * kv_share(layer, work, degree) for layer in layers)


def _bounds(problem: PlacementProblem, stage: Stage) -> tuple[Bound, Bound]:
    device = problem.topology.device(stage.devices[0])
    base = _times(problem, device, stage)
    bandwidth = _times(problem, replace(device, kind=_double_bandwidth(device.kind)), stage)
    compute = _times(problem, replace(device, kind=_double_peaks(device.kind)), stage)
    first, second = (_bound(*times) for times in zip(base, bandwidth, compute, strict=True))
    return first, second


def _times(problem: PlacementProblem, device: Device, stage: Stage) -> tuple[float, float]:
    # Measured times do not change with a data sheet: what binds is the roofline's word, wherever the times come from.
    from gpuplan.profiles import AnalyticCosts

    costs = problem.costs if isinstance(problem.costs, AnalyticCosts) else AnalyticCosts()
    degree = stage.tensor_parallel
    times = costs.layer_times(problem.model, device, problem.workload, tensor_parallel=degree)
    layers = slice(stage.layers.start, stage.layers.stop)
    return float(np.sum(times.prefill_s[layers])), float(np.sum(times.decode_s[layers]))


def _bound(base_s: float, bandwidth_s: float, compute_s: float) -> Bound:
    gains: Sequence[tuple[float, Bound]] = (
        (base_s - bandwidth_s, "memory bandwidth"),
        (base_s - compute_s, "compute"),
    )
    gain, what = max(gains)
    return what if gain > _NOTICEABLE * base_s else "overhead"


def _double_bandwidth(kind: DeviceKind) -> DeviceKind:
    return replace(kind, memory_bandwidth_bytes_per_s=2.0 * kind.memory_bandwidth_bytes_per_s)


def _double_peaks(kind: DeviceKind) -> DeviceKind:
    return replace(kind, flops_per_s={dtype: 2.0 * peak for dtype, peak in kind.flops_per_s.items()})
