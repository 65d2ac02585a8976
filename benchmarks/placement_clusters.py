"""Hierarchical clusters of any size for the scale benchmarks: racks of hosts of alike devices, from a seed.

`racks(devices, layers, seed, kinds, mixed)` draws hosts of eight (or `per_host`) devices, racks of four hosts and
`kinds` kinds of accelerators. ``mixed=False``: a rack holds one kind; ``mixed=True``: every rack holds hosts of several
kinds, all racks alike. `workstations` draws hosts that hold several kinds each. Times are in ms, memory in GB,
messages in MB. Routes: NVLink-like inside a host, the rack's switch between its hosts, a slower spine between racks;
the slower of two hosts' ports counts.
"""

from __future__ import annotations

import numpy as np

from gpuplan.profiles.problems.hops import unit_hops
from gpuplan.profiles.problems.placement import DensePlacement, Objective, ObjectiveName, Timing

#: Memory GB, relative speed, ms per MB inside a host, ms per MB of its port, price per hour: typical figures.
KINDS = (
    (80.0, 3.35, 1 / 450.0, 1 / 50.0, 4.0),
    (141.0, 4.80, 1 / 450.0, 1 / 50.0, 6.0),
    (80.0, 2.00, 1 / 300.0, 1 / 25.0, 2.5),
    (48.0, 0.86, 1 / 25.0, 1 / 12.5, 1.2),
    (40.0, 1.55, 1 / 300.0, 1 / 25.0, 1.8),
    (24.0, 0.30, 1 / 12.0, 1 / 6.0, 0.6),
)


def racks(
    devices: int,
    layers: int,
    seed: int,
    *,
    kinds: int = 4,
    mixed: bool = False,
    share: float | None = None,
    stages: float = 14.0,
    per_host: int = 8,
    hosts_per_rack: int = 4,
    rare: bool = False,
    return_hop: bool = True,
    objective: ObjectiveName = "latency",
) -> DensePlacement:
    """Return one random placement problem; see the module for what it holds.

    share
        Model memory over cluster memory; by default the model fills about `stages` devices of 80 GB.
    rare
        Whether the faster kinds have a single rack each.
    """
    rng = np.random.default_rng([7, seed, devices, layers, kinds, mixed])
    hosts = devices // per_host
    host = np.arange(hosts)
    kind = rng.permutation(len(KINDS))[:kinds][_kind_places(host, hosts_per_rack, kinds, mixed)]
    if rare:  # the fastest kinds fill one rack each, the slowest all the others
        fast = np.argsort([-KINDS[k][1] for k in range(len(KINDS))])[:kinds]
        kind = fast[np.minimum(host // hosts_per_rack, kinds - 1)]
    figures = np.array(KINDS)[kind]
    memory, time = _layers(rng, layers)
    room = 0.92 * figures[:, 0]
    memory *= (share * room.sum() * per_host if share is not None else stages * 0.92 * 80.0) / memory.sum()
    slowness = rng.uniform(1.0, 1.2, len(KINDS))[kind] / figures[:, 1]
    home = np.arange(devices) // per_host
    compute = np.outer(slowness, time * memory.mean())[home]
    hops = _hops(rng, host // hosts_per_rack, figures, home)
    boundary = np.full(layers + 2, 8.0)
    timing = Timing(compute, hops, boundary, hops if return_hop else None, 0.01 if return_hop else 0.0)
    return DensePlacement(
        tuple(f"gpu{d}" for d in range(devices)),
        tuple(f"layer{i}" for i in range(layers + 2)),
        room[home],
        figures[home, 4],
        memory,
        np.full(layers + 2, 1e-3),
        timing,
        timing,
        objective=Objective(objective),
        name=f"{'mixed' if mixed else 'racks'}-D{devices}-n{layers}-{kinds} kinds-seed{seed}",
    )


def workstations(
    devices: int, layers: int, seed: int, *, kinds: int = 16, alike: int = 1, stages: float = 25.0
) -> DensePlacement:
    """Return hosts of eight devices, so many `alike` of each kind; hosts are of two makes where kinds are many.

    stages
        The model fills about so many devices of the mean memory.
    """
    rng = np.random.default_rng([8, seed, devices, layers, kinds, alike])
    host, home = np.arange(devices // 8), np.arange(devices) // 8
    kind = (np.arange(devices) % 8 + 8 * (home % 2)) // alike % kinds
    room, slowness = rng.uniform(8.0, 48.0, kinds), rng.uniform(0.5, 2.0, kinds)
    memory, time = _layers(rng, layers)
    memory *= stages * room.mean() / memory.sum()
    figures = np.tile([0.0, 0.0, 1 / 25.0, 1 / 6.0], (len(host), 1))
    hops = _hops(rng, host // 4, figures, home)
    timing = Timing(np.outer(slowness[kind], time * memory.mean()), hops, np.full(layers + 2, 8.0), hops, 0.01)
    return DensePlacement(
        tuple(f"gpu{d}" for d in range(devices)),
        tuple(f"layer{i}" for i in range(layers + 2)),
        room[kind],
        np.ones(devices),
        memory,
        np.full(layers + 2, 1e-3),
        timing,
        timing,
        objective=Objective("latency"),
        name=f"workstations-D{devices}-n{layers}-{kinds} kinds-seed{seed}",
    )


def _kind_places(host: np.ndarray, per_rack: int, kinds: int, mixed: bool) -> np.ndarray:
    """Return which kind each host is: by rack, or by place in it (two sorts of racks hold more kinds than places)."""
    if not mixed:
        return host // per_rack % kinds
    shift = (host // per_rack % 2) * per_rack if kinds > per_rack else 0
    return (host % per_rack + shift) % kinds


def _layers(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory and time, relative: embedding, n uneven decoder layers, head."""
    size = rng.uniform(0.95, 1.05, n)
    size[3::4] *= 1.25
    memory = np.concatenate([[0.6], size, [0.6]])
    return memory, np.concatenate([[0.05], size * rng.uniform(0.97, 1.03, n), [0.7]])


def _hops(rng: np.random.Generator, rack: np.ndarray, figures: np.ndarray, home: np.ndarray) -> object:
    """Hop table by host: its own link inside, the slower port in the rack, a slower one over the spine."""
    near = rack[:, None] == rack[None, :]
    port = np.maximum(figures[:, 3][:, None], figures[:, 3][None, :])
    spine = rng.uniform(1.5, 3.0)
    latency, per_mb = np.where(near, 0.03, 0.08), np.where(near, port, spine * port)
    np.fill_diagonal(latency, 0.01)
    np.fill_diagonal(per_mb, figures[:, 2])
    return unit_hops(home, latency, per_mb)
