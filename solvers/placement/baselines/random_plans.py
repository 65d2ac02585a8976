"""`random`: the best of many random plans, the floor under every method.

A sample takes a random order of the devices and gives each a random number of layers, from one to as many as fit,
until all are placed. 1,000 samples (or the work limit), seeded: the same seed and number give the same plan.
"""

from __future__ import annotations

import time

import numpy as np

from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement, FloatArray
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.baselines.common import (
    Outcome,
    Scorer,
    finish,
    layer_bytes,
    most_devices,
    refuse_front,
    room_bytes,
    with_micro_batches,
)
from gpuplan.solvers.placement.evaluate import broken_rule, evaluate
from gpuplan.solvers.result import Result

SAMPLES = 1_000


def sample(problem: DensePlacement, sizes: FloatArray, rng: np.random.Generator) -> tuple[StageRange, ...] | None:
    """Draw one plan, or None when the devices ran out; `sizes` are prefix sums of layer bytes, shape (n+1,)."""
    n, room = problem.num_layers, room_bytes(problem)
    stages: list[StageRange] = []
    start = 0
    for device in rng.permutation(problem.num_devices)[: most_devices(problem)].tolist():
        whole = start == 0 and sizes[n] - problem.single_stage_saving_bytes <= room[device]
        furthest = n if whole else int(np.searchsorted(sizes, sizes[start] + room[device], side="right")) - 1
        if furthest <= start:
            continue
        # The brim half of the time: uniform lengths alone hardly ever place all layers of a tight problem.
        stop = furthest if rng.random() < 0.5 else int(rng.integers(start + 1, furthest + 1))
        stages.append(StageRange(device, start, stop))
        start = stop
        if start == n:
            return tuple(stages)
    return None


def best_sample(problem: DensePlacement, budget: Budget, seed: int) -> Outcome:
    """Return the best of the samples under the objective."""
    rng = np.random.default_rng(seed)
    scorer = Scorer(problem, budget.limits)
    most = most_devices(problem)
    best: tuple[tuple[float, ...], tuple[StageRange, ...]] | None = None
    samples = 0
    while samples < SAMPLES and not budget.exhausted():
        samples += 1
        budget.spend(1)
        numbers = with_micro_batches(problem, int(rng.integers(1, most + 1)))
        stages = sample(numbers, np.concatenate([[0.0], np.cumsum(layer_bytes(numbers))]), rng)
        if stages is None or broken_rule(problem, stages) is not None:
            continue
        key = scorer.sort_key(evaluate(problem, stages))
        if best is None or key < best[0]:
            best = (key, stages)
    return f"none of {samples} random plans is feasible" if best is None else best[1]


def solve(problem: DensePlacement, limits: Limits, seed: int = 0) -> Result[PlacementSolution]:
    """Return the best random plan; ``no_solution`` when no sample is feasible. O(samples·K·n)."""
    refuse_front(problem, "random")
    started = time.perf_counter()
    budget = Budget(limits)
    outcome = best_sample(problem, budget, seed)
    return finish(problem, "random", outcome, limits, started=started, seed=seed, work=budget.work)
