"""Properties every config must have, whatever its sizes."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import GpuplanError
from gpuplan.profiles import model_from_config, model_from_dict, model_to_dict
from gpuplan.units import DTYPE_BYTES

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "glm", "mixtral", "qwen3_moe", "opt")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small config of one of the families."""
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 3))
    return {
        "model_type": draw(st.sampled_from(_FAMILIES)),
        "hidden_size": heads * draw(st.sampled_from([2, 4, 6])),
        "intermediate_size": draw(st.integers(1, 50)),
        "ffn_dim": draw(st.integers(1, 50)),
        "vocab_size": draw(st.integers(1, 100)),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": draw(st.integers(1, 64)),
        "tie_word_embeddings": draw(st.booleans()),
        "num_local_experts": 4,
        "num_experts": 4,
        "num_experts_per_tok": draw(st.integers(1, 4)),
        "moe_intermediate_size": draw(st.integers(1, 20)),
    }


@given(configs())
@settings(deadline=None)
def test_one_more_layer_adds_exactly_one_decoder_layer(config: dict[str, Any]) -> None:
    """All sums grow by the last decoder layer."""
    model = model_from_config(config, name="m")
    more = model_from_config({**config, "num_hidden_layers": config["num_hidden_layers"] + 1}, name="m")
    added = more.layers[-2]
    assert more.parameters == model.parameters + added.parameters
    assert more.weight_bytes == model.weight_bytes + added.weight_bytes
    assert more.kv_bytes_per_token == model.kv_bytes_per_token + added.kv.bytes_per_token
    assert added.weight_bytes > 0


@given(configs(), st.sampled_from(sorted(DTYPE_BYTES)))
@settings(deadline=None)
def test_kv_dtype_scales_the_cache_and_nothing_else(config: dict[str, Any], kv_dtype: str) -> None:
    """KV bytes are proportional to the element size; weights do not change."""
    model = model_from_config(config, name="m")
    other = model_from_config(config, name="m", kv_dtype=kv_dtype)
    assert other.kv_bytes_per_token == model.kv_bytes_per_token * DTYPE_BYTES[kv_dtype] / 2
    assert other.weight_bytes == model.weight_bytes


@given(configs(), st.sampled_from(sorted(DTYPE_BYTES)))
@settings(deadline=None)
def test_dtype_changes_decoder_weights_only(config: dict[str, Any], dtype: str) -> None:
    """Ends, KV, boundaries and parameter counts are those of the plain model; the round trip keeps all."""
    plain = model_from_config(config, name="m")
    model = model_from_config(config, name="m", dtype=dtype)
    assert model.layers[0] == plain.layers[0]
    assert model.layers[-1] == plain.layers[-1]
    assert model.parameters == plain.parameters
    assert [layer.kv for layer in model.layers] == [layer.kv for layer in plain.layers]
    ratio = DTYPE_BYTES[dtype] / 2
    for layer, before in zip(model.layers[1:-1], plain.layers[1:-1], strict=True):
        assert (
            min(ratio, 1) * before.weight_bytes <= layer.weight_bytes <= math.ceil(max(ratio, 1) * before.weight_bytes)
        )
    assert model_from_dict(model_to_dict(model)) == model


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)


@given(configs(), st.data())
@settings(deadline=None, max_examples=300)
def test_any_value_anywhere_gives_a_model_or_a_sentence(config: dict[str, Any], data: st.DataObject) -> None:
    """A field replaced by arbitrary JSON never ends in anything but a profile or one line of refusal."""
    extra = ("quantization_config", "text_config", "layer_types", "architectures", "torch_dtype", "sliding_window")
    field = data.draw(st.sampled_from((*config, *extra)))
    lines = 1
    try:
        model_from_config({**config, field: data.draw(_json)}, name="m")
    except GpuplanError as error:
        lines = len(str(error).split("\n"))
    assert lines == 1
