"""Device maps of tensor-parallel groups: figures worked out by hand, and what a group must be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gpuplan.plans import DeviceMap, GroupStage, Outcome, StageRange, build_device_map, device_map_to_dict, verify
from gpuplan.plans.canonical import digest
from gpuplan.plans.device_map import Hop, StageMemory
from gpuplan.plans.verify.islands import island_numbers
from gpuplan.profiles import AnalyticCosts, ModelProfile, PlacementProblem
from gpuplan.topology import islands, list_clusters, load_topology
from gpuplan.topology.graph import Link, Topology
from gpuplan.topology.serialize import topology_to_dict

BLANK = Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0)


def checked(problem: PlacementProblem, *stages: GroupStage | StageRange) -> DeviceMap:
    """Return the plan of `stages` with its own latency for objective, verified."""
    value = build_device_map(problem, stages, BLANK).metrics.latency_s
    plan = build_device_map(problem, stages, dataclasses.replace(BLANK, objective=value))
    assert str(verify(plan)) == "every number and constraint holds"
    return plan


def places(document: dict[str, Any]) -> list[str]:
    """Return the places of all findings."""
    return [finding.place for finding in verify(document).problems]


def test_stage_times(group_plan: DeviceMap) -> None:
    """Layers take half of their sharded work on the slowest member, plus the ring's all-reduces."""
    # Layers on a/gpu1, 100 B/s. Prefill, 6 tokens: lookup 24/2 B; linear 80/2, norm 20 + 2·6 (whole), attention 2·6/2:
    # 0.12 + 0.40 + 0.32 + 0.06 = 0.90 s. Decode: 8/2, 40, 20 + 2·2, 2·2·5.5/2: 0.04 + 0.40 + 0.24 + 0.11 = 0.79 s.
    # Rings over the pair (0.1 s, 50 B/s): 2·½·m/50 + 2·0.1 with m = 6·2·2 = 24 B: 0.68 s; in decoding 8 B: 0.36 s;
    # one of the embedding, two of the layer.
    first, second = group_plan.stages
    assert first.prefill_s == pytest.approx(0.90 + 3 * 0.68)
    assert first.decode_s == pytest.approx(0.79 + 3 * 0.36)
    # On host b, 200 B/s: 0.20 + 0.16 + 0.03 and the head 60/2 B = 0.15; rings (0.2 s, 100 B/s) of 24 B: 0.64 s twice,
    # of the logits, 2·4·4 = 32 B: 0.72 s. Decode: 0.20 + 0.12 + 0.055 + 0.15; 8 B: 0.48 s twice, 0.72 s.
    assert second.prefill_s == pytest.approx(0.54 + 2 * 0.64 + 0.72)
    assert second.decode_s == pytest.approx(0.525 + 2 * 0.48 + 0.72)


def test_hops_are_those_of_the_slowest_pair(group_plan: DeviceMap) -> None:
    """Rank 0 sends to rank 0, rank 1 to rank 1; a/gpu1's way (0.5 s, 20 B/s) is the slower one."""
    # 0.5 + 60/20, 0.5 + 20/20 against 0.4 + 60/40, 0.4 + 20/40; back 0.5 + 8/20.
    first, second = group_plan.stages
    way = ("a/gpu1", "a/sw", "b/sw", "b/gpu1")
    assert first.hop == Hop(1, way, pytest.approx(3.5), pytest.approx(1.5))
    assert second.hop == Hop(0, way[::-1], 0.0, pytest.approx(0.9))


def test_memory(group_plan: DeviceMap) -> None:
    """Norms are held whole, the rest by halves; the smallest member sets what is available."""
    # Weights 40/2 + 20 + 80/2 = 80 B; 60 + 4 + 56/2 = 92 B. KV 2 sequences · 8 tokens · 8/2 B.
    # Workspace 100 + 6·(4·2 + 2·3/2)·2 + 2·4·4/2 = 248 B.
    first, second = group_plan.stages
    assert first.memory == StageMemory(80, 64, 248, 700)
    assert second.memory == StageMemory(92, 64, 248, 800)
    assert (first.devices, first.tensor_parallel) == (("a/gpu0", "a/gpu1"), 2)


def test_metrics(group_plan: DeviceMap) -> None:
    """Every device of every group counts."""
    metrics = group_plan.metrics
    assert metrics.ttft_s == pytest.approx(2.94 + 2.54 + 3.5)
    assert metrics.tpot_s == pytest.approx(1.87 + 2.205 + 1.5 + 0.9)
    assert metrics.latency_s == pytest.approx(34.88)  # 8.98 + 4·6.475
    assert metrics.bottleneck_s == pytest.approx(1.87 + 1.5)
    assert metrics.devices_used == 4
    assert metrics.memory_utilization == pytest.approx((392 + 404) / 1500)
    # (700 − 248 − 80)/4 = 93 tokens on host a, (800 − 248 − 92)/4 = 115 on host b.
    assert metrics.kv_capacity_tokens == 93


def test_plan_verifies(group_plan: DeviceMap) -> None:
    """Nothing to find in what was built; the options say which degrees were asked for."""
    assert str(verify(group_plan)) == "every number and constraint holds"
    assert group_plan.inputs["options"]["tensor_parallel"] == [2]
    assert "uneven_tensor_parallel" not in group_plan.inputs["options"]


@pytest.mark.parametrize(
    ("objective", "value", "terms"),
    [
        ("throughput", (3.37, 34.88), {"bottleneck_s": 3.37}),
        ("efficiency", (4.0, 34.88), {"devices": 4.0}),
        ("cost", (9.0, 34.88), {"price_per_hour": 9.0}),
        ("kv-capacity", (-93.0, 34.88), {"kv_capacity_tokens": 93.0}),
        ("balanced", 10 * 34.88 / 30 + 2, {"latency_star_s": 30.0, "devices_star": 2.0}),
    ],
)
def test_every_objective_verifies(group_problem: PlacementProblem, objective: str, value: Any, terms: Any) -> None:
    """Devices and prices are those of all members: 2 + 3 + 2 + 2 an hour."""
    outcome = Outcome("optimal", value, terms, value, 0.0, "hand", {}, 0)
    stages = [GroupStage((0, 1), 0, 2), GroupStage((2, 3), 2, 4)]
    plan = build_device_map(group_problem.replace(objective=objective), stages, outcome)
    assert str(verify(plan)) == "every number and constraint holds"


def test_uneven_stages(group_problem: PlacementProblem) -> None:
    """Two devices, then one: both ranks send to it, and it answers both."""
    problem = group_problem.replace(tensor_parallel=(1, 2), uneven_tensor_parallel=True)
    plan = checked(problem, GroupStage((0, 1), 0, 2), StageRange(2, 2, 4))
    assert [stage.tensor_parallel for stage in plan.stages] == [2, 1]
    assert plan.stages[0].hop is not None
    assert plan.stages[0].hop.route == ("a/gpu1", "a/sw", "b/sw", "b/gpu0")
    # Alone, b/gpu0 reads 80 + 32 + 12 B and the head's 60 B at 200 B/s; no ring.
    assert plan.stages[1].prefill_s == pytest.approx(184 / 200)
    assert plan.stages[1].memory.weights_bytes == 160
    assert plan.inputs["options"]["uneven_tensor_parallel"] is True
    document = device_map_to_dict(plan)
    document["inputs"]["options"]["uneven_tensor_parallel"] = False
    assert places(document) == ["$.stages[1].tensor_parallel"]


def joined(topology: Topology) -> Topology:
    """Return the two hosts as one NVLink domain."""
    return dataclasses.replace(topology, links=(*topology.links, Link("a/sw", "b/sw", "nvlink", 40.0, 0.1), *(
        Link(name, f"{name[0]}/sw", "nvlink", 40.0, 0.1) for name in ("a/gpu0", "b/gpu0")
    )))  # fmt: skip


def test_more_devices_than_kv_heads(group_problem: PlacementProblem, group_topology: Topology) -> None:
    """Four devices share two KV heads: KV is halved, and projections to keys and values are held whole."""
    problem = group_problem.replace(topology=joined(group_topology), tensor_parallel="auto")
    plan = checked(problem, GroupStage((0, 1, 2, 3), 0, 4))
    # 40/4 + 2·(20 + 16 + 64/4) + 4 + 56/4 = 132 B; KV 2 layers · 2 sequences · 8 tokens · 8/2 B.
    assert plan.stages[0].memory.weights_bytes == 132
    assert plan.stages[0].memory.kv_bytes == 128
    assert plan.stages[0].hop is None
    assert plan.inputs["options"]["tensor_parallel"] == [1, 2, 4]
    document = device_map_to_dict(plan)
    document["inputs"]["model"]["layers"][1]["kv_projection_weight_bytes"] = 0
    document["model"]["digest"] = digest(document["inputs"]["model"])
    assert "$.stages[0].memory.weights_bytes" in places(document)


def test_group_across_islands(group_problem: PlacementProblem) -> None:
    """Without NVLink between the hosts, four devices are no group."""
    plan = build_device_map(group_problem.replace(tensor_parallel=(4,)), [GroupStage((0, 1, 2, 3), 0, 4)], BLANK)
    found = places(device_map_to_dict(plan))
    assert [f"$.stages[0].devices[{i}]" in found for i in range(4)] == [True] * 4


@pytest.mark.parametrize(
    ("heads", "kv_heads", "experts", "message"),
    [
        (3, 1, 0, "the model's 3 attention heads do not divide by it"),
        (6, 3, 0, "neither do the model's 3 KV heads divide by it, nor it by them"),
        (4, 2, 7, "the model's 7 experts do not divide by it"),
    ],
)
def test_degree_the_model_does_not_allow(
    group_document: dict[str, Any], heads: int, kv_heads: int, experts: int, message: str
) -> None:
    """Heads, KV heads and experts must divide."""
    model = group_document["inputs"]["model"]
    model.update(num_attention_heads=heads, num_kv_heads=kv_heads)
    model["operator_sets"]["decoder"][0].update(experts=experts, experts_per_token=experts)
    group_document["model"]["digest"] = digest(model)
    found = {finding.place: finding.message for finding in verify(group_document).problems}
    assert found["$.stages[0].tensor_parallel"] == f"says 2, but {message}"


def test_no_route_inside_a_group(group_document: dict[str, Any]) -> None:
    """A group that lost its links is named, the stage with its collectives too."""
    topology = group_document["inputs"]["topology"]
    topology["links"] = [link for link in topology["links"] if not link["a"].startswith("a/gpu0")]
    assert {"$.stages[0].devices[0]", "$.stages[0].devices"} <= set(places(group_document))


@pytest.mark.parametrize("cluster", list_clusters())
def test_islands_are_those_of_the_topology(cluster: str) -> None:
    """The verifier finds the same islands from the embedded links as the topology does."""
    topology = load_topology(cluster)
    found = island_numbers(topology_to_dict(topology))
    groups: dict[int, list[str]] = {}
    for name, number in found.items():
        groups.setdefault(number, []).append(name)
    expected = [list(island.devices) for island in islands(topology)]
    assert sorted(groups.values()) == sorted(expected)


def test_single_devices_are_written_as_before(hand_document: dict[str, Any]) -> None:
    """A plan of single devices holds nothing that groups brought along, to the byte."""
    # The digest of the file that gpuplan wrote before stages could be groups.
    del hand_document["result"]["gpuplan_version"]
    assert digest(hand_document) == "bbcd9b299810b3c55799323c5642726a27197fb6f874f3f31cb9af0a09b07464"


def test_groups_of_one_are_single_devices(hand_problem: PlacementProblem, hand_document: dict[str, Any]) -> None:
    """A group of one device is that device."""
    outcome = Outcome("optimal", 18.5, {"latency_s": 18.5, "devices": 2.0}, 18.5, 0.0, "hand", {"threads": 1}, 0)
    plan = build_device_map(hand_problem, [GroupStage((0,), 0, 2), GroupStage((1,), 2, 4)], outcome)
    assert device_map_to_dict(plan) == hand_document


def test_costs_of_the_devices_used_alone(group_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> None:
    """A plan of groups embeds the coefficients of its own devices."""
    plan = checked(group_problem, GroupStage((2, 3), 0, 4))
    assert set(plan.inputs["costs"]["devices"]) == {"b/gpu0", "b/gpu1"}


def test_tied_weights_are_shared(group_model: ModelProfile, group_problem: PlacementProblem) -> None:
    """A tied copy is saved once a device: half of it at degree 2."""
    problem = group_problem.replace(model=dataclasses.replace(group_model, tied_bytes=40))
    plan = checked(problem, GroupStage((2, 3), 0, 4))
    assert plan.stages[0].memory.weights_bytes == 20 + 2 * 60 + 32 - 20
