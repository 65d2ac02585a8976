"""Isotonic smoothing: the monotone times nearest to measured ones, on full and ragged grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Passes over the axes before what is left is lifted; grids met settle in a handful.
_PASSES = 60


def smooth_monotone(points: FloatArray, seconds: FloatArray, axes: Sequence[int]) -> FloatArray:
    """Return seconds that never fall along any of `axes`, near the given ones in relative least squares.

    Along one axis this is isotonic regression with weights 1/t² (pool adjacent violators), the optimum. Along several
    it is Dykstra's alternating projection over the axes, stopped after a fixed number of rounds; what then still falls
    (rounding) is lifted to its predecessor.

    Parameters
    ----------
    points
        Distinct points; shape (R, A). They need not fill a grid: a line holds the points that differ in one axis only.
    seconds
        Times of at least 0; shape (R,).
    axes
        Columns of `points` along which times grow.
    """
    lines = [(column, _lines(points, column)) for column in axes]
    if all(_rises(seconds, along) for _, along in lines):
        return seconds
    floor = float(seconds[seconds > 0.0].min(initial=np.inf))
    smallest = floor if np.isfinite(floor) else 1.0
    # 1/t² up to a factor, held above what a double can still tell from nothing.
    weights = np.maximum(np.square(smallest / np.maximum(seconds, smallest)), 1e-24)
    result = _dykstra(seconds, weights, [along for _, along in lines])
    for _ in range(len(lines)):
        for _, along in lines:
            for line in along:
                result[line] = np.maximum.accumulate(result[line])
    return np.maximum(result, 0.0)


def _dykstra(seconds: FloatArray, weights: FloatArray, axes: list[list[NDArray[np.intp]]]) -> FloatArray:
    result = seconds.copy()
    corrections = [np.zeros_like(result) for _ in axes]
    for _ in range(_PASSES if len(axes) > 1 else 1):
        before = result.copy()
        for number, along in enumerate(axes):
            start = result + corrections[number]
            result = _project(start, weights, along)
            corrections[number] = start - result
        if np.allclose(result, before, rtol=1e-9, atol=0.0):
            break
    return result


def _project(values: FloatArray, weights: FloatArray, along: list[NDArray[np.intp]]) -> FloatArray:
    from scipy.optimize import isotonic_regression

    result = values.copy()
    for line in along:
        if (np.diff(values[line]) < 0.0).any():
            result[line] = isotonic_regression(values[line], weights=weights[line]).x
    return result


def _lines(points: FloatArray, column: int) -> list[NDArray[np.intp]]:
    """Return the rows of every line along `column`, in growing order; lines of one point are left out."""
    others = np.delete(points, column, axis=1)
    order = np.lexsort((points[:, column], *others.T[::-1])) if others.size else np.argsort(points[:, column])
    if not others.size:
        return [order] if len(order) > 1 else []
    breaks = np.flatnonzero((np.diff(others[order], axis=0) != 0.0).any(axis=1)) + 1
    return [line for line in np.split(order, breaks) if len(line) > 1]


def _rises(seconds: FloatArray, along: list[NDArray[np.intp]]) -> bool:
    return all((np.diff(seconds[line]) >= 0.0).all() for line in along)
