"""Finding models: names, files, folders, catalogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuplan.errors import UsageError
from gpuplan.profiles import list_models, load_model, model_to_dict

_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 20,
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _write(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_shipped_names() -> None:
    """Two dozen shapes ship; names ignore case."""
    assert len(list_models()) == 61
    assert load_model("Llama-3.1-70B") == load_model("llama-3.1-70b")
    assert load_model("llama-3.1-70b").name == "llama-3.1-70b"


def test_file_and_folder_give_the_same_model(tmp_path: Path) -> None:
    """A folder stands for its config.json; the model is named after the folder."""
    path = _write(tmp_path / "tiny-llama" / "config.json", _CONFIG)
    assert load_model(path) == load_model(path.parent) == load_model(str(path))
    assert load_model(path).name == "tiny-llama"
    assert load_model(path).source == "config.json"


def test_a_config_may_name_itself(tmp_path: Path) -> None:
    """`_name_or_path` names the model, without its owner; other files give their own name."""
    named = _write(tmp_path / "config.json", {**_CONFIG, "_name_or_path": "owner/tiny-7b/"})
    assert load_model(named).name == "tiny-7b"
    assert load_model(_write(tmp_path / "other.json", _CONFIG)).name == "other"


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Files saved by editors that write a mark load."""
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(_CONFIG).encode())
    assert load_model(path).num_layers == 4


def test_user_catalogue(tmp_path: Path) -> None:
    """Models of a catalogue are known by name and go before shipped ones."""
    _write(tmp_path / "models" / "mine.json", {**_CONFIG, "source": "measured here"})
    _write(tmp_path / "models" / "llama-3.1-8b.json", _CONFIG)
    assert "mine" in list_models(catalog=tmp_path)
    assert load_model("mine", catalog=tmp_path).source == "measured here"
    assert load_model("llama-3.1-8b", catalog=tmp_path).hidden_size == 8
    with pytest.raises(UsageError, match="expected a folder"):
        list_models(catalog=tmp_path / "none")


@pytest.mark.parametrize("name", ["llama-3.1-71b", "llama3.1-70b"])
def test_unknown_name_suggests_the_closest(name: str) -> None:
    """A name that is no path is a usage error with suggestions."""
    with pytest.raises(UsageError, match=r"closest names: .*llama-3.1-70b"):
        load_model(name)
    with pytest.raises(UsageError, match="gpuplan list models"):
        load_model("zzzzzz")
    with pytest.raises(UsageError, match="empty string"):
        load_model("")


def test_normalised_file(tmp_path: Path) -> None:
    """A gpuplan/model/1 file loads as it is, and takes no dtype."""
    model = load_model("llama-3.1-8b", dtype="fp8")
    path = _write(tmp_path / "model.json", {"schema": "gpuplan/model/1", **model_to_dict(model)})
    assert load_model(path) == model
    with pytest.raises(UsageError, match="expected no dtype with a gpuplan/model/1 file"):
        load_model(path, dtype="bf16")
