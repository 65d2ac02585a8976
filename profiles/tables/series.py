"""One measured function: seconds of some operators over points of a few axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError
from gpuplan.profiles.tables.monotone import smooth_monotone

FloatArray = NDArray[np.float64]
Phase = Literal["prefill", "decode", "both"]

#: What a time may depend on, in the order axes are searched: shapes first, then sizes.
#: ``tokens`` new tokens of the pass, ``batch`` sequences, ``prompt`` new tokens of one sequence, ``context`` cached
#: positions of one sequence (before the chunk in prefill), ``experts`` distinct experts touched as a share of the most
#: that so many tokens can touch; ``n``, ``k`` outputs and inputs of a matrix product, ``heads``, ``kv_heads``,
#: ``head_dim`` of attention, all on one device.
AXES = ("n", "k", "kv_heads", "heads", "head_dim", "batch", "tokens", "prompt", "experts", "context")

#: Times grow along these; along the others nothing is assumed.
MONOTONE_AXES = ("batch", "tokens", "prompt", "experts", "context")

#: `covers` of a series that times any plain matrix product by its shape.
GEMM = "gemm"
#: `covers` of a series that times a whole layer of a kind starts so: ``layer:decoder``.
WHOLE_LAYER = "layer:"
#: All of these.
WHOLE_LAYERS = ("layer:embedding", "layer:decoder", "layer:head")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Seconds over points.

    Parameters
    ----------
    covers
        The operators timed together, or ``("layer:decoder",)`` for a whole layer, or ``("gemm",)`` for any matrix
        product of the shape n x k.
    phase
        The pass it belongs to; ``both`` where only the number of tokens matters.
    axes
        Names of the columns of `points`, some of `AXES` in that order.
    points
        Distinct points, sorted row by row; shape (R, len(axes)).
    seconds
        Seconds at each point, never falling along a `MONOTONE_AXES` axis; shape (R,).
    measured
        Seconds as they were measured (the median of several at one point); shape (R,).
    smoothed
        Which seconds are not those measured but the monotone ones nearest to them; shape (R,).
    largest_change
        By how much smoothing moved a time at most, relative to what was measured.
    """

    covers: tuple[str, ...]
    phase: Phase
    axes: tuple[str, ...]
    points: FloatArray
    seconds: FloatArray
    measured: FloatArray
    smoothed: NDArray[np.bool_]
    largest_change: float = 0.0

    @property
    def name(self) -> str:
        """How messages call it: ``qkv_proj (prefill)``."""
        return "+".join(self.covers) + ("" if self.phase == "both" else f" ({self.phase})")

    def range_text(self) -> str:
        """Return what was measured, axis by axis: ``batch 1 to 256, context 16 to 16384``."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return ", ".join(
            f"{axis} {a:g}" if a == b else f"{axis} {a:g} to {b:g}"
            for axis, a, b in zip(self.axes, low, high, strict=True)
        )


def series_from_rows(
    covers: Sequence[str],
    phase: Phase,
    axes: Sequence[str],
    rows: Sequence[Sequence[float]],
    *,
    source: str | None = None,
) -> Series:
    """Return the series of measured rows.

    Parameters
    ----------
    covers, phase
        As in `Series`.
    axes
        Names of the first columns of `rows`, in any order.
    rows
        One measurement each: a number per axis, then the seconds. Several at one point count as their median.

    Raises
    ------
    InputError
        There are no rows, or a number is negative or not finite.
    """
    name = "+".join(covers)
    if not len(rows):
        raise InputError(f"expected at least one time of {name}, got none", source=source)
    table = np.asarray(rows, dtype=np.float64)
    if not (np.isfinite(table).all() and (table >= 0.0).all()):
        row = int(np.argwhere(~(np.isfinite(table) & (table >= 0.0)).all(axis=1))[0, 0])
        raise InputError(f"expected finite numbers of at least 0 for {name}, got {rows[row]!r}", source=source)
    order = sorted(range(len(axes)), key=lambda i: AXES.index(axes[i]))
    named = tuple(axes[i] for i in order)
    points, inverse = np.unique(table[:, order], axis=0, return_inverse=True)
    measured = _medians(table[:, -1], inverse.reshape(-1), len(points))
    growing = [column for column, axis in enumerate(named) if axis in MONOTONE_AXES]
    seconds = smooth_monotone(points, measured, growing)
    smoothed = np.abs(seconds - measured) > 1e-12 * measured
    seconds = np.where(smoothed, seconds, measured)
    change = np.abs(seconds - measured)[measured > 0.0] / measured[measured > 0.0]
    return Series(tuple(covers), phase, named, points, seconds, measured, smoothed, float(change.max(initial=0.0)))


def _medians(values: FloatArray, group: NDArray[np.intp], count: int) -> FloatArray:
    if len(values) == count:
        return np.asarray(values[np.argsort(group, kind="stable")], dtype=np.float64)
    order = np.lexsort((values, group))
    sizes = np.bincount(group, minlength=count)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    low = values[order[starts + (sizes - 1) // 2]]
    high = values[order[starts + sizes // 2]]
    return np.asarray(np.where(low == high, low, (low + high) / 2.0), dtype=np.float64)


def smoothing_note(series: Series) -> str | None:
    """Return a sentence on what smoothing changed, or None."""
    count = int(series.smoothed.sum())
    if not count:
        return None
    share = math.ceil(1000.0 * series.largest_change) / 10.0
    return (
        f"{series.name}: times fall somewhere as sizes grow; {count} of {len(series.seconds)} were smoothed to a"
        f" monotone curve, by at most {share:g} %"
    )
