"""From a device map to an executor: the fit of the batch time and the KV room, recomputed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import nnls

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.batch_executors import LENGTHS, _non_negative, executor_from_plan
from gpuplan.plans.device_map import DeviceMap
from gpuplan.profiles import PlacementProblem, Workload, load_model
from gpuplan.solvers import solve
from gpuplan.topology import load_topology


def make_plan(cluster: str = "dgx-a100", model: str = "llama-3.1-8b", batch: int = 8) -> DeviceMap:
    """Return the latency plan for batches of prompts of 4096 tokens."""
    problem = PlacementProblem(
        load_model(model), load_topology(cluster), workload=Workload(batch=batch, prompt_tokens=4096, output_tokens=256)
    )
    plan = solve(problem).require_plan()
    assert isinstance(plan, DeviceMap)
    return plan


@pytest.fixture(scope="module")
def plan() -> DeviceMap:
    """Return a plan of Llama-3.1-8B for a batch of 8."""
    return make_plan()


def direct(plan: DeviceMap, workload: Workload) -> tuple[float, float]:
    """Return TTFT and TPOT of the plan's stages under another workload, from a device map of their own."""
    from gpuplan.plans.build import build_device_map
    from gpuplan.plans.device_map import Outcome
    from gpuplan.plans.placement_solution import StageRange
    from gpuplan.profiles import model_from_dict
    from gpuplan.topology import topology_from_dict

    topology = topology_from_dict(plan.inputs["topology"])
    numbers = {device.name: i for i, device in enumerate(topology.devices)}
    stages = [StageRange(numbers[s.devices[0]], s.layers.start, s.layers.stop) for s in plan.stages]
    problem = PlacementProblem(model_from_dict(plan.inputs["model"]), topology, workload=workload)
    outcome = Outcome(status="feasible", objective=1.0, terms={}, bound=None, gap=None, solver="x", options={}, seed=0)
    metrics = build_device_map(problem, stages, outcome).metrics
    return metrics.ttft_s, metrics.tpot_s


@pytest.mark.parametrize(("cluster", "model"), [("dgx-a100", "llama-3.1-8b"), ("8xl4", "llama-3.1-8b")])
def test_fit_is_scipys_on_the_grid(cluster: str, model: str) -> None:
    """The five coefficients are those of `scipy.optimize.nnls` on TTFT and TPOT of whole device maps."""
    plan = make_plan(cluster, model, batch=2)
    fitted = executor_from_plan(plan, max_batch=2, longest_prompt=4096)
    points = [(b, length) for b in (1, 2) for length in LENGTHS]
    size, length = np.array(points, dtype=float).T
    # o = 2 puts the mean context s + o/2 at s + 1, so s is c − 1
    ttft = np.array([direct(plan, Workload(b, s, 1))[0] for b, s in points])
    tpot = np.array([direct(plan, Workload(b, c - 1, 2))[1] for b, c in points])
    one = np.ones(len(points))
    scale = 1e4  # nnls is poor on columns of very unlike size
    prefill = nnls(np.column_stack([one, size * length / scale]), ttft)[0] / [1, scale]
    step = nnls(np.column_stack([one, size, size * length / scale]), tpot)[0] / [1, 1, scale]
    assert dataclasses.astuple(fitted.time) == pytest.approx([*prefill, *step], rel=1e-6, abs=1e-12)
    worst = np.max(np.abs(prefill[0] + prefill[1] * size * length - ttft) / ttft)
    assert fitted.worst_ttft == pytest.approx(worst, rel=1e-6)


def test_kv_room_is_the_plans_own_at_its_batch(plan: DeviceMap) -> None:
    """With the plan's batch and prompt the workspace is the plan's, so the room is its KV capacity."""
    fitted = executor_from_plan(plan, max_batch=8, longest_prompt=4096)
    assert fitted.executor.kv_capacity_tokens == plan.metrics.kv_capacity_tokens
    larger = executor_from_plan(plan, max_batch=16, longest_prompt=4096).executor
    assert larger.kv_capacity_tokens < fitted.executor.kv_capacity_tokens
    assert (larger.name, larger.max_batch, larger.speed) == ("e0", 16, 1.0)


@pytest.mark.parametrize("groups", [((0, 1, 2, 3),), ((0, 1), (4, 5)), ((2, 3), (7,))])
def test_groups_of_devices(groups: tuple[tuple[int, ...], ...]) -> None:
    """A plan of tensor-parallel stages is fitted on its own TTFT and TPOT, and keeps KV as it says."""
    from gpuplan.plans import GroupStage, Outcome, build_device_map

    outcome = Outcome(status="feasible", objective=1.0, terms={}, bound=None, gap=None, solver="x", options={}, seed=0)
    cuts = [0, *[20] * (len(groups) - 1), 34]
    stages = [GroupStage(group, cuts[k], cuts[k + 1]) for k, group in enumerate(groups)]
    problem = PlacementProblem(
        load_model("llama-3.1-8b"), load_topology("dgx-a100"), tensor_parallel=(1, 2, 4), uneven_tensor_parallel=True
    )

    def own(workload: Workload) -> DeviceMap:
        return build_device_map(problem.replace(workload=workload), stages, outcome)

    fitted = executor_from_plan(own(Workload(2, 4096, 1)), max_batch=2, longest_prompt=4096)
    points = [(b, length) for b in (1, 2) for length in LENGTHS]
    ttft = np.array([own(Workload(b, s, 1)).metrics.ttft_s for b, s in points])
    tpot = np.array([own(Workload(b, c - 1, 2)).metrics.tpot_s for b, c in points])
    size, length = np.array(points, dtype=float).T
    prefill = fitted.time.prefill_fixed_s + fitted.time.prefill_s_per_token * size * length
    step = (
        fitted.time.step_fixed_s
        + (fitted.time.step_s_per_sequence + fitted.time.step_s_per_context_token * length) * size
    )
    assert np.max(np.abs(prefill - ttft) / ttft) == pytest.approx(fitted.worst_ttft, rel=1e-6)
    assert np.max(np.abs(step - tpot) / tpot) == pytest.approx(fitted.worst_tpot, rel=1e-6)
    assert fitted.executor.kv_capacity_tokens == own(Workload(2, 4096, 1)).metrics.kv_capacity_tokens


def test_no_room(plan: DeviceMap) -> None:
    """A batch whose workspace fills the device is refused, with the mend."""
    with pytest.raises(UsageError, match=r"no KV room on .*lower --max-batch"):
        executor_from_plan(plan, max_batch=4096, longest_prompt=8192)
    with pytest.raises(UsageError, match="batch limit of at least 1"):
        executor_from_plan(plan, max_batch=0)


def test_plans_that_cannot_be_extended(plan: DeviceMap) -> None:
    """Times of another source than the analytic costs are refused."""
    measured = dataclasses.replace(plan, metrics=dataclasses.replace(plan.metrics, ttft_s=1.5 * plan.metrics.ttft_s))
    with pytest.raises(UnsupportedError, match="--executors"):
        executor_from_plan(measured)


def test_non_negative_least_squares_equals_scipys() -> None:
    """Trying all sets of columns finds the optimum of `nnls`, also where coefficients end at 0."""
    random = np.random.default_rng(0)
    for _ in range(200):
        matrix = random.uniform(0.1, 1.0, (20, 3))
        values = np.maximum(matrix @ random.normal(0.0, 1.0, 3) + random.normal(0.0, 0.3, 20), 0.01)
        assert _non_negative(matrix, values)[0] == pytest.approx(nnls(matrix, values)[0], abs=1e-9)
