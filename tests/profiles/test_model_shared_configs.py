"""Real configs of the supported families: what each one says about size and KV cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuplan.errors import InputError
from gpuplan.profiles import load_model

pytestmark = pytest.mark.shared_data

#: file → architecture, parameters (transformers' class on the meta device; DeepSeek with its router corrections),
#: KV bytes per token over all layers
_CONFIGS = {
    "aic-meta-llama--Meta-Llama-3.1-8B": ("LlamaForCausalLM", 8_030_261_248, 131_072),
    "aic-meta-llama--Meta-Llama-3.1-70B": ("LlamaForCausalLM", 70_553_706_496, 327_680),
    "aic-meta-llama--Meta-Llama-3.1-405B": ("LlamaForCausalLM", 405_853_388_800, 516_096),
    "aic-mistralai--Mixtral-8x7B-v0.1": ("MixtralForCausalLM", 46_702_792_704, 131_072),
    "aic-mistralai--Mixtral-8x22B-v0.1": ("MixtralForCausalLM", 140_620_634_112, 229_376),
    "aic-Qwen--Qwen3-0.6B": ("Qwen3ForCausalLM", 596_049_920, 114_688),
    "aic-Qwen--Qwen3-1.7B": ("Qwen3ForCausalLM", 1_720_574_976, 114_688),
    "aic-Qwen--Qwen3-8B": ("Qwen3ForCausalLM", 8_190_735_360, 147_456),
    "aic-Qwen--Qwen3-32B": ("Qwen3ForCausalLM", 32_762_123_264, 262_144),
    "aic-Qwen--Qwen3-30B-A3B": ("Qwen3MoeForCausalLM", 30_532_122_624, 98_304),
    "aic-Qwen--Qwen3-235B-A22B": ("Qwen3MoeForCausalLM", 235_093_634_560, 192_512),
    "aic-Qwen--Qwen3-Coder-480B-A35B-Instruct": ("Qwen3MoeForCausalLM", 480_154_875_392, 253_952),
    "aic-deepseek-ai--DeepSeek-V3": ("DeepseekV3ForCausalLM", 671_026_419_200, 70_272),
    "aic-deepseek-ai--DeepSeek-R1": ("DeepseekV3ForCausalLM", 671_026_419_200, 70_272),
    # V3 and, in each of 61 layers, an indexer of 1536·8192 + 7168·128 + 7168·64 + 2·128; its key of 128 is cached.
    "aic-deepseek-ai--DeepSeek-V3.2": ("DeepseekV32ForCausalLM", 671_877_944_064, 85_888),
    "aic-moonshotai--Kimi-K2-Instruct": ("DeepseekV3ForCausalLM", 1_026_408_232_448, 70_272),
}

#: file → parameters: 12·hidden² + 13·hidden a layer, (50272 + 2050)·hidden, final norm 2·hidden
_OPT = {
    "llm-analysis-facebook_opt-125m": 125_239_296,
    "llm-analysis-facebook_opt-1.3b": 1_315_758_080,
    "llm-analysis-facebook_opt-6.7b": 6_658_473_984,
    "llm-analysis-facebook_opt-13b": 12_853_473_280,
    "llm-analysis-facebook_opt-66b": 65_719_701_504,
}


@pytest.mark.parametrize("name", sorted(_CONFIGS))
def test_config(shared_data: Path, name: str) -> None:
    """Architecture, exact parameters, exact KV bytes per token."""
    architecture, parameters, kv_bytes = _CONFIGS[name]
    model = load_model(shared_data / "models" / f"{name}.json")
    assert model.architecture == architecture
    assert model.parameters == parameters
    assert model.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize("name", sorted(_OPT))
def test_opt_config_with_other_field_names(shared_data: Path, name: str) -> None:
    """OPT described as `num_layers`, `n_head`, `hidden_dim`, `ffn_embed_dim` is read too."""
    model = load_model(shared_data / "models" / f"{name}.json")
    assert model.architecture == "OPTForCausalLM"
    assert model.parameters == _OPT[name]


def test_quantised_configs_weigh_what_their_section_says(shared_data: Path) -> None:
    """DeepSeek-R1 and Kimi-K2 are fp8 files: about a byte a parameter."""
    for name in ("aic-deepseek-ai--DeepSeek-R1", "aic-moonshotai--Kimi-K2-Instruct"):
        model = load_model(shared_data / "models" / f"{name}.json")
        assert model.dtype == "fp8"
        assert 1.0 < model.weight_bytes / model.parameters < 1.01


def test_every_other_config_is_refused_by_family(shared_data: Path) -> None:
    """No file ends in anything but a profile or a sentence about its family."""
    known = {f"{name}.json" for name in (*_CONFIGS, *_OPT)}
    for path in sorted((shared_data / "models").glob("*.json")):
        if path.name in known:
            continue
        json.loads(path.read_text(encoding="utf-8"))
        with pytest.raises(InputError, match="model_type"):
            load_model(path)
