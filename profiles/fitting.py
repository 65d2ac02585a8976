"""Fitting: from timed runs of a whole model to six non-negative coefficients, with the residuals they leave.

A run of b sequences with s prompt and o output tokens takes

    prefill(b, s) = p0 + p1·b·s + p2·b·s²
    step(b, c)    = d0 + d1·b + d2·b·c                  one decode step at context c
    T(b, s, o)    = prefill(b, s) + Σ_{k=1..o−1} step(b, s + k)
                  = p0 + p1·b·s + p2·b·s² + (o−1)·(d0 + d1·b + d2·b·(s + o/2))

which is linear in the coefficients. They are found by non-negative least squares on relative errors (every row divided
by its time), so that a millisecond counts more in a short run than in a long one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError
from gpuplan.profiles.tables.data_files import Columns, read_columns

FloatArray = NDArray[np.float64]
Triple = tuple[float, float, float]

#: Other names that logs use for our columns.
ALIASES = {
    "batch": ("batch", "batch_size"),
    "prompt": ("prompt", "prompt_tokens", "prompt_size", "input_tokens", "input_len"),
    "output": ("output", "output_tokens", "token_size", "output_len"),
    "time": ("time", "time_s", "e2e_time", "latency_s"),
    "ttft": ("ttft", "ttft_s", "prefill_s"),
    "tpot": ("tpot", "tpot_s", "step_s"),
}
#: Columns whose ratio of singular values is below this do not tell coefficients apart.
_RANK = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Timed runs by column; shape (R,) each.

    `time_s` is end to end; `prefill_s` (time to first token) and `step_s` (mean time of a later token) are NaN where a
    log does not hold them, and `time_s` where only they are known.
    """

    batch: FloatArray
    prompt: FloatArray
    output: FloatArray
    time_s: FloatArray
    prefill_s: FloatArray
    step_s: FloatArray

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """p0, p1, p2 of prefill and d0, d1, d2 of a decode step; seconds, seconds per token, and so on."""

    prefill: Triple
    decode: Triple

    def prefill_s(self, batch: float, prompt: float) -> float:
        """Return p0 + p1·b·s + p2·b·s²."""
        p0, p1, p2 = self.prefill
        return p0 + batch * prompt * (p1 + p2 * prompt)

    def step_s(self, batch: float, context: float) -> float:
        """Return d0 + d1·b + d2·b·c."""
        d0, d1, d2 = self.decode
        return d0 + batch * (d1 + d2 * context)

    def time_s(self, batch: float, prompt: float, output: float) -> float:
        """Return prefill(b, s) + (o − 1)·step(b, s + o/2)."""
        return self.prefill_s(batch, prompt) + (output - 1.0) * self.step_s(batch, prompt + output / 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """Coefficients, and how far they are from the runs.

    Parameters
    ----------
    coefficients
        All at least 0.
    predicted_s, measured_s
        Of every equation: the runs' times, then their prefills, then their steps, where given; shape (E,).
    notes
        What the runs could not tell apart.
    """

    coefficients: Coefficients
    predicted_s: FloatArray
    measured_s: FloatArray
    notes: tuple[str, ...]

    @property
    def relative_errors(self) -> FloatArray:
        """(predicted − measured) / measured; shape (E,)."""
        return np.asarray(self.predicted_s / self.measured_s - 1.0, dtype=np.float64)

    @property
    def median_error(self) -> float:
        """Median absolute relative error."""
        return float(np.median(np.abs(self.relative_errors)))

    @property
    def worst_error(self) -> float:
        """Largest absolute relative error."""
        return float(np.max(np.abs(self.relative_errors)))


def fit_runs(runs: Runs) -> FitResult:
    """Return the coefficients that explain `runs` best.

    Raises
    ------
    InputError
        There are no runs, or not one with a time.
    """
    from scipy.optimize import nnls

    matrix, measured = _equations(runs)
    if not len(measured):
        raise InputError("expected at least one run with a time, got none")
    relative = matrix / measured[:, None]
    scale = np.linalg.norm(relative, axis=0)
    usable = scale > 0.0
    solution = np.zeros(6)
    # Columns of one length: the solver's tolerance then means the same for all.
    solution[usable] = nnls(relative[:, usable] / scale[usable], np.ones(len(measured)))[0] / scale[usable]
    p0, p1, p2, d0, d1, d2 = (float(value) for value in solution)
    return FitResult(
        Coefficients((p0, p1, p2), (d0, d1, d2)), matrix @ solution, measured, _notes(relative, scale, runs)
    )


def _equations(runs: Runs) -> tuple[FloatArray, FloatArray]:
    b, s, o = runs.batch, runs.prompt, runs.output
    one, zero = np.ones_like(b), np.zeros_like(b)
    prefill = np.column_stack([one, b * s, b * s * s, zero, zero, zero])
    step = np.column_stack([zero, zero, zero, one, b, b * (s + o / 2.0)])
    blocks = [
        (prefill + (o - 1.0)[:, None] * step, runs.time_s),
        (prefill, runs.prefill_s),
        (step, runs.step_s),
    ]
    known = [(block[np.isfinite(times)], times[np.isfinite(times)]) for block, times in blocks]
    return np.concatenate([block for block, _ in known]), np.concatenate([times for _, times in known])


def _notes(relative: FloatArray, scale: FloatArray, runs: Runs) -> tuple[str, ...]:
    usable = relative[:, scale > 0.0] / scale[scale > 0.0]
    rank = int(np.linalg.matrix_rank(usable, tol=_RANK * max(usable.shape)))
    if rank == 6:
        return ()
    fixed = [name for name in ("batch", "prompt", "output") if np.ptp(getattr(runs, name)) == 0.0]
    why = (
        f"{' and '.join(fixed)} never {'varies' if len(fixed) == 1 else 'vary'}" if fixed else "the runs are too alike"
    )
    return (
        f"the runs settle {rank} of the 6 coefficients ({why}); times near the runs hold, others are one guess of many",
    )


def read_runs(path: str | Path, columns: Mapping[str, str] | None = None) -> Runs:
    """Read timed runs: a CSV or Parquet file with columns batch, prompt, output and time (seconds).

    Parameters
    ----------
    path
        The file. Optional columns ``ttft`` and ``tpot`` (s) sharpen the fit; with both, `time` may be left out.
    columns
        Our name → the file's, where it is not one of the usual ones.

    Raises
    ------
    InputError
        A column is missing or a cell is no number; the message names row and column.
    """
    data = read_columns(Path(path))
    names = {ours: _column(data, ours, columns or {}) for ours in ALIASES}
    missing = [ours for ours in ("batch", "prompt", "output") if names[ours] is None]
    if names["time"] is None and (names["ttft"] is None or names["tpot"] is None):
        missing.append("time")
    if missing:
        raise InputError(
            f"expected a column for {', '.join(missing)} (batch, prompt, output, time; or ttft and tpot), got the"
            f" columns {', '.join(data.values)}; name them with --column",
            source=str(path),
        )
    values = {ours: _numbers(data, name, positive=True) for ours, name in names.items()}
    return Runs(values["batch"], values["prompt"], values["output"], values["time"], values["ttft"], values["tpot"])


def _column(data: Columns, ours: str, chosen: Mapping[str, str]) -> str | None:
    if ours in chosen:
        data.require([chosen[ours]])
        return chosen[ours]
    return next((name for name in ALIASES[ours] if name in data.values), None)


def _numbers(data: Columns, name: str | None, *, positive: bool) -> FloatArray:
    if name is None:
        return np.full(data.rows, np.nan)
    numbers = [data.number(name, row) for row in range(data.rows)]
    for row, value in enumerate(numbers):
        if positive and value <= 0.0:
            raise data.error("a number above 0", name, row)
    return np.array(numbers)


def runs_from_rows(rows: Sequence[Sequence[float]]) -> Runs:
    """Return runs given as (batch, prompt, output, seconds) each."""
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    unknown = np.full(len(table), np.nan)
    return Runs(table[:, 0], table[:, 1], table[:, 2], table[:, 3], unknown, unknown)
