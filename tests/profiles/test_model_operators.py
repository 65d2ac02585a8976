"""Operators as the roofline sees them, derived by hand."""

from __future__ import annotations

from gpuplan.profiles import ModelProfile, Operator, load_model


def _operators(model: ModelProfile, layer: int) -> dict[str, Operator]:
    return {operator.name: operator for operator in model.layers[layer].operators}


def test_llama_8b_layer() -> None:
    """Llama-3.1-8B: hidden 4096, 32 heads of 128, 8 KV heads, feed-forward 14336, bf16."""
    operators = _operators(load_model("llama-3.1-8b"), 1)
    assert list(operators) == ["norms", "qkv_proj", "attention", "o_proj", "gate_up_proj", "activation", "down_proj"]
    qkv = operators["qkv_proj"]
    assert qkv.flops_per_token == 2 * 4096 * (4096 + 2 * 1024)
    assert qkv.weight_bytes == 2 * 4096 * 6144
    assert qkv.bytes_per_token == 2 * (4096 + 6144)
    attention = operators["attention"]
    assert attention.flops_per_pair == 4 * 32 * 128
    assert attention.bytes_per_position == 2 * 8 * 128 * 2
    assert attention.weight_bytes == 0
    assert operators["norms"].weight_bytes == 2 * 2 * 4096
    assert not operators["norms"].sharded
    assert operators["activation"].bytes_per_token == 3 * 14336 * 2


def test_operators_stream_every_weight_of_a_decoder_layer_once() -> None:
    """Σ operator weight bytes is the layer's weight, for decoder layers and the head."""
    for name in ("llama-3.1-8b", "opt-6.7b", "qwen2.5-7b", "qwen3-30b-a3b", "chatglm2-6b", "deepseek-v3"):
        for layer in load_model(name).layers[1:]:
            assert sum(operator.weight_bytes for operator in layer.operators) == layer.weight_bytes


def test_flops_per_token_are_twice_the_active_linear_weights() -> None:
    """Mixtral 8x7B: 2 of 8 experts and everything else; a token costs 2 FLOPs an active weight."""
    model = load_model("mixtral-8x7b")
    layer = model.layers[1]
    expert = 3 * 4096 * 14336
    active = layer.parameters - 2 * 4096 - 6 * expert
    assert sum(operator.flops_per_token for operator in layer.operators) == 2 * active
    experts = _operators(model, 1)["experts"]
    assert (experts.experts, experts.experts_per_token) == (8, 2)
    assert experts.weight_bytes == 2 * 8 * expert


def test_embedding_reads_rows_and_the_head_works_on_last_tokens() -> None:
    """A lookup streams no table; the LM head does, once for the last tokens."""
    model = load_model("llama-3.1-8b")
    (lookup,) = model.layers[0].operators
    assert (lookup.flops_per_token, lookup.weight_bytes, lookup.bytes_per_token) == (0, 0, 2 * 2 * 4096)
    head = _operators(model, -1)["lm_head"]
    assert head.tokens == "last"
    assert head.flops_per_token == 2 * 4096 * 128256
    assert head.weight_bytes == 2 * 4096 * 128256
    assert model.layers[-1].boundary_bytes_per_token == 0


def test_mla_reads_the_latent_once_per_position() -> None:
    """DeepSeek-V3: 576 latent elements a position; 128 heads of 192-wide keys and 128-wide values a pair."""
    operators = _operators(load_model("deepseek-v3", kv_dtype="bf16"), 10)
    attention = operators["attention"]
    assert attention.bytes_per_position == 576 * 2
    assert attention.flops_per_pair == 2 * 128 * (192 + 128)
    assert attention.decode_flops_per_pair == 2 * 128 * (576 + 512)  # scores and values in the latent
    assert attention.dtype == "bf16"
    assert operators["q_kv_down_proj"].dtype == "fp8"
    assert not operators["q_kv_down_proj"].sharded
    assert operators["router"].dtype == "bf16"
    assert operators["shared_experts"].experts == 0


def test_kv_dtype_scales_attention_traffic() -> None:
    """fp8 KV halves the bytes read per position."""
    wide = _operators(load_model("llama-3.1-8b"), 1)["attention"]
    narrow = _operators(load_model("llama-3.1-8b", kv_dtype="fp8"), 1)["attention"]
    assert narrow.bytes_per_position == wide.bytes_per_position / 2
    assert narrow.flops_per_pair == wide.flops_per_pair


def test_equal_layers_share_their_operators() -> None:
    """80 equal layers hold one tuple of operators."""
    model = load_model("llama-3.1-70b")
    assert len({id(layer.operators) for layer in model.layers}) == 3
