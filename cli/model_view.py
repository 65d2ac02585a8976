"""A model profile as a table (equal neighbours on one line) and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpuplan.cli.style import layer_range, plain_table
from gpuplan.units import KIB, format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from gpuplan.profiles import ModelProfile
    from gpuplan.profiles.model import KvState, Layer


def model_report(model: ModelProfile) -> dict[str, Any]:
    """Return the totals and layers of a model as JSON values."""
    return {
        "name": model.name,
        "architecture": model.architecture,
        "family": model.family,
        "source": model.source,
        "dtype": model.dtype,
        "activation_dtype": model.activation_dtype,
        "kv_dtype": model.kv_dtype,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "num_attention_heads": model.num_attention_heads,
        "num_kv_heads": model.num_kv_heads,
        "max_position": model.max_position,
        "num_layers": model.num_layers,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "tied_bytes": model.tied_bytes,
        "layers": [_layer_report(layer) for layer in model.layers],
    }


def _layer_report(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "modules": list(layer.modules),
        "parameters": layer.parameters,
        "weight_bytes": layer.weight_bytes,
        "kv": {
            "bytes_per_token": layer.kv.bytes_per_token,
            "window_tokens": layer.kv.window_tokens,
            "constant_bytes": layer.kv.constant_bytes,
            "heads": layer.kv.heads,
        },
        "boundary_bytes_per_token": layer.boundary_bytes_per_token,
    }


def model_view(model: ModelProfile) -> list[RenderableType]:
    """Return the heading, the layers and the totals of a model."""
    from rich.text import Text

    tied = f", tied embedding saves {format_bytes(model.tied_bytes)} on one device" if model.tied_bytes else ""
    return [
        Text(f"{model.name} ({model.architecture})", style="bold"),
        f"weights {model.dtype}, activations {model.activation_dtype}, KV {model.kv_dtype}\n",
        layer_table(model),
        "",
        f"{model.parameters / 1e9:,.2f} B parameters, {format_bytes(model.weight_bytes)} of weights{tied}",
        f"KV cache {model.kv_bytes_per_token / KIB:,.1f} KiB a token",
    ]


def layer_table(model: ModelProfile) -> Table:
    """Return the layers, runs of equal ones on one line."""
    table = plain_table(
        "layers", "kind", "parameters", "weights", "KV/token", "hands on", "modules",
        right=("parameters", "weights", "KV/token", "hands on"),
    )  # fmt: skip
    for start, stop in equal_runs(model.layers):
        layer = model.layers[start]
        table.add_row(
            layer_range(start, stop),
            layer.kind,
            f"{layer.parameters / 1e6:,.1f} M",
            format_bytes(layer.weight_bytes),
            _kv(layer.kv),
            f"{format_bytes(layer.boundary_bytes_per_token)}" if stop < model.num_layers else "",
            "\n".join(layer.modules) if stop - start == 1 else f"{layer.modules[0]} …",
        )
    return table


def _kv(kv: KvState) -> str:
    parts = []
    if kv.bytes_per_token:
        window = "" if kv.window_tokens is None else f" (last {kv.window_tokens:,})"
        parts.append(format_bytes(kv.bytes_per_token) + window)
    if kv.constant_bytes:
        parts.append(f"{format_bytes(kv.constant_bytes)} a sequence")
    return " + ".join(parts)


def equal_runs(layers: tuple[Layer, ...]) -> Iterator[tuple[int, int]]:
    """Yield runs ``start..stop−1`` of layers that differ in name and modules only."""
    start = 0
    for position in range(1, len(layers) + 1):
        if position == len(layers) or _shape(layers[position]) != _shape(layers[start]):
            yield start, position
            start = position


def _shape(layer: Layer) -> tuple[object, ...]:
    return (layer.kind, layer.parameters, layer.weight_bytes, layer.kv, layer.boundary_bytes_per_token)
