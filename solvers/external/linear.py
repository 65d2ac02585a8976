"""Linear models with integers as arrays, and `solve_milp`, a small call for whoever has one to finish.

    minimise c·x  subject to  row_lower ≤ A·x ≤ row_upper,  lower ≤ x ≤ upper,  x_k whole where integer_k

Rows are compressed (CSR).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuplan.errors import UnsupportedError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
LinearStatus = Literal["optimal", "feasible", "infeasible", "no_solution", "failed"]

#: Entries of a matrix above which a model is refused rather than swapped to death.
MAX_ENTRIES = 50_000_000
#: Bytes an engine was seen to need for each matrix entry, and for each variable or row (model, presolve, LP, cuts).
BYTES_PER_ENTRY, BYTES_PER_LINE = 150, 600


@dataclass(frozen=True)
class LinearModel:
    """One model; `starts`, `columns`, `values` are its matrix by rows (compressed).

    Parameters
    ----------
    cost, lower, upper, integer
        One entry a variable.
    starts, columns, values
        Row r has the entries starts[r]..starts[r+1]−1.
    row_lower, row_upper
        One entry a row; ±inf where there is no such side.
    names, row_names
        For written models; empty: x0, x1, … and r0, r1, ….
    """

    cost: FloatArray
    lower: FloatArray
    upper: FloatArray
    integer: BoolArray
    starts: IntArray
    columns: IntArray
    values: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    names: tuple[str, ...] = field(default=(), repr=False)
    row_names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def num_variables(self) -> int:
        """Number of variables."""
        return len(self.cost)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_lower)

    def value(self, x: ArrayLike) -> float:
        """Return c·x."""
        return float(self.cost @ np.asarray(x, dtype=np.float64))

    def holds(self, x: ArrayLike, tolerance: float = 1e-6) -> bool:
        """Return whether x keeps to every row, bound and whole number, within a tolerance relative to the row."""
        point = np.asarray(x, dtype=np.float64)
        rows = np.repeat(np.arange(self.num_rows), np.diff(self.starts))
        left = np.bincount(rows, self.values * point[self.columns], self.num_rows)
        size = np.bincount(rows, np.abs(self.values * point[self.columns]), self.num_rows)
        slack = tolerance * np.maximum(1.0, size)
        inside = (point >= self.lower - tolerance) & (point <= self.upper + tolerance)
        whole = np.abs(point - np.round(point)) <= tolerance
        kept = (left >= self.row_lower - slack) & (left <= self.row_upper + slack)
        return bool(kept.all() and inside.all() and whole[self.integer].all())


@dataclass(frozen=True)
class LinearAnswer:
    """What an engine says: its best point (or None), a proven lower bound (−inf: none), how it ended, in words.

    ``failed``: the engine crashed, printed garbage or was killed without an answer; `note` is the sentence.
    """

    status: LinearStatus
    x: FloatArray | None
    bound: float
    note: str = ""


#: Called with the best point so far (or None where only the bound moved) and the proven bound.
OnImprovement = Callable[[FloatArray | None, float], None]


def memory_estimate(variables: float, rows: float, entries: float) -> float:
    """Return the bytes an engine may take for a model of this size: a figure to refuse by, seldom exceeded."""
    return BYTES_PER_ENTRY * entries + BYTES_PER_LINE * (variables + rows)


def linear_model(
    c: ArrayLike, A: Any, lb: ArrayLike, ub: ArrayLike, integrality: ArrayLike, bounds: Any = None
) -> LinearModel:
    """Return a model from what `scipy.optimize.milp` takes.

    Parameters
    ----------
    c
        Cost of each variable.
    A, lb, ub
        Matrix (sparse or dense) and the two sides of each row; a number holds for all rows.
    integrality
        1 where a variable is whole, 0 where it is not; a number holds for all.
    bounds
        (lower, upper), or `scipy.optimize.Bounds`; None: 0 and up.
    """
    from scipy.sparse import csr_array

    cost = np.asarray(c, dtype=np.float64)
    matrix = csr_array(A)
    if matrix.nnz > MAX_ENTRIES:
        raise UnsupportedError(
            f"the model has {matrix.nnz:,} matrix entries and at most {MAX_ENTRIES:,} are taken; reduce it first"
        )
    low, high = (0.0, np.inf) if bounds is None else (bounds.lb, bounds.ub) if hasattr(bounds, "lb") else bounds

    def spread(values: ArrayLike, size: int) -> FloatArray:
        return np.array(np.broadcast_to(np.asarray(values, dtype=np.float64), (size,)))

    size, rows = len(cost), matrix.shape[0]
    return LinearModel(
        cost,
        spread(low, size),
        spread(high, size),
        spread(integrality, size) > 0.5,
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int64),
        matrix.data.astype(np.float64),
        spread(lb, rows),
        spread(ub, rows),
    )


def solve_milp(
    c: ArrayLike,
    A: Any,
    lb: ArrayLike,
    ub: ArrayLike,
    integrality: ArrayLike,
    bounds: Any,
    time_limit_s: float | None,
    incumbent: ArrayLike | None = None,
    *,
    isolated: bool = False,
    threads: int = 1,
    cancel: Callable[[], bool] | None = None,
) -> tuple[LinearStatus, FloatArray | None, float]:
    """Minimise c·x with HiGHS, in this process or in one of its own.

    Parameters
    ----------
    c, A, lb, ub, integrality, bounds
        As in `linear_model`. Absolute tolerances are 1e-6: scale c so that values are about 1,000.
    time_limit_s
        Wall time, s, or None. In this process HiGHS sees it between its own steps; isolated it is hard, and the start
        of the process (about 0.5 s) is part of it.
    incumbent
        A feasible point to start from: handed back where nothing better is found. One that breaks a row is ignored.
    isolated
        Whether to solve in a process of its own: kept to its limit, stopped by `cancel`, a crash reported.
    threads
        For the process of its own; in this process HiGHS keeps its default.

    Returns
    -------
    (status, x, bound)
        ``optimal`` and ``feasible`` with a point, ``infeasible`` (bound inf), ``no_solution``, ``failed`` (isolated:
        the process broke; x is the incumbent). The bound is a proven lower bound, −inf where nothing is known.
    """
    model = linear_model(c, A, lb, ub, integrality, bounds)
    start = None if incumbent is None else np.asarray(incumbent, dtype=np.float64)
    if start is not None and not model.holds(start):
        start = None
    if isolated:
        from gpuplan.solvers.external.isolated import solve_isolated

        answer = solve_isolated("highs", model, time_limit_s, start=start, threads=threads, cancel=cancel)
    else:
        from gpuplan.solvers.external import highs

        answer = highs.solve(model, time_limit_s, start=start, cancel=cancel)
    best = best_of(model, answer, start)
    return best.status, best.x, best.bound


def best_of(model: LinearModel, answer: LinearAnswer, start: FloatArray | None) -> LinearAnswer:
    """Return an answer that is no worse than the point the engine started from."""
    if start is None or (answer.x is not None and model.value(answer.x) <= model.value(start)):
        return answer
    if answer.status == "optimal":  # equal within the engine's tolerances
        return answer
    status: LinearStatus = "failed" if answer.status == "failed" else "feasible"
    bound = min(answer.bound, model.value(start))
    return LinearAnswer(status, start, bound, answer.note)
