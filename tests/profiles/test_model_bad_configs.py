"""Malformed configs, one file a defect: each is refused in one sentence with file, JSON path and mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuplan.errors import InputError
from gpuplan.profiles import load_model

_FOLDER = Path(__file__).parent / "bad_models"

#: file (without .json) → place, a part of the sentence
_DEFECTS = {
    "missing_hidden_size": ("$.hidden_size", "found none"),
    "missing_intermediate_size": ("$.intermediate_size", "found none"),
    "missing_num_hidden_layers": ("$.num_hidden_layers", "(or num_layers, n_layer), found none"),
    "missing_num_attention_heads": ("$.num_attention_heads", "found none"),
    "missing_vocab_size": ("$.vocab_size", "found none"),
    "missing_family": ("$.model_type", "found neither; add model_type, such as llama"),
    "missing_in_text_config": ("$.text_config.num_attention_heads", "found none"),
    "missing_experts": ("$.num_local_experts", "found none"),
    "null_hidden_size": ("$.hidden_size", "whole number of at least 1, got null"),
    "string_hidden_size": ("$.hidden_size", 'got "64"'),
    "nan_hidden_size": ("$.hidden_size", "got NaN"),
    "infinite_vocab_size": ("$.vocab_size", "got Infinity"),
    "boolean_hidden_size": ("$.hidden_size", "got true"),
    "list_hidden_size": ("$.hidden_size", "got a list"),
    "object_hidden_size": ("$.hidden_size", "got an object"),
    "zero_layers": ("$.num_hidden_layers", "from 1 to 10000, got 0"),
    "million_layers": ("$.num_hidden_layers", "from 1 to 10000, got 1000000"),
    "negative_vocab_size": ("$.vocab_size", "got -5"),
    "fractional_heads": ("$.num_attention_heads", "got 3.5"),
    "huge_hidden_size": ("$.hidden_size", "got 1000000000000000000"),
    "heads_do_not_divide": ("$.num_attention_heads", "5 heads and 64"),
    "kv_heads_do_not_divide": ("$.num_key_value_heads", "divides the 4 attention heads, got 3"),
    "string_bias": ("$.attention_bias", 'true or false, got "yes"'),
    "number_dtype": ("$.torch_dtype", "expected a string, got 16"),
    "fp8_activations": ("$.torch_dtype", "bfloat16, float16 or float32"),
    "number_model_type": ("$.model_type", "expected a string, got 7"),
    "string_architectures": ("$.architectures", "expected a list of strings"),
    "number_in_architectures": ("$.architectures[0]", "got 1"),
    "unknown_architecture": ("$.model_type", "for which this one lacks intermediate_size, or layer by layer"),
    "contradictory_family": ("$.architectures", 'got "llama" and "OPTForCausalLM"'),
    "list_text_config": ("$.text_config", "expected an object, got a list"),
    "string_quantization": ("$.quantization_config", 'expected an object, got "fp8"'),
    "zero_block": ("$.quantization_config.weight_block_size", "two whole numbers of at least 1"),
    "more_experts_per_token_than_experts": ("$.num_experts_per_tok", "at most the 4 experts"),
    "wrong_number_of_layer_types": ("$.layer_types", "each of the 2 layers, got 1"),
    "foreign_layer_type": ("$.layer_types[1]", 'got "linear_attention"'),
    "sliding_layer_without_window": ("$.sliding_window", "window of the sliding layers"),
    "first_chatglm": ("$.kv_channels", "found none"),
    "empty": (None, "an empty file"),
    "blank": (None, "an empty file"),
    "binary": (None, "a binary file"),
    "nul": (None, "a binary file"),
    "cut": ("line 3", "expected JSON"),
    "list": ("$", "expected a JSON object, got a list"),
    "null": ("$", "expected a JSON object, got null"),
    "repeated_key": (None, 'got "hidden_size" twice'),
    "unknown_schema": ("$.schema", 'expected gpuplan/model/1, the version this gpuplan reads, got "gpuplan/model/2"'),
}


def test_every_bad_file_is_listed() -> None:
    """No defect lies in the folder untested."""
    assert {path.stem for path in _FOLDER.glob("*.json")} == set(_DEFECTS)


@pytest.mark.parametrize("name", sorted(_DEFECTS))
def test_defect(name: str) -> None:
    """The error says where and what, in one line."""
    place, sentence = _DEFECTS[name]
    path = _FOLDER / f"{name}.json"
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert caught.value.source == str(path)
    assert caught.value.place == place
    assert sentence in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"hidden_size": ' + "9" * 5_000 + "}"], ids=["deep", "long number"])
def test_hostile_json(tmp_path: Path, text: str) -> None:
    """Nesting and numbers beyond what a parser takes end in the same kind of sentence."""
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="nested too deep or numbers too long"):
        load_model(path)


def test_missing_file_and_folder_without_config(tmp_path: Path) -> None:
    """Both are input errors that say what to give."""
    with pytest.raises(InputError, match=r"no such file; correct the path"):
        load_model(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"folder with a config\.json in it, found none"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"closest names: llama-3.1-70b"):
        load_model("meta-llama/Llama-3.1-70B")


def test_large_file_is_not_read(tmp_path: Path) -> None:
    """Weights given instead of a config are refused by size."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="over 64 MiB"):
        load_model(path)
