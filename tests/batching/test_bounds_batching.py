"""Bounds and heuristics: bound ≤ optimum ≤ heuristic, on thousands of small instances."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.bounds import shares
from gpuplan.solvers.batching.bounds.lower import lower_bound, relaxed_form
from gpuplan.solvers.batching.bounds.prices import box_prices
from gpuplan.solvers.batching.bounds.split import split
from gpuplan.solvers.batching.exact import subset_dp
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.exact.master import relax
from gpuplan.solvers.batching.heuristics import lns
from gpuplan.solvers.batching.heuristics.dispatch import dispatch
from gpuplan.solvers.batching.heuristics.starts import best_start, rate
from gpuplan.solvers.batching.heuristics.windows import COUNTS, windows
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.limits import Budget, Limits


def families(oracle: ModuleType) -> list[Any]:
    """Every goal and kind of deadline, with arrivals and weights, one to three executors."""
    return [
        oracle.Family(requests=(1, 5), executors=(1, 3), goal=goal, due=due, arrivals=arrivals, weights=weights)
        for goal in ("makespan", "latency", "mixed")
        for due in ("none", "soft", "hard")
        for arrivals in (False, True)
        for weights in (False, True)
    ]


def check_bounds(oracle: ModuleType, seeds: range) -> None:
    """Hold every bound below the optimum, and proofs of infeasibility to it."""
    kinds = families(oracle)
    for seed in seeds:
        problem = oracle.draw(kinds[seed % len(kinds)], seed)
        best = subset_dp.solve(problem, Limits())
        form = relaxed_form(problem, float(problem.speed.sum()), 0.0)
        dual = relax(form, [], Budget(Limits())).dual
        for share, prices in ((None, 0.0), (dual, 0.0), (None, 1.0)):
            bound = lower_bound(problem, share=share, prices=prices)
            if best.status == "optimal":
                assert isinstance(best.objective, float)
                assert bound.infeasible is None, problem.name
                assert bound.value <= best.objective * (1 + 1e-9) + 1e-9, problem.name


def test_bounds_are_below_the_optimum(batching_oracle: ModuleType) -> None:
    """Split, continuous shares, LP shares and box prices, on 36 kinds of instances."""
    check_bounds(batching_oracle, range(216))


@pytest.mark.slow
def test_bounds_are_below_the_optimum_on_many(batching_oracle: ModuleType) -> None:
    """The same on 1,000 instances more."""
    check_bounds(batching_oracle, range(1_000, 2_000))


def check_heuristics(oracle: ModuleType, seeds: range) -> float:
    """Hold constructions and search above the optimum and within the limits; return the share of optima found."""
    kinds, hits, count = families(oracle), 0, 0
    for seed in seeds:
        problem = oracle.draw(kinds[seed % len(kinds)], seed)
        best = subset_dp.solve(problem, Limits())
        start = best_start(problem, Budget(Limits()))
        found = lns.solve(problem, Limits(work_limit=8_000), seed)
        if best.status == "infeasible":
            assert found.plan is None
            assert start.missed
            continue
        assert isinstance(best.objective, float)
        if found.plan is None:
            continue
        assert isinstance(found.objective, float)
        check_plan(problem, found.plan)
        assert found.objective >= best.objective * (1 - 1e-9) - 1e-12
        count += 1
        hits += found.objective <= best.objective * (1 + 1e-9) + 1e-12
    return hits / count


def check_plan(problem: BatchingProblem, plan: Any) -> None:
    """Every request once, every batch within its executor."""
    assert sorted(plan.rows.tolist()) == list(range(problem.num_requests))
    for batch in plan:
        executor = problem.executors[batch.executor]
        assert len(batch.requests) <= executor.max_batch
        assert len(batch.requests) * (batch.prompt_tokens + batch.output_tokens) <= executor.kv_tokens


def test_heuristics_are_above_the_optimum(batching_oracle: ModuleType) -> None:
    """Search finds nearly all optima of small instances and never claims more."""
    assert check_heuristics(batching_oracle, range(180)) > 0.9


@pytest.mark.slow
def test_heuristics_are_above_the_optimum_on_many(batching_oracle: ModuleType) -> None:
    """The same on 1,000 instances more."""
    assert check_heuristics(batching_oracle, range(1_000, 2_000)) > 0.95


def two_keys(n: int, *, padding: float = 0.0, latency: float = 0.0, context: float = 0.0) -> BatchingProblem:
    """Lognormal prompts and outputs on one executor."""
    rng = np.random.default_rng(0)
    prompt = np.clip(rng.lognormal(5.5, 1.0, n), 8, 4096).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.9, n), 4, 2048).astype(np.int64)
    time = BatchTime(0.02, 2e-5, 0.01, 2e-4, context)
    objective = BatchObjective(latency, 1.0 - latency, padding)
    return BatchingProblem(Requests.of(prompt, output), (Executor("e0", 60_000, 32),), time, objective)


def test_split_work_grows_with_the_number_of_requests() -> None:
    """work[n] bounds any n requests: it rises from 0 to the bound of all."""
    problem = two_keys(500, context=1e-7)
    halves = split(relaxed_form(problem, 1.0, 0.0))
    assert halves.work[0] == 0.0
    assert (np.diff(halves.work) >= -1e-9).all()
    assert halves.work[-1] == pytest.approx(halves.bound)


def test_preemptive_machine_by_hand() -> None:
    """4 s of work at time 0; 1 s more at time 1 goes first: it is busy from 1 to 2, the long job at 0-1 and 2-5."""
    # mean busy times: short 1.5; long (0.5·1 + 3.5·3)/4 = 2.75.
    busy = shares.mean_busy(np.array([4.0, 1.0]), np.array([0.0, 1.0]), np.ones(2))
    assert busy.tolist() == pytest.approx([2.75, 1.5])


def test_overfull_interval_names_requests_and_shortage() -> None:
    """Two jobs of 3 s share nothing and are due at 5 s: 1 s short."""
    requests = Requests.of([1, 1], [3, 3], deadline_s=[5.0, 5.0])
    problem = BatchingProblem(
        requests, (Executor("e0", 4, 1),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(0, 1, deadlines="hard")
    )
    told = shares.overfull(problem, shares.continuous(problem))
    assert told is not None
    assert "need 6 s at least, 1 s more" in told


@pytest.mark.parametrize(("padding", "aim"), [(0.0, 0.06), (1e-4, 0.10)])
def test_hundred_thousand_with_two_keys(padding: float, aim: float) -> None:
    """Proven gaps of band orders on 100,000 requests, batches of 32."""
    result = solve_batching(two_keys(100_000, padding=padding), solver="bands")
    assert result.gap is not None
    assert result.gap <= aim


def test_auto_says_why() -> None:
    """The first note names the method and its reason."""
    assert solve_batching(two_keys(8)).report.notes[0].startswith("subset-dp: 8 requests")
    latency = two_keys(60, latency=1.0)
    result = solve_batching(latency, seconds=0.5)
    assert result.status == "feasible"
    assert "no exact method takes 60 requests" in result.report.notes[0]
    assert result.gap is not None
    assert result.gap < 0.5


def test_equal_seeds_and_work_give_equal_plans() -> None:
    """A work limit instead of a clock: the same plan every time."""
    problem = two_keys(200, latency=1.0)
    first, second = (lns.solve(problem, Limits(time_limit_s=None, work_limit=40_000), 3) for _ in range(2))
    assert first.objective == second.objective
    assert first.plan is not None
    assert second.plan is not None
    assert first.plan.rows.tolist() == second.plan.rows.tolist()


@pytest.mark.parametrize("seed", range(200))
def test_box_prices_never_exceed_the_cost_of_a_batch(seed: int) -> None:
    """Σ π of every set of requests that fits is at most its batch's cost; Σ π is the bound."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    prompt, output = rng.integers(1, 40, n), rng.integers(0 if seed % 5 == 0 else 1, 30, n)
    most = int((prompt + output).max())
    form = Additive(
        prompt=prompt,
        output=output,
        k=rng.uniform(0.0, 1.0, 6) * rng.integers(0, 2, 6) * [10.0, 0.1, 1.0, 0.1, 0.001, 0.1],
        capacity=int(most * rng.integers(1, 5)),
        limit=int(rng.integers(1, 7)),
        constant=0.0,
    )
    prices = box_prices(form)
    assert prices is not None
    assert (prices.share >= 0.0).all()
    assert prices.bound <= prices.share.sum() * (1.0 + 1e-12)
    for size in range(1, n + 1):
        for rows in map(list, itertools.combinations(range(n), size)):
            S, O = prompt[rows].max(), output[rows].max()  # noqa: E741
            if size <= form.limit and size * (S + O) <= form.capacity:
                assert prices.share[rows].sum() <= float(form.cost(size, S, O)) * (1.0 + 1e-9) + 1e-12


def test_box_prices_come_close_to_the_linear_programme() -> None:
    """On 100 requests of two keys they reach the column-generation bound but for 3 %, where the split is 8 % off."""
    rng = np.random.default_rng(0)
    prompt = np.clip(rng.lognormal(5.5, 1.0, 100), 8, 4096).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.9, 100), 4, 2048).astype(np.int64)
    k = np.array([0.02, 2e-5, 0.01, 2e-4, 0.0, 0.0])
    form = Additive(prompt=prompt, output=output, k=k, capacity=60_000, limit=32, constant=0.0)
    prices = box_prices(form)
    assert prices is not None
    relaxed = relax(form, [], Budget(Limits(time_limit_s=30.0)))
    assert 0.97 * relaxed.bound <= prices.bound <= relaxed.bound * (1.0 + 1e-6)
    assert split(form).bound < 0.95 * prices.bound


def test_windows_of_arrival_beat_serving_whoever_is_there() -> None:
    """300 requests on a busy executor: every plan by windows holds each request once, the best cuts latency by 40 %."""
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(10, 400, 300), np.clip(rng.lognormal(4.5, 1.0, 300), 4, 800).astype(np.int64)
    requests = Requests.of(prompt, output, arrival_s=np.sort(rng.uniform(0.0, 90.0, 300)))
    time_s = BatchTime(0.02, 2e-5, 0.01, 2e-4, 0.0)
    problem = BatchingProblem(requests, (Executor("e0", 40_000, 16),), time_s, BatchObjective(1.0, 0.0))
    form = Additive(prompt, output, np.array([0.02, 2e-5, 0.01, 2e-4, 0.0, 0.0]), 40_000, 16, 0.0)
    plans = {name: rate(problem, name, groups) for name, groups in windows(problem, form)}
    assert len(plans) == len(COUNTS)
    for plan in plans.values():
        assert sorted(plan.solution.rows.tolist()) == list(range(300))
    at_once = rate(problem, "at once", dispatch(problem, requests.arrival_s, front=True))
    assert min(plan.objective for plan in plans.values()) < 0.6 * at_once.objective
