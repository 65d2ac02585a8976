"""The rules and the published model: sound placements, published values, never above the optimum."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuplan.plans.flow_solution import NodeRange, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.profiles.problems.flow_io import load_flow_problem
from gpuplan.solvers.flow import solve_flow
from gpuplan.solvers.flow.baselines import BASELINES, rule
from gpuplan.solvers.limits import Limits


@pytest.mark.parametrize("name", BASELINES)
def test_rules_are_sound(name: str, flows: ModuleType) -> None:
    """Every placement of a rule is verified, without a bound, and no better than the proven optimum; or it says why."""
    found = 0
    for problem in flows.random_problems(80):
        result = solve_flow(problem, solver=name)
        if result.plan is None:
            assert result.status == "infeasible" or result.report.notes
            continue
        found += 1
        assert result.status == "feasible"
        assert result.bound is None
        assert result.gap is None
        assert verify_flow_solution(flow_solution_to_dict(result, problem), problem).ok
        assert result.objective <= solve_flow(problem).objective * (1 + 1e-12)
    assert found >= 10


def test_published_values(shared_data: Path) -> None:
    """On single24-70b SWARM's rule gives the published 757.8532, and Petals' over its seeds the published 952.1074."""
    problem = load_flow_problem(shared_data / "helix" / "instances" / "single24-70b.json")
    assert solve_flow(problem, solver="swarm").objective == pytest.approx(757.8532, abs=1e-4)
    values = [solve_flow(problem, solver="petals", seed=seed).objective for seed in range(30)]
    assert any(value == pytest.approx(952.1074, abs=1e-4) for value in values)


def test_rules_by_hand() -> None:
    """Kind a: 2 layers at 10; kind b: 4 layers at 8; 4 layers. Three a's and two b's, every link wide."""
    table = (np.array([30.0, 10.0]), np.array([40.0, 20.0, 12.0, 8.0]))
    kinds = np.array([0, 0, 0, 1, 1])
    wide, ends = np.full((5, 5), 1e3), np.full(5, 1e3)
    problem = FlowProblem(4, ("a", "b"), table, tuple("vwxyz"), kinds, wide, ends, ends)
    # Each b is a pipeline of its own (8), two of the three a's make another: layers 0-1 on v, w and x share evenly.
    separate = rule("separate-pipelines")(problem, 0)
    assert NodeRange(3, 0, 4) in separate
    assert NodeRange(4, 0, 4) in separate
    # Stages of 2 layers (the most an a holds): b's pass 20, a's 10; b, b, then a, a, a to the weaker stage in turn.
    swarm = solve_flow(problem, solver="swarm")
    assert swarm.objective == pytest.approx(30.0)
    # homogeneous: 4·8 > 2·10, so both b's first, then a pair of a's; the third a is left over: 8 + 8 + 10.
    assert solve_flow(problem, solver="homogeneous").objective == pytest.approx(26.0)


def test_published_model_agrees(flows: ModuleType, tmp_path: Path) -> None:
    """The mixed-integer model has the optimum of the search, with and without links that bind, and can be written."""
    agreed = 0
    for seed, problem in enumerate(flows.random_problems(14, bind=True, nodes=(2, 3))):
        best = flows.optimum(problem)
        result = solve_flow(problem, solver="flow-milp", limits=Limits(time_limit_s=20))
        if best == 0.0:
            assert result.plan is None
            continue
        agreed += 1
        assert result.objective == pytest.approx(best, rel=1e-6), seed
        assert result.bound >= best * (1 - 1e-6)
        assert result.status == "optimal"
    assert agreed >= 4
    from gpuplan.solvers.flow.milp import build_model

    model = build_model(problem)
    model.writeLP(str(tmp_path / "model.lp"))
    assert "flow_source" in (tmp_path / "model.lp").read_text()
