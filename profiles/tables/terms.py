"""The terms a layer's time is made of: lookups in tables, and the roofline where it fills a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuplan.errors import InputError
from gpuplan.profiles.costs import Origin
from gpuplan.profiles.model import Layer, ModelProfile, Operator
from gpuplan.profiles.tables.coordinates import Point, Step, is_product, points_of
from gpuplan.profiles.tables.interpolation import Lookup, look_up
from gpuplan.profiles.tables.series import GEMM, WHOLE_LAYER, Series
from gpuplan.profiles.tables.table import CostTable

#: How far a tag is from a measurement; a layer is as far as its worst part.
DISTANCE: dict[str, int] = {"measured": 0, "interpolated": 1, "fitted": 2, "analytic": 3, "extrapolated": 4}


@dataclass(frozen=True, slots=True)
class Term:
    """Part of a layer's time in one pass.

    Parameters
    ----------
    covers
        The operators it times.
    origin
        Its tag.
    seconds
        `count` times the time looked up (or the roofline's), s.
    count
        How many such passes or sequences there are.
    axes, at, entries
        The point, and the rows (coordinates, then seconds) it was looked up from; empty for the roofline.
    """

    covers: tuple[str, ...]
    origin: Origin
    seconds: float
    count: int = 1
    axes: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    entries: tuple[tuple[float, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what a plan embeds; an analytic term follows from the roofline's coefficients."""
        document: dict[str, Any] = {"covers": list(self.covers), "origin": self.origin}
        if self.axes:
            document |= {
                "count": self.count,
                "axes": list(self.axes),
                "at": list(self.at),
                "entries": [list(entry) for entry in self.entries],
            }
        return document


@dataclass(frozen=True, slots=True)
class Gap:
    """Operators a table has no time for, and why."""

    covers: tuple[str, ...]
    why: str


def layer_terms(
    tables: Sequence[CostTable], model: ModelProfile, layer: Layer, step: Step, tensor_parallel: int, *, beyond: bool
) -> tuple[list[Term], list[Gap]]:
    """Return the terms of one layer in one pass from the first tables that have them, and the gaps left.

    A series of the whole layer is preferred to series of its operators; those of operators timed together to any
    matrix product of that shape. With `beyond` a table may be read outside of what it measured.
    """
    operators = {operator.name: operator for operator in layer.operators}
    whole = _from_series(tables, (f"{WHOLE_LAYER}{layer.kind}",), model, None, step, tensor_parallel, beyond)
    if isinstance(whole, list):
        every = tuple(operators)
        return [_covering(term, every) for term in whole], []
    terms: list[Term] = []
    gaps: list[Gap] = []
    left = dict(operators)
    while left:
        name, operator = next(iter(left.items()))
        covers = _group(tables, name, left, step) or (name,)
        found = _of_operators(tables, covers, model, operators, operator, step, tensor_parallel, beyond)
        if isinstance(found, list):
            terms.extend(found)
        else:
            gaps.append(Gap(covers, found))
        for covered in covers:
            del left[covered]
    return terms, gaps


def _of_operators(
    tables: Sequence[CostTable],
    covers: tuple[str, ...],
    model: ModelProfile,
    operators: dict[str, Operator],
    operator: Operator,
    step: Step,
    tensor_parallel: int,
    beyond: bool,
) -> list[Term] | str:
    # Operators timed together have the coordinates of the one with the most to say about them.
    leading = max((operators[name] for name in covers), key=lambda each: (each.experts, each.flops_per_token))
    found = _from_series(tables, covers, model, leading, step, tensor_parallel, beyond)
    if not isinstance(found, list) and covers == (operator.name,) and is_product(operator):
        by_shape = _from_series(tables, (GEMM,), model, operator, step, tensor_parallel, beyond)
        if isinstance(by_shape, list):
            return [_covering(term, covers) for term in by_shape]
        found = by_shape or found
    return found


def _group(tables: Sequence[CostTable], name: str, left: dict[str, Operator], step: Step) -> tuple[str, ...] | None:
    """Return the operators that a series times together with `name`, the smallest group first."""
    groups = {
        series.covers
        for table in tables
        for series in table.series
        if name in series.covers and series.phase in ("both", step.phase) and set(series.covers) <= set(left)
    }
    return min(groups, key=lambda covers: (len(covers), covers)) if groups else None


def _from_series(
    tables: Sequence[CostTable],
    covers: tuple[str, ...],
    model: ModelProfile,
    operator: Operator | None,
    step: Step,
    tensor_parallel: int,
    beyond: bool,
) -> list[Term] | str:
    """Return the terms from the first series that holds every point, or why none does."""
    why = ""
    for table in tables:
        for series in table.series:
            if series.covers != covers or series.phase not in ("both", step.phase):
                continue
            points = points_of(series, model, operator, step, tensor_parallel, table.chunk_tokens)
            if points is None:
                why = why or f"{table.name} has no times of {series.name} that apply"
                continue
            found = [(point, look_up(series, point.at, extrapolate=beyond)) for point in points]
            missed = next((point for point, lookup in found if lookup is None), None)
            if missed is None:
                return [_term(series, point, lookup) for point, lookup in found if lookup is not None]
            why = why or _outside(table, series, missed)
    return why


def _outside(table: CostTable, series: Series, point: Point) -> str:
    asked = ", ".join(f"{axis} {value:g}" for axis, value in zip(series.axes, point.at, strict=True))
    return f"{series.name} of {table.name} was measured for {series.range_text()}, asked for {asked}"


def _term(series: Series, point: Point, lookup: Lookup) -> Term:
    entries = tuple((*map(float, series.points[row]), float(series.seconds[row])) for row in lookup.rows)
    return Term(
        covers=series.covers,
        origin=lookup.origin,
        seconds=point.count * lookup.seconds,
        count=point.count,
        axes=series.axes,
        at=point.at,
        entries=entries,
    )


def _covering(term: Term, covers: tuple[str, ...]) -> Term:
    return replace(term, covers=covers)


def missing_error(model: ModelProfile, layer: Layer, step: Step, gap: Gap, kind: str) -> InputError:
    """Return the error for a gap that nothing may fill."""
    what = "+".join(gap.covers)
    where = f"of {layer.kind} layers of {model.name} on {kind} ({step.phase})"
    if gap.why:
        return InputError(
            f"expected a time of {what} {where}, but {gap.why}; measure that range, allow extrapolation"
            " (--extrapolate), or let the roofline fill in (--costs-fallback)"
        )
    return InputError(
        f"expected a time of {what} {where}, got none in the tables; add a table that has it, or let the roofline"
        " fill in (--costs-fallback)"
    )
