"""Hand-derived counts of one layer of each family."""

from __future__ import annotations

from typing import Any

import pytest

from gpuplan.profiles import ModelProfile, load_model, model_from_config

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 20,
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
}
# One tiny Llama layer: q and o 8·8 each, k and v 8·4 each = 192; gate, up, down 3·8·20 = 480; two norms 16: 688.
TINY_LAYER = 688


def tiny(**changes: Any) -> ModelProfile:
    """Return the tiny model with fields changed."""
    return model_from_config({**TINY, **changes}, name="tiny")


def decoder_parameters(model: ModelProfile) -> list[int]:
    """Return the parameter counts of the decoder layers."""
    return [layer.parameters for layer in model.layers if layer.kind == "decoder"]


def test_tiny_llama() -> None:
    """Every number of a tiny Llama, derived by hand."""
    model = tiny()
    assert decoder_parameters(model) == [TINY_LAYER, TINY_LAYER]
    assert model.layers[0].parameters == 400  # 50 · 8
    assert model.layers[-1].parameters == 408  # 50 · 8 and a norm of 8
    assert model.parameters == 400 + 2 * TINY_LAYER + 408
    assert model.weight_bytes == 2 * model.parameters
    layer = model.layers[1]
    assert layer.replicated_weight_bytes == 32  # two norms of 8 in bf16
    assert layer.kv.bytes_per_token == 16  # 2 · 2 heads · 2 wide · 2 bytes
    assert layer.kv.heads == 2
    assert layer.boundary_bytes_per_token == 16
    assert layer.ffn_active == 20


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"attention_bias": True}, 8 + 4 + 4 + 8),
        ({"mlp_bias": True}, 20 + 20 + 8),
        ({"head_dim": 4}, 192),  # projections twice as wide
        ({"num_key_value_heads": None}, 64),  # null: as many as heads; k and v grow from 4 to 8 columns
        ({"model_type": "mistral"}, 0),
        ({"model_type": "qwen2"}, 8 + 4 + 4),
        ({"model_type": "qwen3"}, 2 + 2),  # norms of head width on queries and keys
        ({"model_type": "qwen3", "attention_bias": True}, 4 + 24),
        ({"model_type": "glm", "attention_bias": True}, 16),  # no bias on the output
        ({"model_type": "glm4"}, 16),  # two more norms
    ],
)
def test_relatives_of_llama_differ_in_biases_and_norms(changes: dict[str, Any], more: int) -> None:
    """Each relative adds what its architecture says to a Llama layer."""
    assert decoder_parameters(tiny(**changes)) == [TINY_LAYER + more] * 2


def test_tied_embeddings_are_counted_once_but_held_by_both_ends() -> None:
    """Embedding and head each hold the 50×8 table; the model counts it once."""
    model = tiny(tie_word_embeddings=True)
    assert model.layers[0].parameters == 400
    assert model.layers[-1].parameters == 408
    assert model.tied_parameters == 400
    assert model.tied_bytes == 800
    assert model.parameters == 400 + 2 * TINY_LAYER + 8
    assert model.weight_bytes == 2 * model.parameters


def test_mixtral_layer() -> None:
    """Attention and norms of Llama, a router of 8·4, four experts of 480."""
    model = tiny(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2)
    assert decoder_parameters(model) == [192 + 16 + 32 + 4 * 480] * 2
    assert model.layers[1].replicated_weight_bytes == 2 * (16 + 32)
    assert model.layers[1].ffn_active == 40


def test_qwen_moe_layers() -> None:
    """Qwen3-MoE: head norms, experts of width 6; every second layer and listed ones are dense."""
    fields = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
    expert_layer = 192 + 16 + 4 + 32 + 4 * 3 * 8 * 6
    dense_layer = 192 + 16 + 4 + 480
    assert decoder_parameters(tiny(**fields)) == [expert_layer] * 2
    assert decoder_parameters(tiny(**fields, decoder_sparse_step=2)) == [dense_layer, expert_layer]
    assert decoder_parameters(tiny(**fields, mlp_only_layers=[1])) == [expert_layer, dense_layer]


def test_qwen2_moe_has_a_gated_shared_expert() -> None:
    """Biases on q, k, v (16), a shared expert of width 10 and its gate of 8."""
    model = tiny(
        model_type="qwen2_moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=6,
        shared_expert_intermediate_size=10,
    )
    assert decoder_parameters(model) == [192 + 16 + 16 + 32 + 8 + 4 * 144 + 240] * 2
    assert model.layers[1].ffn_active == 2 * 6 + 10


def test_opt_layer_and_positions() -> None:
    """OPT-125M: biases everywhere, LayerNorms with weight and bias, 2 rows before the first position."""
    model = model_from_config(
        {
            "model_type": "opt",
            "hidden_size": 768,
            "ffn_dim": 3072,
            "vocab_size": 50272,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 2048,
        },
        name="opt-125m",
    )
    # 4·(768² + 768) + 2·768·3072 + 3072 + 768 + 2·2·768 = 7,087,872
    assert decoder_parameters(model) == [7_087_872] * 12
    assert model.layers[0].parameters == (50_272 + 2_050) * 768
    assert model.layers[-1].parameters == 50_272 * 768 + 2 * 768
    assert model.parameters == 125_239_296  # the count of transformers' OPTForCausalLM


def test_opt_350m_projects_its_narrow_embedding() -> None:
    """Rows of 512, two projections 512×1024, norms behind the blocks and none at the end."""
    model = model_from_config(
        {
            "model_type": "opt",
            "hidden_size": 1024,
            "ffn_dim": 4096,
            "vocab_size": 50272,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
        },
        name="opt-350m",
    )
    assert model.layers[0].parameters == 50_272 * 512 + 2_050 * 1024 + 512 * 1024
    assert model.layers[-1].parameters == 50_272 * 512 + 512 * 1024
    assert model.tied_bytes == 50_272 * 512 * 2
    assert model.parameters == 331_196_416  # the count of transformers' OPTForCausalLM


def test_chatglm2_layer() -> None:
    """ChatGLM2-6B, one layer.

    qkv 4096·(4096 + 2·2·128) + 4608, dense 4096², h→4h 4096·2·13696, 4h→h 13696·4096, two norms of 4096.
    """
    model = load_model("chatglm2-6b")
    expected = 4096 * 4608 + 4608 + 4096**2 + 4096 * 27392 + 13696 * 4096 + 8192
    assert decoder_parameters(model) == [expected] * 28
    assert model.num_kv_heads == 2


def test_deepseek_v3_layers() -> None:
    """DeepSeek-V3: three dense layers, then mixtures of 256 routed experts and a shared one."""
    model = load_model("deepseek-v3")
    attention = (
        7168 * 1536  # q down
        + 1536  # its norm
        + 1536 * 128 * (128 + 64)  # q up
        + 7168 * (512 + 64)  # kv down with the rotary key
        + 512  # its norm
        + 512 * 128 * (128 + 128)  # kv up
        + 128 * 128 * 7168  # o
        + 2 * 7168  # layer norms
    )
    dense = attention + 3 * 7168 * 18432
    mixture = attention + 257 * 3 * 7168 * 2048 + 256 * 7168 + 256
    assert decoder_parameters(model) == [dense] * 3 + [mixture] * 58
    assert model.layers[1].kv.heads == 1
    assert model.layers[4].ffn_active == 9 * 2048


def test_deepseek_v2_lite_projects_queries_in_one_step() -> None:
    """V2-Lite has no query latent; the total is that of transformers' DeepseekV2ForCausalLM."""
    config = {
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "vocab_size": 102400,
    }
    model = model_from_config(config, name="v2-lite")
    assert model.parameters == 15_706_484_224
    assert model.layers[2].ffn_active == 6 * 1408 + 2 * 1408


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"model_type": "llama"}, [None, None]),
        ({"model_type": "mistral", "sliding_window": 16}, [16, 16]),
        ({"model_type": "mistral", "sliding_window": None}, [None, None]),
        ({"model_type": "mistral"}, [4096, 4096]),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False}, [None, None]),
        (
            {"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1},
            [None, 16],
        ),
        (
            {"model_type": "mistral", "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
            [16, None],
        ),
    ],
)
def test_sliding_windows(fields: dict[str, Any], windows: list[int | None]) -> None:
    """A window bounds a layer's cache and its attention operator alike."""
    layers = tiny(**fields).layers[1:-1]
    assert [layer.kv.window_tokens for layer in layers] == windows
    assert [next(o.window for o in layer.operators if o.name == "attention") for layer in layers] == windows
