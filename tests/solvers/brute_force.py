"""The oracle: every plan of a small placement problem, priced from the formulas of the file format.

Slow and plain on purpose: every ordered choice of distinct devices, every way to cut the layers, no pruning at all.
It shares no code with any solver or verifier. `evaluate` prices one plan in pure Python; `enumerate_plans` prices all
of them at once with arrays over the cuts (the two are tested against each other).
About 0.3 s for 6 devices and 12 layers (650,000 plans), a few ms for 4 devices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing

#: One stage: (device, start, stop).
Stage = tuple[int, int, int]

TIE = 1e-9  # two values of a first key are the same within this relative distance
MEMORY_SLACK = 1e-12


@dataclass(frozen=True)
class Evaluation:
    """What one plan is worth; `problems` says what it breaks (empty: a feasible plan)."""

    latency_s: float
    bottleneck_s: float
    devices: int
    price: float
    kv_tokens: float
    problems: tuple[str, ...]


def hop_s(table: HopTable, sender: int, receiver: int, message_bytes: float) -> float:
    """Seconds of a message from one device to another; inf without a route (also for an empty message)."""
    latency_s = float(table.latency_s[sender, receiver])
    s_per_byte = float(table.s_per_byte[sender, receiver])
    if math.isinf(latency_s) or math.isinf(s_per_byte):
        return math.inf
    return latency_s + message_bytes * s_per_byte


def stage_parts(timing: Timing, stages: Sequence[Stage]) -> list[tuple[float, float]]:
    """(compute, outgoing hop) of every stage; the last stage of several sends the return hop when there is one."""
    parts = []
    for k, (device, start, stop) in enumerate(stages):
        compute = sum(float(timing.compute_s[device, layer]) for layer in range(start, stop))
        hop = 0.0
        if k + 1 < len(stages):
            hop = hop_s(timing.hop, device, stages[k + 1][0], float(timing.boundary_bytes[stop - 1]))
        elif len(stages) > 1 and timing.return_hop is not None:
            hop = hop_s(timing.return_hop, device, stages[0][0], timing.return_bytes)
        parts.append((compute, hop))
    return parts


def used_bytes(problem: DensePlacement, start: int, stop: int, num_stages: int) -> float:
    """Memory taken on the device that holds layers start..stop−1 in a plan of `num_stages` stages."""
    micro_batches = num_stages if problem.micro_batches == "stages" else problem.micro_batches
    used = problem.fixed_bytes
    for layer in range(start, stop):
        kv = float(problem.kv_bytes_per_token[layer])
        used += float(problem.memory_bytes[layer]) + micro_batches * problem.tokens_per_micro_batch * kv
    if stop - start == problem.num_layers:
        used -= problem.single_stage_saving_bytes
    return used


def kv_tokens(problem: DensePlacement, stages: Sequence[Stage]) -> float:
    """KV tokens every stage that holds KV has room for; inf when no layer holds any."""
    least = math.inf
    for device, start, stop in stages:
        per_token = sum(float(problem.kv_bytes_per_token[layer]) for layer in range(start, stop))
        if per_token > 0.0:
            weights = sum(float(problem.memory_bytes[layer]) for layer in range(start, stop))
            if stop - start == problem.num_layers:
                weights -= problem.single_stage_saving_bytes
            free = float(problem.available_bytes[device]) - problem.fixed_bytes - weights
            least = min(least, free / per_token)
    return least if math.isinf(least) else float(math.floor(least))


def evaluate(problem: DensePlacement, stages: Sequence[Stage]) -> Evaluation:
    """Price one plan and list everything it breaks."""
    problems = []
    if not stages or stages[0][1] != 0 or stages[-1][2] != problem.num_layers:
        problems.append("not every layer is placed")
    if any(stop <= start for _, start, stop in stages):
        problems.append("a stage is empty")
    if any(before[2] != after[1] for before, after in itertools.pairwise(stages)):
        problems.append("stages do not join")
    if len({device for device, _, _ in stages}) != len(stages):
        problems.append("a device is used twice")
    if problem.max_devices is not None and len(stages) > problem.max_devices:
        problems.append("too many devices")
    for device, start, stop in stages:
        room = float(problem.available_bytes[device]) * (1 + MEMORY_SLACK)
        if used_bytes(problem, start, stop, len(stages)) > room:
            problems.append(f"layers {start}..{stop - 1} do not fit device {device}")
        if problem.must_hold is not None and not any(problem.must_hold[start:stop]):
            problems.append(f"stage {start}..{stop - 1} holds no marked layer")
    latency_s = sum(compute + hop for compute, hop in stage_parts(problem.latency, stages))
    bottleneck_s = max(compute + hop for compute, hop in stage_parts(problem.cycle, stages))
    if math.isinf(latency_s) or math.isinf(bottleneck_s):
        problems.append("a hop has no route")
    price = sum(float(problem.price_per_hour[device]) for device, _, _ in stages)
    return Evaluation(latency_s, bottleneck_s, len(stages), price, kv_tokens(problem, stages), tuple(problems))


def every_plan(problem: DensePlacement) -> Iterator[tuple[Stage, ...]]:
    """Every way to place the layers on distinct devices in contiguous non-empty stages, feasible or not."""
    n = problem.num_layers
    for count in range(1, min(n, problem.num_devices) + 1):
        for devices in itertools.permutations(range(problem.num_devices), count):
            for inner in itertools.combinations(range(1, n), count - 1):
                ends = (0, *inner, n)
                yield tuple(zip(devices, ends[:-1], ends[1:], strict=True))


@dataclass(frozen=True)
class Plans:
    """All feasible plans of a problem, one position each."""

    problem: DensePlacement
    choices: tuple[tuple[int, ...], ...]  # ordered devices
    choice: NDArray[np.int64]  # which ordered devices
    ends: tuple[tuple[int, ...], ...]  # 0, cuts, n
    latency_s: NDArray[np.float64]
    bottleneck_s: NDArray[np.float64]
    devices: NDArray[np.int64]
    price: NDArray[np.float64]
    kv_tokens: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ends)

    def stages(self, position: int) -> tuple[Stage, ...]:
        """Return the stages of the plan at a position."""
        ends = self.ends[position]
        return tuple(zip(self.choices[self.choice[position]], ends[:-1], ends[1:], strict=True))


def _block_sums(per_layer: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums[..., a, b] = Σ per_layer[..., a:b], each block summed on its own."""
    n = per_layer.shape[-1]
    sums = np.zeros((*per_layer.shape[:-1], n + 1, n + 1))
    for start in range(n):
        for stop in range(start + 1, n + 1):
            sums[..., start, stop] = per_layer[..., start:stop].sum(axis=-1)
    return sums


def _hop_table(table: HopTable, message_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return times[d, e, i] of message i, entry by entry with `hop_s`."""
    size = table.latency_s.shape[0]
    times = np.full((size, size, len(message_bytes)), np.inf)
    for d, e in itertools.permutations(range(size), 2):
        for i, message in enumerate(message_bytes):
            times[d, e, i] = hop_s(table, d, e, float(message))
    return times


class _Tables:
    """Block sums and hop times of one `Timing`."""

    def __init__(self, timing: Timing) -> None:
        self.block = _block_sums(timing.compute_s)
        self.hop = _hop_table(timing.hop, timing.boundary_bytes)
        self.back = None
        if timing.return_hop is not None:
            self.back = _hop_table(timing.return_hop, np.array([timing.return_bytes]))[:, :, 0]

    def stage_times(self, devices: Sequence[int], ends: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        """Compute + outgoing hop of each stage, for every row of `ends`."""
        times = []
        for k, device in enumerate(devices):
            time = self.block[device, ends[:, k], ends[:, k + 1]]
            if k + 1 < len(devices):
                time = time + self.hop[device, devices[k + 1], ends[:, k + 1] - 1]
            elif k > 0 and self.back is not None:
                time = time + self.back[device, devices[0]]
            times.append(time)
        return times


def enumerate_plans(problem: DensePlacement) -> Plans:
    """Price every plan and keep the feasible ones."""
    n, D = problem.num_layers, problem.num_devices
    latency, cycle = _Tables(problem.latency), _Tables(problem.cycle)
    weights, kv = _block_sums(problem.memory_bytes), _block_sums(problem.kv_bytes_per_token)
    must_hold = np.ones(n) if problem.must_hold is None else problem.must_hold.astype(float)
    marked = _block_sums(must_hold)
    weights[0, n] -= problem.single_stage_saving_bytes
    room = problem.available_bytes * (1 + MEMORY_SLACK)
    choices: list[tuple[int, ...]] = []
    columns: dict[str, list[NDArray[np.float64]]] = {k: [] for k in ("lat", "bot", "price", "kv", "choice")}
    all_ends: list[tuple[int, ...]] = []
    most = D if problem.max_devices is None else min(D, problem.max_devices)
    for count in range(1, min(n, most) + 1):
        ends = np.array([(0, *inner, n) for inner in itertools.combinations(range(1, n), count - 1)])
        micro_batches = count if problem.micro_batches == "stages" else problem.micro_batches
        used = problem.fixed_bytes + weights + micro_batches * problem.tokens_per_micro_batch * kv
        for devices in itertools.permutations(range(D), count):
            fine = np.ones(len(ends), dtype=bool)
            tokens = np.full(len(ends), np.inf)
            for k, device in enumerate(devices):
                starts, stops = ends[:, k], ends[:, k + 1]
                fine &= (used[starts, stops] <= room[device]) & (marked[starts, stops] > 0)
                free = problem.available_bytes[device] - problem.fixed_bytes - weights[starts, stops]
                per_token = kv[starts, stops]
                room_for = np.full(len(ends), np.inf)
                np.divide(free, per_token, out=room_for, where=per_token > 0)
                tokens = np.minimum(tokens, room_for)
            if not fine.any():
                continue
            kept = ends[fine]
            latency_s = np.sum(latency.stage_times(devices, kept), axis=0)
            bottleneck_s = np.max(cycle.stage_times(devices, kept), axis=0)
            routed = np.isfinite(latency_s) & np.isfinite(bottleneck_s)
            number = int(routed.sum())
            columns["lat"].append(latency_s[routed])
            columns["bot"].append(bottleneck_s[routed])
            columns["price"].append(np.full(number, problem.price_per_hour[list(devices)].sum()))
            columns["kv"].append(np.floor(tokens[fine][routed]))
            columns["choice"].append(np.full(number, float(len(choices))))
            choices.append(devices)
            all_ends.extend(map(tuple, kept[routed].tolist()))
    joined = {key: np.concatenate(parts) if parts else np.zeros(0) for key, parts in columns.items()}
    choice = joined["choice"].astype(np.int64)
    sizes = np.array([len(devices) for devices in choices], dtype=np.int64)
    return Plans(
        problem,
        tuple(choices),
        choice,
        tuple(all_ends),
        joined["lat"],
        joined["bot"],
        sizes[choice] if len(choice) else np.zeros(0, dtype=np.int64),
        joined["price"],
        joined["kv"],
    )


def _lexicographic(first: NDArray[np.float64], second: NDArray[np.float64], tie: float) -> tuple[float, float]:
    """Least first key, then the least second key among all within `tie` (relative) of it."""
    best = float(first.min())
    near = first <= best + abs(best) * tie if tie else first == best
    return best, float(second[near].min())


def optimum(
    problem: DensePlacement, objective: str | None = None, plans: Plans | None = None
) -> float | tuple[float, float] | None:
    """Optimum of an objective, None when infeasible.

    A float for latency, bottleneck and balanced; (first, latency) for efficiency, cost, kv-capacity (−tokens first)
    and for ``throughput``, the bottleneck with latency as second key. ValueError for a missing price or latency* = 0.
    """
    name = problem.objective.name if objective is None else objective
    plans = enumerate_plans(problem) if plans is None else plans
    if name == "cost" and np.isnan(problem.price_per_hour).any():
        raise ValueError("a price is missing")
    if len(plans) == 0:
        return None
    if name == "latency":
        return float(plans.latency_s.min())
    if name == "bottleneck":
        return float(plans.bottleneck_s.min())
    if name == "balanced":
        best_latency, fewest = float(plans.latency_s.min()), int(plans.devices.min())
        if best_latency == 0.0:
            raise ValueError("latency* is 0")
        goal = problem.objective
        values = goal.latency_weight * plans.latency_s / best_latency + goal.devices_weight * plans.devices / fewest
        return float(values.min())
    first = {
        "throughput": plans.bottleneck_s,
        "efficiency": plans.devices.astype(float),
        "cost": plans.price,
        "kv-capacity": -plans.kv_tokens,
    }[name]
    # Counts are compared exactly; sums of prices and times within the tolerance of the file format.
    return _lexicographic(first, plans.latency_s, 0.0 if name in ("efficiency", "kv-capacity") else TIE)


def front(problem: DensePlacement, plans: Plans | None = None) -> list[tuple[float, float, int]]:
    """All non-dominated (latency, bottleneck, devices) by rising latency.

    A point is dropped when another one is ≤ (1 + 1e-9) times it in every component; of points that drop each other
    one stays (the first by latency, bottleneck, devices).
    """
    plans = enumerate_plans(problem) if plans is None else plans
    points: list[tuple[float, float, int]] = []
    for count in sorted(set(plans.devices.tolist())):
        points += _staircase(plans, count)
    points.sort()
    kept: list[tuple[float, float, int]] = []
    for point in points:
        if not any(_drops(other, point) for other in kept):
            # Its latency may be larger by a hair and it still drops one found before.
            kept = [other for other in kept if not _drops(point, other)] + [point]
    return kept


def _drops(other: tuple[float, float, int], point: tuple[float, float, int]) -> bool:
    return all(theirs <= mine * (1 + TIE) for theirs, mine in zip(other, point, strict=True))


def _staircase(plans: Plans, count: int) -> list[tuple[float, float, int]]:
    """Non-dominated (latency, bottleneck) among the plans on `count` devices, without tolerance."""
    here = plans.devices == count
    latency_s, bottleneck_s = plans.latency_s[here], plans.bottleneck_s[here]
    order = np.lexsort((bottleneck_s, latency_s))
    steps: list[tuple[float, float, int]] = []
    for position in order:
        if not steps or bottleneck_s[position] < steps[-1][1]:
            steps.append((float(latency_s[position]), float(bottleneck_s[position]), count))
    return steps
