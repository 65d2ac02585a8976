"""From stages to a device map: every figure of the file, computed once from the problem."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuplan.plans.canonical import digest
from gpuplan.plans.device_map import (
    DeviceMap,
    Hop,
    LayerSpan,
    Metrics,
    ModelRef,
    Outcome,
    PlanResult,
    Provenance,
    Stage,
    StageMemory,
    TopologyRef,
    WorkloadPoint,
)
from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles import model_to_dict, stage_memory
from gpuplan.topology.routes import route
from gpuplan.topology.serialize import topology_to_dict

if TYPE_CHECKING:
    from gpuplan.profiles import LayerTimes, ModelProfile, PlacementProblem, Workload

#: Bytes of one sampled token on its way back to the first stage.
TOKEN_BYTES = 4


def build_device_map(problem: PlacementProblem, stages: Sequence[StageRange], outcome: Outcome) -> DeviceMap:
    """Return the device map that puts `stages` (in pipeline order) of `problem` into figures.

    With b sequences of s prompt and o output tokens, M micro-batches::

        latency = TTFT + (o − 1)·TPOT
        TTFT = Σ prefill + Σ prefill hops,  TPOT = Σ decode + Σ decode hops + return hop
        rate = M·b / max(M·bottleneck, TPOT)

    Parameters
    ----------
    problem
        What was asked; its costs and topology give the numbers.
    stages
        ``StageRange(device, start, stop)``, device numbers as in ``problem.topology.devices``.
    outcome
        What the solver claims: status, objective, bound, gap.

    Returns
    -------
    DeviceMap
        With its inputs embedded. Memory is stated, not checked: that is `verify`'s work.
    """
    workload = _workload(problem, len(stages))
    times = [_layer_times(problem, stage, workload) for stage in stages]
    built = tuple(_stage(problem, stages, k, workload, times[k]) for k in range(len(stages)))
    model, topology = model_to_dict(problem.model), topology_to_dict(problem.topology)
    point = WorkloadPoint(workload.batch, workload.prompt_tokens, workload.output_tokens, workload.micro_batches)
    return DeviceMap(
        model=ModelRef(problem.model.name, problem.model.num_layers, digest(model)),
        topology=TopologyRef(problem.topology.name, problem.topology.num_devices, digest(topology)),
        workload=point,
        stages=built,
        metrics=stage_metrics(built, point, _kv_capacity(problem.model, stages, built, workload)),
        result=PlanResult(**_fields(outcome), gpuplan_version=_version()),
        provenance=_provenance(problem, stages, times),
        inputs={
            "model": model,
            "topology": topology,
            "costs": problem.costs.to_inputs(problem.model, problem.topology.devices, workload),
            "workload": asdict(point),
            "options": _options(problem),
        },
    )


def stage_metrics(stages: Sequence[Stage], workload: WorkloadPoint, kv_capacity_tokens: int | None) -> Metrics:
    """Return the metrics that follow from the figures of `stages`."""
    hops = [(stage.hop.prefill_s, stage.hop.decode_s) if stage.hop else (0.0, 0.0) for stage in stages]
    ttft = math.fsum([*(stage.prefill_s for stage in stages), *(prefill for prefill, _ in hops)])
    tpot = math.fsum([*(stage.decode_s for stage in stages), *(decode for _, decode in hops)])
    bottleneck = max(stage.decode_s + decode for stage, (_, decode) in zip(stages, hops, strict=True))
    in_flight = workload.micro_batches * workload.batch
    sizes = [len(stage.devices) for stage in stages]
    used = math.fsum(stage.memory.used_bytes * size for stage, size in zip(stages, sizes, strict=True))
    available = math.fsum(stage.memory.available_bytes * size for stage, size in zip(stages, sizes, strict=True))
    return Metrics(
        ttft_s=ttft,
        tpot_s=tpot,
        latency_s=ttft + (workload.output_tokens - 1) * tpot,
        bottleneck_s=bottleneck,
        throughput_tokens_per_s=in_flight / max(workload.micro_batches * bottleneck, tpot),
        kv_capacity_tokens=kv_capacity_tokens,
        devices_used=sum(sizes),
        memory_utilization=used / available,
    )


def _version() -> str:
    # By name: the package's face imports this room, and an import back would close a circle.
    return str(importlib.import_module("gpuplan").__version__)


def _fields(outcome: Outcome) -> dict[str, Any]:
    names = ("status", "objective", "terms", "bound", "gap", "solver", "options", "seed")
    fields = {name: getattr(outcome, name) for name in names}
    if fields["gap"] is not None and math.isinf(fields["gap"]):
        fields["gap"] = None  # an objective of 0 above a lower bound: no number says how far
    return fields


def _workload(problem: PlacementProblem, num_stages: int) -> Workload:
    if problem.micro_batches_from_stages:
        return problem.workload.with_micro_batches(num_stages)
    return problem.workload


def _layer_times(problem: PlacementProblem, stage: StageRange, workload: Workload) -> LayerTimes:
    return problem.costs.layer_times(problem.model, problem.topology.devices[stage.device], workload)


def _stage(
    problem: PlacementProblem, stages: Sequence[StageRange], k: int, workload: Workload, times: LayerTimes
) -> Stage:
    stage = stages[k]
    layers = problem.model.layers[stage.start : stage.stop]
    return Stage(
        devices=(problem.topology.devices[stage.device].name,),
        tensor_parallel=1,
        layers=LayerSpan(stage.start, stage.stop),
        modules=tuple(module for layer in layers for module in layer.modules),
        memory=_memory(problem, stage, workload),
        prefill_s=float(np.sum(times.prefill_s[stage.start : stage.stop])),
        decode_s=float(np.sum(times.decode_s[stage.start : stage.stop])),
        hop=_hop(problem, stages, k, workload),
    )


def _memory(problem: PlacementProblem, stage: StageRange, workload: Workload) -> StageMemory:
    use = stage_memory(problem.model, stage.start, stage.stop, workload, reserve_bytes=problem.reserve_bytes)
    return StageMemory(
        weights_bytes=_plainly(use.weights_bytes),
        kv_bytes=_plainly(use.kv_bytes),
        workspace_bytes=_plainly(use.workspace_bytes),
        available_bytes=problem.topology.devices[stage.device].available_bytes,
    )


def _plainly(size: float) -> float:
    # Bytes are mostly whole: 65419771904 reads better than 65419771904.0.
    return int(size) if float(size).is_integer() else size


def _hop(problem: PlacementProblem, stages: Sequence[StageRange], k: int, workload: Workload) -> Hop | None:
    if k + 1 < len(stages):
        return _forward_hop(problem, stages[k], stages[k + 1], k + 1, workload)
    if len(stages) == 1 or not problem.return_hop:
        return None
    message = TOKEN_BYTES * workload.batch
    back = route(problem.topology, *_names(problem, stages[k], stages[0]), message)
    return Hop(0, back.components, 0.0, back.latency_s + message / back.bandwidth_bytes_per_s)


def _forward_hop(
    problem: PlacementProblem, sender: StageRange, receiver: StageRange, to: int, workload: Workload
) -> Hop:
    # The route is chosen for the model's largest boundary (one table a phase); the cut sends its own bytes over it.
    largest = max(layer.boundary_bytes_per_token for layer in problem.model.layers)
    own = problem.model.layers[sender.stop - 1].boundary_bytes_per_token
    batch, prompt = workload.batch, workload.prompt_tokens
    names = _names(problem, sender, receiver)
    prefill = route(problem.topology, *names, batch * prompt * largest)
    decode = route(problem.topology, *names, batch * largest)
    return Hop(
        to=to,
        route=decode.components,
        prefill_s=prefill.latency_s + batch * prompt * own / prefill.bandwidth_bytes_per_s,
        decode_s=decode.latency_s + batch * own / decode.bandwidth_bytes_per_s,
    )


def _names(problem: PlacementProblem, sender: StageRange, receiver: StageRange) -> tuple[str, str]:
    devices = problem.topology.devices
    return devices[sender.device].name, devices[receiver.device].name


def _kv_capacity(
    model: ModelProfile, stages: Sequence[StageRange], built: Sequence[Stage], workload: Workload
) -> int | None:
    tokens = workload.sequence_tokens
    rooms = []
    for stage, figures in zip(stages, built, strict=True):
        per_token = math.fsum(layer.kv.bytes_for(tokens) for layer in model.layers[stage.start : stage.stop]) / tokens
        if per_token > 0:
            memory = figures.memory
            rooms.append((memory.available_bytes - memory.workspace_bytes - memory.weights_bytes) / per_token)
    return math.floor(min(rooms)) if rooms else None


def _provenance(problem: PlacementProblem, stages: Sequence[StageRange], times: Sequence[LayerTimes]) -> Provenance:
    """Return the shares of the layers' seconds in a request, by origin.

    What was read outside of a measured range rests on an assumed form, so it counts as analytic.
    """
    steps = problem.workload.decode_steps
    seconds: dict[str, float] = dict.fromkeys(("measured", "interpolated", "fitted", "analytic"), 0.0)
    for stage, rows in zip(stages, times, strict=True):
        held = slice(stage.start, stage.stop)
        for tag, (prefill, decode) in _by_origin(rows).items():
            counted = "analytic" if tag == "extrapolated" else tag
            seconds[counted] += float(np.sum(prefill[held]) + steps * np.sum(decode[held]))
    total = sum(seconds.values())
    shares = {tag: own / total if total > 0.0 else float(tag == "analytic") for tag, own in seconds.items()}
    return Provenance(**shares, sources=tuple(problem.costs.sources))


def _by_origin(rows: LayerTimes) -> dict[str, tuple[Any, Any]]:
    if rows.by_origin is not None:
        return {str(tag): seconds for tag, seconds in rows.by_origin.items()}
    tags = np.array(rows.origin)
    return {
        tag: (np.where(tags == tag, rows.prefill_s, 0.0), np.where(tags == tag, rows.decode_s, 0.0))
        for tag in dict.fromkeys(rows.origin)
    }


def _options(problem: PlacementProblem) -> dict[str, Any]:
    return {
        "return_hop": problem.return_hop,
        "reserve_bytes": problem.reserve_bytes,
        "tensor_parallel": 1,
        "max_devices": problem.max_devices,
        "runtime": problem.runtime,
        "micro_batches": "stages" if problem.micro_batches_from_stages else problem.workload.micro_batches,
        "objective": _objective(problem),
    }


def _objective(problem: PlacementProblem) -> Mapping[str, Any]:
    objective = problem.dense().objective
    weights = {"latency_weight": objective.latency_weight, "devices_weight": objective.devices_weight}
    return {"name": problem.objective_name, **weights}
