"""What every solver returns: proof and possession kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from gpuplan.errors import InfeasibleError, NoSolutionError

Status = Literal["optimal", "feasible", "infeasible", "no_solution"]
#: A number, or a pair compared lexicographically.
Value = float | tuple[float, float]
PlanT_co = TypeVar("PlanT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Report:
    """How an answer was reached.

    solver, seed, options, notes
        What was asked; sentences for a person (what ``auto`` picked and why).
    wall_time_s, work
        Wall time, s, and labels or nodes expanded; they never enter a plan file.
    bound_kind
        What sort of bound it is, in a word or two (``Lagrangian``, ``exhaustive search``, ``dual bound of HiGHS``);
        None where there is no bound.
    proof
        How the bound was proven, in words for a person (``Lagrangian relaxation, 412 steps``); empty: `bound_kind`
        says it all.
    failure
        What went wrong with an external solver, in one sentence; None where nothing did.
    """

    solver: str
    seed: int = 0
    wall_time_s: float = 0.0
    work: int = 0
    bound_kind: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    proof: str = ""
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Result(Generic[PlanT_co]):
    """Answer of a solver.

    Parameters
    ----------
    status
        ``optimal`` (plan and proof), ``feasible`` (plan, no proof yet), ``infeasible`` (proven), ``no_solution``.
    plan
        The plan, or None.
    objective
        Its value (a pair for lexicographic objectives), or None.
    terms
        The objective's breakdown.
    bound
        On the valid side of the optimum, or None when none is known.
    gap
        ``|bound − objective| / |objective|``, of the first differing component for pairs; None without a bound.
    reasons
        Why it is infeasible: sentences with the smallest shortage a user can act on.
    """

    status: Status
    plan: PlanT_co | None
    objective: Value | None
    bound: Value | None
    gap: float | None
    report: Report
    terms: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def require_plan(self) -> PlanT_co:
        """Return the plan; InfeasibleError or NoSolutionError when there is none."""
        if self.plan is not None:
            return self.plan
        if self.status == "infeasible":
            raise InfeasibleError("; ".join(self.reasons) or "no plan exists")
        raise NoSolutionError("a limit was reached before any plan was found; allow more time or work")


def relative_gap(objective: Value, bound: Value | None) -> float | None:
    """Return ``|bound − objective| / |objective|`` (both 0 → 0), of the first differing component of a pair.

    >>> relative_gap(10.0, 9.0), relative_gap((2.0, 5.0), (2.0, 4.0)), relative_gap(1.0, None)
    (0.1, 0.2, None)
    """
    if bound is None:
        return None
    pairs = (
        zip(objective, bound, strict=True)
        if isinstance(objective, tuple) and isinstance(bound, tuple)
        else [(objective, bound)]
    )
    for value, limit in pairs:
        assert isinstance(value, float | int)
        assert isinstance(limit, float | int)
        if value != limit:
            return abs(limit - value) / abs(value) if value else float("inf")
    return 0.0
