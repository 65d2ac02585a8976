"""Best-case groups of an island whose devices or links differ: no group of t of its devices is better in any number.

A plan over real groups, each replaced by the best case of its island and size, stays a plan and costs no more. So the
optimum over best cases is a lower bound, and where there is none, no plan exists.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gpuplan.profiles.collectives import GroupLink, Phase, collective_s
from gpuplan.profiles.memory import TOKEN_BYTES
from gpuplan.profiles.problems.build import PlacementProblem, times_on
from gpuplan.profiles.problems.groups import GroupModes, of_one_degree, shares_at
from gpuplan.profiles.problems.hops import FloatArray, HopTable
from gpuplan.profiles.problems.placement import Timing
from gpuplan.profiles.problems.routing import combined
from gpuplan.profiles.problems.segments import Segments


def whole_islands(segments: Segments) -> Segments:
    """Return the islands as if each were one segment."""
    devices = tuple(tuple(sorted(d for s in parts for d in segments.devices[s])) for parts in segments.islands)
    return dataclasses.replace(segments, devices=devices, islands=tuple((k,) for k in range(len(devices))))


def best_cases(problem: PlacementProblem, segments: Segments, degrees: tuple[int, ...]) -> GroupModes:
    """Return one best-case mode for every island and size.

    Each layer takes what it takes on the t-th fastest device of the island, the least memory is the t-th largest, the
    price t times the lowest (a budget counts devices, so each has one price), links are bounded as in `_best_link`, and
    hand-overs take the fastest pair of devices.
    """
    whole = whole_islands(segments)
    pairs = [(k, t) for k in range(len(whole.devices)) for t in degrees if t <= len(whole.devices[k])]
    shares = {t: shares_at(problem, t) for _, t in pairs}
    devices = problem.topology.devices
    memory = [np.sort([float(devices[d].available_bytes) for d in group])[::-1] for group in whole.devices]
    prices = [[devices[d].price_per_hour for d in group] for group in whole.devices]
    cheapest = [min(np.nan if price is None else price for price in group) for group in prices]
    use = np.zeros((len(whole.devices), len(pairs)), dtype=np.int64)
    for c, (k, t) in enumerate(pairs):
        use[k, c] = t
    latency, cycle = _timings(problem, segments, pairs)
    modes = GroupModes(
        words=tuple((k,) * t for k, t in pairs),
        degrees=np.array([t for _, t in pairs], dtype=np.int64),
        islands=np.array([k for k, _ in pairs], dtype=np.int64),
        use=use,
        capacity=whole.counts,
        available_bytes=np.array([memory[k][t - 1] for k, t in pairs]),
        price_per_hour=np.array([t * cheapest[k] for k, t in pairs]),
        fixed_bytes=np.array([shares[t][0] for _, t in pairs]),
        saving_bytes=np.array([shares[t][1] for _, t in pairs]),
        memory_bytes=np.array([shares[t][2] for _, t in pairs]),
        kv_bytes_per_token=np.array([shares[t][3] for _, t in pairs]),
        latency=latency,
        cycle=cycle,
    )
    return modes if problem.uneven_tensor_parallel else of_one_degree(modes)


def _timings(problem: PlacementProblem, segments: Segments, pairs: list[tuple[int, int]]) -> tuple[Timing, Timing]:
    work = problem.workload
    b, s, steps = work.batch, work.prompt_tokens, work.decode_steps
    prefill_s, decode_s = (_layer_seconds(problem, segments, pairs, phase) for phase in ("prefill", "decode"))
    per_token = np.array([layer.boundary_bytes_per_token for layer in problem.model.layers], dtype=np.float64)
    prefill, decode = _hops(segments, segments.prefill, pairs), _hops(segments, segments.decode, pairs)
    back = None if segments.back is None else _hops(segments, segments.back, pairs)
    message = 0.0 if back is None else float(TOKEN_BYTES * b)
    hop, step = combined((1, b * s, prefill), (steps, steps * b, decode)), combined((1, b, decode))
    whole_back = None if back is None else combined((steps, steps, back))
    latency = Timing(prefill_s + steps * decode_s, hop, per_token, whole_back, message)
    return latency, Timing(decode_s, step, per_token, back, message)


def _layer_seconds(
    problem: PlacementProblem, segments: Segments, pairs: list[tuple[int, int]], phase: Phase
) -> FloatArray:
    table = segments.prefill if phase == "prefill" else segments.decode
    rows = []
    for k, t in pairs:
        own = []
        for s in segments.islands[k]:
            times = times_on(problem, problem.topology.devices[segments.devices[s][0]], t)
            own += [times.prefill_s if phase == "prefill" else times.decode_s] * len(segments.devices[s])
        row = np.sort(np.array(own), axis=0)[t - 1]
        if t > 1:
            row = row + collective_s(problem.model, problem.workload, phase, t, _best_link(segments, table, k, t))
        rows.append(row)
    return np.array(rows).reshape(len(rows), problem.model.num_layers)


def _best_link(segments: Segments, table: HopTable, island: int, t: int) -> GroupLink:
    """Return α and β that no group of t stays below.

    A member's slowest pair in the group is at least its (t−1)-th fastest in the island, and the group's slowest at
    least the t-th smallest of these.
    """
    label = np.array([s for s in segments.islands[island] for _ in segments.devices[s]])
    block = np.ix_(label, label)

    def least(values: FloatArray) -> float:
        own = np.array(values[block])
        np.fill_diagonal(own, np.inf)
        return float(np.sort(np.sort(own, axis=1)[:, t - 2])[t - 1])

    return GroupLink(least(table.latency_s), least(table.s_per_byte))


def _hops(segments: Segments, table: HopTable, pairs: list[tuple[int, int]]) -> HopTable:
    """Return the fastest pair of devices between every two islands; no route where both groups do not fit."""
    num = len(segments.islands)
    alpha, beta = np.full((num, num), np.inf), np.zeros((num, num))
    for a, left in enumerate(segments.islands):
        for b, right in enumerate(segments.islands):
            block = np.ix_(left, right)
            open_ = np.isfinite(table.latency_s[block])
            if open_.any():
                alpha[a, b] = table.latency_s[block][open_].min()
                beta[a, b] = table.s_per_byte[block][open_].min()
    place = np.array([k for k, _ in pairs])
    sizes = np.array([t for _, t in pairs])
    room = np.array([segments.island_size(k) for k in range(num)])
    crowded = (place[:, None] == place) & (sizes[:, None] + sizes > room[place][:, None])
    latency, per_byte = alpha[np.ix_(place, place)], beta[np.ix_(place, place)]
    closed = crowded | ~np.isfinite(latency)
    return HopTable(np.where(closed, np.inf, latency), np.where(closed, 0.0, per_byte))
