"""The deployment (`gpuplan/deployment/1`): several replicas over one cluster, their numbers, proof and inputs.

The classes mirror the file key for key; quantities are in seconds, bytes, tokens, requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.device_map import (
    DeviceMap,
    Metrics,
    ModelRef,
    PlanResult,
    Provenance,
    Stage,
    TopologyRef,
    WorkloadPoint,
)

SCHEMA = "gpuplan/deployment/1"


@dataclass(frozen=True, slots=True)
class ReplicaMetrics(Metrics):
    """What a replica is worth: the metrics of its device map, and with M micro-batches in flight

    ``token_interval_s = max(M·bottleneck, TPOT)``, ``slowest_prefill_s = max_k(prefill_k + its hop)`` and the
    requests/s it can serve, ``M·b / (TTFT + (M − 1)·slowest_prefill + (o − 1)·token_interval)``.
    """  # noqa: D400 (the formulas are the sentence)

    slowest_prefill_s: float
    token_interval_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class HopRoute:
    """The way of one pair of ranks out of stage `stage`; `phase` is ``prefill``, ``decode`` or ``return``."""

    stage: int
    phase: str
    route: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One replica; `requests_per_s` and `tokens_per_s` are what it is to serve: less than it can where links bind.

    `routes` lists the ways of the messages that the links' loads add up from.
    """

    name: str
    batch: int
    micro_batches: int
    stages: tuple[Stage, ...]
    metrics: ReplicaMetrics
    requests_per_s: float
    tokens_per_s: float
    routes: tuple[HopRoute, ...] = ()

    @property
    def device_names(self) -> tuple[str, ...]:
        """Devices in pipeline order."""
        return tuple(name for stage in self.stages for name in stage.devices)

    @property
    def tensor_parallel(self) -> int:
        """Devices in a stage."""
        return self.stages[0].tensor_parallel

    @property
    def shape(self) -> str:
        """The shape as people write it, for example ``tp 4 × pp 2``."""
        return f"tp {self.tensor_parallel} × pp {len(self.stages)}"


@dataclass(frozen=True, slots=True)
class Spread:
    """The worst of the replicas and their mean, weighted by the requests/s they serve."""

    worst: float
    mean: float


@dataclass(frozen=True, slots=True)
class DeploymentMetrics:
    """Sums over the replicas; `price_per_hour` is None when a price is missing."""

    replicas: int
    requests_per_s: float
    tokens_per_s: float
    ttft_s: Spread
    token_interval_s: Spread
    devices_used: int
    price_per_hour: float | None


@dataclass(frozen=True, slots=True)
class LinkLoad:
    """Bytes/s that all replicas' hops send over one direction of a link, and the share of its bandwidth."""

    sender: str
    receiver: str
    bytes_per_s: float
    bandwidth_bytes_per_s: float
    utilization: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What re-planning changes.

    Parameters
    ----------
    kept, appeared, disappeared
        Names of replicas that stay as they are, are new, or are gone.
    moved_bytes
        Weights each device has to load that it does not hold already, bytes.
    total_moved_bytes
        Their sum.
    decision
        A sentence: what was chosen over what, and why.
    """

    kept: tuple[str, ...]
    appeared: tuple[str, ...]
    disappeared: tuple[str, ...]
    moved_bytes: Mapping[str, float]
    total_moved_bytes: float
    decision: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment; `inputs` is everything its numbers follow from, so that the file alone can be checked."""

    model: ModelRef
    topology: TopologyRef
    replicas: tuple[ReplicaPlan, ...]
    metrics: DeploymentMetrics
    links: tuple[LinkLoad, ...]
    result: PlanResult
    provenance: Provenance
    inputs: Mapping[str, Any]
    changes: Changes | None = None
    name: str | None = None
    comment: str | None = None

    @property
    def device_names(self) -> tuple[str, ...]:
        """Devices in use, replica by replica."""
        return tuple(name for replica in self.replicas for name in replica.device_names)

    def device_map(self, number: int) -> DeviceMap:
        """Return replica `number` as a device map of its own, for exporters and checks."""
        replica = self.replicas[number]
        asked = self.inputs["workload"]
        point = WorkloadPoint(replica.batch, asked["prompt_tokens"], asked["output_tokens"], replica.micro_batches)
        own = replica.metrics
        metrics = Metrics(**{name: getattr(own, name) for name in Metrics.__slots__})
        return DeviceMap(
            model=self.model,
            topology=self.topology,
            workload=point,
            stages=replica.stages,
            metrics=metrics,
            result=PlanResult(
                status="feasible",
                objective=(own.bottleneck_s, own.latency_s),
                terms={},
                bound=None,
                gap=None,
                solver=self.result.solver,
                options={},
                seed=self.result.seed,
                gpuplan_version=self.result.gpuplan_version,
            ),
            provenance=self.provenance,
            inputs=replica_inputs(self.inputs, replica.name, point),
            name=replica.name,
        )


def replica_inputs(inputs: Mapping[str, Any], name: str, point: WorkloadPoint) -> dict[str, Any]:
    """Return the inputs of one replica's device map out of a deployment's."""
    options = inputs["options"]
    costs: Mapping[str, Any] = next((entry["costs"] for entry in inputs["costs"] if name in entry["replicas"]), {})
    return {
        "model": inputs["model"],
        "topology": inputs["topology"],
        "costs": costs,
        "workload": {
            "batch": point.batch,
            "prompt_tokens": point.prompt_tokens,
            "output_tokens": point.output_tokens,
            "micro_batches": point.micro_batches,
        },
        "options": {
            "return_hop": options["return_hop"],
            "reserve_bytes": options["reserve_bytes"],
            "tensor_parallel": options["tensor_parallel"],
            "max_devices": None,
            "runtime": options["runtime"],
            "micro_batches": point.micro_batches,
            "objective": {"name": "throughput"},
        },
    }
