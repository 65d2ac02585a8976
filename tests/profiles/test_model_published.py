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
}


def test_every_shipped_model_has_a_published_count() -> None:
    """The table and the shipped shapes name the same models."""
    assert set(list_models()) == set(_PUBLISHED)


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_parameters_equal_the_reference_implementation(name: str) -> None:
    """The count is exact, and within 0.5 % of the rounded figure in print."""
    parameters = load_model(name).parameters
    assert parameters == _PUBLISHED[name]["exact"]
    assert parameters == pytest.approx(_PUBLISHED[name]["published"], rel=0.005)


@pytest.mark.parametrize(("name", "expected"), sorted(_KV_BYTES.items()))
def test_kv_bytes_per_token_are_exact(name: str, expected: int) -> None:
    """KV bytes per token follow from layers, KV heads and head width."""
    assert load_model(name).kv_bytes_per_token == expected


def test_llama_70b_has_82_layers() -> None:
    """Embedding, 80 decoder layers, head."""
    model = load_model("llama-3.1-70b")
    assert [layer.kind for layer in model.layers] == ["embedding", *["decoder"] * 80, "head"]
    assert [layer.name for layer in model.layers[:2]] == ["embedding", "layer 0"]


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_profiles_are_consistent(name: str) -> None:
    """Names are unique, a source is given, replicated weights are a part, decoder layers hold the KV cache."""
    model = load_model(name)
    modules = [module for layer in model.layers for module in layer.modules]
    assert len(set(modules)) == len(modules)
    assert len({layer.name for layer in model.layers}) == model.num_layers
    assert model.source
    for layer in model.layers:
        assert 0 <= layer.replicated_weight_bytes <= layer.weight_bytes
        assert (layer.kv.bytes_per_token > 0) == (layer.kind == "decoder")
        assert 1 <= len(layer.operators) <= 8
