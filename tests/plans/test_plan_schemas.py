"""The published JSON Schemas: valid themselves, and true to what is written."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gpuplan.errors import InputError
from gpuplan.plans.validation import check_document, json_schema, published_schemas, schema_file
from gpuplan.profiles import placement_to_dict
from gpuplan.profiles.problems.build import PlacementProblem
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
