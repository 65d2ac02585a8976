"""The integer programmes: how many of which replica. HiGHS through SciPy, small and exact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Objectives are scaled to about this, so that absolute tolerances are relative ones of 1e-10.
SCALE: Final = 1e4


@dataclass(slots=True)
class Programme:
    """Maximise (or minimise) a sum over whole numbers of columns under rows ``Σ a·x ≤ limit``.

    `rows` holds one mapping from columns to coefficients a row.
    """

    values: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    rows: list[dict[int, float]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def column(self, value: float, most: float = math.inf) -> int:
        """Add a column; return its number."""
        self.values.append(value)
        self.most.append(most)
        return len(self.values) - 1

    def row(self, coefficients: Mapping[int, float], limit: float) -> None:
        """Add a row ``Σ a·x ≤ limit``."""
        self.rows.append(dict(coefficients))
        self.limits.append(limit)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of the columns (None: none found), and a bound on the objective (None: none known).

    `infeasible` says that no counts satisfy the rows: proven.
    """

    counts: tuple[int, ...] | None
    bound: float | None
    infeasible: bool = False


def solve_programme(
    programme: Programme, *, maximise: bool, time_limit_s: float | None = None, integral: bool = True, gap: float = 0.0
) -> Outcome:
    """Solve a programme; counts are whole numbers unless `integral` is off, when only the bound is meant."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not programme.values:
        fits = all(limit >= 0.0 for limit in programme.limits)
        return Outcome((), 0.0) if fits else Outcome(None, None, infeasible=True)
    scale = SCALE / max(map(abs, programme.values)) if any(programme.values) else 1.0
    sign = -scale if maximise else scale
    options: Any = {"mip_rel_gap": gap, "presolve": True}
    if time_limit_s is not None and math.isfinite(time_limit_s):
        options["time_limit"] = max(time_limit_s, 0.01)
    found = milp(
        sign * np.array(programme.values),
        integrality=np.full(len(programme.values), int(integral)),
        bounds=Bounds(0.0, np.array(programme.most)),
        constraints=[LinearConstraint(_matrix(programme), -np.inf, np.array(programme.limits))],
        options=options,
    )
    if found.status == 2:
        return Outcome(None, None, infeasible=True)
    dual = getattr(found, "mip_dual_bound", None)
    if not integral:
        dual = found.fun
    bound = None if dual is None or not math.isfinite(dual) else float(dual) / sign
    if found.x is None:
        return Outcome(None, bound)
    return Outcome(tuple(round(value) for value in found.x), bound)


def relaxed_duals(programme: Programme, *, maximise: bool) -> tuple[float, Floats] | None:
    """Return the value of a programme in fractions and the duals of its rows, at least 0; None without a solution."""
    from scipy.optimize import linprog

    scale = SCALE / max(map(abs, programme.values)) if any(programme.values) else 1.0
    sign = -scale if maximise else scale
    bounds: Any = np.stack([np.zeros(len(programme.most)), np.array(programme.most)], axis=1)
    rows, limits, costs = _matrix(programme), np.array(programme.limits), sign * np.array(programme.values)
    found: Any = linprog(costs, A_ub=rows, b_ub=limits, bounds=bounds, method="highs")
    if found.x is None or found.status != 0:
        return None
    return float(found.fun) / sign, np.maximum(-np.asarray(found.ineqlin.marginals) / scale, 0.0)


def _matrix(programme: Programme) -> Any:
    from scipy.sparse import csr_array

    entries = [(r, c, a) for r, row in enumerate(programme.rows) for c, a in row.items()]
    rows, columns, numbers = zip(*entries, strict=True) if entries else ((), (), ())
    return csr_array((numbers, (rows, columns)), shape=(len(programme.rows), len(programme.values)))


def patterns(whole: Sequence[int], pieces: Sequence[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """Return the maximal ways to cut an island: how many of each piece; at most `most` ways.

    Parameters
    ----------
    whole
        Counts of the island's classes.
    pieces
        Counts each piece takes of them.

    >>> patterns((3,), [(1,), (2,)], 10)
    [(3, 0), (1, 1)]
    """
    found: list[tuple[int, ...]] = []

    def fill(first: int, left: tuple[int, ...], taken: tuple[int, ...]) -> None:
        if len(found) >= most:
            return
        if first == len(pieces):
            if not any(_fits(piece, left) for piece in pieces):
                found.append(taken)
            return
        piece = pieces[first]
        times = min((have // take for have, take in zip(left, piece, strict=True) if take), default=0)
        for count in range(times, -1, -1):
            rest = tuple(have - count * take for have, take in zip(left, piece, strict=True))
            fill(first + 1, rest, (*taken, count))

    fill(0, tuple(whole), ())
    return found


def _fits(piece: Sequence[int], left: Sequence[int]) -> bool:
    return any(piece) and all(take <= have for take, have in zip(piece, left, strict=True))
