"""One `verify` for every kind of document: the kind decides what checks it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import gpuplan
from gpuplan.errors import InputError, UsageError
from gpuplan.plans import DeviceMap, save_plan
from gpuplan.plans.batch_plan import build_batch_plan, save_batch_plan
from gpuplan.profiles import PlacementProblem, placement_to_dict
from gpuplan.profiles.problems.batching_io import batching_from_dict
from gpuplan.profiles.problems.flow_io import flow_from_dict
from gpuplan.profiles.problems.placement_io import placement_from_dict
from gpuplan.solvers.batching.solve import solve_batching

#: One node that holds both layers and passes 5 tokens/s.
FLOW = {
    "schema": "gpuplan/flow-problem/1",
    "num_layers": 2,
    "throughput_tokens_per_s": {"A": [10.0, 5.0]},
    "nodes": [{"name": "n0", "kind": "A"}],
    "links": [
        {"from": "source", "to": "n0", "capacity_tokens_per_s": 9.0},
        {"from": "n0", "to": "sink", "capacity_tokens_per_s": 9.0},
    ],
}
FLOW_SOLUTION = {
    "schema": "gpuplan/flow-solution/1",
    "status": "optimal",
    "objective": 5.0,
    "bound": 5.0,
    "gap": 0.0,
    "terms": {},
    "solver": "hand",
    "seed": 0,
    "placement": {"n0": {"start": 0, "stop": 2}},
    "flows": [
        {"from": "source", "to": "n0", "tokens_per_s": 5.0},
        {"from": "n0", "to": "sink", "tokens_per_s": 5.0},
    ],
}
#: One request of 1 + 1 tokens on an executor that takes 2 s a prompt token: done after 2 s.
BATCHING = {
    "schema": "gpuplan/batching-problem/1",
    "requests": {"id": ["a"], "prompt_tokens": [1], "output_tokens": [1]},
    "executors": [{"name": "e0", "kv_capacity_tokens": 8, "max_batch": 2}],
    "time": {
        "prefill_fixed_s": 0.0,
        "prefill_s_per_token": 2.0,
        "step_fixed_s": 0.0,
        "step_s_per_sequence": 0.0,
        "step_s_per_context_token": 0.0,
    },
    "objective": {"latency": 1.0, "makespan": 0.0, "padding": 0.0, "violation": 0.0},
}
BATCHING_SOLUTION = {
    "schema": "gpuplan/batching-solution/1",
    "status": "optimal",
    "objective": 2.0,
    "bound": 2.0,
    "gap": 0.0,
    "terms": {"latency": 2.0},
    "solver": "hand",
    "seed": 0,
    "batches": [
        {
            "executor": "e0",
            "requests": ["a"],
            "prompt_tokens": 1,
            "output_tokens": 1,
            "start_s": 0.0,
            "finish_s": 2.0,
        }
    ],
    "unmet": [],
}
#: Two layers on one device, 3 s in all.
PLACEMENT = {
    "schema": "gpuplan/placement-problem/1",
    "devices": [{"name": "g0", "available_bytes": 9}],
    "layers": [
        {"name": "one", "memory_bytes": 1, "boundary_bytes": 1},
        {"name": "two", "memory_bytes": 1, "boundary_bytes": 0},
    ],
    "compute_s": [[1.0, 2.0]],
    "hop_latency_s": [[0.0]],
    "hop_s_per_byte": [[0.0]],
    "objective": {"name": "latency"},
}
PLACEMENT_SOLUTION = {
    "schema": "gpuplan/placement-solution/1",
    "status": "optimal",
    "objective": 3.0,
    "bound": 3.0,
    "gap": 0.0,
    "terms": {"compute_s": 3.0},
    "solver": "hand",
    "seed": 0,
    "stages": [{"device": "g0", "start": 0, "stop": 2}],
}
SOLUTIONS = [
    (FLOW, FLOW_SOLUTION, flow_from_dict),
    (BATCHING, BATCHING_SOLUTION, batching_from_dict),
    (PLACEMENT, PLACEMENT_SOLUTION, placement_from_dict),
]


def written(folder: Path, name: str, document: dict[str, Any]) -> Path:
    """Write a document and return its path."""
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(("problem", "solution", "read"), SOLUTIONS)
def test_solutions_of_every_problem(tmp_path: Path, problem: Any, solution: Any, read: Any) -> None:
    """Files, documents and problems that were read already are taken alike; a raised objective is found."""
    paths = written(tmp_path, "solution.json", solution), written(tmp_path, "problem.json", problem)
    for answer in (solution, paths[0], str(paths[0])):
        for asked in (problem, paths[1], str(paths[1]), read(problem)):
            assert str(gpuplan.verify(answer, problem=asked)) == "every number and constraint holds"
    edited = {**copy.deepcopy(solution), "objective": 9.0}
    assert "$.objective" in [finding.place for finding in gpuplan.verify(edited, problem=problem).problems]


@pytest.mark.parametrize(("problem", "solution", "read"), SOLUTIONS)
def test_solution_without_its_problem(tmp_path: Path, problem: Any, solution: Any, read: Any) -> None:
    """A solution alone cannot be checked: the message names the mend."""
    path = written(tmp_path, "solution.json", solution)
    for answer, name in ((solution, "this document"), (path, "solution.json")):
        with pytest.raises(UsageError, match=rf"{name} is a solution: name the problem it answers with --problem"):
            gpuplan.verify(answer)


def test_solution_of_another_problem() -> None:
    """A solution is held to the problem that is named."""
    with pytest.raises(
        InputError, match="expected schema 'gpuplan/flow-solution/1', got 'gpuplan/placement-solution/1'"
    ):
        gpuplan.verify(PLACEMENT_SOLUTION, problem=FLOW)


def test_placement_problems_that_were_built(hand_problem: PlacementProblem) -> None:
    """A problem of model and topology answers for its dense numbers."""
    solution = {
        **copy.deepcopy(PLACEMENT_SOLUTION),
        "objective": 15.56,  # all layers on g1, see test_device_map_build
        "bound": 15.56,
        "terms": {},
        "stages": [{"device": "h/gpu1", "start": 0, "stop": 4}],
    }
    assert placement_to_dict(hand_problem.dense())["schema"] == "gpuplan/placement-problem/1"
    for asked in (hand_problem, hand_problem.dense()):
        assert gpuplan.verify(solution, problem=asked).ok


def test_plans_need_no_problem(hand_plan: DeviceMap, hand_document: dict[str, Any], tmp_path: Path) -> None:
    """Device maps and batch plans embed what they follow from."""
    save_plan(hand_plan, tmp_path / "plan.json")
    for own in (hand_plan, hand_document, tmp_path / "plan.json"):
        assert gpuplan.verify(own).ok
    problem = batching_from_dict(BATCHING)
    plan = build_batch_plan(problem, solve_batching(problem, solver="fifo"))
    save_batch_plan(plan, tmp_path / "batches.json")
    assert gpuplan.verify(tmp_path / "batches.json").ok
    assert gpuplan.verify(tmp_path / "batches.json", problem=problem).ok


def test_what_is_no_plan_at_all(tmp_path: Path) -> None:
    """Files without a kind, files that are not there, and problems that are none are refused with what was expected."""
    with pytest.raises(InputError, match="expected the key 'schema' to say 'gpuplan/device-map/1', got none"):
        gpuplan.verify({})
    with pytest.raises(InputError, match="there is no such file"):
        gpuplan.verify(tmp_path / "none.json")
    with pytest.raises(InputError, match="got 'gpuplan/topology/1'"):
        gpuplan.verify({"schema": "gpuplan/topology/1"})
    with pytest.raises(UsageError, match="expected a problem, its document or the path of its file, got int"):
        gpuplan.verify(PLACEMENT_SOLUTION, problem=3)
