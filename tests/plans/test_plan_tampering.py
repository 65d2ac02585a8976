"""Plans edited by hand: every edit is found, and the finding names the field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gpuplan.plans import DeviceMap, Outcome, StageRange, build_device_map, device_map_to_dict, save_plan, verify
from gpuplan.plans.canonical import digest
from gpuplan.profiles import PlacementProblem

ZEROS = "0" * 64


def places(document: dict[str, Any]) -> list[str]:
    """Return the places of all findings."""
    return [finding.place for finding in verify(document).problems]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("$.model.name", "other"),
        ("$.model.num_layers", 5),
        ("$.model.digest", ZEROS),
        ("$.topology.name", "other"),
        ("$.topology.num_devices", 3),
        ("$.topology.digest", ZEROS),
        ("$.workload.batch", 1),
        ("$.workload.prompt_tokens", 4),
        ("$.workload.output_tokens", 4),
        ("$.workload.micro_batches", 2),
        ("$.stages[0].devices[0]", "h/gpu9"),
        ("$.stages[1].devices[0]", "h/gpu0"),
        ("$.stages[0].tensor_parallel", 2),
        ("$.stages[0].layers.start", 1),
        ("$.stages[0].layers.stop", 9),
        ("$.stages[1].layers.start", 1),
        ("$.stages[1].layers.stop", 3),
        ("$.stages[0].modules[1]", "model.layers.1"),
        ("$.stages[0].memory.weights_bytes", 139),
        ("$.stages[0].memory.kv_bytes", 79),
        ("$.stages[0].memory.workspace_bytes", 299),
        ("$.stages[1].memory.available_bytes", 7000),
        ("$.stages[0].prefill_s", 0.6),
        ("$.stages[1].decode_s", 1.8),
        ("$.stages[0].hop.to", 0),
        ("$.stages[0].hop.prefill_s", 1.0),
        ("$.stages[0].hop.decode_s", 0.6),
        ("$.stages[1].hop.prefill_s", 0.1),
        ("$.stages[1].hop.decode_s", 0.5),
        ("$.stages[0].hop", None),
        ("$.stages[1].hop", None),
        ("$.stages[0].hop.route", ["h/gpu0", "h/gpu1"]),
        ("$.stages[0].hop.route", ["h/gpu1", "h/sw", "h/gpu0"]),
        ("$.metrics.ttft_s", 3.4),
        ("$.metrics.tpot_s", 3.7),
        ("$.metrics.latency_s", 18.4),
        ("$.metrics.bottleneck_s", 2.3),
        ("$.metrics.throughput_tokens_per_s", 1.0),
        ("$.metrics.kv_capacity_tokens", 33),
        ("$.metrics.kv_capacity_tokens", None),
        ("$.metrics.devices_used", 1),
        ("$.metrics.memory_utilization", 0.8),
        ("$.result.objective", 18.4),
        ("$.result.bound", 18.6),
        ("$.result.bound", 17.0),
        ("$.result.bound", None),
        ("$.result.gap", 0.1),
        ("$.result.gap", None),
        ("$.result.terms.latency_s", 18.4),
        ("$.result.terms.devices", 1),
        ("$.result.terms.luck", 1.0),
        ("$.provenance.analytic", 0.5),
        ("$.provenance.measured", 1.0),
        ("$.provenance.sources", ["a better one"]),
        ("$.inputs.topology.devices[0].kind", "slower"),
        ("$.inputs.topology.links[0].b", "h/switch"),
        ("$.inputs.model.layers[1].operators", "decoders"),
    ],
)
def test_an_edited_field_is_named(hand_document: dict[str, Any], edit: Any, place: str, value: Any) -> None:
    """One field is edited; a finding stands at that very place."""
    assert verify(hand_document).ok
    assert place in places(edit(hand_document, place, value))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("$.inputs.topology.links[0].bandwidth_bytes_per_s", 200.0, "$.topology.digest"),
        ("$.inputs.topology.links[0].latency_s", 0.2, "$.topology.digest"),
        ("$.inputs.topology.devices[0].available_bytes", 900, "$.topology.digest"),
        ("$.inputs.model.layers[0].weight_bytes", 30, "$.model.digest"),
        ("$.inputs.workload.batch", 1, "$.workload.batch"),
        ("$.inputs.options.reserve_bytes", 50, "$.stages[0].memory.workspace_bytes"),
        ("$.inputs.options.return_hop", False, "$.stages[1].hop"),
        ("$.inputs.options.max_devices", 1, "$.stages"),
        ("$.inputs.options.micro_batches", 2, "$.workload.micro_batches"),
        ("$.inputs.options.objective.name", "efficiency", "$.result.objective"),
        ("$.inputs.costs.devices.h/gpu0.memory_bandwidth_bytes_per_s", 400.0, "$.stages[0].decode_s"),
        ("$.inputs.costs.devices.h/gpu0.overhead_s", 0.1, "$.stages[0].prefill_s"),
        ("$.inputs.costs.devices.h/gpu0.clock_factor", 0.001, "$.stages[0].prefill_s"),
        ("$.inputs.costs.devices.h/gpu1", ..., "$.inputs.costs.devices['h/gpu1']"),
        ("$.inputs.costs.devices.h/gpu1.peak_flops_per_s", {}, "$.inputs.costs.devices['h/gpu1'].peak_flops_per_s"),
        ("$.inputs.costs.devices.h/gpu1.peak_flops_per_s.bf16", 9e9,
         "$.inputs.costs.devices['h/gpu1'].peak_flops_per_s.bf16"),
    ],
)  # fmt: skip
def test_an_edited_input_is_named(hand_document: dict[str, Any], edit: Any, place: str, value: Any, named: str) -> None:
    """One input is edited; the digest or the figure that no longer follows from it is named."""
    assert named in places(edit(hand_document, place, value))


def test_message_says_both_numbers(hand_document: dict[str, Any], edit: Any) -> None:
    """A finding reads: place, what the plan says, what it should say."""
    (finding,) = verify(edit(hand_document, "$.stages[1].decode_s", 0.5)).problems
    assert str(finding) == "$.stages[1].decode_s: says 0.5, recomputed 1.82"


def test_changed_link_with_new_digest(hand_document: dict[str, Any], edit: Any) -> None:
    """A faster link with a digest to match still leaves the times of the hops behind."""
    edit(hand_document, "$.inputs.topology.links[0].latency_s", 0.1)
    hand_document["topology"]["digest"] = digest(hand_document["inputs"]["topology"])
    found = places(hand_document)
    assert "$.topology.digest" not in found
    assert {"$.stages[0].hop.decode_s", "$.metrics.latency_s", "$.result.objective"} <= set(found)


def test_moved_layer(hand_document: dict[str, Any]) -> None:
    """A layer moved to the next stage, modules and all, leaves times, memory and metrics behind."""
    first, second = hand_document["stages"]
    first["layers"]["stop"] = second["layers"]["start"] = 1
    second["modules"].insert(0, first["modules"].pop())
    found = places(hand_document)
    assert {"$.stages[0].decode_s", "$.stages[1].memory.weights_bytes", "$.metrics.latency_s"} <= set(found)


def test_swapped_devices(hand_document: dict[str, Any]) -> None:
    """Devices swapped between the stages no longer match times, memory and routes."""
    first, second = hand_document["stages"]
    first["devices"], second["devices"] = second["devices"], first["devices"]
    found = places(hand_document)
    assert {"$.stages[0].prefill_s", "$.stages[0].memory.available_bytes", "$.stages[0].hop.route"} <= set(found)


def test_overfull_device(hand_problem: PlacementProblem) -> None:
    """A plan that is consistent but does not fit is refused: 240 + 160 + 300 B on 600 B."""
    outcome = Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0)
    plan = build_device_map(hand_problem, [StageRange(0, 0, 3), StageRange(1, 3, 4)], outcome)
    found = {finding.place: finding.message for finding in verify(plan).problems}
    assert found["$.stages[0].memory"] == "needs 700 bytes on h/gpu0, which has 600"


def test_stage_without_decoder_for_vllm(hand_problem: PlacementProblem) -> None:
    """A plan made for vLLM needs a decoder layer in every stage."""
    outcome = Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0)
    problem = hand_problem.replace(runtime="vllm")
    plan = build_device_map(problem, [StageRange(0, 0, 1), StageRange(1, 1, 4)], outcome)
    assert "$.stages[0].layers" in [finding.place for finding in verify(plan).problems]


@pytest.mark.parametrize(
    ("bound", "gap", "ok"),
    [
        (14.8, 0.2, True),
        (None, None, True),
        (14.8, 0.1, False),
        (14.8, None, False),
        (18.6, 0.0054, False),
        (None, 0.2, False),
        ([14.8, 1.0], 0.2, False),
    ],
)
def test_bound_and_gap_of_a_feasible_plan(
    hand_document: dict[str, Any], bound: Any, gap: float | None, ok: bool
) -> None:
    """A bound stays below the objective 18.5, and the gap is |bound − 18.5| / 18.5."""
    hand_document["result"].update(status="feasible", bound=bound, gap=gap)
    assert verify(hand_document).ok is ok


@pytest.mark.parametrize(
    ("bound", "gap", "ok"),
    [([1.0, 30.0], 0.5, True), ([2.0, 14.8], 0.2, True), ([2.0, 20.0], 0.08, False), ([3.0, 1.0], 0.5, False)],
)
def test_bound_of_a_pair(hand_problem: PlacementProblem, bound: list[float], gap: float, ok: bool) -> None:
    """Pairs are compared lexicographically, the gap is that of the first component that differs."""
    outcome = Outcome("feasible", (2.0, 18.5), {}, (bound[0], bound[1]), gap, "hand", {}, 0)
    stages = [StageRange(0, 0, 2), StageRange(1, 2, 4)]
    assert verify(build_device_map(hand_problem.replace(objective="efficiency"), stages, outcome)).ok is ok


@pytest.mark.parametrize(
    ("terms", "place"),
    [
        ({"devices_star": 1.0}, "$.result.terms.latency_star_s"),
        ({"latency_star_s": 20.0, "devices_star": 1.0}, "$.result.terms.latency_star_s"),
        ({"latency_star_s": 15.56, "devices_star": 3.0}, "$.result.terms.devices_star"),
        ({"latency_star_s": 15.56, "devices_star": 1.0, "latency_term": 9.0}, "$.result.terms.latency_term"),
    ],
)
def test_balanced_terms(hand_problem: PlacementProblem, terms: dict[str, float], place: str) -> None:
    """The optima that balanced is measured by must be there, and no plan beats an optimum."""
    value = 10 * 18.5 / 15.56 + 2
    outcome = Outcome("optimal", value, terms, value, 0.0, "hand", {}, 0)
    stages = [StageRange(0, 0, 2), StageRange(1, 2, 4)]
    plan = build_device_map(hand_problem.replace(objective="balanced"), stages, outcome)
    assert place in [finding.place for finding in verify(plan).problems]


def test_route_must_be_the_fastest(hand_document: dict[str, Any]) -> None:
    """A detour that the links allow is still named when a faster route exists."""
    topology = hand_document["inputs"]["topology"]
    topology["components"].append({"name": "h/far", "role": "pcie_switch"})
    for end in ("h/gpu0", "h/gpu1"):
        link = {"a": end, "b": "h/far", "kind": "pcie", "bandwidth_bytes_per_s": 100.0, "latency_s": 2.0}
        topology["links"].append(link)
    hand_document["topology"]["digest"] = digest(topology)
    assert verify(hand_document).ok
    hand_document["stages"][0]["hop"]["route"] = ["h/gpu0", "h/far", "h/gpu1"]
    assert places(hand_document) == ["$.stages[0].hop.route"]


def test_device_never_relays(hand_document: dict[str, Any]) -> None:
    """A short cut through a third device is no route."""
    topology = hand_document["inputs"]["topology"]
    third = {**topology["devices"][0], "name": "h/gpu2", "index": 2}
    topology["devices"].append(third)
    for end in ("h/gpu0", "h/gpu1"):
        link = {"a": end, "b": "h/gpu2", "kind": "nvlink", "bandwidth_bytes_per_s": 1e9, "latency_s": 0.0}
        topology["links"].append(link)
    hand_document["topology"].update(digest=digest(topology), num_devices=3)
    assert verify(hand_document).ok
    hand_document["stages"][0]["hop"]["route"] = ["h/gpu0", "h/gpu2", "h/gpu1"]
    assert places(hand_document) == ["$.stages[0].hop.route"]


def test_cut_link(hand_document: dict[str, Any]) -> None:
    """Without a route the stage that would hand over is named."""
    topology = hand_document["inputs"]["topology"]
    del topology["links"][1]
    hand_document["topology"]["digest"] = digest(topology)
    assert "$.stages[0].hop" in places(hand_document)


def test_verify_takes_plans_documents_and_paths(hand_plan: DeviceMap, tmp_path: Path) -> None:
    """A plan object, its JSON object and its file are verified alike."""
    save_plan(hand_plan, tmp_path / "plan.json")
    for plan in (hand_plan, device_map_to_dict(hand_plan), tmp_path / "plan.json", str(tmp_path / "plan.json")):
        assert verify(plan).ok


def test_verification_leaves_the_document_alone(hand_document: dict[str, Any]) -> None:
    """Verifying changes nothing."""
    before = copy.deepcopy(hand_document)
    verify(hand_document)
    assert json.dumps(before) == json.dumps(hand_document)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("$.inputs.workload.prompt_tokens", 10**300),
        ("$.inputs.costs.devices.h/gpu0.clock_factor", 1e-320),
        ("$.inputs.topology.links[0].bandwidth_bytes_per_s", 5e-324),
        ("$.inputs.model.layers[1].kv.bytes_per_token", 1e308),
    ],
)
def test_absurd_numbers_end_in_findings(hand_document: dict[str, Any], edit: Any, place: str, value: Any) -> None:
    """Numbers at the edge of what a double holds make a plan wrong, never the verifier fail."""
    edit(hand_document, place, value)
    hand_document["workload"]["prompt_tokens"] = hand_document["inputs"]["workload"]["prompt_tokens"]
    assert not verify(hand_document).ok
