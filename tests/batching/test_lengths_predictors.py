"""Predictors: what they learn, how accuracy is counted, and what is said when scikit-learn is missing."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from gpuplan.errors import InputError, SolverUnavailableError, UsageError
from gpuplan.profiles.lengths import Buckets, Lengths
from gpuplan.profiles.predictors import MarginalPredictor, accuracy, accuracy_report, train_bucket_predictor
from gpuplan.profiles.requests import RequestTable

needs_sklearn = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")


def _history(count, seed=0):
    """Return requests whose outputs follow their class: short answers 5..30, long ones about twice the prompt."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(20, 800, count)
    kind = rng.integers(0, 2, count)
    output = np.where(kind == 0, rng.integers(5, 30, count), np.minimum(2 * prompt + rng.integers(0, 50, count), 2000))
    return RequestTable(
        id=np.arange(count),
        prompt_tokens=prompt,
        output_tokens=output,
        arrival_s=np.arange(count, dtype=np.float64),
        request_class=np.where(kind == 0, "short", "long").astype(object),
    )


def test_marginal_is_what_was_seen_by_class():
    """Outputs 8 and 16 for class a, 32 for b: probabilities by class, all of them for a class never seen."""
    history = RequestTable(
        id=np.arange(3),
        prompt_tokens=np.array([1, 1, 1]),
        output_tokens=np.array([8, 16, 32]),
        arrival_s=np.zeros(3),
        request_class=np.array(["a", "a", "b"], dtype=object),
    )
    predictor = MarginalPredictor.of(history, Buckets((8, 16, 32)))
    asked = RequestTable(
        id=np.arange(3),
        prompt_tokens=np.array([1, 1, 1]),
        output_tokens=np.array([0, 0, 0]),
        arrival_s=np.zeros(3),
        request_class=np.array(["a", "b", "new"], dtype=object),
    )
    assert predictor.predict(asked).mean() == pytest.approx([12.0, 32.0, 56 / 3])


def test_accuracy_by_hand():
    """Buckets 8/16/32, predicted 8, 16, 32 for true 7, 30, 20: right, one off, right; errors 1, 14 and 12 tokens."""
    found = accuracy(Lengths.of_points([8, 16, 32]), np.array([7, 30, 20]), Buckets((8, 16, 32)))
    assert found.bucket_accuracy == pytest.approx(2 / 3)
    assert found.within_one_bucket == 1.0
    assert found.mean_absolute_error_tokens == pytest.approx(9.0)
    assert found.mean_absolute_percentage_error == pytest.approx((1 / 7 + 14 / 30 + 12 / 20) / 3)
    assert found.underestimated == pytest.approx(1 / 3)
    assert found.log_loss == pytest.approx(-np.log(1e-6) / 3)


def test_accuracy_of_nothing_is_refused():
    """Predictions and outputs go together."""
    with pytest.raises(UsageError, match="predictions of 2 requests"):
        accuracy(Lengths.of_points([8]), np.array([7, 8]))


@needs_sklearn
def test_classifier_learns_class_and_prompt():
    """It beats what the classes say alone, by a wide margin where length follows the prompt."""
    report = accuracy_report(_history(1500), seed=1)
    assert report.training_requests == 1125
    assert report.trained.requests == report.marginal.requests == 375
    assert report.trained.bucket_accuracy > report.marginal.bucket_accuracy + 0.15
    assert report.trained.within_one_bucket > 0.9
    assert report.trained.log_loss < report.marginal.log_loss
    assert report.trained.underestimated < 0.15


@needs_sklearn
def test_same_seed_same_predictions():
    """Training follows from the history and the seed."""
    history = _history(200)
    first = train_bucket_predictor(history, seed=3).predict(history)
    again = train_bucket_predictor(history, seed=3).predict(history)
    assert first.probability.tolist() == again.probability.tolist()


@needs_sklearn
def test_names_never_seen_are_predicted_all_the_same():
    """A class that is new, or a table without classes, still gets lengths."""
    predictor = train_bucket_predictor(_history(200))
    asked = RequestTable(
        id=np.arange(2), prompt_tokens=np.array([5, 500]), output_tokens=np.array([0, 0]), arrival_s=np.zeros(2)
    )
    assert len(predictor.predict(asked)) == 2


@needs_sklearn
def test_one_bucket_is_always_predicted():
    """A history that knows one bucket has nothing else to say."""
    history = RequestTable(
        id=np.arange(30), prompt_tokens=np.arange(30), output_tokens=np.full(30, 8), arrival_s=np.zeros(30)
    )
    assert train_bucket_predictor(history).predict(history).most().tolist() == [8] * 30


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    """The sentence says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SolverUnavailableError, match=r"needs scikit-learn; install it with pip install 'gpuplan\[predict\]'"
    ):
        train_bucket_predictor(_history(30))


@needs_sklearn
def test_too_few_requests_are_refused():
    """Twenty at least."""
    with pytest.raises(InputError, match="at least 20 requests to learn from, got 5"):
        train_bucket_predictor(_history(5))
