"""The calls `solve` and `pareto`, the registry, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from gpuplan import PlacementProblem, Workload, load_model, load_topology, verify
from gpuplan.errors import InputError, UnsupportedError, UsageError
from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.plans.placement_solution import PlacementFront
from gpuplan.solvers import find_solver, list_solvers, pareto, solve
from gpuplan.solvers.placement.classes import exchangeable_classes


@pytest.fixture(scope="module")
def llama() -> PlacementProblem:
    """Llama-3.1-70B on eight A100s of 80 GB."""
    return PlacementProblem(load_model("llama-3.1-70b"), load_topology("dgx-a100"), workload=Workload(1, 512, 64))


@pytest.mark.parametrize("objective", ["latency", "throughput", "efficiency", "balanced", "kv-capacity"])
def test_every_objective_gives_a_verified_device_map(llama: PlacementProblem, objective: str) -> None:
    """The verifier, which shares no code with the solver, accepts the map with its certificate."""
    result = solve(llama.replace(objective=objective))
    assert result.status == "optimal"
    assert verify(result.require_plan()).ok


def test_throughput_carries_latency_as_second_key(llama: PlacementProblem) -> None:
    """A `PlacementProblem` gets the pair (bottleneck, latency), the dense problem the number alone."""
    problem = llama.replace(objective="throughput")
    result = solve(problem)
    plan = result.require_plan()
    assert result.objective == pytest.approx((plan.metrics.bottleneck_s, plan.metrics.latency_s), rel=1e-9)
    assert solve(problem.dense()).objective == pytest.approx(plan.metrics.bottleneck_s, rel=1e-9)


def test_device_map_warm_starts_its_own_problem(llama: PlacementProblem) -> None:
    """A map given as a start is accepted and not worsened."""
    plan = solve(llama).require_plan()
    again = solve(llama, solver="labels", warm_start=plan)
    assert again.objective == pytest.approx(plan.metrics.latency_s, rel=1e-9)


def test_front_of_a_real_machine(llama: PlacementProblem) -> None:
    """Eight alike devices: points by rising latency; a problem that asks for the front gets it from `solve`, too."""
    result = pareto(llama)
    assert result.status == "optimal"
    latencies = [point.latency_s for point in result.require_plan().points]
    assert latencies == sorted(latencies)
    same = solve(replace(llama.dense(), front=True))
    assert isinstance(same.plan, PlacementFront)
    assert same.plan == result.plan


def test_dense_solutions_pass_the_verifier(exact_checks: ModuleType, instances: ModuleType) -> None:
    """Every objective and the front of some random problems, as solution documents."""
    for problem in instances.random_problems(15, first_seed=9500):
        for name in exact_checks.objectives(problem):
            asked = exact_checks.under(problem, name)
            result = solve(asked)
            if result.plan is None:
                continue  # infeasible: the oracle's tests hold that
            assert verify_solution(solution_to_dict(result, asked), asked).ok, (problem.name, name)
        asked = replace(problem, front=True)
        result = solve(asked)
        if result.plan is not None:
            assert verify_solution(solution_to_dict(result, asked), asked).ok, problem.name


def test_registry_names_every_solver_once() -> None:
    """Names are unique, and the exact engines, the baselines and auto are there."""
    names = [entry.name for entry in list_solvers()]
    assert len(set(names)) == len(names)
    assert {"auto", "dp", "labels", "beam", "even", "memory", "published"} <= set(names)
    assert find_solver("even").kind == "baseline"


def test_unknown_solver_is_refused_with_the_closest_name() -> None:
    """A typo is answered with the name meant."""
    with pytest.raises(UsageError, match="did you mean labels"):
        find_solver("label")


def test_baseline_refuses_a_front(llama: PlacementProblem) -> None:
    """A rule gives one plan."""
    with pytest.raises(UnsupportedError, match="front"):
        pareto(llama, solver="even")


@pytest.mark.parametrize(("option", "value"), [("time_limit_s", 0.0), ("work_limit", 0), ("threads", 0)])
def test_limits_out_of_range_are_refused(instances: ModuleType, option: str, value: float) -> None:
    """Each names what was expected."""
    with pytest.raises(UsageError, match="expected"):
        solve(instances.make_problem(np.ones((2, 2)), 1, 5), **{option: value})


def test_kv_capacity_without_kv_is_refused(instances: ModuleType, exact_checks: ModuleType) -> None:
    """Nothing to maximise."""
    problem = exact_checks.under(instances.make_problem(np.ones((2, 2)), 1, 5), "kv-capacity")
    with pytest.raises(InputError, match="kv_bytes_per_token"):
        solve(problem)


def test_cost_without_a_price_is_refused(instances: ModuleType, exact_checks: ModuleType) -> None:
    """The device is named."""
    problem = exact_checks.under(instances.make_problem(np.ones((2, 2)), 1, 5, price_per_hour=[1.0, np.nan]), "cost")
    with pytest.raises(InputError, match="price_per_hour"):
        solve(problem)


def test_balanced_refuses_a_latency_of_zero(instances: ModuleType, exact_checks: ModuleType) -> None:
    """Its unit would be 0."""
    problem = exact_checks.under(instances.make_problem(np.zeros((2, 2)), 1, 5), "balanced")
    with pytest.raises(InputError, match="latency"):
        solve(problem)


def test_infeasible_says_why(instances: ModuleType) -> None:
    """Three layers of 10 bytes on two devices of 14: proven, with a reason."""
    result = solve(instances.make_problem(np.ones((2, 3)), 10, 14))
    assert result.status == "infeasible"
    assert result.reasons


def test_equal_devices_form_one_class(instances: ModuleType) -> None:
    """Equal numbers are one class; a link of its own, or a price where it matters, makes two."""
    problem = instances.make_problem(np.ones((4, 3)), 10, 20, hop_latency_s=1.0, price_per_hour=[1.0, 1.0, 1.0, 2.0])
    assert exchangeable_classes(problem) == ((0, 1, 2, 3),)
    assert exchangeable_classes(problem, with_price=True) == ((0, 1, 2), (3,))
    table = np.ones((4, 4))
    table[0, 1] = table[1, 0] = 0.5
    linked = instances.make_problem(np.ones((4, 3)), 10, 20, hop_latency_s=table)
    assert exchangeable_classes(linked) == ((0, 1), (2, 3))


def test_small_problems_compile_nothing() -> None:
    """Mapping on one host of eight loads no Numba, so the first run after installation is as fast as any."""
    script = (
        "import sys\n"
        "from gpuplan import PlacementProblem, load_model, load_topology, solve\n"
        "for cluster in ('dgx-a100', 'dgx-1-v100'):\n"
        "    for objective in ('latency', 'throughput', 'kv-capacity'):\n"
        "        model, machine = load_model('llama-3.1-8b'), load_topology(cluster)\n"
        "        assert solve(PlacementProblem(model, machine, objective=objective)).status == 'optimal'\n"
        "print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
