"""Flow-problem files: what is read is what was written, and every defect is refused with its place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError
from gpuplan.plans.validation import check_document
from gpuplan.profiles.problems.flow_io import flow_from_dict, flow_to_dict, load_flow_problem

DOCUMENT: dict[str, Any] = {
    "schema": "gpuplan/flow-problem/1",
    "name": "two",
    "comment": "",
    "num_layers": 3,
    "throughput_tokens_per_s": {"A": [9.0, 4.0], "B": [5, 3, 1]},
    "nodes": [{"name": "x", "kind": "A"}, {"name": "y", "kind": "B"}],
    "links": [
        {"from": "source", "to": "x", "capacity_tokens_per_s": 100},
        {"from": "x", "to": "y", "capacity_tokens_per_s": 7.5},
        {"from": "y", "to": "sink", "capacity_tokens_per_s": 100},
    ],
    "max_hops": None,
}


def test_reads_every_field() -> None:
    """Kinds, nodes and links arrive where they belong; a link that is not named has capacity 0."""
    problem = flow_from_dict(DOCUMENT)
    assert problem.num_layers == 3
    assert problem.kind_names == ("A", "B")
    assert [row.tolist() for row in problem.throughput_tokens_per_s] == [[9.0, 4.0], [5.0, 3.0, 1.0]]
    assert problem.node_names == ("x", "y")
    assert problem.node_kinds.tolist() == [0, 1]
    assert problem.link_tokens_per_s.tolist() == [[0.0, 7.5], [0.0, 0.0]]
    assert problem.source_tokens_per_s.tolist() == [100.0, 0.0]
    assert problem.sink_tokens_per_s.tolist() == [0.0, 100.0]
    assert problem.max_hops is None
    assert problem.throughput_table().tolist() == [[0.0, 9.0, 4.0, 0.0], [0.0, 5.0, 3.0, 1.0]]


def test_round_trip(tmp_path: Path) -> None:
    """Writing and reading again changes nothing, and the document follows the published schema."""
    written = flow_to_dict(flow_from_dict({**DOCUMENT, "max_hops": 4}))
    check_document(written, "gpuplan/flow-problem/1")
    check_document(DOCUMENT, "gpuplan/flow-problem/1")
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(written))
    again = load_flow_problem(path)
    assert flow_to_dict(again) == written
    assert again.max_hops == 4
    assert np.array_equal(again.link_tokens_per_s, flow_from_dict(DOCUMENT).link_tokens_per_s)


def set_at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a defect that sets the value at a path."""

    def apply(document: dict[str, Any]) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return apply


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    """Return a defect that leaves a key out."""
    return lambda document: document.pop(key)


DEFECTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (drop("schema"), "$.schema"),
    (set_at("schema", value="gpuplan/flow-problem/2"), "$.schema"),
    (drop("num_layers"), "$.num_layers"),
    (set_at("num_layers", value=0), "$.num_layers"),
    (set_at("num_layers", value=2.5), "$.num_layers"),
    (set_at("num_layers", value="3"), "$.num_layers"),
    (set_at("extra", value=1), "$.extra"),
    (set_at("throughput_tokens_per_s", value={}), "$.throughput_tokens_per_s"),
    (set_at("throughput_tokens_per_s", value=[1]), "$.throughput_tokens_per_s"),
    (set_at("throughput_tokens_per_s", "A", value=3), "$.throughput_tokens_per_s.A"),
    (set_at("throughput_tokens_per_s", "A", 1, value=-1.0), "$.throughput_tokens_per_s.A[1]"),
    (set_at("throughput_tokens_per_s", "A", 0, value=float("nan")), "$.throughput_tokens_per_s.A[0]"),
    (set_at("throughput_tokens_per_s", "A", 0, value=None), "$.throughput_tokens_per_s.A[0]"),
    (set_at("nodes", value=[]), "$.nodes"),
    (set_at("nodes", 1, "kind", value="C"), "$.nodes[1].kind"),
    (set_at("nodes", 1, "name", value="x"), "$.nodes[1].name"),
    (set_at("nodes", 1, "name", value="sink"), "$.nodes[1].name"),
    (set_at("nodes", 1, "speed", value=1), "$.nodes[1].speed"),
    (set_at("links", value=None), "$.links"),
    (set_at("links", 1, value=5), "$.links[1]"),
    (set_at("links", 1, "to", value="z"), "$.links[1].to"),
    (set_at("links", 1, "to", value="source"), "$.links[1].to"),
    (set_at("links", 1, "from", value="sink"), "$.links[1].from"),
    (set_at("links", 1, "to", value="x"), "$.links[1]"),
    (set_at("links", 0, "to", value="sink"), "$.links[0]"),
    (set_at("links", 1, "capacity_tokens_per_s", value=-1), "$.links[1].capacity_tokens_per_s"),
    (set_at("links", 1, "capacity_tokens_per_s", value=float("inf")), "$.links[1].capacity_tokens_per_s"),
    (set_at("links", 1, "capacity_tokens_per_s", value=True), "$.links[1].capacity_tokens_per_s"),
    (set_at("links", 1, "latency", value=1), "$.links[1].latency"),
    (lambda document: document["links"].append(dict(document["links"][1])), "$.links[3]"),
    (set_at("max_hops", value=-1), "$.max_hops"),
    (set_at("max_hops", value=1.5), "$.max_hops"),
    (set_at("max_hops", value="2"), "$.max_hops"),
]


@pytest.mark.parametrize(("defect", "place"), DEFECTS, ids=[place for _, place in DEFECTS])
def test_every_defect_is_refused_with_its_place(defect: Callable[[dict[str, Any]], Any], place: str) -> None:
    """One defect a case: an InputError in one sentence that names the JSON path."""
    document = copy.deepcopy(DOCUMENT)
    defect(document)
    with pytest.raises(InputError) as caught:
        flow_from_dict(document, source="problem.json")
    assert caught.value.place == place
    assert caught.value.source == "problem.json"
    assert "\n" not in str(caught.value)


def test_published_instances_are_read(shared_data: Path) -> None:
    """Both instances have the nodes and links they are said to have."""
    problem = load_flow_problem(shared_data / "helix" / "instances" / "single24-70b.json")
    assert (problem.num_layers, problem.num_nodes, problem.num_kinds) == (80, 24, 3)
    assert np.count_nonzero(problem.link_tokens_per_s) == 24 * 23
