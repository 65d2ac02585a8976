"""Every family: what its layers keep and weigh, what is special to it, and that no config breaks its builder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import GpuplanError, InputError
from gpuplan.profiles import ModelProfile, load_model, model_from_config, model_from_dict, model_to_dict
from gpuplan.profiles.architectures.registry import FAMILIES

_CONFIGS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "family_configs.yaml").read_text(encoding="utf-8")
)["families"]


def _model(family: str, **changes: Any) -> ModelProfile:
    return model_from_config({**_CONFIGS[family], **changes}, name=family)


def _parameters(model: ModelProfile) -> list[int]:
    return [layer.parameters for layer in model.layers[1:-1]]


def _windows(model: ModelProfile) -> list[int | None]:
    return [layer.kv.window_tokens for layer in model.layers[1:-1]]


def test_every_family_has_a_config() -> None:
    """A family that is added gets its tests."""
    assert set(_CONFIGS) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("family", sorted(_CONFIGS))
def test_profiles_of_all_families_are_consistent(family: str) -> None:
    """Four decoder layers, positive weights, operators whose weights are the layer's, a round trip that keeps all."""
    model = _model(family)
    assert model.family == family
    assert [layer.kind for layer in model.layers] == ["embedding", *["decoder"] * 4, "head"]
    for layer in model.layers[1:-1]:
        assert 0 <= layer.replicated_weight_bytes <= layer.weight_bytes
        assert sum(operator.weight_bytes for operator in layer.operators) == pytest.approx(layer.weight_bytes, abs=1)
        assert layer.boundary_bytes_per_token == 48
    assert model_from_dict(model_to_dict(model)) == model


@pytest.mark.parametrize("family", sorted(set(_CONFIGS) - {"gpt_oss"}))
def test_weights_are_parameters_times_their_size(family: str) -> None:
    """Without quantisation every parameter has two bytes."""
    model = _model(family)
    assert model.weight_bytes == 2 * model.parameters


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("llama4_text", {}, [16, 16, 16, None]),
        ("llama4_text", {"no_rope_layers": [1, 0, 1, 0]}, [16, None, 16, None]),
        ("llama4_text", {"layer_types": ["full_attention", *["chunked_attention"] * 3]}, [None, 16, 16, 16]),
        ("llama4_text", {"attention_chunk_size": None}, [None] * 4),
        ("gpt_oss", {}, [16, None, 16, None]),
        ("gpt_oss", {"layer_types": ["full_attention", *["sliding_attention"] * 3]}, [None, 16, 16, 16]),
        ("gemma", {}, [None] * 4),
        ("gemma2", {}, [16, None, 16, None]),
        ("gemma3_text", {}, [16, 16, None, 16]),
        ("gemma4_text", {}, [16, 16, 16, None]),  # every sixth, and always the last
        ("phi3", {}, [16] * 4),
        ("phi3", {"sliding_window": None}, [None] * 4),
    ],
)
def test_windows_follow_the_family_or_the_config(
    family: str, changes: dict[str, Any], windows: list[int | None]
) -> None:
    """Layer types where they are given, else the family's own alternation."""
    model = _model(family, **changes)
    assert _windows(model) == windows
    assert [
        next(operator.window for operator in layer.operators if operator.name == "attention")
        for layer in model.layers[1:-1]
    ] == windows


def test_llama4_alternates_dense_layers_and_experts() -> None:
    """Attention 24·24 twice and 24·12 twice; dense 3·24·30; a router of 96, four experts and a shared one of 24·36."""
    attention = 2 * 24 * 24 + 2 * 24 * 12 + 2 * 24
    dense, sparse = 3 * 24 * 30, 24 * 4 + 5 * 3 * 24 * 36
    assert _parameters(_model("llama4_text")) == [attention + dense, attention + sparse] * 2
    assert _parameters(_model("llama4_text", moe_layers=[0])) == [attention + sparse, *[attention + dense] * 3]


def test_gpt_oss_has_biases_and_sinks_and_keeps_attention_in_bf16() -> None:
    """Biases of 72 and 4 sinks in attention; a router of 24·4 + 4; experts of 3·24·36 with 2·36 + 24 biases."""
    model = _model("gpt_oss")
    attention = 2 * 24 * 24 + 2 * 24 * 12 + 72 + 4 + 2 * 24
    experts = 4 * 3 * 24 * 36
    rest = 24 * 4 + 4 + 4 * (2 * 36 + 24)
    assert _parameters(model) == [attention + experts + rest] * 4
    assert model.layers[1].weight_bytes == 2 * (attention + rest) + experts * 17 // 32


def test_gemma4_has_two_kinds_of_attention() -> None:
    """Sliding: 2 KV heads of 6. Full: 1 KV head of 10 whose keys serve as values, so one matrix less, cached twice."""
    model = _model("gemma4_text")
    sliding, full = model.layers[1], model.layers[4]
    assert (sliding.kv.bytes_per_token, sliding.kv.heads) == (2 * 2 * 6 * 2, 2)
    assert (full.kv.bytes_per_token, full.kv.heads) == (2 * 10 * 2, 1)
    shared = 3 * 24 * 36 + 4 * 3 * 24 * 10 + 24 * 4 + 24 + 4 + 7 * 24 + 1
    assert sliding.parameters == shared + 2 * 24 * 24 + 2 * 24 * 12 + 2 * 6
    assert full.parameters == shared + 2 * 24 * 40 + 24 * 10 + 2 * 10
    assert sliding.ffn_active == 36 + 2 * 10


@pytest.mark.parametrize("field", ["hidden_size_per_layer_input", "num_kv_shared_layers"])
def test_gemma4_layers_that_cannot_be_placed_apart_are_refused(field: str) -> None:
    """The small Gemma 4 models read other layers' inputs and caches."""
    with pytest.raises(InputError, match=rf"\$\.{field}: expected 0: .* gpuplan/model/1"):
        _model("gemma4_text", **{field: 2})


def test_falcon_variants() -> None:
    """Fused qkv 24·(24 + 2·KV width), out 24², feed-forward 8·24²; norms of 48, one or two a layer."""
    rest = 24 * 24 + 8 * 24 * 24
    assert _parameters(_model("falcon"))[0] == 24 * (24 + 24) + rest + 2 * 48
    one_norm = _model("falcon", num_ln_in_parallel_attn=1)
    assert _parameters(one_norm)[0] == 24 * (24 + 24) + rest + 48
    seven = _model("falcon", new_decoder_architecture=False)
    assert _parameters(seven)[0] == 24 * (24 + 12) + rest + 48
    assert seven.layers[1].kv.bytes_per_token == 2 * 6 * 2
    plain = _model("falcon", new_decoder_architecture=False, multi_query=False, parallel_attn=False, bias=True)
    assert _parameters(plain)[0] == 24 * 72 + 72 + rest + 24 + 96 + 24 + 2 * 48


def test_internlm2_is_llama_under_other_names() -> None:
    """The same counts; embedding, layers and head are named as the remote code has them."""
    model = _model("internlm2")
    assert _parameters(model) == _parameters(_model("llama"))
    assert model.layers[0].modules == ("model.tok_embeddings",)
    assert model.layers[-1].modules == ("model.norm", "output")


def test_internlm_biases() -> None:
    """The first has biases on all projections; the third has two switches."""
    llama = _parameters(_model("llama"))[0]
    assert _parameters(_model("internlm"))[0] == llama + 24 + 2 * 12 + 24
    assert _parameters(_model("internlm", bias=False))[0] == llama
    assert _parameters(_model("internlm3"))[0] == llama + 24 + 2 * 12
    assert _parameters(_model("internlm3", qkv_bias=False, bias=True))[0] == llama + 24 + 2 * 36 + 24


def test_nemotron_h_layers_are_one_part_each() -> None:
    """Mamba-2, feed-forward, attention, experts in that order; only attention grows with the context."""
    model = _model("nemotron_h")
    mamba, mlp, attention, experts = model.layers[1:-1]
    channels = 24 + 2 * 2 * 8
    assert mamba.parameters == 24 * (24 + channels + 4) + 24 * 24 + 5 * channels + 3 * 4 + 24 + 24
    assert mlp.parameters == 2 * 24 * 36 + 24
    # the default head width is 128, but the config says 6
    assert attention.parameters == 2 * 24 * 24 + 2 * 24 * 12 + 24
    assert experts.parameters == 24 * 4 + 4 + 2 * 24 * 8 + 4 * 2 * 8 * 10 + 2 * 24 * 14 + 24
    assert (mamba.kv.bytes_per_token, mamba.kv.constant_bytes) == (0, 24 * 8 * 4 + 3 * channels * 2)
    assert (mlp.kv.bytes_for(100), experts.kv.bytes_for(100)) == (0, 0)
    assert attention.kv.bytes_per_token == 2 * 2 * 6 * 2
    assert (mlp.ffn_active, experts.ffn_active) == (36, 2 * 10 + 14)


def test_recurrent_state_has_the_dtype_of_the_config() -> None:
    """fp32 unless ``mamba_ssm_dtype`` says otherwise; the convolution's look-back is in the activations' dtype."""
    for dtype, size in (("float32", 4), ("bfloat16", 2), (None, 4)):
        model = _model("qwen3_5_text", mamba_ssm_dtype=dtype)
        # 4 value heads · 4 · 6 states; 3 taps back over 2 · 2 · 4 + 4 · 6 channels
        assert model.layers[1].kv.constant_bytes == 96 * size + 3 * 40 * 2
        assert model.layers[1].kv.heads == 2


def test_recurrent_state_is_moved_once_a_pass() -> None:
    """The state counts as one position of a window of one: read and written whole for every sequence."""
    rule = next(o for o in _model("qwen3_5_text").layers[1].operators if o.name == "delta_rule")
    assert (rule.window, rule.bytes_per_position, rule.flops_per_pair) == (1, 2 * 96 * 4, 0)
    assert rule.flops_per_token == 7 * 96 + 2 * 4 * 40


def test_qwen_hybrids_follow_their_interval() -> None:
    """Three linear layers before each full one, or what ``full_attention_interval`` says."""
    assert [layer.kv.bytes_per_token > 0 for layer in _model("qwen3_next").layers[1:-1]] == [False] * 3 + [True]
    assert [layer.kv.bytes_per_token > 0 for layer in _model("qwen3_5_moe_text").layers[1:-1]] == [False, True] * 2


def test_layers_without_an_indexer_cache_no_key_of_it() -> None:
    """Layers 0 and 2 of four choose positions, 1 and 3 reuse the choice: all read 16, two cache a key of 6 less."""
    layers = _model("glm_moe_dsa").layers[1:-1]
    assert [layer.kv.bytes_per_token for layer in layers] == [32, 20, 32, 20]
    indexer = 12 * 12 + 24 * 6 + 24 * 2 + 2 * 6
    assert layers[2].parameters - layers[3].parameters == indexer
    assert {next(o.window for o in layer.operators if o.name == "attention") for layer in layers} == {16}


def test_searched_layers_differ() -> None:
    """Width 2·2.625·24/3 = 42 rounds up to 256; parts taken out take their norm along."""
    model = _model("nemotron-nas")
    attention = 2 * 24 * 24
    assert _parameters(model) == [
        attention + 2 * 24 * 12 + 3 * 24 * 256 + 2 * 24,
        3 * 24 * 256 + 24,
        24 * 24 + 24,
        attention + 2 * 24 * 6 + 3 * 24 * 40 + 2 * 24,
    ]
    assert [layer.kv.bytes_per_token for layer in model.layers[1:-1]] == [48, 0, 0, 24]
    assert model.num_kv_heads == 2


def test_lightning_layers_keep_a_constant_state() -> None:
    """Lists of 0 and 1 tell lightning from full attention; a lightning layer keeps 4 heads of 6×6 numbers."""
    layers = _model("minimax").layers[1:-1]
    assert [layer.kv.constant_bytes for layer in layers] == [4 * 6 * 6 * 2] * 3 + [0]
    assert [layer.kv.bytes_per_token for layer in layers] == [0] * 3 + [2 * 2 * 6 * 2]
    # qkv 24·72, gate 24·24, out 24·24, norm 24; two norms of 24; router 24·4, 4 experts of 3·24·36
    expected = 24 * 72 + 24 * 24 * 2 + 24 + 2 * 24 + 24 * 4 + 4 * 3 * 24 * 36
    assert [layer.parameters for layer in layers[:3]] == [expected] * 3


@pytest.mark.parametrize("kinds", [[0, 1], [0, 1, 2, 0], "0001", [0, 1, True, 0]])
def test_attention_types_that_fit_no_model_are_refused(kinds: Any) -> None:
    """One 0 or 1 a layer, nothing else."""
    with pytest.raises(InputError, match=r"attn_type_list: expected 0 \(lightning\) or 1"):
        _model("minimax", attn_type_list=kinds)


def test_minimax_norms_whole_rows() -> None:
    """Norms of 24 + 12 weights on queries and keys, a router of 96 with 4 corrections, four experts."""
    expected = 2 * 24 * 24 + 2 * 24 * 12 + 36 + 48 + 24 * 4 + 4 + 4 * 3 * 24 * 36
    assert _parameters(_model("minimax_m2")) == [expected] * 4


@pytest.mark.parametrize(
    ("family", "changes", "place", "sentence"),
    [
        ("nemotron_h", {"hybrid_override_pattern": "M-*X"}, "hybrid_override_pattern", 'M, \\*, -, E, got "X"'),
        ("nemotron_h", {"hybrid_override_pattern": "M-"}, "num_hidden_layers", "as the 2 kinds listed, got 4"),
        ("nemotron_h", {"hybrid_override_pattern": None}, "hybrid_override_pattern", "a letter for each layer"),
        ("nemotron_h", {"layers_block_type": ["mamba", "x"]}, r"layers_block_type\[1\]", 'got "x"'),
        ("nemotron_h", {"n_groups": 3}, "n_groups", "divides the 4 heads, got 3"),
        ("nemotron-nas", {"block_configs": []}, "block_configs", "each of the 4 layers, got 0"),
        ("nemotron-nas", {"block_configs": [{}] * 4}, r"block_configs\[0\]\.attention", "expected an object"),
        ("nemotron-nas", {"block_configs": [7]}, r"block_configs\[0\]", "a list of objects, got 7"),
        (
            "nemotron-nas",
            {"block_configs": [{"attention": {"no_op": True}, "ffn": {"ffn_mult": "x"}}]},
            r"block_configs\[0\]\.ffn\.ffn_mult",
            "expected a number",
        ),
        ("llama4_text", {"no_rope_layers": [1]}, "no_rope_layers", "each of the 4 layers, got 1"),
        ("gemma4_text", {"top_k_experts": 9}, "top_k_experts", "at most the 4 experts"),
        ("qwen3_next", {"linear_num_value_heads": 3}, "linear_num_value_heads", "multiple of the 2 key heads"),
        ("qwen3_5_text", {"mamba_ssm_dtype": "int8"}, "mamba_ssm_dtype", "float16 or float32, got .int8"),
        ("qwen3_5_text", {"layer_types": ["mamba"] * 4}, r"layer_types\[0\]", "full_attention or linear_attention"),
        ("glm_moe_dsa", {"indexer_types": ["all"] * 4}, r"indexer_types\[0\]", "full or shared"),
        ("falcon", {"num_kv_heads": 3}, "num_key_value_heads", "divides the 4 attention heads"),
    ],
)
def test_fields_of_a_family_are_checked(family: str, changes: dict[str, Any], place: str, sentence: str) -> None:
    """Each refusal names the field and what it should have been."""
    with pytest.raises(InputError, match=rf"\$\.{place}: .*(?:{sentence})"):
        _model(family, **changes)


def test_multimodal_configs_are_read_inside() -> None:
    """The language model's sizes, the multimodal class's module names; Llama 4 has names of its own."""
    for kind, family, prefix, head in (
        ("llava", "llama", "model.language_model", "lm_head"),
        ("gemma3", "gemma3_text", "model.language_model", "lm_head"),
        ("llama4", "llama4_text", "language_model.model", "language_model.lm_head"),
    ):
        inner = _CONFIGS[family]
        model = model_from_config({"model_type": kind, "text_config": inner}, name="m")
        assert model.parameters == _model(family).parameters
        assert model.layers[1].modules == (f"{prefix}.layers.0",)
        assert model.layers[-1].modules == (f"{prefix}.norm", head)


def test_text_config_without_a_type_has_that_of_its_frame() -> None:
    """gemma3 around a bare text_config means gemma3_text."""
    inner = {key: value for key, value in _CONFIGS["gemma3_text"].items() if key != "model_type"}
    assert model_from_config({"model_type": "gemma3", "text_config": inner}, name="m").family == "gemma3_text"


def test_class_for_text_alone_has_plain_names() -> None:
    """A config that names the language model's own class is not multimodal, whatever frame it has."""
    config = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5", "text_config": _CONFIGS["qwen3_5_text"]}
    assert model_from_config(config, name="m").layers[1].modules == ("model.layers.0",)


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [(None, None, False), (True, None, True), (False, True, True), (None, True, True), (True, False, True)],
)
def test_a_tied_head_may_be_said_inside_or_outside(outer: bool | None, inner: bool | None, tied: bool) -> None:
    """Either place counts."""
    text = {**_CONFIGS["llama"], "tie_word_embeddings": inner}
    config = {"model_type": "llava", "text_config": text, "tie_word_embeddings": outer}
    assert (model_from_config(config, name="m").tied_parameters > 0) == tied


def test_gemma_is_tied_unless_it_says_otherwise() -> None:
    """Gemma's default is a tied head."""
    assert _model("gemma").tied_parameters == 50 * 24
    assert _model("gemma", tie_word_embeddings=False).tied_parameters == 0


def test_latent_caches_are_for_all_heads() -> None:
    """What tensor parallelism cannot cut has one head."""
    assert load_model("glm-5").layers[1].kv.heads == 1
    assert load_model("gemma-4-26b-a4b").layers[6].kv.heads == 2


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
_plausible = st.integers(-1, 40) | st.sampled_from(
    ["full_attention", "sliding_attention", "linear_attention", "M", "*", "-E", "float32", "none", 2.0, True, None]
)
#: Optional fields of some family.
_OPTIONAL = (
    "layer_types",
    "architectures",
    "torch_dtype",
    "sliding_window",
    "quantization_config",
    "text_config",
    "vision_config",
    "tie_word_embeddings",
    "no_rope_layers",
    "moe_layers",
    "mlp_layer_types",
    "indexer_types",
    "layers_block_type",
    "block_configs",
    "mlp_only_layers",
    "use_sliding_window",
    "mamba_ssm_dtype",
    "model_type",
)


@pytest.mark.parametrize("family", sorted(_CONFIGS))
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_config_gives_a_model_or_a_sentence(family: str, data: st.DataObject) -> None:
    """Fields replaced, removed and added at random never end in anything but a profile or one line of refusal."""
    config = copy.deepcopy(_CONFIGS[family])
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from((*config, *_OPTIONAL)))
        if data.draw(st.booleans()):
            config[field] = data.draw(_json | _plausible | st.lists(_plausible, max_size=5))
        else:
            config.pop(field, None)
    lines = 1
    try:
        model = model_from_config(config, name="m")
        assert model_from_dict(model_to_dict(model)) == model
    except GpuplanError as error:
        lines = len(str(error).split("\n"))
    assert lines == 1
