"""Limits of time and work, cancelling, progress, threads, warm starts; larger problems than brute force takes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.solvers import Budget, Limits, Progress, Result, pareto, solve
from gpuplan.solvers.placement.evaluate import broken_rule


def _check(result: Result[PlacementSolution], problem: object) -> None:
    """Check that a plan is feasible and its bound on the right side."""
    if result.plan is not None:
        assert broken_rule(problem, result.plan.stages) is None  # type: ignore[arg-type]
        assert result.bound is None or result.bound <= result.objective


@pytest.mark.parametrize("limit_s", [0.05, 0.5])
@pytest.mark.parametrize("objective", ["latency", "bottleneck", "cost"])
def test_time_limit_is_kept(clusters: ModuleType, limit_s: float, objective: str) -> None:
    """A hard packing that keeps the search busy for long ends soon after its limit.

    How soon to the percent is the benchmark's to say: a loaded machine, or a process that still loads kernels, adds to
    it; ten times the limit and 2 s tell a search that keeps to it from one that does not.
    """
    problem = clusters.cluster(32, 80, 1, "hetero", 0.8, objective=objective)
    started = time.process_time()
    result = solve(problem, time_limit_s=limit_s)
    assert time.process_time() - started <= 10 * limit_s + 2.0
    assert result.status in ("feasible", "no_solution", "optimal")
    _check(result, problem)


def test_the_making_of_a_problem_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that take 0.3 s to make leave 0.2 s of half a second for the search; the report states what was asked."""
    from gpuplan import PlacementProblem, load_model, load_topology
    from gpuplan.solvers import solving

    problem = PlacementProblem(load_model("llama-3.1-8b"), load_topology("8xl4"))
    left: list[float | None] = []
    make, search = solving._dense, solving.solve_dense

    def slowly(asked: object) -> object:
        time.sleep(0.3)
        return make(asked)  # type: ignore[arg-type]

    def listening(dense: object, limits: Limits, *others: object, **more: object) -> object:
        left.append(limits.time_limit_s)
        return search(dense, limits, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(solving, "_dense", slowly)
    monkeypatch.setattr(solving, "solve_dense", listening)
    result = solve(problem, time_limit_s=0.5)
    assert left[0] is not None
    assert 0.0 < left[0] <= 0.2
    assert result.report.options["time_limit_s"] == 0.5
    assert result.report.wall_time_s >= 0.3


def test_what_is_kept_of_a_limit_is_half_of_the_rest_at_most() -> None:
    """Of 10 s, 2 s or half may be kept for work to come; with no time left a search gets 1 ms; no limit stays none."""
    budget = Budget(Limits(10.0))
    assert budget.rest(2.0).time_limit_s == pytest.approx(8.0, abs=0.1)
    assert budget.rest(100.0).time_limit_s == pytest.approx(5.0, abs=0.1)
    assert Budget(Limits(1e-9)).rest().time_limit_s == 1e-3
    assert Budget(Limits(None)).rest(2.0).time_limit_s is None


def test_work_limit_is_repeatable(clusters: ModuleType) -> None:
    """The same work gives the same plan, bound and count of work, whatever the clock says."""
    problem = clusters.cluster(24, 60, 2, "hetero", 0.8)
    first, again = (solve(problem, work_limit=20_000, time_limit_s=None) for _ in range(2))
    assert (first.plan, first.objective, first.bound) == (again.plan, again.objective, again.bound)
    assert first.report.work == again.report.work
    _check(first, problem)


def test_less_work_never_proves_more(clusters: ModuleType) -> None:
    """Bounds of truncated runs stay below the optimum, plans above it."""
    problem = clusters.cluster(12, 40, 4, "hetero", 0.7)
    optimum = solve(problem, time_limit_s=None)
    assert optimum.status == "optimal"
    for work_limit in (1, 100, 1_000, 10_000):
        result = solve(problem, solver="labels", work_limit=work_limit, time_limit_s=None)
        if result.bound is not None:
            assert result.bound <= optimum.objective * (1 + 1e-9)
        if result.objective is not None:
            assert result.objective >= optimum.objective * (1 - 1e-9)


def test_cancel_stops_with_the_incumbent(clusters: ModuleType) -> None:
    """A cancel that comes after a while leaves the plan found so far."""
    problem = clusters.cluster(32, 80, 1, "hetero", 0.8)
    started = time.perf_counter()
    result = solve(problem, time_limit_s=None, cancel=lambda: time.perf_counter() - started > 0.5)
    assert time.perf_counter() - started < 5.0
    assert result.status == "feasible"
    _check(result, problem)


def test_progress_is_told(clusters: ModuleType) -> None:
    """The caller hears of incumbents and bounds, and bounds stay below incumbents."""
    heard: list[Progress] = []
    solve(clusters.cluster(16, 40, 1, "hetero", 0.6), on_progress=heard.append)
    assert heard
    for progress in heard:
        if progress.objective is not None and progress.bound is not None:
            assert progress.bound <= progress.objective * (1 + 1e-9)


def test_threads_of_a_search_change_no_objective(clusters: ModuleType) -> None:
    """Two threads find the same optimum as one."""
    problem = clusters.cluster(20, 60, 5, "hetero", 0.75)
    one, two = (solve(problem, threads=threads, time_limit_s=None, work_limit=2_000_000) for threads in (1, 2))
    if one.status == two.status == "optimal":
        assert one.objective == pytest.approx(two.objective, rel=1e-9)


def test_several_threads_may_solve_at_once(clusters: ModuleType) -> None:
    """Calls from several threads do not disturb each other."""
    problems = [clusters.cluster(devices, 40, 1, "hetero", 0.6) for devices in (6, 8, 12, 16)]
    expected = [solve(problem).objective for problem in problems]
    found: list[list[object]] = [[] for _ in problems]

    def work(k: int) -> None:
        for _ in range(3):
            found[k].append(solve(problems[k]).objective)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(problems))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [[value] * 3 for value in expected]


@pytest.mark.parametrize("solver", ["dp", "labels"])
def test_warm_start_is_kept_when_nothing_is_better(clusters: ModuleType, solver: str) -> None:
    """Starting from the optimum returns its value; starting from a poor plan finds it, too."""
    problem = clusters.cluster(8, 20, 2, "hetero", 0.3)
    best = solve(problem)
    again = solve(problem, solver=solver, warm_start=best.require_plan())
    assert again.status == "optimal"
    assert again.objective == pytest.approx(best.objective, rel=1e-9)


def test_a_limit_before_any_work_returns_the_warm_start(clusters: ModuleType) -> None:
    """With no work allowed, the plan given is the plan returned."""
    problem = clusters.cluster(16, 40, 2, "hetero", 0.7)
    start = solve(problem).require_plan()
    result = solve(problem, solver="labels", work_limit=1, warm_start=start)
    assert result.plan is not None
    assert result.objective is not None


def test_warm_start_that_is_no_plan_is_refused(clusters: ModuleType) -> None:
    """A device used twice is named."""
    problem = clusters.cluster(8, 20, 2, "hetero", 0.3)
    start = PlacementSolution((StageRange(0, 0, 10), StageRange(0, 10, 22)))
    with pytest.raises(UsageError, match="device is used twice"):
        solve(problem, warm_start=start)


def test_more_classes_than_a_key_holds(clusters: ModuleType) -> None:
    """72 unlike devices: a plan with a bound, or a proof once most devices are out."""
    problem = clusters.cluster(72, 40, 1, "hetero", 0.15)
    result = solve(problem, time_limit_s=20.0)
    assert result.status in ("optimal", "feasible")
    assert result.gap is not None
    assert result.gap < 0.05
    _check(result, problem)


def test_identical_hosts_become_counts(clusters: ModuleType) -> None:
    """64 devices in hosts of identical ones are solved to proof."""
    result = solve(clusters.cluster(64, 80, 1, "hier", 0.3))
    assert result.status == "optimal"


def test_front_at_a_limit_keeps_its_points(clusters: ModuleType) -> None:
    """A front stopped early is feasible, its points real plans."""
    problem = clusters.cluster(16, 40, 1, "hetero", 0.6)
    result = pareto(problem, time_limit_s=0.5)
    assert result.status in ("feasible", "no_solution", "optimal")
    for point in result.plan.points if result.plan else ():
        assert broken_rule(problem, point.stages) is None


def test_a_front_leaves_no_point_that_another_beats(clusters: ModuleType) -> None:
    """Eight unlike devices: the front is proven and no point drops another."""
    problem = clusters.cluster(8, 20, 1, "hetero", 0.5)
    result = pareto(problem)
    assert result.status == "optimal"
    points = np.array([(p.latency_s, p.bottleneck_s, p.devices) for p in result.require_plan().points])
    for k, point in enumerate(points):
        others = np.delete(points, k, axis=0)
        assert not (others <= point * (1 + 1e-9)).all(axis=1).any()


def test_objectives_agree_with_each_other(clusters: ModuleType) -> None:
    """Sixteen unlike devices: the latency optimum, the front's ends and the balanced extremes tell one story."""
    problem = clusters.cluster(10, 30, 1, "hetero", 0.5)
    latency = solve(problem)
    points = pareto(problem).require_plan().points
    assert min(point.latency_s for point in points) == pytest.approx(latency.objective, rel=1e-9)
    bottleneck = solve(replace(problem, objective=replace(problem.objective, name="bottleneck")))
    assert min(point.bottleneck_s for point in points) == pytest.approx(bottleneck.objective, rel=1e-8)
    devices = solve(replace(problem, objective=replace(problem.objective, name="efficiency")))
    assert isinstance(devices.objective, tuple)
    assert min(point.devices for point in points) == devices.objective[0]


def test_memory_limits_refuse_tables_and_cut_searches_short(clusters: ModuleType) -> None:
    """Tables that would not fit are refused before they are made; a label search keeps to what it may hold."""
    problem = clusters.cluster(24, 40, 1, "hetero", 0.7)
    for call in (solve, pareto):
        with pytest.raises(UnsupportedError, match=r"would take about .* --memory-limit is 1.0 KiB"):
            call(problem, memory_limit_bytes=1024)
    with pytest.raises(UsageError, match="memory limit of at least 1 byte"):
        solve(problem, memory_limit_bytes=0)
    small = solve(problem, solver="labels", memory_limit_bytes=1 << 20, time_limit_s=20.0)
    large = solve(problem, solver="labels", memory_limit_bytes=8 << 30, time_limit_s=20.0)
    for result in (small, large):
        assert result.status in ("optimal", "feasible")
        _check(result, problem)
    assert small.bound <= large.objective * (1 + 1e-9)


def test_every_answer_says_how_its_bound_was_proven(clusters: ModuleType) -> None:
    """The plain search, the pruned one, and rules, which prove nothing."""
    problem = clusters.cluster(8, 10, 1, "hetero", 0.5)
    assert solve(problem, solver="dp").report.proof.startswith("exhaustive label search, ")
    assert solve(problem, solver="labels").report.proof.startswith("Lagrangian relaxation and the label search")
    rule = solve(problem, solver="even").report
    assert (rule.bound_kind, rule.proof) == (None, "")
