"""What published tables call devices, models and kernels, and what gpuplan calls them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gpuplan.errors import InputError


@dataclass(frozen=True, slots=True)
class Told:
    """What a manifest or an option says about a source that does not say it itself."""

    device_kind: str | None = None
    model: str | None = None
    tensor_parallel: int | None = None


@functools.cache
def layouts() -> Mapping[str, Any]:
    """Return the names that ship with gpuplan (``profiles/data/cost_layouts.yaml``)."""
    import yaml

    text = resources.files("gpuplan.profiles").joinpath("data/cost_layouts.yaml").read_text(encoding="utf-8")
    document: Mapping[str, Any] = yaml.safe_load(text)
    return document


def device_named(names: Sequence[str], told: Told, source: str) -> str:
    """Return the device kind a source was measured on: as told, else the first of `names` that is known."""
    if told.device_kind is not None:
        return told.device_kind
    known: Mapping[str, str] = layouts()["devices"]
    for name in names:
        if name.lower() in known:
            return known[name.lower()]
    raise InputError(
        "expected a device that gpuplan knows in the names of the table and its folders, found none; name it in a"
        " manifest with device_kind",
        source=source,
    )


def model_named(names: Sequence[str], told: Told, source: str) -> str:
    """Return the model a source was measured with: as told, else the first of `names` that is known."""
    if told.model is not None:
        return told.model
    known: Mapping[str, str] = layouts()["models"]
    for name in names:
        plain = plain_model_name(name)
        if plain in known:
            return known[plain]
    raise InputError(
        "expected a model that gpuplan knows in the names of the table and its folders, found none; name it in a"
        " manifest with model",
        source=source,
    )


def plain_model_name(name: str) -> str:
    """Return the last part of a model's name without its endings.

    >>> plain_model_name("meta-llama/Llama-2-70b-hf"), plain_model_name("Qwen3-30B-A3B-Instruct-2507")
    ('llama-2-70b', 'qwen3-30b-a3b')
    """
    plain = name.rpartition("/")[2].lower()
    for ending in ("-2507", "-instruct", "-hf"):
        plain = plain.removesuffix(ending)
    return plain
