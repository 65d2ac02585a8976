"""The analytic roofline against numbers derived by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, Workload
from gpuplan.profiles.costs import LayerTimes
from gpuplan.profiles.efficiency import Efficiency, Factors, PowerRule
from gpuplan.profiles.rates import peak_flops_per_s
from gpuplan.topology.graph import Device, DeviceKind

# 100 TFLOP/s at half efficiency = 50e12; 1 TB/s at 0.8 = 0.8e12; 1 µs an operator.
KIND = DeviceKind("toy", "vendor", "toys", 10**10, 1e12, {"fp16": 100e12, "fp32": 20e12}, 100.0)
EFFICIENCY = Efficiency(Factors(0.5, 0.8, 1e-6), {}, {}, PowerRule(0.4, 3.0, 0.15))
COSTS = AnalyticCosts(EFFICIENCY)
DEVICE = Device("host0/gpu0", "host0", 0, KIND, 10**10)

MATMUL = Operator("matmul", "fp16", flops_per_token=2e6, weight_bytes=2e6, bytes_per_token=1e4)
ATTENTION = Operator("attention", "fp16", flops_per_pair=4e4, bytes_per_token=100.0, bytes_per_position=1e3)


def model_of(*operators: Operator, layers: int = 1, activation_dtype: str = "fp16") -> ModelProfile:
    """Return a model whose layers all hold `operators`."""
    layer = Layer("layer", "decoder", ("m",), 1, 1, 0, KvState(), 2.0, 1, operators)
    return ModelProfile(
        "toy", "Toy", "toy", 8, 16, 1, 1, "fp16", activation_dtype, "fp16", tuple(layer for _ in range(layers))
    )


def times(*operators: Operator, device: Device = DEVICE, workload: Workload, tensor_parallel: int = 1) -> LayerTimes:
    """Return the times of a one-layer model."""
    return COSTS.layer_times(model_of(*operators), device, workload, tensor_parallel=tensor_parallel)


def test_decode_sums_memory_bound_operators() -> None:
    """One decode step of two sequences is the sum of its operators' rooflines."""
    # s=100, o=20: context 110; b=2 → N=2, P=Q=220.
    # matmul: flops 4e6/50e12 = 8e-8 s; bytes 2e6 + 2e4 = 2.02e6/0.8e12 = 2.525e-6 s → 1e-6 + 2.525e-6.
    # attention: flops 4e4·220/50e12 = 1.76e-7; bytes 200 + 2.2e5 = 220200/0.8e12 = 2.7525e-7 → 1e-6 + 2.7525e-7.
    found = times(MATMUL, ATTENTION, workload=Workload(2, 100, 20))
    np.testing.assert_allclose(found.decode_s, [2e-6 + 2.525e-6 + 2.7525e-7], rtol=1e-14)
    assert found.origin == ("analytic",)


def test_prefill_is_compute_bound_and_counts_causal_pairs() -> None:
    """Prefill of two prompts counts b·s tokens and b·s(s+1)/2 pairs."""
    # N=200, P = 2·5050 = 10100, Q = 200.
    # matmul: flops 4e8/50e12 = 8e-6; bytes 2e6 + 2e6 = 4e6/0.8e12 = 5e-6 → 1e-6 + 8e-6.
    # attention: flops 4.04e8/50e12 = 8.08e-6; bytes 2e4 + 2e5 = 2.2e5/0.8e12 = 2.75e-7 → 1e-6 + 8.08e-6.
    found = times(MATMUL, ATTENTION, workload=Workload(2, 100, 20))
    np.testing.assert_allclose(found.prefill_s, [9e-6 + 9.08e-6], rtol=1e-14)


def test_sliding_window_limits_pairs_and_positions() -> None:
    """A window of 10 reads 10 positions a sequence and forms 10 pairs a token once it is full."""
    # Prefill of s=100: pairs 10·11/2 + 90·10 = 955, positions 10; decode: 10 and 10.
    # flops 955·4e4 = 3.82e7/50e12 = 7.64e-7; bytes 100·100 + 1e4 = 2e4/0.8e12 = 2.5e-8.
    # decode: flops 4e5/50e12 = 8e-9; bytes 100 + 1e4 = 10100/0.8e12 = 1.2625e-8.
    found = times(replace(ATTENTION, window=10), workload=Workload(1, 100, 20))
    np.testing.assert_allclose(found.prefill_s, [1e-6 + 7.64e-7], rtol=1e-14)
    np.testing.assert_allclose(found.decode_s, [1e-6 + 1.2625e-8], rtol=1e-14)


def test_decode_may_have_flops_a_pair_of_its_own() -> None:
    """The decode figure holds in decode steps only; without one both passes share the other."""
    # decode: 110 pairs · 4e6 = 4.4e8/50e12 = 8.8e-6; prefill as before: 5050 · 4e4 = 2.02e8/50e12 = 4.04e-6.
    point = Workload(1, 100, 20)
    found = times(replace(ATTENTION, decode_flops_per_pair=4e6), workload=point)
    np.testing.assert_allclose(found.decode_s, [1e-6 + 8.8e-6], rtol=1e-14)
    np.testing.assert_allclose(found.prefill_s, [1e-6 + 4.04e-6], rtol=1e-14)
    same = times(replace(ATTENTION, decode_flops_per_pair=4e4), workload=point)
    np.testing.assert_array_equal(same.decode_s, times(ATTENTION, workload=point).decode_s)


def test_head_prefills_the_last_token_alone() -> None:
    """An operator of the last token costs the same in prefill as in decode."""
    found = times(replace(MATMUL, tokens="last"), workload=Workload(3, 1000, 2))
    np.testing.assert_array_equal(found.prefill_s, found.decode_s)


def test_experts_read_the_expected_share_of_their_weights() -> None:
    """N tokens choosing 2 of 8 experts touch 1 − 0.75^N of the weights."""
    # decode b=3: 1 − 0.421875 = 0.578125 of 8e6 bytes = 4.625e6/0.8e12 = 5.78125e-6; no flops.
    experts = Operator("experts", "fp16", weight_bytes=8e6, experts=8, experts_per_token=2)
    found = times(experts, workload=Workload(3, 1000, 2))
    np.testing.assert_allclose(found.decode_s, [1e-6 + 5.78125e-6], rtol=1e-14)
    # 3000 tokens touch all of them: 8e6/0.8e12 = 1e-5.
    np.testing.assert_allclose(found.prefill_s, [1e-6 + 1e-5], rtol=1e-14)


def test_choosing_every_expert_reads_all_weights() -> None:
    """An operator with k = E is a dense one."""
    dense = times(replace(MATMUL, experts=4, experts_per_token=4), workload=Workload(1, 1, 1))
    np.testing.assert_array_equal(dense.decode_s, times(MATMUL, workload=Workload(1, 1, 1)).decode_s)


def test_tensor_parallel_divides_sharded_operators_only() -> None:
    """Two ranks halve a sharded operator's work, never its overhead, and leave a replicated one alone."""
    point = Workload(1, 1, 1)
    whole = times(MATMUL, workload=point).decode_s - 1e-6
    np.testing.assert_allclose(times(MATMUL, workload=point, tensor_parallel=2).decode_s, 1e-6 + whole / 2, rtol=1e-14)
    replicated = replace(MATMUL, sharded=False)
    np.testing.assert_allclose(times(replicated, workload=point, tensor_parallel=2).decode_s, 1e-6 + whole, rtol=1e-14)


def test_refuses_a_tensor_parallel_degree_of_zero() -> None:
    """A degree below 1 is a usage error."""
    with pytest.raises(UsageError, match="tensor-parallel degree"):
        times(MATMUL, workload=Workload(), tensor_parallel=0)


def test_power_cap_slows_compute_and_overhead_but_not_memory() -> None:
    """At 70 W of 100 W the clock runs at (0.3/0.6)^(1/3); memory-bound work only pays a longer overhead."""
    phi = 0.5 ** (1 / 3)
    capped = times(MATMUL, device=replace(DEVICE, power_cap_w=70.0), workload=Workload(2, 100, 20))
    np.testing.assert_allclose(capped.prefill_s, [(1e-6 + 8e-6) / phi], rtol=1e-12)
    np.testing.assert_allclose(capped.decode_s, [1e-6 / phi + 2.525e-6], rtol=1e-12)


@given(st.lists(st.floats(0.01, 2000.0), min_size=2, max_size=20))
def test_clock_factor_never_falls_when_the_cap_rises(caps: list[float]) -> None:
    """φ is monotone in the cap, and 1 from the board power on."""
    rule = EFFICIENCY.power
    factors = [rule.clock_factor(cap, 350.0) for cap in sorted(caps)]
    assert factors == sorted(factors)
    assert all(0.15 <= factor <= 1.0 for factor in factors)
    assert all(factor == 1.0 for cap, factor in zip(sorted(caps), factors, strict=True) if cap >= 350.0)


@pytest.mark.parametrize("cap", [0.0, -5.0, float("nan"), float("inf")])
def test_refuses_a_power_cap_that_is_no_power(cap: float) -> None:
    """Zero, negative, NaN and infinite caps are refused."""
    with pytest.raises(InputError, match="power cap above 0 W"):
        times(MATMUL, device=replace(DEVICE, power_cap_w=cap), workload=Workload())


@given(
    scale=st.floats(1.0, 100.0),
    point=st.builds(Workload, st.integers(1, 64), st.integers(1, 9000), st.integers(1, 500)),
    what=st.sampled_from(["bandwidth", "flops"]),
)
def test_more_bandwidth_or_compute_is_never_slower(scale: float, point: Workload, what: str) -> None:
    """Raising a peak never raises a time."""
    faster = (
        replace(KIND, memory_bandwidth_bytes_per_s=1e12 * scale)
        if what == "bandwidth"
        else replace(KIND, flops_per_s={"fp16": 100e12 * scale})
    )
    before = times(MATMUL, ATTENTION, workload=point)
    after = times(MATMUL, ATTENTION, device=replace(DEVICE, kind=faster), workload=point)
    assert (after.prefill_s <= before.prefill_s).all()
    assert (after.decode_s <= before.decode_s).all()


@pytest.mark.parametrize(
    ("dtype", "activation", "expected"),
    [
        ("fp16", "fp16", 100e12),
        ("bf16", "bf16", 100e12),  # no bf16 units: those of fp16
        ("fp32", "bf16", 20e12),
        ("fp8", "bf16", 100e12),  # no fp8 units: the activations' peak, itself a fallback here
        ("fp8", "fp32", 20e12),
        ("int4", "fp16", 100e12),
    ],
)
def test_missing_peaks_fall_back(dtype: str, activation: str, expected: float) -> None:
    """A dtype without units of its own runs at the documented fallback."""
    assert peak_flops_per_s(KIND, dtype, activation) == expected


def test_bf16_falls_back_to_fp32_where_fp16_is_missing_too() -> None:
    """The last fallback of bf16 is fp32."""
    assert peak_flops_per_s(replace(KIND, flops_per_s={"fp32": 1e12}), "bf16", "bf16") == 1e12


def test_own_fp8_peak_is_used() -> None:
    """A device with fp8 units computes fp8 weights on them."""
    assert peak_flops_per_s(replace(KIND, flops_per_s={"fp16": 1e12, "fp8": 2e12}), "fp8", "fp16") == 2e12


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"flops_per_s": {}}, "peak FLOP/s of GPU kind 'toy' for one of fp16, bf16, fp32, got none"),
        ({"flops_per_s": {"fp16": 0.0}}, "fp16 peak of GPU kind 'toy' above 0, got 0.0"),
        ({"flops_per_s": {"fp16": float("nan")}}, "fp16 peak of GPU kind 'toy' above 0, got nan"),
        ({"memory_bandwidth_bytes_per_s": 0.0}, "memory bandwidth of GPU kind 'toy' above 0, got 0.0"),
        ({"memory_bandwidth_bytes_per_s": float("inf")}, "memory bandwidth of GPU kind 'toy' above 0, got inf"),
    ],
)
def test_refuses_a_data_sheet_without_numbers(change: dict[str, object], match: str) -> None:
    """Missing, zero, NaN and infinite peaks raise, naming the kind."""
    with pytest.raises(InputError, match=match):
        times(MATMUL, device=replace(DEVICE, kind=replace(KIND, **change)), workload=Workload())


def test_refuses_an_operator_that_holds_no_number() -> None:
    """A NaN among the FLOPs never becomes a time."""
    with pytest.raises(InputError, match="finite FLOPs and bytes"):
        times(replace(MATMUL, flops_per_token=float("nan")), workload=Workload())


def test_layers_of_one_operator_set_share_their_time() -> None:
    """Equal layers get the very same time, whether or not their operators are one object."""
    first = Layer("a", "decoder", ("a",), 1, 1, 0, KvState(), 2.0, 1, (MATMUL, ATTENTION))
    second = replace(first, name="b", operators=(replace(MATMUL), replace(ATTENTION)))
    empty = replace(first, name="c", operators=())
    model = replace(model_of(), layers=(first, second, first, empty))
    found = COSTS.layer_times(model, DEVICE, Workload()).decode_s
    assert found[0] == found[1] == found[2] > 0.0
    assert found[3] == 0.0


def test_inputs_hold_all_that_a_recomputation_needs() -> None:
    """The embedded coefficients and the formula of the docs give the decode time back."""
    model = model_of(MATMUL, activation_dtype="bf16")
    device = replace(DEVICE, power_cap_w=70.0)
    inputs = COSTS.to_inputs(model, (device,))
    assert inputs["source"] == "analytic"
    c = inputs["devices"]["host0/gpu0"]
    flops, moved = 2e6 * 2, 2e6 + 1e4 * 2
    expected = c["overhead_s"] / c["clock_factor"] + max(
        flops / (c["peak_flops_per_s"]["fp16"] * c["compute_efficiency"] * c["clock_factor"]),
        moved / (c["memory_bandwidth_bytes_per_s"] * c["memory_efficiency"]),
    )
    assert COSTS.layer_times(model, device, Workload(2, 100, 20)).decode_s[0] == pytest.approx(expected, rel=1e-14)
