"""The first call after installation: a plan and a valid bound within the limit, whatever is compiled by then."""

from __future__ import annotations

import importlib
import importlib.util
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers import compiling, solve
from gpuplan.solvers.compiling import KernelSet
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import cheap as cheap_module
from gpuplan.solvers.placement import large, small
from gpuplan.solvers.placement.cheap import Cheap, last_resort
from gpuplan.solvers.placement.compiling import LARGE, answer_meanwhile
from gpuplan.solvers.placement.core import CoreOutcome, Query, make_core
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.evaluate import broken_rule
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


def test_rules_find_plans_whatever_the_time(instances: ModuleType) -> None:
    """With no time at all: plans of rules hold, and no bound is above the optimum, a better one that was known kept."""
    spent = Budget(Limits(1e-9))
    found = possible = 0
    for seed in range(200):
        problem: DensePlacement = instances.random_problem(seed)
        if problem.micro_batches == "stages":
            continue
        core = make_core(class_tables(problem), Query(), problem.micro_batches)
        if core.max_stages < 2:
            continue
        optimum = small.minimise(core, math.inf, Budget(Limits(None)))
        known = 0.9 * optimum.value if optimum.path is not None else 1.0
        outcome = last_resort(core, CoreOutcome(math.inf, None, known, False), spent)
        possible += optimum.path is not None
        found += outcome.path is not None
        assert outcome.bound <= optimum.value * (1 + 1e-9)
        assert outcome.bound >= min(known, outcome.value)
        if outcome.path is not None:
            assert core.holds(outcome.path)
            assert outcome.value == core.value(outcome.path)
            assert outcome.value >= optimum.value * (1 - 1e-9)
    assert found > 0.8 * possible


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> KernelSet:
    """Give the large engine's kernels as after an installation: not compiled, and a compiler that takes a minute."""
    fresh = KernelSet("placement", LARGE.dispatchers, LARGE.exercise)
    monkeypatch.setattr(fresh, "compiled", lambda: False)
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(large, "LARGE", fresh)
    monkeypatch.setattr("gpuplan.solvers.placement.compiling.LARGE", fresh)
    return fresh


@pytest.mark.parametrize("limit_s", [0.1, 0.5])
def test_a_call_without_kernels_answers_within_its_limit(
    clusters: ModuleType, slow_compiler: KernelSet, limit_s: float
) -> None:
    """With kernels that never come, a plan with a bound and a note says so."""
    problem = clusters.cluster(32, 80, 1, "hetero", 0.5)
    result = solve(problem, solver="labels", time_limit_s=limit_s)
    assert result.report.wall_time_s < 5.0
    assert result.status == "feasible"
    assert 0.0 < result.bound <= result.objective
    assert result.report.notes[0].startswith("the kernels were not ready in time")
    assert broken_rule(problem, result.require_plan().stages) is None


def test_what_is_done_while_kernels_come_counts_for_no_work_limit(
    instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices are filled up meanwhile, label by label; then the search has the whole of its one label of work."""
    core = make_core(class_tables(instances.random_problem(5)), Query(), 1)
    coming = KernelSet("placement", LARGE.dispatchers, LARGE.exercise)
    steps: list[bool] = []

    def prepare(budget: Budget, meanwhile: Callable[[], bool]) -> bool:
        steps.append(meanwhile())
        return True

    monkeypatch.setattr(cheap_module, "MOST_WORK", 0)
    monkeypatch.setattr(coming, "prepare", prepare)
    budget = Budget(Limits(None, work_limit=1))
    assert answer_meanwhile(coming, core, math.inf, budget, Settings()) is None
    assert steps == [False]  # filled up, and nothing more to do
    assert budget.work == 0
    assert not budget.exhausted()


def test_waiting_ends_at_the_limit_and_with_it_the_compiler(slow_compiler: KernelSet) -> None:
    """A compiler that takes too long is ended when nobody waits any more; steps are made meanwhile."""
    steps: list[int] = []

    def step() -> bool:
        steps.append(1)
        return False

    assert not slow_compiler.prepare(Budget(Limits(0.3)), step)
    assert steps == [1]
    assert not slow_compiler.loaded()
    thread = slow_compiler._preparation
    assert thread is not None
    thread.join(30.0)
    assert not thread.is_alive()


def test_a_preparation_that_gave_up_is_waited_for_by_nobody(slow_compiler: KernelSet) -> None:
    """Once nobody waits it is on its way out; who comes then gets one of its own, and with it the whole of its time."""
    with slow_compiler._waiting() as first:
        pass
    first.join(10.0)
    assert first.given_up
    assert not first.over
    late = compiling._Preparation(slow_compiler)
    late.given_up = True
    late.is_alive = lambda: True  # type: ignore[method-assign]
    slow_compiler._preparation = late
    with slow_compiler._waiting() as second:
        assert second is not late
        assert second.is_alive()
    second.join(10.0)


def test_waiting_ends_when_the_caller_asks(slow_compiler: KernelSet) -> None:
    """Without a time limit a cancel ends it."""
    started = time.perf_counter()
    assert not slow_compiler.prepare(Budget(Limits(None, cancel=lambda: time.perf_counter() - started > 0.2)))


def test_kernels_that_no_process_compiles_are_compiled_here(
    slow_compiler: KernelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiling process that fails at once leaves the work to this one."""
    monkeypatch.setattr(compiling, "COMMAND", ("-c", "raise SystemExit(1)"))
    assert slow_compiler.prepare(Budget(Limits(None)))
    assert slow_compiler.loaded()


def test_what_breaks_while_loading_shows_where_kernels_are_used() -> None:
    """An error of the kernels does not get lost in the thread that loads them: the search goes on and meets it."""

    def broken() -> Iterator[None]:
        raise RuntimeError("no such library")
        yield

    kernels = KernelSet("placement", lambda: (), broken)
    assert kernels.prepare(Budget(Limits(1.0)))
    assert not kernels.loaded()


@pytest.mark.parametrize("name", sorted(compiling.SETS))
def test_exercise_covers_every_kernel(name: str) -> None:
    """What compiles ahead makes every kernel ready that is asked for."""
    home, attribute = compiling.SETS[name]
    kernels: KernelSet = getattr(importlib.import_module(home), attribute)
    kernels.compile_now()
    assert all(dispatcher.overloads for dispatcher in kernels.dispatchers())
    assert kernels.compiled()
    assert kernels.prepare(Budget(Limits(0.001)))


def _signatures() -> dict[str, set[object]]:
    sets = [getattr(importlib.import_module(home), name) for home, name in compiling.SETS.values()]
    return {str(kernel.py_func): set(kernel.signatures) for kernels in sets for kernel in kernels.dispatchers()}


def test_searches_use_kernels_only_as_they_were_compiled_ahead(
    instances: ModuleType, hierarchies: ModuleType, clusters: ModuleType
) -> None:
    """No search compiles for types of its own (a read-only array, say): that would take seconds of its limit."""
    compiling.main(())
    before = _signatures()
    problems = [instances.random_problem(seed) for seed in range(12)]
    problems += [hierarchies.random_hierarchy(seed) for seed in range(12)]
    problems += [clusters.cluster(24, 20, 1, "hetero", 0.6), clusters.cluster(80, 20, 1, "hetero", 0.2)]
    solved = 0
    for problem in problems:
        for solver in ("labels", "quotient"):
            solved += solve(problem, solver=solver, time_limit_s=5.0, work_limit=2_000).plan is not None
    assert solved > 20
    assert _signatures() == before


@pytest.mark.slow
def test_a_process_that_ends_while_kernels_load_ends_in_peace() -> None:
    """A first search cut off at 20 ms: the answer is printed, and the process ends with 0 although a thread loads."""
    code = """
import numpy as np
from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
from gpuplan.solvers import solve
rng = np.random.default_rng(1)
hops = HopTable(*(rng.uniform(0.1, 0.3, (32, 32)) for _ in range(2)))
timing = Timing(rng.uniform(1.0, 2.0, (32, 40)), hops, np.ones(40))
names = tuple(f"d{k}" for k in range(32)), tuple(f"l{k}" for k in range(40))
problem = DensePlacement(*names, rng.uniform(2.0, 4.0, 32), np.ones(32), np.ones(40), np.zeros(40), timing, timing)
print(solve(problem, solver="labels", time_limit_s=0.02).status)
"""
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.strip() in ("feasible", "optimal")
