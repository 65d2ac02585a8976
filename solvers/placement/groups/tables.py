"""Modes as classes: the tables every engine reads, with what the classes draw on together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.build import PlacementProblem, micro_batches_of, must_hold_of
from gpuplan.profiles.problems.groups import GroupModes, group_modes, of_one_degree, words_of
from gpuplan.profiles.problems.objectives import dense_objective
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Timing
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.modes import Modes
from gpuplan.solvers.placement.tables import ClassTables, ClassTiming, last_marked, prefix_sums


def all_modes(problem: PlacementProblem, segments: Segments, degrees: Sequence[int]) -> GroupModes:
    """Return every group of some degrees; with no way from one degree to another where stages share theirs."""
    modes = group_modes(problem, segments, words_of(segments, degrees))
    return modes if problem.uneven_tensor_parallel or not len(modes.words) else of_one_degree(modes)


def mode_problem(problem: PlacementProblem, modes: GroupModes) -> DensePlacement:
    """Return the modes as the devices of a dense problem, memory left out: what prices the times of a plan."""
    workload, num = problem.workload, len(modes.words)
    layers = problem.model.num_layers
    return DensePlacement(
        name=f"{problem.model.name} on groups of {problem.topology.name}",
        device_names=tuple(f"mode {c}" for c in range(num)),
        layer_names=tuple(layer.name for layer in problem.model.layers),
        available_bytes=modes.available_bytes,
        price_per_hour=modes.price_per_hour,
        memory_bytes=np.zeros(layers),
        kv_bytes_per_token=np.zeros(layers),
        latency=modes.latency,
        cycle=modes.cycle,
        tokens_per_micro_batch=float(workload.batch * workload.sequence_tokens),
        micro_batches=micro_batches_of(problem),
        objective=dense_objective(problem.objective),
        max_devices=problem.max_devices,
        front=problem.front,
        must_hold=must_hold_of(problem),
    )


def mode_tables(problem: PlacementProblem, modes: GroupModes, shared: Modes) -> ClassTables:
    """Return the class tables of modes that draw on `shared` resources."""
    dense = mode_problem(problem, modes)
    num, layers = len(modes.words), dense.num_layers
    if problem.max_devices is not None:
        shared = shared.with_resource(modes.degrees, problem.max_devices)
    blocked = np.isinf(modes.latency.hop.unit_latency_s) | np.isinf(modes.cycle.hop.unit_latency_s)
    return ClassTables(
        problem=dense,
        members=tuple((c,) for c in range(num)),
        counts=shared.counts(layers),
        pred=shared.ahead,
        latency=_timing(modes.latency, blocked),
        cycle=_timing(modes.cycle, blocked),
        room=modes.available_bytes * (1.0 + 1e-12) - modes.fixed_bytes,
        room_exact=modes.available_bytes - modes.fixed_bytes,
        price=modes.price_per_hour,
        memory=prefix_sums(modes.memory_bytes),
        kv=prefix_sums(modes.kv_bytes_per_token),
        last_marked=last_marked(dense),
        modes=shared,
        sizes=modes.degrees,
        saving=modes.saving_bytes,
    )


def _timing(timing: Timing, blocked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> ClassTiming:
    back: FloatArray | None = None
    if timing.return_hop is not None:
        table = timing.return_hop
        back = np.ascontiguousarray(table.unit_latency_s + timing.return_bytes * table.unit_s_per_byte)
    return ClassTiming(
        prefix_sums(timing.compute_s),
        np.ascontiguousarray(np.where(blocked, np.inf, timing.hop.unit_latency_s)),
        np.ascontiguousarray(np.where(blocked, 0.0, timing.hop.unit_s_per_byte)),
        np.ascontiguousarray(np.concatenate([[0.0], timing.boundary_bytes]), dtype=np.float64),
        back,
    )


def shared_segments(segments: Segments, modes: GroupModes) -> Modes:
    """Return what modes draw on: the devices of every segment; twin hosts of one segment open in order."""
    home = modes.use.argmax(axis=0).astype(np.int64)
    ahead: IntArray = np.full(len(modes.words), -1, dtype=np.int64)
    before = _island_before(segments)
    for c, island in enumerate(modes.islands.tolist()):
        if before[island] >= 0 and len(segments.islands[island]) == 1:
            ahead[c] = segments.islands[before[island]][0]
    return Modes(modes.use, modes.capacity, home, ahead)


def _island_before(segments: Segments) -> list[int]:
    """Return of each island the last one before it that it could trade places with; −1 for none."""
    latest: dict[int, int] = {}
    before = []
    for island, leader in enumerate(segments.leaders.tolist()):
        before.append(latest.get(leader, -1))
        latest[leader] = island
    return before
