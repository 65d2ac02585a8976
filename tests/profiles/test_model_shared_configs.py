"""Real configs of the supported families: what each one says about size and KV cache."""

from __future__ import annotations

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
    "aic-MiniMaxAI--MiniMax-M2.5": ("MiniMaxM2ForCausalLM", 228_689_764_864, 253_952),
    "aic-Qwen--Qwen3.5-27B": ("Qwen3_5ForConditionalGeneration", 26_895_998_464, 65_536),
    "aic-Qwen--Qwen3.5-35B-A3B": ("Qwen3_5MoeForConditionalGeneration", 34_660_610_688, 20_480),
    "aic-google--gemma-4-26B-A4B": ("Gemma4ForConditionalGeneration", 25_233_141_790, 225_280),
    "aic-meta-llama--Llama-4-Maverick-17B-128E-Instruct": ("Llama4ForConditionalGeneration", 400_711_848_960, 196_608),
    "aic-meta-llama--Llama-4-Scout-17B-16E-Instruct": ("Llama4ForConditionalGeneration", 107_769_861_120, 196_608),
    "aic-nvidia--Nemotron-H-56B-Base-8K": ("NemotronHForCausalLM", 56_324_350_464, 40_960),
    "aic-openai--gpt-oss-20b": ("GptOssForCausalLM", 20_914_757_184, 49_152),
    "aic-openai--gpt-oss-120b": ("GptOssForCausalLM", 116_829_156_672, 73_728),
    "aic-zai-org--GLM-5": ("GlmMoeDsaForCausalLM", 743_911_218_432, 109_824),
    # BLOOM described as `num_layers`, `n_head`, `hidden_dim`
    "llm-analysis-bigscience_bloom-7b1": ("BloomForCausalLM", 7_069_016_064, 491_520),
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


def test_mxfp4_experts_weigh_what_the_files_weigh(shared_data: Path) -> None:
    """gpt-oss: only the experts are MXFP4, 4.25 bits each; the rest stays in bf16.

    20b: 24 layers · 32 experts · 3 · 2880² = 19,110,297,600 numbers of 17/32 bytes; 1,804,459,584 of 2 bytes.
    """
    model = load_model(shared_data / "models" / "aic-openai--gpt-oss-20b.json")
    assert model.dtype == "mxfp4"
    assert model.weight_bytes == 19_110_297_600 * 17 // 32 + 2 * (model.parameters - 19_110_297_600)


#: Raw material of other tools: shapes without a family, or many models in one file.
_RAW = {
    "llm-analysis-bloom-175b": "add model_type, such as llama or opt",
    "llm-analysis-facebook_opt-175b": "add model_type, such as llama or opt",
    "vidur-model_shapes": "found none of the fields that describe a shape",
}


def test_all_else_is_refused_in_a_sentence(shared_data: Path) -> None:
    """Every Hugging Face-style config loads; what is none says what it lacks."""
    files = {path.stem for path in (shared_data / "models").glob("*.json")}
    assert files == {*_CONFIGS, *_OPT, *_RAW}
    for name, sentence in _RAW.items():
        with pytest.raises(InputError, match=sentence):
            load_model(shared_data / "models" / f"{name}.json")
