"""Placement solutions recomputed from their problem: three layers on three devices, by hand."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.plans import (
    FrontPoint,
    GroupStage,
    PlacementFront,
    PlacementSolution,
    StageRange,
    load_solution,
    save_solution,
    solution_from_dict,
    solution_to_dict,
    verify_solution,
)
from gpuplan.profiles import DensePlacement, PlacementProblem, placement_from_dict

STAGES = [{"device": "a", "start": 0, "stop": 2}, {"device": "b", "start": 2, "stop": 3}]


@pytest.fixture
def problem_document() -> dict[str, Any]:
    """Return layers of 10, 10 and 20 B on a (30 B), b (30 B) and c (50 B, no route from or to a)."""
    return {
        "schema": "gpuplan/placement-problem/1",
        "devices": [
            {"name": "a", "available_bytes": 30, "price_per_hour": 1.0},
            {"name": "b", "available_bytes": 30, "price_per_hour": 2.0},
            {"name": "c", "available_bytes": 50, "price_per_hour": 4.0},
        ],
        "layers": [
            {"name": "x", "memory_bytes": 10, "boundary_bytes": 4, "kv_bytes_per_token": 0.5},
            {"name": "y", "memory_bytes": 10, "boundary_bytes": 8, "kv_bytes_per_token": 0.5},
            {"name": "z", "memory_bytes": 20, "boundary_bytes": 2},
        ],
        "tokens_per_micro_batch": 4,
        "fixed_bytes": 2,
        "compute_s": [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]],
        "hop_latency_s": [[0, 0.5, None], [0.5, 0, 0.5], [None, 0.5, 0]],
        "hop_s_per_byte": [[0, 0.125, None], [0.125, 0, 0.125], [None, 0.125, 0]],
        "return_hop": True,
        "objective": {"name": "latency"},
    }


@pytest.fixture
def problem(problem_document: dict[str, Any]) -> DensePlacement:
    """Return the problem of the document."""
    return placement_from_dict(problem_document)


@pytest.fixture
def solution() -> dict[str, Any]:
    """Return layers x, y on a and z on b: 2·1 + 2 s of compute, hop 0.5 + 8/8 s, return 0.5 + 2/8 s: 6.25 s."""
    return {
        "schema": "gpuplan/placement-solution/1",
        "status": "optimal",
        "objective": 6.25,
        "terms": {"compute_s": 4.0, "hops_s": 1.5, "return_hop_s": 0.75},
        "bound": 6.25,
        "gap": 0.0,
        "solver": "hand",
        "seed": 0,
        "stages": copy.deepcopy(STAGES),
    }


def places(solution: dict[str, Any], problem: DensePlacement) -> list[str]:
    """Return the places of all findings."""
    return [finding.place for finding in verify_solution(solution, problem).problems]


@pytest.mark.parametrize(
    ("objective", "value", "terms"),
    [
        ({"name": "latency"}, 6.25, {}),
        ({"name": "bottleneck"}, 3.5, {"bottleneck_s": 3.5}),  # a: 2 + 1.5, b: 2 + 0.75
        ({"name": "efficiency"}, [2, 6.25], {"devices": 2}),
        ({"name": "cost"}, [3.0, 6.25], {"price_per_hour": 3.0}),
        ({"name": "kv-capacity"}, [-8, 6.25], {"kv_capacity_tokens": 8}),  # (30 − 2 − 20) / 1; b holds no KV
        # One plan of one stage: all on c, 12 s; so latency* is 6.25 and devices* 1.
        ({"name": "balanced"}, 12.0, {"latency_star_s": 6.25, "devices_star": 1, "latency_term": 10.0}),
        (
            {"name": "balanced", "latency_weight": 1, "devices_weight": 3},
            7.0,
            {"latency_star_s": 6.25, "devices_star": 1, "devices_term": 6.0},
        ),
    ],
)
def test_every_objective(
    problem_document: dict[str, Any], solution: dict[str, Any], objective: Any, value: Any, terms: dict[str, float]
) -> None:
    """Each objective's value is recomputed, and a wrong one is named."""
    problem = placement_from_dict({**problem_document, "objective": objective})
    solution.update(objective=value, bound=value, terms=terms)
    assert places(solution, problem) == []
    wrong = value + 1e-4 if isinstance(value, float) else [value[0], value[1] + 1e-4]
    solution.update(objective=wrong)
    assert "$.objective" in places(solution, problem) or "$.objective[1]" in places(solution, problem)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("$.stages[0].device", "d", "$.stages[0].device"),
        ("$.stages[1].device", "a", "$.stages[1].device"),
        ("$.stages[1].device", "c", "$.stages[0].device"),
        ("$.stages[0].start", 1, "$.stages[0].start"),
        ("$.stages[0].stop", 1, "$.stages[1].start"),
        ("$.stages[1].stop", 2, "$.stages[1].stop"),
        ("$.stages[1].stop", 4, "$.stages[1].stop"),
        ("$.objective", 6.24, "$.objective"),
        ("$.objective", [6.25, 1.0], "$.objective"),
        ("$.objective", ..., "$.objective"),
        ("$.bound", 6.3, "$.bound"),
        ("$.bound", 6.0, "$.bound"),
        ("$.bound", None, "$.bound"),
        ("$.gap", 0.1, "$.gap"),
        ("$.terms.hops_s", 1.0, "$.terms.hops_s"),
        ("$.terms.magic", 1.0, "$.terms.magic"),
        ("$.status", "infeasible", "$.status"),
        ("$.stages", ..., "$.stages"),
        ("$.points", [], "$.points"),
    ],
)
def test_an_edited_field_is_named(
    problem: DensePlacement, solution: dict[str, Any], edit: Any, place: str, value: Any, named: str
) -> None:
    """One field is edited; the finding stands where the contradiction shows."""
    assert places(solution, problem) == []
    assert named in places(edit(solution, place, value), problem)


def test_missing_last_layer(problem: DensePlacement, solution: dict[str, Any]) -> None:
    """Stages that end early leave layers unplaced."""
    del solution["stages"][1]
    assert places(solution, problem) == ["$.stages"]


def test_memory_counts_kv_and_fixed_bytes(problem_document: dict[str, Any], solution: dict[str, Any]) -> None:
    """On a: 2 fixed + 20 + 4·(0.5 + 0.5) = 26 of 30 B; with three micro-batches 34 B, and as many as stages 30 B."""
    for micro_batches, found in ((1, []), (3, ["$.stages[0]"]), ("stages", [])):
        problem = placement_from_dict({**problem_document, "micro_batches": micro_batches})
        assert places(solution, problem) == found


def test_memory_tolerance(problem: DensePlacement, solution: dict[str, Any]) -> None:
    """Memory may be overdrawn by 1e-9 of what is there (rounding), not by 1e-8."""
    for excess, found in ((1e-10, []), (1e-8, ["$.stages[0]"])):
        available = np.array([26.0 / (1 + excess), 30.0, 50.0])
        assert places(solution, dataclasses.replace(problem, available_bytes=available)) == found


def test_device_limit_and_marked_layers(problem: DensePlacement, solution: dict[str, Any]) -> None:
    """A plan over the device limit, or with a stage that lacks a marked layer, is refused."""
    assert places(solution, dataclasses.replace(problem, max_devices=1)) == ["$.stages"]
    marked = dataclasses.replace(problem, must_hold=np.array([False, True, False]))
    assert places(solution, marked) == ["$.stages[1]"]


def test_cycle_has_numbers_of_its_own(problem_document: dict[str, Any], solution: dict[str, Any]) -> None:
    """The bottleneck is taken over the cycle's numbers: a 0.2 + 0.5 + 8/8 s, b 0.2 + its return of 0.25 + 1/4 s."""
    pairs = [[0, 0.25, 0.25]] * 3
    problem_document["objective"] = {"name": "bottleneck"}
    problem_document["cycle"] = {
        "compute_s": [[0.1] * 3, [0.2] * 3, [0.3] * 3],
        "return": {"latency_s": pairs, "s_per_byte": [[0.25] * 3] * 3, "bytes": 1},
    }
    pairs[1] = [0.25, 0, 0.25]
    solution.update(objective=1.7, bound=1.7)
    assert places(solution, placement_from_dict(problem_document)) == []


def test_single_stage_saving(problem_document: dict[str, Any], solution: dict[str, Any]) -> None:
    """One device saves its bytes and hands nothing on: 2 + 40 + 4 − 6 = 40 B on c, 12 s."""
    problem_document["devices"][2]["available_bytes"] = 40
    solution.update(stages=[{"device": "c", "start": 0, "stop": 3}], objective=12.0, bound=12.0, terms={})
    assert places(solution, placement_from_dict(problem_document)) == ["$.stages[0]"]
    problem_document["single_stage_saving_bytes"] = 6
    assert places(solution, placement_from_dict(problem_document)) == []


@pytest.fixture
def front(problem_document: dict[str, Any]) -> tuple[dict[str, Any], DensePlacement]:
    """Return a front of two points: a and b (6.25 s, 3.5 s, 2 devices), c alone (12 s, 12 s, 1 device)."""
    points = [
        {"latency_s": 6.25, "bottleneck_s": 3.5, "devices": 2, "stages": STAGES},
        {"latency_s": 12.0, "bottleneck_s": 12.0, "devices": 1, "stages": [{"device": "c", "start": 0, "stop": 3}]},
    ]
    document = {
        "schema": "gpuplan/placement-solution/1",
        "status": "optimal",
        "terms": {},
        "bound": None,
        "gap": 0.0,
        "solver": "hand",
        "seed": 0,
        "points": copy.deepcopy(points),
    }
    return document, placement_from_dict({**problem_document, "front": True})


def test_front(front: tuple[dict[str, Any], DensePlacement]) -> None:
    """A front whose points hold what they say, none better than another, is accepted."""
    assert places(*front) == []


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("$.points[0].latency_s", 6.2, "$.points[0].latency_s"),
        ("$.points[0].bottleneck_s", 3.4, "$.points[0].bottleneck_s"),
        ("$.points[1].devices", 2, "$.points[1].devices"),
        ("$.points[1].stages[0].stop", 2, "$.points[1].stages"),
        ("$.objective", 6.25, "$.objective"),
        ("$.gap", 0.5, "$.gap"),
        ("$.points", ..., "$.points"),
    ],
)
def test_edited_front(
    front: tuple[dict[str, Any], DensePlacement], edit: Any, place: str, value: Any, named: str
) -> None:
    """An edited point is named."""
    assert named in places(edit(front[0], place, value), front[1])


def test_dominated_point(front: tuple[dict[str, Any], DensePlacement]) -> None:
    """A point that another beats or equals in everything does not belong."""
    # x, y on b (4 s), hop 1.5 s, z on c (4 s), return 0.75 s: 10.25 s; largest stage 4 + 1.5 = 5.5 s.
    stages = [{"device": "b", "start": 0, "stop": 2}, {"device": "c", "start": 2, "stop": 3}]
    point = {"latency_s": 10.25, "bottleneck_s": 5.5, "devices": 2, "stages": stages}
    front[0]["points"].append(point)
    (finding,) = verify_solution(*front).problems
    assert str(finding) == "$.points[2]: is no better in anything than $.points[0]"


def _result(plan: Any, **fields: Any) -> Any:
    base = {"status": "optimal", "plan": plan, "objective": 6.25, "terms": {}, "bound": 6.25, "gap": 0.0}
    report = SimpleNamespace(solver="hand", seed=7)
    return SimpleNamespace(**(base | {"reasons": (), "report": report} | fields))


def test_solution_round_trip(problem: DensePlacement, tmp_path: Path) -> None:
    """A result becomes a document that verifies, and reads back to the same plan."""
    plan = PlacementSolution((StageRange(0, 0, 2), StageRange(1, 2, 3)))
    save_solution(_result(plan), problem, tmp_path / "solution.json")
    assert verify_solution(tmp_path / "solution.json", problem).ok
    loaded = load_solution(tmp_path / "solution.json", problem)
    assert (loaded.plan, loaded.objective, loaded.seed) == (plan, 6.25, 7)


def test_front_round_trip(front: tuple[dict[str, Any], DensePlacement]) -> None:
    """A front keeps its points and has no objective."""
    document, problem = front
    plan = solution_from_dict(document, problem).plan
    assert isinstance(plan, PlacementFront)
    assert plan.points[1] == FrontPoint(12.0, 12.0, 1, (StageRange(2, 0, 3),))
    again = solution_to_dict(_result(plan, objective=None, bound=None), problem)
    assert again["points"] == document["points"]
    assert "objective" not in again


def test_infeasible_document(problem: DensePlacement) -> None:
    """Without a plan the document holds status and reasons, and an infinite gap becomes null."""
    result = _result(None, status="infeasible", objective=None, bound=None, gap=float("inf"), reasons=("2 B short",))
    document = solution_to_dict(result, problem)
    assert document["reasons"] == ["2 B short"]
    assert document["gap"] is None
    assert not {"stages", "points", "objective"} & set(document)
    assert solution_from_dict(document, problem).plan is None


def test_unknown_device_and_key(problem: DensePlacement, solution: dict[str, Any], edit: Any) -> None:
    """Reading refuses devices the problem does not have, and keys nobody knows."""
    with pytest.raises(InputError, match=r"\$\.stages\[0\]\.device: expected a device of the problem, got 'd'"):
        solution_from_dict(edit(copy.deepcopy(solution), "$.stages[0].device", "d"), problem)
    with pytest.raises(InputError, match=r"\$\.luck: unknown key"):
        verify_solution({**solution, "luck": 1}, problem)


def test_unwritable_solution(problem: DensePlacement, tmp_path: Path) -> None:
    """An output that cannot be written leaves nothing behind."""
    plan = PlacementSolution((StageRange(0, 0, 2), StageRange(1, 2, 3)))
    with pytest.raises(UsageError, match="cannot write"):
        save_solution(_result(plan), problem, tmp_path / "no" / "solution.json")
    assert list(tmp_path.iterdir()) == []


def test_front_of_groups(hand_problem: PlacementProblem) -> None:
    """A front of groups is read back as it was written; a problem of single devices cannot check it, and says so."""
    dense = hand_problem.replace(front=True).dense()
    stage = {"devices": ["h/gpu0", "h/gpu1"], "start": 0, "stop": 4}
    point = {"latency_s": 1.0, "bottleneck_s": 1.0, "devices": 2, "stages": [stage]}
    document = {
        "schema": "gpuplan/placement-solution/1", "status": "optimal", "terms": {}, "bound": None, "gap": 0.0,
        "solver": "auto", "seed": 0, "points": [point],
    }  # fmt: skip
    plan = solution_from_dict(document, dense).plan
    assert isinstance(plan, PlacementFront)
    assert plan.points[0].stages == (GroupStage((0, 1), 0, 4),)
    assert [finding.place for finding in verify_solution(document, dense).problems] == ["$.points[0].stages[0].devices"]
    stage["devices"] = ["h/gpu0", "h/gpu7"]
    with pytest.raises(InputError, match=r"\$.points\[0\].stages\[0\].devices\[1\]: expected a device of the problem"):
        solution_from_dict(document, dense)
    stage["device"] = "h/gpu0"
    with pytest.raises(InputError, match=r"\$.points\[0\].stages\[0\]"):
        solution_from_dict(document, dense)
