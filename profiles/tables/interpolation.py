"""Looking a time up: exactly where it was measured, linearly between, nowhere else unless asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.tables.series import FloatArray, Series

#: Coordinates this near (relatively) are the same.
SAME = 1e-9

_Weights = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Lookup:
    """A time, where it comes from, and the rows it follows from.

    Parameters
    ----------
    seconds
        The time, s.
    origin
        ``measured`` (one row, as it was measured), ``interpolated`` (between rows, or one row that smoothing moved)
        or ``extrapolated``.
    rows
        Numbers of the rows of the series used.
    """

    seconds: float
    origin: Literal["measured", "interpolated", "extrapolated"]
    rows: tuple[int, ...]


def look_up(series: Series, at: tuple[float, ...], *, extrapolate: bool = False) -> Lookup | None:
    """Return the time of `series` at a point, or None outside of what was measured.

    Axis by axis, in their order: the value itself where it was measured, else the two neighbours, each looked up in
    the remaining axes, joined by a straight line (on a full grid: multilinear). Where a grid is ragged the neighbours
    are the nearest that were measured at the remaining coordinates. A monotone grid gives monotone times.

    With `extrapolate` a value above all measured ones continues the line through the last two, one below all takes
    the first.

    Complexity: O(2^A log R) for A axes and R rows on a full grid.
    """
    target = np.asarray(at, dtype=np.float64)
    weights = _nested(series.points, target, 0, 0, len(series.points), extend=False)
    outside = weights is None
    if weights is None:
        weights = _nested(series.points, target, 0, 0, len(series.points), extend=True) if extrapolate else None
    if weights is None:
        return None
    seconds = float(sum(weight * series.seconds[row] for row, weight in weights))
    rows = tuple(row for row, _ in weights)
    exact = len(rows) == 1 and not series.smoothed[rows[0]]
    return Lookup(max(seconds, 0.0), "extrapolated" if outside else "measured" if exact else "interpolated", rows)


def _nested(points: FloatArray, target: FloatArray, axis: int, lo: int, hi: int, *, extend: bool) -> _Weights | None:
    """Return rows lo..hi−1 with their weights; they agree in all axes before `axis`."""
    if axis == len(target):
        return [(lo, 1.0)]
    value = float(target[axis])
    column = points[lo:hi, axis]
    below, above = _sides(column, value)

    def inner(group: float) -> _Weights | None:
        first, last = np.searchsorted(column, [group, np.nextafter(group, np.inf)])
        return _nested(points, target, axis + 1, lo + int(first), lo + int(last), extend=extend)

    if len(below) and abs(below[-1] - value) <= SAME * max(abs(value), 1.0):
        found = inner(float(below[-1]))
        if found is not None:
            return found
        below = below[:-1]
    left, right = _first(below[::-1], inner), _first(above, inner)
    if left is not None and right is not None:
        return _joined(left, right, value)
    if not extend:
        return None
    if left is None:
        return None if right is None else right[1]
    before = _first(below[below < left[0]][::-1], inner)
    return None if before is None else _joined(before, left, value)


def _sides(column: FloatArray, value: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distinct values up to `value` (within rounding) and those above, both growing."""
    distinct = column[np.concatenate(([True], np.diff(column) > 0.0))]
    cut = int(np.searchsorted(distinct, value + SAME * max(abs(value), 1.0), side="right"))
    return distinct[:cut], distinct[cut:]


def _first(values: FloatArray, inner: Callable[[float], _Weights | None]) -> tuple[float, _Weights] | None:
    for value in values:
        found = inner(float(value))
        if found is not None:
            return float(value), found
    return None


def _joined(left: tuple[float, _Weights], right: tuple[float, _Weights], value: float) -> _Weights:
    share = (value - left[0]) / (right[0] - left[0])
    return [(row, weight * (1.0 - share)) for row, weight in left[1]] + [
        (row, weight * share) for row, weight in right[1]
    ]
