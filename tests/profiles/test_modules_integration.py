"""Module names and counts against the runtime's own classes, built on the meta device (no weights)."""

from __future__ import annotations

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

_SHIPPED = Path(profiles.__file__).parent / "data" / "models"
_DEEPSEEK_V2_LITE = {
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
_OTHERS: dict[str, dict[str, Any]] = {
    "deepseek-v2-lite": _DEEPSEEK_V2_LITE,
    "glm": {**_SMALL, "model_type": "glm", "attention_bias": True},
    "glm4": {**_SMALL, "model_type": "glm4", "attention_bias": False},
    "llama-with-biases": {**_SMALL, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {**_SMALL, "model_type": "llama", "tie_word_embeddings": True},
    "qwen2-moe": {
        **_SMALL,
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "decoder_sparse_step": 2,
    },
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
}
#: ChatGLM's classes are remote code, which no library holds.
_NAMES = sorted(path.stem for path in _SHIPPED.glob("*.json") if path.stem != "chatglm2-6b") + sorted(_OTHERS)


def _config(name: str) -> dict[str, Any]:
    if name in _OTHERS:
        return _OTHERS[name]
    config: dict[str, Any] = json.loads((_SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    return config


def _runtime_model(config: dict[str, Any]) -> Any:
    """Build the runtime's model of a config on the meta device."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    plain = {key: value for key, value in config.items() if key not in ("source", "quantization_config")}
    settings = transformers.AutoConfig.for_model(**plain)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(settings)


def _device_map(model: ModelProfile) -> dict[str, int]:
    """Put every layer on a device of its own."""
    return {module: index for index, layer in enumerate(model.layers) for module in layer.modules}


@pytest.mark.parametrize("name", _NAMES)
def test_modules_cover_the_model_once(name: str) -> None:
    """Accelerate accepts the map; every name exists, every parameter and buffer is under exactly one of them."""
    utilities = pytest.importorskip("accelerate.utils")
    config = _config(name)
    profile, runtime = model_from_config(config, name=name), _runtime_model(config)
    device_map = _device_map(profile)
    utilities.check_device_map(runtime, device_map)
    names = dict(runtime.named_modules())
    assert set(device_map) <= set(names)
    tensors = [key for key, _ in (*runtime.named_parameters(), *runtime.named_buffers())]
    assert all(sum(key.startswith(f"{module}.") for module in device_map) == 1 for key in tensors)
    assert type(runtime).__name__ == profile.architecture


@pytest.mark.parametrize("name", _NAMES)
def test_counts_equal_the_runtime_model(name: str) -> None:
    """Every layer counts what its modules hold; buffers that checkpoints store (router corrections) included."""
    config = _config(name)
    profile, runtime = model_from_config(config, name=name), _runtime_model(config)
    names = dict(runtime.named_modules())
    for layer in profile.layers:
        held = sum(value.numel() for module in layer.modules for value in names[module].state_dict().values())
        assert layer.parameters == held, layer.name
