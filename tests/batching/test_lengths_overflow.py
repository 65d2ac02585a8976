"""Chance constraints against exhaustive enumeration of every outcome."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import UsageError
from gpuplan.profiles.lengths import Lengths
from gpuplan.solvers.batching.uncertain.overflow import overflow_probability, upper_limit

LENGTHS = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=4, unique_by=lambda v: v[0]),
    min_size=1,
    max_size=5,
)


def _lengths(rows):
    tokens = [[value for value, _ in row] for row in rows]
    mass = [np.array([weight for _, weight in row]) / sum(weight for _, weight in row) for row in rows]
    return Lengths.of_rows(tokens, mass)


def _enumerated(prompt, lengths, overflows):
    """Return the probability of the outcomes for which `overflows(outputs)` holds, one by one."""
    rows = [list(zip(*map(np.ndarray.tolist, lengths.row(i)), strict=True)) for i in range(len(lengths))]
    return math.fsum(
        math.prod(p for _, p in outcome)
        for outcome in itertools.product(*rows)
        if overflows([tokens for tokens, _ in outcome])
    )


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(0, 130), st.data())
def test_exact_is_the_enumeration(rows, capacity, data):
    """Convolution gives the sum over all outcomes, for Σ(s+O) and for padded memory."""
    lengths = _lengths(rows)
    prompt = np.array(data.draw(st.lists(st.integers(0, 20), min_size=len(rows), max_size=len(rows))))
    total = int(prompt.sum())
    exact = overflow_probability(prompt, lengths, capacity)
    assert exact.probability == pytest.approx(
        _enumerated(prompt, lengths, lambda o: total + sum(o) > capacity), abs=1e-12
    )
    assert exact.exact
    padded = overflow_probability(prompt, lengths, capacity, memory="padded")
    worst = _enumerated(prompt, lengths, lambda o: len(o) * (prompt.max() + max(o)) > capacity)
    assert padded.probability == pytest.approx(worst, abs=1e-12)
    # What is padded is at least what is held.
    assert padded.probability >= exact.probability - 1e-12


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(0, 130))
def test_bounds_are_bounds(rows, capacity):
    """Hoeffding's and Chebyshev's values are never below the probability."""
    lengths = _lengths(rows)
    prompt = np.zeros(len(rows), dtype=np.int64)
    exact = overflow_probability(prompt, lengths, capacity, method="exact").probability
    for method in ("hoeffding", "chebyshev"):
        found = overflow_probability(prompt, lengths, capacity, method=method)
        assert found.probability >= exact - 1e-12
        assert found.method in (method, "never")


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(0, 130), st.data())
def test_leaving_a_request_out_never_hurts(rows, capacity, data):
    """Each method's value falls, or stays, when a request leaves the batch: windows of requests can be halved."""
    lengths = _lengths(rows)
    left = data.draw(st.integers(0, len(rows) - 1))
    kept = np.array([i for i in range(len(rows)) if i != left], dtype=np.int64)
    prompt = np.full(len(rows), 2)
    for method in ("exact", "hoeffding", "chebyshev"):
        whole = overflow_probability(prompt, lengths, capacity, method=method).probability
        less = overflow_probability(prompt[kept], lengths.take(kept), capacity, method=method).probability
        assert less <= whole + 1e-12


def test_two_coins_by_hand():
    """Two requests of 10 + (10 or 20) tokens: both long (1/4) need 60, one long 50, so K = 55 overflows with 1/4."""
    lengths = Lengths.of_rows([[10, 20], [10, 20]])
    prompt = np.array([10, 10])
    assert overflow_probability(prompt, lengths, 55).probability == 0.25
    assert overflow_probability(prompt, lengths, 60).probability == 0.0
    assert overflow_probability(prompt, lengths, 60).method == "never"
    assert overflow_probability(prompt, lengths, 39).probability == 1.0
    # Chebyshev: μ = 50, σ² = 2·25, t = 56 − 50 = 6: 50/86. Hoeffding: exp(−2·36/200).
    chebyshev = overflow_probability(prompt, lengths, 55, method="chebyshev")
    assert chebyshev.probability == pytest.approx(50 / 86)
    hoeffding = overflow_probability(prompt, lengths, 55, method="hoeffding")
    assert hoeffding.probability == pytest.approx(math.exp(-72 / 200))


def test_small_probabilities_keep_their_digits():
    """Thirty requests all long at 1 in 1,000: 10⁻⁹⁰ for overflow, not 0 and not rounding noise."""
    lengths = Lengths.of_rows([[0, 1]] * 30, [[0.999, 0.001]] * 30)
    found = overflow_probability(np.zeros(30, dtype=np.int64), lengths, 29)
    assert found.probability == pytest.approx(1e-90, rel=1e-9)


def test_sampling_covers_the_probability():
    """The share is near 1/4 and the upper limit above it."""
    lengths = Lengths.of_rows([[10, 20], [10, 20]])
    found = overflow_probability(np.array([10, 10]), lengths, 55, method="sample", draws=4000, seed=2)
    assert found.estimate == pytest.approx(0.25, abs=0.03)  # four standard errors: 0.027
    assert found.estimate < found.probability < 0.30
    assert not found.exact


def test_upper_limit_by_hand():
    """No hit in n draws: 1 − (1−c)^(1/n); all hits: 1."""
    assert upper_limit(0, 100, 0.99) == pytest.approx(1 - 0.01 ** (1 / 100))
    assert upper_limit(5, 5, 0.9) == 1.0


def test_large_batches_fall_back_to_a_bound():
    """Where convolution would take long, `auto` says which bound it used."""
    rng = np.random.default_rng(0)
    lengths = Lengths.of_rows(rng.integers(1, 1_000_000, size=(40, 200)).tolist())
    prompt = np.zeros(40, dtype=np.int64)
    found = overflow_probability(prompt, lengths, 30_000_000)
    assert found.method in ("hoeffding", "chebyshev")
    assert 0.0 < found.probability < 1.0


def test_lengths_of_another_batch_are_refused():
    """Prompts and lengths go together."""
    with pytest.raises(UsageError, match="lengths of 2 requests, got 1"):
        overflow_probability(np.array([1, 2]), Lengths.of_points([3]), 10)
