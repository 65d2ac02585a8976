"""The deployment problem: several replicas of a model over a whole cluster."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuplan.errors import UsageError
from gpuplan.profiles.costs import CostProfile
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.problems.degrees import RUNTIMES, check_runtime_degrees, checked_degrees
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Topology
from gpuplan.units import GIB

DeployObjective = Literal["requests", "throughput", "devices", "cost"]
#: What is asked of a deployment: the first two are maximised, the others minimised under a demand.
DEPLOY_OBJECTIVES: tuple[DeployObjective, ...] = ("requests", "throughput", "devices", "cost")
#: The objectives that need a demand.
UNDER_DEMAND: tuple[DeployObjective, ...] = ("devices", "cost")


@dataclass(frozen=True, slots=True, eq=False)
class DeploymentProblem:
    """Which replicas to run on a cluster: the question, with everything that decides the answer.

    A replica is a pipeline with b sequences in each of M micro-batches. With ``interval = max(M·bottleneck, TPOT)``::

        tokens/s   = M·b / interval
        requests/s = M·b / (TTFT + (M − 1)·max_k(prefill_k + its hop) + (o − 1)·interval)

    Parameters
    ----------
    model, topology, costs
        What runs, on what, and where times come from; ``topology.devices`` are the devices that may be used.
    workload
        s and o, and b unless `batch_auto`; its micro-batches are M unless `micro_batches_from_stages`.
    objective
        ``requests`` (requests/s, maximised), ``throughput`` (tokens/s, maximised), or under a demand ``devices``
        (fewest) or ``cost`` (lowest price per hour).
    demand_rps
        Requests/s that ``devices`` and ``cost`` have to meet; None with the others.
    tensor_parallel
        Degrees a replica may have (one for all its stages), or ``auto`` for all that the model allows.
    batch_auto
        Let every replica take the power of two that serves it best, within memory and SLOs.
    micro_batches_from_stages
        M is the number of stages a replica has.
    ttft_slo_s, tpot_slo_s
        Most seconds to the first token (without queueing) and between tokens (``interval``), or None.
    max_devices, max_replicas
        Most devices and replicas in use, or None.
    return_hop, reserve_bytes, runtime
        As for a placement problem.

    Raises
    ------
    UsageError
        A value is out of range, a name unknown, a demand missing or without use, or a price missing.
    """

    model: ModelProfile
    topology: Topology
    costs: CostProfile = field(default_factory=AnalyticCosts)
    workload: Workload = field(default_factory=Workload)
    objective: DeployObjective = "requests"
    _: dataclasses.KW_ONLY
    demand_rps: float | None = None
    tensor_parallel: tuple[int, ...] | Literal["auto"] = "auto"
    batch_auto: bool = False
    micro_batches_from_stages: bool = True
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    max_devices: int | None = None
    max_replicas: int | None = None
    return_hop: bool = True
    reserve_bytes: float = GIB
    runtime: str | None = None

    def __post_init__(self) -> None:
        if not self.model.layers:
            raise UsageError(f"expected a model of at least one layer, got none in {self.model.name!r}")
        if not self.topology.devices:
            raise UsageError(f"expected a cluster of at least one usable device, got none in {self.topology.name!r}")
        _check_objective(self.objective, self.demand_rps)
        for name in ("ttft_slo_s", "tpot_slo_s", "demand_rps"):
            _check_positive(name, getattr(self, name))
        for name in ("max_devices", "max_replicas"):
            _check_count(name, getattr(self, name))
        if isinstance(self.reserve_bytes, bool) or not (math.isfinite(self.reserve_bytes) and self.reserve_bytes >= 0):
            raise UsageError(f"expected a memory reserve of at least 0 bytes, got {self.reserve_bytes!r}")
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise UsageError(f"expected one of the runtimes {', '.join(RUNTIMES)}, got {self.runtime!r}")
        object.__setattr__(self, "tensor_parallel", checked_degrees(self.model, self.tensor_parallel))
        check_runtime_degrees(self.runtime, self.tensor_parallel, uneven=False)
        if self.objective == "cost":
            _check_prices(self.topology)

    @property
    def maximised(self) -> bool:
        """Whether a larger objective is better."""
        return self.objective not in UNDER_DEMAND

    @property
    def decoder_in_every_stage(self) -> bool:
        """Whether the runtime wants a decoder layer in every stage."""
        return self.runtime is not None and RUNTIMES[self.runtime]

    def micro_batches(self, num_stages: int) -> int:
        """Return M of a replica with `num_stages` stages."""
        return num_stages if self.micro_batches_from_stages else self.workload.micro_batches

    def replace(self, **changes: Any) -> DeploymentProblem:
        """Return the problem with other fields."""
        return dataclasses.replace(self, **changes)


def _check_objective(objective: str, demand: float | None) -> None:
    if objective not in DEPLOY_OBJECTIVES:
        close = difflib.get_close_matches(str(objective), DEPLOY_OBJECTIVES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"expected one of the objectives {', '.join(DEPLOY_OBJECTIVES)}, got {objective!r}{hint}")
    if objective in UNDER_DEMAND and demand is None:
        raise UsageError(f"expected a demand in requests/s with the objective {objective}, got none; give a demand")
    if objective not in UNDER_DEMAND and demand is not None:
        raise UsageError(
            f"expected no demand with the objective {objective}, got {demand!r}; ask for devices or cost under a demand"
        )


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and (isinstance(value, bool) or not (math.isfinite(value) and value > 0.0)):
        raise UsageError(f"expected {name} to be a number above 0, got {value!r}")


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"expected {name} to be a whole number of at least 1, got {value!r}")


def _check_prices(topology: Topology) -> None:
    missing = [device.name for device in topology.devices if device.price_per_hour is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(
            f"expected a price for the objective cost, got none for {missing[0]}{more};"
            " give price_per_hour in the cluster file, or ask for devices"
        )
