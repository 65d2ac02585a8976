"""The verifier of batching solutions and plans: it accepts what is right and names every tampering."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuplan.errors import InputError
from gpuplan.plans.batch_metrics import ServiceLevels
from gpuplan.plans.batch_plan import batch_plan_to_dict, build_batch_plan, save_batch_plan
from gpuplan.plans.batch_solution_io import batching_solution_to_dict
from gpuplan.plans.verify.batching import verify_batch_plan, verify_batching_solution
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective
from gpuplan.solvers.batching.solve import solve_batching

Document = dict[str, Any]
Change = Callable[[Document], Any]


@pytest.fixture
def problem(unit_problem: Callable[..., BatchingProblem]) -> BatchingProblem:
    """Return four requests in batches of two, arrivals 0, 0, 1, 7, deadlines for two of them.

    FIFO: rows 0 and 1 from 0 to 3 s, row 2 from 3 to 7 s, row 3 from 7 to 8 s.
    """
    problem = unit_problem(
        [3, 2, 4, 1],
        kv=9.0,
        id=["a", "b", "c", "d"],
        arrival_s=[0.0, 0.0, 1.0, 7.0],
        deadline_s=[3.0, 1.5, 9.0, float("inf")],
    )
    return problem.replace(objective=BatchObjective(1.0, 2.0, 0.5, 3.0))


@pytest.fixture
def solution(problem: BatchingProblem) -> Document:
    """Return the document of the FIFO solution."""
    result = solve_batching(problem, solver="fifo")
    document: Document = json.loads(json.dumps(batching_solution_to_dict(result, problem)))
    return document


def test_the_solution_holds(solution: Document, problem: BatchingProblem) -> None:
    """Latencies 3+3+6+1, makespan 8, one token of padding, one violation (unmet): 13 + 16 + 0.5 + 3."""
    assert [batch["requests"] for batch in solution["batches"]] == [["a", "b"], ["c"], ["d"]]
    assert solution["terms"] == {"latency": 13.0, "makespan": 16.0, "padding": 0.5, "violation": 3.0}
    assert (solution["objective"], solution["unmet"]) == (32.5, ["b"])
    assert verify_batching_solution(solution, problem).ok


def _swap(document: Document) -> None:
    document["batches"][1], document["batches"][2] = document["batches"][2], document["batches"][1]


def _merge(document: Document) -> None:
    document["batches"][1]["requests"] = ["c", "d"]
    del document["batches"][2]


TAMPERED: dict[str, tuple[Change, str]] = {
    "request_twice": (lambda d: d["batches"][2]["requests"].append("a"), "$.batches[2].requests[1]"),
    "request_missing": (lambda d: d["batches"][0]["requests"].pop(), "$.batches"),
    "request_unknown": (lambda d: d["batches"][2].update(requests=["z"]), "$.batches[2].requests[0]"),
    "executor_unknown": (lambda d: d["batches"][0].update(executor="e7"), "$.batches[0].executor"),
    "padded_less": (lambda d: d["batches"][0].update(output_tokens=2), "$.batches[0].output_tokens"),
    "padded_more": (lambda d: d["batches"][0].update(prompt_tokens=4), "$.batches[0].prompt_tokens"),
    "too_early": (lambda d: d["batches"][2].update(start_s=6.5, finish_s=7.5), "$.batches[2].start_s"),
    "overlapping": (lambda d: d["batches"][1].update(start_s=2.5, finish_s=6.5), "$.batches[1].start_s"),
    "too_short": (lambda d: d["batches"][2].update(finish_s=7.9), "$.batches[2].finish_s"),
    "not_in_order": (_swap, "$.batches[2].start_s"),
    "kv_overflow": (_merge, "$.batches[1]"),
    "objective": (lambda d: d.update(objective=32.4), "$.objective"),
    "term": (lambda d: d["terms"].update(padding=0.4), "$.terms.padding"),
    "unknown_term": (lambda d: d["terms"].update(extra=0.0), "$.terms.extra"),
    "unmet_left_out": (lambda d: d.update(unmet=[]), "$.unmet"),
    "unmet_too_many": (lambda d: d.update(unmet=["b", "c"]), "$.unmet"),
    "bound_above": (lambda d: d.update(bound=33.0, gap=0.0), "$.bound"),
    "optimal_without_bound": (lambda d: d.update(status="optimal"), "$.bound"),
    "optimal_unproven": (lambda d: d.update(status="optimal", bound=30.0, gap=0.0), "$.bound"),
    "gap_shaved": (lambda d: d.update(bound=26.0, gap=0.1), "$.gap"),
    "gap_without_bound": (lambda d: d.update(gap=0.0), "$.gap"),
    "no_plan": (lambda d: d.update(status="infeasible"), "$.status"),
    "batches_gone": (lambda d: d.pop("batches"), "$.batches"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_solutions(name: str, solution: Document, problem: BatchingProblem) -> None:
    """Each change is found, at the field that was changed."""
    change, place = TAMPERED[name]
    change(solution)
    found = verify_batching_solution(solution, problem)
    assert place in [finding.place for finding in found.problems], str(found)


def test_a_bound_that_follows(solution: Document, problem: BatchingProblem) -> None:
    """A lower bound of 26 leaves a gap of 6.5/32.5 = 0.2."""
    assert verify_batching_solution(solution | {"bound": 26.0, "gap": 0.2}, problem).ok


def test_too_many_in_a_batch(unit_problem: Callable[..., BatchingProblem]) -> None:
    """A batch of three on an executor for two is found."""
    problem = unit_problem([1, 1, 1])
    wide = unit_problem([1, 1, 1], max_batch=3)
    document = batching_solution_to_dict(solve_batching(wide, solver="fifo"), wide)
    found = verify_batching_solution(document, problem)
    assert "holds 3 requests, the executor takes 2" in str(found)


def test_a_missed_hard_deadline(solution: Document, problem: BatchingProblem) -> None:
    """The same plan under hard deadlines breaks one."""
    hard = problem.replace(objective=BatchObjective(1.0, 2.0, 0.5, 3.0, "hard"))
    assert "hard deadline 1.5 of request 'b'" in str(verify_batching_solution(solution, hard))


def test_waiting_longer_than_needed_is_allowed(solution: Document, problem: BatchingProblem) -> None:
    """A batch may start late; the value is then what follows from it: 1 s more latency, 2 s·1 more makespan term."""
    solution["batches"][2].update(start_s=8.0, finish_s=9.0)
    solution["terms"].update(latency=14.0, makespan=18.0)
    solution["objective"] = 35.5
    assert verify_batching_solution(solution, problem).ok


@pytest.fixture
def plan(problem: BatchingProblem) -> Document:
    """Return the document of the FIFO plan, with a TTFT level for two requests."""
    result = solve_batching(problem, solver="fifo")
    levels = ServiceLevels(ttft_slo_s=_array([1.0, None, 2.5, None]), tpot_slo_s=_array([1.0, 0.5, None, None]))
    built = build_batch_plan(problem, result, levels=levels)
    document: Document = json.loads(json.dumps(batch_plan_to_dict(built)))
    return document


def _array(values: list[float | None]) -> Any:
    import numpy as np

    return np.array([np.nan if value is None else value for value in values])


def test_the_plan_holds(plan: Document) -> None:
    """The file alone suffices; TTFTs are 1, 1, 3, 1 s: one of two levels kept; steps take 1 s: one of two kept."""
    assert verify_batch_plan(plan).ok
    assert plan["metrics"]["ttft_slo_attainment"] == 0.5
    assert plan["metrics"]["tpot_slo_attainment"] == 0.5
    assert plan["metrics"]["slo_attainment"] == pytest.approx(2 / 3)


PLAN_TAMPERED: dict[str, tuple[Change, str]] = {
    "position": (lambda d: d["batches"][1].update(position=0), "$.batches[1].position"),
    "digest": (lambda d: d["requests"].update(digest="0" * 64), "$.requests.digest"),
    "count": (lambda d: d["requests"].update(num_requests=5), "$.requests.num_requests"),
    "input_request": (lambda d: d["inputs"]["problem"]["requests"]["weight"].__setitem__(0, 2.0), "$.requests.digest"),
    "input_time": (lambda d: d["inputs"]["problem"]["time"].update(step_fixed_s=0.9), "$.batches[0].finish_s"),
    "input_objective": (lambda d: d["inputs"]["problem"]["objective"].update(padding=0.0), "$.result.terms.padding"),
    "executor": (lambda d: d["executors"][0].update(max_batch=9), "$.executors[0]"),
    "executor_added": (lambda d: d["executors"].append({**d["executors"][0], "name": "e1"}), "$.executors[1]"),
    "objective": (lambda d: d["result"].update(objective=1.0), "$.result.objective"),
    "bound": (lambda d: d["result"].update(bound=99.0, gap=0.0), "$.result.bound"),
} | {
    f"metric_{name}": (
        lambda d, name=name: d["metrics"].update({name: d["metrics"][name] * 2 + 1}),
        f"$.metrics.{name}",
    )
    for name in (
        "makespan_s",
        "mean_latency_s",
        "p50_latency_s",
        "p95_latency_s",
        "p99_latency_s",
        "padding_tokens",
        "padding_fraction",
        "slo_attainment",
        "violations",
        "mean_ttft_s",
        "ttft_slo_attainment",
        "tpot_slo_attainment",
    )
}


@pytest.mark.parametrize("name", PLAN_TAMPERED)
def test_tampered_plans(name: str, plan: Document) -> None:
    """Each change of a plan is found, at the field that shows it."""
    change, place = PLAN_TAMPERED[name]
    if name == "input_request":
        plan["inputs"]["problem"]["requests"]["weight"] = [1.0] * 4
    change(plan)
    found = verify_batch_plan(plan)
    assert any(finding.place.startswith(place) for finding in found.problems) or (
        name == "executor_added" and "$.executors" in [finding.place for finding in found.problems]
    ), str(found)


def test_tampered_parquet(problem: BatchingProblem, tmp_path: Path) -> None:
    """A value changed in a Parquet plan is found as in JSON."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "plan.parquet"
    save_batch_plan(build_batch_plan(problem, solve_batching(problem, solver="fifo")), path)
    assert verify_batch_plan(path).ok
    table = parquet.read_table(path)
    shaved = pa.array([value - 0.5 for value in table.column("finish_s").to_pylist()])
    table = table.set_column(table.schema.get_field_index("finish_s"), "finish_s", shaved)
    parquet.write_table(table, path)
    assert "$.batches[0].finish_s" in [finding.place for finding in verify_batch_plan(path).problems]


def test_digest_only_plans_need_their_problem(plan: Document, problem: BatchingProblem) -> None:
    """With the problem at hand such a plan verifies; with another one it does not."""
    del plan["inputs"]["problem"]["requests"]
    with pytest.raises(InputError, match="--problem"):
        verify_batch_plan(plan)
    assert verify_batch_plan(plan, problem).ok
    other = problem.replace(requests=problem.requests.take([1, 0, 2, 3]))
    assert "$.requests.digest" in [finding.place for finding in verify_batch_plan(plan, other).problems]


def test_malformed_plans(plan: Document) -> None:
    """An unknown key, a version and a broken embedded problem are refused with their paths."""
    with pytest.raises(InputError, match=r"\$\.extra"):
        verify_batch_plan(plan | {"extra": 1})
    with pytest.raises(InputError, match=r"\$\.schema: .*batch-plan/1"):
        verify_batch_plan(plan | {"schema": "gpuplan/batch-plan/2"})
    broken = copy.deepcopy(plan)
    broken["inputs"]["problem"]["time"]["step_fixed_s"] = -1.0
    with pytest.raises(InputError, match=r"\$\.inputs\.problem\.time\.step_fixed_s"):
        verify_batch_plan(broken)
