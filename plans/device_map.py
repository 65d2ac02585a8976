"""The device map (`gpuplan/device-map/1`): one pipeline, its numbers, its proof and the inputs they follow from.

The classes mirror the file key for key; quantities are in seconds, bytes and tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA = "gpuplan/device-map/1"

#: A number, or a pair compared lexicographically.
Value = float | tuple[float, float]
PlanStatus = Literal["optimal", "feasible"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How good a solver says its answer is.

    Parameters
    ----------
    status
        ``optimal`` (with proof) or ``feasible``.
    objective, bound
        Value and proven bound: numbers, or pairs compared lexicographically; `bound` is None when unknown.
    terms
        The objective's breakdown: any of ``latency_s, bottleneck_s, devices, compute_s, hops_s, return_hop_s,
        price_per_hour, kv_capacity_tokens``, for ``balanced`` also ``latency_star_s, devices_star`` and the two
        weighted parts ``latency_term, devices_term``.
    gap
        ``|bound − objective| / |objective|`` of the first differing component; 0.0 when optimal, None without bound.
    solver, options, seed
        What to run to get the same answer; `options` holds no wall times.
    """

    status: PlanStatus
    objective: Value
    terms: Mapping[str, float]
    bound: Value | None
    gap: float | None
    solver: str
    options: Mapping[str, Any]
    seed: int


@dataclass(frozen=True, slots=True)
class PlanResult(Outcome):
    """An `Outcome` and the version of gpuplan that wrote it."""

    gpuplan_version: str


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model planned for; `digest` is that of ``inputs.model``."""

    name: str
    num_layers: int
    digest: str


@dataclass(frozen=True, slots=True)
class TopologyRef:
    """The machine planned for; `digest` is that of ``inputs.topology``."""

    name: str
    num_devices: int
    digest: str


@dataclass(frozen=True, slots=True)
class WorkloadPoint:
    """Batch b, prompt s, output o, and the M micro-batches in flight."""

    batch: int
    prompt_tokens: int
    output_tokens: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class LayerSpan:
    """Layers ``start..stop−1``."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes on every device of a stage."""

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float
    available_bytes: float

    @property
    def used_bytes(self) -> float:
        """Weights, KV and workspace together."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True)
class Hop:
    """Hand-over to stage number `to`: seconds of one prefill and of one decode step.

    `route` names the components from the sending to the receiving device, both included, as the decode message
    goes. The return hop (last stage to first) carries the sampled tokens of a decode step; its `prefill_s` is 0.
    """

    to: int
    route: tuple[str, ...]
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers on one group of devices; `hop` is None where nothing is handed on."""

    devices: tuple[str, ...]
    tensor_parallel: int
    layers: LayerSpan
    modules: tuple[str, ...]
    memory: StageMemory
    prefill_s: float
    decode_s: float
    hop: Hop | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the plan is worth; `kv_capacity_tokens` is None when no stage keeps KV."""

    ttft_s: float
    tpot_s: float
    latency_s: float
    bottleneck_s: float
    throughput_tokens_per_s: float
    kv_capacity_tokens: int | None
    devices_used: int
    memory_utilization: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """Shares of the plan's layer times by where they come from, and the sources cited."""

    measured: float
    interpolated: float
    fitted: float
    analytic: float
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """A device map; `inputs` is everything its numbers follow from, so that the file alone can be checked."""

    model: ModelRef
    topology: TopologyRef
    workload: WorkloadPoint
    stages: tuple[Stage, ...]
    metrics: Metrics
    result: PlanResult
    provenance: Provenance
    inputs: Mapping[str, Any]
    name: str | None = None
    comment: str | None = None

    @property
    def device_names(self) -> tuple[str, ...]:
        """Devices in pipeline order."""
        return tuple(name for stage in self.stages for name in stage.devices)
