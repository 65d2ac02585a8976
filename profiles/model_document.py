"""The normalised model document (`gpuplan/model/1`): a `ModelProfile` as plain JSON, and back.

Layers name their operators by a key of ``operator_sets``: a model of 80 equal layers writes them once. A document
written by hand may also write equal layers once, with ``repeat``; those written by gpuplan never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

from gpuplan.profiles.architectures.assembly import MOST_LAYERS
from gpuplan.profiles.architectures.fields import describe
from gpuplan.profiles.model import KvState, Layer, ModelProfile, Operator
from gpuplan.profiles.records import Record

MODEL_SCHEMA = "gpuplan/model/1"
_KINDS = ("embedding", "decoder", "head")
#: What a layer may leave out: nothing replicated, no state, no feed-forward part.
_LAYER_DEFAULTS = {"replicated_weight_bytes", "kv_projection_weight_bytes", "kv", "ffn_active"}
_INDEX = "{index}"
_OPERATOR_NUMBERS = (
    "flops_per_token",
    "flops_per_pair",
    "weight_bytes",
    "bytes_per_token",
    "bytes_per_position",
)


def is_model_document(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a normalised model rather than a Hugging Face config."""
    schema = document.get("schema")
    return (isinstance(schema, str) and schema.startswith("gpuplan/")) or "operator_sets" in document


def model_to_dict(model: ModelProfile) -> dict[str, Any]:
    """Return the model as plain JSON values, keys named like the fields of `ModelProfile`, `Layer` and `Operator`.

    >>> from gpuplan.profiles.models_io import load_model
    >>> sorted(model_to_dict(load_model("llama-3.1-8b"))["operator_sets"])
    ['decoder', 'embedding', 'head']
    """
    names = _name_operator_sets(model)
    document = {f.name: getattr(model, f.name) for f in fields(ModelProfile) if f.name != "layers"}
    document["operator_sets"] = {
        name: [asdict(operator) for operator in operators] for operators, name in names.items()
    }
    document["layers"] = [_layer_to_dict(layer, names) for layer in model.layers]
    return document


def _name_operator_sets(model: ModelProfile) -> dict[tuple[Operator, ...], str]:
    """Return each distinct operator list with a name: its first layer's kind, numbered where a kind has several."""
    names: dict[tuple[Operator, ...], str] = {}
    seen = dict.fromkeys(_KINDS, 0)
    for layer in model.layers:
        if layer.operators not in names:
            seen[layer.kind] += 1
            number = seen[layer.kind]
            names[layer.operators] = layer.kind if number == 1 else f"{layer.kind}-{number}"
    return names


def _layer_to_dict(layer: Layer, names: Mapping[tuple[Operator, ...], str]) -> dict[str, Any]:
    projections = layer.kv_projection_weight_bytes
    return {
        "name": layer.name,
        "kind": layer.kind,
        "modules": list(layer.modules),
        "parameters": layer.parameters,
        "weight_bytes": layer.weight_bytes,
        "replicated_weight_bytes": layer.replicated_weight_bytes,
        **({"kv_projection_weight_bytes": projections} if projections else {}),
        "kv": asdict(layer.kv),
        "boundary_bytes_per_token": layer.boundary_bytes_per_token,
        "ffn_active": layer.ffn_active,
        "operators": names[layer.operators],
    }


def model_from_dict(document: Mapping[str, Any], *, source: str | None = None, path: str = "$") -> ModelProfile:
    """Return the model a normalised document describes.

    Parameters
    ----------
    document
        What `model_to_dict` gives; ``schema`` and ``comment`` may stand beside it, nothing else.
    source, path
        For messages: the file, and the JSON path of `document` in it (``$.inputs.model`` inside a plan).

    Raises
    ------
    InputError
        An unknown or missing key, a wrong type, a negative or non-finite number; the JSON path is given.
    """
    record = Record(document, source=source, path=path)
    schema = record.text("schema", MODEL_SCHEMA)
    if schema != MODEL_SCHEMA:
        raise record.error(f"expected {MODEL_SCHEMA}, the version this gpuplan reads, got {describe(schema)}", "schema")
    required = {f.name for f in fields(ModelProfile) if f.default is MISSING}
    optional = {f.name for f in fields(ModelProfile)} - required
    record.expect_keys(required | {"operator_sets"}, optional | {"schema", "comment"})
    lists = record.record("operator_sets")
    sets = {name: _operators(lists, name) for name in lists.names()}
    layers = _layers(record, sets)
    return ModelProfile(
        name=record.text("name"),
        architecture=record.text("architecture"),
        family=record.text("family"),
        hidden_size=record.whole("hidden_size", minimum=1),
        vocab_size=record.whole("vocab_size", minimum=1),
        num_attention_heads=record.whole("num_attention_heads", minimum=1),
        num_kv_heads=record.whole("num_kv_heads", minimum=1),
        dtype=record.text("dtype"),
        activation_dtype=record.text("activation_dtype"),
        kv_dtype=record.text("kv_dtype"),
        layers=layers,
        tied_bytes=record.whole("tied_bytes", 0),
        tied_parameters=record.whole("tied_parameters", 0),
        max_position=record.optional_whole("max_position"),
        source=record.text("source", ""),
    )


def _operators(sets: Record, name: str) -> tuple[Operator, ...]:
    return tuple(_operator_from_dict(operator) for operator in sets.records(name))


def _operator_from_dict(record: Record) -> Operator:
    record.expect_keys({"name", "dtype"}, {f.name for f in fields(Operator)} - {"name", "dtype"})
    experts = record.whole("experts", 0)
    return Operator(
        name=record.text("name"),
        dtype=record.text("dtype"),
        **{name: record.number(name, 0.0) for name in _OPERATOR_NUMBERS},
        window=record.optional_whole("window"),
        tokens=record.choice("tokens", ("all", "last"), "all"),  # type: ignore[arg-type]
        experts=experts,
        experts_per_token=record.whole("experts_per_token", 0, maximum=experts),
        sharded=record.boolean("sharded", True),
        decode_flops_per_pair=record.optional_number("decode_flops_per_pair"),
    )


def _layers(record: Record, sets: Mapping[str, tuple[Operator, ...]]) -> tuple[Layer, ...]:
    """Return the layers, those with ``repeat`` written out; ``{index}`` in names counts decoder layers from 0."""
    layers: list[Layer] = []
    decoders = 0
    for entry in record.records("layers"):
        layer = _layer_from_dict(entry, sets)
        repeat = entry.whole("repeat", 1, minimum=1, maximum=MOST_LAYERS - len(layers))
        layers.extend(_numbered(layer, decoders + offset) for offset in range(repeat))
        decoders += repeat if layer.kind == "decoder" else 0
    if not layers:
        raise record.error("expected at least one layer, got none", "layers")
    return tuple(layers)


def _numbered(layer: Layer, index: int) -> Layer:
    modules = tuple(module.replace(_INDEX, str(index)) for module in layer.modules)
    name = layer.name.replace(_INDEX, str(index))
    return layer if modules == layer.modules and name == layer.name else replace(layer, name=name, modules=modules)


def _layer_from_dict(record: Record, sets: Mapping[str, tuple[Operator, ...]]) -> Layer:
    record.expect_keys({f.name for f in fields(Layer)} - _LAYER_DEFAULTS, {*_LAYER_DEFAULTS, "repeat"})
    weight_bytes = record.whole("weight_bytes")
    replicated = record.whole("replicated_weight_bytes", 0, maximum=weight_bytes)
    return Layer(
        name=record.text("name"),
        kind=record.choice("kind", _KINDS),  # type: ignore[arg-type]
        modules=record.texts("modules"),
        parameters=record.whole("parameters"),
        weight_bytes=weight_bytes,
        replicated_weight_bytes=replicated,
        kv_projection_weight_bytes=record.whole("kv_projection_weight_bytes", 0, maximum=weight_bytes - replicated),
        kv=_kv_from_dict(record.record("kv")) if "kv" in record.names() else KvState(),
        boundary_bytes_per_token=record.number("boundary_bytes_per_token"),
        ffn_active=record.whole("ffn_active", 0),
        operators=sets[record.choice("operators", tuple(sets))],
    )


def _kv_from_dict(record: Record) -> KvState:
    record.expect_keys(set(), {f.name for f in fields(KvState)})
    return KvState(
        bytes_per_token=record.number("bytes_per_token", 0.0),
        window_tokens=record.optional_whole("window_tokens"),
        constant_bytes=record.number("constant_bytes", 0.0),
        heads=record.whole("heads", 1, minimum=1),
    )
