"""Helpers of the deployment tests: small clusters, small models, the brute-force oracle."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator
from gpuplan.profiles.efficiency import Efficiency, Factors, PowerRule
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """Give the brute-force oracle over all replicas and all packings of them."""
    name = "gpuplan_deployment_tests_oracle"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("deployment_oracle.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def ideal_costs() -> AnalyticCosts:
    """Costs of ideal kernels: full peaks, no overhead."""
    return AnalyticCosts(Efficiency(Factors(1.0, 1.0, 0.0), {}, {}, PowerRule(0.4, 3.0, 0.15), ("ideal",)))


def layer(name: str, kind: Any, weights: float, kv: float, boundary: float) -> Layer:
    """Return a layer that reads its weights once a pass, and its KV."""
    operators = (
        Operator(
            f"{name} linear",
            "bf16",
            weight_bytes=weights,
            flops_per_token=weights,
            tokens="last" if kind == "head" else "all",
        ),
        *([Operator(f"{name} attention", "bf16", bytes_per_position=kv)] if kv else []),
    )
    return Layer(name, kind, (name,), int(weights) // 2, int(weights), 0, KvState(kv, heads=2), boundary, 3, operators)


@pytest.fixture(scope="session")
def four_layers() -> ModelProfile:
    """Embedding (20 B), two decoder layers (100 B, 1 B of KV a token each), head (40 B); 10 B boundaries."""
    layers = (
        layer("embed", "embedding", 20, 0, 10.0),
        layer("layer0", "decoder", 100, 1, 10.0),
        layer("layer1", "decoder", 100, 1, 10.0),
        layer("head", "head", 40, 0, 10.0),
    )
    return ModelProfile("small", "Small", "small", 2, 4, 2, 2, "bf16", "bf16", "bf16", layers, source="made up")


def kind(name: str, bandwidth: float, flops: float = 1e6) -> DeviceKind:
    """Return a kind of device of a memory bandwidth in bytes/s."""
    return DeviceKind(name, "nvidia", "test", 1000, bandwidth, {"bf16": flops}, 100.0, source="made up")


def cluster(
    hosts: list[list[tuple[str, float, int, float]]], *, inside: tuple[float, float], outside: tuple[float, float]
) -> Topology:
    """Return hosts of devices (kind, bandwidth, available bytes, price) under a switch each, joined by a network.

    `inside` and `outside` are bandwidth (bytes/s) and latency (s) of the links in a host and to the network.
    """
    devices, components, links = [], [], []
    for h, members in enumerate(hosts):
        host = f"host{h}"
        components.append(Component(f"{host}/sw", "pcie_switch", host))
        components.append(Component(f"{host}/nic", "nic", host))
        links.append(Link(f"{host}/sw", f"{host}/nic", "pcie", *outside))
        links.append(Link(f"{host}/nic", "net", "network", *outside))
        for d, (name, bandwidth, available, price) in enumerate(members):
            device = Device(f"{host}/gpu{d}", host, d, kind(name, bandwidth), available, price_per_hour=price)
            devices.append(device)
            links.append(Link(device.name, f"{host}/sw", "pcie", *inside))
    nodes = [Component(device.name, "device", device.host) for device in devices]
    whole = (*nodes, *components, Component("net", "network_switch"))
    return Topology("small cluster", tuple(devices), whole, tuple(links), "made up")


@pytest.fixture(scope="session")
def two_hosts() -> Topology:
    """Two hosts of two devices: 100 B/s memory, 400 B each, price 1; 1e4 B/s and 0.001 s inside, 1e3 B/s outside."""
    member = ("even", 100.0, 400, 1.0)
    return cluster([[member, member], [member, member]], inside=(1e4, 0.001), outside=(1e3, 0.002))


@pytest.fixture(scope="session")
def make_cluster() -> Any:
    """Give `cluster`."""
    return cluster


@pytest.fixture(scope="session")
def random_case(four_layers: ModelProfile) -> Any:
    """Give a function from a seed to a small random model and cluster."""

    def draw(seed: int) -> tuple[ModelProfile, Topology]:
        rng = np.random.default_rng(seed)
        middle = [
            layer(f"layer{i}", "decoder", float(rng.integers(60, 140)), float(rng.integers(1, 3)), 10.0)
            for i in range(int(rng.integers(1, 4)))
        ]
        layers = (
            layer("embed", "embedding", float(rng.integers(5, 40)), 0, 10.0),
            *middle,
            layer("head", "head", float(rng.integers(20, 90)), 0, 10.0),
        )
        model = ModelProfile("drawn", "Drawn", "drawn", 2, 4, 2, 2, "bf16", "bf16", "bf16", layers, source="made up")
        kinds = [(f"k{i}", float(rng.integers(50, 300)), int(rng.integers(220, 900)), float(rng.integers(1, 9)))
                 for i in range(int(rng.integers(1, 4)))]  # fmt: skip
        sizes = [int(size) for size in rng.integers(1, 4, size=int(rng.integers(1, 3)))]
        hosts = [[kinds[int(rng.integers(len(kinds)))] for _ in range(size)] for size in sizes]
        inside, outside = (float(rng.uniform(500, 1e4)), 0.001), (float(rng.uniform(50, 1e3)), 0.01)
        return model, cluster(hosts, inside=inside, outside=outside)

    return draw
