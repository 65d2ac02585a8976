"""Device maps built from a problem: figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from gpuplan.plans import DeviceMap, Outcome, StageRange, build_device_map, verify
from gpuplan.plans.device_map import Hop, LayerSpan, StageMemory
from gpuplan.profiles import PlacementProblem, Workload


def test_stage_times(hand_plan: DeviceMap) -> None:
    """A stage takes what its layers read over the memory bandwidth (all of them are bound by memory)."""
    # Prefill, N = 2·3 = 6 tokens: embedding 4·6 = 24 B; decoder 100 + 2·6 = 112 B (its 60 FLOP at 1000 FLOP/s take
    # 0.06 s, less than 100 B at 200 B/s); head 60 B. Decode at context 3 + 5/2 = 5.5: 8 B, 100 + 2·2·5.5 = 122 B, 60 B.
    first, second = hand_plan.stages
    assert first.prefill_s == pytest.approx((24 + 112) / 200)
    assert first.decode_s == pytest.approx((8 + 122) / 200)
    assert second.prefill_s == pytest.approx((112 + 60) / 100)
    assert second.decode_s == pytest.approx((122 + 60) / 100)


def test_hops(hand_plan: DeviceMap) -> None:
    """A hop takes the route's latency and its message over the bandwidth; the return hop carries 4 B a sequence."""
    # 0.5 s + 2·3·10/100 s, 0.5 s + 2·10/100 s; back 0.5 s + 8/100 s.
    first, second = hand_plan.stages
    assert first.hop == Hop(1, ("h/gpu0", "h/sw", "h/gpu1"), pytest.approx(1.1), pytest.approx(0.7))
    assert second.hop == Hop(0, ("h/gpu1", "h/sw", "h/gpu0"), 0.0, pytest.approx(0.58))


def test_memory(hand_plan: DeviceMap) -> None:
    """Weights are summed, KV is held for both sequences, and the workspace is the same on both devices."""
    # KV of a decoder layer: 2 sequences · 8 tokens · 5 B = 80 B.
    # Workspace: 100 + 2·3·(4·2 + 2·3)·2 + 2·4·4 = 100 + 168 + 32 = 300 B.
    first, second = hand_plan.stages
    assert first.memory == StageMemory(140, 80, 300, 600)
    assert second.memory == StageMemory(160, 80, 300, 800)
    assert (first.layers, second.layers) == (LayerSpan(0, 2), LayerSpan(2, 4))
    assert first.modules == ("model.embed_tokens", "model.layers.0")
    assert second.modules == ("model.layers.1", "model.norm", "lm_head")


def test_metrics(hand_plan: DeviceMap) -> None:
    """The metrics follow from stages and hops as the formulas say."""
    metrics = hand_plan.metrics
    assert metrics.ttft_s == pytest.approx(0.68 + 1.72 + 1.1)  # 3.5
    assert metrics.tpot_s == pytest.approx(0.65 + 1.82 + 0.7 + 0.58)  # 3.75
    assert metrics.latency_s == pytest.approx(3.5 + 4 * 3.75)  # 18.5
    assert metrics.bottleneck_s == pytest.approx(max(0.65 + 0.7, 1.82 + 0.58))
    assert metrics.throughput_tokens_per_s == pytest.approx(2 / 3.75)
    # Room for KV: (600 − 300 − 140)/5 = 32 tokens on the first, (800 − 300 − 160)/5 = 68 on the second.
    assert metrics.kv_capacity_tokens == 32
    assert metrics.devices_used == 2
    assert metrics.memory_utilization == pytest.approx((520 + 540) / 1400)


def test_dense_problem_agrees(hand_problem: PlacementProblem, hand_plan: DeviceMap) -> None:
    """The numbers solvers read add up to the plan's latency."""
    timing = hand_problem.dense().latency
    compute = timing.compute_s[0, :2].sum() + timing.compute_s[1, 2:].sum()
    hop = timing.hop.latency_s[0, 1] + timing.boundary_bytes[1] * timing.hop.s_per_byte[0, 1]
    assert timing.return_hop is not None
    back = timing.return_hop.latency_s[1, 0] + timing.return_bytes * timing.return_hop.s_per_byte[1, 0]
    assert math.isclose(compute + hop + back, hand_plan.metrics.latency_s, rel_tol=1e-12)


def test_single_stage(hand_problem: PlacementProblem) -> None:
    """One stage has no hop at all, and its latency is prefill and four decode steps."""
    # On g1: prefill (24 + 112 + 112 + 60)/100 = 3.08 s, decode (8 + 122 + 122 + 60)/100 = 3.12 s; in all 3.08 + 4·3.12.
    outcome = Outcome("feasible", 15.56, {}, None, None, "hand", {}, 0)
    plan = build_device_map(hand_problem, [StageRange(1, 0, 4)], outcome)
    assert plan.stages[0].hop is None
    assert plan.metrics.latency_s == pytest.approx(15.56)
    assert verify(plan).ok


def test_no_return_hop(hand_problem: PlacementProblem) -> None:
    """Without the return hop the last stage hands nothing on: 0.58 s less a decode step."""
    problem = hand_problem.replace(return_hop=False)
    outcome = Outcome("feasible", 18.5 - 4 * 0.58, {}, None, None, "hand", {}, 0)
    plan = build_device_map(problem, [StageRange(0, 0, 2), StageRange(1, 2, 4)], outcome)
    assert plan.stages[1].hop is None
    assert plan.metrics.tpot_s == pytest.approx(3.75 - 0.58)
    assert verify(plan).ok


def test_micro_batches_from_stages(hand_problem: PlacementProblem) -> None:
    """As many micro-batches as stages: twice the KV, and a rate held by the bottleneck."""
    # KV 2·80 B; 2·2 tokens every max(2·2.4, 3.75) = 4.8 s.
    problem = hand_problem.replace(objective="throughput", micro_batches_from_stages=True, workload=Workload(2, 3, 5))
    outcome = Outcome("feasible", (2.4, 18.5), {}, (2.4, 18.0), 0.5 / 18.5, "hand", {}, 0)
    plan = build_device_map(problem, [StageRange(0, 0, 2), StageRange(1, 2, 4)], outcome)
    assert plan.workload.micro_batches == 2
    assert [stage.memory.kv_bytes for stage in plan.stages] == [160, 160]
    assert plan.metrics.throughput_tokens_per_s == pytest.approx(4 / 4.8)
    # 140 + 160 + 300 = 600 B fill the first device to the byte.
    assert verify(plan).ok


@pytest.mark.parametrize(
    ("objective", "value", "terms"),
    [
        ("throughput", (2.4, 18.5), {"bottleneck_s": 2.4}),
        ("efficiency", (2.0, 18.5), {"devices": 2.0}),
        ("cost", (5.0, 18.5), {"price_per_hour": 5.0}),
        ("kv-capacity", (-32.0, 18.5), {"kv_capacity_tokens": 32.0}),
        # 10·18.5/15.56 + 1·2/1: measured by the one-stage plan on g1.
        ("balanced", 10 * 18.5 / 15.56 + 2, {"latency_star_s": 15.56, "devices_star": 1.0, "devices_term": 2.0}),
    ],
)
def test_every_objective_verifies(
    hand_problem: PlacementProblem, objective: str, value: float | tuple[float, float], terms: dict[str, float]
) -> None:
    """The verifier knows the value of every objective."""
    outcome = Outcome("optimal", value, terms, value, 0.0, "hand", {}, 0)
    stages = [StageRange(0, 0, 2), StageRange(1, 2, 4)]
    plan = build_device_map(hand_problem.replace(objective=objective), stages, outcome)
    assert str(verify(plan)) == "every number and constraint holds"


def test_infinite_gap_becomes_null(hand_problem: PlacementProblem) -> None:
    """JSON has no infinity: a gap above an objective of 0 is written as null."""
    outcome = Outcome("feasible", 18.5, {}, 1.0, math.inf, "hand", {}, 0)
    plan = build_device_map(hand_problem, [StageRange(0, 0, 2), StageRange(1, 2, 4)], outcome)
    assert plan.result.gap is None
