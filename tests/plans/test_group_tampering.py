"""Plans of groups edited by hand: every edit is found, and the finding names the field."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.plans import GroupStage, Outcome, StageRange, build_device_map, device_map_to_dict, verify
from gpuplan.plans.canonical import digest
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, PlacementProblem, Workload
from gpuplan.profiles.cost_sources import CombinedCosts
from gpuplan.profiles.fitted import Fit, FittedCosts, Regime
from gpuplan.profiles.tables import CostTable, TableCosts, series_from_rows
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology

ZEROS = "0" * 64
BLANK = Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0)
STAGES = [GroupStage((0, 1), 0, 2), GroupStage((2, 3), 2, 4)]
CLASS = "$.inputs.costs.classes.fast/tp2"
#: The same place as findings write it.
NAMED = "$.inputs.costs.classes['fast/tp2']"


def places(document: dict[str, Any]) -> list[str]:
    """Return the places of all findings."""
    return [finding.place for finding in verify(document).problems]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("$.model.digest", ZEROS),
        ("$.topology.digest", ZEROS),
        ("$.workload.batch", 1),
        ("$.stages[0].devices[0]", "b/gpu9"),
        ("$.stages[0].devices[0]", "b/gpu0"),
        ("$.stages[0].devices[1]", "a/gpu0"),
        ("$.stages[1].devices[0]", "a/gpu0"),
        ("$.stages[0].devices", ["a/gpu1", "a/gpu0"]),
        ("$.stages[0].tensor_parallel", 1),
        ("$.stages[1].tensor_parallel", 4),
        ("$.stages[0].layers.stop", 3),
        ("$.stages[1].layers.start", 1),
        ("$.stages[1].layers.stop", 3),
        ("$.stages[0].modules[1]", "layer.1"),
        ("$.stages[0].memory.weights_bytes", 140),
        ("$.stages[0].memory.kv_bytes", 128),
        ("$.stages[1].memory.workspace_bytes", 332),
        ("$.stages[0].memory.available_bytes", 900),
        ("$.stages[0].prefill_s", 0.9),
        ("$.stages[0].decode_s", 0.79),
        ("$.stages[1].prefill_s", 2.5),
        ("$.stages[1].decode_s", 2.2),
        ("$.stages[0].hop.to", 0),
        ("$.stages[0].hop.prefill_s", 1.9),
        ("$.stages[0].hop.decode_s", 0.9),
        ("$.stages[0].hop.route", ["a/gpu0", "a/sw", "b/sw", "b/gpu0"]),
        ("$.stages[0].hop.route", ["a/gpu1", "a/sw", "b/sw", "b/gpu0"]),
        ("$.stages[0].hop.route", ["a/gpu1", "a/gpu0", "a/sw", "b/sw", "b/gpu1"]),
        ("$.stages[0].hop", None),
        ("$.stages[1].hop.decode_s", 0.7),
        ("$.stages[1].hop.prefill_s", 0.9),
        ("$.stages[1].hop.route", ["b/gpu0", "b/sw", "a/sw", "a/gpu0"]),
        ("$.stages[1].hop", None),
        ("$.metrics.ttft_s", 8.0),
        ("$.metrics.tpot_s", 6.0),
        ("$.metrics.latency_s", 30.0),
        ("$.metrics.bottleneck_s", 3.0),
        ("$.metrics.throughput_tokens_per_s", 1.0),
        ("$.metrics.kv_capacity_tokens", 46),
        ("$.metrics.devices_used", 2),
        ("$.metrics.memory_utilization", 0.5),
        ("$.result.objective", 30.0),
        ("$.result.bound", 30.0),
        ("$.result.gap", 0.1),
        ("$.result.terms.devices", 2),
        ("$.provenance.analytic", 0.5),
    ],
)
def test_an_edited_field_is_named(group_document: dict[str, Any], edit: Any, place: str, value: Any) -> None:
    """One field is edited; a finding stands at that very place."""
    assert verify(group_document).ok
    assert place in places(edit(group_document, place, value))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("$.inputs.options.tensor_parallel", [4], "$.stages[0].tensor_parallel"),
        ("$.inputs.options.tensor_parallel", 1, "$.stages[0].tensor_parallel"),
        ("$.inputs.options.max_devices", 3, "$.stages"),
        ("$.inputs.model.num_attention_heads", 3, "$.stages[0].tensor_parallel"),
        ("$.inputs.model.vocab_size", 5, "$.stages[1].prefill_s"),
        ("$.inputs.model.hidden_size", 4, "$.stages[0].prefill_s"),
        ("$.inputs.model.layers[1].replicated_weight_bytes", 0, "$.stages[0].memory.weights_bytes"),
        ("$.inputs.model.layers[1].kv.heads", 1, "$.stages[0].memory.kv_bytes"),
        ("$.inputs.model.operator_sets.decoder[1].sharded", True, "$.stages[0].prefill_s"),
        ("$.inputs.topology.links[0].latency_s", 0.2, "$.stages[0].prefill_s"),
        ("$.inputs.topology.links[0].kind", "pcie", "$.topology.digest"),
        ("$.inputs.costs.devices.a/gpu1", ..., "$.inputs.costs.devices['a/gpu1']"),
        ("$.inputs.costs.devices.a/gpu1.overhead_s", 0.1, "$.stages[0].prefill_s"),
        ("$.inputs.costs.devices.a/gpu1.peak_flops_per_s", {}, "$.inputs.costs.devices['a/gpu1'].peak_flops_per_s"),
    ],
)
def test_an_edited_input_is_named(
    group_document: dict[str, Any], edit: Any, place: str, value: Any, named: str
) -> None:
    """One input is edited; the digest or the figure that no longer follows from it is named."""
    assert named in places(edit(group_document, place, value))


def test_runtime_of_one_degree(group_problem: PlacementProblem) -> None:
    """An uneven plan does not pass for one that vLLM can hold."""
    problem = group_problem.replace(tensor_parallel=(1, 2), uneven_tensor_parallel=True)
    plan = build_device_map(problem, [GroupStage((0, 1), 0, 2), StageRange(2, 2, 4)], BLANK)
    document = device_map_to_dict(plan)
    assert "$.stages[1].tensor_parallel" not in places(document)
    document["inputs"]["options"]["runtime"] = "vllm"
    assert "$.stages[1].tensor_parallel" in places(document)
    document["inputs"]["options"]["runtime"] = "accelerate"
    assert "$.stages[0].tensor_parallel" in places(document)


def test_overfull_member(group_problem: PlacementProblem) -> None:
    """The tightest member of a group is named: 80 + 64 + 248 bytes and a reserve of 400 more on a/gpu1."""
    plan = build_device_map(group_problem.replace(reserve_bytes=500), STAGES, BLANK)
    found = {finding.place: finding.message for finding in verify(plan).problems}
    assert found["$.stages[0].memory"] == "needs 792 bytes on a/gpu1, which has 700"


def test_any_of_equally_fast_routes(group_problem: PlacementProblem, group_topology: Topology) -> None:
    """A second link, as fast for the 60 B of a prefill: the collectives may take either, and neither is a finding."""
    # 0.1 + 60/50 = 1.3 s = 1.0 + 60/200: larger α, smaller β.
    links = (*group_topology.links, Link("a/gpu0", "a/gpu1", "nvlink", 200.0, 1.0))
    problem = group_problem.replace(topology=dataclasses.replace(group_topology, links=links))
    value = build_device_map(problem, STAGES, BLANK).metrics.latency_s
    plan = build_device_map(problem, STAGES, dataclasses.replace(BLANK, objective=value))
    assert str(verify(plan)) == "every number and constraint holds"
    document = device_map_to_dict(plan)
    # Two messages of 24 B for a layer, one for the embedding, on (0.1, 1/50) or on (1.0, 1/200).
    either = [0.9 + 3 * (24 / 50 + 0.2), 0.9 + 3 * (24 / 200 + 2.0)]
    assert min(abs(document["stages"][0]["prefill_s"] - own) for own in either) < 1e-12
    document["stages"][0]["prefill_s"] = 0.9 + 3 * (24 / 50 + 0.2) + 0.01
    assert "$.stages[0].prefill_s" in places(document)


def table(kind: str, *series: Any, degree: int = 2) -> CostTable:
    """Return a table of one rank of the hand-made model."""
    rows = tuple(series_from_rows(*one) for one in series)
    return CostTable(f"{kind} bench", kind, rows, "pairs", tensor_parallel=degree, source="made up")


SERIES = (
    (["linear"], "both", ["tokens"], [(2, 1.0), (4, 2.0), (8, 4.0)]),
    (["norm"], "both", ["tokens"], [(2, 0.1), (6, 0.2)]),
    (["attention"], "prefill", ["prompt"], [(3, 0.25)]),
    (["attention"], "decode", ["batch", "context"], [(2, 5, 0.5), (2, 6, 0.7)]),
    (["lookup"], "both", ["tokens"], [(2, 0.1), (6, 0.3)]),
)
HEAD = (["logits"], "both", ["batch"], [(2, 0.6)])


def planned(problem: PlacementProblem, costs: Any, stages: Any = STAGES) -> dict[str, Any]:
    """Return the plan on other costs, with its own latency for objective."""
    problem = problem.replace(costs=costs)
    value = build_device_map(problem, stages, BLANK).metrics.latency_s
    outcome = dataclasses.replace(BLANK, objective=value)
    return copy.deepcopy(device_map_to_dict(build_device_map(problem, stages, outcome)))


@pytest.fixture
def measured(group_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> dict[str, Any]:
    """Everything measured at degree 2 but the head on the fast devices, which the roofline fills in."""
    return planned(group_problem, TableCosts((table("fast", *SERIES), table("slow", *SERIES, HEAD)), ideal_costs))


def test_measured_groups(measured: dict[str, Any]) -> None:
    """Tables of one rank at the stage's degree; collectives count as analytic."""
    assert str(verify(measured)) == "every number and constraint holds"
    assert set(measured["inputs"]["costs"]["classes"]) == {"fast/tp2", "slow/tp2"}
    # Prefill of host a: lookup 0.3, linear at 6 tokens 3.0, norm 0.2, attention twice 0.25; three rings of 0.68 s.
    assert measured["stages"][0]["prefill_s"] == pytest.approx(4.0 + 3 * 0.68)
    # Host b: layer 3.7, head 60/2 B at 200 B/s; rings 2·0.64 + 0.72.
    assert measured["stages"][1]["prefill_s"] == pytest.approx(3.7 + 0.15 + 2.0)
    # Analytic: head 0.15 s and rings (2.04 + 2.0, in a step 1.08 + 1.68), once and four times. Layers in a step:
    # 0.1 + 1.0 + 0.1 + 0.6, 1.7 + 0.15.
    analytic = 0.15 + 4.04 + 4 * (0.15 + 2.76)
    total = analytic + 7.7 + 4 * (1.8 + 1.7)
    assert measured["provenance"]["analytic"] == pytest.approx(analytic / total)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (f"{CLASS}.tensor_parallel", 1, f"{NAMED}.tensor_parallel"),
        (f"{CLASS}.tensor_parallel", ..., f"{NAMED}.tensor_parallel"),
        (f"{CLASS}.roofline.overhead_s", 0.5, "$.stages[1].prefill_s"),
        (f"{CLASS}.layers.decoder.prefill[0].entries[0][1]", 0.5, "$.stages[1].prefill_s"),
        ("$.inputs.costs.devices.b/gpu1", "slow/tp2", "$.stages[1].prefill_s"),
        ("$.provenance.analytic", 0.1, "$.provenance.analytic"),
        ("$.stages[1].decode_s", 1.85, "$.stages[1].decode_s"),
    ],
)
def test_tampering_with_measured_groups_is_found(
    measured: dict[str, Any], edit: Any, place: str, value: Any, named: str
) -> None:
    """One edit; a finding stands at the field that no longer holds."""
    for entry in measured["inputs"]["costs"]["classes"].values():
        entry["layers"]["head"]["prefill"][0].setdefault("covers", ["logits"])
    if value == "slow/tp2":  # slower at the embedding it does not hold, and at the head
        measured["inputs"]["costs"]["classes"]["slow/tp2"]["layers"]["head"]["prefill"][0]["entries"][0][1] = 9.0
    assert named in places(edit(measured, place, value))


def test_kernels_by_shape_at_a_rank(group_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> None:
    """A matrix product is looked up at the rank's own shape, and an edited one is found."""
    # 10 FLOPs a token at width 2: 5/2 outputs; at degree 2 1.25 (2.5 before).
    gemm = (["gemm"], "both", ["n", "k", "tokens"], [(1.25, 2, 2, 1.0), (1.25, 2, 6, 2.0)])
    shapes = tuple(CostTable(f"{kind} shapes", kind, (series_from_rows(*gemm),)) for kind in ("fast", "slow"))
    document = planned(group_problem, TableCosts(shapes, ideal_costs))
    assert str(verify(document)) == "every number and constraint holds"
    term = document["inputs"]["costs"]["classes"]["fast/tp2"]["layers"]["decoder"]["prefill"][0]
    assert term["at"][term["axes"].index("n")] == 1.25
    term["at"][term["axes"].index("n")] = 2.5
    assert f"{NAMED}.layers.decoder.prefill[0].at" in places(document)


def test_fitted_groups_of_uneven_degree(group_problem: PlacementProblem, ideal_costs: AnalyticCosts) -> None:
    """Fits of two degrees on one kind stand in classes of their own."""

    def fit(kind: str, degree: int) -> Fit:
        regimes = (Regime(None, (0.2, 0.1, 0.01)),)
        return Fit(f"{kind} fit {degree}", kind, "pairs", (1.0, 0.5 / degree, 0.0), regimes, tensor_parallel=degree)

    fits = FittedCosts((fit("slow", 2), fit("fast", 2), fit("fast", 1)), ideal_costs)
    problem = group_problem.replace(tensor_parallel=(1, 2), uneven_tensor_parallel=True)
    stages = [GroupStage((0, 1), 0, 2), StageRange(2, 2, 4)]
    document = planned(problem, CombinedCosts((fits,)), stages)
    assert str(verify(document)) == "every number and constraint holds"
    assert set(document["inputs"]["costs"]["classes"]) == {"slow/tp2", "fast/tp2", "fast"}
    document["inputs"]["costs"]["classes"]["slow/tp2"]["fit"]["prefill"][1] = 9.0
    assert "$.stages[0].prefill_s" in places(document)


def random_model(rng: random.Random) -> ModelProfile:
    """Return a model of 1-5 decoder layers with eight heads, two or eight KV heads, eight experts here and there."""

    def operators(experts: int) -> tuple[Operator, ...]:
        chosen = rng.randint(1, 8) if experts else 0
        return (
            Operator("linear", "bf16", rng.uniform(1e6, 1e9), weight_bytes=rng.uniform(1e6, 1e9), experts=experts,
                     experts_per_token=chosen),
            Operator("norm", "bf16", weight_bytes=rng.uniform(1e3, 1e7), bytes_per_token=2e3, sharded=False),
            Operator("attention", "bf16", flops_per_pair=1e5, bytes_per_position=rng.uniform(1, 1e4)),
            Operator("last", "bf16", flops_per_token=1e5, tokens="last"),
        )  # fmt: skip

    kinds = [operators(0), operators(8)]
    kv_heads, count = rng.choice([2, 8]), rng.randint(1, 5) + 2
    layers = []
    for i in range(count):
        kind: Any = "embedding" if i == 0 else "head" if i == count - 1 else "decoder"
        weights = rng.randint(10**7, 10**9)
        state = KvState(rng.uniform(1, 1e3), None, 0.0, rng.choice([1, kv_heads])) if kind == "decoder" else KvState()
        sizes = rng.uniform(1, 1e5), rng.randint(1, 999)
        whole, projections = rng.randint(0, 10**6), rng.randint(0, 10**6)
        modules = (f"m.{i}",)
        layers.append(
            Layer(f"l{i}", kind, modules, weights, weights, whole, state, *sizes, rng.choice(kinds), projections)
        )
    return ModelProfile(
        "random", "R", "r", 64, 100, 8, kv_heads, "bf16", "bf16", "bf16", tuple(layers), tied_bytes=1000
    )


def random_topology(rng: random.Random) -> Topology:
    """Return three hosts of four devices: NVLink meshes with unlike and missing links, PCIe switches, a network."""
    devices, links = [], []
    for i in range(12):
        kind = DeviceKind(f"k{i % 3}", "nvidia", "x", 10**11, 1e12 * (1 + i % 3), {"bf16": 1e14 * (3 - i % 3)}, 300)
        name, host = f"h{i // 4}/gpu{i % 4}", f"h{i // 4}"
        devices.append(Device(name, host, i % 4, kind, rng.randint(10**10, 10**11), None, rng.uniform(0.1, 9)))
        links.append(Link(name, f"{host}/sw", "pcie", rng.uniform(1e9, 3e10), rng.uniform(0, 1e-5)))
        for j in range(i % 4):
            if j == 0 or rng.random() < 0.7:
                links.append(Link(f"{host}/gpu{j}", name, "nvlink", rng.uniform(1e10, 9e10), rng.uniform(0, 1e-5)))
    links += [Link(f"h{i}/sw", "net", "network", rng.uniform(1e9, 9e9), rng.uniform(0, 1e-4)) for i in range(3)]
    components = [Component(device.name, "device", device.host) for device in devices]
    components += [
        *(Component(f"h{i}/sw", "pcie_switch", f"h{i}") for i in range(3)),
        Component("net", "network_switch"),
    ]
    return Topology("random", tuple(devices), tuple(components), tuple(links))


def random_plan(rng: random.Random) -> dict[str, Any]:
    """Return the document of a random plan of groups of 1, 2 and 4 devices with a true certificate."""
    model = random_model(rng)
    hosts = rng.sample(range(3), rng.randint(1, min(3, model.num_layers)))
    groups = [tuple(4 * host + i for i in sorted(rng.sample(range(4), rng.choice([1, 2, 4])))) for host in hosts]
    workload = Workload(rng.randint(1, 9), rng.randint(1, 80), rng.randint(1, 80))
    problem = PlacementProblem(model, random_topology(rng), AnalyticCosts(), workload, return_hop=rng.random() < 0.7)
    problem = problem.replace(tensor_parallel=(1, 2, 4), uneven_tensor_parallel=True)
    cuts = [0, *sorted(rng.sample(range(1, model.num_layers), len(groups) - 1)), model.num_layers]
    stages = [GroupStage(group, cuts[k], cuts[k + 1]) for k, group in enumerate(groups)]
    value = build_device_map(problem, stages, BLANK).metrics.latency_s
    outcome = Outcome("feasible", value, {"latency_s": value}, value * 0.5, 0.5, "random", {}, 0)
    return device_map_to_dict(build_device_map(problem, stages, outcome))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_built_groups_are_verified(seed: int) -> None:
    """Whatever is built of groups, the verifier recomputes the same figures with its own arithmetic."""
    document = random_plan(random.Random(seed))
    fits = [finding for finding in verify(document).problems if not finding.message.startswith("needs ")]
    assert fits == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_shifted_figures_of_groups_are_found(seed: int) -> None:
    """Every time and byte of a random plan of groups, shifted alone by 2e-5 of itself, is found and named."""
    rng = random.Random(seed)
    document = random_plan(rng)
    before = {str(finding) for finding in verify(document).problems}
    for k, stage in enumerate(document["stages"]):
        for part, keys in (("", ("prefill_s", "decode_s")), ("memory", tuple(stage["memory"]))):
            for key in keys:
                edited = copy.deepcopy(document)
                box = edited["stages"][k][part] if part else edited["stages"][k]
                box[key] = box[key] * (1 + rng.choice([-1, 1]) * 2e-5) or 1e-3
                found = [finding.place for finding in verify(edited).problems if str(finding) not in before]
                assert f"$.stages[{k}]{'.' + part if part else ''}.{key}" in found


def test_new_digest_does_not_hide_an_edited_link(group_document: dict[str, Any]) -> None:
    """A slower NVLink with a digest to match leaves the collectives behind."""
    group_document["inputs"]["topology"]["links"][1]["bandwidth_bytes_per_s"] = 90.0
    group_document["topology"]["digest"] = digest(group_document["inputs"]["topology"])
    found = places(group_document)
    assert "$.topology.digest" not in found
    assert {"$.stages[1].prefill_s", "$.stages[1].decode_s", "$.metrics.latency_s"} <= set(found)
