"""Module names as each runtime class has them (checked against the classes themselves in the integration tests)."""

from __future__ import annotations

import pytest

from gpuplan.profiles import load_model, model_from_config

_LLAMA = (("model.embed_tokens", "model.rotary_emb"), "model.layers.{}", ("model.norm", "lm_head"))
_OPT = (
    ("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    "model.decoder.layers.{}",
    ("model.decoder.final_layer_norm", "lm_head"),
)
_CHATGLM = (
    ("transformer.embedding", "transformer.rotary_pos_emb"),
    "transformer.encoder.layers.{}",
    ("transformer.encoder.final_layernorm", "transformer.output_layer"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b", _LLAMA),
        ("mistral-7b", _LLAMA),
        ("mixtral-8x7b", _LLAMA),
        ("qwen2.5-7b", _LLAMA),
        ("qwen3-30b-a3b", _LLAMA),
        ("deepseek-v3", _LLAMA),
        ("opt-6.7b", _OPT),
        ("chatglm2-6b", _CHATGLM),
    ],
)
def test_modules(name: str, expected: tuple[tuple[str, ...], str, tuple[str, ...]]) -> None:
    """Embedding, every decoder layer and the head carry the runtime's names."""
    first, each, last = expected
    model = load_model(name)
    assert model.layers[0].modules == first
    assert [layer.modules for layer in model.layers[1:-1]] == [
        (each.format(index),) for index in range(model.num_layers - 2)
    ]
    assert model.layers[-1].modules == last


def test_opt_350m_modules() -> None:
    """The projections belong to the ends; there is no final norm."""
    model = model_from_config(
        {
            "architectures": ["OPTForCausalLM"],
            "hidden_size": 1024,
            "ffn_dim": 4096,
            "vocab_size": 50272,
            "num_hidden_layers": 1,
            "num_attention_heads": 16,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
        },
        name="opt",
    )
    assert model.layers[0].modules[-1] == "model.decoder.project_in"
    assert model.layers[-1].modules == ("model.decoder.project_out", "lm_head")


def test_text_part_of_a_multimodal_config() -> None:
    """The language model below ``text_config`` is read, with the prefix and the outer dtype it has there."""
    text = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 20,
        "vocab_size": 50,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    model = model_from_config(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "torch_dtype": "float16",
            "text_config": text,
            "vision_config": {"hidden_size": 4},
        },
        name="llava",
    )
    assert model.architecture == "LlavaForConditionalGeneration"
    assert model.family == "llama"
    assert model.activation_dtype == "fp16"
    assert model.layers[1].modules == ("model.language_model.layers.0",)
    assert model.layers[-1].modules == ("model.language_model.norm", "lm_head")
