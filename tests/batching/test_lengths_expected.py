"""Expected costs, caps and plans for uncertain outputs, against every outcome one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InfeasibleError, UsageError
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.sequence import evaluate, schedule
from gpuplan.solvers.batching.uncertain.caps import CapCost, best_cap, best_caps, cap_costs, scarf_cap
from gpuplan.solvers.batching.uncertain.chance import ChanceConstraint
from gpuplan.solvers.batching.uncertain.expected import (
    expected_padding_tokens,
    expected_terms,
    expected_time_s,
    longest_output,
    with_outputs,
)
from gpuplan.solvers.batching.uncertain.overflow import overflow_probability
from gpuplan.solvers.batching.uncertain.plan import plan_uncertain
from gpuplan.solvers.batching.uncertain.sensitivity import predicted_outputs, realize, sensitivity

TIME = BatchTime(0.02, 2e-5, 0.01, 2e-4, 1e-7)
ROWS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=3), min_size=1, max_size=4)


def _outcomes(lengths):
    """Yield (outputs, probability) of every outcome."""
    rows = [list(zip(*map(np.ndarray.tolist, lengths.row(i)), strict=True)) for i in range(len(lengths))]
    for outcome in itertools.product(*rows):
        yield np.array([tokens for tokens, _ in outcome]), math.prod(p for _, p in outcome)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_batch_expectations_are_the_enumeration(rows):
    """Longest output, time and padding of one batch, averaged over all outcomes."""
    lengths, prompt = Lengths.of_rows(rows), np.arange(len(rows)) * 3 + 5
    outcomes = list(_outcomes(lengths))
    tokens, probability = longest_output(lengths)
    assert probability.sum() == pytest.approx(1.0)
    assert float(probability @ tokens) == pytest.approx(sum(p * o.max() for o, p in outcomes))
    b, S = len(rows), int(prompt.max())
    assert expected_time_s(TIME, prompt, lengths) == pytest.approx(
        sum(p * float(TIME.batch_s(b, S, o.max())) for o, p in outcomes)
    )
    assert expected_time_s(TIME, prompt, lengths, speed=2.0, cap=9) == pytest.approx(
        sum(p * float(TIME.batch_s(b, S, min(o.max(), 9), 2.0)) for o, p in outcomes)
    )
    assert expected_padding_tokens(prompt, lengths) == pytest.approx(
        sum(p * (b * (S + o.max()) - prompt.sum() - o.sum()) for o, p in outcomes)
    )


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 99))
def test_plan_expectation_is_the_enumeration(rows, seed):
    """One executor, everything there: expected latency, makespan and padding are exact."""
    rng = np.random.default_rng(seed)
    n = len(rows)
    lengths = Lengths.of_rows(rows)
    requests = Requests.of(rng.integers(1, 50, n), lengths.most(), weight=rng.uniform(0.5, 2.0, n))
    goal = BatchObjective(1.0, 0.5, 0.01)
    problem = BatchingProblem(requests, (Executor("e0", 1e6, 4),), TIME, goal)
    order = rng.permutation(n)
    solution = schedule(problem, [[order[: n // 2], order[n // 2 :]]])
    truth = 0.0
    for outputs, p in _outcomes(lengths):
        actual = with_outputs(problem, outputs)
        truth += p * evaluate(actual, schedule(actual, solution.groups(1))).total
    found = expected_terms(problem, lengths, solution)
    assert found.exact
    assert found.total == pytest.approx(truth)


def test_waiting_and_deadlines_are_averaged():
    """With deadlines the draws' mean lies within five standard errors of the enumeration."""
    lengths = Lengths.of_rows([[10, 100], [10, 200], [20, 60]])
    requests = Requests.of([5, 5, 5], lengths.most(), arrival_s=[0.0, 0.5, 0.2], deadline_s=[2.0, 3.0, 2.0])
    problem = BatchingProblem(requests, (Executor("e0", 1e6, 2),), TIME, BatchObjective(violation=3.0))
    solution = schedule(problem, [[[0, 2], [1]]])
    truth = sum(
        p * evaluate(actual, schedule(actual, solution.groups(1))).total
        for outputs, p in _outcomes(lengths)
        for actual in [with_outputs(problem, outputs)]
    )
    found = expected_terms(problem, lengths, solution, draws=2000)
    assert not found.exact
    assert abs(found.total - truth) <= 5 * found.standard_error


# ----------------------------------------------------------------------------------------------------------------- caps


@settings(max_examples=80, deadline=None)
@given(ROWS, st.floats(0, 3), st.floats(0, 3), st.floats(0, 30))
def test_best_cap_beats_every_other(rows, over, under, restart):
    """Costs are those of the enumeration, and no whole cap costs less than the best."""
    lengths, cost = Lengths.of_rows(rows), CapCost(over, under, restart)

    def value(cap):
        return math.fsum(
            p * (over * max(cap - o, 0) + under * max(o - cap, 0) + restart * (o > cap))
            for i in range(len(lengths))
            for o, p in zip(*map(np.ndarray.tolist, lengths.row(i)), strict=True)
        )

    points, values = cap_costs(lengths, cost)
    assert values == pytest.approx([value(int(c)) for c in points], abs=1e-9)
    best = best_cap(lengths, cost)
    assert best.cost_s <= min(value(c) for c in range(42)) + 1e-9 or over == 0.0
    assert best.cost_s == pytest.approx(value(best.tokens), abs=1e-9)


def test_newsvendor_fractile_by_hand():
    """Outputs 10, 20, 30, 40 alike, over 1, under 3: the fractile 3/4 is reached at 30; restarts move it to 40."""
    lengths = Lengths.of_rows([[10, 20, 30, 40]])
    cost = CapCost(1.0, 3.0)
    assert cost.level == 0.75
    # At 30 and at 40 the cost is (20 + 10 + 0)/4 + 3·10/4 = 15 and (30 + 20 + 10)/4 = 15; of equals the larger.
    assert best_cap(lengths, cost).cost_s == pytest.approx(15.0)
    assert best_cap(lengths, cost).tokens == 40
    assert best_cap(lengths, CapCost(1.0, 2.0)).tokens == lengths.quantile(2 / 3)[0] == 30
    assert best_cap(lengths, CapCost(1.0, 2.0, restart_s=40.0)).tokens == 40
    assert best_cap(lengths, CapCost(1.0, 2.0)).restarts == pytest.approx(0.25)


def test_scarf_guards_against_the_worst():
    """μ = 100, σ = 50, u = 4, o = 1: 100 + 25·(2 − 1/2) = 137.5 is where the worst-case cost is least."""
    cost = CapCost(1.0, 4.0)
    assert scarf_cap(100.0, 50.0, cost) == pytest.approx(137.5)

    def worst(cap):  # Scarf's bound on E(O − c)⁺, and o·E(c − O)⁺ = o·(c − μ + E(O − c)⁺)
        short = (math.sqrt(50.0**2 + (cap - 100.0) ** 2) - (cap - 100.0)) / 2.0
        return 4.0 * short + 1.0 * (cap - 100.0 + short)

    assert worst(137.5) <= min(worst(100.0 + step) for step in range(-20, 120)) + 1e-9
    assert scarf_cap(1.0, 50.0, cost) == 0.0
    with pytest.raises(UsageError, match="costs above 0"):
        scarf_cap(1.0, 1.0, CapCost(1.0))


# ---------------------------------------------------------------------------------------------------------------- plans


def _workload(count, seed, kv=6000.0, batch=8, goal=None):
    rng = np.random.default_rng(seed)
    buckets = rng.integers(0, 6, count)
    probability = np.full((count, 9), 0.0)
    for shift, share in ((-1, 0.2), (0, 0.6), (1, 0.2)):
        np.add.at(probability, (np.arange(count), np.clip(buckets + shift, 0, 8)), share)
    lengths = Lengths.of_bucket_probabilities(probability)
    requests = Requests.of(rng.integers(10, 400, count), lengths.most())
    return BatchingProblem(requests, (Executor("e0", kv, batch),), TIME, goal or BatchObjective()), lengths


@pytest.mark.parametrize("memory", ["sum", "padded"])
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_every_batch_keeps_the_constraint(memory, epsilon):
    """Each batch's probability, recomputed, is at most ε, and every request is in one batch."""
    problem, lengths = _workload(60, 1, kv=4000.0)
    plan = plan_uncertain(problem, lengths, epsilon=epsilon, memory=memory, solver="sjf")
    assert sorted(plan.solution.rows.tolist()) == list(range(60))
    for batch, said in zip(plan.solution, plan.overflow, strict=True):
        prompt = problem.requests.prompt_tokens[batch.requests]
        found = overflow_probability(prompt, lengths.take(batch.requests), 4000, memory=memory)
        assert found.probability == pytest.approx(said.probability)
        assert found.probability <= epsilon + 1e-12
        assert len(batch.requests) * (batch.prompt_tokens + batch.output_tokens) <= 4000
    assert plan.worst_overflow <= epsilon + 1e-12
    assert plan.expected.total == min(item.expected_s for item in plan.candidates)


def test_allowing_overflow_is_worth_something():
    """A looser constraint never makes the best plan dearer, here clearly cheaper."""
    problem, lengths = _workload(80, 2, kv=2600.0, batch=32)
    values = [
        plan_uncertain(problem, lengths, epsilon=epsilon, solver="sjf").expected.total for epsilon in (0.0, 0.05, 0.3)
    ]
    assert values[0] > values[1] >= values[2] * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_expected_cut_is_best_for_its_order(seed):
    """With room enough the cut by expected makespan equals the best of all contiguous cuts, one by one."""
    problem, lengths = _workload(7, seed, kv=1e6, batch=4, goal=BatchObjective(0.0, 1.0))
    plan = plan_uncertain(problem, lengths, epsilon=0.5, levels=(0.5,), solver="fifo")
    mean = np.ceil(lengths.mean()).astype(np.int64)
    order = np.lexsort((problem.requests.prompt_tokens, mean))
    best = np.inf
    for cuts in itertools.product([False, True], repeat=6):
        groups = np.split(order, [i + 1 for i, cut in enumerate(cuts) if cut])
        if max(map(len, groups)) <= 4:
            best = min(best, expected_terms(problem, lengths, schedule(problem, [groups])).total)
    tried = {item.name: item.expected_s for item in plan.candidates}
    assert tried["expected cost, by mean output"] == pytest.approx(best)


def test_known_lengths_are_the_ordinary_problem():
    """Points have nothing to overflow, and the expected objective is the objective."""
    problem, _ = _workload(20, 3)
    lengths = Lengths.of_points(problem.requests.output_tokens)
    plan = plan_uncertain(problem, lengths, solver="sjf")
    assert plan.worst_overflow == 0.0
    assert plan.expected.exact
    assert plan.expected.total == pytest.approx(evaluate(plan.problem, plan.solution).total)


def test_a_request_that_overflows_alone_is_named():
    """Of 100 tokens, 60 prompt and 64 output with probability 0.6 do not fit."""
    problem = BatchingProblem(Requests.of([60], [30], id=["long"]), (Executor("e0", 100.0, 4),), TIME)
    lengths = Lengths.of_rows([[30, 64]], [[0.4, 0.6]])
    with pytest.raises(InfeasibleError, match=r"request long alone outgrows e0 \(100 tokens\) with probability 0\.6"):
        plan_uncertain(problem, lengths)


def test_caps_come_with_the_plan():
    """One cap a batch, each one of its possible outputs."""
    problem, lengths = _workload(20, 4)
    cost = CapCost(1e-4, 2e-3, 0.5)
    plan = plan_uncertain(problem, lengths, solver="sjf", cap_cost=cost)
    assert plan.caps == best_caps(lengths, plan.solution, cost)
    assert len(plan.caps) == plan.solution.num_batches


@pytest.mark.parametrize("epsilon", [-0.1, 1.0])
def test_probabilities_out_of_range_are_refused(epsilon):
    """ε is at least 0 and below 1."""
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        ChanceConstraint(epsilon)


# ---------------------------------------------------------------------------------------------------------- sensitivity


def test_overflowing_batch_runs_again_by_hand():
    """Two of 10 + 10 in 40 tokens, but one output is 20: 2·30 > 40, so the longer runs again after the shorter.

    Steps of 1 s: 9 s for the first, then 19 s more and a restart of 5 s: Σ C = 9 + 33.
    """
    problem = BatchingProblem(Requests.of([10, 10], [10, 20]), (Executor("e0", 40.0, 2),), BatchTime(step_fixed_s=1.0))
    planned = problem.replace(requests=Requests.of([10, 10], [10, 10]))
    solution = schedule(planned, [[[0, 1]]])
    found = realize(problem, solution, restart_s=5.0)
    assert (found.overflowed, found.restarted) == (1, 1)
    assert found.objective == pytest.approx(9.0 + 33.0)
    # Σ(s+o) = 50 > 40 as well, but with 50 tokens of cache both stay: 19 s each.
    roomy = problem.replace(executors=(Executor("e0", 50.0, 2),))
    assert realize(roomy, solution, memory="sum").objective == pytest.approx(38.0)


def test_no_error_no_loss():
    """A perfect predictor's plan is the plan; a poor one's costs more."""
    problem, _ = _workload(60, 5, kv=6000.0, goal=BatchObjective(0.0, 1.0))
    rows = sensitivity(problem, errors=(0.0, 2.0), solver="sjf", draws=2)
    assert rows[0].mean_excess == 0.0
    assert rows[0].mape == 0.0
    assert rows[1].mape > 0.5
    assert rows[1].mean_excess > 0.02
    assert rows[1].worst_s >= rows[1].mean_s


def test_bucket_noise_moves_one_power_of_two():
    """Without error each length is its power of two rounded up; with full error half or twice that."""
    problem = BatchingProblem(Requests.of([1] * 4, [5, 8, 9, 100]), (Executor("e0", 1e6, 4),), TIME)
    assert predicted_outputs(problem, 0.0, "bucket", 0).tolist() == [8, 8, 16, 128]
    moved = predicted_outputs(problem, 1.0, "bucket", 0) / np.array([8, 8, 16, 128])
    assert set(moved.tolist()) <= {0.5, 2.0}
