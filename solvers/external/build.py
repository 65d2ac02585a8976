"""Linear models variable by variable and row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.solvers.external.linear import MAX_ENTRIES, LinearModel

#: Variables, and rows, between two looks at the clock.
LOOK = 1_000

Terms = list[tuple[int, float]]  # (column, coefficient), a column at most once in a row


class OutOfTimeError(Exception):
    """A model was not finished in time."""


@dataclass(slots=True)
class Builder:
    """min Σ cost, rows lower ≤ Σ terms ≤ upper, variables between 0 and their upper ends.

    A column may stand in `cost` several times: its costs add up. `stop` is asked now and then: when it says so,
    `OutOfTimeError` ends the building.
    """

    names: list[str] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: Terms = field(default_factory=list)
    rows: list[tuple[str, Terms, float, float]] = field(default_factory=list)
    entries: int = 0
    stop: Callable[[], bool] | None = None

    def check(self) -> None:
        """Raise OutOfTimeError when it is time to stop."""
        if self.stop is not None and self.stop():
            raise OutOfTimeError

    def add(self, name: str, upper: float, *, integer: bool = False) -> int:
        """Make a variable and return its column."""
        self.names.append(name)
        self.upper.append(upper)
        self.integer.append(integer)
        if len(self.names) % LOOK == 0:
            self.check()
        return len(self.names) - 1

    def row(self, name: str, terms: Terms, lower: float, upper: float) -> None:
        """Add a constraint; UnsupportedError past 50 million entries."""
        self.entries += len(terms)
        if self.entries > MAX_ENTRIES:
            raise UnsupportedError(
                f"the model has more than {MAX_ENTRIES:,} matrix entries, the most that are taken; use --solver auto"
            )
        self.rows.append((name, terms, lower, upper))
        if len(self.rows) % LOOK == 0:
            self.check()

    def at_most(self, name: str, terms: Terms, upper: float) -> None:
        """Add Σ terms ≤ upper."""
        self.row(name, terms, -math.inf, upper)

    def equal(self, name: str, left: list[int], right: list[int]) -> None:
        """Add Σ left = Σ right."""
        self.row(name, [(k, 1.0) for k in left] + [(k, -1.0) for k in right], 0.0, 0.0)

    def build(self) -> LinearModel:
        """Return the model as arrays."""
        width = len(self.names)
        cost = np.zeros(width)
        for column, value in self.cost:
            cost[column] += value
        sizes = [len(terms) for _, terms, _, _ in self.rows]
        return LinearModel(
            cost,
            np.zeros(width),
            np.array(self.upper, dtype=np.float64),
            np.array(self.integer, dtype=np.bool_),
            np.cumsum([0, *sizes]).astype(np.int64),
            np.array([column for _, terms, _, _ in self.rows for column, _ in terms], dtype=np.int64),
            np.array([value for _, terms, _, _ in self.rows for _, value in terms], dtype=np.float64),
            np.array([row[2] for row in self.rows], dtype=np.float64),
            np.array([row[3] for row in self.rows], dtype=np.float64),
            tuple(self.names),
            tuple(row[0] for row in self.rows),
        )


def times(terms: Terms, factor: float) -> Terms:
    """Return terms with their coefficients multiplied, zeros left out."""
    return [(column, factor * value) for column, value in terms if value != 0.0]
