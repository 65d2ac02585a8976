"""`bgs`: greedy best-first search.

The textbook rule (Russell & Norvig, Artificial Intelligence, greedy best-first search), which the UELLM paper
(arXiv 2409.14961) compares with under this name: of all partial pipelines expand the one whose estimate of what is
still to come is least, whatever it has cost so far. A partial pipeline is extended by an unused device filled with as
many layers as fit; the estimate is the time of the layers left, each on the fastest unused device.
The first complete plan is the answer. It backtracks from dead ends, up to 20,000 expansions (or the work limit).
"""

from __future__ import annotations

import heapq
import math
import time

import numpy as np

from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.baselines.common import (
    Outcome,
    finish,
    layer_bytes,
    most_devices,
    refuse_front,
    room_bytes,
    stage_counts,
    with_micro_batches,
)
from gpuplan.solvers.placement.evaluate import broken_rule, hop_s
from gpuplan.solvers.result import Result

MAX_EXPANSIONS = 20_000


class _Blocks:
    """Longest blocks that fit, and time estimates, of a problem with M a number."""

    def __init__(self, problem: DensePlacement) -> None:
        self.problem = problem
        self.sizes = np.concatenate([[0.0], np.cumsum(layer_bytes(problem))])
        self.room = room_bytes(problem)
        self.n = problem.num_layers
        # Of so many fastest devices of a layer one is left whatever a pipeline uses.
        most = min(most_devices(problem) + 1, problem.num_devices)
        self.fastest = np.argsort(problem.latency.compute_s, axis=0, kind="stable")[:most]

    def longest(self, device: int, start: int) -> int:
        """End of the longest block from `start` that fits a device (`start` when none does)."""
        room = self.room[device]
        if start == 0 and self.sizes[-1] - self.problem.single_stage_saving_bytes <= room:
            return self.n
        stop = int(np.searchsorted(self.sizes, self.sizes[start] + room, side="right")) - 1
        held = self.problem.must_hold
        if held is not None and not held[start:stop].any():
            return start
        return max(stop, start)

    def estimate(self, start: int, used: tuple[int, ...]) -> float:
        """Time of layers from `start` on, each on the fastest device not used."""
        if start == self.n:
            return 0.0
        if len(used) == self.problem.num_devices:
            return math.inf
        first = self.fastest[: len(used) + 1, start:]
        taken = (first[:, :, None] == np.array(used, dtype=np.int64)).any(axis=2)
        layers = np.arange(self.n - start)
        chosen = first[taken.argmin(axis=0), layers]
        return float(self.problem.latency.compute_s[chosen, start + layers].sum())


def _children(blocks: _Blocks, stages: tuple[StageRange, ...]) -> list[tuple[StageRange, ...]]:
    start = stages[-1].stop if stages else 0
    used = {stage.device for stage in stages}
    children = []
    for device in range(blocks.problem.num_devices):
        if device in used:
            continue
        stop = blocks.longest(device, start)
        if stop == start:
            continue
        if stages:
            boundary = float(blocks.problem.latency.boundary_bytes[start - 1])
            if math.isinf(hop_s(blocks.problem.latency.hop, stages[-1].device, device, boundary)):
                continue
        children.append((*stages, StageRange(device, start, stop)))
    return children


def search(problem: DensePlacement, budget: Budget, num_stages: int | None) -> Outcome:
    """Search; with `num_stages` only plans of that many stages count (M as many as stages)."""
    blocks = _Blocks(problem)
    most = most_devices(problem)
    frontier: list[tuple[float, int, tuple[StageRange, ...]]] = [(0.0, 0, ())]
    pushed = 0
    expansions = 0
    while frontier and expansions < MAX_EXPANSIONS and not budget.exhausted():
        stages = heapq.heappop(frontier)[2]
        expansions += 1
        budget.spend(1)
        complete = bool(stages) and stages[-1].stop == problem.num_layers
        if complete:
            if (num_stages is None or len(stages) == num_stages) and broken_rule(problem, stages) is None:
                return stages
            continue
        if len(stages) == most:
            continue
        for child in _children(blocks, stages):
            pushed += 1  # ties: the one found first
            if budget.exhausted():
                break
            left = blocks.estimate(child[-1].stop, tuple(stage.device for stage in child))
            if math.isfinite(left):
                heapq.heappush(frontier, (left, pushed, child))
    if frontier:
        return f"no plan found in {expansions} expansions"
    return "no pipeline of devices filled to the brim holds all layers"


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Greedy best-first search; ``no_solution`` when it finds no plan of filled devices. O(expansions·D·n)."""
    refuse_front(problem, "bgs")
    started = time.perf_counter()
    budget = Budget(limits)
    if problem.micro_batches != "stages":
        outcome = search(problem, budget, None)
    else:
        for stages in stage_counts(problem):
            outcome = search(with_micro_batches(problem, stages), budget, stages)
            if not isinstance(outcome, str):
                break
    return finish(problem, "bgs", outcome, limits, started=started, seed=seed, work=budget.work)
