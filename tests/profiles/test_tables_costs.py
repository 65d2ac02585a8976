"""Costs from tables: which series times what, chunks, gaps, the roofline filling in, and what a plan embeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, Workload
from gpuplan.profiles.tables import CostTable, TableCosts, model_shape, series_from_rows
from gpuplan.topology.graph import Device, DeviceKind

KIND = DeviceKind("toy", "nvidia", "test", 1000, 100.0, {"bf16": 1000.0}, 100.0, source="made up")
DEVICE = Device("h/gpu0", "h", 0, KIND, 1000)


def toy_model(*, experts: bool = False) -> ModelProfile:
    """Return an embedding, two decoder layers (a product of 4 inputs and 6 outputs, attention) and a head."""
    linear = Operator("qkv_proj", "bf16", flops_per_token=48.0, weight_bytes=48.0)
    attention = Operator("attention", "bf16", flops_per_pair=16.0, bytes_per_position=16.0)
    moe = Operator("experts", "bf16", flops_per_token=8.0, weight_bytes=64.0, experts=8, experts_per_token=2)
    decoder = (linear, attention, moe) if experts else (linear, attention)
    head = Operator("lm_head", "bf16", flops_per_token=8.0, weight_bytes=80.0, tokens="last")
    lookup = Operator("embedding_lookup", "bf16", bytes_per_token=8.0)

    def layer(name: str, kind: Any, *operators: Operator) -> Layer:
        return Layer(name, kind, (name,), 1, 10, 0, KvState(1.0), 8.0, 3, operators)

    layers = (layer("embedding", "embedding", lookup), layer("layer 0", "decoder", *decoder),
              layer("layer 1", "decoder", *decoder), layer("head", "head", head))  # fmt: skip
    shared = tuple(replace(item, operators=layers[1].operators) if item.kind == "decoder" else item for item in layers)
    return ModelProfile("toy", "Toy", "toy", 4, 8, 1, 1, "bf16", "bf16", "bf16", shared)


def table(*series: Any, **changes: Any) -> CostTable:
    """Return a table of the toy model on the toy device."""
    made = [series_from_rows(*one) for one in series]
    return CostTable("bench", "toy", tuple(made), **{"model": "toy", **changes})


LOOKUP = (["embedding_lookup"], "both", ["tokens"], [(1, 0.1), (100, 10.0)])
LINEAR = (["qkv_proj"], "both", ["tokens"], [(1, 1.0), (11, 2.0)])
PREFILL = (["attention"], "prefill", ["prompt"], [(1, 0.0), (10, 9.0)])
DECODE = (["attention"], "decode", ["batch", "context"], [(1, 0, 0.0), (1, 10, 1.0), (2, 0, 0.0), (2, 10, 2.0)])
HEAD = (["lm_head"], "both", ["batch"], [(1, 5.0), (4, 8.0)])
EVERYTHING = (LOOKUP, LINEAR, PREFILL, DECODE, HEAD)


def times(costs: TableCosts, workload: Workload, device: Device = DEVICE, **more: Any) -> Any:
    """Return the toy model's layer times."""
    return costs.layer_times(toy_model(), device, workload, **more)


def test_a_layer_is_the_sum_of_its_operators() -> None:
    """b=2, s=3, o=8: N = 6 tokens, decode at context 3 + 4 = 7."""
    found = times(TableCosts((table(*EVERYTHING),)), Workload(2, 3, 8))
    # qkv at 6 tokens 1 + 5/10 = 1.5; attention of one prompt of 3 tokens 2.0, twice; qkv at 2 tokens 1.1;
    # attention at batch 2, context 7: 1.4. Embedding 0.1·N. Head at batch 2: 5 + 1 = 6 in both passes.
    assert found.prefill_s == pytest.approx([0.6, 5.5, 5.5, 6.0])
    assert found.decode_s == pytest.approx([0.2, 2.5, 2.5, 6.0])
    assert found.origin == ("interpolated",) * 4


def test_tags_follow_the_rows() -> None:
    """b=1, s=1, o=2 hits rows everywhere but the context of 2 between 0 and 10."""
    found = times(TableCosts((table(*EVERYTHING),)), Workload(1, 1, 2))
    assert found.origin == ("measured", "interpolated", "interpolated", "measured")
    assert found.by_origin["interpolated"][1] == pytest.approx([0.0, 0.2, 0.2, 0.0])
    assert found.by_origin["measured"][1] == pytest.approx([0.1, 1.0, 1.0, 5.0])


def test_seconds_by_origin_add_up() -> None:
    """The parts are the whole."""
    found = times(TableCosts((table(*EVERYTHING),)), Workload(2, 3, 8))
    for phase, whole in enumerate((found.prefill_s, found.decode_s)):
        assert sum(parts[phase] for parts in found.by_origin.values()) == pytest.approx(whole)


def test_a_whole_layer_is_taken_before_its_operators() -> None:
    """A series of the layer wins; embedding and head still come from theirs."""
    whole = (["layer:decoder"], "both", ["tokens"], [(1, 7.0), (9, 7.0)])
    found = times(TableCosts((table(whole, *EVERYTHING),)), Workload(1, 3, 2))
    assert found.prefill_s[1] == 7.0


def test_operators_timed_together_count_once() -> None:
    """One series for the product and attention."""
    both = (["qkv_proj", "attention"], "both", ["tokens"], [(1, 3.0), (9, 3.0)])
    found = times(TableCosts((table(both, LOOKUP, HEAD),)), Workload(1, 3, 2))
    assert found.prefill_s[1] == 3.0


def test_products_are_found_by_shape() -> None:
    """48 FLOPs a token at width 4: 6 outputs and 4 inputs; at degree 2 three outputs."""
    gemm = (["gemm"], "both", ["k", "n", "tokens"], [(4, 3, 1, 0.5), (4, 3, 9, 0.5), (4, 6, 1, 2.0), (4, 6, 9, 2.0)])
    for degree, seconds in ((1, 2.0), (2, 0.5)):
        one = table(gemm, model=None, tensor_parallel=degree)
        others = table(LOOKUP, HEAD, PREFILL, DECODE, tensor_parallel=degree)
        model = toy_model()
        found = TableCosts((one, others)).layer_times(model, DEVICE, Workload(1, 1, 2), tensor_parallel=degree)
        assert found.prefill_s[1] == pytest.approx(seconds)


def test_long_prefills_run_in_chunks() -> None:
    """Chunks of 4 tokens: a prompt of 9 is 4 + 4 + 1, attended after 0, 4 and 8 cached ones."""
    attention = (
        ["attention"],
        "prefill",
        ["prompt", "context"],
        [(p, c, p * (1.0 + c)) for p in (1, 4) for c in (0, 8)],
    )
    linear = (["qkv_proj"], "both", ["tokens"], [(1, 1.0), (4, 4.0)])
    costs = TableCosts((table(attention, linear, LOOKUP, HEAD, DECODE, chunk_tokens=4),))
    found = times(costs, Workload(1, 9, 2))
    # attention 4·1 + 4·5 + 1·9 = 33; the product 4 + 4 + 1 = 9.
    assert found.prefill_s[1] == pytest.approx(42.0)


def test_experts_are_looked_up_by_the_share_they_touch() -> None:
    """2 of 8 experts, 3 tokens: 8·(1 − 0.75³) = 4.625 of at most 6 are touched, a share of 0.7708."""
    moe = (["experts"], "both", ["tokens", "experts"], [(3, 0.5, 5.0), (3, 1.0, 10.0)])
    costs = TableCosts((table(moe, *EVERYTHING, model=None),), AnalyticCosts())
    found = costs.layer_times(toy_model(experts=True), DEVICE, Workload(1, 3, 2))
    without = costs.layer_times(toy_model(), DEVICE, Workload(1, 3, 2))
    assert found.prefill_s[1] - without.prefill_s[1] == pytest.approx(10.0 * 4.625 / 6.0)


def test_windows_bound_the_context_of_a_decode_step() -> None:
    """A window of 5 reads 5 positions at context 7."""
    model = toy_model()
    operators = (model.layers[1].operators[0], replace(model.layers[1].operators[1], window=5))
    layers = tuple(replace(layer, operators=operators) if layer.kind == "decoder" else layer for layer in model.layers)
    windowed = replace(model, layers=layers)
    found = TableCosts((table(*EVERYTHING),)).layer_times(windowed, DEVICE, Workload(1, 3, 8))
    assert found.decode_s[1] == pytest.approx(1.0 + 0.5)


def test_a_window_shorter_than_the_prompt_is_a_gap() -> None:
    """Full attention was measured: a windowed prefill is not read from it."""
    model = toy_model()
    operators = (model.layers[1].operators[0], replace(model.layers[1].operators[1], window=2))
    layers = tuple(replace(layer, operators=operators) if layer.kind == "decoder" else layer for layer in model.layers)
    with pytest.raises(InputError, match="no times of attention"):
        TableCosts((table(*EVERYTHING),)).layer_times(replace(model, layers=layers), DEVICE, Workload(1, 3, 8))


def test_a_gap_is_an_error_with_its_mend() -> None:
    """No time of the head anywhere."""
    with pytest.raises(
        InputError, match=r"expected a time of lm_head of head layers of toy on toy \(prefill\), got none"
    ):
        times(TableCosts((table(LOOKUP, LINEAR, PREFILL, DECODE),)), Workload(1, 3, 2))


def test_out_of_range_is_an_error_with_both_ranges() -> None:
    """12 tokens where 1 to 11 were measured."""
    with pytest.raises(InputError, match=r"qkv_proj of bench was measured for tokens 1 to 11, asked for tokens 12"):
        times(TableCosts((table(*EVERYTHING),)), Workload(4, 3, 2))


def test_the_roofline_fills_a_gap_when_told() -> None:
    """The head is the roofline's, tagged analytic; the others stay as they were."""
    costs = TableCosts((table(LOOKUP, LINEAR, PREFILL, DECODE),), AnalyticCosts())
    found = times(costs, Workload(1, 3, 2))
    own = AnalyticCosts().layer_times(toy_model(), DEVICE, Workload(1, 3, 2))
    assert found.decode_s[3] == pytest.approx(own.decode_s[3])
    assert found.origin[3] == "analytic"
    assert found.origin[1] == "interpolated"


def test_extrapolation_happens_when_told() -> None:
    """12 tokens: 2 + 1/10 of a second beyond 11."""
    found = times(TableCosts((table(*EVERYTHING),), extrapolate=True), Workload(4, 3, 2))
    assert found.by_origin["extrapolated"][0][1] == pytest.approx(2.1)
    assert found.origin[1] == "extrapolated"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device_kind": "other"}, "bench was measured on other"),
        ({"tensor_parallel": 2}, "bench was measured at tensor-parallel 2, not 1"),
        ({"power_cap_w": 50.0}, "bench was measured at 50 W"),
        ({"model": "another"}, "bench was measured on another"),
        ({"model": None, "dtype": "fp8"}, "bench was measured in fp8, not bf16"),
    ],
)
def test_a_table_of_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    """Other kind, degree, power cap, model, dtype."""
    other = replace(table(*EVERYTHING), **changes)
    with pytest.raises(InputError, match=message):
        times(TableCosts((other,)), Workload(1, 1, 2))


def test_a_capped_device_needs_its_own_table() -> None:
    """The table was measured without a cap; one at the board's power or above caps nothing."""
    with pytest.raises(InputError, match="without a power cap"):
        times(TableCosts((table(*EVERYTHING),)), Workload(1, 1, 2), replace(DEVICE, power_cap_w=60.0))
    times(TableCosts((table(*EVERYTHING),)), Workload(1, 1, 2), replace(DEVICE, power_cap_w=100.0))


def test_a_model_of_the_same_shape_is_the_same_model() -> None:
    """A table that states its shape holds for any name; bf16 and fp16 are alike, another width is not."""
    shape = model_shape(toy_model())
    costs = TableCosts((table(*EVERYTHING, model="bench model", shape=replace(shape, dtype="fp16")),))
    times(costs, Workload(1, 1, 2))
    with pytest.raises(InputError, match="was measured on bench model"):
        times(
            TableCosts((table(*EVERYTHING, model="bench model", shape=replace(shape, hidden_size=5)),)),
            Workload(1, 1, 2),
        )


def test_no_tables_and_no_fallback_is_refused() -> None:
    """There must be something to read."""
    with pytest.raises(UsageError, match="expected at least one cost table"):
        TableCosts(())


def test_equal_devices_get_equal_times() -> None:
    """The name of a device decides nothing."""
    costs = TableCosts((table(*EVERYTHING),))
    first, second = (times(costs, Workload(2, 3, 8), replace(DEVICE, name=name)) for name in ("h/gpu0", "h/gpu9"))
    assert np.array_equal(first.prefill_s, second.prefill_s)


def test_what_a_plan_embeds_is_what_was_used() -> None:
    """Two devices of a kind share one class; its terms hold the entries around the point and nothing else."""
    costs = TableCosts((table(*EVERYTHING),))
    devices = (DEVICE, replace(DEVICE, name="h/gpu1", index=1))
    inputs = costs.to_inputs(toy_model(), devices, Workload(2, 3, 8))
    assert inputs["source"] == "measured"
    assert inputs["devices"] == {"h/gpu0": "toy", "h/gpu1": "toy"}
    sets = inputs["classes"]["toy"]["layers"]
    prefill = next(terms["prefill"] for terms in sets.values() if len(terms["prefill"]) == 2)
    assert prefill[0] == {
        "covers": ["qkv_proj"], "origin": "interpolated", "count": 1, "axes": ["tokens"], "at": [6.0],
        "entries": [[1.0, 1.0], [11.0, 2.0]],
    }  # fmt: skip
    assert prefill[1]["count"] == 2
    assert "roofline" not in inputs["classes"]["toy"]
