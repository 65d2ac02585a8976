"""The rolling planner: plans hold, running batches stay, one length key is exact, budgets are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.exact import dp
from gpuplan.solvers.batching.horizon import RollingPlanner
from gpuplan.solvers.batching.sequence import evaluate
from gpuplan.solvers.limits import Limits

TIME = BatchTime(0.02, 2e-5, 0.01, 2e-4, 1e-8)


def _requests(count, seed=0, first=0, **columns):
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(5.5, 1.0, count), 8, 4096).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.9, count), 4, 2048).astype(np.int64)
    return Requests.of(prompt, output, id=np.arange(first, first + count), **columns)


def _check(planner, plan):
    """Recompute everything a plan says from the requests, the executors and what runs."""
    requests, solution = plan.requests, plan.solution
    assert sorted(solution.rows.tolist()) == list(range(len(requests)))
    free = {e.name: plan.now_s for e in planner.executors}
    free |= {batch.executor: max(batch.expected_finish_s, plan.now_s) for batch in planner.running}
    for batch in solution:
        executor = planner.executors[batch.executor]
        rows = batch.requests
        b, S, O = len(rows), requests.prompt_tokens[rows].max(), requests.output_tokens[rows].max()  # noqa: E741
        assert (batch.prompt_tokens, batch.output_tokens) == (S, O)
        assert b <= executor.max_batch
        assert b * (S + O) <= executor.kv_capacity_tokens
        assert batch.start_s == pytest.approx(free[executor.name])
        took = float(planner.time.batch_s(b, S, O, executor.speed))
        assert batch.finish_s == pytest.approx(batch.start_s + took)
        free[executor.name] = batch.finish_s
    problem = BatchingProblem(requests, planner.executors, planner.time, planner.objective)
    assert plan.objective == pytest.approx(evaluate(problem, solution).total)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 1000),
    st.sampled_from(
        [
            BatchObjective(),
            BatchObjective(latency=0.0, makespan=1.0, padding=1e-4),
            BatchObjective(latency=1.0, violation=50.0),
            BatchObjective(latency=1.0, deadlines="hard"),
        ]
    ),
    st.integers(1, 3),
)
def test_plans_hold_while_requests_come_and_go(count, seed, objective, executors):
    """Through a random run of submissions, starts and ends each plan holds and every request is served once."""
    rng = np.random.default_rng(seed)
    machines = [Executor(f"e{i}", 6200.0 * (i + 1), 4 * (i + 1), 1.0 + i) for i in range(executors)]
    planner = RollingPlanner(machines, TIME, objective, seed=seed)
    served, now, submitted = [], 0.0, 0
    for _ in range(400):
        if submitted < count:
            size = int(rng.integers(1, 6))
            deadline = now + rng.uniform(0.1, 60.0, size)
            planner.submit(_requests(size, seed, submitted, arrival_s=np.full(size, now), deadline_s=deadline))
            submitted += size
        plan = planner.replan(now, budget_s=0.001)
        _check(planner, plan)
        busy = {batch.executor for batch in planner.running}
        for machine in machines:
            if machine.name not in busy:
                planner.start(machine.name, now)
        if not planner.running:
            assert not len(planner.waiting)
            if submitted >= count:
                break
            continue
        ending = min(planner.running, key=lambda batch: batch.expected_finish_s)
        now = ending.expected_finish_s * float(rng.uniform(1.0, 1.05))  # batches may end late
        served += planner.finish(ending.executor, now).requests.id.tolist()
    assert sorted(served) == list(range(submitted))


@pytest.mark.parametrize("seed", range(5))
def test_one_length_key_is_exact(seed):
    """One key, one executor, makespan: the first order tried is the exact programme's, so the values agree."""
    length = np.random.default_rng(seed).integers(1, 500, 60)
    requests = Requests.of(length, length)
    executor, objective = Executor("e0", 8000.0, 8), BatchObjective(latency=0.0, makespan=1.0)
    planner = RollingPlanner([executor], TIME, objective)
    planner.submit(requests)
    exact = dp.solve(BatchingProblem(requests, (executor,), TIME, objective), Limits())
    assert planner.replan(0.0, budget_s=0.005).objective == pytest.approx(exact.objective, rel=1e-12)


def test_two_batches_by_hand():
    """Prefill 0.1 s, steps 1 s: outputs 1, 1 then 9, 9 end at 0.1 and 8.2 s, Σ latency 0.2 + 16.4."""
    planner = RollingPlanner([Executor("e0", 1e6, 2)], BatchTime(prefill_fixed_s=0.1, step_fixed_s=1.0))
    planner.submit(Requests.of([1, 1, 1, 1], [9, 1, 9, 1]))
    plan = planner.replan(0.0)
    assert [sorted(batch.requests.tolist()) for batch in plan.solution] == [[1, 3], [0, 2]]
    assert plan.objective == pytest.approx(16.6)


def test_running_batches_are_frozen():
    """A started batch keeps its requests; the executor is planned from its expected end, or from now once overdue."""
    planner = RollingPlanner([Executor("e0", 1e6, 2)], BatchTime(step_fixed_s=1.0))
    planner.submit(Requests.of([1, 1], [5, 5]))
    planner.replan(0.0)
    batch = planner.start("e0", 0.0)
    assert batch is not None
    assert batch.expected_finish_s == 4.0  # O − 1 steps of 1 s
    planner.submit(Requests.of([1], [2], id=[7], arrival_s=[1.0]))
    assert planner.replan(1.0).solution.start_s.tolist() == [4.0]
    assert planner.replan(6.0).solution.start_s.tolist() == [6.0]
    assert planner.finish("e0", 6.5).requests.id.tolist() == [0, 1]
    plan = planner.replan(6.5)
    assert plan.solution.finish_s.tolist() == [7.5]
    assert plan.objective == pytest.approx(6.5)  # latency counts from the arrival at 1


def test_start_follows_the_last_plan():
    """Without a plan there is nothing to start; a request that came since the plan waits for the next one."""
    planner = RollingPlanner([Executor("e0", 1e6, 4)], TIME)
    planner.submit(Requests.of([5], [5]))
    assert planner.start("e0", 0.0) is None
    planner.replan(0.0)
    planner.submit(Requests.of([5], [5], id=[9]))
    batch = planner.start("e0", 0.0)
    assert batch is not None
    assert batch.requests.id.tolist() == [0]
    assert planner.waiting.id.tolist() == [9]


def test_withdrawn_requests_vanish():
    """Cancelled requests are neither planned nor started."""
    planner = RollingPlanner([Executor("e0", 1e6, 4)], TIME)
    planner.submit(_requests(6))
    planner.replan(0.0)
    planner.withdraw([1, 4])
    batch = planner.start("e0", 0.0)
    assert batch is not None
    assert not {1, 4} & set(batch.requests.id.tolist())
    assert sorted(planner.replan(0.0).requests.id.tolist() + batch.requests.id.tolist()) == [0, 2, 3, 5]


def test_hard_deadlines_are_kept_where_they_can_be():
    """Two urgent requests go first although shorter ones wait; one that cannot be kept is named."""
    planner = RollingPlanner([Executor("e0", 1e6, 2)], BatchTime(step_fixed_s=1.0), BatchObjective(deadlines="hard"))
    planner.submit(Requests.of([1] * 5, [2, 2, 5, 5, 9], deadline_s=[np.inf, np.inf, 4.0, 4.0, 3.0]))
    plan = planner.replan(0.0, budget_s=1.0)  # what rules give at once keeps neither; a busy machine needs the time
    finish = plan.solution.completion_s()
    assert finish[2] <= 4.0
    assert finish[3] <= 4.0
    assert plan.solution.unmet.tolist() == [4]  # nine tokens take 8 s


def test_warm_start_is_never_far_from_the_last_plan():
    """Re-planning the same requests at the same time does not lose what the last plan found."""
    planner = RollingPlanner([Executor("e0", 1e5, 32)], TIME)
    planner.submit(_requests(200))
    first = planner.replan(0.0, budget_s=0.2)
    again = planner.replan(0.0, budget_s=0.02)
    assert again.objective <= first.objective * 1.01


def test_more_time_never_hurts():
    """The improvement starts from the same constructions and only keeps what is better."""
    values = []
    for budget in (0.0, 0.05, 0.3):
        planner = RollingPlanner([Executor("e0", 1e5, 32), Executor("e1", 1e5, 32)], TIME)
        planner.submit(_requests(300))
        values.append(planner.replan(0.0, budget_s=budget).objective)
    assert values[0] >= values[1] * (1 - 1e-9)
    assert values[1] >= values[2] * (1 - 5e-3)  # other local optima may be as good


def test_a_thousand_waiting_requests_are_replanned_as_they_come_and_go():
    """15 re-plannings of 1,000 requests, 20 new ones each time, plan every waiting request exactly once."""
    planner = RollingPlanner([Executor("e0", 1e5, 32), Executor("e1", 1e5, 32)], TIME)
    planner.submit(_requests(1000))
    planner.replan(0.0)
    for turn in range(15):
        planner.withdraw(planner.waiting.id[:20].tolist())
        planner.submit(_requests(20, turn, 1000 + 20 * turn))
        plan = planner.replan(0.0)
        planned = [request for batch in plan.solution.batches for request in batch.requests]
        assert sorted(planned) == list(range(1000))  # places among the waiting
        assert len(planner.waiting) == 1000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.start("e9", 0.0), "no executor is called 'e9'; known are e0"),
        (lambda p: p.finish("e0", 0.0), "executor e0 runs no batch"),
        (lambda p: p.withdraw([77]), "requests that wait, got 77"),
        (lambda p: p.replan(float("nan")), "a finite time, got nan"),
    ],
)
def test_wrong_calls_are_refused(call, words):
    """Each misuse has its own sentence."""
    planner = RollingPlanner([Executor("e0", 100.0, 4)], TIME)
    with pytest.raises(UsageError) as caught:
        call(planner)
    assert words in str(caught.value)


def test_a_busy_executor_starts_nothing():
    """One batch at a time."""
    planner = RollingPlanner([Executor("e0", 100.0, 1)], TIME)
    planner.submit(Requests.of([1, 1], [1, 1]))
    planner.replan(0.0)
    planner.start("e0", 0.0)
    with pytest.raises(UsageError, match="still runs a batch"):
        planner.start("e0", 0.0)


def test_bad_submissions_are_refused():
    """An id that waits or runs, and a request no executor holds."""
    planner = RollingPlanner([Executor("e0", 100.0, 4)], TIME)
    planner.submit(Requests.of([1], [1]))
    with pytest.raises(InputError, match="a new id, got 0"):
        planner.submit(Requests.of([1], [1]))
    with pytest.raises(InputError, match=r"got 5 \(101 tokens\)"):
        planner.submit(Requests.of([100], [1], id=[5]))


def test_nothing_waits():
    """An empty queue gives an empty plan."""
    planner = RollingPlanner([Executor("e0", 100.0, 4)], TIME)
    plan = planner.replan(3.0)
    assert plan.solution.num_batches == 0
    assert plan.objective == 0.0
    assert planner.start("e0", 3.0) is None
