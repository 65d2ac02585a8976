"""`slo-odbs`, `slo-dbs`, `odbs`: UELLM's batching by service level and output length.

As printed (suffix ``-paper``): requests by rising SLO; q joins the batch of b requests while

    w1·(SLO_q + L)·(b+1)·L1 + w2·(length_q ± O)·(b+1)·L2 ≤ threshold,

L and O the largest SLO (s) and output length (tokens) in the batch. The paper gives no values, and its text
contradicts itself twice; both readings are options:

* `sign`: ``minus`` (default; the tokens q would add to every request's padding, in keeping with the purpose) or
  ``plus`` (as the sum for the SLO).
* `weights`: the text calls w1 = 0 SLO-DBS and w2 = 0 ODBS, although w1 stands at the SLO. ``names`` (default) keeps
  the SLO term in SLO-DBS and the length term in ODBS; ``text`` sets to zero what the text says.

As coded by the authors (suffix ``-authors``): requests by rising ``SLO + 0.5·length``; at most 10 in a batch; q joins
while ``(length_q − O)·(b+1)·1.2 ≤ 15000``, which never binds at their lengths. SLO-DBS then sorts by the SLO alone,
ODBS by the length alone.

SLO_q is the time from arrival to deadline; requests without a deadline get the longest of the others (0 when there is
none); the order goes by absolute deadlines, which is the same when all arrive together. Without a suffix: as printed,
with threshold and weights tuned for the workload (`tune`); `-paper` tunes the threshold alone unless it is given.

References
----------
Y. He et al., "UELLM: A Unified and Efficient Approach for LLM Inference Serving", ICSOC 2024 (arXiv 2409.14961),
section 4.2, algorithm 1; code: HYIUYOU/UELLM.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray
from gpuplan.solvers.batching.policies.dispatch import run_queue
from gpuplan.solvers.batching.policies.ordered import OrderedQueue, by_keys
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

Variant = Literal["slo-odbs", "slo-dbs", "odbs"]
VARIANTS: Final = ("slo-odbs", "slo-dbs", "odbs")

#: As coded by the authors.
AUTHORS_SIZE_LIMIT: Final = 10
AUTHORS_LENGTH_WEIGHT: Final = 0.5
AUTHORS_FACTOR: Final = 1.2
AUTHORS_THRESHOLD: Final = 15000.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the paper leaves open; L1 and L2 scale seconds and tokens."""

    threshold: float
    w1: float = 1.0
    w2: float = 1.0
    L1: float = 1.0
    L2: float = 1.0
    sign: Literal["plus", "minus"] = "minus"

    def __post_init__(self) -> None:
        for name in ("threshold", "w1", "w2", "L1", "L2"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0.0 <= value < float("inf")):
                raise UsageError(f"expected {name} to be a finite number of at least 0, got {value!r}")
        if self.sign not in ("plus", "minus"):
            raise UsageError(f"expected sign plus or minus, got {self.sign!r}")


def solve(
    problem: BatchingProblem,
    limits: Limits,
    seed: int,
    *,
    form: Literal["tuned", "paper", "authors"] = "tuned",
    variant: Variant = "slo-odbs",
    threshold: float | None = None,
    w1: float | None = None,
    w2: float | None = None,
    L1: float = 1.0,
    L2: float = 1.0,
    sign: Literal["plus", "minus"] = "minus",
    weights: Literal["names", "text"] = "names",
) -> Result[BatchSolution]:
    """Batch by service level and output length; what is None is tuned (weights only with `form` ``tuned``)."""
    started = time.perf_counter()
    name = variant if form == "tuned" else f"{variant}-{form}"
    if form == "authors":
        return run_queue(problem, authors_queue(problem, variant), solver=name, started=started, seed=seed)
    if weights not in ("names", "text"):
        raise UsageError(f"expected weights names or text, got {weights!r}")
    given = Parameters(threshold or 0.0, 1.0 if w1 is None else w1, 1.0 if w2 is None else w2, L1, L2, sign)
    given = only(given, variant, weights)
    notes: tuple[str, ...] = ()
    if threshold is None:
        from gpuplan.solvers.batching.policies.tune import tune_parameters

        free = form == "tuned" and variant == "slo-odbs" and w1 is None and w2 is None
        given = tune_parameters(problem, given, Budget(limits), tune_weights=free)
        notes = (f"{name}: threshold {given.threshold:.6g}, w1 {given.w1:.3g}, w2 {given.w2:.3g} chosen by tuning",)
    options: dict[str, Any] = asdict(given) | {"weights": weights}
    queue = paper_queue(problem, given)
    return run_queue(problem, queue, solver=name, started=started, seed=seed, options=options, notes=notes)


def only(parameters: Parameters, variant: Variant, weights: Literal["names", "text"]) -> Parameters:
    """Return the parameters of a variant: one of the two weights is zero in SLO-DBS and ODBS."""
    if variant == "slo-odbs":
        return parameters
    at_slo = (variant == "odbs") == (weights == "names")  # whether w1 is the one that goes
    return replace(parameters, w1=0.0) if at_slo else replace(parameters, w2=0.0)


def paper_queue(problem: BatchingProblem, parameters: Parameters) -> OrderedQueue:
    """Return the queue of the rule as printed."""
    order = by_keys(problem, problem.requests.deadline_s)
    return OrderedQueue(problem, order, PaperRule(problem, parameters))


def authors_queue(problem: BatchingProblem, variant: Variant = "slo-odbs") -> OrderedQueue:
    """Return the queue of the rule as coded by the authors."""
    length = problem.requests.output_tokens.astype(np.float64)
    urgency = service_levels(problem) + problem.requests.arrival_s
    key = {"slo-odbs": urgency + AUTHORS_LENGTH_WEIGHT * length, "slo-dbs": urgency, "odbs": length}[variant]
    return OrderedQueue(problem, by_keys(problem, key), AuthorsRule(problem), AUTHORS_SIZE_LIMIT)


def service_levels(problem: BatchingProblem) -> FloatArray:
    """Return the time from arrival to deadline, s; the longest of the others where there is none, 0 without any."""
    level = problem.requests.deadline_s - problem.requests.arrival_s
    known = level[np.isfinite(level)]
    return np.where(np.isfinite(level), level, known.max(initial=0.0))


class PaperRule:
    """The condition as printed."""

    def __init__(self, problem: BatchingProblem, parameters: Parameters) -> None:
        self._slo: list[float] = service_levels(problem).tolist()
        self._length: list[int] = problem.requests.output_tokens.tolist()
        self._slo_factor = parameters.w1 * parameters.L1
        self._length_factor = parameters.w2 * parameters.L2
        self._sign = 1 if parameters.sign == "plus" else -1
        self._threshold = parameters.threshold
        self._longest_slo = 0.0
        self._longest = 0

    def begin(self, row: int) -> None:
        """Start a batch with `row`."""
        self._longest_slo, self._longest = self._slo[row], self._length[row]

    def joins(self, row: int, size: int) -> bool:
        """Return whether the sum stays within the threshold."""
        slo, length = self._slo[row], self._length[row]
        value = self._slo_factor * (slo + self._longest_slo)
        value += self._length_factor * (length + self._sign * self._longest)
        if value * (size + 1) > self._threshold:
            return False
        self._longest_slo, self._longest = max(self._longest_slo, slo), max(self._longest, length)
        return True


class AuthorsRule:
    """The condition as coded: ``(length − current max)·(b+1)·1.2 ≤ 15000``."""

    def __init__(self, problem: BatchingProblem) -> None:
        self._length: list[int] = problem.requests.output_tokens.tolist()
        self._longest = 0

    def begin(self, row: int) -> None:
        """Start a batch with `row`."""
        self._longest = self._length[row]

    def joins(self, row: int, size: int) -> bool:
        """Return whether `row` lengthens the batch little enough."""
        length = self._length[row]
        if (length - self._longest) * (size + 1) * AUTHORS_FACTOR > AUTHORS_THRESHOLD:
            return False
        self._longest = max(self._longest, length)
        return True
