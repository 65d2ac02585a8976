"""What a method for one objective hands back, before it becomes a `Result`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuplan.solvers.placement.query import Answer
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.result import Status, Value


@dataclass(frozen=True, slots=True)
class Outcome:
    """Best path of an objective with what is proven about it.

    bound
        Lower bound (a pair for lexicographic objectives), or None when nothing is known.
    extra
        Further terms, such as the starred values of a balanced objective.
    """

    status: Status
    path: ClassPath | None
    bound: Value | None
    extra: Mapping[str, float] = field(default_factory=dict)


def status_of(answer: Answer) -> Status:
    """Return the status of a single minimisation."""
    if answer.path is not None:
        return "optimal" if answer.proven else "feasible"
    return "infeasible" if answer.infeasible else "no_solution"


def finite_or_none(bound: float) -> float | None:
    """Return a bound, or None where it says nothing."""
    return bound if math.isfinite(bound) else None
