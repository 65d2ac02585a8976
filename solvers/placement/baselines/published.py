"""`published`: the best repair of the deployment algorithm printed in the UELLM paper (HELR, arXiv 2409.14961).

As printed the algorithm does not run: the memory test is inverted, the recurrence has no base case, layer counts are
not in its state and its two weights are in no equation. The repair that keeps its idea:

* go through every subset of devices that can be filled;
* give layers to the subset's devices by speed (time of all layers, fastest first), each filled to the brim: that
  fixes how many layers each device holds;
* visit the devices in the best order (Held-Karp over the visited set, the printed recurrence), with those counts;
* keep the best subset under the objective.

Suboptimal by construction: counts are fixed before the order is known, and a device is never left partly empty for
the sake of a better cut. O(3^D·D²) with the return hop, so 10 devices at most.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.baselines.common import (
    Outcome,
    Scorer,
    finish,
    layer_bytes,
    most_devices,
    refuse_front,
    room_bytes,
    stages_from_counts,
    with_micro_batches,
)
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate, hop_s
from gpuplan.solvers.result import Result

MAX_DEVICES = 10


def layer_counts(problem: DensePlacement, devices: Sequence[int]) -> list[int] | None:
    """Layers of each device when they are filled in order, or None when a device is left empty or layers remain."""
    sizes = np.concatenate([[0.0], np.cumsum(layer_bytes(problem))])
    room = room_bytes(problem)
    n = problem.num_layers
    if len(devices) == 1:
        return [n] if sizes[n] - problem.single_stage_saving_bytes <= room[devices[0]] else None
    counts, start = [], 0
    for device in devices:
        stop = int(np.searchsorted(sizes, sizes[start] + room[device], side="right")) - 1
        stop = min(max(stop, start), n)
        if stop == start or (device != devices[-1] and stop == n):
            return None
        counts.append(stop - start)
        start = stop
    return counts if start == n else None


class _Order:
    """Best visiting order of devices that hold fixed numbers of layers (Held-Karp over the visited set)."""

    def __init__(self, problem: DensePlacement, devices: Sequence[int], counts: Sequence[int]) -> None:
        self.problem, self.devices, self.counts = problem, devices, counts
        self.prefix = np.concatenate(
            [np.zeros((problem.num_devices, 1)), np.cumsum(problem.latency.compute_s, axis=1)], axis=1
        )
        self.start = [sum(c for k, c in enumerate(counts) if mask >> k & 1) for mask in range(1 << len(devices))]

    def _compute(self, k: int, start: int) -> float:
        device = self.devices[k]
        return float(self.prefix[device, start + self.counts[k]] - self.prefix[device, start])

    def _from_first(self, first: int | None) -> tuple[float, list[int]] | None:
        """Least latency and order when `first` comes first (None: any device may)."""
        size = len(self.devices)
        table: dict[tuple[int, int], tuple[float, int]] = {}
        for k in range(size) if first is None else [first]:
            table[1 << k, k] = (self._compute(k, 0), -1)
        for mask in range(1, 1 << size):
            for last in range(size):
                if (mask, last) not in table:
                    continue
                cost, at = table[mask, last][0], self.start[mask]
                boundary = float(self.problem.latency.boundary_bytes[at - 1])
                for k in range(size):
                    if mask >> k & 1:
                        continue
                    hop = hop_s(self.problem.latency.hop, self.devices[last], self.devices[k], boundary)
                    total = cost + hop + self._compute(k, at)
                    key = (mask | 1 << k, k)
                    if math.isfinite(total) and (key not in table or total < table[key][0]):
                        table[key] = (total, last)
        return self._best_end(table, first)

    def _best_end(
        self, table: dict[tuple[int, int], tuple[float, int]], first: int | None
    ) -> tuple[float, list[int]] | None:
        size, full = len(self.devices), (1 << len(self.devices)) - 1
        ends = []
        for last in range(size):
            if (full, last) in table:
                ends.append((table[full, last][0] + self._return(last, first), last))
        best = min(ends, default=(math.inf, -1))
        if math.isinf(best[0]):
            return None
        order, mask, last = [], full, best[1]
        while last >= 0:
            order.append(last)
            mask, last = mask ^ 1 << last, table[mask, last][1]
        return best[0], order[::-1]

    def _return(self, last: int, first: int | None) -> float:
        back = self.problem.latency.return_hop
        if back is None or first is None or len(self.devices) == 1:
            return 0.0
        return hop_s(back, self.devices[last], self.devices[first], self.problem.latency.return_bytes)

    def best(self) -> tuple[StageRange, ...] | None:
        """Return the stages of the best order, or None when no order has routes."""
        firsts: list[int | None] = [None]
        if self.problem.latency.return_hop is not None:
            firsts = list(range(len(self.devices)))
        found = [tour for first in firsts if (tour := self._from_first(first)) is not None]
        if not found:
            return None
        order = min(found)[1]
        return stages_from_counts([self.devices[k] for k in order], [self.counts[k] for k in order])


def candidates(problem: DensePlacement, budget: Budget) -> Iterator[tuple[StageRange, ...]]:
    """Yield the feasible plan of every subset that has one, smallest subsets first."""
    speed = problem.latency.compute_s.sum(axis=1)
    by_speed = sorted(range(problem.num_devices), key=lambda d: (float(speed[d]), d))
    for size in range(1, most_devices(problem) + 1):
        numbers = with_micro_batches(problem, size)
        for devices in itertools.combinations(by_speed, size):
            budget.spend(1)
            if budget.exhausted():
                return
            counts = layer_counts(numbers, devices)
            stages = None if counts is None else _Order(problem, devices, counts).best()
            # With layers of unlike size a device may not hold its count at another place of the pipeline.
            if stages is not None and broken_rule(problem, stages) is None:
                yield stages


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Run the repaired published algorithm; UnsupportedError above 10 devices, ``no_solution`` where it has none."""
    refuse_front(problem, "published")
    if problem.num_devices > MAX_DEVICES:
        raise UnsupportedError(
            f"published tries every subset and takes {MAX_DEVICES} devices at most, this problem has "
            f"{problem.num_devices}; use bgs, or exclude devices"
        )
    started = time.perf_counter()
    budget, scorer = Budget(limits), Scorer(problem, limits)
    plans = list(candidates(problem, budget))
    outcome: Outcome = "no subset filled by speed holds all layers in any visiting order"
    if plans:
        outcome = min(plans, key=lambda stages: scorer.sort_key(evaluate(problem, stages)))
    return finish(problem, "published", outcome, limits, started=started, seed=seed, work=budget.work)
