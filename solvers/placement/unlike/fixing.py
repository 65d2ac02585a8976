"""Reduced-cost fixing and a MILP of what is left: blocks and links that no better plan can use are left out, exactly.

    y[c,i,j] stays when  arrive[i,s] + prefix[c,j] − prefix[c,i] + after[j,s] − λ·counts ≤ upper  for a state s of c
    z[d,e,i] stays when  ended[i,s] + hop(d,e,i) + opened[i,t] − λ·counts ≤ upper  for a hand-over s → t of d to e

(arrive, ended from the start, after, opened to the end, all with multipliers.) The MILP is the block/link flow form of
`placement.milp` over classes; its optimum, or `upper` if less, bounds every plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.links import Wide
from gpuplan.solvers.placement.unlike.relaxation import WideRelaxation

#: Variables of the largest model, of one under a work limit, and of one small enough to end soon in this process (a
#: process of its own keeps to the time limit, but starting it takes half a second).
MOST_VARIABLES, MOST_REPEATABLE, MOST_INSIDE = 30_000, 3_000, 1_500
#: Bounds of the engine hold to an absolute 1e-6 (HiGHS), of values scaled to SCALE.
SCALE, ENGINE_TOLERANCE = 1_000.0, 1e-6


@dataclass(frozen=True)
class Left:
    """Variables left: rows (c, i, j) of blocks, (d, e, i) of links, (d, f) of return hops; shapes (·, 3), (·, 2)."""

    blocks: IntArray
    links: IntArray
    returns: IntArray

    @property
    def size(self) -> int:
        """Number of variables."""
        return len(self.blocks) + len(self.links) + len(self.returns)


def finish(relaxation: WideRelaxation, upper: float, path: ClassPath | None, budget: Budget) -> CoreOutcome | None:
    """Solve what is left below `upper` (the value of `path`, if given); None where that is too large to try."""
    core = relaxation.wide.core
    if core.cap is not None or core.any_plan or not math.isfinite(upper) or upper <= 0.0:
        return None
    left = fix(relaxation, upper)
    most = MOST_VARIABLES if budget.limits.work_limit is None else MOST_REPEATABLE
    if left is None or left.size > most or budget.exhausted():
        return None
    return _solve(core, left, upper, path, budget)


# -------------------------------------------------------------------------------------------------------- fixing


def fix(relaxation: WideRelaxation, upper: float, most: int = MOST_VARIABLES) -> Left | None:
    """Return the variables that a plan of at most `upper` may use; None where they are more than `most`."""
    constant = relaxation.constant()
    limit = upper * (1.0 + 1e-9) + constant
    arrive, ended = relaxation.arrivals()
    blocks = _blocks(relaxation, arrive, limit)
    links = _links(relaxation, arrive, ended, limit, most - len(blocks)) if len(blocks) < most else None
    if links is None:
        return None
    return Left(blocks, links, _returns(relaxation, arrive, limit))


def _blocks(relaxation: WideRelaxation, arrive: FloatArray, limit: float) -> IntArray:
    wide, frame = relaxation.wide, relaxation.wide.frame
    n = wide.core.num_layers
    found: list[IntArray] = []
    for i in range(n):
        opened = arrive[i] - frame.prefix[i]
        for j in range(int(frame.nearest[i]), int(frame.farthest[i]) + 1):
            if (i, j) == (0, n):
                continue  # plans of one stage are priced apart
            through = opened + frame.prefix[j] + relaxation.after[j]
            classes = np.unique(wide.owner[(through <= limit) & (frame.reach[i] >= j)])
            found.append(np.stack([classes, np.full_like(classes, i), np.full_like(classes, j)], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64)


def _links(
    relaxation: WideRelaxation, arrive: FloatArray, ended: FloatArray, limit: float, most: int
) -> IntArray | None:
    """List the links left; None where they are more than `most`."""
    wide, frame = relaxation.wide, relaxation.wide.frame
    gate = np.full(len(wide.owner), -1)
    gate[wide.gates.to] = np.arange(len(wide.gates.to))
    weight = relaxation.weight()[wide.owner]
    found: list[IntArray] = []
    count = 0
    for i in range(1, wide.core.num_layers):
        senders = np.flatnonzero(ended[i] + relaxation.after[i] <= limit)
        takers = np.flatnonzero(arrive[i] + relaxation.rest[i] <= limit)
        hops = _hops(wide, gate, senders, takers, float(frame.boundary[i]))
        through = ended[i, senders][:, None] + hops + (relaxation.rest[i, takers] + weight[takers])
        rows, columns = np.nonzero(through <= limit)
        ends = np.stack([wide.owner[senders[rows]], wide.owner[takers[columns]]], axis=1)
        ends = np.unique(ends, axis=0)
        found.append(np.concatenate([ends, np.full((len(ends), 1), i, dtype=np.int64)], axis=1))
        count += len(ends)
        if count > most:
            return None
    return np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64)


def _hops(wide: Wide, gate: IntArray, senders: IntArray, takers: IntArray, size: float) -> FloatArray:
    """Return the times of the hand-overs between states, inf where closed; shape (senders, takers)."""
    pairs = np.ix_(wide.owner[senders], wide.owner[takers])
    hops = wide.core.hop_s[pairs] + size * wide.core.hop_s_per_byte[pairs]
    gated = np.flatnonzero(gate[takers] >= 0)
    own = np.ix_(gate[takers[gated]], senders)
    hops[:, gated] = (wide.gates.from_s[own] + size * wide.gates.from_pb[own]).T
    return np.asarray(hops)


def _returns(relaxation: WideRelaxation, arrive: FloatArray, limit: float) -> IntArray:
    """List the pairs (last, first) left: the least return hop of a last class is in its bound, more is on top."""
    wide, frame, core = relaxation.wide, relaxation.wide.frame, relaxation.wide.core
    if core.back is None:
        return np.zeros((0, 2), dtype=np.int64)
    n, num = core.num_layers, core.num_classes
    last = np.full(num, np.inf)
    for i in range(1, n):
        open_ = (frame.reach[i] >= n) & (frame.nearest[i] <= n)
        ends = np.where(open_, arrive[i] - frame.prefix[i] + frame.prefix[n] + frame.term, np.inf)
        np.minimum.at(last, wide.owner, ends)
    more = core.back - frame.term[:num][:, None]
    back = np.where(np.isfinite(core.back), last[:, None] + more, np.inf)
    return np.argwhere(back <= limit)


# ------------------------------------------------------------------------------------------------------ the model


def _solve(core: Core, left: Left, upper: float, path: ClassPath | None, budget: Budget) -> CoreOutcome:
    from gpuplan.solvers.external.linear import solve_milp

    scale = SCALE / upper
    cost = _costs(core, left) * scale
    matrix, lower, upper_side = _rows(core, left)
    limits = budget.limits
    seconds = None if limits.time_limit_s is None else max(budget.remaining_s, 0.0)
    inside = left.size <= MOST_INSIDE
    status, x, bound = solve_milp(
        cost,
        matrix,
        lower,
        upper_side,
        np.arange(left.size) < len(left.blocks),
        (0.0, 1.0),
        seconds,
        None if path is None else _point(left, path),
        isolated=not inside,
        threads=limits.threads,
        cancel=budget.exhausted,
    )
    if status == "infeasible":
        return CoreOutcome(math.inf, None, upper, True)
    found = None if x is None else _path(left, x)
    proven = (bound - ENGINE_TOLERANCE) / scale if math.isfinite(bound) else -math.inf
    if status == "optimal":
        # The engine's own tolerance is all that stands between its bound and its plan.
        value = core.value(found) if found is not None else upper
        proven = min(upper, value) if abs(bound / scale - value) <= 2e-9 * value else proven
    value = math.inf if found is None or not core.holds(found) else core.value(found)
    return CoreOutcome(value, None if math.isinf(value) else found, min(proven, upper), status == "optimal")


def _costs(core: Core, left: Left) -> FloatArray:
    c, i, j = left.blocks.T
    d, e, at = left.links.T
    costs = [core.prefix[c, j] - core.prefix[c, i] + core.entry[c]]
    costs.append(core.hop_s[d, e] + core.boundary[at] * core.hop_s_per_byte[d, e])
    if core.back is not None:
        costs.append(core.back[left.returns[:, 0], left.returns[:, 1]])
    return np.concatenate(costs)


class _Matrix:
    """Rows under construction: (row, column, value) triples and both sides."""

    def __init__(self) -> None:
        self.parts: list[tuple[IntArray, IntArray, FloatArray]] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, groups: IntArray, columns: IntArray, values: FloatArray | float, base: int) -> None:
        """Put values into rows base + groups."""
        self.parts.append((base + groups, columns, np.broadcast_to(values, groups.shape).astype(np.float64)))

    def rows(self, count: int, lower: float | FloatArray, upper: float | FloatArray) -> int:
        """Begin `count` rows; return the first."""
        base = len(self.lower)
        self.lower += np.broadcast_to(lower, (count,)).tolist()
        self.upper += np.broadcast_to(upper, (count,)).tolist()
        return base


def _rows(core: Core, left: Left) -> tuple[object, FloatArray, FloatArray]:
    """Rows (1) to (5) of `placement.milp`, over classes."""
    from scipy.sparse import coo_array

    n, num = core.num_layers, core.num_classes
    matrix = _Matrix()
    c, i, j = left.blocks.T
    y = np.arange(len(c))
    matrix.add(np.zeros_like(y[i == 0]), y[i == 0], 1.0, matrix.rows(1, 1.0, 1.0))
    _flow(matrix, left, n, num)
    taken = core.resources.use[:, c]
    resource, column = np.nonzero(taken)
    counts = matrix.rows(len(taken), -math.inf, core.capacity.astype(np.float64))
    matrix.add(resource, column, taken[resource, column].astype(np.float64), counts)
    matrix.add(np.zeros_like(y), y, 1.0, matrix.rows(1, 2.0, float(core.max_stages)))
    if core.weights is not None:
        unit = float(core.weights.max()) or 1.0
        matrix.add(np.zeros_like(y), y, core.weights[c] / unit, matrix.rows(1, -math.inf, core.limit / unit))
    if core.back is not None:
        r = len(c) + len(left.links) + np.arange(len(left.returns))
        for ends, side in ((j == n, 0), (i == 0, 1)):
            base = matrix.rows(num, 0.0, 0.0)
            matrix.add(c[ends], y[ends], 1.0, base)
            matrix.add(left.returns[:, side], r, -1.0, base)
    rows, columns, values = (np.concatenate(part) for part in zip(*matrix.parts, strict=True))
    table = coo_array((values, (rows, columns)), shape=(len(matrix.lower), left.size)).tocsr()
    return table, np.array(matrix.lower), np.array(matrix.upper)


def _flow(matrix: _Matrix, left: Left, n: int, num: int) -> None:
    """Stages before a cut hand over to it, links lead on to the stages behind it."""
    c, i, j = left.blocks.T
    d, e, at = left.links.T
    y, z = np.arange(len(c)), len(c) + np.arange(len(d))
    for cut, inner, ends in ((j, j < n, d), (i, i > 0, e)):
        base = matrix.rows(num * n, 0.0, 0.0)
        matrix.add((c * n + cut)[inner], y[inner], 1.0, base)
        matrix.add(ends * n + at, z, -1.0, base)


def _point(left: Left, path: ClassPath) -> FloatArray | None:
    """Return the variables of a plan; None when one of them was left out."""
    places: list[int] = []
    hops = [(path[k][0], path[k + 1][0], path[k][2]) for k in range(len(path) - 1)]
    columns: list[tuple[IntArray, list[tuple[int, ...]]]] = [(left.blocks, list(path)), (left.links, list(hops))]
    if len(left.returns):
        columns.append((left.returns, [(path[-1][0], path[0][0])]))
    base = 0
    for table, wanted in columns:
        known = {tuple(row): base + k for k, row in enumerate(table.tolist())}
        if any(key not in known for key in wanted):
            return None
        places += [known[key] for key in wanted]
        base += len(table)
    point = np.zeros(left.size)
    point[places] = 1.0
    return point


def _path(left: Left, x: FloatArray) -> ClassPath:
    chosen = left.blocks[x[: len(left.blocks)] > 0.5]
    return tuple((int(c), int(i), int(j)) for c, i, j in chosen[np.argsort(chosen[:, 1])])
