"""The core problem both engines solve: one additive time to minimise over class paths of two stages or more.

    minimise    Σ compute + Σ hops + return hop + Σ entry[c] over used devices
    subject to  at most counts[c] devices of class c, at most `max_stages` stages, Σ weight[c] ≤ limit per budget,
                every stage's start inside its window (memory, marked layers, a cap on the cycle time)

One-stage plans are priced apart (`single_stage`): they pay no hop and may save the tied copy of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.modes import Modes
from gpuplan.solvers.placement.tables import ClassPath, ClassTables, ClassTiming
from gpuplan.solvers.placement.windows import CapWindows, cap_windows, memory_windows

#: A label is cut when it cannot be better than the incumbent by this much, relative.
IMPROVEMENT = 1e-11


@dataclass(frozen=True, slots=True)
class Query:
    """One minimisation over the plans of a problem.

    Parameters
    ----------
    time_weight
        Factor on the latency; 0 leaves entry costs (or bare feasibility).
    entry
        Cost of each used device by class, shape (C,), or None for none.
    cap_s
        Largest stage compute + outgoing hop of the cycle allowed.
    capacity_tokens
        KV tokens every stage with KV must have room for, or None.
    max_stages
        Most stages, on top of the problem's own limit; None for no further one.
    budget
        (weights by class, limit): Σ weights over used devices ≤ limit·(1 + 1e-12); or None.
    any_plan
        Whether the first plan found will do.
    bottleneck
        Whether stages are valued by the cycle and a plan by its largest stage instead of the sum.
    """

    time_weight: float = 1.0
    entry: tuple[float, ...] | None = None
    cap_s: float = math.inf
    capacity_tokens: float | None = None
    max_stages: int | None = None
    budget: tuple[tuple[float, ...], float] | None = None
    any_plan: bool = False
    bottleneck: bool = False

    def limited_to(self, max_stages: int) -> Query:
        """Return the query with at most `max_stages` stages."""
        most = max_stages if self.max_stages is None else min(max_stages, self.max_stages)
        return replace(self, max_stages=most)


@dataclass(frozen=True, slots=True)
class Core:
    """Arrays of one core problem; see the module for the problem itself.

    prefix, hop_s, hop_s_per_byte, boundary, back
        As in `ClassTiming`, times the query's time weight.
    entry
        Cost of each used device, shape (C,).
    low, top
        A stage of c that ends at j starts in low[c, j]..top[j]; shapes (C, n+1) and (n+1,).
    cap
        Windows under the cap, or None without one; `low` stays the memory window.
    weights, limit
        Budget, or None and inf.
    step
        Values are multiples of this, one per stage (0: any); lets a bound be rounded up.
    modes
        What the classes draw on together, or None where each is of its own; `counts` is then what each may have by
        itself, and `pred` holds none.
    """

    counts: IntArray
    pred: IntArray
    prefix: FloatArray
    hop_s: FloatArray
    hop_s_per_byte: FloatArray
    boundary: FloatArray
    back: FloatArray | None
    entry: FloatArray
    low: IntArray
    top: IntArray
    cap: CapWindows | None
    max_stages: int
    weights: FloatArray | None
    limit: float
    any_plan: bool
    step: float
    modes: Modes | None = None

    @property
    def resources(self) -> Modes:
        """What the classes draw on; without modes each class is a resource of its own."""
        return Modes.plain(self.counts, self.pred) if self.modes is None else self.modes

    @property
    def capacity(self) -> IntArray:
        """Capacity of the resources: the counters of a search key."""
        return self.counts if self.modes is None else self.modes.capacity

    @property
    def resource_weights(self) -> FloatArray | None:
        """The budget's weights by resource, or None without a budget."""
        if self.weights is None or self.modes is None:
            return self.weights
        return self.modes.per_resource(self.weights)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def num_layers(self) -> int:
        """N."""
        return int(self.prefix.shape[1]) - 1

    def window(self, c: int, stop: int, after: int | None, first: int) -> tuple[int, int]:
        """Return the first and last start of a stage of c that ends at `stop` and hands over to class `after`.

        `after` None: the plan's last stage, returning to class `first`.
        """
        top = int(self.top[stop])
        if self.cap is None:
            return int(self.low[c, stop]), top
        return int(self.cap.ending[c, first] if after is None else self.cap.following[c, after, stop]), top

    def value(self, path: ClassPath) -> float:
        """Objective of a path of two stages or more; inf where a hop has no route."""
        total = 0.0
        for k, (c, start, stop) in enumerate(path):
            if k:
                before = path[k - 1][0]
                total += self.hop_s[before, c] + self.boundary[start] * self.hop_s_per_byte[before, c]
            total += self.prefix[c, stop] - self.prefix[c, start] + self.entry[c]
        if self.back is not None:
            total += self.back[path[-1][0], path[0][0]]
        return float(total)

    def holds(self, path: ClassPath) -> bool:
        """Return whether a path meets every constraint."""
        used = np.bincount([c for c, _, _ in path], minlength=self.num_classes)
        if len(path) < 2 or len(path) > self.max_stages or (used > self.counts).any():
            return False
        if self.modes is not None and (self.modes.use @ used > self.modes.capacity).any():
            return False
        if self.weights is not None and float(used @ self.weights) > self.limit:
            return False
        for k, (c, start, stop) in enumerate(path):
            after = path[k + 1][0] if k + 1 < len(path) else None
            low, top = self.window(c, stop, after, path[0][0])
            if not low <= start <= top:
                return False
        return math.isfinite(self.value(path))


@dataclass(frozen=True, slots=True)
class CoreOutcome:
    """Answer of an engine.

    value, path
        Best plan found that is better than the given upper value; inf and None when there is none.
    bound
        Lower bound on every plan of the core; the upper value given when it is proven that none is better
        (inf: none exists).
    proven
        Whether `value` (or, without a path, the upper value given) is proven to be the best.
    by_count
        Best (value, path) of every stage count, where asked for.
    """

    value: float
    path: ClassPath | None
    bound: float
    proven: bool
    by_count: tuple[tuple[float, ClassPath], ...] = ()


def known_plan(core: Core, path: ClassPath | None, upper: float) -> CoreOutcome:
    """Return a path as an outcome without a bound; none where it does not hold, or is not below `upper`."""
    if path is None or not core.holds(path) or core.value(path) >= upper:
        return CoreOutcome(math.inf, None, -math.inf, False)
    return CoreOutcome(core.value(path), path, -math.inf, False)


def make_core(tables: ClassTables, query: Query, micro_batches: int) -> Core:
    """Assemble the arrays of a query with memory for M micro-batches."""
    low = memory_windows(tables, micro_batches, query.capacity_tokens)
    cap = None if math.isinf(query.cap_s) else cap_windows(tables, low, query.cap_s)
    timing, weight = tables.cycle if query.bottleneck else tables.latency, query.time_weight
    pairs = _pairs_of(tables, query)
    entry = np.zeros(tables.num_classes) if query.entry is None else np.array(query.entry, dtype=np.float64)
    most = tables.max_stages if query.max_stages is None else min(tables.max_stages, query.max_stages)
    routed = _routes(pairs.hop_s) if weight == 0.0 else _weighed(pairs.hop_s, weight)
    back = _return_times(tables, query)
    weights, limit = (None, math.inf) if query.budget is None else (np.array(query.budget[0]), query.budget[1])
    modes = tables.modes
    if modes is not None and most < min(int(tables.counts.sum()), tables.num_layers):
        modes = modes.with_resource(np.ones(tables.num_classes, dtype=np.int64), most)
    return Core(
        tables.counts,
        tables.pred,
        timing.prefix * weight,
        np.ascontiguousarray(routed),
        _weighed(pairs.hop_s_per_byte, weight),
        timing.boundary,
        back,
        entry,
        low,
        tables.last_marked,
        cap,
        most,
        weights,
        limit * (1.0 + 1e-12),
        query.any_plan,
        _step(entry) if weight == 0.0 else 0.0,
        modes,
    )


def _pairs_of(tables: ClassTables, query: Query) -> ClassTiming:
    """Return the timing whose pair tables a query reads: where only routes count, one whose tables are made already.

    A route missing for latency or cycle is missing in both.
    """
    if query.bottleneck:
        return tables.cycle
    other = query.time_weight == 0.0 and tables.cycle.made and not tables.latency.made
    return tables.cycle if other else tables.latency


def _return_times(tables: ClassTables, query: Query) -> FloatArray | None:
    """Return hop by (last, first) as the query values it; a route missing for latency or cycle is missing."""
    times = _pairs_of(tables, query).back
    if times is None:
        times = tables.latency.back if _pairs_of(tables, query) is tables.cycle else tables.cycle.back
        if times is None or np.isfinite(times).all():
            return None
        times = _routes(times)
    if query.time_weight == 0.0:
        times = _routes(times)
    return _weighed(times, query.time_weight or 1.0) if times.any() else None


def _weighed(table: FloatArray, weight: float) -> FloatArray:
    """Return a table times its weight; itself where that changes nothing."""
    if weight == 0.0:
        return np.zeros(table.shape)  # costs nothing until it is read, unlike a product
    return np.ascontiguousarray(table if weight == 1.0 else table * weight)


def _routes(times: FloatArray) -> FloatArray:
    """Return 0 where there is a route and inf where there is none."""
    shut = np.isinf(times)
    return np.where(shut, np.inf, 0.0) if shut.any() else np.zeros(times.shape)


def _step(entry: FloatArray) -> float:
    """Return the common step of all values when only entry costs count; 0 when there is none to use."""
    if (entry == entry[0]).all():
        return float(entry[0])
    if (entry == np.rint(entry)).all() and entry.max() < 2**31:
        return float(np.gcd.reduce(entry.astype(np.int64)))
    return 0.0


def single_stage(tables: ClassTables, query: Query, micro_batches: int) -> tuple[float, ClassPath] | None:
    """Return the best plan of one stage, or None."""
    n = tables.num_layers
    if tables.last_marked[n] < 0 or (query.max_stages is not None and query.max_stages < 1):
        return None
    timing = tables.cycle if query.bottleneck else tables.latency
    values = query.time_weight * timing.prefix[:, n]
    if query.entry is not None:
        values = values + np.array(query.entry)
    values = np.where(_holds_all(tables, query, micro_batches), values, np.inf)
    c = int(np.argmin(values))
    return None if math.isinf(values[c]) else (float(values[c]), ((c, 0, n),))


def _holds_all(tables: ClassTables, query: Query, micro_batches: int) -> NDArray[np.bool_]:
    """Return which classes hold all layers in one stage that the query allows, shape (C,)."""
    problem = tables.problem
    saving = problem.single_stage_saving_bytes if tables.saving is None else tables.saving
    weights, kv = tables.memory[..., -1] - saving, tables.kv[..., -1]
    holds = (tables.counts >= 1) & (weights + micro_batches * problem.tokens_per_micro_batch * kv <= tables.room)
    if query.capacity_tokens is not None:
        holds &= (kv <= 0.0) | ((tables.room_exact - weights) / np.where(kv > 0.0, kv, 1.0) >= query.capacity_tokens)
    if query.budget is not None:
        holds &= np.array(query.budget[0]) <= query.budget[1] * (1.0 + 1e-12)
    held: NDArray[np.bool_] = holds & (tables.cycle.prefix[:, -1] <= query.cap_s * (1.0 + 1e-13))
    return held


def without_costs(core: Core) -> Core:
    """Return the bare feasibility question of a core: every plan has value 0 and any will do."""
    return replace(
        core,
        prefix=np.zeros_like(core.prefix),
        hop_s=np.where(np.isinf(core.hop_s), np.inf, 0.0),
        hop_s_per_byte=np.zeros_like(core.hop_s_per_byte),
        back=None if core.back is None or not np.isinf(core.back).any() else np.where(np.isinf(core.back), np.inf, 0.0),
        entry=np.zeros_like(core.entry),
        any_plan=True,
        step=0.0,
    )


def trivial_upper(core: Core) -> float:
    """Return a value no finite plan exceeds: the slowest of everything, summed."""
    hop = float(core.hop_s.max(initial=0.0))
    if math.isinf(hop):
        hop = float(core.hop_s.max(initial=0.0, where=np.isfinite(core.hop_s)))
    hop += float(core.boundary.max(initial=0.0)) * float(core.hop_s_per_byte.max(initial=0.0))
    back = 0.0
    if core.back is not None:
        back = float(core.back.max(initial=0.0))
        back = float(core.back.max(initial=0.0, where=np.isfinite(core.back))) if math.isinf(back) else back
    stages = core.max_stages
    slowest = float(np.diff(core.prefix, axis=1).max(axis=0).sum())
    return slowest + stages * (hop + float(core.entry.max(initial=0.0))) + back


def bits_of(counts: Sequence[int] | IntArray) -> list[int]:
    """Bits that a counter of each class needs."""
    return [int(count).bit_length() for count in counts]


@dataclass(frozen=True, slots=True)
class FirstGroup:
    """First classes that see the same return hop from every last class.

    classes
        Classes a plan may start with.
    term
        Return hop from each last class, shape (C,).
    ending
        Least start of each last class's stage under the cap, shape (C,).
    """

    classes: tuple[int, ...]
    term: FloatArray
    ending: IntArray


def first_groups(core: Core) -> tuple[FirstGroup, ...]:
    """Group the classes a plan may start with; one group when nothing depends on the first device.

    A class of one device never returns to itself, so that entry of its column is free.
    """
    num, n = core.num_classes, core.num_layers
    if core.back is None and (core.cap is None or (core.cap.ending == core.cap.ending[:, :1]).all()):
        ending = core.low[:, -1] if core.cap is None else core.cap.ending[:, 0]
        classes = tuple(int(c) for c in np.flatnonzero(core.pred < 0))
        return (FirstGroup(classes, np.zeros(num), np.ascontiguousarray(ending)),)
    alone = core.counts == 1
    columns: list[FloatArray] = []
    groups: list[list[int]] = []
    for first in range(num):
        if core.pred[first] >= 0:
            continue
        column = _return_column(core, first)
        if alone[first]:
            column[:, first] = np.nan
        for k, known in enumerate(columns):
            free = np.isnan(known) | np.isnan(column)
            if (free | (known == column)).all():
                columns[k] = np.where(np.isnan(known), column, known)
                groups[k].append(first)
                break
        else:
            columns.append(column)
            groups.append([first])
    return tuple(
        FirstGroup(
            tuple(classes),
            np.where(np.isnan(column[0]), np.inf, column[0]),
            np.where(np.isnan(column[1]), n, column[1]).astype(np.int64),
        )
        for classes, column in zip(groups, columns, strict=True)
    )


def _return_column(core: Core, first: int) -> FloatArray:
    """Return hop and last window towards one first class, shape (2, C)."""
    term = np.zeros(core.num_classes) if core.back is None else core.back[:, first]
    ending = core.low[:, -1] if core.cap is None else core.cap.ending[:, first]
    return np.stack([term, ending.astype(np.float64)])
