"""Shipped shapes against published parameter counts and hand-computed KV sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuplan.profiles import list_models, load_model

_PUBLISHED = yaml.safe_load((Path(__file__).parent / "published_parameters.yaml").read_text(encoding="utf-8"))

#: KV bytes per token over all layers: layers · 2 · KV heads · head width · 2 bytes.
_KV_BYTES = {
    "chatglm2-6b": 28_672,  # 28 · 2 · 2 · 128 · 2
    "llama-2-7b": 524_288,  # 32 · 2 · 32 · 128 · 2
    "llama-3.1-8b": 131_072,  # 32 · 2 · 8 · 128 · 2
    "llama-3.1-70b": 327_680,  # 80 · 2 · 8 · 128 · 2
    "llama-3.1-405b": 516_096,  # 126 · 2 · 8 · 128 · 2
    "mixtral-8x22b": 229_376,  # 56 · 2 · 8 · 128 · 2
    "qwen2.5-7b": 57_344,  # 28 · 2 · 4 · 128 · 2
    "qwen3-235b-a22b": 192_512,  # 94 · 2 · 4 · 128 · 2
    "opt-30b": 1_376_256,  # 48 · 2 · 56 · 128 · 2
    "deepseek-v3": 70_272,  # 61 · (512 + 64) · 2: one latent and one rotary key for all heads
    "deepseek-v3.2": 85_888,  # 61 · (512 + 64 + 128) · 2: the indexer's key beside them
    "glm-5": 109_824,  # 78 · (512 + 64 + 128) · 2
    "kimi-k2": 70_272,  # 61 · (512 + 64) · 2
    "llama-4-maverick": 196_608,  # 48 · 2 · 8 · 128 · 2
    "gpt-oss-120b": 73_728,  # 36 · 2 · 8 · 64 · 2
    "gpt-oss-20b": 49_152,  # 24 · 2 · 8 · 64 · 2
    "gemma-2-27b": 376_832,  # 46 · 2 · 16 · 128 · 2
    "gemma-3-27b": 507_904,  # 62 · 2 · 16 · 128 · 2
    "gemma-4-26b-a4b": 225_280,  # 25 · 2 · 8 · 256 · 2 + 5 · 2 · 2 · 512 · 2
    "phi-2": 327_680,  # 32 · 2 · 32 · 80 · 2
    "phi-4": 204_800,  # 40 · 2 · 10 · 128 · 2
    "bloom-176b": 4_014_080,  # 70 · 2 · 112 · 128 · 2
    "gpt-j-6b": 458_752,  # 28 · 2 · 16 · 256 · 2
    "gpt-neox-20b": 1_081_344,  # 44 · 2 · 64 · 96 · 2
    "falcon-7b": 8_192,  # 32 · 2 · 1 · 64 · 2
    "falcon-40b": 122_880,  # 60 · 2 · 8 · 64 · 2
    "falcon-180b": 163_840,  # 80 · 2 · 8 · 64 · 2
    "glm-4-9b": 40_960,  # 40 · 2 · 2 · 128 · 2
    "glm-4.5": 376_832,  # 92 · 2 · 8 · 128 · 2
    "internlm-20b": 1_228_800,  # 60 · 2 · 40 · 128 · 2
    "internlm2-20b": 196_608,  # 48 · 2 · 8 · 128 · 2
    "minimax-m2.5": 253_952,  # 62 · 2 · 8 · 128 · 2
    "nemotron-h-56b": 40_960,  # 10 attention layers of 118 · 2 · 8 · 128 · 2
    "qwen3-next-80b-a3b": 24_576,  # 12 full layers of 48 · 2 · 2 · 256 · 2
    "qwen3.5-27b": 65_536,  # 16 full layers of 64 · 2 · 4 · 256 · 2
    "qwen3.5-35b-a3b": 20_480,  # 10 full layers of 40 · 2 · 2 · 256 · 2
}


def test_every_shipped_model_has_a_published_count() -> None:
    """The table and the shipped shapes name the same models."""
    assert set(list_models()) == set(_PUBLISHED)


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_parameters_equal_the_reference_implementation(name: str) -> None:
    """The count is exact, and within 0.5 % of the rounded figure in print where there is one of the same parts."""
    parameters = load_model(name).parameters
    assert parameters == _PUBLISHED[name]["exact"]
    published = _PUBLISHED[name]["published"]
    assert published is None or parameters == pytest.approx(published, rel=0.005)


def test_thirty_models_and_more_have_a_figure_in_print() -> None:
    """The table holds enough published figures, each with its source."""
    assert sum(row["published"] is not None for row in _PUBLISHED.values()) >= 40
    assert all(row["source"] for row in _PUBLISHED.values())


@pytest.mark.parametrize(("name", "expected"), sorted(_KV_BYTES.items()))
def test_kv_bytes_per_token_are_exact(name: str, expected: int) -> None:
    """KV bytes per token follow from layers, KV heads and head width."""
    assert load_model(name).kv_bytes_per_token == expected


#: State of one sequence of 100,000 tokens, where it is not tokens times bytes per token.
_STATES = {
    # 18 of 36 layers keep 128 tokens of 2 · 8 · 64 · 2 bytes, 18 keep all
    "gpt-oss-120b": 18 * 2_048 * 128 + 18 * 2_048 * 100_000,
    # 36 of 48 layers keep a chunk of 8192 tokens of 2 · 8 · 128 · 2 bytes, every fourth keeps all
    "llama-4-maverick": 36 * 4_096 * 8_192 + 12 * 4_096 * 100_000,
    # 23 of 46 layers keep 4096 tokens of 2 · 16 · 128 · 2 bytes
    "gemma-2-27b": 23 * 8_192 * 4_096 + 23 * 8_192 * 100_000,
    # every sixth of 62 layers keeps all, the other 52 keep 1024 tokens of 2 · 16 · 128 · 2 bytes
    "gemma-3-27b": 52 * 8_192 * 1_024 + 10 * 8_192 * 100_000,
    # 25 of 30 layers keep 1024 tokens of 2 · 8 · 256 · 2 bytes, 5 keep all of 2 · 2 · 512 · 2
    "gemma-4-26b-a4b": 25 * 8_192 * 1_024 + 5 * 4_096 * 100_000,
    # all 32 layers keep 2047 tokens of 2 · 32 · 96 · 2 bytes
    "phi-3-mini": 32 * 12_288 * 2_047,
    # 54 Mamba-2 layers: 256 heads · 64 · 256 states of 4 bytes, 3 taps back · (16384 + 2 · 8 · 256) channels · 2
    "nemotron-h-56b": 54 * (256 * 64 * 256 * 4 + 3 * 20_480 * 2) + 40_960 * 100_000,
    # 36 layers: 32 heads · 128 · 128 of 4 bytes, 3 taps back · (2 · 16 · 128 + 32 · 128) channels · 2
    "qwen3-next-80b-a3b": 36 * (32 * 128 * 128 * 4 + 3 * 8_192 * 2) + 24_576 * 100_000,
    # 48 layers: 48 heads · 128 · 128 of 4 bytes, 3 taps back · (2 · 16 · 128 + 48 · 128) channels · 2
    "qwen3.5-27b": 48 * (48 * 128 * 128 * 4 + 3 * 10_240 * 2) + 65_536 * 100_000,
}


@pytest.mark.parametrize(("name", "expected"), sorted(_STATES.items()))
def test_bounded_and_constant_states_are_exact(name: str, expected: int) -> None:
    """Windows stop growing, recurrent states never grow."""
    assert sum(layer.kv.bytes_for(100_000) for layer in load_model(name).layers) == expected


def test_llama_70b_has_82_layers() -> None:
    """Embedding, 80 decoder layers, head."""
    model = load_model("llama-3.1-70b")
    assert [layer.kind for layer in model.layers] == ["embedding", *["decoder"] * 80, "head"]
    assert [layer.name for layer in model.layers[:2]] == ["embedding", "layer 0"]


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_profiles_are_consistent(name: str) -> None:
    """Names are unique, a source is given, replicated weights are a part, only decoder layers hold state."""
    model = load_model(name)
    modules = [module for layer in model.layers for module in layer.modules]
    assert len(set(modules)) == len(modules)
    assert len({layer.name for layer in model.layers}) == model.num_layers
    assert model.source
    for layer in model.layers:
        assert 0 <= layer.replicated_weight_bytes <= layer.weight_bytes
        assert layer.kind == "decoder" or layer.kv.bytes_for(1) == 0
        assert layer.kv.bytes_for(1) > 0 or layer.kind != "decoder" or model.family == "nemotron_h"
        assert 1 <= len(layer.operators) <= 9
