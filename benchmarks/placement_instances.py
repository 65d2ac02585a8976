"""Random clusters and models for the placement benchmarks: reproducible from the arguments alone.

`cluster(D, n, seed, family, rho)` draws hosts of 2, 4 or 8 accelerators out of up to four kinds, racks of eight
hosts, NVLink-like links inside a host, slower ones between hosts and racks, and n decoder layers of uneven size with
an embedding and a head. Times are in ms, memory in GB, messages in MB: a solver reads numbers, not units.

family ``hier``: devices of a host are identical; ``hetero``: every device and link differs by some 10-20 %.
rho: model memory over cluster memory.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, ObjectiveName, Timing

#: Memory GB, memory bandwidth TB/s, link inside a host GB/s, price per hour: typical data-sheet figures.
KINDS = (
    (80.0, 3.35, 450.0, 4.0),
    (80.0, 2.00, 300.0, 2.5),
    (48.0, 0.70, 25.0, 0.9),
    (48.0, 0.86, 25.0, 1.2),
    (32.0, 0.90, 150.0, 1.0),
    (24.0, 0.60, 25.0, 0.6),
    (16.0, 0.30, 12.0, 0.35),
)


def _host_size(devices: int) -> int:
    return 2 if devices <= 4 else 4 if devices <= 20 else 8


def _layers(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Relative memory and time of embedding, n uneven decoder layers and head."""
    size = np.ones(n)
    size[3::4] = 1.25
    size *= rng.uniform(0.95, 1.05, n)
    memory = np.concatenate([[0.6], size, [0.6]])
    time = np.concatenate([[0.05], size * rng.uniform(0.97, 1.03, n), [0.7]])
    return memory, time


def _links(
    rng: np.random.Generator, host: np.ndarray, speed: np.ndarray, unlike: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Latency (ms) and ms per MB of every pair: in the host, in the rack, across racks."""
    same_host = host[:, None] == host[None, :]
    same_rack = (host[:, None] // 8) == (host[None, :] // 8)
    latency = np.where(same_host, 0.01, np.where(same_rack, 0.03, 0.08))
    slower = np.minimum(speed[:, None], speed[None, :])
    per_mb = np.where(same_host, 1.0 / slower, np.where(same_rack, 1.0 / 25.0, 1.0 / 12.5))
    if unlike:
        for table, spread in ((latency, 0.2), (per_mb, 0.15)):
            noise = rng.uniform(1.0 - spread, 1.0 + spread, table.shape)
            table *= (noise + noise.T) / 2.0
    np.fill_diagonal(latency, 0.0)
    np.fill_diagonal(per_mb, 0.0)
    return latency, per_mb


def cluster(
    devices: int,
    layers: int,
    seed: int,
    family: str,
    rho: float,
    *,
    return_hop: bool = False,
    objective: ObjectiveName = "latency",
    message_mb: float = 8.0,
) -> DensePlacement:
    """Return one random placement problem; see the module for what it holds."""
    rng = np.random.default_rng([2024, seed, devices, layers])
    size = _host_size(devices)
    hosts = max(1, devices // size)
    kinds = rng.choice(len(KINDS) - 1, size=min(4, hosts), replace=False)
    host = np.arange(devices) // size
    rack_or_host = host // 8 if hosts >= 16 else host
    figures = np.array(KINDS)[kinds[rack_or_host % len(kinds)]]
    memory, time = _layers(rng, layers)
    room = 0.9 * figures[:, 0]
    memory *= rho * room.sum() / memory.sum()
    slowness = (1.0 + 0.3 * rng.random(len(KINDS)))[kinds[rack_or_host % len(kinds)]] / figures[:, 1]
    compute = np.outer(slowness, time * memory.mean() / 1.3)
    unlike = family == "hetero"
    if unlike:
        compute *= rng.uniform(0.9, 1.1, (devices, 1))
        room = room * rng.uniform(0.9, 1.0, devices)
    latency, per_mb = _links(rng, host, figures[:, 2], unlike)
    hop = HopTable(latency, per_mb)
    boundary = np.full(layers + 2, message_mb)
    boundary[-1] = 0.1
    timing = Timing(compute, hop, boundary, hop if return_hop else None, 0.1 if return_hop else 0.0)
    return DensePlacement(
        tuple(f"gpu{d}" for d in range(devices)),
        tuple(f"layer{i}" for i in range(layers + 2)),
        room,
        figures[:, 3].copy(),
        memory,
        np.ones(layers + 2) * 1e-3,
        timing,
        timing,
        objective=Objective(objective),
        name=f"{family}-D{devices}-n{layers}-rho{rho}-seed{seed}",
    )
