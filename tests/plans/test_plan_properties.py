"""Random small plans: what is built is verified, and no figure can be shifted unnoticed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.plans import Outcome, StageRange, build_device_map, device_map_to_dict, verify
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, PlacementProblem, Workload
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology

#: Counts: shifted by one (large ones by 2e-5, too); every other number by two parts in 100,000.
WHOLE = {"start", "stop", "to", "tensor_parallel", "kv_capacity_tokens", "devices_used"}


def random_model(rng: random.Random) -> ModelProfile:
    """Return a model of 1-6 decoder layers of two kinds, with windows, experts and constant states."""

    def operators(experts: bool) -> tuple[Operator, ...]:
        window = rng.choice([None, rng.randint(1, 60)])
        weights = rng.uniform(1e6, 1e9)
        expert = {"experts": 8, "experts_per_token": rng.randint(1, 8)} if experts else {}
        return (
            Operator("linear", "bf16", rng.uniform(1e6, 1e9), weight_bytes=weights, bytes_per_token=2e3, **expert),
            Operator(
                "attention",
                "bf16",
                flops_per_pair=1e5,
                bytes_per_position=rng.uniform(1, 1e4),
                window=window,
                decode_flops_per_pair=rng.choice([None, rng.uniform(1e6, 1e9)]),
            ),
            Operator("last", "bf16", flops_per_token=1e5, weight_bytes=weights / 7, tokens="last"),
        )

    kinds = [operators(experts=False), operators(experts=True)]
    states = [KvState(rng.uniform(1, 1e3), rng.choice([None, 20])), KvState(0.0, None, rng.uniform(0, 1e5))]
    count = rng.randint(1, 6) + 2
    layers = []
    for i in range(count):
        kind: Any = "embedding" if i == 0 else "head" if i == count - 1 else "decoder"
        weights, state = rng.randint(10**6, 10**9), rng.choice(states) if kind == "decoder" else KvState()
        layers.append(Layer(f"l{i}", kind, (f"m.{i}",), weights, weights, 0, state, rng.uniform(1, 1e5),
                            rng.randint(1, 999), rng.choice(kinds)))  # fmt: skip
    return ModelProfile("random", "R", "r", 64, 100, 4, 4, "bf16", "bf16", "bf16", tuple(layers), tied_bytes=1000)


def random_topology(rng: random.Random) -> Topology:
    """Return 2-4 devices of unlike kinds on a random graph of switches; the first switch joins all."""
    devices = []
    for i in range(rng.randint(2, 4)):
        peak, bandwidth = rng.uniform(1e13, 1e15), rng.uniform(1e11, 3e12)
        kind = DeviceKind(f"k{i}", "nvidia", "x", 10**11, bandwidth, {"bf16": peak}, 300)
        price = rng.choice([None, rng.uniform(0.1, 9)])
        cap = rng.choice([None, 200.0])
        devices.append(Device(f"h/gpu{i}", "h", i, kind, rng.randint(10**10, 10**11), cap, price))
    switches = [f"s{i}" for i in range(rng.randint(1, 4))]
    names = [device.name for device in devices] + switches
    pairs = {(name, "s0") for name in names if name != "s0"}
    pairs |= {(a, b) for a in names for b in names if a < b and "s0" not in (a, b) and rng.random() < 0.4}
    links = [
        Link(a, b, "x", rng.choice([1e9, 1e10, rng.uniform(1e9, 1e11)]), rng.choice([0.0, 1e-6, rng.uniform(0, 1e-4)]))
        for a, b in sorted(pairs)
    ]
    components = [Component(device.name, "device", "h") for device in devices]
    components += [Component(name, "pcie_switch") for name in switches]
    return Topology("random", tuple(devices), tuple(components), tuple(links))


def random_plan(rng: random.Random) -> dict[str, Any]:
    """Return the document of a random plan with a true certificate."""
    model, topology = random_model(rng), random_topology(rng)
    workload = Workload(rng.randint(1, 9), rng.randint(1, 80), rng.randint(1, 80))
    problem = PlacementProblem(model, topology, AnalyticCosts(), workload, return_hop=rng.random() < 0.7)
    count = rng.randint(1, min(model.num_layers, topology.num_devices))
    cuts = [0, *sorted(rng.sample(range(1, model.num_layers), count - 1)), model.num_layers]
    chosen = rng.sample(range(topology.num_devices), count)
    stages = [StageRange(device, cuts[k], cuts[k + 1]) for k, device in enumerate(chosen)]
    blank = Outcome("feasible", 0.0, {}, None, None, "random", {}, 0)
    value = build_device_map(problem, stages, blank).metrics.latency_s
    outcome = Outcome("feasible", value, {"latency_s": value}, value * 0.5, 0.5, "random", {}, 0)
    return device_map_to_dict(build_device_map(problem, stages, outcome))


def numbers(value: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, container, key) of every number inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        where = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}"
        if isinstance(item, dict | list):
            yield from numbers(item, where)
        elif isinstance(item, int | float):
            yield where, value, key


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_built_plans_are_verified(seed: int) -> None:
    """Whatever is built, the verifier recomputes the same figures with its own arithmetic."""
    document = random_plan(random.Random(seed))
    fits = [finding for finding in verify(document).problems if not finding.message.startswith("needs ")]
    assert fits == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_shifted_figures_are_found(seed: int) -> None:
    """Every number of stages and metrics, shifted alone by 2e-5 of itself (counts by one), is found and named."""
    rng = random.Random(seed)
    document = random_plan(rng)
    before = {str(finding) for finding in verify(document).problems}
    for part in ("stages", "metrics"):
        for place, _, key in list(numbers(document[part], f"$.{part}")):
            edited = copy.deepcopy(document)
            container = next(box for where, box, _ in numbers(edited[part], f"$.{part}") if where == place)
            old = container[key]
            shift = 1 + abs(old) // 50_000 if key in WHOLE else rng.choice([-1, 1]) * (2e-5 * old or 1e-3)
            container[key] = abs(old + shift)
            found = [finding for finding in verify(edited).problems if str(finding) not in before]
            assert place in [finding.place for finding in found], place
