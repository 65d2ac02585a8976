"""From model, topology, costs and workload to dense numbers, derived by hand for two devices."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import UsageError
from gpuplan.profiles import (
    AnalyticCosts,
    KvState,
    Layer,
    LayerTimes,
    ModelProfile,
    Objective,
    PlacementProblem,
    Workload,
    parse_balance,
)
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology

KIND = DeviceKind("toy", "vendor", "toys", 1000, 1e12, {"fp16": 1e14}, 100.0)


def cluster(*, price: float | None = 2.0, link: bool = True) -> Topology:
    """Return two devices joined by a fast link of 10 µs and, through a switch, by a slow one of 2 µs in all."""
    devices = (
        Device("h/gpu0", "h", 0, KIND, 5000, price_per_hour=1.5),
        Device("h/gpu1", "h", 1, KIND, 4000, power_cap_w=70.0, price_per_hour=price),
    )
    switch = Component("h/switch", "pcie_switch", "h")
    links = (
        Link("h/gpu0", "h/gpu1", "fast", 1e9, 10e-6),
        Link("h/gpu0", "h/switch", "slow", 1e8, 1e-6),
        Link("h/switch", "h/gpu1", "slow", 1e8, 1e-6),
    )
    components = (*(Component(device.name, "device", "h") for device in devices), switch)
    return Topology("pair", devices, components, links if link else ())


def toy_model(head_boundary: float = 0.0) -> ModelProfile:
    """Return embedding, one decoder layer with KV and a tied head."""
    layers = (
        Layer("embedding", "embedding", ("e",), 10, 300, 0, KvState(), 20.0, 0, ()),
        Layer("layer 0", "decoder", ("d",), 10, 600, 0, KvState(4.0, window_tokens=20), 10.0, 6, ()),
        Layer("head", "head", ("h",), 10, 400, 0, KvState(), head_boundary, 0, ()),
    )
    return ModelProfile("toy", "Toy", "toy", 4, 10, 1, 1, "fp16", "fp16", "fp16", layers, tied_bytes=250)


class Stopwatch:
    """Costs of whole numbers: prefill 100·(l+1), decode l+1 on a full-power board; twice that on a capped one."""

    sources: tuple[str, ...] = ("made up",)

    def __init__(self) -> None:
        self.asked = 0

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the made-up times and count the call."""
        self.asked += 1
        slow = 1.0 if device.power_cap_w is None else 2.0
        steps = slow * np.arange(1.0, model.num_layers + 1)
        return LayerTimes(100 * steps, steps, ("analytic",) * model.num_layers)

    def to_inputs(
        self, model: ModelProfile, devices: tuple[Device, ...], workload: Workload | None = None
    ) -> dict[str, Any]:
        """Return nothing: not asked here."""
        return {}


def problem(**changes: Any) -> PlacementProblem:
    """Return the toy problem at b=2, s=50, o=11."""
    base = PlacementProblem(toy_model(), cluster(), Stopwatch(), Workload(2, 50, 11), reserve_bytes=100)
    return base.replace(**changes) if changes else base


def test_latency_and_cycle_numbers() -> None:
    """Compute, hops and return hop of a whole request and of one step, by hand."""
    dense = problem().dense()
    # compute: prefill + 10 steps = 100·k + 10·k = 110·k for layer k = 1..3; twice that on the capped board.
    np.testing.assert_allclose(dense.latency.compute_s, [[110, 220, 330], [220, 440, 660]], rtol=1e-14)
    np.testing.assert_allclose(dense.cycle.compute_s, [[1, 2, 3], [2, 4, 6]], rtol=1e-14)
    # Largest boundary B = 20. Prefill message 2·50·20 = 2000 B: fast 10e-6 + 2e-6 beats slow 2e-6 + 20e-6.
    # Decode message 40 B: slow 2e-6 + 0.4e-6 beats fast 10e-6 + 0.04e-6. Return message 8 B: slow.
    # latency: α = 10e-6 + 10·2e-6 = 30e-6; s/byte = 2·50·1e-9 + 10·2·1e-8 = 3e-7, times 20 or 10 bytes a token.
    off = ~np.eye(2, dtype=bool)
    np.testing.assert_allclose(dense.latency.hop.latency_s[off], 30e-6, rtol=1e-12)
    np.testing.assert_allclose(dense.latency.hop.s_per_byte[off], 3e-7, rtol=1e-12)
    np.testing.assert_array_equal(dense.latency.boundary_bytes, [20.0, 10.0, 0.0])
    # cycle: α = 2e-6, s/byte = 2·1e-8.
    np.testing.assert_allclose(dense.cycle.hop.latency_s[off], 2e-6, rtol=1e-12)
    np.testing.assert_allclose(dense.cycle.hop.s_per_byte[off], 2e-8, rtol=1e-12)
    # return: 8 bytes; latency 10·2e-6 and 10·1e-8 s/byte, cycle 2e-6 and 1e-8.
    assert dense.latency.return_hop is not None
    assert dense.cycle.return_hop is not None
    assert dense.latency.return_bytes == dense.cycle.return_bytes == 8.0
    np.testing.assert_allclose(dense.latency.return_hop.latency_s[off], 20e-6, rtol=1e-12)
    np.testing.assert_allclose(dense.latency.return_hop.s_per_byte[off], 1e-7, rtol=1e-12)
    np.testing.assert_allclose(dense.cycle.return_hop.latency_s[off], 2e-6, rtol=1e-12)
    np.testing.assert_allclose(dense.cycle.return_hop.s_per_byte[off], 1e-8, rtol=1e-12)


def test_memory_numbers() -> None:
    """Weights, effective KV per token, tokens per micro-batch, workspace and the tied copy."""
    dense = problem().dense()
    np.testing.assert_array_equal(dense.memory_bytes, [300.0, 600.0, 400.0])
    # T = 61 tokens, window 20: 4·20/61 bytes a token; 2·61 tokens a micro-batch give back 2·80 bytes.
    np.testing.assert_allclose(dense.kv_bytes_per_token * dense.tokens_per_micro_batch, [0, 160, 0], rtol=1e-14)
    # workspace: 100 + 2·50·(4·4 + 2·6)·2 + 2·10·4 = 100 + 5600 + 80.
    assert dense.fixed_bytes == 5780.0
    assert dense.single_stage_saving_bytes == 250.0
    np.testing.assert_array_equal(dense.available_bytes, [5000.0, 4000.0])
    np.testing.assert_array_equal(dense.price_per_hour, [1.5, 2.0])
    assert dense.device_names == ("h/gpu0", "h/gpu1")
    assert dense.layer_names == ("embedding", "layer 0", "head")
    assert dense.name == "toy on pair"


def test_one_output_token_needs_no_decode_step() -> None:
    """With o = 1 the latency is the prefill alone, and its return hop costs nothing."""
    dense = problem(workload=Workload(2, 50, 1)).dense()
    np.testing.assert_allclose(dense.latency.compute_s[0], [100, 200, 300], rtol=1e-14)
    assert dense.latency.return_hop is not None
    np.testing.assert_array_equal(dense.latency.return_hop.latency_s, np.zeros((2, 2)))
    np.testing.assert_allclose(dense.latency.hop.latency_s[0, 1], 10e-6, rtol=1e-12)


def test_devices_without_a_route() -> None:
    """Unjoined devices are infinitely far for any number of bytes, never NaN, even without a decode step."""
    for output in (1, 11):
        dense = problem(topology=cluster(link=False), workload=Workload(2, 50, output)).dense()
        for timing in (dense.latency, dense.cycle):
            for table in (timing.hop, timing.return_hop):
                assert table is not None
                np.testing.assert_array_equal(table.latency_s, [[0.0, np.inf], [np.inf, 0.0]])
                np.testing.assert_array_equal(table.s_per_byte, np.zeros((2, 2)))


def test_no_return_hop() -> None:
    """`return_hop=False` leaves it out of both timings."""
    dense = problem(return_hop=False).dense()
    assert dense.latency.return_hop is None
    assert dense.cycle.return_hop is None


def test_dense_is_computed_once_and_replace_shares_the_work() -> None:
    """A changed objective pays for no routes and no layer times; a changed workload asks for its times only once."""
    base = problem()
    assert base.dense() is base.dense()
    costs = base.costs
    assert isinstance(costs, Stopwatch)
    # Two kinds of device here: one with a power cap, one without.
    assert costs.asked == 2
    other = base.replace(objective="throughput", max_devices=1, reserve_bytes=0.0)
    assert other.dense().cycle.return_hop is base.dense().cycle.return_hop
    assert costs.asked == 2
    base.replace(workload=Workload(4, 50, 11)).dense()
    base.replace(workload=Workload(4, 50, 11), objective="efficiency").dense()
    assert costs.asked == 4
    assert base.objective == "latency"


def test_equal_devices_get_the_very_same_numbers() -> None:
    """Devices of one kind and power cap are asked for once."""
    topology = cluster()
    twins = tuple(replace(device, power_cap_w=None) for device in topology.devices)
    asked = problem(topology=replace(topology, devices=twins))
    rows = asked.dense().cycle.compute_s
    np.testing.assert_array_equal(rows[0], rows[1])
    assert isinstance(asked.costs, Stopwatch)
    assert asked.costs.asked == 1


@pytest.mark.parametrize(
    ("name", "dense_name"),
    [
        ("latency", "latency"),
        ("throughput", "bottleneck"),
        ("efficiency", "efficiency"),
        ("balanced", "balanced"),
        ("cost", "cost"),
        ("kv-capacity", "kv-capacity"),
    ],
)
def test_objectives_by_name(name: str, dense_name: str) -> None:
    """Every user-level name has its dense one; `throughput` is the bottleneck."""
    asked = problem(objective=name)
    assert asked.dense().objective.name == dense_name
    assert asked.objective_name == name


def test_balanced_weights_pass_through() -> None:
    """`3:2` weighs latency 3 and devices 2."""
    assert problem(objective=parse_balance("3:2")).dense().objective == Objective("balanced", 3.0, 2.0)


@pytest.mark.parametrize("text", ["", "10", "1:2:3", "a:b", "-1:2", "nan:1", "inf:1", "0:0"])
def test_refuses_bad_weights(text: str) -> None:
    """Two finite weights of at least 0, one of them above 0."""
    with pytest.raises(UsageError, match="two weights"):
        parse_balance(text)


def test_micro_batches_reach_the_solver() -> None:
    """M, or the number of stages, with the objective throughput."""
    point = Workload(2, 50, 11, micro_batches=3)
    assert problem(objective="throughput", workload=point).dense().micro_batches == 3
    assert problem(objective="throughput", micro_batches_from_stages=True).dense().micro_batches == "stages"
    assert problem().dense().micro_batches == 1


@pytest.mark.parametrize("runtime", ["vllm", "sglang"])
def test_runtime_marks_decoder_layers(runtime: str) -> None:
    """Stages of vLLM and SGLang want a decoder layer each."""
    np.testing.assert_array_equal(problem(runtime=runtime).dense().must_hold, [False, True, False])
    assert problem(runtime="accelerate").dense().must_hold is None


def test_front_is_passed_on() -> None:
    """A problem may ask for the whole front."""
    assert problem(front=True).dense().front is True


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"objective": "speed"}, "expected one of the objectives latency, throughput"),
        ({"objective": "latancy"}, "did you mean latency"),
        ({"objective": Objective("balanced", -1.0, 1.0)}, "two weights of at least 0"),
        ({"max_devices": 0}, "max_devices to be a whole number of at least 1"),
        ({"max_devices": True}, "max_devices"),
        ({"reserve_bytes": -1.0}, "reserve of at least 0 bytes"),
        ({"reserve_bytes": float("nan")}, "reserve of at least 0 bytes"),
        ({"runtime": "vlm"}, "one of the runtimes accelerate"),
        ({"workload": Workload(micro_batches=2)}, "several belong to the objective throughput"),
        ({"micro_batches_from_stages": True}, "several belong to the objective throughput"),
        (
            {"front": True, "objective": "throughput", "workload": Workload(micro_batches=2)},
            "one micro-batch with the front",
        ),
        ({"topology": Topology("empty", (), (), ())}, "at least one usable device"),
        ({"objective": "cost", "topology": cluster(price=None)}, "got none for h/gpu1; give price_per_hour"),
    ],
)
def test_refuses_what_cannot_be_asked(changes: dict[str, Any], match: str) -> None:
    """Each bad question is a usage error of one sentence."""
    with pytest.raises(UsageError, match=match):
        problem(**changes)


def test_defaults_are_the_options_defaults() -> None:
    """Analytic costs, one request of 1024 + 128 tokens, latency, the return hop, 1 GiB of reserve."""
    asked = PlacementProblem(toy_model(), cluster())
    assert isinstance(asked.costs, AnalyticCosts)
    assert (asked.workload, asked.objective, asked.return_hop) == (Workload(), "latency", True)
    assert asked.reserve_bytes == 1 << 30


def test_a_long_run_of_questions_keeps_no_more_than_it_needs() -> None:
    """A service that asks with ever new workloads does not grow without end, and still gets right answers."""
    asked = problem()
    for batch in range(1, 60):
        asked = asked.replace(workload=Workload(batch, 50, 11))
        assert asked.dense().tokens_per_micro_batch == batch * 61
    assert len(asked._prepared._entries) <= 64


def test_a_pickled_problem_answers_alike() -> None:
    """A problem sent to another process gives the same numbers there."""
    asked = problem()
    asked.dense()
    copy = pickle.loads(pickle.dumps(asked))
    np.testing.assert_array_equal(copy.dense().latency.compute_s, asked.dense().latency.compute_s)
    np.testing.assert_array_equal(
        copy.replace(max_devices=1).dense().cycle.hop.latency_s, asked.dense().cycle.hop.latency_s
    )
