"""What the generic models (`milp`, `milp_layers`, `constraint`, `dp_naive`) are made of: holders, blocks, links.

A *holder* is what a stage stands on: a device, or a sort of group that devices can form. Groups share devices, so that
not all of them can be used at once. A sort that fits an island several times is one holder of as many copies, or as
many holders of one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuplan.plans.placement_solution import StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, Timing
from gpuplan.solvers.placement.baselines.common import most_devices, with_micro_batches
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.evaluate import (
    MEMORY_TOLERANCE,
    Evaluation,
    broken_rule,
    broken_shape,
    evaluate,
    hop_s,
)

Stages = tuple[StageRange, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """Devices that several holders draw on.

    use, capacity
        Devices of part s that holder h takes, shape (S, H), and those there are, shape (S,).
    before
        The holder that is taken before h for they are alike, −1 for none; shape (H,).
    """

    use: IntArray
    capacity: IntArray
    before: IntArray

    def rows(self) -> list[tuple[str, list[tuple[int, float]], float]]:
        """List what holds of the used holders (1 each): a name, terms by holder, their most."""
        found: list[tuple[str, list[tuple[int, float]], float]] = []
        for part, (row, most) in enumerate(zip(self.use.tolist(), self.capacity.tolist(), strict=True)):
            terms = [(holder, float(count)) for holder, count in enumerate(row) if count]
            found.append((f"shared_{part}", terms, float(most)))
        ordered = [(first, later) for later, first in enumerate(self.before.tolist()) if first >= 0]
        return found + [(f"before_{later}", [(later, 1.0), (first, -1.0)], 0.0) for first, later in ordered]

    def held(self, used: list[int]) -> bool:
        """Return whether these holders, one of several copies as often as it is used, may be used together."""
        taken = self.use[:, used].sum(axis=1)
        return bool((taken <= self.capacity).all())


@dataclass(frozen=True, slots=True)
class Holders:
    """A problem whose devices are holders.

    problem
        Times, prices, objective and limits; the memory of groups stands here beside it.
    memory_bytes, kv_bytes_per_token
        Of each layer on each holder, shape (H, n).
    room_bytes, saving_bytes
        Left after the workspace (tolerance of the memory rule included), and saved by a stage that holds all layers;
        shape (H,).
    sizes, copies
        Devices of each holder, and how often it may be used, shape (H,).
    shared
        What groups draw on; None for devices.
    """

    problem: DensePlacement
    memory_bytes: FloatArray
    kv_bytes_per_token: FloatArray
    room_bytes: FloatArray
    saving_bytes: FloatArray
    sizes: IntArray
    copies: IntArray
    shared: Shared | None = None

    @property
    def num_holders(self) -> int:
        """Holders, H."""
        return self.problem.num_devices

    @property
    def layer_bytes(self) -> FloatArray:
        """Weights and KV of every layer on every holder, shape (H, n); M must be a number."""
        problem = self.problem
        assert problem.micro_batches != "stages"
        return self.memory_bytes + problem.micro_batches * problem.tokens_per_micro_batch * self.kv_bytes_per_token

    def with_micro_batches(self, stages: int) -> Holders:
        """Return the holders with M a number: `stages` where it says as many as the plan has stages."""
        return dataclasses.replace(self, problem=with_micro_batches(self.problem, stages))

    def stage_counts(self) -> range:
        """Numbers of stages that a plan may have."""
        return range(1, most_devices(self.problem) + 1)

    def worth(self, stages: Stages) -> Evaluation:
        """Return what a plan is worth, its devices counted."""
        worth = evaluate(self.problem, stages)
        return dataclasses.replace(worth, devices=int(sum(self.sizes[stage.device] for stage in stages)))

    def fault(self, stages: Stages) -> str | None:
        """Return the first constraint a plan breaks, or None when it is feasible."""
        if self.shared is None:
            return broken_rule(self.problem, stages)
        fault = broken_shape(self.problem, stages)
        if fault is not None:
            return fault
        used = [stage.device for stage in stages]
        if (np.bincount(used, minlength=self.num_holders) > self.copies).any() or not self.shared.held(used):
            return "a device is used twice"
        worth, most = self.worth(stages), self.problem.max_devices
        if most is not None and worth.devices > most:
            return f"{worth.devices} devices are used where {most} are allowed"
        sizes = self.with_micro_batches(len(stages)).layer_bytes
        for stage in stages:
            if not self._fits(stage, sizes):
                return f"layers {stage.start}..{stage.stop - 1} do not fit their devices"
        return "a hop has no route" if math.isinf(worth.latency_s) or math.isinf(worth.bottleneck_s) else None

    def _fits(self, stage: StageRange, sizes: FloatArray) -> bool:
        whole = stage.stop - stage.start == self.problem.num_layers
        saved = float(self.saving_bytes[stage.device]) if whole else 0.0
        held = float(sizes[stage.device, stage.start : stage.stop].sum()) - saved
        room = float(self.room_bytes[stage.device])
        return held <= room + MEMORY_TOLERANCE * abs(room)


def device_holders(problem: DensePlacement) -> Holders:
    """Return the devices of a problem as holders."""
    shape = problem.num_devices, problem.num_layers
    return Holders(
        problem,
        np.broadcast_to(problem.memory_bytes, shape),
        np.broadcast_to(problem.kv_bytes_per_token, shape),
        problem.available_bytes * (1.0 + MEMORY_TOLERANCE) - problem.fixed_bytes,
        np.full(shape[0], problem.single_stage_saving_bytes),
        np.ones(shape[0], dtype=np.int64),
        np.ones(shape[0], dtype=np.int64),
    )


@dataclass(frozen=True)
class Blocks:
    """What a plan can be made of, M a number.

    blocks
        (d, i, j): layers i..j−1 fit holder d and hold what every stage must.
    links, returns
        (d, e, i): a block on d ends and one on e starts at cut i, and d reaches e. (d, e): d may send the return hop to
        e; None without a return hop.
    prefix
        Prefix sums of ``latency`` and ``cycle`` compute, s, shape (H, n+1) each.
    """

    holders: Holders
    blocks: list[tuple[int, int, int]]
    links: list[tuple[int, int, int]]
    returns: list[tuple[int, int]] | None
    prefix: dict[str, FloatArray] = field(repr=False)

    @property
    def problem(self) -> DensePlacement:
        """Times, prices, objective and limits."""
        return self.holders.problem

    def timing(self, name: str) -> Timing:
        """Return the numbers of ``latency`` or ``cycle``."""
        return self.problem.latency if name == "latency" else self.problem.cycle

    def block_s(self, name: str, d: int, i: int, j: int) -> float:
        """Compute time of a block."""
        return float(self.prefix[name][d, j] - self.prefix[name][d, i])

    def link_s(self, name: str, d: int, e: int, i: int) -> float:
        """Time of a hand-over at cut i."""
        timing = self.timing(name)
        return hop_s(timing.hop, d, e, float(timing.boundary_bytes[i - 1]))

    def return_s(self, name: str, d: int, e: int) -> float:
        """Time of the return hop, 0 where this timing has none."""
        timing = self.timing(name)
        return 0.0 if timing.return_hop is None else hop_s(timing.return_hop, d, e, timing.return_bytes)


def blocked_pairs(holders: Holders, *, back: bool = False) -> NDArray[np.bool_]:
    """Return where latency or cycle has no route, shape (H, H); `back`: of the return hop.

    A holder reaches itself where it has several copies: the diagonal is for two of them.
    """
    problem = holders.problem
    blocked = np.diag(holders.copies < 2)
    for timing in (problem.latency, problem.cycle):
        table = timing.return_hop if back else timing.hop
        if table is not None:
            blocked |= np.isinf(table.latency_s) | np.isinf(table.s_per_byte)
    return blocked


def has_return_hop(problem: DensePlacement) -> bool:
    """Return whether latency or cycle has a return hop."""
    return problem.latency.return_hop is not None or problem.cycle.return_hop is not None


def fitting_blocks(holders: Holders) -> list[tuple[int, int, int]]:
    """List every (d, i, j) that a plan may hold, M a number."""
    problem, n = holders.problem, holders.problem.num_layers
    prefix = np.concatenate([np.zeros((holders.num_holders, 1)), np.cumsum(holders.layer_bytes, axis=1)], axis=1)
    sizes, room, held = prefix.tolist(), holders.room_bytes.tolist(), problem.must_hold
    blocks = []
    for d, i in itertools.product(range(holders.num_holders), range(n)):
        for j in range(i + 1, n + 1):
            saved = float(holders.saving_bytes[d]) if j - i == n else 0.0
            if sizes[d][j] - sizes[d][i] - saved <= room[d] and (held is None or bool(held[i:j].any())):
                blocks.append((d, i, j))
    return blocks


def make_blocks(holders: Holders) -> Blocks:
    """List what a plan can be made of."""
    problem, n = holders.problem, holders.problem.num_layers
    blocks = fitting_blocks(holders)
    ends, starts = {(d, j) for d, _, j in blocks}, {(d, i) for d, i, _ in blocks}
    open_pairs = np.argwhere(~blocked_pairs(holders)).tolist()
    links = [(d, e, i) for i in range(1, n) for d, e in open_pairs if (d, i) in ends and (e, i) in starts]
    returns = None
    if has_return_hop(problem):
        returns = [(d, e) for d, e in np.argwhere(~blocked_pairs(holders, back=True)).tolist()]
    prefix = {
        name: np.concatenate([np.zeros((holders.num_holders, 1)), np.cumsum(timing.compute_s, axis=1)], axis=1)
        for name, timing in (("latency", problem.latency), ("cycle", problem.cycle))
    }
    return Blocks(holders, blocks, links, returns, prefix)
