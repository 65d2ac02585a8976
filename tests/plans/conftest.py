"""A plan small enough to work out by hand: four layers on two GPUs."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from gpuplan.plans import DeviceMap, GroupStage, Outcome, StageRange, build_device_map, device_map_to_dict
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, PlacementProblem, Workload
from gpuplan.profiles.efficiency import Efficiency, Factors, PowerRule
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology

Edit = Callable[[dict[str, Any], str, Any], dict[str, Any]]


def _kind(name: str, bandwidth: float) -> DeviceKind:
    return DeviceKind(name, "nvidia", "test", 1000, bandwidth, {"bf16": 1000.0}, 100.0, source="made up")


def _layer(name: str, kind: Any, modules: tuple[str, ...], weights: int, kv: KvState, *operators: Operator) -> Layer:
    return Layer(name, kind, modules, weights // 2, weights, 0, kv, 10.0, 3 if kind == "decoder" else 0, operators)


@pytest.fixture
def hand_model() -> ModelProfile:
    """Embedding (40 B), two decoder layers (100 B and 5 B of KV a token each), head (60 B); 10 B boundaries."""
    decoder = (
        Operator("linear", "bf16", flops_per_token=10.0, weight_bytes=100.0),
        Operator("attention", "bf16", bytes_per_position=2.0),
    )
    cache = KvState(5.0)
    layers = (
        _layer("embedding", "embedding", ("model.embed_tokens",), 40, KvState(),
               Operator("lookup", "bf16", bytes_per_token=4.0)),
        _layer("layer 0", "decoder", ("model.layers.0",), 100, cache, *decoder),
        _layer("layer 1", "decoder", ("model.layers.1",), 100, cache, *decoder),
        _layer("head", "head", ("model.norm", "lm_head"), 60, KvState(),
               Operator("logits", "bf16", weight_bytes=60.0, tokens="last")),
    )  # fmt: skip
    return ModelProfile("hand", "Hand", "hand", 2, 4, 1, 1, "bf16", "bf16", "bf16", layers, source="made up")


@pytest.fixture
def hand_topology() -> Topology:
    """g0 (200 B/s memory, 600 B) and g1 (100 B/s, 800 B) under one switch: 0.5 s and 100 B/s from one to the other."""
    fast, slow = _kind("fast", 200.0), _kind("slow", 100.0)
    devices = (
        Device("h/gpu0", "h", 0, fast, 600, price_per_hour=2.0),
        Device("h/gpu1", "h", 1, slow, 800, price_per_hour=3.0),
    )
    components = (*(Component(device.name, "device", "h") for device in devices), Component("h/sw", "pcie_switch", "h"))
    links = (Link("h/gpu0", "h/sw", "pcie", 100.0, 0.25), Link("h/sw", "h/gpu1", "pcie", 100.0, 0.25))
    return Topology("pair", devices, components, links, "made up")


@pytest.fixture
def ideal_costs() -> AnalyticCosts:
    """Costs of ideal kernels: full peaks, no overhead."""
    ideal = Efficiency(Factors(1.0, 1.0, 0.0), {}, {}, PowerRule(0.4, 3.0, 0.15), ("ideal",))
    return AnalyticCosts(ideal)


@pytest.fixture
def hand_problem(hand_model: ModelProfile, hand_topology: Topology, ideal_costs: AnalyticCosts) -> PlacementProblem:
    """Two sequences of 3 prompt and 5 output tokens."""
    workload = Workload(batch=2, prompt_tokens=3, output_tokens=5)
    return PlacementProblem(hand_model, hand_topology, ideal_costs, workload, "latency", reserve_bytes=100)


@pytest.fixture
def hand_plan(hand_problem: PlacementProblem) -> DeviceMap:
    """Embedding and layer 0 on g0, layer 1 and head on g1; its latency is 18.5 s (see test_device_map_build)."""
    outcome = Outcome("optimal", 18.5, {"latency_s": 18.5, "devices": 2.0}, 18.5, 0.0, "hand", {"threads": 1}, 0)
    return build_device_map(hand_problem, [StageRange(0, 0, 2), StageRange(1, 2, 4)], outcome)


@pytest.fixture
def hand_document(hand_plan: DeviceMap) -> dict[str, Any]:
    """Return the hand-made plan as a JSON object of its own."""
    return copy.deepcopy(device_map_to_dict(hand_plan))


@pytest.fixture
def edit() -> Edit:
    """Return a function that sets the value at a JSON path (`...` removes the key)."""

    def change(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
        parts = [int(p[1:-1]) if p.startswith("[") else p for p in re.findall(r"\[\d+\]|[^.\[\]$]+", place)]
        target: Any = document
        for part in parts[:-1]:
            target = target[part]
        if value is ...:
            del target[parts[-1]]
        else:
            target[parts[-1]] = value
        return document

    return change


@pytest.fixture
def group_model() -> ModelProfile:
    """Four heads, two KV heads: embedding (40 B), two decoder layers (100 B, 20 in norms), head (60 B, 4 in norms)."""
    decoder = (
        Operator("linear", "bf16", flops_per_token=10.0, weight_bytes=80.0),
        Operator("norm", "bf16", weight_bytes=20.0, bytes_per_token=2.0, sharded=False),
        Operator("attention", "bf16", bytes_per_position=2.0),
    )

    def layer(name: str, kind: Any, weights: int, whole: int, *operators: Operator) -> Layer:
        inner = kind == "decoder"
        kv, ffn, projections = (KvState(8.0, heads=2), 3, 16) if inner else (KvState(), 0, 0)
        modules = (name.replace(" ", "."),)
        return Layer(name, kind, modules, weights // 2, weights, whole, kv, 10.0, ffn, operators, projections)

    layers = (
        layer("embedding", "embedding", 40, 0, Operator("lookup", "bf16", bytes_per_token=4.0)),
        layer("layer 0", "decoder", 100, 20, *decoder),
        layer("layer 1", "decoder", 100, 20, *decoder),
        layer("head", "head", 60, 4, Operator("logits", "bf16", weight_bytes=60.0, tokens="last")),
    )
    return ModelProfile("pairs", "Hand", "hand", 2, 4, 4, 2, "bf16", "bf16", "bf16", layers, source="made up")


@pytest.fixture
def group_topology() -> Topology:
    """Hosts a and b of two NVLink-joined GPUs each; a/gpu1 is slower than the others, and further from the switch."""
    fast, slow = _kind("fast", 200.0), _kind("slow", 100.0)
    devices = (
        Device("a/gpu0", "a", 0, fast, 900, price_per_hour=2.0),
        Device("a/gpu1", "a", 1, slow, 700, price_per_hour=3.0),
        Device("b/gpu0", "b", 0, fast, 800, price_per_hour=2.0),
        Device("b/gpu1", "b", 1, fast, 800, price_per_hour=2.0),
    )
    components = (
        *(Component(device.name, "device", device.host) for device in devices),
        *(Component(f"{host}/sw", "pcie_switch", host) for host in "ab"),
    )
    links = (
        Link("a/gpu0", "a/gpu1", "nvlink", 50.0, 0.1),
        Link("b/gpu0", "b/gpu1", "nvlink", 100.0, 0.2),
        Link("a/gpu0", "a/sw", "pcie", 40.0, 0.2),
        Link("a/gpu1", "a/sw", "pcie", 20.0, 0.3),
        Link("b/gpu0", "b/sw", "pcie", 40.0, 0.1),
        Link("b/gpu1", "b/sw", "pcie", 40.0, 0.1),
        Link("a/sw", "b/sw", "network", 40.0, 0.1),
    )
    return Topology("two pairs", devices, components, links, "made up")


@pytest.fixture
def group_problem(group_model: ModelProfile, group_topology: Topology, ideal_costs: AnalyticCosts) -> PlacementProblem:
    """Two sequences of 3 prompt and 5 output tokens, stages of two devices."""
    return PlacementProblem(
        group_model, group_topology, ideal_costs, Workload(2, 3, 5), "latency", reserve_bytes=100, tensor_parallel=(2,)
    )


@pytest.fixture
def group_plan(group_problem: PlacementProblem) -> DeviceMap:
    """Embedding and layer 0 on host a, layer 1 and head on host b; its latency is 34.88 s (see test_group_plans)."""
    outcome = Outcome("optimal", 34.88, {"latency_s": 34.88, "devices": 4.0}, 34.88, 0.0, "hand", {}, 0)
    return build_device_map(group_problem, [GroupStage((0, 1), 0, 2), GroupStage((2, 3), 2, 4)], outcome)


@pytest.fixture
def group_document(group_plan: DeviceMap) -> dict[str, Any]:
    """Return the hand-made plan of groups as a JSON object of its own."""
    return copy.deepcopy(device_map_to_dict(group_plan))


@pytest.fixture
def cluster(hand_topology: Topology) -> Topology:
    """Return two hosts of four GPUs each, every GPU on one switch."""
    kind = hand_topology.devices[0].kind
    devices = tuple(Device(f"h{i // 4}/gpu{i % 4}", f"h{i // 4}", i % 4, kind, 900) for i in range(8))
    components = (*(Component(device.name, "device", device.host) for device in devices), Component("sw", "nvswitch"))
    links = tuple(Link(device.name, "sw", "nvlink", 100.0, 0.1) for device in devices)
    return Topology("cluster", devices, components, links)


@pytest.fixture
def deep_model(hand_model: ModelProfile) -> ModelProfile:
    """Return the hand-made model with eight decoder layers, ten layers in all."""
    embedding, decoder, _, head = hand_model.layers
    decoders = tuple(dataclasses.replace(decoder, name=f"layer {i}", modules=(f"model.layers.{i}",)) for i in range(8))
    return dataclasses.replace(hand_model, layers=(embedding, *decoders, head))


@pytest.fixture
def build(deep_model: ModelProfile, cluster: Topology, ideal_costs: AnalyticCosts) -> Any:
    """Return a function from (device or devices, stop) pairs to a plan."""

    def make(*stages: tuple[Any, int], model: ModelProfile = deep_model, topology: Topology = cluster) -> DeviceMap:
        problem = PlacementProblem(model, topology, ideal_costs, Workload(2, 3, 5), reserve_bytes=100)
        starts = [0, *(stop for _, stop in stages)]
        groups = [(devices,) if isinstance(devices, int) else devices for devices, _ in stages]
        stops = [stop for _, stop in stages]
        ranges = [GroupStage(*row) for row in zip(groups, starts[:-1], stops, strict=True)]
        return build_device_map(problem, ranges, Outcome("feasible", 0.0, {}, None, None, "hand", {}, 0))

    return make
