"""Which bytes a dtype, a KV dtype and a config's quantisation change, and which they leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles import ModelProfile, load_model, model_from_config

# Attention 192 and feed-forward 480 linear weights, 16 norm weights a layer; embedding 400, head 408.
_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 20,
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_LINEAR = 672


def _model(dtype: str | None = None, kv_dtype: str | None = None, **changes: Any) -> ModelProfile:
    return model_from_config({**_CONFIG, **changes}, name="tiny", dtype=dtype, kv_dtype=kv_dtype)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("fp32", 4), ("bf16", 2), ("fp16", 2), ("fp8", 1), ("int8", 1), ("int4", 0.5), ("mxfp4", 0.53125)],
)
def test_dtype_changes_linear_weights_only(dtype: str, size: float) -> None:
    """Embedding, head, norms, KV and boundaries stay in the config's dtype."""
    plain, model = _model(), _model(dtype)
    assert model.dtype == dtype
    assert model.activation_dtype == model.kv_dtype == "bf16"
    assert model.layers[1].weight_bytes == _LINEAR * size + 32
    assert model.layers[0] == plain.layers[0]
    assert model.layers[-1] == plain.layers[-1]
    assert model.parameters == plain.parameters
    assert model.layers[1].kv == plain.layers[1].kv
    assert model.layers[1].boundary_bytes_per_token == plain.layers[1].boundary_bytes_per_token


def test_kv_dtype_changes_kv_only() -> None:
    """fp8 KV halves the cache and touches no weight."""
    plain, model = _model(), _model(kv_dtype="fp8")
    assert model.kv_bytes_per_token == plain.kv_bytes_per_token / 2
    assert model.weight_bytes == plain.weight_bytes
    assert model.activation_dtype == "bf16"


def test_routers_stay_in_the_activation_dtype() -> None:
    """A Mixtral layer in fp8: 192 + 4·480 linear bytes, a router of 32 and norms of 16 weights in bf16."""
    model = _model("fp8", model_type="mixtral", num_local_experts=4, num_experts_per_tok=2)
    assert model.layers[1].weight_bytes == 192 + 4 * 480 + 2 * (32 + 16)


def test_biases_stay_in_the_activation_dtype() -> None:
    """Qwen2 in int4: half a byte a linear weight, the 16 bias numbers and 16 norm weights in bf16."""
    assert _model("int4", model_type="qwen2").layers[1].weight_bytes == _LINEAR / 2 + 2 * (16 + 16)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"torch_dtype": "float16"}, "fp16"),
        ({"torch_dtype": "torch.float32"}, "fp32"),
        ({"dtype": "bfloat16"}, "bf16"),
        ({"torch_dtype": None}, "bf16"),
        ({}, "bf16"),
    ],
)
def test_config_dtype_is_that_of_everything_by_default(written: dict[str, Any], expected: str) -> None:
    """Both spellings of the field are read; bf16 where there is none."""
    model = model_from_config({**_CONFIG, **written}, name="tiny")
    assert (model.dtype, model.activation_dtype, model.kv_dtype) == (expected,) * 3


def test_fp8_weights_compute_at_the_fp8_peak_and_others_at_the_activations() -> None:
    """Linear operators of fp8 weights are marked fp8; attention and the head never are."""
    for dtype, peak in (("fp8", "fp8"), ("int8", "bf16"), ("int4", "bf16"), ("fp32", "bf16")):
        model = _model(dtype)
        operators = {operator.name: operator.dtype for operator in model.layers[1].operators}
        assert operators["qkv_proj"] == operators["down_proj"] == peak
        assert operators["attention"] == operators["norms"] == "bf16"
        assert {operator.dtype for operator in model.layers[-1].operators} == {"bf16"}


@pytest.mark.parametrize("option", ["dtype", "kv_dtype"])
def test_unknown_dtype_is_a_usage_error(option: str) -> None:
    """The message lists the dtypes there are."""
    with pytest.raises(UsageError, match=f"expected {option} to be one of fp32, bf16"):
        _model(**{option: "fp7"})


# Scales of one layer with blocks of 4×4: q, o 8×8 → 4 blocks each; k, v 4×8 → 2 each; gate, up 20×8 → 10 each;
# down 8×20 → 10: 42 blocks. Groups of 4 inputs: q, o 8·2; k, v 4·2; gate, up 20·2; down 8·5: 168 groups.
@pytest.mark.parametrize(
    ("quantization", "dtype", "size"),
    [
        ({"quant_method": "fp8", "weight_block_size": [4, 4]}, "fp8", _LINEAR + 42 * 4),
        ({"quant_method": "fp8"}, "fp8", _LINEAR),
        ({"quant_method": "fbgemm_fp8"}, "fp8", _LINEAR),
        ({"quant_method": "gptq", "bits": 4, "group_size": 4}, "int4", _LINEAR / 2 + 168 * 2.5),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 4}, "int4", _LINEAR / 2 + 168 * 2.5),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", _LINEAR + 72 * 3),  # 72 rows in all
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", _LINEAR + 72 * 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": False}, "bf16", _LINEAR * 2),
        ({"quant_method": "mxfp4"}, "mxfp4", _LINEAR * 4.25 / 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}},
            },
            "fp8",
            _LINEAR,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 4}}},
            },
            "int4",
            _LINEAR / 2 + 168 * 2,
        ),
    ],
)
def test_config_quantisation_sets_the_weight_dtype(quantization: dict[str, Any], dtype: str, size: float) -> None:
    """The section decides dtype and scales; norms stay in bf16."""
    model = _model(quantization_config=quantization)
    assert model.dtype == dtype
    assert model.layers[1].weight_bytes == size + 32
    assert model.layers[0].weight_bytes == 800


def test_another_dtype_than_the_config_drops_its_scales() -> None:
    """The same dtype keeps the scales, any other describes other weights."""
    section = {"quant_method": "fp8", "weight_block_size": [4, 4]}
    assert _model("fp8", quantization_config=section).layers[1].weight_bytes == _LINEAR + 42 * 4 + 32
    assert _model("bf16", quantization_config=section).layers[1].weight_bytes == _LINEAR * 2 + 32


@pytest.mark.parametrize(
    "pattern", ["self_attn", "model.layers.0.self_attn", "model.layers.*.self_attn", "re:.*self_attn.*"]
)
def test_modules_left_out_of_the_quantisation(pattern: str) -> None:
    """Attention (192 weights) stays in bf16 where the config says so: by part, name, glob or regular expression."""
    model = _model(quantization_config={"quant_method": "fp8", "modules_to_not_convert": [pattern, "lm_head"]})
    assert model.layers[1].weight_bytes == 480 + 2 * 192 + 32
    assert {o.name: o.dtype for o in model.layers[1].operators}["qkv_proj"] == "bf16"


def test_left_out_names_match_whole_parts_only() -> None:
    """`gate` (a router) is not `gate_proj`."""
    model = _model(quantization_config={"quant_method": "fp8", "modules_to_not_convert": ["gate"]})
    assert model.layers[1].weight_bytes == _LINEAR + 32


def test_unknown_quantisation_asks_for_a_dtype() -> None:
    """An unknown method is refused with its path, and accepted once the user says the dtype."""
    section = {"quant_method": "quip"}
    with pytest.raises(InputError, match=r'\$\.quantization_config\.quant_method: .*got "quip".*--dtype'):
        _model(quantization_config=section)
    assert _model("int4", quantization_config=section).dtype == "int4"


def test_unsupported_bits_are_refused() -> None:
    """GPTQ with 3 bits has no dtype here."""
    with pytest.raises(InputError, match=r"\$\.quantization_config\.bits: expected 4 or 8 bits, got 3"):
        _model(quantization_config={"quant_method": "gptq", "bits": 3, "group_size": 128})


def test_deepseek_v3_is_fp8_with_block_scales() -> None:
    """671e9 weights: 1 byte for linear ones and 4 per 128×128 block, the rest bf16."""
    model = load_model("deepseek-v3")
    assert (model.dtype, model.activation_dtype) == ("fp8", "bf16")
    kept = 2 * 129280 * 7168 + 7168 + 61 * (2 * 7168 + 1536 + 512) + 58 * (256 * 7168 + 256)
    linear = model.parameters - kept
    # Every matrix but kv down (576 rows: 4.5 blocks, rounded up to 5) is made of whole blocks.
    blocks = linear / 128**2 + 61 * 0.5 * 56
    assert model.weight_bytes == linear + 4 * blocks + 2 * kept
