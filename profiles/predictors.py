"""Predictors of output lengths, and how good they are.

A predictor is anything with ``predict(table) -> Lengths``. Two ship: `MarginalPredictor` (what a class of requests
produced so far; needs nothing) and, with the extra ``predict``, a bucket classifier on prompt features
(`train_bucket_predictor`). Another one's output is read with `gpuplan.profiles.predictions`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError, SolverUnavailableError, UsageError
from gpuplan.profiles.lengths import UELLM_BUCKETS, Buckets, Lengths
from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.profiles.requests import RequestTable

#: Share of a history that accuracy is measured on.
HELD_OUT: Final = 0.25
#: Requests that are enough to learn from; more are sampled.
ENOUGH: Final = 50_000
_TOO_FEW: Final = 20
#: Trees, and requests each is grown on at most: a second or two of training.
_TREES: Final = 80
_TREE_SAMPLE: Final = 8_000


class Predictor(Protocol):
    """Anything that says what outputs to expect."""

    def predict(self, table: RequestTable) -> Lengths:
        """Return a distribution of output tokens for each request."""


@dataclass(frozen=True, slots=True)
class MarginalPredictor:
    """Every request of a class is like the class was: one distribution over buckets for each class.

    Parameters
    ----------
    buckets
        What lengths are counted in.
    shares
        Probabilities of the buckets by (tenant, class); under None those of all requests.
    """

    buckets: Buckets
    shares: dict[Any, FloatArray]

    @classmethod
    def of(cls, history: RequestTable, buckets: Buckets = UELLM_BUCKETS) -> MarginalPredictor:
        """Return what `history` produced."""
        number = buckets.index(history.output_tokens)
        names = _groups(history)
        whole = {None: np.ones(len(history), dtype=bool)} | {
            name: np.array([other == name for other in names]) for name in set(names)
        }
        shares = {
            name: np.bincount(number[mask], minlength=len(buckets)) / float(mask.sum()) for name, mask in whole.items()
        }
        return cls(buckets, shares)

    def predict(self, table: RequestTable) -> Lengths:
        """Return each request's class's distribution; of classes not seen before that of all requests."""
        rows = [self.shares.get(name, self.shares[None]) for name in _groups(table)]
        return Lengths.of_bucket_probabilities(np.array(rows), self.buckets)


@dataclass(frozen=True, slots=True)
class BucketPredictor:
    """A classifier of output buckets on prompt length, tenant and class (see `train_bucket_predictor`)."""

    buckets: Buckets
    classifier: Any
    codes: tuple[dict[Any, int], ...]

    def predict(self, table: RequestTable) -> Lengths:
        """Return the classifier's probabilities, each bucket at its upper edge."""
        probability = np.zeros((len(table), len(self.buckets)))
        probability[:, self.classifier.classes_] = self.classifier.predict_proba(_features(table, self.codes))
        return Lengths.of_bucket_probabilities(probability / probability.sum(axis=1, keepdims=True), self.buckets)


def require_sklearn(what: str) -> None:
    """Refuse to train where scikit-learn is not installed (SolverUnavailableError), naming the extra."""
    if importlib.util.find_spec("sklearn") is None:
        raise SolverUnavailableError(
            f"{what} needs scikit-learn; install it with pip install 'gpuplan[predict]', or hand in another "
            "predictor's output with --predictions"
        )


def train_bucket_predictor(
    history: RequestTable, *, buckets: Buckets = UELLM_BUCKETS, seed: int = 0
) -> BucketPredictor:
    """Return a random forest that tells output buckets apart (scikit-learn, the extra ``predict``).

    Parameters
    ----------
    history
        Requests with their actual outputs; above `ENOUGH` of them a sample is taken.
    seed
        Of the sample and the classifier.

    Raises
    ------
    SolverUnavailableError
        scikit-learn is not installed.
    InputError
        Fewer than 20 requests.
    """
    require_sklearn("training a length predictor")
    if len(history) < _TOO_FEW:
        raise InputError(f"expected at least {_TOO_FEW} requests to learn from, got {len(history)}")
    from sklearn.ensemble import RandomForestClassifier

    if len(history) > ENOUGH:
        history = history.take(np.sort(np.random.default_rng(seed).choice(len(history), ENOUGH, replace=False)))
    codes = tuple(_code_book(column) for column in _names(history))
    target = buckets.index(history.output_tokens)
    if len(np.unique(target)) == 1:
        return BucketPredictor(buckets, _Constant(target[:1]), codes)
    forest = RandomForestClassifier(
        n_estimators=_TREES,
        min_samples_leaf=max(2, min(20, len(history) // 100)),
        max_samples=min(1.0, _TREE_SAMPLE / len(history)),
        max_features=None,
        random_state=seed,
        n_jobs=1,  # a caller's threads are its own
    )
    return BucketPredictor(buckets, forest.fit(_features(history, codes), target), codes)


@dataclass(frozen=True, slots=True)
class _Constant:
    """The classifier of a history with one bucket."""

    classes_: IntArray

    def predict_proba(self, features: FloatArray) -> FloatArray:
        return np.ones((len(features), 1))


# ------------------------------------------------------------------------------------------------------------- accuracy


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How a predictor did on requests whose outputs are known.

    Parameters
    ----------
    requests
        How many it was tried on.
    bucket_accuracy, within_one_bucket
        Share whose most likely bucket is the true one, and at most one off.
    mean_absolute_error_tokens
        Of the expected length.
    mean_absolute_percentage_error
        |expected − true| / true, requests of no output left out.
    underestimated
        Share whose true length exceeds the 90 % quantile; 0.1 or less where the quantiles are right.
    log_loss
        −log of the probability given to the true bucket, on average (at least 1e-6 each).
    """

    requests: int
    bucket_accuracy: float
    within_one_bucket: float
    mean_absolute_error_tokens: float
    mean_absolute_percentage_error: float
    underestimated: float
    log_loss: float


def accuracy(lengths: Lengths, output_tokens: IntArray, buckets: Buckets = UELLM_BUCKETS) -> Accuracy:
    """Return how well `lengths` foretold `output_tokens`."""
    if len(lengths) != len(output_tokens) or not len(lengths):
        raise UsageError(f"expected predictions of {len(output_tokens)} requests, at least one, got {len(lengths)}")
    edges = np.array(buckets.edges)
    upper = np.stack([lengths.within(int(edge)) for edge in edges[:-1]] + [np.ones(len(lengths))], axis=1)
    share = np.diff(upper, prepend=0.0, axis=1)
    likely, true = share.argmax(axis=1), buckets.index(output_tokens)
    # Longer outputs than the last edge count as it: that is where a bucket predictor can put them.
    capped = np.minimum(output_tokens, max(int(edges[-1]), int(lengths.most().max())))
    error = np.abs(lengths.mean() - capped)
    positive = capped > 0
    return Accuracy(
        requests=len(lengths),
        bucket_accuracy=float(np.mean(likely == true)),
        within_one_bucket=float(np.mean(np.abs(likely - true) <= 1)),
        mean_absolute_error_tokens=float(error.mean()),
        mean_absolute_percentage_error=float(np.mean(error[positive] / capped[positive])) if positive.any() else 0.0,
        underestimated=float(np.mean(capped > lengths.quantile(0.9))),
        log_loss=float(-np.mean(np.log(np.maximum(share[np.arange(len(true)), true], 1e-6)))),
    )


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """The trained predictor on requests it has not seen, beside the plain marginal one."""

    trained: Accuracy
    marginal: Accuracy
    training_requests: int


def accuracy_report(
    history: RequestTable, *, buckets: Buckets = UELLM_BUCKETS, seed: int = 0, held_out: float = HELD_OUT
) -> AccuracyReport:
    """Train on the first part of `history` by arrival and say how well the last part, unseen, is foretold.

    Raises
    ------
    SolverUnavailableError, InputError
        As `train_bucket_predictor`.
    """
    if not 0.0 < held_out < 1.0:
        raise UsageError(f"expected a share between 0 and 1 to hold out, got {held_out}")
    order = np.argsort(history.arrival_s, kind="stable")
    if not np.ptp(history.arrival_s):  # no order in time: take any
        order = np.random.default_rng(seed).permutation(len(history))
    cut = max(1, int(len(history) * (1.0 - held_out)))
    seen, unseen = history.take(order[:cut]), history.take(order[cut:])
    trained = train_bucket_predictor(seen, buckets=buckets, seed=seed)
    marginal = MarginalPredictor.of(seen, buckets)
    return AccuracyReport(
        trained=accuracy(trained.predict(unseen), unseen.output_tokens, buckets),
        marginal=accuracy(marginal.predict(unseen), unseen.output_tokens, buckets),
        training_requests=len(seen),
    )


# ------------------------------------------------------------------------------------------------------------- features


def _names(table: RequestTable) -> tuple[NDArray[Any] | None, ...]:
    return (table.tenant, table.request_class)


def _groups(table: RequestTable) -> list[Any]:
    columns = [[None] * len(table) if column is None else column.tolist() for column in _names(table)]
    return list(zip(*columns, strict=True))


def _code_book(column: NDArray[Any] | None, most: int = 200) -> dict[Any, int]:
    """Return numbers for the most frequent names of a column; the rest share the number after them."""
    if column is None:
        return {}
    names, counts = np.unique([str(name) for name in column.tolist()], return_counts=True)
    ranked = names[np.lexsort((names, -counts))][:most]
    return {name: number for number, name in enumerate(ranked.tolist())}


def _features(table: RequestTable, codes: tuple[dict[Any, int], ...]) -> FloatArray:
    """Return log prompt length, prompt length, and the numbers of tenant and class, shape (N, 4)."""
    prompt = table.prompt_tokens.astype(np.float64)
    columns = [np.log1p(prompt), prompt]
    for book, column in zip(codes, _names(table), strict=True):
        if book and column is not None:
            columns.append(np.array([book.get(str(name), len(book)) for name in column.tolist()], dtype=np.float64))
        else:
            columns.append(np.full(len(table), float(len(book))))
    return np.column_stack(columns)
