"""The published JSON Schemas: valid themselves, and true to what is written."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

from gpuplan.errors import InputError
from gpuplan.plans.validation import check_document, json_schema, published_schemas, schema_file
from gpuplan.profiles import placement_to_dict
from gpuplan.profiles.fitted import Fit, Regime, fit_to_dict
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.tables import save_table
from gpuplan.profiles.tables.series import Series
from gpuplan.profiles.tables.table import CostTable
from gpuplan.topology.graph import Topology
from gpuplan.topology.serialize import topology_to_dict


@pytest.mark.parametrize("schema", published_schemas())
def test_schema_files_are_valid(schema: str) -> None:
    """Every published schema is a schema of draft 2020-12 and names the document it describes."""
    Draft202012Validator.check_schema(json_schema(schema))
    assert json_schema(schema)["properties"]["schema"] == {"const": schema}


def test_every_schema_file_is_published() -> None:
    """No file lies in the folder that no name leads to."""
    folder = resources.files("gpuplan.plans").joinpath("schemas")
    assert {file.name for file in folder.iterdir()} == {schema_file(schema) for schema in published_schemas()}
    assert "gpuplan/device-map/1" in published_schemas()


def test_written_plan_follows_its_schema(hand_document: dict[str, Any]) -> None:
    """What is written is what the schema describes, through a file and back."""
    check_document(json.loads(json.dumps(hand_document)), "gpuplan/device-map/1")


def test_written_topology_follows_its_schema(hand_topology: Topology) -> None:
    """The embedded form of a topology follows the topology schema."""
    check_document(json.loads(json.dumps(topology_to_dict(hand_topology))), "gpuplan/topology/1")


def test_written_problem_follows_its_schema(hand_problem: PlacementProblem) -> None:
    """A problem written by `placement_to_dict` follows the schema, returns and cycle included."""
    check_document(json.loads(json.dumps(placement_to_dict(hand_problem.dense()))), "gpuplan/placement-problem/1")


def test_a_document_that_is_no_object() -> None:
    """A list is no document."""
    with pytest.raises(InputError, match="expected a JSON object, got a list"):
        check_document([], "gpuplan/topology/1")


def test_only_a_front_needs_no_objective(hand_problem: PlacementProblem) -> None:
    """A problem without objective is complete when it asks for the front."""
    document = placement_to_dict(hand_problem.dense())
    del document["objective"]
    with pytest.raises(InputError, match=r"\$\.objective: expected this key"):
        check_document(document, "gpuplan/placement-problem/1")
    check_document({**document, "front": True}, "gpuplan/placement-problem/1")


def test_written_cost_files_follow_their_schemas(tmp_path: Path) -> None:
    """A manifest as it is saved, and fitted coefficients with every optional figure."""
    points, seconds = np.array([[1.0], [8.0]]), np.array([1e-5, 2e-5])
    series = Series(("qkv_proj",), "both", ("tokens",), points, seconds, seconds, np.zeros(2, dtype=bool))
    table = CostTable("bench", "l4-24gb", (series,), model="llama-3.1-8b", power_cap_w=60.0, software="vLLM")
    save_table(table, tmp_path / "bench.yaml")
    check_document(yaml.safe_load((tmp_path / "bench.yaml").read_text()), "gpuplan/cost-table/1")
    regimes = (Regime(8, (1.0, 0.0, 0.0)), Regime(None, (1.0, 2.0, 3.0)))
    fit = Fit("fit", "l4-24gb", "llama-3.1-8b", (0.1, 0.2, 0.3), regimes, runs=9, median_error=0.1, worst_error=0.2)
    check_document(fit_to_dict(fit), "gpuplan/fitted-costs/1")


@pytest.mark.parametrize(
    ("schema", "change", "place"),
    [
        ("gpuplan/cost-table/1", {"time_unit": "min"}, r"\$\.time_unit"),
        ("gpuplan/cost-table/1", {"columns": {"speed": "s"}}, r"\$\.columns"),
        ("gpuplan/fitted-costs/1", {"prefill": [1.0, 2.0]}, r"\$\.prefill"),
        ("gpuplan/fitted-costs/1", {"decode": []}, r"\$\.decode"),
    ],
)
def test_cost_files_that_stray_are_refused(schema: str, change: dict[str, Any], place: str) -> None:
    """The schema finds what the reader would, at the same place."""
    documents: dict[str, dict[str, Any]] = {
        "gpuplan/cost-table/1": {"name": "bench", "device_kind": "l4-24gb", "data": "times.csv"},
        "gpuplan/fitted-costs/1": {"name": "fit", "device_kind": "l4-24gb", "model": "m", "prefill": [1, 2, 3]}
        | {"decode": [{"coefficients": [1, 2, 3]}]},
    }
    check_document({"schema": schema, **documents[schema]}, schema)
    with pytest.raises(InputError, match=place):
        check_document({"schema": schema, **documents[schema], **change}, schema)
