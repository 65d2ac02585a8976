"""What every solution file says beside its plan: status, value, certificate, and how it was reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from gpuplan.plans.device_map import Value
from gpuplan.plans.device_map_io import as_value, plain

PlanT = TypeVar("PlanT")


class ReportLike(Protocol):
    """How an answer was reached; a solver's report fits."""

    @property
    def solver(self) -> str:
        """Name of the solver."""
        ...

    @property
    def seed(self) -> int:
        """Seed it ran with."""
        ...


class ResultLike(Protocol):
    """An answer with its certificate; a solver's result fits."""

    @property
    def status(self) -> str:
        """``optimal``, ``feasible``, ``infeasible`` or ``no_solution``."""
        ...

    @property
    def plan(self) -> Any:
        """The decision, or None."""
        ...

    @property
    def objective(self) -> Value | None:
        """Value of the plan."""
        ...

    @property
    def terms(self) -> Mapping[str, float]:
        """Breakdown of the objective."""
        ...

    @property
    def bound(self) -> Value | None:
        """Proven bound."""
        ...

    @property
    def gap(self) -> float | None:
        """Relative distance of the two."""
        ...

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why there is no plan."""
        ...

    @property
    def report(self) -> ReportLike:
        """How it was reached."""
        ...


@dataclass(frozen=True, slots=True)
class Answer(Generic[PlanT]):
    """A solution as read from a file; `plan` is None when the status says there is none."""

    status: str
    plan: PlanT | None
    objective: Value | None
    terms: Mapping[str, float]
    bound: Value | None
    gap: float | None
    solver: str
    seed: int
    reasons: tuple[str, ...] = ()
    name: str | None = None
    comment: str | None = None


def answer_to_dict(result: ResultLike, schema: str) -> dict[str, Any]:
    """Return the document of `result` without its plan and objective."""
    document: dict[str, Any] = {
        "schema": schema,
        "status": result.status,
        "terms": plain(result.terms),
        "bound": plain(result.bound),
        "gap": None if result.gap is None or math.isinf(result.gap) else result.gap,
        "solver": result.report.solver,
        "seed": result.report.seed,
    }
    if result.reasons:
        document["reasons"] = list(result.reasons)
    return document


def answer_from_dict(document: Mapping[str, Any], plan: PlanT | None) -> Answer[PlanT]:
    """Return what a document that follows its schema says of `plan`, which was read from it."""
    return Answer(
        status=document["status"],
        plan=plan,
        objective=as_value(document.get("objective")),
        terms=dict(document["terms"]),
        bound=as_value(document["bound"]),
        gap=document["gap"],
        solver=document["solver"],
        seed=document["seed"],
        reasons=tuple(document.get("reasons", ())),
        name=document.get("name"),
        comment=document.get("comment"),
    )
