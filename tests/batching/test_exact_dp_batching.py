"""`dp`: the contiguity theorem within its scope, and refusals outside."""

from __future__ import annotations

import math
import time
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.exact import dp, loops
from gpuplan.solvers.batching.exact.speed import compiled
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.limits import Limits

TIME = BatchTime(0.02, 2e-5, 0.01, 2e-4, 0.0)


def one_key(lengths: np.ndarray, *, padding: float = 0.0, limit: int = 32, capacity: float = 60_000) -> BatchingProblem:
    """Return requests with outputs alone, on one executor, makespan and padding."""
    requests = Requests.of(np.zeros(len(lengths), dtype=np.int64), lengths)
    return BatchingProblem(requests, (Executor("e0", capacity, limit),), TIME, BatchObjective(0, 1, padding))


def check(oracle: ModuleType, problem: BatchingProblem) -> None:
    """Compare with brute force."""
    best, result = oracle.brute_force(problem), dp.solve(problem, Limits())
    if result.plan is None:
        assert problem.hard
        assert "cannot all meet their deadlines" in result.reasons[0]
        assert best == math.inf or result.status == "no_solution"
        return
    if result.status == "feasible":
        assert problem.hard
        assert result.bound is not None
        assert isinstance(result.objective, float)
        assert result.bound <= best <= result.objective * (1 + 1e-9)
        return
    assert result.status == "optimal"
    assert result.objective == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_equals_brute_force(batching_oracle: ModuleType) -> None:
    """One key, KV and batch limits, padding: the optimum over every partition and order."""
    family = batching_oracle.Family(one_key=True)
    for seed in range(300):
        check(batching_oracle, batching_oracle.draw(family, seed))


def test_equals_brute_force_with_agreeable_deadlines(batching_oracle: ModuleType) -> None:
    """Longer means later: earliest deadline first is sorted order, infeasible cases included."""
    family = batching_oracle.Family(one_key=True, due="agreeable", padding=False)
    for seed in range(300):
        check(batching_oracle, batching_oracle.draw(family, seed))


@pytest.mark.slow
def test_equals_brute_force_on_two_thousand(batching_oracle: ModuleType) -> None:
    """The same on 1,000 more of each kind."""
    families = [
        batching_oracle.Family(one_key=True),
        batching_oracle.Family(one_key=True, due="agreeable", padding=False),
    ]
    for seed in range(300, 1_300):
        for family in families:
            check(batching_oracle, batching_oracle.draw(family, seed))


def test_agreeable_deadlines_need_batch_times_that_ignore_size(batching_oracle: ModuleType) -> None:
    """Keys 1, 6×4, 10, P = 10 + b·key, deadlines 30 and 64: {1, 10}, {6, 6, 6, 6} holds, no contiguous plan does."""
    # {1, 10} ends at 10 + 2·10 = 30, {6, 6, 6, 6} 10 + 4·6 = 34 later. Contiguous, 1 must end by 30, so at most two 6
    # join it: {1} | {6×4} | {10} ends at 11 + 34 + 20 = 65, {1, 6, 6} | {6, 6, 10} at 28 + 40 = 68, the others later.
    requests = Requests.of([1, 6, 6, 6, 6, 10], [1] * 6, deadline_s=[30, 64, 64, 64, 64, 64])
    problem = BatchingProblem(
        requests, (Executor("e0", 1e6, 6),), BatchTime(10, 1), BatchObjective(0, 1, deadlines="hard")
    )
    assert batching_oracle.brute_force(problem) == pytest.approx(64.0)
    assert dp.solve(problem, Limits()).status == "no_solution"
    assert solve_batching(problem).objective == pytest.approx(64.0)


def test_agreeable_deadlines_are_exact_where_size_costs_nothing(batching_oracle: ModuleType) -> None:
    """Fixed and step times alone: optimum and infeasibility are those of brute force."""
    family = batching_oracle.Family(one_key=True, due="agreeable", padding=False)
    for seed in range(400):
        drawn = batching_oracle.draw(family, seed)
        problem = drawn.replace(time=BatchTime(drawn.time.prefill_fixed_s, 0, drawn.time.step_fixed_s + 0.1))
        if dp.supports(problem) is None:
            best, result = batching_oracle.brute_force(problem), dp.solve(problem, Limits())
            assert result.status == ("infeasible" if best == math.inf else "optimal")
            assert best == math.inf or result.objective == pytest.approx(best, rel=1e-9)


def test_queue_equals_window_when_limits_bind() -> None:
    """The O(N log B) queue and the O(N·B) window give the same costs, also where windows shrink."""
    rng = np.random.default_rng(7)
    for _ in range(1_000):
        n = int(rng.integers(1, 40))
        each = np.sort(rng.integers(0, 20, n) * rng.uniform(0, 1)).astype(float)
        fixed = np.sort(rng.uniform(0, 3, n)) + rng.uniform(0, 20)
        room = np.sort(rng.integers(1, 8, n))[::-1].astype(np.int64).copy()
        f, g, back, other = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
        loops.window(fixed, each, room, f, back)
        loops.monge(fixed, each, room, g, other, np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64))
        np.testing.assert_allclose(g, f, rtol=1e-12)
        assert (other[1:] <= room).all()


def test_plain_and_compiled_agree() -> None:
    """Small problems run as plain Python, large ones compiled: the same doubles."""
    rng = np.random.default_rng(1)
    n = 400
    each, fixed = np.sort(rng.uniform(0, 1, n)), np.sort(rng.uniform(0, 3, n))
    room = np.full(n, 8, dtype=np.int64)
    f, g, back = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, np.int64)
    loops.window(fixed, each, room, f, back)
    compiled(loops.window)(fixed, each, room, g, back)
    assert f.tolist() == g.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"executors": (Executor("a", 1e6), Executor("b", 1e6))}, "one executor"),
        ({"objective": BatchObjective(1, 0)}, "weighs latency"),
        ({"requests": Requests.of([1, 2], [2, 1])}, "two keys that disagree"),
        ({"requests": Requests.of([0, 0], [1, 2], arrival_s=[0, 1])}, "different times"),
        ({"requests": Requests.of([0, 0], [1, 2], deadline_s=[9, 8])}, "price"),
    ],
)
def test_refuses_what_the_theorem_does_not_cover(change: dict[str, object], words: str) -> None:
    """Each condition is detected, and the message names methods that can."""
    base = one_key(np.array([1, 2])).replace(objective=BatchObjective(0, 1, 0, 1))
    with pytest.raises(UnsupportedError, match=words) as caught:
        solve_batching(base.replace(**change), solver="dp")
    assert "use auto" in str(caught.value)


def test_refuses_disagreeing_hard_deadlines() -> None:
    """A longer request with an earlier deadline is outside the theorem."""
    requests = Requests.of([0, 0], [1, 2], deadline_s=[9, 8])
    problem = BatchingProblem(requests, (Executor("a", 1e6),), TIME, BatchObjective(0, 1, deadlines="hard"))
    with pytest.raises(UnsupportedError, match="earlier deadline"):
        solve_batching(problem, solver="dp")


def test_million_requests() -> None:
    """A million requests in well under a second once warm, the sum of their batches proven least."""
    lengths = np.clip(np.random.default_rng(0).lognormal(4.8, 0.9, 1_000_000), 4, 2048).astype(np.int64)
    problem = one_key(lengths)
    dp.solve(problem, Limits())
    began = time.perf_counter()
    result = dp.solve(problem, Limits())
    assert time.perf_counter() - began < 20.0  # about 0.1 s; hours where a step is quadratic
    assert result.status == "optimal"


def test_no_requests() -> None:
    """No requests, no batches, nothing to pay."""
    result = dp.solve(one_key(np.zeros(0, dtype=np.int64)), Limits())
    assert result.status == "optimal"
    assert result.objective == 0.0
