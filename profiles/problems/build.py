"""From a model, a topology, costs and a workload to the numbers a placement solver reads."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import UsageError
from gpuplan.profiles.costs import CostProfile, LayerTimes
from gpuplan.profiles.memory import TOKEN_BYTES, kv_bytes_per_token, workspace_bytes
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.problems.degrees import RUNTIMES, check_runtime_degrees, checked_degrees
from gpuplan.profiles.problems.objectives import dense_objective, user_objective_name
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Hops, Objective, Timing
from gpuplan.profiles.problems.routing import RouteHops, combined
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device, Topology
from gpuplan.units import GIB

ValueT = TypeVar("ValueT")


class _Prepared:
    """Route tables and layer times, shared by all problems made from one another by `replace`.

    Entries are kept by the identity of what they were made from, and hold it: an identity is never reused while its
    entry lives, and one that came out of a pickle is not taken for another. A few dozen suffice; the oldest goes first.
    Concurrent use is safe: two threads at worst compute an entry twice.
    """

    _ENTRIES = 64

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Any, tuple[object, ...]]] = {}

    def get(self, key: Hashable, owners: tuple[object, ...], make: Callable[[], ValueT]) -> ValueT:
        entry = self._entries.get(key)
        if entry is None or not all(map(operator.is_, entry[1], owners)):
            entry = (make(), owners)
            self._entries[key] = entry
            for oldest in list(self._entries)[: -self._ENTRIES]:
                self._entries.pop(oldest, None)
        value: ValueT = entry[0]
        return value


@dataclass(frozen=True, slots=True, eq=False)
class PlacementProblem:
    """Which layers go on which devices: the question, with everything that decides the answer.

    Parameters
    ----------
    model, topology
        What runs, and on what; ``topology.devices`` are the devices a plan may use, in this order.
    costs
        Where times come from.
    workload
        b, s, o and M. M above 1 belongs to the objective ``throughput`` alone.
    objective
        ``latency``, ``throughput``, ``efficiency``, ``balanced``, ``cost`` or ``kv-capacity``;
        an `Objective` to set the weights of ``balanced``.
    return_hop
        Count the sampled tokens' way from the last stage to the first, once a decode step.
    reserve_bytes
        Part of the workspace left to driver and runtime, bytes a device.
    max_devices
        Most devices a plan may use, or None.
    runtime
        Hold to what this runtime can run (``vllm`` and ``sglang``: a decoder layer in every stage), or None.
    micro_batches_from_stages
        M is the number of stages a plan has (``throughput`` alone).
    front
        Ask for the whole front over (latency, bottleneck, devices) instead of one objective.
    tensor_parallel
        Devices a stage may have: the degrees to try, or ``auto`` for all that the model and the islands allow.
    uneven_tensor_parallel
        Whether stages of one plan may have different degrees.

    Raises
    ------
    UsageError
        A value is out of range, a name unknown, or the objective ``cost`` meets a device without a price.
    """

    model: ModelProfile
    topology: Topology
    costs: CostProfile = field(default_factory=AnalyticCosts)
    workload: Workload = field(default_factory=Workload)
    objective: str | Objective = "latency"
    _: dataclasses.KW_ONLY
    return_hop: bool = True
    reserve_bytes: float = GIB
    max_devices: int | None = None
    runtime: str | None = None
    micro_batches_from_stages: bool = False
    front: bool = False
    tensor_parallel: tuple[int, ...] | Literal["auto"] = (1,)
    uneven_tensor_parallel: bool = False
    _prepared: _Prepared = field(default_factory=_Prepared, repr=False)
    _dense: DensePlacement | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        objective = dense_objective(self.objective)
        _check_parts(self.model, self.topology)
        _check_reserve(self.reserve_bytes)
        _check_max_devices(self.max_devices)
        _check_runtime(self.runtime)
        object.__setattr__(self, "tensor_parallel", checked_degrees(self.model, self.tensor_parallel))
        check_runtime_degrees(self.runtime, self.tensor_parallel, uneven=self.uneven_tensor_parallel)
        several = self.micro_batches_from_stages or self.workload.micro_batches > 1
        if several and (self.front or objective.name != "bottleneck"):
            asked = "the front" if self.front else f"the objective {self.objective_name}"
            raise UsageError(f"expected one micro-batch with {asked}; several belong to the objective throughput")
        if objective.name == "cost" and not self.front:
            _check_prices(self.topology)

    @property
    def objective_name(self) -> str:
        """The objective's name as people type it (``throughput``, not ``bottleneck``)."""
        return user_objective_name(self.objective)

    @property
    def single_devices(self) -> bool:
        """Whether every stage is to be one device."""
        return self.tensor_parallel == (1,)

    def dense(self) -> DensePlacement:
        """Return the numbers a solver reads, of single devices as stages; computed once."""
        if self._dense is None:
            object.__setattr__(self, "_dense", _dense(self))
        assert self._dense is not None
        return self._dense

    def replace(self, **changes: Any) -> PlacementProblem:
        """Return the problem with other fields; routes and layer times that stay valid are not computed again."""
        return dataclasses.replace(self, **changes)


def _check_parts(model: ModelProfile, topology: Topology) -> None:
    if not model.layers:
        raise UsageError(f"expected a model of at least one layer, got none in {model.name!r}")
    if not topology.devices:
        raise UsageError(f"expected a cluster of at least one usable device, got none in {topology.name!r}")


def _check_reserve(reserve_bytes: float) -> None:
    if isinstance(reserve_bytes, bool) or not (math.isfinite(reserve_bytes) and reserve_bytes >= 0.0):
        raise UsageError(f"expected a memory reserve of at least 0 bytes, got {reserve_bytes!r}")


def _check_max_devices(max_devices: int | None) -> None:
    if max_devices is None:
        return
    if isinstance(max_devices, bool) or not isinstance(max_devices, int) or max_devices < 1:
        raise UsageError(f"expected max_devices to be a whole number of at least 1, got {max_devices!r}")


def _check_runtime(runtime: str | None) -> None:
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"expected one of the runtimes {', '.join(RUNTIMES)}, got {runtime!r}")


def _check_prices(topology: Topology) -> None:
    missing = [device.name for device in topology.devices if device.price_per_hour is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(
            f"expected a price for the objective cost, got none for {missing[0]}{more};"
            " give price_per_hour in the cluster file, or ask for another objective"
        )


def _dense(problem: PlacementProblem) -> DensePlacement:
    model, workload, devices = problem.model, problem.workload, problem.topology.devices
    latency, cycle = _timings(problem)
    prices = [np.nan if device.price_per_hour is None else device.price_per_hour for device in devices]
    return DensePlacement(
        name=f"{model.name} on {problem.topology.name}",
        device_names=tuple(device.name for device in devices),
        layer_names=tuple(layer.name for layer in model.layers),
        available_bytes=np.array([device.available_bytes for device in devices], dtype=np.float64),
        price_per_hour=np.array(prices, dtype=np.float64),
        memory_bytes=np.array([layer.weight_bytes for layer in model.layers], dtype=np.float64),
        kv_bytes_per_token=np.array([kv_bytes_per_token(layer, workload) for layer in model.layers]),
        latency=latency,
        cycle=cycle,
        tokens_per_micro_batch=float(workload.batch * workload.sequence_tokens),
        micro_batches=micro_batches_of(problem),
        fixed_bytes=float(workspace_bytes(model, workload, reserve_bytes=problem.reserve_bytes)),
        single_stage_saving_bytes=float(model.tied_bytes),
        objective=dense_objective(problem.objective),
        max_devices=problem.max_devices,
        front=problem.front,
        must_hold=must_hold_of(problem),
    )


def micro_batches_of(problem: PlacementProblem) -> int | Literal["stages"]:
    """Return M as solvers read it."""
    return "stages" if problem.micro_batches_from_stages else problem.workload.micro_batches


def must_hold_of(problem: PlacementProblem) -> NDArray[np.bool_] | None:
    """Return the layers of which a runtime wants one in every stage, or None."""
    if problem.runtime is None or not RUNTIMES[problem.runtime]:
        return None
    return np.array([layer.kind == "decoder" for layer in problem.model.layers], dtype=bool)


def _timings(problem: PlacementProblem) -> tuple[Timing, Timing]:
    """Return the numbers of a whole request and of one decode step."""
    workload = problem.workload
    b, s, steps = workload.batch, workload.prompt_tokens, workload.decode_steps
    prefill_s, decode_s = _layer_seconds(problem)
    routes = phase_routes(problem)
    per_token = np.array([layer.boundary_bytes_per_token for layer in problem.model.layers], dtype=np.float64)
    prefill, decode, back = routes.prefill, routes.decode, routes.back
    latency_hop = combined((1, b * s, prefill), (steps, steps * b, decode))
    return_bytes = float(TOKEN_BYTES * b) if back is not None else 0.0
    latency = Timing(
        compute_s=prefill_s + steps * decode_s,
        hop=latency_hop,
        boundary_bytes=per_token,
        return_hop=None if back is None else combined((steps, steps, back)),
        return_bytes=return_bytes,
    )
    return latency, Timing(decode_s, combined((1, b, decode)), per_token, back, return_bytes)


@dataclass(frozen=True, slots=True)
class PhaseRoutes:
    """Routes of the messages of a prefill and of a decode step, and of the sampled tokens (None: not counted)."""

    prefill: Hops
    decode: Hops
    back: Hops | None


def phase_routes(problem: PlacementProblem) -> PhaseRoutes:
    """Return the routes of a problem: the one that is fastest for a phase's largest message serves every cut."""
    b, s = problem.workload.batch, problem.workload.prompt_tokens
    largest = largest_boundary(problem.model)
    return PhaseRoutes(
        _routes(problem, b * s * largest),
        _routes(problem, b * largest),
        _routes(problem, float(TOKEN_BYTES * b)) if problem.return_hop else None,
    )


def largest_boundary(model: ModelProfile) -> float:
    """Return the most bytes per token that any layer hands on."""
    return max(float(layer.boundary_bytes_per_token) for layer in model.layers)


def _routes(problem: PlacementProblem, message_bytes: float) -> Hops:
    """Return α and β of the fastest routes for one message size; latency inf and 0 s/byte where there is none."""
    topology, prepared = problem.topology, problem._prepared

    def make_routes() -> RouteHops:
        from gpuplan.topology.routes import Router

        return RouteHops(Router(topology))

    def make_table() -> Hops:
        return prepared.get(("router", id(topology)), (topology,), make_routes).hops(message_bytes)

    return prepared.get(("routes", id(topology), message_bytes), (topology,), make_table)


def _layer_seconds(problem: PlacementProblem) -> tuple[FloatArray, FloatArray]:
    """Return prefill and decode seconds; shape (D, n) each."""
    times = [times_on(problem, device) for device in problem.topology.devices]
    return np.array([t.prefill_s for t in times]), np.array([t.decode_s for t in times])


def times_on(problem: PlacementProblem, device: Device, tensor_parallel: int = 1) -> LayerTimes:
    """Return the times of all layers on one of so many devices that share them; each computed once."""
    # A cost profile tells devices apart by kind and power cap alone, so equal devices get the very same numbers.
    costs, model, workload = problem.costs, problem.model, problem.workload
    owners = costs, model, device.kind
    point = workload.batch, workload.prompt_tokens, workload.output_tokens
    key = ("times", *map(id, owners), device.power_cap_w, point, tensor_parallel)
    degree = {} if tensor_parallel == 1 else {"tensor_parallel": tensor_parallel}
    return problem._prepared.get(key, owners, lambda: costs.layer_times(model, device, workload, **degree))
