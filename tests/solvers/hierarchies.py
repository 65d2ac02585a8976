"""Small random clusters with a hierarchy: racks of hosts of alike devices, numbers by kinds and level.

`random_hierarchy(seed)` draws 2-3 racks of 1-3 hosts (alike, of two sorts, or with a host missing), 1-3 devices a
host, kinds that share racks or do not, hops by (kind, kind, level) that may be unequal in both directions, tight or
roomy memory, unequal boundaries, a return hop with numbers of its own, whole-number times that tie often.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing


def _hops(rng: np.random.Generator, kind: np.ndarray, level: np.ndarray, kinds: int, spread: int) -> HopTable:
    """Numbers by (level, kind, kind): mostly larger from level to level, symmetric in half of the cases."""
    tables = []
    for top in (spread, 3):
        steps = rng.integers(0, top, (3, kinds, kinds)).astype(float)
        numbers = np.cumsum(steps + (rng.random() < 0.8), axis=0)
        if rng.random() < 0.5:
            numbers = np.maximum(numbers, numbers.transpose(0, 2, 1))
        table = numbers[level, kind[:, None], kind[None, :]]
        np.fill_diagonal(table, 0.0)
        tables.append(table)
    return HopTable(*tables)


def random_hierarchy(seed: int) -> DensePlacement:
    """Return a problem of 4-12 devices with a hierarchy; the same seed gives the same problem."""
    rng = np.random.default_rng([11, seed])
    kinds = int(rng.integers(1, 4))
    rack_kinds = [rng.integers(0, kinds, rng.integers(1, 4)) for _ in range(int(rng.integers(1, 3)))]
    racks = [rack_kinds[int(rng.integers(0, len(rack_kinds)))] for _ in range(int(rng.integers(2, 4)))]
    if rng.random() < 0.3:
        racks[-1] = racks[-1][:-1] if len(racks[-1]) > 1 else racks[-1]
    size = int(rng.integers(1, 4)) if sum(map(len, racks)) <= 4 else int(rng.integers(1, 3))
    hosts = [(number, int(k)) for number, rack in enumerate(racks) for k in rack][:6]
    host = np.repeat(np.arange(len(hosts)), size)
    rack, kind = np.array(hosts)[host].T
    level = np.where(host[:, None] == host[None, :], 0, np.where(rack[:, None] == rack[None, :], 1, 2))
    devices, n = len(host), int(rng.integers(3, 9))
    compute = np.outer(rng.integers(1, 5, kinds), rng.integers(1, 4, n)).astype(float)[kind]
    memory = rng.integers(1, 5, n).astype(float)
    room = (memory.sum() / rng.uniform(1.5, min(devices, n) + 1.0) * rng.uniform(1.0, 1.5, kinds) + memory.max())[kind]
    boundary = rng.integers(0, 4, n).astype(float) if rng.random() < 0.6 else np.full(n, 2.0)
    spread = int(rng.integers(2, 8))
    hop = _hops(rng, kind, level, kinds, spread)
    back = _hops(rng, kind, level, kinds, spread) if rng.random() < 0.7 else None
    timing = Timing(compute, hop, boundary, back, float(rng.integers(0, 3)) if back is not None else 0.0)
    limit = int(rng.integers(2, n + 1)) if rng.random() < 0.3 else None
    return DensePlacement(
        device_names=tuple(f"g{d}" for d in range(devices)),
        layer_names=tuple(f"layer{i}" for i in range(n)),
        available_bytes=room,
        price_per_hour=rng.integers(1, 6, kinds).astype(float)[kind],
        memory_bytes=memory,
        kv_bytes_per_token=rng.integers(0, 2, n).astype(float),
        latency=timing,
        cycle=timing,
        max_devices=limit,
    )


def one_number_off(problem: DensePlacement, seed: int) -> DensePlacement:
    """Return the problem with one hop between two devices (one direction) a little longer."""
    rng = np.random.default_rng([13, seed])
    a, b = rng.choice(problem.num_devices, size=2, replace=False)
    latency = problem.latency.hop.latency_s.copy()
    latency[a, b] += float(rng.choice([0.5, 1.0, 3.0]))
    timing = dataclasses.replace(problem.latency, hop=HopTable(latency, problem.latency.hop.s_per_byte))
    return dataclasses.replace(problem, latency=timing, cycle=timing)
