"""From replicas to a deployment: every figure of the file, computed once from the problem."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.plans.build import Figures, figures_alike, pipeline_figures, plan_result
from gpuplan.plans.canonical import digest
from gpuplan.plans.deployment import (
    Changes,
    Deployment,
    DeploymentMetrics,
    HopRoute,
    LinkLoad,
    ReplicaMetrics,
    ReplicaPlan,
    Spread,
)
from gpuplan.plans.device_map import Metrics, ModelRef, Outcome, Provenance, TopologyRef
from gpuplan.plans.placement_solution import GroupStage, StageRange
from gpuplan.plans.stage_times import Ways
from gpuplan.profiles import model_to_dict
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.workload import Workload
from gpuplan.topology.serialize import topology_to_dict

if TYPE_CHECKING:
    from gpuplan.profiles.problems.deployment import DeploymentProblem


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """A replica to build: its stages by device numbers, b, M, and the share of its capacity that it is to serve."""

    name: str
    stages: tuple[GroupStage, ...]
    batch: int
    micro_batches: int
    share: float = 1.0
    routes: tuple[HopRoute, ...] = ()


def build_deployment(
    problem: DeploymentProblem,
    replicas: Sequence[ReplicaSpec],
    links: Sequence[LinkLoad],
    outcome: Outcome,
    *,
    changes: Changes | None = None,
    current: Sequence[Mapping[str, Any]] | None = None,
    ways: Ways | None = None,
) -> Deployment:
    """Return the deployment that puts `replicas` of `problem` into figures.

    Parameters
    ----------
    links
        Load of every link that carries hops.
    outcome
        What the solver claims.
    changes, current
        What re-planning changes, and the placement it started from: name, stages with devices and layers.
    ways
        Routes among all devices, where some are known already.
    """
    figured = _Figured(problem, ways or Ways(problem.topology))
    figures = [figured.figures(spec) for spec in replicas]
    built = tuple(_replica(spec, own) for spec, own in zip(replicas, figures, strict=True))
    model, topology = model_to_dict(problem.model), topology_to_dict(problem.topology)
    return Deployment(
        model=ModelRef(problem.model.name, problem.model.num_layers, digest(model)),
        topology=TopologyRef(problem.topology.name, problem.topology.num_devices, digest(topology)),
        replicas=built,
        metrics=_metrics(problem, built),
        links=tuple(links),
        result=plan_result(outcome),
        provenance=_provenance(figures),
        inputs={"model": model, "topology": topology, **_inputs(problem, replicas, figures, current)},
        changes=changes,
    )


class _Figured:
    """The figures of replicas; of those alike but for their devices' names, most are found once."""

    def __init__(self, problem: DeploymentProblem, ways: Ways) -> None:
        self._problem, self._ways = problem, ways
        self._asked: dict[tuple[int, int, int], PlacementProblem] = {}
        self._known: dict[Hashable, Figures] = {}

    def figures(self, spec: ReplicaSpec) -> Figures:
        """Return the figures of a replica."""
        single = len(spec.stages[0].devices) == 1
        stages: list[StageRange | GroupStage] = [
            StageRange(stage.devices[0], stage.start, stage.stop) if single else stage for stage in spec.stages
        ]
        cuts = tuple((stage.start, stage.stop, len(stage.devices)) for stage in spec.stages)
        devices = self._ways.likeness(number for stage in spec.stages for number in stage.devices)
        key = spec.batch, spec.micro_batches, cuts, devices
        if key in self._known:
            return figures_alike(self._known[key], stages, self._ways)
        self._known[key] = pipeline_figures(self._placement(spec), stages, self._ways)
        return self._known[key]

    def _placement(self, spec: ReplicaSpec) -> PlacementProblem:
        key = spec.batch, spec.micro_batches, len(spec.stages[0].devices)
        if key not in self._asked:
            work = self._problem.workload
            point = Workload(spec.batch, work.prompt_tokens, work.output_tokens, spec.micro_batches)
            self._asked[key] = placement_problem(self._problem, point, key[2])
        return self._asked[key]


def placement_problem(problem: DeploymentProblem, workload: Workload, degree: int) -> PlacementProblem:
    """Return the placement problem that a replica of `degree` devices a stage answers."""
    return PlacementProblem(
        problem.model,
        problem.topology,
        problem.costs,
        workload,
        "throughput",
        return_hop=problem.return_hop,
        reserve_bytes=problem.reserve_bytes,
        runtime=problem.runtime,
        tensor_parallel=(degree,),
    )


def _replica(spec: ReplicaSpec, own: Figures) -> ReplicaPlan:
    point, metrics = own.point, own.metrics
    hops = [stage.hop.prefill_s if stage.hop else 0.0 for stage in own.stages]
    slowest = max(stage.prefill_s + hop for stage, hop in zip(own.stages, hops, strict=True))
    interval = max(point.micro_batches * metrics.bottleneck_s, metrics.tpot_s)
    cycle = metrics.ttft_s + (point.micro_batches - 1) * slowest + (point.output_tokens - 1) * interval
    capacity = point.micro_batches * point.batch / cycle
    return ReplicaPlan(
        name=spec.name,
        batch=spec.batch,
        micro_batches=spec.micro_batches,
        stages=own.stages,
        metrics=ReplicaMetrics(
            **{name: getattr(metrics, name) for name in Metrics.__slots__},
            slowest_prefill_s=slowest,
            token_interval_s=interval,
            requests_per_s=capacity,
        ),
        requests_per_s=spec.share * capacity,
        tokens_per_s=spec.share * metrics.throughput_tokens_per_s,
        routes=spec.routes,
    )


def _metrics(problem: DeploymentProblem, replicas: Sequence[ReplicaPlan]) -> DeploymentMetrics:
    price_of = {device.name: device.price_per_hour for device in problem.topology.devices}
    prices = [price_of[name] for replica in replicas for name in replica.device_names]
    known = [price for price in prices if price is not None]
    return DeploymentMetrics(
        replicas=len(replicas),
        requests_per_s=math.fsum(replica.requests_per_s for replica in replicas),
        tokens_per_s=math.fsum(replica.tokens_per_s for replica in replicas),
        ttft_s=_spread(replicas, [replica.metrics.ttft_s for replica in replicas]),
        token_interval_s=_spread(replicas, [replica.metrics.token_interval_s for replica in replicas]),
        devices_used=len(prices),
        price_per_hour=math.fsum(known) if len(known) == len(prices) else None,
    )


def _spread(replicas: Sequence[ReplicaPlan], values: Sequence[float]) -> Spread:
    weights = [replica.requests_per_s for replica in replicas]
    whole = math.fsum(weights)
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / whole if whole > 0.0 else max(values)
    return Spread(max(values), mean)


def _provenance(figures: Sequence[Figures]) -> Provenance:
    tags = ("measured", "interpolated", "fitted", "analytic")
    shares = {tag: math.fsum(getattr(own.provenance, tag) for own in figures) / len(figures) for tag in tags}
    return Provenance(**shares, sources=figures[0].provenance.sources)


def _inputs(
    problem: DeploymentProblem,
    replicas: Sequence[ReplicaSpec],
    figures: Sequence[Figures],
    current: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    work = problem.workload
    inputs: dict[str, Any] = {
        "costs": _costs(problem, replicas, figures),
        "workload": {
            "batch": "auto" if problem.batch_auto else work.batch,
            "prompt_tokens": work.prompt_tokens,
            "output_tokens": work.output_tokens,
            "micro_batches": "stages" if problem.micro_batches_from_stages else work.micro_batches,
        },
        "options": _options(problem),
    }
    if current is not None:
        inputs["current"] = [dict(replica) for replica in current]
    return inputs


def _options(problem: DeploymentProblem) -> dict[str, Any]:
    from gpuplan.profiles.problems.degrees import degrees_within
    from gpuplan.topology.islands import islands

    largest = max(len(island.devices) for island in islands(problem.topology))
    degrees = degrees_within(problem.model, problem.tensor_parallel, problem.runtime, largest)
    return {
        "objective": {"name": problem.objective, "demand_rps": problem.demand_rps},
        "ttft_slo_s": problem.ttft_slo_s,
        "tpot_slo_s": problem.tpot_slo_s,
        "max_devices": problem.max_devices,
        "max_replicas": problem.max_replicas,
        "return_hop": problem.return_hop,
        "reserve_bytes": problem.reserve_bytes,
        "runtime": problem.runtime,
        "tensor_parallel": list(degrees),
    }


def _costs(
    problem: DeploymentProblem, replicas: Sequence[ReplicaSpec], figures: Sequence[Figures]
) -> list[dict[str, Any]]:
    """Return the costs that each replica's times follow from, equal ones once."""
    names = [spec.name for spec in replicas]
    first = figures[0].costs()
    if first["source"] == "analytic":  # coefficients, whatever the batch and the degree
        whole = problem.costs.to_inputs(problem.model, problem.topology.devices, problem.workload)
        return [{"replicas": names, "costs": whole}]
    entries: list[dict[str, Any]] = []
    for name, own in zip(names, figures, strict=True):
        costs = own.costs()
        same = next((entry for entry in entries if entry["costs"] == costs), None)
        if same is None:
            entries.append({"replicas": [name], "costs": costs})
        else:
            same["replicas"].append(name)
    return entries
