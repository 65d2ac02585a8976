"""A dense problem reduced to classes of exchangeable devices: the numbers every engine reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Hops, Timing
from gpuplan.solvers.placement.classes import IntArray, class_table, exchangeable_classes, twin_predecessors
from gpuplan.solvers.placement.modes import Modes

#: Latency and seconds per byte of hand-overs between classes, and the return hop or None.
PairTables = tuple[FloatArray, FloatArray, FloatArray | None]
#: Stages by class: (class, start, stop) in pipeline order.
ClassPath = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
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

    @property
    def made(self) -> bool:
        """Whether the pair tables are there."""
        return "hop_s" in self.__dict__

    def hop(self, c: int, e: int, j: int) -> float:
        """Seconds of a hand-over from c to e at boundary j."""
        return float(self.hop_s[c, e] + self.boundary[j] * self.hop_s_per_byte[c, e])

    def returns(self, c: int, first: int) -> float:
        """Seconds of the return hop, 0 without one."""
        return 0.0 if self.back is None else float(self.back[c, first])


class LateTiming(ClassTiming):
    """A timing whose pair tables are made when one of them is first read: thousands of classes make them large."""

    def __init__(self, prefix: FloatArray, boundary: FloatArray, make: Callable[[], PairTables]) -> None:
        for name, value in (("prefix", prefix), ("boundary", boundary), ("_make", make)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in ("hop_s", "hop_s_per_byte", "back"):
            raise AttributeError(name)
        for column, table in zip(("hop_s", "hop_s_per_byte", "back"), self.__dict__["_make"](), strict=True):
            object.__setattr__(self, column, table)
        return self.__dict__[name]


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
        Prefix sums of bytes and of KV bytes per token, shape (n+1,), or (C, n+1) where classes need different ones.
    last_marked
        last_marked[j] = largest l such that layers l..j−1 hold a marked layer (j−1 when all do), −1 if none; (n+1,).
    modes
        What classes draw on together, or None where each is of its own.
    sizes
        Devices of one stage by class, shape (C,), or None for one each.
    saving
        Bytes saved by a stage that holds all layers, shape (C,), or None where the problem says it.
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
    modes: Modes | None = None
    sizes: IntArray | None = None
    saving: FloatArray | None = None

    def memory_of(self, c: int) -> FloatArray:
        """Prefix sums of bytes on class c, shape (n+1,)."""
        return self.memory if self.memory.ndim == 1 else self.memory[c]

    def kv_of(self, c: int) -> FloatArray:
        """Prefix sums of KV bytes per token on class c, shape (n+1,)."""
        return self.kv if self.kv.ndim == 1 else self.kv[c]

    def saving_of(self, c: int) -> float:
        """Bytes saved when one stage on class c holds all layers."""
        return self.problem.single_stage_saving_bytes if self.saving is None else float(self.saving[c])

    @property
    def devices_each(self) -> tuple[float, ...]:
        """Devices of one stage on each class."""
        return (1.0,) * self.num_classes if self.sizes is None else tuple(map(float, self.sizes))

    def devices_of(self, path: ClassPath) -> int:
        """Devices a path uses."""
        return len(path) if self.sizes is None else int(sum(self.sizes[c] for c, _, _ in path))

    @property
    def num_classes(self) -> int:
        """Classes, C."""
        return len(self.members)

    @property
    def num_layers(self) -> int:
        """Layers, n."""
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


def prefix_sums(values: FloatArray) -> FloatArray:
    """Return 0 and the running sums along the last axis."""
    zero = np.zeros((*values.shape[:-1], 1))
    return np.ascontiguousarray(np.concatenate([zero, np.cumsum(values, axis=-1)], axis=-1), dtype=np.float64)


def _class_hops(hops: Hops, members: tuple[tuple[int, ...], ...]) -> tuple[FloatArray, FloatArray]:
    """Latency and seconds per byte between classes; no route inside a class of one device."""
    latency = class_table(hops.home, hops.unit_latency_s, members, np.inf)
    return latency, class_table(hops.home, hops.unit_s_per_byte, members, 0.0)


def _open_hops(
    problem: DensePlacement, hops: Hops, members: tuple[tuple[int, ...], ...], *, back: bool
) -> tuple[FloatArray, FloatArray]:
    """Return latency and seconds per byte between classes; no route unless latency and cycle have one."""
    latency, per_byte = _class_hops(hops, members)
    tables = {id(h): h for t in (problem.latency, problem.cycle) if (h := t.return_hop if back else t.hop)}
    for table in tables.values():
        if not (_all_open(table.unit_latency_s) and _all_open(table.unit_s_per_byte)):
            blocked = np.logical_or(*map(np.isinf, _class_hops(table, members)))
            latency[blocked], per_byte[blocked] = np.inf, 0.0
    return latency, per_byte


def _all_open(table: FloatArray) -> bool:
    """Whether no entry is inf, for certain: NaN counts as one."""
    return bool(table.max(initial=0.0) < np.inf)


def _class_timing(problem: DensePlacement, timing: Timing, members: tuple[tuple[int, ...], ...]) -> ClassTiming:
    boundary = np.ascontiguousarray(np.concatenate([[0.0], timing.boundary_bytes]), dtype=np.float64)
    prefix = prefix_sums(timing.compute_s[[group[0] for group in members]])
    return LateTiming(prefix, boundary, partial(_class_pairs, problem, timing, members))


def _class_pairs(problem: DensePlacement, timing: Timing, members: tuple[tuple[int, ...], ...]) -> PairTables:
    latency, per_byte = _open_hops(problem, timing.hop, members, back=False)
    return latency, per_byte, _class_returns(problem, timing, members)


def _class_returns(problem: DensePlacement, timing: Timing, members: tuple[tuple[int, ...], ...]) -> FloatArray | None:
    """Return the seconds of the return hop between classes; None without one."""
    hops = timing.return_hop
    if hops is None:
        return None
    tables = {id(h): h for t in (problem.latency, problem.cycle) if (h := t.return_hop)}.values()
    if all(_all_open(table.unit_latency_s) and _all_open(table.unit_s_per_byte) for table in tables):
        # Summed by unit: of thousands of classes a table takes longer to allocate than all else.
        whole = hops.unit_latency_s + hops.unit_s_per_byte * timing.return_bytes
        return class_table(hops.home, whole, members, np.inf)
    back, slope = _open_hops(problem, hops, members, back=True)
    slope *= timing.return_bytes
    back += slope
    return back


def last_marked(problem: DensePlacement) -> IntArray:
    """Return of every end the largest start whose layers hold a marked one, shape (n+1,)."""
    n = problem.num_layers
    if problem.must_hold is None:
        return np.arange(-1, n, dtype=np.int64)
    latest = np.where(problem.must_hold, np.arange(n), -1)
    return np.concatenate([[-1], np.maximum.accumulate(latest)]).astype(np.int64)


def class_pair_tables(tables: ClassTables) -> list[FloatArray]:
    """Return every pair table between classes, shape (C, C) each."""
    same = tables.cycle is tables.latency
    return _pair_tables(tables.latency) if same else _pair_tables(tables.latency, tables.cycle)


def _pair_tables(*timings: ClassTiming) -> list[FloatArray]:
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
    timings = (latency,) if same else (latency, cycle)
    if len(members) == problem.num_devices:  # single devices that could trade places would be one class
        pred = np.full(len(members), -1, dtype=np.int64)
    else:
        rows = np.ascontiguousarray(np.concatenate(alone, axis=1))
        pred = twin_predecessors(counts, rows, lambda: _pair_tables(*timings))
    return ClassTables(
        problem,
        members,
        counts,
        pred,
        latency,
        cycle,
        available * (1.0 + 1e-12) - problem.fixed_bytes,
        available - problem.fixed_bytes,
        price,
        prefix_sums(problem.memory_bytes),
        prefix_sums(problem.kv_bytes_per_token),
        last_marked(problem),
    )
