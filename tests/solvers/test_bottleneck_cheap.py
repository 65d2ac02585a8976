"""The least bottleneck before its kernels are compiled: valid bounds, plans that hold, an answer within the limit."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, Objective
from gpuplan.solvers import compiling, solve
from gpuplan.solvers.compiling import KernelSet
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import bottleneck_compiling
from gpuplan.solvers.placement.bottleneck_cheap import CheapCaps, path_value
from gpuplan.solvers.placement.bottleneck_compiling import CAPS
from gpuplan.solvers.placement.core import Query, make_core
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate
from gpuplan.solvers.placement.tables import class_tables

#: Caps tried, as multiples of the optimum.
FACTORS = (0.3, 0.7, 0.9, 0.99, 1.0 - 1e-8, 1.0, 1.01, 1.5)


def _cases(instances: ModuleType, exact_checks: ModuleType) -> list[DensePlacement]:
    problems = [instances.random_problem(seed + 4000) for seed in range(250)]
    return problems + [exact_checks.twin_hosts(seed + 700) for seed in range(60)]


def test_what_fits_within_a_cap_refutes_none_that_has_a_plan(
    brute_force: ModuleType, instances: ModuleType, exact_checks: ModuleType
) -> None:
    """Bounds by NumPy stay at or below the optimum at every step, and no cap with a plan is called impossible."""
    refuted = plans = possible = 0
    for problem in _cases(instances, exact_checks):
        if problem.micro_batches == "stages":
            continue
        every = brute_force.enumerate_plans(problem)
        several = every.bottleneck_s[every.devices >= 2]
        least = float(several.min()) if len(several) else math.inf
        tables = class_tables(problem)
        core = make_core(tables, Query(bottleneck=True), problem.micro_batches)
        if core.max_stages < 2:
            continue
        cheap = CheapCaps(core)
        for factor in FACTORS if math.isfinite(least) else ():
            if cheap.impossible(factor * least):
                assert factor < 1.0, (problem.name, factor)
                refuted += 1
        for _ in range(60):
            more = cheap.step()
            assert cheap.lower <= least, problem.name
            if not more:
                break
        cheap.fill(Budget(Limits()))
        possible += math.isfinite(least)
        if cheap.path is not None:
            plans += 1
            stages = tables.to_stages(cheap.path)
            assert broken_rule(problem, stages) is None, problem.name
            assert evaluate(problem, stages).bottleneck_s == pytest.approx(cheap.value, rel=1e-12)
            assert path_value(core, cheap.path) == cheap.value
            assert cheap.value >= least * (1.0 - 1e-12)
    assert refuted > 300
    assert plans > 0.8 * possible


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the kernels as after an installation: not compiled, and a compiler that takes a minute."""
    fresh = KernelSet("bottleneck", CAPS.dispatchers, CAPS.exercise)
    monkeypatch.setattr(fresh, "compiled", lambda: False)
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(bottleneck_compiling, "CAPS", fresh)


@pytest.mark.usefixtures("slow_compiler")
@pytest.mark.parametrize("return_hop", [False, True])
def test_a_first_call_answers_with_plan_and_bound_within_its_limit(instances: ModuleType, return_hop: bool) -> None:
    """Forty unlike devices and 60 layers in a quarter of a second, nothing compiled: a plan, a bound, a note."""
    rng = np.random.default_rng(8)
    layer, speed = rng.uniform(0.5, 1.5, 60), rng.uniform(0.4, 2.0, 40)
    problem = instances.make_problem(
        np.outer(speed, layer),
        np.round(1000 * layer),
        rng.integers(2500, 9000, 40).astype(float),
        hop_latency_s=rng.uniform(0.05, 0.6, (40, 40)),
        hop_s_per_byte=rng.uniform(0.0, 0.02, (40, 40)),
        boundary_bytes=8.0,
        return_hop=return_hop,
        objective=Objective("bottleneck"),
    )
    result = solve(problem, time_limit_s=0.25)
    assert result.status == "feasible"
    assert broken_rule(problem, result.require_plan().stages) is None
    assert isinstance(result.bound, float)
    assert 0.0 < result.bound <= result.objective  # type: ignore[operator]
    assert any("kernels were not ready" in note for note in result.report.notes)


def test_the_set_names_every_kernel_that_a_search_compiles() -> None:
    """After the exercise each kernel of the set is there, so that no search compiles by itself."""
    CAPS.compile_now()
    assert CAPS.loaded()
    assert all(kernel.overloads for kernel in CAPS.dispatchers())
