"""Modes as holders of the generic models: every group that may be formed, as many times as its island allows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.build import PlacementProblem
from gpuplan.profiles.problems.groups import GroupModes
from gpuplan.profiles.problems.hops import Hops, HopTable, IntArray
from gpuplan.profiles.problems.placement import Timing
from gpuplan.solvers.placement.evaluate import MEMORY_TOLERANCE
from gpuplan.solvers.placement.groups.tables import mode_problem
from gpuplan.solvers.placement.groups.units import repeated
from gpuplan.solvers.placement.holders import Holders, Shared, Stages
from gpuplan.solvers.placement.tables import ClassPath


@dataclass(frozen=True, slots=True)
class Members:
    """The holders of some modes, and the mode of each, shape (H,)."""

    holders: Holders
    mode_of: IntArray

    def path(self, stages: Stages) -> ClassPath:
        """Return stages on holders as stages on modes."""
        return tuple((int(self.mode_of[stage.device]), stage.start, stage.stop) for stage in stages)

    def stages(self, path: ClassPath) -> Stages:
        """Return stages on modes as stages on holders, those alike in order; −1 where there is none left."""
        if (self.holders.copies > 1).any() or len(set(self.mode_of.tolist())) == len(self.mode_of):
            place = {mode: holder for holder, mode in enumerate(self.mode_of.tolist())}
            return tuple(StageRange(place.get(c, -1), start, stop) for c, start, stop in path)
        free = {c: iter(np.flatnonzero(self.mode_of == c).tolist()) for c, _, _ in path}
        return tuple(StageRange(next(free[c], -1), start, stop) for c, start, stop in path)


def members_of(problem: PlacementProblem, modes: GroupModes, *, merged: bool) -> Members:
    """Return every mode as many times as there are devices for it, and layers: `merged`, or one holder each time."""
    dense = mode_problem(problem, modes)
    budget = dense.num_layers
    most = np.where(modes.use > 0, modes.capacity[:, None] // np.maximum(modes.use, 1), budget).min(axis=0)
    if problem.max_devices is not None:
        most = np.minimum(most, problem.max_devices // modes.degrees)
    most = np.minimum(most, budget)
    mode_of = np.repeat(np.arange(len(modes.words)), np.minimum(most, 1) if merged else most).astype(np.int64)
    repeats = np.concatenate([[False], mode_of[1:] == mode_of[:-1]]) if len(mode_of) else np.zeros(0, dtype=bool)
    shared = Shared(modes.use[:, mode_of], modes.capacity, np.where(repeats, np.arange(len(mode_of)) - 1, -1))
    room = modes.available_bytes * (1.0 + MEMORY_TOLERANCE) - modes.fixed_bytes
    holders = Holders(
        dataclasses.replace(
            dense,
            device_names=tuple(f"mode {c}, {k}" for k, c in enumerate(mode_of.tolist())),
            available_bytes=dense.available_bytes[mode_of],
            price_per_hour=dense.price_per_hour[mode_of],
            latency=_of_copies(dense.latency, mode_of) if merged else repeated(dense.latency, mode_of),
            cycle=_of_copies(dense.cycle, mode_of) if merged else repeated(dense.cycle, mode_of),
        ),
        modes.memory_bytes[mode_of],
        modes.kv_bytes_per_token[mode_of],
        room[mode_of],
        modes.saving_bytes[mode_of],
        modes.degrees[mode_of],
        most[mode_of] if merged else np.ones(len(mode_of), dtype=np.int64),
        shared,
    )
    return Members(holders, mode_of)


def _of_copies(timing: Timing, modes: IntArray) -> Timing:
    """Return the numbers of some modes, the diagonal of each table for two groups of one mode."""

    def part(table: Hops) -> HopTable:
        block = np.ix_(modes, modes)
        return HopTable(table.unit_latency_s[block], table.unit_s_per_byte[block])

    back = None if timing.return_hop is None else part(timing.return_hop)
    compute = timing.compute_s[modes]
    return dataclasses.replace(timing, compute_s=compute, hop=part(timing.hop), return_hop=back)
