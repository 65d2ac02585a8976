"""Module names and counts against the runtime's own classes, built on the meta device (no weights)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from gpuplan import profiles
from gpuplan.profiles import ModelProfile, model_from_config

pytestmark = [
    pytest.mark.integration,
    # The libraries' own notices about themselves are no concern of ours.
    pytest.mark.filterwarnings("default"),
]

_TOWERS = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "embed_vision")
_SHIPPED = Path(profiles.__file__).parent / "data" / "models"
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 16, "v_head_dim": 12}
_INDEXER = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 32}
_LINEAR = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "shared_expert_intermediate_size": 20,
}
_MAMBA = {"mamba_num_heads": 8, "mamba_head_dim": 12, "n_groups": 2, "ssm_state_size": 16, "conv_kernel": 4}
#: Tables that transformers' MiniMax derives from the head's number and keeps as buffers; published files lack them.
_DERIVED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
_FALCON = {
    "model_type": "falcon",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 99,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "glm": {**_SMALL, "model_type": "glm", "attention_bias": True},
    "glm4": {**_SMALL, "model_type": "glm4", "attention_bias": False},
    "glm4-moe": {**_SMALL, **_ROUTED, "model_type": "glm4_moe", "first_k_dense_replace": 1, "n_shared_experts": 2},
    "glm4-moe-lite": {**_SMALL, **_ROUTED, **_LATENT, "model_type": "glm4_moe_lite", "num_key_value_heads": 4}
    | {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    "glm-moe-dsa-shared-indexers": {**_SMALL, **_ROUTED, **_LATENT, **_INDEXER, "model_type": "glm_moe_dsa"}
    | {"num_hidden_layers": 6, "num_key_value_heads": 4, "index_topk_freq": 2, "first_k_dense_replace": 1},
    "llama-with-biases": {**_SMALL, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {**_SMALL, "model_type": "llama", "tie_word_embeddings": True},
    "llama4-all-dense": {**_SMALL, "model_type": "llama4_text", "moe_layers": [], "intermediate_size_mlp": 80},
    "gemma": {**_SMALL, "model_type": "gemma", "tie_word_embeddings": True},
    "gemma4-dense": {**_SMALL, "model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "global_head_dim": 32}
    | {"tie_word_embeddings": True, "num_hidden_layers": 7},
    "phi-with-norms": {**_SMALL, "model_type": "phi", "qk_layernorm": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": 100},
    "gpt-neox-plain": {**_SMALL, "model_type": "gpt_neox", "attention_bias": False},
    "falcon-rw": {**_FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "falcon2": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "minimax": {**_SMALL, "model_type": "minimax", "num_local_experts": 4, "num_experts_per_tok": 2}
    | {"layer_types": ["linear_attention", "linear_attention", "full_attention"]},
    "phimoe": {**_SMALL, "model_type": "phimoe", "num_local_experts": 4, "num_experts_per_tok": 2}
    | {"attention_bias": True, "lm_head_bias": True},
    "minimax-m2": {**_SMALL, "model_type": "minimax_m2", "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt-oss": {**_SMALL, "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2-moe": {
        **_SMALL,
        **_EXPERTS,
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": 40,
        "decoder_sparse_step": 2,
    },
    "qwen3-next": {**_SMALL, **_EXPERTS, **_LINEAR, "model_type": "qwen3_next", "mlp_only_layers": [1]},
    "qwen3.5": {**_SMALL, **_LINEAR, "model_type": "qwen3_5_text", "num_hidden_layers": 5},
    "qwen3.5-moe": {**_SMALL, **_EXPERTS, **_LINEAR, "model_type": "qwen3_5_moe_text", "num_hidden_layers": 4},
    "nemotron-h": {**_SMALL, **_MAMBA, "model_type": "nemotron_h", "hybrid_override_pattern": "M-*"},
    "nemotron-3": {**_SMALL, **_MAMBA, **_ROUTED, "model_type": "nemotron_h", "use_conv_bias": False}
    | {"layers_block_type": ["mamba", "moe", "attention"], "moe_shared_expert_intermediate_size": 40}
    | {"moe_latent_size": 16, "mlp_bias": False},
    "opt-350m": {
        "model_type": "opt",
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
        "tie_word_embeddings": True,
    },
    "qwen2.5-vl": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "text_config": {**_SMALL, "model_type": "qwen2_5_vl_text", "tie_word_embeddings": True},
        "tie_word_embeddings": False,  # the inner one counts too
    },
    "qwen3-vl": {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": {**_SMALL, "model_type": "qwen3_vl_text"},
        "tie_word_embeddings": True,
    },
    "mistral3": {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": {**_SMALL, "model_type": "mistral"},
        "tie_word_embeddings": False,
    },
    "llava": {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {**_SMALL, "model_type": "llama"},
        "tie_word_embeddings": False,
    },
}
#: Classes that are remote code, which no library holds.
_REMOTE = ("chatglm2-6b", "internlm-7b", "internlm-20b", "internlm2-7b", "internlm2-20b")
_NAMES = sorted(path.stem for path in _SHIPPED.glob("*.json") if path.stem not in _REMOTE) + sorted(_OTHERS)


def _config(name: str) -> dict[str, Any]:
    if name in _OTHERS:
        return _OTHERS[name]
    config: dict[str, Any] = json.loads((_SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    return config


@functools.cache
def _runtime_model(name: str) -> Any:
    """Build the runtime's model of a config on the meta device: the class the config names, else the one for text."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = _config(name)
    plain = {key: value for key, value in config.items() if key not in ("source", "quantization_config")}
    classes = config.get("architectures", [])
    with torch.device("meta"):
        if classes and hasattr(transformers, classes[0]):
            found = getattr(transformers, classes[0])
            return found(found.config_class(**{key: value for key, value in plain.items() if key != "model_type"}))
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**plain))


def _device_map(model: ModelProfile) -> dict[str, int]:
    """Put every layer on a device of its own."""
    return {module: index for index, layer in enumerate(model.layers) for module in layer.modules}


@pytest.mark.parametrize("name", _NAMES)
def test_modules_cover_the_model_once(name: str) -> None:
    """Accelerate accepts the map; every name exists, every parameter and buffer is under exactly one of them.

    Towers of multimodal models stand on a device of their own: no layer may name anything in them.
    """
    utilities = pytest.importorskip("accelerate.utils")
    profile, runtime = model_from_config(_config(name), name=name), _runtime_model(name)
    names = dict(runtime.named_modules())
    device_map = _device_map(profile)
    assert set(device_map) <= set(names)
    towers = [key for key in names if key.rpartition(".")[2] in _TOWERS and key.count(".") < 2]
    utilities.check_device_map(runtime, {**device_map, **dict.fromkeys(towers, len(profile.layers))})
    tensors = [key for key, _ in (*runtime.named_parameters(), *runtime.named_buffers())]
    assert all(sum(key.startswith(f"{module}.") for module in (*device_map, *towers)) == 1 for key in tensors)
    assert type(runtime).__name__ == profile.architecture


@pytest.mark.parametrize("name", _NAMES)
def test_counts_equal_the_runtime_model(name: str) -> None:
    """Every layer counts what its modules hold; buffers that checkpoints store (router corrections) included."""
    profile, runtime = model_from_config(_config(name), name=name), _runtime_model(name)
    names = dict(runtime.named_modules())
    for layer in profile.layers:
        tensors = [item for module in layer.modules for item in names[module].state_dict().items()]
        held = sum(value.numel() for key, value in tensors if not key.endswith(_DERIVED))
        assert layer.parameters == held, layer.name


@pytest.mark.parametrize("name", _NAMES)
def test_tied_heads_are_those_of_the_runtime_model(name: str) -> None:
    """A head is tied exactly where the runtime's head and embedding are one table."""
    profile, runtime = model_from_config(_config(name), name=name), _runtime_model(name)
    assert (profile.tied_parameters > 0) == (
        runtime.get_output_embeddings().weight is runtime.get_input_embeddings().weight
    )
