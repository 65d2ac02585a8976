"""The first call after installation: a plan and a valid bound within the limit, whatever is compiled by then."""

from __future__ import annotations

import math
import time
from types import ModuleType

import pytest

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import compiling, large, small
from gpuplan.solvers.placement.cheap import Cheap
from gpuplan.solvers.placement.core import Query, make_core
from gpuplan.solvers.placement.tables import class_tables


def test_cheap_bounds_and_plans_are_valid(instances: ModuleType) -> None:
    """After any number of steps the bound is at most the optimum, and the plan holds and is worth what is said."""
    plans = possible = 0
    for seed in range(300):
        problem: DensePlacement = instances.random_problem(seed)
        if problem.micro_batches == "stages":
            continue
        tables = class_tables(problem)
        entry = tuple(0.01 * k for k in range(tables.num_classes)) if seed % 3 == 0 else None
        core = make_core(tables, Query(entry=entry), problem.micro_batches)
        if core.max_stages < 2:
            continue
        optimum = small.minimise(core, math.inf, Budget(Limits(None)))
        cheap = Cheap(core, math.inf, Budget(Limits(None)))
        for _ in range(1 + seed % 12):
            if not cheap.step():
                break
        outcome = cheap.outcome()
        possible += optimum.path is not None
        plans += outcome.path is not None
        assert outcome.bound <= optimum.value * (1 + 1e-9) + 1e-12
        if outcome.path is not None:
            assert core.holds(outcome.path)
            assert outcome.value == core.value(outcome.path)
        assert not (outcome.proven and optimum.path is not None)
    assert plans > 0.9 * possible


def test_a_call_without_kernels_answers_within_its_limit(
    instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels that never come, a plan with a bound and a note says so; the child is ended."""
    monkeypatch.setattr(large, "kernels_ready", lambda budget: False)
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "import time; time.sleep(60)"))
    problem: DensePlacement = instances.random_problem(1)
    result = solve(problem, solver="labels", time_limit_s=0.5)
    assert result.report.wall_time_s < 5.0
    assert any("not compiled in time" in note for note in result.report.notes) or result.status != "feasible"
    assert result.plan is None or result.bound is not None


def test_compiling_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that takes too long is ended; steps beside it are made at least once."""
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "import time; time.sleep(60)"))
    steps: list[int] = []

    def step() -> bool:
        steps.append(1)
        return False

    started = time.perf_counter()
    assert not compiling.compile_beside(Budget(Limits(0.3)), step)
    assert steps == [1]
    assert time.perf_counter() - started < 30.0


def test_compiling_ahead_makes_the_kernels_ready() -> None:
    """What compiles ahead covers every kernel that is asked for."""
    compiling.compile_now()
    assert compiling.compiled()
    assert compiling.kernels_ready(Budget(Limits(0.1)))
