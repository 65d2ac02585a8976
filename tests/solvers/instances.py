"""Small placement problems: a seeded random generator, and instances solved by hand.

`random_problem(seed)` covers what a solver can get wrong: 2-6 devices, 4-12 layers, feasible and infeasible, equal
devices (in classes) and unlike ones, roomy and tight memory, cheap and dear links, missing routes, unequal boundaries,
KV and micro-batches, fixed workspace, a tied-embedding saving, return hops (own numbers or the same tables), cycle
numbers that differ from latency's, a device limit, layers that every stage must hold, prices, whole-number times that
tie often. Bytes are whole numbers, so sums of them are exact in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, Timing

FloatArray = NDArray[np.float64]


def hop_table(latency_s: object, s_per_byte: object = 0.0, *, size: int | None = None) -> HopTable:
    """Make a hop table from matrices or plain numbers, zero on the diagonal."""
    if size is None:
        size = np.asarray(latency_s).shape[0] if np.ndim(latency_s) else np.asarray(s_per_byte).shape[0]
    tables = []
    for values in (latency_s, s_per_byte):
        table = np.array(np.broadcast_to(np.asarray(values, dtype=float), (size, size)))
        np.fill_diagonal(table, 0.0)
        tables.append(table)
    return HopTable(tables[0], tables[1])


def make_problem(
    compute_s: object,
    memory_bytes: object,
    available_bytes: object,
    *,
    hop_latency_s: object = 0.0,
    hop_s_per_byte: object = 0.0,
    boundary_bytes: object = 0.0,
    kv_bytes_per_token: object = 0.0,
    price_per_hour: object = float("nan"),
    return_hop: bool = False,
    cycle: Timing | None = None,
    **fields: object,
) -> DensePlacement:
    """Make a problem from plain numbers; scalars spread over layers, devices or pairs."""
    compute = np.asarray(compute_s, dtype=float)
    D, n = compute.shape

    def per_layer(values: object) -> FloatArray:
        return np.array(np.broadcast_to(np.asarray(values, dtype=float), (n,)))

    def per_device(values: object) -> FloatArray:
        return np.array(np.broadcast_to(np.asarray(values, dtype=float), (D,)))

    hop = hop_table(hop_latency_s, hop_s_per_byte, size=D)
    boundary = per_layer(boundary_bytes)
    timing = Timing(compute, hop, boundary, hop if return_hop else None, float(boundary[-1]) if return_hop else 0.0)
    return DensePlacement(
        device_names=tuple(f"g{d}" for d in range(D)),
        layer_names=tuple(f"layer{i}" for i in range(n)),
        available_bytes=per_device(available_bytes),
        price_per_hour=per_device(price_per_hour),
        memory_bytes=per_layer(memory_bytes),
        kv_bytes_per_token=per_layer(kv_bytes_per_token),
        latency=timing,
        cycle=timing if cycle is None else cycle,
        **fields,  # type: ignore[arg-type]
    )


def with_objective(problem: DensePlacement, name: str, **weights: float) -> DensePlacement:
    """Return the same problem with another objective."""
    return dataclasses.replace(problem, objective=Objective(name, **weights))  # type: ignore[arg-type]


def relabel(problem: DensePlacement, order: NDArray[np.int64]) -> DensePlacement:
    """Return the same problem with its devices in another order."""

    def table(hop: HopTable) -> HopTable:
        pick = np.ix_(order, order)
        return HopTable(hop.latency_s[pick], hop.s_per_byte[pick])

    def timing(numbers: Timing) -> Timing:
        back = None if numbers.return_hop is None else table(numbers.return_hop)
        return dataclasses.replace(numbers, compute_s=numbers.compute_s[order], hop=table(numbers.hop), return_hop=back)

    return dataclasses.replace(
        problem,
        device_names=tuple(problem.device_names[d] for d in order),
        available_bytes=problem.available_bytes[order],
        price_per_hour=problem.price_per_hour[order],
        latency=timing(problem.latency),
        cycle=timing(problem.cycle),
    )


# ------------------------------------------------------------------------------------------------ random problems


def _times(rng: np.random.Generator, kind: NDArray[np.int64], n: int, *, whole: bool) -> FloatArray:
    """Compute times: layers of uneven size on kinds of uneven speed; whole numbers tie often."""
    kinds = int(kind.max()) + 1
    if whole:
        return rng.integers(1, 4, size=(kinds, 1))[kind] * rng.integers(1, 3, size=(1, n)).astype(float)
    layer = rng.uniform(0.5, 2.0, size=n)
    layer[0] *= rng.choice([0.0, 0.1, 1.0])
    speed = rng.uniform(0.3, 3.0, size=kinds)
    return layer[None, :] * speed[kind][:, None] * rng.uniform(0.9, 1.1, size=(kinds, n))[kind]


def _hops(rng: np.random.Generator, kind: NDArray[np.int64], scale_s: float, *, whole: bool, lossy: bool) -> HopTable:
    """Link times between hosts of one to three devices; devices of one kind share rows, so equal ones stay equal."""
    D = len(kind)
    kinds = int(kind.max()) + 1
    per_kind = rng.integers(0, 4, (kinds, kinds)).astype(float) if whole else rng.uniform(0, 1, (kinds, kinds))
    if rng.random() < 0.7:
        per_kind = (per_kind + per_kind.T) / 2
    latency_s = scale_s * per_kind[np.ix_(kind, kind)]
    rate = rng.integers(0, 3, (kinds, kinds)).astype(float) if whole else rng.uniform(0, 1, (kinds, kinds))
    s_per_byte = scale_s * rate[np.ix_(kind, kind)] / 8.0
    if lossy:
        cut = np.triu(rng.random((D, D)) < 0.35, 1)
        latency_s[cut | cut.T] = np.inf
        s_per_byte[cut | cut.T] = np.inf
    np.fill_diagonal(latency_s, 0.0)
    np.fill_diagonal(s_per_byte, 0.0)
    return HopTable(latency_s, s_per_byte)


def _timing(rng: np.random.Generator, kind: NDArray[np.int64], n: int, scale_s: float, *, whole: bool) -> Timing:
    hop = _hops(rng, kind, scale_s, whole=whole, lossy=rng.random() < 0.15)
    boundary = np.full(n, 8.0) if rng.random() < 0.4 else rng.choice([0.0, 1.0, 4.0, 8.0, 32.0], size=n)
    style = rng.random()
    if style < 0.45:
        return Timing(_times(rng, kind, n, whole=whole), hop, boundary)
    if style < 0.7:
        back, size = hop, float(boundary[-1])
    else:
        back, size = _hops(rng, kind, scale_s, whole=whole, lossy=rng.random() < 0.1), float(rng.integers(0, 8))
    return Timing(_times(rng, kind, n, whole=whole), hop, boundary, back, size)


def random_problem(
    seed: int,
    *,
    devices: tuple[int, int] = (2, 6),
    layers: tuple[int, int] = (4, 12),
    objective: str = "latency",
    plain: bool = False,
) -> DensePlacement:
    """Make one random problem; `plain` leaves out the device limit and marked layers.

    About a third is infeasible, and of the others about half have three stages or more at their latency optimum
    (seeds 0..399; the tests hold lower limits).
    """
    rng = np.random.default_rng([2409, 14961, seed])
    D = int(rng.integers(devices[0], devices[1] + 1))
    n = int(rng.integers(layers[0], layers[1] + 1))
    # Kinds: all alike, a few classes, or no two alike.
    kinds = int(rng.choice([1, 2, 3, D]))
    kind = np.arange(D) if kinds >= D else np.unique(rng.integers(0, kinds, D), return_inverse=True)[1]
    whole = bool(rng.random() < 0.3)
    scale_s = float(rng.choice([0.0, 0.05, 0.5, 3.0]))
    latency = _timing(rng, kind, n, scale_s, whole=whole)
    cycle = latency if rng.random() < 0.5 else _timing(rng, kind, n, scale_s, whole=whole)

    memory = rng.integers(1, 3, n) * 100.0 if whole else rng.integers(40, 200, n).astype(float)
    kv = np.zeros(n)
    tokens = 0.0
    if rng.random() < 0.6:
        kv = rng.integers(0, 3, n).astype(float)
        tokens = float(rng.choice([0, 1, 8, 16]))
    micro_batches: int | str = 1
    if rng.random() < 0.3:
        micro_batches = "stages" if rng.random() < 0.5 else int(rng.integers(1, 4))
    fixed = float(rng.choice([0, 30, 90]))
    saving = float(memory[0]) if rng.random() < 0.3 else 0.0

    # Room: ρ = what is needed over what there is; over 1 cannot fit, near 1 is hard to pack.
    sizes = rng.integers(2, 9, int(kind.max()) + 1)[kind].astype(float)
    if rng.random() < 0.3:
        sizes = rng.integers(2, 9, D).astype(float)  # equal kinds with unlike free memory
    factor = D if micro_batches == "stages" else int(micro_batches)
    need = float(memory.sum() + factor * tokens * kv.sum())
    rho = float(rng.uniform(0.25, 1.0) if rng.random() < 0.93 else rng.uniform(1.0, 1.3))
    available = np.floor(fixed + sizes / sizes.sum() * need / rho)

    max_devices = None if plain or rng.random() < 0.8 else int(rng.integers(1, D + 1))
    must_hold = None if plain or rng.random() < 0.85 else rng.random(n) < 0.6
    prices = rng.integers(1, 5, int(kind.max()) + 1)[kind] / 4.0
    return DensePlacement(
        device_names=tuple(f"g{d}" for d in range(D)),
        layer_names=tuple(f"layer{i}" for i in range(n)),
        available_bytes=available,
        price_per_hour=prices,
        memory_bytes=memory,
        kv_bytes_per_token=kv,
        latency=latency,
        cycle=cycle,
        tokens_per_micro_batch=tokens,
        micro_batches=micro_batches,  # type: ignore[arg-type]
        fixed_bytes=fixed,
        single_stage_saving_bytes=saving,
        objective=Objective(objective),  # type: ignore[arg-type]
        max_devices=max_devices,
        must_hold=must_hold,
        name=f"random-{seed}",
    )


def random_problems(count: int, *, first_seed: int = 0, **options: object) -> Iterator[DensePlacement]:
    """`count` random problems, seeds from `first_seed` on."""
    for seed in range(first_seed, first_seed + count):
        yield random_problem(seed, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- solved by hand


@dataclass(frozen=True)
class HandSolved:
    """A problem with optima worked out on paper.

    `optima` by objective name (None: infeasible; ``throughput`` is bottleneck, then latency); `stages` where the
    optimum of an objective has one plan only; `front` where it was worked out.
    """

    name: str
    problem: DensePlacement
    optima: Mapping[str, float | tuple[float, float] | None]
    stages: Mapping[str, tuple[tuple[int, int, int], ...]] = dataclasses.field(default_factory=dict)
    front: tuple[tuple[float, float, int], ...] | None = None


_ALL = ("latency", "bottleneck", "throughput", "efficiency", "balanced", "kv-capacity", "cost")


def _one_device() -> HandSolved:
    # One device, two layers of 1 s and 2 s: one plan. KV: 100 − 10 fixed − (30 + 40) = 20 bytes free, 1 + 3 bytes a
    # token: 5 tokens. Balanced: both at their optimum, 10·1 + 1·1.
    problem = make_problem([[1.0, 2.0]], [30, 40], 100, fixed_bytes=10.0, kv_bytes_per_token=[1, 3], price_per_hour=2.5)
    return HandSolved(
        "one-device",
        problem,
        {
            "latency": 3.0,
            "bottleneck": 3.0,
            "throughput": (3.0, 3.0),
            "efficiency": (1.0, 3.0),
            "balanced": 11.0,
            "kv-capacity": (-5.0, 3.0),
            "cost": (2.5, 3.0),
        },
        dict.fromkeys(_ALL, ((0, 0, 2),)),
        ((3.0, 3.0, 1),),
    )


def _two_devices() -> HandSolved:
    # Two layers of 10 bytes. g0 takes 1 s a layer, g1 3 s; a hop costs 0.5 s + 4 bytes·0.25 s = 1.5 s either way.
    # Plans: g0 alone 2 s (bottleneck 2 s); g1 alone 6 s; g0,g1: 1 + 1.5 + 3 = 5.5 s (max(2.5, 3) = 3 s);
    # g1,g0: 5.5 s, max(4.5, 1) = 4.5 s. So g0 alone wins everything on time, and the front is one point.
    # g1 costs 1, g0 costs 2: by price g1 alone (6 s).
    # KV, 1 byte a token and layer, 30 bytes each: alone (30 − 20)/2 = 5; split (30 − 10)/1 = 20, latency 5.5 s.
    # Balanced 10:1: g0 alone 11; split 10·5.5/2 + 2 = 29.5.
    problem = make_problem(
        [[1.0, 1.0], [3.0, 3.0]],
        10,
        30,
        hop_latency_s=0.5,
        hop_s_per_byte=0.25,
        boundary_bytes=4,
        kv_bytes_per_token=1,
        price_per_hour=[2.0, 1.0],
    )
    return HandSolved(
        "two-devices",
        problem,
        {
            "latency": 2.0,
            "bottleneck": 2.0,
            "throughput": (2.0, 2.0),
            "efficiency": (1.0, 2.0),
            "balanced": 11.0,
            "kv-capacity": (-20.0, 5.5),
            "cost": (1.0, 6.0),
        },
        {"latency": ((0, 0, 2),), "cost": ((1, 0, 2),)},
        ((2.0, 2.0, 1),),
    )


def _two_devices_return() -> HandSolved:
    # As above with room for one layer each and the return hop (the last layer's 4 bytes: 1.5 s):
    # g0,g1: 1 + 1.5 + 3 + 1.5 = 7 s, bottleneck max(1 + 1.5, 3 + 1.5) = 4.5 s; g1,g0: 7 s, max(4.5, 2.5) = 4.5 s.
    # Balanced: 10 + 1.
    problem = make_problem(
        [[1.0, 1.0], [3.0, 3.0]],
        10,
        15,
        hop_latency_s=0.5,
        hop_s_per_byte=0.25,
        boundary_bytes=4,
        price_per_hour=[2.0, 1.0],
        return_hop=True,
    )
    return HandSolved(
        "two-devices-return",
        problem,
        {
            "latency": 7.0,
            "bottleneck": 4.5,
            "throughput": (4.5, 7.0),
            "efficiency": (2.0, 7.0),
            "balanced": 11.0,
            "cost": (3.0, 7.0),
        },
        front=((7.0, 4.5, 2),),
    )


def _three_unlike() -> HandSolved:
    # 12 equal layers of 1 GB, read once a step: 1/819, 1/273, 1/800 s a layer; room for 4, 4 and 8 layers.
    # Latency: all 12 layers need two devices at least (8 is the most one holds), and every layer on g1 costs 1/273
    # instead of at most 1/800: [4, 0, 8] = 4/819 + 8/800.
    # Bottleneck: g1 with 3 layers takes 10.99 ms, with 2 7.33, with 1 3.66. With 2: the other ten as 4 + 6 → 7.5 ms
    # (6/800); 3 + 7 → 8.75. With 1: eleven as 4 + 7 → 8.75. With 0: 4 + 8 → 10. So 7.5 ms, [4, 2, 6], and any
    # order of the devices has it (no hop costs).
    # Bottleneck 7.5: latency 4/819 + 2/273 + 6/800. The front: (a) [4,0,8] 10 ms on 2 devices;
    # (b) [4,1,7]: 4/819 + 1/273 + 7/800, 8.75 ms on 3; (c) [4,2,6]. Nothing else on 2 devices fits 12 layers
    # but [0,4,8], which is slower.
    problem = make_problem(np.repeat(1.0 / np.array([[819.0], [273.0], [800.0]]), 12, axis=1), 1e9, [4e9, 4e9, 8e9])
    latency = 4 / 819 + 8 / 800
    middle = 4 / 819 + 1 / 273 + 7 / 800
    even = 4 / 819 + 2 / 273 + 6 / 800
    return HandSolved(
        "three-unlike",
        problem,
        {
            "latency": latency,
            "bottleneck": 6 / 800,
            "throughput": (6 / 800, even),
            "efficiency": (2.0, latency),
            "balanced": 11.0,
        },
        front=((latency, 8 / 800, 2), (middle, 7 / 800, 3), (even, 6 / 800, 3)),
    )


def _no_route() -> HandSolved:
    # Three devices of one layer each for two layers; only g1 → g2 has a route, so that is the one plan:
    # 2 + 0.25 + 3. Bottleneck max(2.25, 3).
    blocked = np.full((3, 3), np.inf)
    blocked[1, 2] = 0.25
    problem = make_problem([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], 10, 10, hop_latency_s=blocked, hop_s_per_byte=0.0)
    return HandSolved(
        "one-way-route",
        problem,
        {"latency": 5.25, "bottleneck": 3.0, "throughput": (3.0, 5.25), "efficiency": (2.0, 5.25), "balanced": 11.0},
        dict.fromkeys(("latency", "bottleneck", "efficiency"), ((1, 0, 1), (2, 1, 2))),
        ((5.25, 3.0, 2),),
    )


def _saving() -> HandSolved:
    # Two layers of 10 bytes on devices of 15: neither holds both, unless the tied copy of 5 bytes is saved there.
    problem = make_problem([[1.0, 1.0], [1.0, 1.0]], 10, 15, hop_latency_s=1.0, single_stage_saving_bytes=5.0)
    return HandSolved(
        "tied-saving",
        problem,
        {"latency": 2.0, "bottleneck": 2.0, "throughput": (2.0, 2.0), "efficiency": (1.0, 2.0), "balanced": 11.0},
        front=((2.0, 2.0, 1),),  # the split: 3 s, bottleneck 1 + 1 = 2 s, two devices
    )


def _as_many_micro_batches_as_stages() -> HandSolved:
    # Four layers, 10 bytes of weights and 1 byte·5 tokens of KV a micro-batch each; M = stages.
    # One stage: 4·15 = 60; two of 2 layers: 2·(10 + 2·5) = 40 each; three: (10 + 3·5) = 25 a layer, the stage of two
    # takes 50. Room 45, 45, 45: one does not fit, 2 + 2 does (1 + 3 needs 60), three do not (50). 1 s a layer.
    problem = make_problem(
        np.ones((3, 4)), 10, 45, kv_bytes_per_token=1, tokens_per_micro_batch=5.0, micro_batches="stages"
    )
    return HandSolved(
        "micro-batches-as-stages",
        problem,
        # KV capacity of a 2 + 2 plan: (45 − 20) / 2 = 12.5 → 12 tokens.
        {"latency": 4.0, "bottleneck": 2.0, "efficiency": (2.0, 4.0), "kv-capacity": (-12.0, 4.0), "balanced": 11.0},
        front=((4.0, 2.0, 2),),
    )


def _too_large() -> HandSolved:
    # 3 layers of 10 bytes, two devices of 14: 28 < 30.
    return HandSolved("too-large", make_problem(np.ones((2, 3)), 10, 14), dict.fromkeys(_ALL[:-1], None), front=())


def _does_not_pack() -> HandSolved:
    # 3 layers of 10 bytes, two devices of 15 each: 30 in total, but a device holds one layer (20 > 15).
    return HandSolved("does-not-pack", make_problem(np.ones((2, 3)), 10, 15), dict.fromkeys(_ALL[:-1], None), front=())


def _marked() -> HandSolved:
    # Four layers, the middle two marked, 1 s each on three equal devices without hop costs, room for two layers:
    # 1 + 2 + 1 leaves the first stage without a marked layer, as does any three-stage plan; only 2 + 2 is left.
    problem = make_problem(np.ones((3, 4)), 10, 20, must_hold=np.array([False, True, True, False]))
    return HandSolved(
        "marked-layers",
        problem,
        {"latency": 4.0, "bottleneck": 2.0, "throughput": (2.0, 4.0), "efficiency": (2.0, 4.0), "balanced": 11.0},
        front=((4.0, 2.0, 2),),
    )


def _two_at_most() -> HandSolved:
    # Three equal devices, 1 s a layer, 3 layers; alone 3 s; two: 3 s, bottleneck 2; three would have 1, but two is
    # the limit. Hops free, so the front is (3, 3, 1), (3, 2, 2).
    problem = make_problem(np.ones((3, 3)), 10, 30, max_devices=2)
    return HandSolved(
        "two-at-most",
        problem,
        {"latency": 3.0, "bottleneck": 2.0, "throughput": (2.0, 3.0), "efficiency": (1.0, 3.0), "balanced": 11.0},
        front=((3.0, 2.0, 2), (3.0, 3.0, 1)),
    )


def _cycle_of_its_own() -> HandSolved:
    # Latency likes g0 (1 s a layer against 2), the cycle likes g1 (1 s a layer against 5).
    # Alone: g0 latency 2, bottleneck 10; g1 latency 4, bottleneck 2.
    # g0,g1: latency 1 + 2 = 3; bottleneck max(5 + 1, 1) = 6 (cycle hop 1 s); g1,g0: max(1 + 1, 5) = 5, latency 3.
    # Front: (2, 10, 1), (3, 5, 2), (4, 2, 1).
    cycle = Timing(np.array([[5.0, 5.0], [1.0, 1.0]]), hop_table(1.0, size=2), np.zeros(2))
    problem = make_problem([[1.0, 1.0], [2.0, 2.0]], 10, 20, cycle=cycle)
    return HandSolved(
        "cycle-of-its-own",
        problem,
        {"latency": 2.0, "bottleneck": 2.0, "throughput": (2.0, 4.0), "efficiency": (1.0, 2.0), "balanced": 11.0},
        {"latency": ((0, 0, 2),), "bottleneck": ((1, 0, 2),)},
        ((2.0, 10.0, 1), (3.0, 5.0, 2), (4.0, 2.0, 1)),
    )


HAND_SOLVED: tuple[HandSolved, ...] = (
    _one_device(),
    _two_devices(),
    _two_devices_return(),
    _three_unlike(),
    _no_route(),
    _saving(),
    _as_many_micro_batches_as_stages(),
    _too_large(),
    _does_not_pack(),
    _marked(),
    _two_at_most(),
    _cycle_of_its_own(),
)
