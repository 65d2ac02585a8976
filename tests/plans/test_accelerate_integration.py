"""Exports for accelerate against accelerate itself: real architectures, built without weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from gpuplan.plans import Outcome, StageRange, build_device_map, export
from gpuplan.profiles import ModelProfile, PlacementProblem, model_from_config
from gpuplan.topology import load_topology

pytestmark = [
    pytest.mark.integration,
    # What these libraries warn about is theirs to mend.
    pytest.mark.filterwarnings("default"),
]

#: Shipped shapes of five architectures; the deepest are shortened, their layers being alike.
MODELS = {
    "llama-3.1-8b": {},
    "mixtral-8x7b": {"num_hidden_layers": 6},
    "qwen2.5-7b": {},
    "opt-6.7b": {},
    "deepseek-v3": {"num_hidden_layers": 6},
}


def shipped_config(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a shipped config.json with some values changed."""
    from gpuplan.profiles import models_io

    path = Path(models_io.__file__).parent / "data" / "models" / f"{name}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config.pop("source")
    return {**config, **changes}


def meta_model(config: dict[str, Any]) -> Any:
    """Return the transformers model of a config, on the meta device: shapes without weights."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    settings = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(config["model_type"], **settings)
            )


def device_map(profile: ModelProfile, stages: int) -> dict[str, int]:
    """Return the accelerate export of a plan with that many stages on one host."""
    problem = PlacementProblem(profile, load_topology("dgx-a100"))
    cuts = [profile.num_layers * k // stages for k in range(stages + 1)]
    ranges = [StageRange(k, cuts[k], cuts[k + 1]) for k in range(stages)]
    plan = build_device_map(problem, ranges, Outcome("feasible", 0.0, {}, None, None, "even", {}, 0))
    mapping: dict[str, int] = json.loads(export(plan, "accelerate"))
    return mapping


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_accelerate_accepts_the_export(name: str, stages: int) -> None:
    """`check_device_map` finds a device for every parameter, and every module named exists in the model."""
    modeling = pytest.importorskip("accelerate.utils")
    config = shipped_config(name, dict(MODELS[name]))
    mapping = device_map(model_from_config(config, name=name), stages)
    model = meta_model(config)
    modeling.check_device_map(model, mapping)
    modules = {module for module, _ in model.named_modules()}
    assert set(mapping) <= modules
    assert sorted(set(mapping.values())) == list(range(stages))
