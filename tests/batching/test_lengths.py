"""Lengths that are not known yet: points, buckets, quantiles, samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.lengths import UELLM_BUCKETS, Buckets, Lengths


def test_preset_buckets_are_uellm_s():
    """The preset has nine buckets, 8 to 2048 in powers of two."""
    assert UELLM_BUCKETS.edges == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def test_mean_variance_and_quantiles_by_hand():
    """Lengths 3, 5, 5, 9: mean 22/4 = 5.5, variance (6.25 + 0.25 + 0.25 + 12.25)/4 = 4.75, median 5, 80 % needs 9."""
    lengths = Lengths.of_rows([[5, 3, 5, 9], [7]])
    assert lengths.mean().tolist() == [5.5, 7.0]
    assert lengths.variance().tolist() == [4.75, 0.0]
    assert lengths.quantile(0.5).tolist() == [5, 7]
    assert lengths.quantile(0.8).tolist() == [9, 7]
    assert lengths.within([4, 7]).tolist() == [0.25, 1.0]
    assert (lengths.least().tolist(), lengths.most().tolist()) == ([3, 7], [9, 7])


def test_bucket_is_its_upper_edge_or_spread():
    """Bucket 2 of 8/16/32 holds 17..32: at its edge, or 16 lengths of 1/16 each with mean 24.5."""
    buckets = Buckets((8, 16, 32))
    assert Lengths.of_buckets([2], buckets).tokens.tolist() == [32]
    spread = Lengths.of_buckets([2], buckets, spread="uniform")
    assert spread.tokens.tolist() == list(range(17, 33))
    assert spread.mean()[0] == pytest.approx(24.5)


def test_wide_bucket_is_never_shorter_than_uniform():
    """Bucket 1025..2048 in 16 points of 64 lengths each: every point is the longest of its share."""
    spread = Lengths.of_buckets([8], spread="uniform")
    assert spread.tokens.tolist() == [1024 + 64 * k for k in range(1, 17)]


def test_quantiles_put_mass_at_the_upper_end():
    """Quantiles 10 (50 %) and 20 (90 %) with limit 100: 0.5 at 10, 0.4 at 20, 0.1 at 100."""
    lengths = Lengths.of_quantiles([0.5, 0.9], [[10, 20]], limit=100)
    assert lengths.tokens.tolist() == [10, 20, 100]
    assert lengths.probability == pytest.approx([0.5, 0.4, 0.1])


def test_quantiles_without_a_limit_are_refused():
    """Mass above the last level needs a place."""
    with pytest.raises(InputError, match=r"levels up to 0\.9; .*--output-limit"):
        Lengths.of_quantiles([0.5, 0.9], [[10, 20]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Lengths.of_rows([[5], []]), "row 2: expected a length for every request"),
        (lambda: Lengths.of_rows([[5.5]]), "row 1: expected a whole number of tokens, got 5.5"),
        (lambda: Lengths.of_rows([[-1]]), "at least 0, got -1"),
        (lambda: Lengths.of_rows([[1, 2]], [[0.5, 0.4]]), "row 1: expected probabilities that sum to 1, got 0.9"),
        (lambda: Lengths.of_rows([[1, 2]], [[1.5, -0.5]]), "probabilities above 0, got -0.5"),
        (lambda: Lengths.of_rows([[1, 2]], [[1.0]]), "a probability for each of 2 lengths, got 1"),
        (lambda: Lengths.of_rows([["a"]]), "whole numbers of tokens"),
        (lambda: Lengths.of_rows([[float("nan")]]), "whole number of tokens, got nan"),
        (lambda: Lengths.of_buckets([9]), "bucket numbers from 0 to 8, got 9"),
        (lambda: Lengths.of_quantiles([0.9, 0.5], [[1, 2]], limit=9), "levels that rise"),
        (lambda: Lengths.of_quantiles([0.5, 1.0], [[2, 1]]), "row 1: expected quantiles that rise with their level"),
        (lambda: Lengths.of_quantiles([0.5, 1.0], [[2, 3, 4]]), "expected 2 quantiles a request, got 3"),
        (lambda: Lengths.of_bucket_probabilities([[0.5, 0.5]]), "a probability for each of 9 buckets"),
    ],
)
def test_bad_lengths_are_refused(make, words):
    """Each defect has its own sentence."""
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize("edges", [(), (0, 8), (8, 8), (16, 8)])
def test_bad_edges_are_refused(edges):
    """Edges rise from at least 1."""
    with pytest.raises(UsageError, match="edges that rise"):
        Buckets(edges)


def test_level_outside_is_refused():
    """A quantile needs a level above 0."""
    with pytest.raises(UsageError, match="level above 0"):
        Lengths.of_points([1]).quantile(0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=6))
def test_columns_agree_with_numpy(rows):
    """Means, variances and quantiles are NumPy's on the samples themselves."""
    lengths = Lengths.of_rows(rows)
    assert lengths.mean() == pytest.approx([np.mean(row) for row in rows])
    assert lengths.variance() == pytest.approx([np.var(row) for row in rows], abs=1e-9)
    for level in (0.1, 0.5, 0.9, 1.0):
        expected = [np.quantile(row, level, method="inverted_cdf") for row in rows]
        assert lengths.quantile(level).tolist() == expected
    assert lengths.within(7) == pytest.approx([np.mean(np.array(row) <= 7) for row in rows])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_take_keeps_each_distribution(rows, data):
    """Taking rows in any order, also twice, is taking their samples."""
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    taken = Lengths.of_rows(rows).take(np.array(order, dtype=np.int64))
    direct = Lengths.of_rows([rows[i] for i in order])
    assert taken.offsets.tolist() == direct.offsets.tolist()
    assert taken.tokens.tolist() == direct.tokens.tolist()
    assert taken.probability.tolist() == direct.probability.tolist()


def test_samples_follow_the_distribution():
    """Of 20,000 draws a quarter are 3, within four standard errors (0.0031)."""
    drawn = Lengths.of_rows([[3, 5, 5, 9], [7]]).sample(20_000, seed=1)
    assert abs((drawn[:, 0] == 3).mean() - 0.25) < 0.0125
    assert set(drawn[:, 0].tolist()) == {3, 5, 9}
    assert (drawn[:, 1] == 7).all()


def test_same_seed_same_draws():
    """Draws follow from the seed alone."""
    lengths = Lengths.of_rows([[1, 2, 3]] * 4)
    assert (lengths.sample(50, 3) == lengths.sample(50, 3)).all()
    assert (lengths.sample(50, 3) != lengths.sample(50, 4)).any()


def test_capped_and_joined():
    """Capping moves the mass above the limit to it; joining puts requests one after the other."""
    capped = Lengths.of_rows([[3, 5, 9]]).capped(4)
    assert capped.tokens.tolist() == [3, 4]
    assert capped.probability == pytest.approx([1 / 3, 2 / 3])
    joined = Lengths.joined([capped, Lengths.of_points([8])])
    assert joined.most().tolist() == [4, 8]
