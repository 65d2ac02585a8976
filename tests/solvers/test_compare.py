"""`compare`: every solver and baseline on one instance, verified."""

from __future__ import annotations

import dataclasses
import importlib.util
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import Objective
from gpuplan.solvers import compare, list_solvers
from gpuplan.solvers.placement import compare as compare_module
from gpuplan.solvers.result import Result


def test_all_solvers_answer_and_are_verified(brute_force: ModuleType, instances: ModuleType) -> None:
    """Three unlike devices: exact methods agree on the optimum, no baseline is better, every plan is verified."""
    (case,) = (case for case in instances.HAND_SOLVED if case.name == "three-unlike")
    rows = compare(case.problem, time_limit_s=30.0)
    assert [row.name for row in rows] == [entry.name for entry in list_solvers()]
    best = case.optima["latency"]
    for row in rows:
        assert row.status != "refused", row
        assert (row.verified is None) == (row.objective is None), row
        if row.objective is not None:
            assert row.verified, row
            assert row.objective >= best * (1 - 1e-9)
            assert row.wall_time_s > 0.0
        else:
            assert row.note
        if row.kind == "exact":
            assert row.status == "optimal"
            assert row.objective == pytest.approx(best, rel=1e-6)
        if row.kind == "baseline":
            assert row.bound is None


@pytest.mark.parametrize("objective", ["latency", "bottleneck", "efficiency", "cost", "balanced", "kv-capacity"])
def test_random_problems_hold_up(objective: str, brute_force: ModuleType, instances: ModuleType) -> None:
    """Every objective: whatever has a plan is verified, whatever is proven is the optimum."""
    for problem in instances.random_problems(
        3, first_seed=700, devices=(3, 4), layers=(5, 6), objective=objective, plain=True
    ):
        if objective == "kv-capacity" and not problem.kv_bytes_per_token.any():
            continue
        expected = brute_force.optimum(problem)
        for row in compare(problem):
            assert row.verified in (None, True), row
            if row.status == "optimal":
                assert row.objective == pytest.approx(expected, rel=1e-6), row
            elif row.status == "infeasible":
                assert expected is None, row
            elif row.status == "refused":
                assert row.note, row


def test_rows_come_in_the_order_asked_for(instances: ModuleType) -> None:
    """Names chosen by the caller, and a call after each row."""
    seen: list[str] = []
    rows = compare(
        instances.make_problem(np.ones((2, 4)), 1, 3),
        ["random", "auto", "even"],
        on_row=lambda row: seen.append(row.name),
    )
    assert [row.name for row in rows] == seen == ["random", "auto", "even"]


def test_refused_methods_are_rows_with_the_reason(monkeypatch: pytest.MonkeyPatch, instances: ModuleType) -> None:
    """Too many devices for `published`, no kv-capacity in the MILP, a back end that is not installed."""
    wide = instances.make_problem(np.ones((11, 12)), 1, 10)
    (row,) = compare(wide, ["published"])
    assert row.status == "refused"
    assert "10 devices at most" in row.note
    kv = instances.make_problem(np.ones((2, 4)), 1, 10, kv_bytes_per_token=1, objective=Objective("kv-capacity"))
    assert [row.status for row in compare(kv, ["milp-blocks", "cp-sat", "even"])] == ["refused", "refused", "feasible"]
    installed = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ortools" else installed(name))
    (row,) = compare(instances.make_problem(np.ones((2, 4)), 1, 10), ["cp-sat"])
    assert row.status == "missing"
    assert "pip install ortools" in row.note


def test_infeasible_problems_have_reasons(instances: ModuleType) -> None:
    """Exact methods prove it and say why; rules only say that they have no plan."""
    rows = compare(instances.make_problem(np.ones((2, 3)), 10, 14), ["auto", "milp-blocks", "cp-sat", "even"])
    assert [row.status for row in rows] == ["infeasible"] * 3 + ["no_solution"]
    assert all("short in total" in row.note for row in rows[:3])


def test_fronts_are_compared_among_methods_that_find_them(instances: ModuleType) -> None:
    """A front is verified; methods for one plan are refused."""
    (case,) = (case for case in instances.HAND_SOLVED if case.name == "three-unlike")
    rows = {row.name: row for row in compare(dataclasses.replace(case.problem, front=True))}
    assert (rows["auto"].status, rows["auto"].verified, rows["auto"].note) == ("optimal", True, "3 points")
    assert rows["even"].status == rows["milp-blocks"].status == "refused"


def test_a_wrong_plan_does_not_pass_as_verified(monkeypatch: pytest.MonkeyPatch, instances: ModuleType) -> None:
    """A method that lies about its value is shown as such."""
    problem = instances.make_problem(np.ones((2, 4)), 1, 3)

    def lie(problem, **options):
        result = compare_module_solve(problem, **options)
        return dataclasses.replace(result, objective=result.objective * 0.9, bound=None, gap=None)

    compare_module_solve = compare_module.solve
    monkeypatch.setattr(compare_module, "solve", lie)
    (row,) = compare(problem, ["even"])
    assert row.verified is False
    assert row.note.startswith("refused by the verifier: ")


def test_unknown_names_and_missing_prices_are_errors(instances: ModuleType) -> None:
    """Nothing is run for an unknown name; a missing price is the problem's fault, not a method's."""
    problem = instances.make_problem(np.ones((2, 4)), 1, 3)
    with pytest.raises(UsageError, match="did you mean even"):
        compare(problem, ["evn"])
    with pytest.raises(InputError, match="price"):
        compare(dataclasses.replace(problem, objective=Objective("cost")), ["auto"])


def test_a_cancelled_comparison_keeps_its_rows(instances: ModuleType) -> None:
    """Cancelled after the first row: the rest is left out."""
    problem = instances.make_problem(np.ones((2, 4)), 1, 3)
    done: list[str] = []
    rows = compare(
        problem, ["even", "memory", "bgs"], cancel=lambda: bool(done), on_row=lambda row: done.append(row.name)
    )
    assert [row.name for row in rows] == ["even"]


def test_row_keeps_the_whole_result(instances: ModuleType) -> None:
    """The plan is at hand for whoever shows the table."""
    (row,) = compare(instances.make_problem(np.ones((2, 4)), 1, 3), ["even"])
    assert isinstance(row.result, Result)
    assert row.result.plan == PlacementSolution((StageRange(0, 0, 2), StageRange(1, 2, 4)))
