"""A dense problem reduced to classes of exchangeable devices: the numbers every engine reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, HopTable, Timing
from gpuplan.solvers.placement.classes import IntArray, class_table, exchangeable_classes, twin_predecessors

#: Stages by class: (class, start, stop) in pipeline order.
ClassPath = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ClassTiming:
    """One `Timing` at class level.

    prefix
        prefix[c, j] = compute of layers 0..j−1 on c, s; shape (C, n+1).
    hop_s, hop_s_per_byte
        A hand-over from c to e at boundary j costs ``hop_s[c, e] + boundary[j]·hop_s_per_byte[c, e]``; inf and 0
        without a route; shape (C, C).
    boundary
        Bytes at boundary j (after layer j−1), shape (n+1,); entry 0 is not used.
    back
        Return hop from the last stage's class to the first's, s, shape (C, C), or None.
    """

    prefix: FloatArray
    hop_s: FloatArray
    hop_s_per_byte: FloatArray
    boundary: FloatArray
    back: FloatArray | None

    def hop(self, c: int, e: int, j: int) -> float:
        """Seconds of a hand-over from c to e at boundary j."""
        return float(self.hop_s[c, e] + self.boundary[j] * self.hop_s_per_byte[c, e])

    def returns(self, c: int, first: int) -> float:
        """Seconds of the return hop, 0 without one."""
        return 0.0 if self.back is None else float(self.back[c, first])


@dataclass(frozen=True, slots=True)
class ClassTables:
    """A dense problem at class level.

    members
        Device numbers of each class, in device order.
    counts
        Devices per class, at most n each, shape (C,).
    pred
        A class opens only after pred[c] (its twin); −1 for none.
    room
        Bytes left on a device of c after the workspace, tolerance included, shape (C,); `room_exact` without it.
    memory, kv
        Prefix sums of bytes and of KV bytes per token, shape (n+1,).
    last_marked
        last_marked[j] = largest l such that layers l..j−1 hold a marked layer (j−1 when all do), −1 if none; (n+1,).
    """

    problem: DensePlacement
    members: tuple[tuple[int, ...], ...]
    counts: IntArray
    pred: IntArray
    latency: ClassTiming
    cycle: ClassTiming
    room: FloatArray
    room_exact: FloatArray
    price: FloatArray
    memory: FloatArray
    kv: FloatArray
    last_marked: IntArray

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.members)

    @property
    def num_layers(self) -> int:
        """N."""
        return self.problem.num_layers

    @property
    def max_stages(self) -> int:
        """Most stages any plan may have."""
        most = min(int(self.counts.sum()), self.num_layers)
        limit = self.problem.max_devices
        return most if limit is None else min(most, limit)

    def to_stages(self, path: ClassPath) -> tuple[StageRange, ...]:
        """Name the devices of a class path, each class's in device order."""
        unused = [iter(group) for group in self.members]
        return tuple(StageRange(next(unused[c]), start, stop) for c, start, stop in path)

    def to_path(self, stages: Iterable[StageRange]) -> ClassPath:
        """Return the class path of device-level stages."""
        home = {device: c for c, group in enumerate(self.members) for device in group}
        return tuple((home[stage.device], stage.start, stage.stop) for stage in stages)


def _prefix(values: FloatArray) -> FloatArray:
    zero = np.zeros((*values.shape[:-1], 1))
    return np.ascontiguousarray(np.concatenate([zero, np.cumsum(values, axis=-1)], axis=-1), dtype=np.float64)


def _no_route(problem: DensePlacement, back: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return where latency or cycle lacks a route: a plan needs both."""
    size = problem.num_devices
    blocked = np.zeros((size, size), dtype=np.bool_)
    for timing in (problem.latency, problem.cycle):
        table = timing.return_hop if back else timing.hop
        if table is not None:
            blocked |= np.isinf(table.latency_s) | np.isinf(table.s_per_byte)
    return blocked


def _routed(values: FloatArray, blocked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], fill: float) -> FloatArray:
    return np.where(blocked, fill, values)


def _back(
    table: HopTable, message_bytes: float, blocked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> FloatArray:
    latency = _routed(table.latency_s, blocked, np.inf)
    return latency + message_bytes * _routed(table.s_per_byte, blocked, 0.0)


def _class_timing(problem: DensePlacement, timing: Timing, members: tuple[tuple[int, ...], ...]) -> ClassTiming:
    first = [group[0] for group in members]
    blocked = _no_route(problem, back=False)
    back = None
    if timing.return_hop is not None:
        times = _back(timing.return_hop, timing.return_bytes, _no_route(problem, back=True))
        back = class_table(times, members, np.inf)
    return ClassTiming(
        _prefix(timing.compute_s[first]),
        class_table(_routed(timing.hop.latency_s, blocked, np.inf), members, np.inf),
        class_table(_routed(timing.hop.s_per_byte, blocked, 0.0), members, 0.0),
        np.ascontiguousarray(np.concatenate([[0.0], timing.boundary_bytes]), dtype=np.float64),
        back,
    )


def _last_marked(problem: DensePlacement) -> IntArray:
    n = problem.num_layers
    if problem.must_hold is None:
        return np.arange(-1, n, dtype=np.int64)
    latest = np.where(problem.must_hold, np.arange(n), -1)
    return np.concatenate([[-1], np.maximum.accumulate(latest)]).astype(np.int64)


def _class_pair_tables(*timings: ClassTiming) -> list[FloatArray]:
    tables = []
    for timing in timings:
        tables += [timing.hop_s, timing.hop_s_per_byte]
        if timing.back is not None:
            tables.append(timing.back)
    return tables


def class_tables(problem: DensePlacement, *, with_price: bool = False) -> ClassTables:
    """Reduce a problem to classes (`with_price` when the price matters to the objective)."""
    members = exchangeable_classes(problem, with_price=with_price)
    first = np.array([group[0] for group in members])
    counts = np.array([min(len(group), problem.num_layers) for group in members], dtype=np.int64)
    latency = _class_timing(problem, problem.latency, members)
    same = problem.cycle is problem.latency
    cycle = latency if same else _class_timing(problem, problem.cycle, members)
    available = problem.available_bytes[first].astype(np.float64)
    price = problem.price_per_hour[first].astype(np.float64)
    alone = [available[:, None], latency.prefix, cycle.prefix]
    if with_price:
        alone.append(price[:, None])
    pairs = _class_pair_tables(latency) if same else _class_pair_tables(latency, cycle)
    return ClassTables(
        problem,
        members,
        counts,
        twin_predecessors(counts, np.ascontiguousarray(np.concatenate(alone, axis=1)), pairs),
        latency,
        cycle,
        available * (1.0 + 1e-12) - problem.fixed_bytes,
        available - problem.fixed_bytes,
        price,
        _prefix(problem.memory_bytes),
        _prefix(problem.kv_bytes_per_token),
        _last_marked(problem),
    )
