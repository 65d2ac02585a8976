"""Iteration-level parameters: the token budget and every limit by recomputation, admission by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InfeasibleError, UsageError
from gpuplan.plans.iteration import iteration_s
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import BatchObjective, BatchTime, Executor, Requests
from gpuplan.solvers.batching.iteration import iteration_parameters, mean_context
from gpuplan.solvers.batching.queue_order import finish_times, order_values
from gpuplan.solvers.batching.uncertain.admission import FootprintSums, admission_limit

TIME = BatchTime(0.005, 1e-5, 0.010, 1e-4, 1e-8)


def _requests(count=200, seed=0, **columns):
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(50, 1500, count), rng.integers(10, 400, count)
    return Requests.of(prompt, output, **columns)


def test_iteration_is_the_decode_step_and_the_prefill():
    """Without prompts it is a step of the batch time, without sequences its prefill: 3 sequences at 100 tokens each."""
    step = float(TIME.batch_s(3, 99, 2) - TIME.batch_s(3, 99, 1))  # the one step at context 99 + 1
    assert iteration_s(TIME, 3, 300.0, 0) == pytest.approx(step)
    assert iteration_s(TIME, 0, 0.0, 300) == pytest.approx(float(TIME.prefill_s(3, 100)))
    # Mixed: the larger fixed part once: 0.010 + 3e-4 + 3e-6 + 500e-5.
    assert iteration_s(TIME, 3, 300.0, 500) == pytest.approx(0.010 + 3e-4 + 3e-6 + 5e-3)
    assert iteration_s(TIME, 3, 300.0, 500, speed=2.0) == pytest.approx((0.010 + 3e-4 + 3e-6 + 5e-3) / 2)


def test_token_budget_by_hand():
    """Target 20 ms, 10 sequences of 1e-4 s on 10 ms: 9 ms left for prompts of 1e-5 s: 900, and 910 tokens in all.

    With one sequence decoding there are 9.9 ms: 990 + 1 tokens, so the full batch decides.
    """
    time = BatchTime(0.0, 1e-5, 0.010, 1e-4, 0.0)
    found = iteration_parameters(Requests.of([10] * 4, [1000] * 4), Executor("e0", 1e6, 10), time, tpot_s=0.020)
    assert found.max_sequences == 10
    assert found.token_budget == pytest.approx(910, abs=1)  # 0.009/1e-5 rounds either way
    assert found.iteration_s <= 0.020 < found.iteration_with(found.token_budget + 1)
    assert found.prompt_tokens == found.token_budget - 10


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*(st.floats(0, high) for high in (0.01, 1e-4, 0.01, 1e-3, 1e-6))),
    st.floats(0.005, 0.1),
    st.integers(1, 64),
    st.integers(2_000, 60_000),
    st.sampled_from(["mean", "full"]),
    st.floats(0.5, 4.0),
)
def test_budget_is_the_most_tokens_within_the_target(coefficients, tpot, most, capacity, context, speed):
    """For any number of decoding sequences T tokens stay within the target; with T + 1 some number does not."""
    time, executor = BatchTime(*coefficients), Executor("e0", float(capacity), most, speed)
    requests = _requests(30)
    try:
        found = iteration_parameters(requests, executor, time, tpot_s=tpot, context=context)
    except InfeasibleError:
        one = capacity if context == "full" else mean_context(requests, Lengths.of_points(requests.output_tokens))
        alone = iteration_s(time, 1, one, 0, speed)
        assert alone > tpot or int((requests.prompt_tokens + requests.output_tokens).max()) > capacity
        return

    mean = mean_context(requests, Lengths.of_points(requests.output_tokens))

    def slowest(tokens):
        reads = [float(capacity) if context == "full" else min(m * mean, capacity) for m in range(most + 1)]
        counts = range(1, min(found.max_sequences, tokens) + 1)
        return max(iteration_s(time, m, reads[m], tokens - m, speed) for m in counts)

    assert found.token_budget >= found.max_sequences >= 1
    assert found.max_sequences <= min(found.limits["executor"], found.limits["tpot"], found.limits["kv"])
    assert slowest(found.token_budget) <= tpot
    capped = found.token_budget == 1 + capacity  # more prompt tokens than the cache holds never run
    assert capped or slowest(found.token_budget + 1) > tpot


def test_more_time_means_more_tokens_and_sequences():
    """A looser TPOT target never shrinks the batch or what each sequence may have beside it."""
    found = [
        iteration_parameters(_requests(), Executor("e0", 3e5, 512), TIME, tpot_s=tpot)
        for tpot in (0.015, 0.03, 0.06, 0.12)
    ]
    assert [p.max_sequences for p in found] == sorted(p.max_sequences for p in found)
    assert found[0].max_sequences < found[-1].max_sequences


def test_prefill_keeps_up():
    """At the chosen batch the prompts that arrive fit beside it, at one sequence more they do not."""
    requests = _requests()
    found = iteration_parameters(requests, Executor("e0", 1e6, 512), TIME, tpot_s=0.03)
    assert found.max_sequences == found.limits["prefill"] < found.limits["tpot"]
    per_step = requests.prompt_tokens.mean() / requests.output_tokens.mean()
    assert found.prompt_tokens >= found.max_sequences * per_step
    n = found.max_sequences + 1
    mean = mean_context(requests, Lengths.of_points(requests.output_tokens))
    assert iteration_s(TIME, n, n * mean, math.ceil(n * per_step)) > 0.03


def test_mean_context_by_hand():
    """Prompt 10 with 2 steps sees 11 and 12, prompt 20 with 1 step sees 21: (11 + 12 + 21)/3."""
    requests = Requests.of([10, 20], [2, 1])
    assert mean_context(requests, Lengths.of_points(requests.output_tokens)) == pytest.approx(44 / 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.lists(st.integers(0, 20), min_size=1, max_size=3)), min_size=1, max_size=3
    ),
    st.integers(0, 120),
    st.sampled_from([0.001, 0.1, 0.4]),
    st.sampled_from(["final", "running"]),
)
def test_admission_is_the_enumeration(rows, capacity, epsilon, footprint):
    """P(Σ > K) for one to three requests drawn alike, each outcome one by one; the limit is the last that holds."""
    prompt = np.array([prompt for prompt, _ in rows])
    lengths = Lengths.of_rows([outputs for _, outputs in rows])
    if footprint == "final":
        single = [(s + o, 1 / len(rows) / len(outputs)) for s, outputs in rows for o in outputs]
    else:
        steps = [(s + k, 1 / len(outputs)) for s, outputs in rows for o in outputs for k in range(1, o + 1)]
        total = sum(p for _, p in steps)
        single = [(f, p / total) for f, p in steps] if steps else [(int(prompt.max()), 1.0)]
    sums = FootprintSums(prompt, lengths, capacity, footprint=footprint)
    truth = {}
    for count in (1, 2, 3) if len(single) <= 30 else (1, 2):
        truth[count] = sum(
            math.prod(p for _, p in outcome)
            for outcome in itertools.product(single, repeat=count)
            if sum(f for f, _ in outcome) > capacity
        )
        assert sums.overflow(count) == pytest.approx(truth[count], abs=1e-9)
    assert sums.exact
    found = admission_limit(prompt, lengths, capacity, epsilon, footprint=footprint, most=max(truth))
    safe = [n for n, p in truth.items() if p <= epsilon - 1e-9]
    allowed = [n for n, p in truth.items() if p <= epsilon + 1e-9]
    assert max(safe, default=0) <= found.limit <= max(allowed, default=0)


def test_admission_by_hand():
    """Footprints 10 or 20 alike, K = 50: three overflow when all are long: 1/8; four unless one is at most."""
    lengths, prompt = Lengths.of_rows([[10, 20]]), np.array([0])
    assert admission_limit(prompt, lengths, 50, 0.13).limit == 3
    assert admission_limit(prompt, lengths, 50, 0.12).limit == 2  # two never need more than 40
    sums = FootprintSums(prompt, lengths, 50)
    assert sums.overflow(3) == pytest.approx(1 / 8)
    assert sums.overflow(4) == pytest.approx(1 - (1 + 4) / 16)


def test_coarse_grid_is_on_the_safe_side():
    """A grid wider than the tokens never says less than the fine one."""
    rng = np.random.default_rng(3)
    prompt, lengths = rng.integers(1, 900, 100), Lengths.of_points(rng.integers(1, 300, 100))
    fine = FootprintSums(prompt, lengths, 20_000, cells=1 << 15)
    coarse = FootprintSums(prompt, lengths, 20_000, cells=200)
    assert fine.exact
    assert coarse.method == "grid of 100 tokens, rounded up"
    for count in (10, 25, 30, 35):
        assert coarse.overflow(count) >= fine.overflow(count) - 1e-9
    assert coarse.largest(0.01) <= fine.largest(0.01)


def test_admission_holds_in_simulation():
    """Drawn batches of the limit's size overflow no more often than ε says (0.05, four standard errors 0.02)."""
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(50, 1500, 300), rng.integers(10, 400, 300)
    found = admission_limit(prompt, Lengths.of_points(output), 30_000, 0.05)
    drawn = rng.integers(0, 300, size=(4000, found.limit))
    share = ((prompt + output)[drawn].sum(axis=1) > 30_000).mean()
    assert share <= 0.05 + 0.014
    more = rng.integers(0, 300, size=(4000, found.limit + 2))
    assert ((prompt + output)[more].sum(axis=1) > 30_000).mean() > share


def test_queue_orders_by_hand():
    """One slot, services 4 and 1 at time 0: fcfs ends 4, 5 (Σ 9), shortest first 1, 5 (Σ 6)."""
    requests = Requests.of([1, 1], [4, 1])
    service = np.array([4.0, 1.0])
    values = order_values(requests, service, 1, BatchObjective())
    assert values == {"fcfs": 9.0, "shortest-first": 6.0}
    assert finish_times(requests, service, 2, requests.arrival_s).tolist() == [4.0, 1.0]


def test_queue_order_follows_the_objective():
    """Latency wants the shortest first, hard deadlines the most urgent, equal requests stay first come first served."""
    executor = Executor("e0", 1e5, 2)
    mixed = _requests(60)
    assert iteration_parameters(mixed, executor, TIME, tpot_s=0.05).queue_order == "shortest-first"
    alike = Requests.of([100] * 9, [50] * 9)
    assert iteration_parameters(alike, executor, TIME, tpot_s=0.05).queue_order == "fcfs"
    urgent = _requests(60, deadline_s=np.linspace(900, 30, 60))
    hard = BatchObjective(deadlines="hard")
    found = iteration_parameters(urgent, executor, TIME, tpot_s=0.05, objective=hard)
    assert found.order_values["deadline"] < found.order_values["fcfs"]
    given_order = iteration_parameters(urgent, executor, TIME, tpot_s=0.05, queue_order="weight")
    assert given_order.queue_order == "weight"


def test_a_target_no_step_meets_is_infeasible():
    """The step of one sequence is named."""
    with pytest.raises(InfeasibleError, match=r"one sequence takes 0\.0101.* s, over the TPOT target of 0\.01 s"):
        iteration_parameters(_requests(), Executor("e0", 1e5, 8), TIME, tpot_s=0.01)


def test_a_cache_too_small_is_infeasible():
    """Even one request overflows."""
    with pytest.raises(InfeasibleError, match=r"outgrows the KV cache of 300 tokens more often than 0\.01"):
        iteration_parameters(_requests(), Executor("e0", 300.0, 8), TIME, tpot_s=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tpot_s": 0.0}, "a TPOT target above 0 s"),
        ({"tpot_s": float("nan")}, "a TPOT target above 0 s"),
        ({"tpot_s": 0.1, "epsilon": 0.0}, "a probability between 0 and 1, got 0.0"),
        ({"tpot_s": 0.1, "lengths": Lengths.of_points([1])}, "lengths of 200 requests, got 1"),
    ],
)
def test_wrong_values_are_refused(options, words):
    """Each has its own sentence."""
    with pytest.raises(UsageError) as caught:
        iteration_parameters(_requests(), Executor("e0", 1e5, 8), TIME, **options)
    assert words in str(caught.value)


def test_predicted_lengths_replace_the_table_s():
    """With longer predicted outputs fewer requests are admitted."""
    requests, executor = _requests(), Executor("e0", 3e4, 512)
    short = iteration_parameters(requests, executor, TIME, tpot_s=0.2)
    lengths = Lengths.of_buckets(np.full(200, 8))
    long = iteration_parameters(requests, executor, TIME, tpot_s=0.2, lengths=lengths)
    assert long.admission_limit < short.admission_limit
    assert long.longest_tokens == requests.prompt_tokens.max() + 2048
