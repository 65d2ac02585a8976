"""Solvers side by side, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gpuplan.cli.certificate import format_bound, format_value, percent
from gpuplan.cli.solving import value_to_json
from gpuplan.cli.style import plain_table
from gpuplan.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.solvers.result import Result, Value


class Row(Protocol):
    """One method's answer: a row of a placement or of a batching comparison."""

    @property
    def name(self) -> str:
        """The method."""

    @property
    def kind(self) -> str:
        """What sort of method it is."""

    @property
    def status(self) -> str:
        """As in the result, or ``refused``, ``missing``, ``failed``."""

    @property
    def objective(self) -> Value | None:
        """Its value."""

    @property
    def bound(self) -> Value | None:
        """What is proven."""

    @property
    def gap(self) -> float | None:
        """Distance of the two."""

    @property
    def wall_time_s(self) -> float:
        """Time of the call, s."""

    @property
    def verified(self) -> bool | None:
        """What the verifier says."""

    @property
    def note(self) -> str:
        """Why there is no answer, or a remark."""


def compare_report(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as JSON values."""
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "status": row.status,
            "objective": value_to_json(row.objective),
            "bound": value_to_json(row.bound),
            "bound_by": bound_by(row),
            "gap": value_to_json(row.gap),
            "wall_time_s": row.wall_time_s,
            "verified": row.verified,
            "note": row.note,
        }
        for row in rows
    ]


def compare_table(rows: Sequence[Row], objective: str) -> Table:
    """Return one line a solver: what it claims, its value and how far it is from the best, time, the verdict."""
    most = objective == "flow"  # tokens/s: the largest is best
    off = "below best" if most else "over best"
    table = plain_table("solver", "claim", "objective", off, "time", "check", right=("objective", off, "time"))
    table.columns[0].no_wrap = True
    values = [as_tuple(row.objective) for row in rows if row.objective is not None]
    best = (max(values) if most else min(values)) if values else None
    for row in rows:
        table.add_row(
            row.name,
            claim(row),
            format_value(row.objective, objective) if row.objective is not None else "",
            "" if row.objective is None or best is None else over(as_tuple(row.objective), best),
            format_seconds(row.wall_time_s) if row.wall_time_s else "",
            {True: "✔", False: "✘", None: ""}[row.verified],
        )
    return table


def legend(rows: Sequence[Row]) -> str:
    """Return what the words and signs of the table mean, those that stand in it."""
    said = []
    if any(row.status == "optimal" for row in rows):
        said.append("optimal: proven, its bound is the objective")
    if any(row.status == "feasible" and row.gap for row in rows):
        said.append("gap: the plan is proven to be within it of the best possible")
    if any(row.status == "feasible" and row.gap is None for row in rows):
        said.append("a plan: no bound")
    if any(row.verified for row in rows):
        said.append("✔: recomputed by the verifier")
    return "; ".join(said)


def proofs(rows: Sequence[Row], objective: str) -> list[str]:
    """Return how bounds were proven, each kind once with the solvers that proved theirs so, and what is still open."""
    speakers: dict[str, list[str]] = {}
    for row in rows:
        result: Result[Any] | None = getattr(row, "result", None)
        if result is not None and row.bound is not None and result.report.bound_kind:
            value = "" if row.status == "optimal" else f" ({format_bound(row.bound, row.objective, objective)})"
            speakers.setdefault(result.report.bound_kind, []).append(f"{row.name}{value}")
    return [f"bound by {kind}: {', '.join(names)}" for kind, names in speakers.items()]


def bound_by(row: Row) -> str | None:
    """Return how a row's bound was proven; None without a bound."""
    result: Result[Any] | None = getattr(row, "result", None)
    if result is None or row.bound is None:
        return None
    return result.report.proof or result.report.bound_kind


def claim(row: Row) -> str:
    """Return what a solver says of its answer: proven, as good as a bound, within a gap, or nothing."""
    if row.status == "feasible":
        return "a plan" if row.gap is None else f"gap {percent(row.gap)}" if row.gap else "meets the bound"
    return row.status.replace("_", " ")


def notes(rows: Sequence[Row]) -> list[str]:
    """Return the solvers' remarks, equal ones once."""
    speakers: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            speakers.setdefault(row.note.removeprefix(f"{row.name}: "), []).append(row.name)
    return [f"{', '.join(names)}: {note}" for note, names in speakers.items()]


def as_tuple(value: Value) -> tuple[float, ...]:
    """Return an objective's value as a tuple that compares lexicographically."""
    return value if isinstance(value, tuple) else (value,)


def over(value: tuple[float, ...], best: tuple[float, ...]) -> str:
    """Return how far a value is off the best one, in its first component that differs.

    >>> over((2.0, 1.5), (2.0, 1.0)), over((3.0,), (3.0,))
    ('50.0 %', 'best')
    """
    for mine, least in zip(value, best, strict=True):
        share = abs(mine - least) / abs(least) if least else float("inf")
        if share > 1e-9:
            return f"{share * 100:.1f} %" if share >= 5e-4 else "< 0.1 %"
    return "best"
