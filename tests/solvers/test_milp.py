"""The generic cross-checks `milp-blocks` (HiGHS and CBC) and `cp-sat`, against brute force."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import InputError, SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement, Objective
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement import constraint, goals, milp
from gpuplan.solvers.result import Result

Solve = Callable[[DensePlacement], Result[PlacementSolution]]
NO_LIMIT = Limits(time_limit_s=None)

SOLVERS: dict[str, Solve] = {
    "highs": lambda problem: milp.solve(problem, NO_LIMIT, engine="highs"),
    "cbc": lambda problem: milp.solve(problem, NO_LIMIT, engine="cbc"),
    "cp-sat": lambda problem: constraint.solve(problem, NO_LIMIT),
}


def check(result: Result[PlacementSolution], problem: DensePlacement, oracle: ModuleType) -> bool:
    """Compare with brute force; return whether the problem was feasible."""
    expected = oracle.optimum(problem)
    if expected is None:
        assert result.status == "infeasible", problem.name
        assert result.reasons
        return False
    assert result.status == "optimal", (problem.name, result)
    assert result.gap == 0.0
    assert result.objective == pytest.approx(expected, rel=1e-6), problem.name
    worth = oracle.evaluate(problem, [(s.device, s.start, s.stop) for s in result.require_plan().stages])
    assert worth.problems == (), problem.name
    bounds = result.bound if isinstance(result.bound, tuple) else (result.bound,)
    values = expected if isinstance(expected, tuple) else (expected,)
    # A bound is never above the optimum (but for the engines' own arithmetic).
    assert all(b <= v + 1e-9 * abs(v) + 1e-12 for b, v in zip(bounds, values, strict=True)), problem.name
    return True


@pytest.mark.parametrize(("name", "count"), [("highs", 300), ("cbc", 60), ("cp-sat", 150)])
def test_latency_equals_brute_force(name: str, count: int, brute_force: ModuleType, instances: ModuleType) -> None:
    """Random problems with everything the format has: same optimum to 1e-6, or proven infeasible."""
    feasible = [
        check(SOLVERS[name](problem), problem, brute_force)
        for problem in instances.random_problems(count, first_seed=5000, devices=(2, 4), layers=(4, 7))
    ]
    assert sum(feasible) > count / 2


@pytest.mark.parametrize(("name", "count"), [("highs", 100), ("cbc", 20), ("cp-sat", 50)])
@pytest.mark.parametrize("objective", ["bottleneck", "efficiency", "cost", "balanced"])
def test_other_objectives_equal_brute_force(
    name: str, count: int, objective: str, brute_force: ModuleType, instances: ModuleType
) -> None:
    """Every supported objective, second keys included."""
    for problem in instances.random_problems(
        count, first_seed=6000, devices=(2, 4), layers=(4, 6), objective=objective
    ):
        check(SOLVERS[name](problem), problem, brute_force)


@pytest.mark.parametrize("name", SOLVERS)
def test_hand_solved_instances(name: str, brute_force: ModuleType, instances: ModuleType) -> None:
    """The catalogue of instances solved on paper."""
    for case in instances.HAND_SOLVED:
        for objective in goals.OBJECTIVES:
            if objective in case.optima:
                problem = instances.with_objective(case.problem, objective)
                check(SOLVERS[name](problem), problem, brute_force)


@pytest.mark.parametrize("name", SOLVERS)
def test_tiny_and_huge_times_are_proven_too(name: str, brute_force: ModuleType, instances: ModuleType) -> None:
    """Times of microseconds and of hours: the scale of the model follows, the proof stays within 1e-6."""
    problem = instances.random_problem(5003, devices=(3, 3), layers=(6, 6), plain=True)
    for factor in (1e-7, 1e5):
        scaled = scale_times(problem, factor)
        check(SOLVERS[name](scaled), scaled, brute_force)


def scale_times(problem: DensePlacement, factor: float) -> DensePlacement:
    """Multiply every time of a problem."""

    def table(hop):
        return None if hop is None else type(hop)(hop.latency_s * factor, hop.s_per_byte * factor)

    def timing(numbers):
        return dataclasses.replace(
            numbers,
            compute_s=numbers.compute_s * factor,
            hop=table(numbers.hop),
            return_hop=table(numbers.return_hop),
        )

    return dataclasses.replace(problem, latency=timing(problem.latency), cycle=timing(problem.cycle))


def hard_problem() -> DensePlacement:
    """Make a problem that no engine proves at once: the bottleneck of 12 unlike tight devices, 30 layers."""
    from gpuplan.profiles.problems.placement import HopTable, Timing

    rng = np.random.default_rng(4)
    D, n = 12, 30
    hop = HopTable(rng.uniform(0.0, 2.0, (D, D)), rng.uniform(0.0, 0.1, (D, D)))
    timing = Timing(rng.uniform(0.5, 3.0, (D, 1)) * rng.uniform(0.5, 2.0, (1, n)), hop, rng.uniform(1, 9, n))
    memory = rng.integers(40, 200, n).astype(float)
    room = rng.uniform(0.5, 1.5, D)
    return DensePlacement(
        tuple(f"g{d}" for d in range(D)),
        tuple(f"l{i}" for i in range(n)),
        np.floor(room / room.sum() * memory.sum() / 0.8),
        np.ones(D),
        memory,
        np.zeros(n),
        timing,
        timing,
        objective=Objective("bottleneck"),
    )


@pytest.mark.parametrize("engine", ["highs", "cbc"])
def test_milp_at_its_time_limit_claims_no_proof(engine: milp.Engine) -> None:
    """Stopped early the answer is feasible with an honest gap, or no solution; never "optimal"."""
    problem = hard_problem()
    limit_s = 1.0
    started = time.perf_counter()
    result = milp.solve(problem, Limits(time_limit_s=limit_s), engine=engine)
    # Building the model counts; CBC checks its clock between nodes.
    assert time.perf_counter() - started < limit_s + 2.0
    assert result.status in ("feasible", "no_solution")
    if result.status == "feasible":
        assert result.gap is None or result.gap > 1e-6
        assert result.bound is None or result.bound < result.objective  # type: ignore[operator]


def test_cp_sat_at_its_time_limit_claims_no_proof() -> None:
    """As for the MILP."""
    result = constraint.solve(hard_problem(), Limits(time_limit_s=1.0))
    assert result.status in ("feasible", "no_solution")
    if result.status == "feasible":
        assert result.gap is not None
        assert result.gap > 1e-6


def test_a_cancelled_search_stops_before_its_next_step(instances: ModuleType) -> None:
    """Cancelled from the start: nothing is solved, and the reason says so."""
    problem = instances.random_problem(1, devices=(3, 3), layers=(5, 5), plain=True)
    for solve in (milp.solve, constraint.solve):
        result = solve(problem, Limits(cancel=lambda: True))
        assert result.status in ("no_solution", "infeasible")


def test_cp_sat_can_be_cancelled_while_it_runs() -> None:
    """Cancelled after 0.3 s of 60: it stops at once and claims no proof."""
    started = time.perf_counter()
    limits = Limits(time_limit_s=60.0, cancel=lambda: time.perf_counter() - started > 0.3)
    result = constraint.solve(hard_problem(), limits)
    assert time.perf_counter() - started < 10.0
    assert result.status in ("feasible", "no_solution")


def test_infeasible_is_not_taken_from_an_engine_unchecked(
    monkeypatch: pytest.MonkeyPatch, instances: ModuleType
) -> None:
    """An engine that wrongly says infeasible is not believed where memory and routes allow a plan."""
    monkeypatch.setattr(milp, "run_highs", lambda model, seconds: milp.EngineAnswer(None, math.inf, infeasible=True))
    result = milp.solve(instances.make_problem(np.ones((2, 3)), 10, 20), NO_LIMIT, engine="highs")
    assert result.status == "no_solution"
    assert "memory and routes allow a plan" in result.reasons[0]


def test_same_problem_same_answer(instances: ModuleType) -> None:
    """Two runs give the same plan and numbers."""
    problem = instances.random_problem(5005, devices=(4, 4), layers=(8, 8), plain=True)
    for solve in SOLVERS.values():
        first, second = solve(problem), solve(problem)
        assert (first.plan, first.objective, first.bound) == (second.plan, second.objective, second.bound)


def test_models_are_written(tmp_path: Path, instances: ModuleType) -> None:
    """LP and MPS of the MILP, protocol buffers of the CP model."""
    problem = instances.make_problem(np.ones((2, 3)), 10, 20, hop_latency_s=0.5)
    for suffix in (".lp", ".mps"):
        milp.write_model(problem, tmp_path / f"model{suffix}")
    text = (tmp_path / "model.lp").read_text()
    # Blocks of at most two layers on each of two devices, and hand-overs at cuts 1 and 2.
    for name in ("y_0_0_2", "y_1_2_3", "z_0_1_1", "z_1_0_2", "once_0"):
        assert name in text
    assert "y_0_0_3" not in text
    for suffix in (".pb", ".txt"):
        constraint.write_model(problem, tmp_path / f"model{suffix}")
        assert (tmp_path / f"model{suffix}").stat().st_size > 0


def test_a_written_lp_has_the_optimum_of_the_problem(tmp_path: Path, instances: ModuleType) -> None:
    """HiGHS on a model read back agrees: two stages cost 3 s and one hop of 0.5 s."""
    pulp = milp.import_pulp()
    problem = instances.make_problem(np.ones((2, 3)), 10, 20, hop_latency_s=0.5)
    milp.write_model(problem, tmp_path / "model.mps")
    _, model = pulp.LpProblem.fromMPS(str(tmp_path / "model.mps"))
    model.solve(milp._cbc(pulp, msg=False))
    # The scale: the fastest device alone 3 s, mean hop 0.5 s: 1000 / 3.5.
    assert pulp.value(model.objective) == pytest.approx(3.5 * 1000 / 3.5)


def test_models_that_cannot_be_written_are_refused(tmp_path: Path, instances: ModuleType) -> None:
    """Unknown suffix, missing folder, micro-batches that follow the stages."""
    problem = instances.make_problem(np.ones((2, 3)), 10, 20)
    for module, suffix in ((milp, ".lp"), (constraint, ".pb")):
        with pytest.raises(UsageError, match=r"ends in"):
            module.write_model(problem, tmp_path / "model.xyz")
        with pytest.raises(UsageError, match=r"cannot write"):
            module.write_model(problem, tmp_path / "nowhere" / f"model{suffix}")
        with pytest.raises(UnsupportedError, match=r"--micro-batches"):
            module.write_model(dataclasses.replace(problem, micro_batches="stages"), tmp_path / f"m{suffix}")


def test_what_is_not_supported_is_refused_with_the_mend(instances: ModuleType) -> None:
    """Fronts, kv-capacity, large problems; a missing price."""
    problem = instances.make_problem(np.ones((2, 3)), 10, 20)
    large = instances.make_problem(np.ones((64, 126)), 1, 20)
    for solve in (milp.solve, constraint.solve):
        with pytest.raises(UnsupportedError, match="front"):
            solve(dataclasses.replace(problem, front=True), NO_LIMIT)
        with pytest.raises(UnsupportedError, match="--solver auto"):
            solve(dataclasses.replace(problem, objective=Objective("kv-capacity")), NO_LIMIT)
        with pytest.raises(UnsupportedError, match="64 devices and 126 layers"):
            solve(large, NO_LIMIT)
        with pytest.raises(InputError, match="price_per_hour"):
            solve(dataclasses.replace(problem, objective=Objective("cost")), NO_LIMIT)


def test_cp_sat_refuses_a_process_with_highspy(monkeypatch: pytest.MonkeyPatch, instances: ModuleType) -> None:
    """The two libraries clash, so the refusal comes before OR-Tools is imported."""
    monkeypatch.setitem(sys.modules, "highspy", sys)
    with pytest.raises(SolverUnavailableError, match="highspy"):
        constraint.solve(instances.make_problem(np.ones((2, 3)), 10, 20), NO_LIMIT)


def test_missing_back_ends_name_what_to_install(monkeypatch: pytest.MonkeyPatch, instances: ModuleType) -> None:
    """Without PuLP or OR-Tools: an error with the install command."""
    problem = instances.make_problem(np.ones((2, 3)), 10, 20)
    monkeypatch.setitem(sys.modules, "pulp", None)
    monkeypatch.setitem(sys.modules, "ortools", None)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    for name in ("cbc", "cp-sat"):
        with pytest.raises(SolverUnavailableError, match="pip install"):
            SOLVERS[name](problem)


def test_availability_is_asked_without_importing() -> None:
    """In a fresh process: asking loads neither PuLP nor OR-Tools nor SciPy."""
    code = (
        "import sys; from gpuplan.solvers.placement import milp, constraint; milp.available(); constraint.available();"
        "print([m for m in ('pulp', 'ortools', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_logged_bound_of_cbc_is_rounded_to_the_safe_side() -> None:
    """CBC prints three digits; the bound taken is below what it printed."""
    assert milp._logged_bound("Result - Stopped on time limit\nLower bound:       12.346\n") == pytest.approx(12.3455)
    assert milp._logged_bound("nothing") == -math.inf
