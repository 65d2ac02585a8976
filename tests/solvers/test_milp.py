"""The generic cross-checks `milp-blocks`, `milp-layers` (HiGHS and CBC), `cp-sat`, `dp-naive`, against brute force."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import InputError, SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement, Objective
from gpuplan.solvers.external import cbc
from gpuplan.solvers.external.linear import LinearAnswer
from gpuplan.solvers.external.pulp_models import import_pulp
from gpuplan.solvers.external.worker import Reply, kept_workers
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.placement import constraint, dp_naive, goals, holders, linear_forms, milp, milp_layers
from gpuplan.solvers.placement.dense import solve_dense
from gpuplan.solvers.result import Result

Solve = Callable[[DensePlacement], Result[PlacementSolution]]
NO_LIMIT = Limits(time_limit_s=None)

SOLVERS: dict[str, Solve] = {
    "highs": lambda problem: milp.solve(problem, NO_LIMIT),
    "cbc": lambda problem: milp.solve(problem, NO_LIMIT, engine="cbc"),
    "layers": lambda problem: milp_layers.solve(problem, NO_LIMIT),
    "layers-cbc": lambda problem: milp_layers.solve(problem, NO_LIMIT, engine="cbc"),
    "cp-sat": lambda problem: constraint.solve(problem, NO_LIMIT),
    "positions": lambda problem: constraint.solve(problem, NO_LIMIT, form="positions"),
    "dp-naive": lambda problem: dp_naive.solve(problem, NO_LIMIT),
}


@pytest.fixture(scope="module", autouse=True)
def _shared_processes() -> Iterator[None]:
    """Let all tests here share one process for each library: starting one takes half a second."""
    with kept_workers():
        yield


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


LATENCY_COUNTS = {
    "highs": 150,
    "cbc": 30,
    "layers": 60,
    "layers-cbc": 15,
    "cp-sat": 60,
    "positions": 30,
    "dp-naive": 150,
}
OTHER_COUNTS = {"highs": 40, "cbc": 8, "layers": 15, "layers-cbc": 5, "cp-sat": 20, "positions": 8, "dp-naive": 60}


@pytest.mark.parametrize(("name", "count"), LATENCY_COUNTS.items())
def test_latency_equals_brute_force(name: str, count: int, brute_force: ModuleType, instances: ModuleType) -> None:
    """Random problems with everything the format has: same optimum to 1e-6, or proven infeasible."""
    feasible = [
        check(SOLVERS[name](problem), problem, brute_force)
        for problem in instances.random_problems(count, first_seed=5000, devices=(2, 4), layers=(4, 7))
    ]
    assert sum(feasible) > count / 2


@pytest.mark.parametrize(("name", "count"), OTHER_COUNTS.items())
@pytest.mark.parametrize("objective", ["bottleneck", "efficiency", "cost", "balanced"])
def test_other_objectives_equal_brute_force(
    name: str, count: int, objective: str, brute_force: ModuleType, instances: ModuleType
) -> None:
    """Every supported objective, second keys included."""
    feasible = [
        check(SOLVERS[name](problem), problem, brute_force)
        for problem in instances.random_problems(
            count, first_seed=6000, devices=(2, 4), layers=(4, 6), objective=objective
        )
    ]
    assert sum(feasible) > count / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", LATENCY_COUNTS)
@pytest.mark.parametrize("objective", ["latency", "bottleneck", "efficiency", "cost", "balanced"])
def test_more_problems_equal_brute_force(
    name: str, objective: str, brute_force: ModuleType, instances: ModuleType
) -> None:
    """As above on larger problems; a thousand small ones of every method are in `test_agreement`."""
    feasible = [
        check(SOLVERS[name](problem), problem, brute_force)
        for problem in instances.random_problems(
            LATENCY_COUNTS[name] // 4, first_seed=7000, devices=(2, 5), layers=(4, 8), objective=objective
        )
    ]
    assert sum(feasible) > len(feasible) / 2


SECOND: dict[str, Solve] = {
    "highs": lambda problem: milp.solve(problem, NO_LIMIT, latency_second=True),
    "cbc": lambda problem: milp.solve(problem, NO_LIMIT, engine="cbc", latency_second=True),
    "layers": lambda problem: milp_layers.solve(problem, NO_LIMIT, latency_second=True),
    "cp-sat": lambda problem: constraint.solve(problem, NO_LIMIT, latency_second=True),
    "dp-naive": lambda problem: dp_naive.solve(problem, NO_LIMIT, latency_second=True),
}


@pytest.mark.parametrize(("name", "count"), {"highs": 20, "cbc": 8, "layers": 8, "cp-sat": 12, "dp-naive": 60}.items())
def test_throughput_equals_brute_force(name: str, count: int, brute_force: ModuleType, instances: ModuleType) -> None:
    """The least bottleneck, then the least latency of all plans with it: both keys proven."""
    feasible = 0
    for problem in instances.random_problems(
        count, first_seed=6500, devices=(2, 4), layers=(4, 6), objective="bottleneck"
    ):
        expected = brute_force.optimum(problem, "throughput", brute_force.enumerate_plans(problem))
        result = SECOND[name](problem)
        if expected is None:
            assert result.status == "infeasible", problem.name
            continue
        feasible += 1
        assert result.status == "optimal", problem.name
        assert result.objective == pytest.approx(expected, rel=1e-6), problem.name
        assert result.bound == pytest.approx(expected, rel=1e-6), problem.name
    assert feasible >= count / 3


@pytest.mark.parametrize("objective", ["latency", "bottleneck", "efficiency", "cost", "balanced"])
def test_the_textbook_programme_equals_the_exact_solver(objective: str, instances: ModuleType) -> None:
    """`dp-naive` and the exact engine agree to 1e-9, proofs of infeasibility included."""
    for problem in instances.random_problems(60, first_seed=8000, devices=(2, 6), layers=(4, 9), objective=objective):
        naive, exact = dp_naive.solve(problem, NO_LIMIT), solve_dense(problem, NO_LIMIT)
        assert naive.status == exact.status, problem.name
        assert naive.status in ("optimal", "infeasible")
        if naive.objective is not None:
            assert naive.objective == pytest.approx(exact.objective, rel=1e-9), problem.name


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


def hard_problem_with_a_plan() -> tuple[DensePlacement, PlacementSolution]:
    """Make the hard problem's memory from a plan: every device holds its piece of the layers and 15 % more."""
    problem = hard_problem()
    cuts = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30]
    stages = tuple(StageRange(d, cuts[d], cuts[d + 1]) for d in range(12))
    room = np.array([1.15 * problem.memory_bytes[s.start : s.stop].sum() for s in stages])
    return dataclasses.replace(problem, available_bytes=room), PlacementSolution(stages)


@pytest.mark.parametrize("engine", ["highs", "cbc"])
@pytest.mark.parametrize("form", [milp, milp_layers])
def test_milp_at_its_time_limit_claims_no_proof(form: ModuleType, engine: str) -> None:
    """Stopped early the answer is feasible with an honest gap, or no solution; never "optimal"."""
    result = form.solve(hard_problem(), Limits(time_limit_s=2.0), engine=engine)
    assert result.status in ("feasible", "no_solution")
    assert "stopped early" in result.report.proof
    assert result.report.failure is None
    if result.status == "feasible":
        assert result.gap is None or result.gap > 1e-6
        assert result.bound is None or result.bound < result.objective


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
    for solve in (milp.solve, milp_layers.solve, constraint.solve):
        result = solve(problem, Limits(cancel=lambda: True))
        assert result.status in ("no_solution", "infeasible")


@pytest.mark.parametrize("name", ["highs", "cbc", "cp-sat", "dp-naive"])
def test_a_running_search_can_be_cancelled(name: str) -> None:
    """Cancelled after half a second of 60 it ends, and claims no proof."""
    started = time.perf_counter()
    limits = Limits(time_limit_s=60.0, cancel=lambda: time.perf_counter() - started > 0.5)
    solve = {
        "highs": milp.solve,
        "cbc": lambda problem, limits: milp.solve(problem, limits, engine="cbc"),
        "cp-sat": constraint.solve,
        "dp-naive": dp_naive.solve,
    }[name]
    result = solve(hard_problem(), limits)
    assert result.report.wall_time_s < 30.0  # by far not the 60 s
    assert result.status in ("feasible", "no_solution")


@pytest.mark.parametrize("name", ["highs", "cbc", "layers", "cp-sat", "dp-naive"])
def test_a_warm_start_is_never_left_for_a_worse_plan(name: str) -> None:
    """With no time to speak of the plan given comes back, without a proof."""
    problem, start = hard_problem_with_a_plan()
    given = goals.goal_value(holders.device_holders(problem), goals.BOTTLENECK, start.stages)
    limits = Limits(time_limit_s=0.3)
    solve = {"highs": milp, "cbc": milp, "layers": milp_layers, "cp-sat": constraint, "dp-naive": dp_naive}[name].solve
    result = solve(problem, limits, warm_start=start, **({"engine": "cbc"} if name == "cbc" else {}))
    assert result.status == "feasible"
    assert isinstance(result.objective, float)
    assert result.objective <= given * (1 + 1e-12)


@pytest.mark.parametrize("name", ["latency", "bottleneck", "efficiency", "cost", "balanced"])
def test_warm_starts_change_no_optimum(name: str, instances: ModuleType) -> None:
    """From the optimum or from a poor plan, the optimum is the same; a pair's second step starts from the first's."""
    for problem in instances.random_problems(
        4, first_seed=8500, devices=(3, 4), layers=(5, 6), objective=name, plain=True
    ):
        best = solve_dense(problem, NO_LIMIT)
        if best.plan is None:
            continue
        for solve in (milp.solve, milp_layers.solve, constraint.solve, dp_naive.solve):
            again = solve(problem, NO_LIMIT, warm_start=best.plan)
            assert again.status == "optimal"
            assert again.objective == pytest.approx(best.objective, rel=1e-6)


def test_a_start_fills_every_variable_of_its_model(instances: ModuleType) -> None:
    """The point made of a plan keeps to all rows and costs what the plan is worth, in both forms."""
    checked = 0
    for objective in ("latency", "bottleneck", "efficiency", "cost"):
        for problem in instances.random_problems(12, first_seed=8600, devices=(2, 4), objective=objective):
            best = solve_dense(problem, NO_LIMIT).plan
            if best is None or problem.micro_batches == "stages":
                continue
            goal, blocks = goals.first_goal(problem), holders.make_blocks(holders.device_holders(problem))
            for form in (milp.BlockForm, milp_layers.LayerForm):
                model = form(blocks, goal, None)
                x = model.start(best.stages)
                assert x is not None, (problem.name, form)
                value = goals.goal_value(holders.device_holders(problem), goal, best.stages)
                assert model.linear.value(x) / model.scale == pytest.approx(value, rel=1e-9)
                assert model.stages(x.tolist()) == best.stages
                checked += 1
    assert checked > 40


def test_a_start_that_is_no_plan_is_refused(instances: ModuleType) -> None:
    """A device used twice is named, by every method."""
    problem = instances.make_problem(np.ones((2, 3)), 1, 20)
    start = PlacementSolution((StageRange(0, 0, 1), StageRange(0, 1, 3)))
    for solve in (milp.solve, milp_layers.solve, constraint.solve, dp_naive.solve):
        with pytest.raises(UsageError, match="device is used twice"):
            solve(problem, NO_LIMIT, warm_start=start)


def test_infeasible_is_not_taken_from_an_engine_unchecked(
    monkeypatch: pytest.MonkeyPatch, instances: ModuleType
) -> None:
    """An engine that wrongly says infeasible is not believed where memory and routes allow a plan."""
    wrong = LinearAnswer("infeasible", None, math.inf)
    monkeypatch.setattr(linear_forms, "solve_isolated", lambda *model, **limits: wrong)
    problem = instances.make_problem(np.ones((2, 3)), 10, 20)
    result = milp.solve(problem, NO_LIMIT)
    assert result.status == "no_solution"
    assert "memory and routes allow a plan" in result.reasons[0]
    start = PlacementSolution((StageRange(0, 0, 2), StageRange(1, 2, 3)))
    result = milp.solve(problem, NO_LIMIT, warm_start=start)
    assert (result.status, result.plan, result.bound) == ("feasible", start, None)
    assert result.report.failure == "the engine says infeasible where a plan was given"


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
    """CBC on a model read back agrees: two stages cost 3 s and one hop of 0.5 s."""
    pulp = import_pulp()
    problem = instances.make_problem(np.ones((2, 3)), 10, 20, hop_latency_s=0.5)
    milp.write_model(problem, tmp_path / "model.mps")
    _, model = pulp.LpProblem.fromMPS(str(tmp_path / "model.mps"))
    model.solve(pulp.COIN_CMD(path=cbc.program(), msg=False))
    assert pulp.value(model.objective) == pytest.approx(3.5)  # in seconds, not in the units the engines are given


def test_a_written_cp_model_counts_in_seconds(tmp_path: Path, instances: ModuleType) -> None:
    """What its whole numbers are multiplied by is one over what seconds were."""
    problem = instances.make_problem(np.full((1, 1), 6.0), 10, 20)
    constraint.write_model(problem, tmp_path / "model.txt")
    text = (tmp_path / "model.txt").read_text()
    numbers = dict(re.findall(r"(scaling_factor|coeffs): \[?([0-9.e+-]+)", text.split("objective", 1)[1]))
    assert float(numbers["coeffs"]) * float(numbers["scaling_factor"]) == pytest.approx(6.0)


def test_a_device_with_room_for_the_whole_model_alone_may_stay_unused(instances: ModuleType) -> None:
    """Workspace leaves −1 byte on the second device, a single stage saves 1: nothing forces it to hold all."""
    problem = dataclasses.replace(
        instances.make_problem(np.array([[1.0, 1.0], [2.0, 2.0]]), 0, 1),
        available_bytes=np.array([2.0, 1.0]),
        fixed_bytes=2.0,
        single_stage_saving_bytes=1.0,
    )
    for name in ("highs", "layers", "layers-cbc", "cp-sat", "positions", "dp-naive"):
        result = SOLVERS[name](problem)
        assert (name, result.status, result.objective) == (name, "optimal", pytest.approx(2.0))


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
    for solve in (milp.solve, milp_layers.solve, constraint.solve, dp_naive.solve):
        with pytest.raises(UnsupportedError, match="front"):
            solve(dataclasses.replace(problem, front=True), NO_LIMIT)
        with pytest.raises(UnsupportedError, match="--solver auto"):
            solve(dataclasses.replace(problem, objective=Objective("kv-capacity")), NO_LIMIT)
        with pytest.raises(UnsupportedError, match=r"64 devices and 126 layers|up to 12 devices"):
            solve(large, NO_LIMIT)
        with pytest.raises(InputError, match="price_per_hour"):
            solve(dataclasses.replace(problem, objective=Objective("cost")), NO_LIMIT)


def test_libraries_that_may_clash_are_never_loaded_here() -> None:
    """In a fresh process that ran HiGHS, CBC and CP-SAT, neither OR-Tools nor any HiGHS is loaded."""
    code = (
        "import sys, numpy as np; from gpuplan.solvers.placement import milp, constraint;"
        "from gpuplan.solvers.limits import Limits; from gpuplan.profiles.problems.placement import *;"
        "hop = HopTable(np.zeros((2, 2)), np.zeros((2, 2))); t = Timing(np.ones((2, 3)), hop, np.zeros(3));"
        "p = DensePlacement(('a', 'b'), ('x', 'y', 'z'), np.full(2, 2.0), np.ones(2), np.ones(3), np.zeros(3), t, t);"
        "print([milp.solve(p, Limits()).status, milp.solve(p, Limits(), engine='cbc').status,"
        " constraint.solve(p, Limits()).status]);"
        "print([m for m in sys.modules if m.partition('.')[0] in ('ortools', 'highspy', 'pulp') or '_highs' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['optimal', 'optimal', 'optimal']", "[]"]


def test_cp_sat_refuses_a_process_with_highspy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two libraries clash, so the refusal comes before OR-Tools is imported."""
    monkeypatch.setitem(sys.modules, "highspy", sys)
    with pytest.raises(SolverUnavailableError, match="highspy"):
        constraint.import_cp_model()


def test_missing_back_ends_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch, instances: ModuleType, tmp_path: Path
) -> None:
    """Without PuLP or OR-Tools: an error with the install command; found out in the child, it is an error here."""
    monkeypatch.setitem(sys.modules, "pulp", None)
    with pytest.raises(SolverUnavailableError, match="pip install pulp"):
        import_pulp()
    monkeypatch.setattr(constraint, "available", lambda: False)
    with pytest.raises(SolverUnavailableError, match="pip install ortools"):
        SOLVERS["cp-sat"](instances.make_problem(np.ones((2, 3)), 10, 20))
    reply = Reply("failed", note="CBC is not installed; run pip install pulp", kind="SolverUnavailableError")
    monkeypatch.setattr("gpuplan.solvers.external.worker.Worker.run", lambda self, *task, **limits: reply)
    with pytest.raises(SolverUnavailableError, match="pip install pulp"):
        SOLVERS["cbc"](instances.make_problem(np.ones((2, 3)), 10, 20))
    monkeypatch.setattr(constraint, "available", lambda: True)
    with pytest.raises(SolverUnavailableError, match="pip install pulp"):  # the reply's own words
        constraint.write_model(instances.make_problem(np.ones((2, 3)), 10, 20), tmp_path / "model.pb")


def test_availability_is_asked_without_importing() -> None:
    """In a fresh process: asking loads neither PuLP nor OR-Tools nor SciPy."""
    code = (
        "import sys; from gpuplan.solvers.placement import linear_forms, constraint; linear_forms.available('cbc');"
        "constraint.available(); print([m for m in ('pulp', 'ortools', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("solve", [milp.solve, milp_layers.solve, constraint.solve, dp_naive.solve])
def test_a_memory_limit_refuses_before_anything_is_built(solve: Callable[..., object], instances: ModuleType) -> None:
    """By an estimate from devices and layers alone; with enough it runs."""
    problem = instances.make_problem(np.ones((4, 12)), 1, 20)
    with pytest.raises(UnsupportedError, match=r"would take about .* of memory and --memory-limit is 1.0 KiB"):
        solve(problem, Limits(memory_limit_bytes=1024))
    result = solve(problem, Limits(memory_limit_bytes=8 << 30))
    assert isinstance(result, Result)
    assert result.status == "optimal"
