"""Batching problems, solutions and plans as files: round trips, schemas, malformed ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError
from gpuplan.plans.batch_plan import batch_plan_from_dict, build_batch_plan, load_batch_plan, save_batch_plan
from gpuplan.plans.batch_solution_io import batching_solution_from_dict, batching_solution_to_dict
from gpuplan.plans.validation import check_document
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.profiles.problems.batching_io import (
    batching_from_dict,
    batching_to_dict,
    load_batching_problem,
    load_executors,
)
from gpuplan.solvers.batching.solve import solve_batching

Change = Callable[[dict[str, Any]], Any]


def test_problem_round_trip(problem_document: dict[str, Any]) -> None:
    """What is read is written again, and follows its schema."""
    problem = batching_from_dict(problem_document)
    written = json.loads(json.dumps(batching_to_dict(problem)))
    assert written["requests"] == problem_document["requests"]
    check_document(written, "gpuplan/batching-problem/1")
    again = batching_from_dict(written)
    assert again.executors == problem.executors
    assert again.time == problem.time
    assert again.objective == problem.objective


def test_optional_columns_have_defaults(problem_document: dict[str, Any]) -> None:
    """Without arrivals, deadlines and weights: time 0, none, 1; one value speaks for all."""
    for key in ("arrival_s", "deadline_s", "weight"):
        del problem_document["requests"][key]
    requests = batching_from_dict(problem_document).requests
    assert requests.arrival_s.tolist() == [0.0] * 5
    assert np.isinf(requests.deadline_s).all()
    assert requests.weight.tolist() == [1.0] * 5
    problem_document["requests"]["deadline_s"] = 7.5
    assert batching_from_dict(problem_document).requests.deadline_s.tolist() == [7.5] * 5


BAD: dict[str, tuple[Change, str]] = {
    "no_executors": (lambda d: d.update(executors=[]), r"\$\.executors: expected at least one executor, got none"),
    "executor_twice": (lambda d: d["executors"][1].update(name="e0"), r"\$\.executors\[1\]\.name: expected distinct"),
    "negative_kv": (lambda d: d["executors"][0].update(kv_capacity_tokens=-1), r"executors\[0\]\.kv_capacity_tokens"),
    "batch_of_zero": (lambda d: d["executors"][0].update(max_batch=0), r"executors\[0\]\.max_batch.*got 0"),
    "zero_speed": (lambda d: d["executors"][0].update(speed=0), r"executors\[0\]\.speed"),
    "missing_time": (lambda d: d["time"].pop("step_fixed_s"), r"\$\.time\.step_fixed_s.*missing"),
    "nan_time": (lambda d: d["time"].update(step_fixed_s=float("nan")), r"\$\.time\.step_fixed_s.*got nan"),
    "missing_weight": (lambda d: d["objective"].pop("makespan"), r"\$\.objective\.makespan.*missing"),
    "bad_deadlines": (lambda d: d["objective"].update(deadlines="firm"), r"objective\.deadlines.*one of soft, hard"),
    "no_requests": (lambda d: d["requests"].update(id=[]), r"\$\.requests\.id: expected at least one request"),
    "short_column": (lambda d: d["requests"]["prompt_tokens"].pop(), r"requests\.prompt_tokens: expected 5 numbers"),
    "text_tokens": (lambda d: _set(d, "prompt_tokens", 1, "9"), r"prompt_tokens\[1\]: expected a number, got the text"),
    "half_token": (lambda d: _set(d, "output_tokens", 2, 1.5), r"output_tokens\[2\]: expected a whole number"),
    "negative_token": (lambda d: _set(d, "output_tokens", 0, -1), r"output_tokens\[0\]"),
    "nan_arrival": (lambda d: _set(d, "arrival_s", 3, float("nan")), r"arrival_s\[3\].*got nan"),
    "null_arrival": (lambda d: _set(d, "arrival_s", 3, None), r"arrival_s\[3\]: expected a number, got null"),
    "text_deadline": (lambda d: _set(d, "deadline_s", 1, "soon"), r"deadline_s\[1\].*or null"),
    "early_deadline": (lambda d: _set(d, "deadline_s", 4, 0.3), r"deadline_s\[4\].*no earlier than the arrival"),
    "id_twice": (lambda d: _set(d, "id", 1, "a"), r"requests\.id\[1\]: expected distinct ids, got 'a' again"),
    "boolean_id": (lambda d: _set(d, "id", 1, True), r"id\[1\]: expected text or a whole number, got true"),
    "too_large": (lambda d: _set(d, "prompt_tokens", 4, 4000), r"\$\.requests: .*got 5 \(4010 tokens\)"),
    "unknown_key": (lambda d: d["requests"].update(slo=1), r"\$\.requests\.slo: expected one of the keys .*unknown"),
    "other_version": (lambda d: d.update(schema="gpuplan/batching-problem/2"), r"\$\.schema: expected version"),
}


def _set(document: dict[str, Any], column: str, row: int, value: Any) -> None:
    document["requests"][column][row] = value


@pytest.mark.parametrize("name", BAD)
def test_malformed_problems(name: str, problem_document: dict[str, Any], tmp_path: Path) -> None:
    """One defect a file, each refused with its file and JSON path."""
    change, message = BAD[name]
    change(problem_document)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(problem_document), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_batching_problem(path)
    assert str(path) in str(caught.value)


def test_executors_file(executors_document: dict[str, Any], tmp_path: Path) -> None:
    """An executors file is a problem without requests; its objective may be left out, requests may not be in."""
    path = tmp_path / "executors.json"
    del executors_document["objective"]
    path.write_text(json.dumps(executors_document), encoding="utf-8")
    file = load_executors(path)
    assert file.objective is None
    assert [own.speed for own in file.executors] == [1.0, 0.5]
    path.write_text(json.dumps(executors_document | {"requests": {}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"\$\.requests: expected executors, time and objective only"):
        load_executors(path)


def test_solution_round_trip(problem_document: dict[str, Any]) -> None:
    """A solution follows its schema and comes back as the plan it was made from."""
    problem = batching_from_dict(problem_document)
    result = solve_batching(problem, solver="edf")
    document = json.loads(json.dumps(batching_solution_to_dict(result, problem)))
    check_document(document, "gpuplan/batching-solution/1")
    assert document["unmet"] == ["c"]
    read = batching_solution_from_dict(document, problem)
    assert read.objective == result.objective
    assert read.plan is not None
    assert result.plan is not None
    assert read.plan.rows.tolist() == result.plan.rows.tolist()
    assert read.plan.finish_s.tolist() == result.plan.finish_s.tolist()


def test_solution_of_another_problem(problem_document: dict[str, Any]) -> None:
    """A request or executor that the problem does not have is refused with its place."""
    problem = batching_from_dict(problem_document)
    document = batching_solution_to_dict(solve_batching(problem, solver="fifo"), problem)
    stranger = copy.deepcopy(document)
    stranger["batches"][0]["requests"][0] = "z"
    with pytest.raises(InputError, match=r"\$\.batches\[0\]\.requests\[0\].*got 'z'"):
        batching_solution_from_dict(stranger, problem)
    document["batches"][0]["executor"] = "e9"
    with pytest.raises(InputError, match=r"\$\.batches\[0\]\.executor.*got 'e9'"):
        batching_solution_from_dict(document, problem)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_plan_round_trip(problem_document: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    """JSON and Parquet hold the same plan, requests with text and number ids included."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    problem = batching_from_dict(problem_document)
    plan = build_batch_plan(problem, solve_batching(problem, solver="sjf"), name="five")
    path = tmp_path / f"plan.{suffix}"
    save_batch_plan(plan, path)
    again = load_batch_plan(path)
    assert again.metrics == plan.metrics
    assert again.result == plan.result
    assert again.name == "five"
    assert again.solution.rows.tolist() == plan.solution.rows.tolist()
    assert again.problem.requests.id.tolist() == problem.requests.id.tolist()
    assert again.problem.requests.deadline_s.tolist() == problem.requests.deadline_s.tolist()


def test_same_plan_same_bytes(three_requests: BatchingProblem, tmp_path: Path) -> None:
    """Two runs write byte-identical files."""
    for name in ("one.json", "two.json"):
        plan = build_batch_plan(three_requests, solve_batching(three_requests, solver="slo-odbs"))
        save_batch_plan(plan, tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_truncated_parquet_plan(three_requests: BatchingProblem, tmp_path: Path) -> None:
    """A Parquet plan cut short is refused in one sentence."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "plan.parquet"
    save_batch_plan(build_batch_plan(three_requests, solve_batching(three_requests, solver="fifo")), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cut short or damaged"):
        load_batch_plan(path)


def test_metrics_by_hand(unit_problem: Any) -> None:
    """Two batches of 4 and 2 s, outputs 4, 1 and 2: latencies 4, 4, 6; padding 2·5 − (5+2) = 3 of 13 tokens."""
    problem = unit_problem([4, 1, 2], deadline_s=[4.0, 3.0, np.inf])
    result = solve_batching(problem, solver="fifo")
    metrics = build_batch_plan(problem, result).metrics
    assert metrics.makespan_s == 6.0
    assert metrics.mean_latency_s == pytest.approx(14 / 3)
    assert metrics.p50_latency_s == 4.0
    # between 4 (place 1) and 6 (place 2): place 0.95·2 = 1.9
    assert metrics.p95_latency_s == pytest.approx(5.8)
    assert metrics.padding_tokens == 3
    assert metrics.padding_fraction == pytest.approx(3 / 13)
    assert (metrics.slo_attainment, metrics.violations) == (0.5, 1)
    # prefill takes 1 s: first tokens at 1, 1 and 5 s
    assert metrics.mean_ttft_s == pytest.approx(7 / 3)


def test_a_plan_without_its_requests(three_requests: BatchingProblem) -> None:
    """A plan that holds the digest only asks for the problem."""
    from gpuplan.plans.batch_plan import batch_plan_to_dict

    document = batch_plan_to_dict(build_batch_plan(three_requests, solve_batching(three_requests, solver="fifo")))
    del document["inputs"]["problem"]["requests"]
    with pytest.raises(InputError, match="--problem"):
        batch_plan_from_dict(document)
    assert batch_plan_from_dict(document, problem=three_requests).solution.num_batches == 2


def test_one_bad_batch_among_many(make_problem: Callable[..., BatchingProblem]) -> None:
    """In a plan of hundreds of batches a defect in one is still found, with its place."""
    from gpuplan.plans.batch_plan import batch_plan_to_dict
    from gpuplan.plans.verify.batching import verify_batch_plan

    problem = make_problem(1, size=600)
    plan = batch_plan_to_dict(build_batch_plan(problem, solve_batching(problem, solver="odbs-authors")))
    assert len(plan["batches"]) > 150
    assert verify_batch_plan(plan).ok
    for change, place in (
        ({"start_s": -1.0}, r"\$\.batches\[120\]\.start_s"),
        ({"finish_s": float("inf")}, r"\$\.batches\[120\]\.finish_s"),
        ({"requests": []}, r"\$\.batches\[120\]\.requests"),
        ({"prompt_tokens": 2.5}, r"\$\.batches\[120\]\.prompt_tokens"),
        ({"extra": 1}, r"\$\.batches\[120\]\.extra"),
    ):
        bad = copy.deepcopy(plan)
        bad["batches"][120].update(change)
        with pytest.raises(InputError, match=place):
            verify_batch_plan(bad)
