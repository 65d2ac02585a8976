"""The normalised model document: round trip and strictness."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from gpuplan.errors import InputError
from gpuplan.profiles import list_models, load_model, model_from_dict, model_to_dict


@pytest.fixture
def document() -> dict[str, Any]:
    """Return a fresh document of a small model."""
    return copy.deepcopy(model_to_dict(load_model("qwen3-30b-a3b")))


@pytest.mark.parametrize("name", list_models())
def test_round_trip_through_json(name: str) -> None:
    """Reading what was written gives the same model, and writing it again the same bytes."""
    model = load_model(name)
    text = json.dumps(model_to_dict(model))
    again = model_from_dict(json.loads(text))
    assert again == model
    assert json.dumps(model_to_dict(again)) == text


def test_equal_layers_share_operator_sets(document: dict[str, Any]) -> None:
    """48 equal decoder layers write their operators once."""
    assert sorted(document["operator_sets"]) == ["decoder", "embedding", "head"]
    dense_and_mixture = model_to_dict(load_model("deepseek-v3"))
    assert sorted(dense_and_mixture["operator_sets"]) == ["decoder", "decoder-2", "embedding", "head"]
    assert len(json.dumps(dense_and_mixture)) < 50_000


@pytest.mark.parametrize(
    ("path", "value", "place", "sentence"),
    [
        (("colour",), 1, "$.colour", "remove it"),
        (("layers", 3, "colour"), 1, "$.layers[3].colour", "remove it"),
        (("layers", 3, "kv", "colour"), 1, "$.layers[3].kv.colour", "remove it"),
        (("operator_sets", "decoder", 2, "colour"), 1, "$.operator_sets.decoder[2].colour", "remove it"),
        (("hidden_size",), "2048", "$.hidden_size", "whole number of at least 1, got the text '2048'"),
        (("hidden_size",), 0, "$.hidden_size", "got 0"),
        (("name",), None, "$.name", "expected non-empty text, got null"),
        (("layers",), {}, "$.layers", "expected a list, got an object"),
        (("layers",), [], "$.layers", "at least one layer"),
        (("layers", 0), 7, "$.layers[0]", "expected an object, got 7"),
        (("layers", 1, "kind"), "tail", "$.layers[1].kind", "embedding, decoder, head, got the text 'tail'"),
        (("layers", 1, "weight_bytes"), -1, "$.layers[1].weight_bytes", "got -1"),
        (("layers", 1, "weight_bytes"), 1.5, "$.layers[1].weight_bytes", "got 1.5"),
        (("layers", 1, "replicated_weight_bytes"), 10**12, "$.layers[1].replicated_weight_bytes", "whole number"),
        (("layers", 1, "boundary_bytes_per_token"), float("nan"), "$.layers[1].boundary_bytes_per_token", "got nan"),
        (("layers", 1, "modules"), ["a", 1], "$.layers[1].modules[1]", "expected text, got 1"),
        (("layers", 1, "operators"), "none", "$.layers[1].operators", "expected one of"),
        (("layers", 1, "kv"), None, "$.layers[1].kv", "expected an object, got null"),
        (("layers", 1, "kv", "bytes_per_token"), float("inf"), "$.layers[1].kv.bytes_per_token", "got inf"),
        (("layers", 1, "kv", "window_tokens"), 0, "$.layers[1].kv.window_tokens", "got 0"),
        (("operator_sets", "decoder", 0, "sharded"), 1, "$.operator_sets.decoder[0].sharded", "true or false"),
        (
            ("operator_sets", "decoder", 2, "decode_flops_per_pair"),
            -1,
            "$.operator_sets.decoder[2].decode_flops_per_pair",
            "at least 0, got -1",
        ),
        (("operator_sets", "decoder", 0, "tokens"), "some", "$.operator_sets.decoder[0].tokens", "all, last"),
        (
            ("operator_sets", "decoder", 5, "experts_per_token"),
            999,
            "$.operator_sets.decoder[5].experts_per_token",
            "128",
        ),
        (("schema",), "gpuplan/model/9", "$.schema", "expected gpuplan/model/1"),
    ],
)
def test_defects_are_refused_with_their_path(
    document: dict[str, Any], path: tuple[Any, ...], value: object, place: str, sentence: str
) -> None:
    """One changed value, one sentence with its JSON path."""
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(InputError) as caught:
        model_from_dict(document, source="plan.json")
    assert caught.value.place == place
    assert sentence in caught.value.message
    assert caught.value.source == "plan.json"


@pytest.mark.parametrize("key", ["name", "hidden_size", "layers", "operator_sets"])
def test_missing_keys_are_refused(document: dict[str, Any], key: str) -> None:
    """A key that has no default must be there."""
    del document[key]
    with pytest.raises(InputError, match=rf"\$\.inputs\.model\.{key}: expected the key {key}, found none"):
        model_from_dict(document, path="$.inputs.model")
