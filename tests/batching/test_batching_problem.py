"""Batching problems: the batch time, what is checked, schedules and values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.errors import InputError
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.sequence import evaluate, measure, schedule

COEFFICIENT = st.floats(0.0, 10.0)


@given(
    coefficients=st.tuples(*[COEFFICIENT] * 5),
    b=st.integers(1, 50),
    s=st.integers(0, 300),
    o=st.integers(0, 60),
    speed=st.floats(0.1, 5.0),
)
def test_closed_form_is_the_sum_over_steps(
    coefficients: tuple[float, ...], b: int, s: int, o: int, speed: float
) -> None:
    """The closed form equals P = prefill + Σ_{k=1..O−1} step(b, S+k), over speed; no steps without outputs."""
    fixed, per_token, step, per_sequence, per_context = coefficients
    steps = sum(step + per_sequence * b + per_context * b * (s + k) for k in range(1, o))
    expected = (fixed + per_token * b * s + steps) / speed
    assert BatchTime(*coefficients).batch_s(b, s, o, speed) == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_batch_time_by_hand(three_requests: BatchingProblem) -> None:
    """Two requests padded to 20+6: 1 + 0.1·40 + 5·0.52 + 0.001·2·(5·20+15) = 7.83 s; the third alone 7.261 s."""
    plan = schedule(three_requests, [[[0, 1], [2]]])
    # third: 1 + 0.1·30 + 6·0.51 + 0.001·(6·30+21) = 7.261
    assert plan.finish_s.tolist() == pytest.approx([7.83, 15.091])
    assert plan.start_s.tolist() == pytest.approx([0.0, 7.83])
    assert (plan.prompt_tokens.tolist(), plan.output_tokens.tolist()) == ([20, 30], [6, 7])


def test_value_by_hand(three_requests: BatchingProblem) -> None:
    """Σ C = 7.83·2 + 15.091; padding 2·26 − (15+26) = 11 tokens in the first batch, none in the second."""
    problem = three_requests.replace(objective=BatchObjective(1.0, 2.0, 0.1, 0.0))
    terms = evaluate(problem, schedule(problem, [[[0, 1], [2]]]))
    assert terms.latency == pytest.approx(30.751)
    assert terms.makespan == pytest.approx(30.182)
    assert terms.padding == pytest.approx(1.1)
    assert terms.total == pytest.approx(30.751 + 30.182 + 1.1)


def test_a_batch_waits_for_its_last_arrival_and_the_one_before(unit_problem: Any) -> None:
    """Batches of 3 s and 2 s; the second request arrives at 10 s, the third's batch waits for the second's end."""
    problem = unit_problem([3, 3, 2], arrival_s=[0.0, 10.0, 1.0])
    plan = schedule(problem, [[[0, 1], [2]]])
    assert plan.start_s.tolist() == [10.0, 13.0]
    assert plan.finish_s.tolist() == [13.0, 15.0]
    # latency: (13−0) + (13−10) + (15−1)
    assert measure(problem, plan).latency_s == 30.0


def test_deadlines_count_from_a_nanosecond_on(unit_problem: Any) -> None:
    """A finish within 1e-9 s after the deadline is on time; weights are what a violation costs."""
    problem = unit_problem([2, 2, 2], max_batch=1, deadline_s=[2.0, 4.0 - 1e-10, 5.9], weight=[1.0, 2.0, 3.0])
    found = measure(problem, schedule(problem, [[[0], [1], [2]]]))
    assert (found.violations, found.violation_weight) == (1, 3.0)


def test_unmet_are_late_even_alone(unit_problem: Any) -> None:
    """Outputs of 2 and 5 s: deadlines of 2 and 4 s after time 0; no plan meets the second."""
    problem = unit_problem([2, 5], deadline_s=[2.0, 4.0])
    assert problem.unmet().tolist() == [1]
    assert schedule(problem, [[[0], [1]]]).unmet.tolist() == [1]


def test_unmet_looks_at_executors_that_hold_the_request() -> None:
    """The fast executor is too small for the request, so its deadline is judged on the slow one."""
    fast, slow = Executor("fast", 10, 1, speed=10.0), Executor("slow", 100, 1)
    problem = BatchingProblem(Requests.of([40], [10], deadline_s=[5.0]), (fast, slow), BatchTime(1.0, step_fixed_s=1.0))
    assert problem.unmet().tolist() == [0]  # 10 s on the slow one, 1 s it would take on the fast one


def test_schedule_keeps_the_order_of_each_executor(unit_problem: Any) -> None:
    """Two executors run side by side, each in the order given."""
    problem = unit_problem([1, 2, 3, 4], max_batch=1, executors=2)
    plan = schedule(problem, [[[3], [0]], [[2], [1]]])
    assert plan.executor.tolist() == [0, 0, 1, 1]
    assert plan.completion_s().tolist() == [5.0, 5.0, 3.0, 4.0]
    assert [batch.requests.tolist() for batch in plan] == [[3], [0], [2], [1]]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("prompt_tokens", [1, -1], r"\$\.requests\.prompt_tokens\[1\].*whole number of tokens.*got -1"),
        ("prompt_tokens", [1, 1.5], r"prompt_tokens\[1\].*got 1\.5"),
        ("output_tokens", [float("nan"), 1], r"output_tokens\[0\].*got nan"),
        ("arrival_s", [0.0, -2.0], r"arrival_s\[1\].*at least 0, got -2\.0 \(request 1\)"),
        ("arrival_s", [float("inf"), 0.0], r"arrival_s\[0\].*got inf"),
        ("weight", [1.0, float("nan")], r"weight\[1\].*got nan"),
        ("weight", [1.0], r"weight: expected 2 values"),
        ("deadline_s", [float("nan"), 1.0], r"deadline_s\[0\].*no earlier than the arrival"),
        ("id", [7, 7], r"id\[1\]: expected distinct ids, got 7 again"),
        ("id", ["x", "x"], r"id\[1\]: expected distinct ids, got 'x' again"),
    ],
)
def test_bad_columns(column: str, values: list[Any], message: str) -> None:
    """Every column refuses values out of range, with their place."""
    columns: dict[str, Any] = {"prompt_tokens": [1, 2], "output_tokens": [3, 4]} | {column: values}
    with pytest.raises(InputError, match=message):
        Requests.of(columns.pop("prompt_tokens"), columns.pop("output_tokens"), **columns)


def test_deadline_before_arrival() -> None:
    """A deadline before its arrival is an input error that names the request."""
    with pytest.raises(InputError, match=r"got 1\.0 s for request 0, which arrives at 2\.0 s"):
        Requests.of([1], [1], arrival_s=[2.0], deadline_s=[1.0])


def test_no_executors() -> None:
    """A problem without executors is refused."""
    with pytest.raises(InputError, match="at least one executor, got none"):
        BatchingProblem(Requests.of([1], [1]), (), BatchTime())


def test_request_larger_than_every_executor() -> None:
    """Requests that fit nowhere are named, with what they need and the mend."""
    with pytest.raises(InputError, match=r"largest: 10 tokens\), got 1 \(12 tokens\); .*--skip-unservable"):
        BatchingProblem(Requests.of([1, 6], [1, 6]), (Executor("e0", 10),), BatchTime())


@given(tokens=st.integers(0, 10**6), kv=st.floats(0, 1e9), most=st.integers(1, 64))
def test_room_is_the_largest_size_that_fits(tokens: int, kv: float, most: int) -> None:
    """`room` is the largest b ≤ max_batch with b·tokens ≤ capacity."""
    room = int(Executor("e", kv, most).room(tokens))
    assert room == max((b for b in range(most + 1) if b * max(tokens, 1) <= kv), default=0)


def test_take_keeps_rows() -> None:
    """`take` returns rows in the order asked for."""
    requests = Requests.of([1, 2, 3], [4, 5, 6], id=["a", "b", "c"], weight=[1, 2, 3])
    taken = requests.take(np.array([2, 0]))
    assert (taken.id.tolist(), taken.weight.tolist()) == (["c", "a"], [3.0, 1.0])
