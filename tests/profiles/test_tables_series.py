"""Series: medians, monotone smoothing, and lookups with their tags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import InputError
from gpuplan.profiles.tables import Series, series_from_rows
from gpuplan.profiles.tables.interpolation import look_up
from gpuplan.profiles.tables.series import smoothing_note


def line(*rows: tuple[float, float]) -> Series:
    """Return a series over tokens."""
    return series_from_rows(["x"], "both", ["tokens"], rows)


def test_repeated_points_count_as_their_median() -> None:
    """Three times at one point: the middle one; two: halfway."""
    series = line((1, 5.0), (1, 1.0), (1, 2.0), (2, 3.0), (2, 5.0))
    assert series.points[:, 0].tolist() == [1, 2]
    assert series.measured.tolist() == [2.0, 4.0]


def test_axes_are_put_in_one_order() -> None:
    """Rows given as (context, batch) come out as (batch, context), sorted."""
    series = series_from_rows(["x"], "decode", ["context", "batch"], [(10, 2, 4.0), (10, 1, 3.0), (5, 1, 2.0)])
    assert series.axes == ("batch", "context")
    assert series.points.tolist() == [[1, 5], [1, 10], [2, 10]]
    assert series.seconds.tolist() == [2.0, 3.0, 4.0]


def test_a_monotone_table_is_left_alone() -> None:
    """Nothing is smoothed, nothing noted."""
    series = line((1, 1.0), (2, 1.0), (3, 2.0))
    assert not series.smoothed.any()
    assert smoothing_note(series) is None


def test_falling_times_are_pooled_by_relative_weight() -> None:
    """4 s then 2 s pool at Σ(t/t²)/Σ(1/t²) = (1/4 + 1/2)/(1/16 + 1/4) = 2.4 s; the change is 2.4 from 4: 40 %."""
    series = line((1, 1.0), (2, 4.0), (3, 2.0), (4, 8.0))
    assert series.seconds == pytest.approx([1.0, 2.4, 2.4, 8.0])
    assert series.measured.tolist() == [1.0, 4.0, 2.0, 8.0]
    assert series.smoothed.tolist() == [False, True, True, False]
    assert smoothing_note(series) == (
        "x: times fall somewhere as sizes grow; 2 of 4 were smoothed to a monotone curve, by at most 40 %"
    )


@pytest.mark.parametrize(
    ("at", "seconds", "origin"),
    [
        (2, 10.0, "measured"),
        (3, 15.0, "interpolated"),  # halfway from (2, 10) to (4, 20)
        (6, 30.0, "interpolated"),  # halfway from (4, 20) to (8, 40)
        (8, 40.0, "measured"),
    ],
)
def test_between_rows_a_straight_line(at: float, seconds: float, origin: str) -> None:
    """A row is measured, between two rows is interpolated."""
    found = look_up(line((2, 10.0), (4, 20.0), (8, 40.0)), (at,))
    assert found is not None
    assert (found.seconds, found.origin) == (pytest.approx(seconds), origin)


@pytest.mark.parametrize(("at", "seconds"), [(1, 10.0), (10, 50.0)])
def test_outside_is_refused_unless_asked(at: float, seconds: float) -> None:
    """Below: the first value stays. Above: the line through the last two, 40 + 2·(40 − 20)/4 = 50."""
    series = line((2, 10.0), (4, 20.0), (8, 40.0))
    assert look_up(series, (at,)) is None
    found = look_up(series, (at,), extrapolate=True)
    assert found is not None
    assert (found.seconds, found.origin) == (pytest.approx(seconds), "extrapolated")


def test_one_row_gives_no_line_to_continue() -> None:
    """Above a single row even extrapolation is refused."""
    assert look_up(line((2, 10.0)), (3,), extrapolate=True) is None


def test_a_smoothed_row_is_not_called_measured() -> None:
    """Hitting a row that smoothing moved is interpolation."""
    found = look_up(line((1, 4.0), (2, 2.0)), (1,))
    assert found is not None
    assert found.origin == "interpolated"


def test_two_axes_are_bilinear() -> None:
    """Batch 1-3 × context 0-10 with t = b·(1 + c): at (2, 5) a quarter of each of 1, 11, 3, 33 = 12."""
    grid = series_from_rows(
        ["x"], "decode", ["batch", "context"], [(b, c, b * (1.0 + c)) for b in (1, 3) for c in (0, 10)]
    )
    found = look_up(grid, (2, 5))
    assert found is not None
    assert found.seconds == pytest.approx(12.0)
    assert len(found.rows) == 4


def test_a_ragged_grid_takes_the_neighbours_that_reach() -> None:
    """Batch 2 stops at context 10: (2, 20) lies halfway between (1, 20) = 20 and (3, 20) = 60."""
    rows = [(1, 10, 10.0), (1, 20, 20.0), (2, 10, 20.0), (3, 10, 30.0), (3, 20, 60.0)]
    found = look_up(series_from_rows(["x"], "decode", ["batch", "context"], rows), (2, 20))
    assert found is not None
    assert found.seconds == pytest.approx(40.0)


def test_a_ragged_corner_is_outside() -> None:
    """Batch 3 was never run at context 20, nor any larger batch."""
    rows = [(1, 10, 10.0), (1, 20, 20.0), (3, 10, 30.0)]
    assert look_up(series_from_rows(["x"], "decode", ["batch", "context"], rows), (3, 20)) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected at least one time of x, got none"),
        ([(1, float("nan"))], "expected finite numbers of at least 0 for x"),
        ([(1, -1.0)], "expected finite numbers of at least 0 for x"),
    ],
)
def test_bad_rows_are_refused(rows: list[tuple[float, float]], message: str) -> None:
    """No rows, NaN, a negative time."""
    with pytest.raises(InputError, match=message):
        line(*rows)


TIMES = st.lists(st.floats(1e-6, 1.0), min_size=9, max_size=9)


@settings(max_examples=60, deadline=None)
@given(TIMES, st.floats(1.0, 3.0), st.floats(1.0, 3.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_lookups_never_fall_as_sizes_grow(times: list[float], b: float, c: float, more_b: float, more_c: float) -> None:
    """Whatever was measured on a full grid: a larger batch and context never takes less."""
    points = [(i, j) for i in (1, 2, 3) for j in (1, 2, 3)]
    series = series_from_rows(
        ["x"], "decode", ["batch", "context"], [(*p, t) for p, t in zip(points, times, strict=True)]
    )
    here = look_up(series, (b, c))
    there = look_up(series, (min(3.0, b + more_b), min(3.0, c + more_c)))
    assert here is not None
    assert there is not None
    assert there.seconds >= here.seconds * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=30))
def test_smoothing_stays_between_what_was_measured(times: list[float]) -> None:
    """Pooled times lie between the smallest and the largest, and never fall."""
    series = line(*enumerate(times))  # type: ignore[arg-type]
    assert (np.diff(series.seconds) >= 0.0).all()
    assert min(times) * (1 - 1e-9) <= series.seconds[0]
    assert series.seconds[-1] <= max(times) * (1 + 1e-9)
