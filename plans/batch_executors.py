"""From a device map to the executor that runs it: batch-time coefficients by least squares, KV room recomputed.

The five coefficients are the non-negative least-squares fit of

    TTFT(b, S) ≈ prefill_fixed + prefill_s_per_token·b·S,
    TPOT(b, c) ≈ step_fixed + step_s_per_sequence·b + step_s_per_context_token·b·c

to what the plan's stages, hops and return hop take on b ∈ {1, 2, 4, …, max_batch}, S, c ∈ {128, 256, …, 8192}.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError, UnsupportedError, UsageError
from gpuplan.plans.device_map import DeviceMap
from gpuplan.plans.placement_solution import GroupStage
from gpuplan.plans.stage_times import StageTimes
from gpuplan.profiles.memory import workspace_bytes
from gpuplan.profiles.model_document import model_from_dict
from gpuplan.profiles.problems.batching import BatchTime, Executor
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.workload import Workload
from gpuplan.topology import topology_from_dict

FloatArray = NDArray[np.float64]
#: Prompts S and contexts c of the grid, tokens.
LENGTHS: Final = (128, 256, 512, 1024, 2048, 4096, 8192)
EXECUTOR_NAME: Final = "e0"


@dataclass(frozen=True, slots=True)
class FittedExecutor:
    """One executor, its batch time, and how well that fits: the worst |fit − plan| / plan of TTFT and of TPOT."""

    executor: Executor
    time: BatchTime
    worst_ttft: float
    worst_tpot: float

    def provenance(self, plan: DeviceMap) -> dict[str, Any]:
        """Return what a batch plan says about where its times come from."""
        return {
            "source": "plan",
            "model": plan.model.name,
            "model_digest": plan.model.digest,
            "topology": plan.topology.name,
            "topology_digest": plan.topology.digest,
            "fit": "non-negative least squares on TTFT and TPOT",
            "worst_ttft_residual": self.worst_ttft,
            "worst_tpot_residual": self.worst_tpot,
            "sources": list(plan.provenance.sources),
        }


def executor_from_plan(plan: DeviceMap, *, max_batch: int = 32, longest_prompt: int = 8192) -> FittedExecutor:
    """Return the executor ``e0`` that runs `plan`.

    Parameters
    ----------
    plan
        A device map with its inputs embedded.
    max_batch
        Requests in a batch at most.
    longest_prompt
        Tokens of the longest prompt; with `max_batch` it sets the workspace that KV has to leave.

    Raises
    ------
    UsageError
        `max_batch` below 1, or no room for KV at this batch and prompt.
    UnsupportedError
        A plan whose times the analytic costs do not give.
    """
    if max_batch < 1:
        raise UsageError(f"expected a batch limit of at least 1, got {max_batch}")
    problem = _problem(plan)
    times = StageTimes(problem, _stages(plan, problem))
    _check_times(plan, times)
    time, worst_ttft, worst_tpot = _fit(times, max_batch)
    room = kv_room_tokens(plan, problem, max_batch, longest_prompt)
    executor = Executor(name=EXECUTOR_NAME, kv_capacity_tokens=float(room), max_batch=max_batch)
    return FittedExecutor(executor, time, worst_ttft, worst_tpot)


def kv_room_tokens(plan: DeviceMap, problem: PlacementProblem, max_batch: int, longest_prompt: int) -> int:
    """Return the KV capacity with the workspace of `max_batch` prompts of `longest_prompt` tokens.

    ``floor(min over stages with KV of (available − weights − workspace − max_batch·constant state) / κ)``: κ as for
    full attention, since short sequences fill a sliding window, and constant states set aside for a full batch; all of
    it on one device of the stage, which holds 1/min(t, KV heads) of κ and of the states.
    """
    point = Workload(batch=max_batch, prompt_tokens=max(longest_prompt, 1), output_tokens=1)
    rooms = []
    for stage in plan.stages:
        layers, t = problem.model.layers[stage.layers.start : stage.layers.stop], stage.tensor_parallel
        workspace = workspace_bytes(problem.model, point, reserve_bytes=problem.reserve_bytes, tensor_parallel=t)
        per_token = math.fsum(layer.kv.bytes_per_token / min(t, layer.kv.heads) for layer in layers)
        state = max_batch * math.fsum(layer.kv.constant_bytes / min(t, layer.kv.heads) for layer in layers)
        free = stage.memory.available_bytes - stage.memory.weights_bytes - workspace - state
        if free <= 0.0:
            raise UsageError(
                f"no KV room on {stage.devices[0]}: batches of {max_batch} with prompts of {longest_prompt} tokens "
                f"need {-free / 2**30:.1f} GiB more than it has; lower --max-batch, or map the model with --batch "
                f"{max_batch} --prompt {longest_prompt}"
            )
        if per_token > 0.0:
            rooms.append(free / per_token)
    return math.floor(min(rooms)) if rooms else 2**40


def _problem(plan: DeviceMap) -> PlacementProblem:
    options = plan.inputs["options"]
    return PlacementProblem(
        model=model_from_dict(plan.inputs["model"]),
        topology=topology_from_dict(plan.inputs["topology"]),
        workload=Workload(plan.workload.batch, plan.workload.prompt_tokens, plan.workload.output_tokens),
        return_hop=bool(options["return_hop"]),
        reserve_bytes=float(options["reserve_bytes"]),
    )


def _check_times(plan: DeviceMap, times: StageTimes) -> None:
    workload = Workload(plan.workload.batch, plan.workload.prompt_tokens, 1)
    if not math.isclose(times.pass_s(workload, "prefill"), plan.metrics.ttft_s, rel_tol=1e-6):
        raise UnsupportedError(
            "the plan's times are not those of the analytic costs, so they cannot be extended to other batches; "
            "name the executors with --executors"
        )


def _fit(times: StageTimes, max_batch: int) -> tuple[BatchTime, float, float]:
    points = [(b, length) for b in _batches(max_batch) for length in LENGTHS]
    size, length = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    ones = np.ones(len(points))
    ttft = np.array([times.pass_s(Workload(b, s, 1), "prefill") for b, s in points])
    # Two output tokens put the mean context s + o/2 at s + 1.
    tpot = np.array([times.pass_s(Workload(b, c - 1, 2), "decode") for b, c in points])
    prefill, worst_ttft = _non_negative(np.column_stack([ones, size * length]), ttft)
    step, worst_tpot = _non_negative(np.column_stack([ones, size, size * length]), tpot)
    return BatchTime(*map(float, (*prefill, *step))), worst_ttft, worst_tpot


def _batches(max_batch: int) -> Iterator[int]:
    """Return 1, 2, 4, … and `max_batch`."""
    b = 1
    while b < max_batch:
        yield b
        b *= 2
    yield max_batch


def _non_negative(matrix: FloatArray, values: FloatArray) -> tuple[FloatArray, float]:
    """Return the non-negative least-squares solution and its worst relative residual.

    Some set of columns carries the optimum, and plain least squares on it is the optimum; with two or three columns
    all sets are tried (as exact as `scipy.optimize.nnls`, without its half second of import).
    """
    # Columns of one size: b·S runs to 10⁵, the constant is 1.
    scale = matrix.max(axis=0)
    best, smallest = np.zeros(matrix.shape[1]), float(values @ values)
    for count in range(1, matrix.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(matrix.shape[1]), count)):
            found = np.linalg.lstsq(matrix[:, columns] / scale[columns], values, rcond=None)[0]
            if (found < 0.0).any():
                continue
            solution = np.zeros(matrix.shape[1])
            solution[columns] = found / scale[columns]
            residual = float(np.sum((matrix @ solution - values) ** 2))
            if residual < smallest:
                best, smallest = solution, residual
    return best, float(np.max(np.abs(matrix @ best - values) / values))


def _stages(plan: DeviceMap, problem: PlacementProblem) -> list[GroupStage]:
    numbers = {device.name: i for i, device in enumerate(problem.topology.devices)}
    for k, stage in enumerate(plan.stages):
        for i, name in enumerate(stage.devices):
            if name not in numbers:
                place = f"$.stages[{k}].devices[{i}]"
                raise InputError(f"expected a device of the embedded topology, got {name!r}", place=place)
    return [
        GroupStage(tuple(numbers[name] for name in stage.devices), stage.layers.start, stage.layers.stop)
        for stage in plan.stages
    ]
