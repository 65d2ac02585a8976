"""From stages to a device map: every figure of the file, computed once from the problem."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from gpuplan.plans.stage_times import AnyStage, StageTimes, Ways, seconds_by_origin
from gpuplan.profiles import model_to_dict, stage_memory
from gpuplan.profiles.problems.degrees import degrees_within
from gpuplan.profiles.problems.objectives import dense_objective
from gpuplan.topology.islands import islands
from gpuplan.topology.serialize import topology_to_dict

if TYPE_CHECKING:
    from gpuplan.profiles import LayerTimes, ModelProfile, PlacementProblem, Workload
    from gpuplan.profiles.collectives import Phase
    from gpuplan.topology.graph import Device

#: The two passes of a request.
PHASES: tuple[Phase, Phase] = ("prefill", "decode")


def build_device_map(problem: PlacementProblem, stages: Sequence[AnyStage], outcome: Outcome) -> DeviceMap:
    """Return the device map that puts `stages` (in pipeline order) of `problem` into figures.

    With b sequences of s prompt and o output tokens, M micro-batches::

        latency = TTFT + (o − 1)·TPOT
        TTFT = Σ prefill + Σ prefill hops,  TPOT = Σ decode + Σ decode hops + return hop
        rate = M·b / max(M·bottleneck, TPOT)

    A stage on several devices takes what its layers take on the slowest of them, plus their collectives; a hand-over
    between groups what its slowest pair of ranks takes.

    Parameters
    ----------
    problem
        What was asked; its costs and topology give the numbers.
    stages
        ``StageRange(device, start, stop)`` or ``GroupStage(devices, start, stop)``, device numbers as in
        ``problem.topology.devices``.
    outcome
        What the solver claims: status, objective, bound, gap.

    Returns
    -------
    DeviceMap
        With its inputs embedded. Memory is stated, not checked: that is `verify`'s work.
    """
    figures = pipeline_figures(problem, stages)
    model, topology = model_to_dict(problem.model), topology_to_dict(problem.topology)
    return DeviceMap(
        model=ModelRef(problem.model.name, problem.model.num_layers, digest(model)),
        topology=TopologyRef(problem.topology.name, problem.topology.num_devices, digest(topology)),
        workload=figures.point,
        stages=figures.stages,
        metrics=figures.metrics,
        result=plan_result(outcome),
        provenance=figures.provenance,
        inputs={
            "model": model,
            "topology": topology,
            "costs": figures.costs(),
            "workload": asdict(figures.point),
            "options": _options(problem),
        },
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one pipeline: what its device map says beside its inputs and its proof."""

    point: WorkloadPoint
    stages: tuple[Stage, ...]
    metrics: Metrics
    provenance: Provenance
    times: StageTimes
    workload: Workload

    def costs(self) -> dict[str, Any]:
        """Return ``inputs.costs``: what the times follow from."""
        return _costs(self.times, self.workload)


def pipeline_figures(problem: PlacementProblem, stages: Sequence[AnyStage], ways: Ways | None = None) -> Figures:
    """Return the figures of `stages`; pipelines on one topology with the same costs may share `ways`."""
    workload = _workload(problem, len(stages))
    times = StageTimes(problem, stages, ways)
    layer_times = [times.layers(k, workload) for k in range(len(stages))]
    built = tuple(_stage(times, k, workload, layer_times[k]) for k in range(len(stages)))
    point = WorkloadPoint(workload.batch, workload.prompt_tokens, workload.output_tokens, workload.micro_batches)
    metrics = stage_metrics(built, point, _kv_capacity(problem.model, stages, built, workload))
    return Figures(point, built, metrics, _provenance(times, workload, layer_times), times, workload)


def figures_alike(known: Figures, stages: Sequence[AnyStage], ways: Ways) -> Figures:
    """Return the figures of `stages`, cut as those of `known` and on devices alike (`Ways.likeness`), by its `ways`."""
    times, workload = StageTimes(known.times.problem, stages, ways), known.workload
    devices = known.times.problem.topology.devices
    built = tuple(
        replace(own, devices=tuple(devices[number].name for number in times.groups[k]), hop=_hop(times, k, workload))
        for k, own in enumerate(known.stages)
    )
    metrics = known.metrics
    if any(
        one.hop and two.hop and _seconds(one.hop) != _seconds(two.hop)
        for one, two in zip(built, known.stages, strict=True)
    ):
        metrics = stage_metrics(built, known.point, metrics.kv_capacity_tokens)  # sums along a route may round apart
    return replace(known, stages=built, metrics=metrics, times=times)


def _seconds(hop: Hop) -> tuple[float, float]:
    return hop.prefill_s, hop.decode_s


def plan_result(outcome: Outcome) -> PlanResult:
    """Return the result of a plan as its file states it."""
    return PlanResult(**_fields(outcome), gpuplan_version=_version())


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


def _stage(times: StageTimes, k: int, workload: Workload, layer_times: LayerTimes) -> Stage:
    problem, stage = times.problem, times.stages[k]
    layers = problem.model.layers[stage.start : stage.stop]
    devices = [problem.topology.devices[number] for number in times.groups[k]]
    return Stage(
        devices=tuple(device.name for device in devices),
        tensor_parallel=len(devices),
        layers=LayerSpan(stage.start, stage.stop),
        modules=tuple(module for layer in layers for module in layer.modules),
        memory=_memory(problem, stage, workload, devices),
        prefill_s=times.seconds(k, workload, "prefill", layer_times),
        decode_s=times.seconds(k, workload, "decode", layer_times),
        hop=_hop(times, k, workload),
    )


def _memory(problem: PlacementProblem, stage: AnyStage, workload: Workload, devices: Sequence[Device]) -> StageMemory:
    use = stage_memory(
        problem.model,
        stage.start,
        stage.stop,
        workload,
        reserve_bytes=problem.reserve_bytes,
        tensor_parallel=len(devices),
    )
    return StageMemory(
        weights_bytes=_plainly(use.weights_bytes),
        kv_bytes=_plainly(use.kv_bytes),
        workspace_bytes=_plainly(use.workspace_bytes),
        available_bytes=min(device.available_bytes for device in devices),
    )


def _plainly(size: float) -> float:
    # Bytes are mostly whole: 65419771904 reads better than 65419771904.0.
    return int(size) if float(size).is_integer() else size


def _hop(times: StageTimes, k: int, workload: Workload) -> Hop | None:
    decode, prefill = times.transfer(k, workload, "decode"), times.transfer(k, workload, "prefill")
    if decode is None:
        return None
    way = times.route(k, decode)
    return Hop(
        to=decode.to,
        route=way.components,
        prefill_s=0.0 if prefill is None else times.route(k, prefill).transfer_s(prefill.own_bytes),
        decode_s=way.transfer_s(decode.own_bytes),
    )


def _kv_capacity(
    model: ModelProfile, stages: Sequence[AnyStage], built: Sequence[Stage], workload: Workload
) -> int | None:
    tokens = workload.sequence_tokens
    rooms = []
    for stage, figures in zip(stages, built, strict=True):
        degree, layers = figures.tensor_parallel, model.layers[stage.start : stage.stop]
        per_token = math.fsum(layer.kv.bytes_for(tokens) / min(degree, layer.kv.heads) for layer in layers) / tokens
        if per_token > 0:
            memory = figures.memory
            rooms.append((memory.available_bytes - memory.workspace_bytes - memory.weights_bytes) / per_token)
    return math.floor(min(rooms)) if rooms else None


def _provenance(times: StageTimes, workload: Workload, layer_times: Sequence[LayerTimes]) -> Provenance:
    """Return the shares of the layers' seconds in a request, by origin.

    What was read outside of a measured range rests on an assumed form, so it counts as analytic; so do collectives,
    which follow from the links.
    """
    steps = workload.decode_steps
    seconds: dict[str, float] = dict.fromkeys(("measured", "interpolated", "fitted", "analytic"), 0.0)
    for k, (stage, rows) in enumerate(zip(times.stages, layer_times, strict=True)):
        held = slice(stage.start, stage.stop)
        for tag, (prefill, decode) in seconds_by_origin(rows).items():
            counted = "analytic" if tag == "extrapolated" else tag
            seconds[counted] += float(np.sum(prefill[held]) + steps * np.sum(decode[held]))
        if len(times.groups[k]) > 1:
            rings = [np.sum(times.collectives(k, workload, phase)[held]) for phase in PHASES]
            seconds["analytic"] += float(rings[0] + steps * rings[1])
    total = sum(seconds.values())
    shares = {tag: own / total if total > 0.0 else float(tag == "analytic") for tag, own in seconds.items()}
    return Provenance(**shares, sources=tuple(times.problem.costs.sources))


def _costs(times: StageTimes, workload: Workload) -> dict[str, Any]:
    """Return ``inputs.costs``: of all devices, or with groups of the devices used, each at the degree of its stage."""
    problem = times.problem
    degrees = sorted({len(group) for group in times.groups})
    if degrees == [1]:
        return problem.costs.to_inputs(problem.model, problem.topology.devices, workload)
    merged: dict[str, Any] = {}
    for degree in degrees:
        numbers = sorted(number for group in times.groups if len(group) == degree for number in group)
        devices = tuple(problem.topology.devices[number] for number in numbers)
        part = problem.costs.to_inputs(problem.model, devices, workload, tensor_parallel=degree)
        for key, value in part.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _options(problem: PlacementProblem) -> dict[str, Any]:
    uneven = {"uneven_tensor_parallel": True} if problem.uneven_tensor_parallel else {}
    return {
        **uneven,
        "return_hop": problem.return_hop,
        "reserve_bytes": problem.reserve_bytes,
        "tensor_parallel": 1 if problem.tensor_parallel == (1,) else list(_degrees(problem)),
        "max_devices": problem.max_devices,
        "runtime": problem.runtime,
        "micro_batches": "stages" if problem.micro_batches_from_stages else problem.workload.micro_batches,
        "objective": _objective(problem),
    }


def _degrees(problem: PlacementProblem) -> tuple[int, ...]:
    if problem.tensor_parallel != "auto":
        return problem.tensor_parallel
    largest = max(len(island.devices) for island in islands(problem.topology))
    return degrees_within(problem.model, "auto", problem.runtime, largest)


def _objective(problem: PlacementProblem) -> Mapping[str, Any]:
    objective = dense_objective(problem.objective)
    weights = {"latency_weight": objective.latency_weight, "devices_weight": objective.devices_weight}
    return {"name": problem.objective_name, **weights}
