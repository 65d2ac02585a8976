"""Deployment files: round trip, schema, tampering, and the verifier's own arithmetic."""

from __future__ import annotations

import copy
import json
import re

import pytest

from gpuplan.errors import InputError
from gpuplan.plans import verify
from gpuplan.plans.deployment_io import deployment_from_dict, deployment_to_dict, load_deployment, save_deployment
from gpuplan.plans.export.deployment import export_deployment
from gpuplan.plans.validation import check_document
from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.topology import load_topology


@pytest.fixture(scope="module")
def plan():
    """Return three replicas over two hosts, two of them pipelines of pairs, re-planned from itself."""
    model, topology = load_model("llama-3.1-70b"), load_topology("2x-dgx-h100")
    problem = DeploymentProblem(
        model, topology, workload=Workload(16, 512, 64), tensor_parallel=(2,), ttft_slo_s=9.0, max_replicas=3
    )
    first = deploy(problem).require_plan()
    return deploy(problem, current=first).require_plan()


@pytest.fixture
def document(plan):
    """Return the deployment as a JSON object of its own."""
    return json.loads(json.dumps(deployment_to_dict(plan)))


def change(document, place, value):
    """Set the value at a JSON path (`...` removes it)."""
    parts = [int(p[1:-1]) if p.startswith("[") else p for p in re.findall(r"\[\d+\]|[^.\[\]$]+", place)]
    target = document
    for part in parts[:-1]:
        target = target[part]
    if value is ...:
        del target[parts[-1]]
    else:
        target[parts[-1]] = value(target[parts[-1]]) if callable(value) else value
    return document


def test_round_trip(plan, tmp_path):
    """A deployment survives its file, byte for byte, and follows its schema."""
    save_deployment(plan, tmp_path / "d.json")
    again = load_deployment(tmp_path / "d.json")
    assert again == plan
    save_deployment(again, tmp_path / "e.json")
    assert (tmp_path / "d.json").read_bytes() == (tmp_path / "e.json").read_bytes()
    check_document(deployment_to_dict(plan), "gpuplan/deployment/1")
    assert verify(tmp_path / "d.json").ok


def test_same_question_same_bytes(plan):
    """Planning twice gives the same document."""
    model, topology = load_model("llama-3.1-70b"), load_topology("2x-dgx-h100")
    problem = DeploymentProblem(model, topology, workload=Workload(16, 512, 64), max_replicas=3)
    documents = [json.dumps(deployment_to_dict(deploy(problem).require_plan())) for _ in range(2)]
    assert documents[0] == documents[1]


def test_replicas_are_device_maps(plan):
    """Each replica by itself is a device map that holds, and every runtime gets one server a replica."""
    assert all(verify(plan.device_map(number)).ok for number in range(len(plan.replicas)))
    texts = export_deployment(plan, "vllm")
    assert [f"--port {8000 + number}" in details.text for number, details in enumerate(texts.values())] == [True] * 3


def more(value):
    """Return a number 1 % larger."""
    return value * 1.01


#: Edits that each break one thing, and where the verifier sees it.
EDITS = [
    ("$.replicas[0].requests_per_s", more, "requests_per_s"),
    ("$.replicas[0].tokens_per_s", more, "tokens_per_s"),
    ("$.replicas[1].batch", 32, "batch"),
    ("$.replicas[1].micro_batches", 1, "micro_batches"),
    ("$.replicas[0].metrics.ttft_s", more, "ttft_s"),
    ("$.replicas[0].metrics.token_interval_s", more, "token_interval_s"),
    ("$.replicas[0].metrics.slowest_prefill_s", more, "slowest_prefill_s"),
    ("$.replicas[0].metrics.requests_per_s", more, "requests_per_s"),
    ("$.replicas[0].stages[0].prefill_s", more, "prefill_s"),
    ("$.replicas[0].stages[0].memory.kv_bytes", more, "kv_bytes"),
    ("$.replicas[0].stages[0].devices[0]", "host1/gpu7", "devices"),
    ("$.replicas[0].stages[0].devices[0]", "host9/gpu7", "devices"),
    ("$.replicas[0].stages[0].layers.stop", 3, "layers"),
    ("$.replicas[1].name", "replica0", "name"),
    ("$.replicas[0].routes[0].route", lambda route: [route[-1], *route[1:-1], route[0]], "routes"),
    ("$.replicas[0].routes", lambda routes: routes[1:], "routes"),
    ("$.metrics.requests_per_s", more, "requests_per_s"),
    ("$.metrics.ttft_s.worst", more, "worst"),
    ("$.metrics.ttft_s.mean", more, "mean"),
    ("$.metrics.devices_used", 5, "devices_used"),
    ("$.metrics.price_per_hour", 1.0, "price"),
    ("$.links[0].bytes_per_s", more, "bytes_per_s"),
    ("$.links[0].bandwidth_bytes_per_s", more, "bandwidth"),
    ("$.links", lambda links: links[1:], "links"),
    ("$.result.objective", more, "objective"),
    ("$.result.bound", lambda bound: bound * 0.9, "bound"),
    ("$.result.bound", None, "bound"),
    ("$.result.gap", 0.5, "gap"),
    ("$.result.terms.devices", 99.0, "devices"),
    ("$.changes.kept", [], "kept"),
    ("$.changes.total_moved_bytes", 5.0, "moved"),
    ("$.changes.moved_bytes", {"host0/gpu0": 7.0}, "moved"),
    ("$.changes", ..., "changes"),
    ("$.inputs.options.ttft_slo_s", 0.01, "ttft_s"),
    ("$.inputs.options.tpot_slo_s", 0.001, "token_interval_s"),
    ("$.inputs.options.max_devices", 1, "replicas"),
    ("$.inputs.options.max_replicas", 2, "replicas"),
    ("$.inputs.options.objective.name", "throughput", ""),
    ("$.inputs.options.tensor_parallel", [1], "tensor_parallel"),
    ("$.inputs.model.layers[3].weight_bytes", more, "digest"),
    ("$.inputs.costs[0].replicas", ["replica0"], "costs"),
    ("$.inputs.current[0].stages[0].devices[0]", "host1/gpu7", "changes"),
    ("$.provenance.analytic", 0.5, "provenance"),
]


@pytest.mark.parametrize(
    ("place", "value", "where"), EDITS, ids=[f"{place}-{k}" for k, (place, *_) in enumerate(EDITS)]
)
def test_tampering_is_seen(place, value, where, document):
    """An untouched file holds; with one figure changed it does not, and the finding names the place."""
    verdict = verify_deployment(change(copy.deepcopy(document), place, value))
    assert not verdict.ok
    assert any(where in finding.place or where in finding.message for finding in verdict.problems), str(verdict)


def test_untouched_file_holds(document):
    """The document that the edits start from holds."""
    assert str(verify_deployment(document)) == "every number and constraint holds"


@pytest.mark.parametrize(
    ("place", "value"),
    [("$.replicas", []), ("$.extra", 1), ("$.result.objective", "many"), ("$.schema", "gpuplan/deployment/9"),
     ("$.inputs.workload.batch", 0), ("$.links[0].utilization", -1)],
)  # fmt: skip
def test_files_of_another_form_are_refused(place, value, document):
    """Empty lists, unknown keys, other types and versions are input errors with their place."""
    with pytest.raises(InputError, match=re.escape(place.split(".")[1].split("[")[0])):
        deployment_from_dict(change(document, place, value))
