"""Models described by hand: the example of the docs, repeated layers, YAML."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import GpuplanError, InputError
from gpuplan.profiles import AnalyticCosts, Workload, load_model, model_from_dict, model_to_dict
from gpuplan.topology import load_topology

_DOCS = Path(__file__).parents[2] / "docs" / "models.md"
_MATCH = re.search(r"```yaml\n(.*?)```", _DOCS.read_text(encoding="utf-8"), re.DOTALL)
_TEXT = _MATCH.group(1) if _MATCH else ""
_EXAMPLE: dict[str, Any] = yaml.safe_load(_TEXT)


def test_the_example_of_the_docs_loads(tmp_path: Path) -> None:
    """34 layers of the stated sizes: 2·268,435,456 + 4096 + 32·201,326,592 parameters, 1 MiB of state a layer."""
    path = tmp_path / "mine.yaml"
    path.write_text(_TEXT, encoding="utf-8")
    model = load_model(path)
    assert model.num_layers == 34
    assert model.parameters == 6_979_325_952
    assert model.weight_bytes == 2 * model.parameters
    assert model.layers[5].name == "layer 4"
    assert model.layers[5].modules == ("model.blocks.4",)
    assert sum(layer.kv.bytes_for(100_000) for layer in model.layers) == 32 * 2**20
    assert model_from_dict(model_to_dict(model)) == model


def test_the_example_can_be_costed() -> None:
    """Decode of one sequence on an H100 streams the weights: 0.4 GB a layer take at least 0.12 ms."""
    device = load_topology("dgx-h100").devices[0]
    times = AnalyticCosts().layer_times(model_from_dict(_EXAMPLE), device, Workload(1, 1024, 128))
    assert all(1.2e-4 < seconds < 1e-3 for seconds in times.decode_s[1:-1])


def test_layers_are_numbered_through() -> None:
    """Two runs of repeated layers count on; what has no {index} is left as it is."""
    document = copy.deepcopy(_EXAMPLE)
    decoder = document["layers"][1]
    document["layers"][1:2] = [{**decoder, "repeat": 2}, {**decoder, "repeat": 3, "modules": ["m.{index}.x"]}]
    model = model_from_dict(document)
    assert [layer.name for layer in model.layers] == ["embedding", *(f"layer {i}" for i in range(5)), "head"]
    assert [layer.modules[0] for layer in model.layers[3:-1]] == ["m.2.x", "m.3.x", "m.4.x"]


@pytest.mark.parametrize("repeat", [0, -1, 1.5, "32", None, 10_001])
def test_repeats_that_are_no_counts_are_refused(repeat: object) -> None:
    """A whole number from 1 to what is left of 10,000 layers."""
    document = copy.deepcopy(_EXAMPLE)
    document["layers"][1]["repeat"] = repeat
    with pytest.raises(InputError, match=r"\$\.layers\[1\]\.repeat: expected a whole number from 1 to 9999"):
        model_from_dict(document)


@pytest.mark.parametrize("key", ["modules", "parameters", "weight_bytes", "boundary_bytes_per_token", "operators"])
def test_layers_must_say_the_rest(key: str) -> None:
    """What a plan cannot do without has no default."""
    document = copy.deepcopy(_EXAMPLE)
    del document["layers"][1][key]
    with pytest.raises(InputError, match=rf"\$\.layers\[1\]\.{key}: expected the key {key}, found none"):
        model_from_dict(document)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("schema: gpuplan/model/1\nschema: x\n", "appears twice"),
        ("schema: [\n", "not valid YAML"),
        ("- a\n", "expected a JSON object, got a list"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, sentence: str) -> None:
    """The same refusals as for JSON."""
    path = tmp_path / "mine.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        load_model(path)


def test_a_catalogue_may_hold_models_by_hand(tmp_path: Path) -> None:
    """``DIR/models/*.yaml`` are known by their names."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_text(_TEXT, encoding="utf-8")
    assert load_model("mine", catalog=tmp_path).name == "my-recurrent-7b"


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *_places(inner, (*path, key)))]


_PLACES = _places(_EXAMPLE)


@given(
    st.sampled_from(_PLACES),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
)
@settings(deadline=None, max_examples=300)
def test_any_value_anywhere_gives_a_model_or_a_sentence(place: tuple[Any, ...], value: object) -> None:
    """One value replaced: a profile, or one line of refusal."""
    document = copy.deepcopy(_EXAMPLE)
    target = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    lines = 1
    try:
        model_from_dict(document)
    except GpuplanError as error:
        lines = len(str(error).split("\n"))
    assert lines == 1
