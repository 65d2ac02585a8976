"""The oracle itself, on instances solved by hand."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests


def test_two_alike_share_a_batch(batching_oracle: ModuleType) -> None:
    """One batch of two takes 1 + 2 s where two batches take twice that."""
    # P = 1 + (O−1)·1 = 3 s for any size; apart: 6 s.
    problem = BatchingProblem(
        Requests.of([4, 4], [3, 3]), (Executor("e0", 100, 2),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(0, 1)
    )
    assert batching_oracle.brute_force(problem) == pytest.approx(3.0)
    assert batching_oracle.subset_dp(problem) == pytest.approx(3.0)


def test_kv_capacity_keeps_two_apart(batching_oracle: ModuleType) -> None:
    """Two requests of 7 tokens do not fit 13 tokens of KV cache together."""
    problem = BatchingProblem(
        Requests.of([4, 4], [3, 3]), (Executor("e0", 13, 2),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(0, 1)
    )
    assert batching_oracle.brute_force(problem) == pytest.approx(6.0)


def test_short_request_goes_first(batching_oracle: ModuleType) -> None:
    """Σ C of jobs of 1 s and 3 s one by one is 1 + 4."""
    problem = BatchingProblem(
        Requests.of([1, 1], [1, 3]), (Executor("e0", 100, 1),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(1, 0)
    )
    assert batching_oracle.brute_force(problem) == pytest.approx(5.0)


def test_deadlines_that_cannot_hold(batching_oracle: ModuleType) -> None:
    """Two jobs of 3 s, one by one, cannot both end by 5 s."""
    requests = Requests.of([1, 1], [3, 3], deadline_s=[5.0, 5.0])
    problem = BatchingProblem(
        requests, (Executor("e0", 100, 1),), BatchTime(1.0, 0, 1.0, 0, 0), BatchObjective(0, 1, deadlines="hard")
    )
    assert batching_oracle.brute_force(problem) == math.inf


def test_oracles_agree(batching_oracle: ModuleType) -> None:
    """The programme over subsets and the enumeration of partitions give the same optimum."""
    for seed in range(60):
        problem = batching_oracle.draw(batching_oracle.Family(), seed)
        assert batching_oracle.subset_dp(problem) == pytest.approx(batching_oracle.brute_force(problem), rel=1e-12)
