"""Bytes of a stage, recomputed from the model a plan embeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuplan.units import DTYPE_BYTES

#: Prompts are prefilled in chunks of at most this many tokens.
CHUNK_TOKENS = 8192
#: Bytes of one logit.
LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class StageBytes:
    """Weights, KV and workspace on one device; `kv_per_token` is what one token more of each sequence would take."""

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float
    kv_per_token: float

    @property
    def used_bytes(self) -> float:
        """Everything together."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


def stage_bytes(
    inputs: Mapping[str, Any], workload: Mapping[str, Any], span: Mapping[str, int], *, whole: bool, degree: int = 1
) -> StageBytes:
    """Return the bytes of layers ``span`` on each of the t = `degree` devices that share them.

    With M·b sequences of T = s + o tokens in flight, and ρ the bytes that every device holds whole (norms, routers; the
    projections to keys and values where t exceeds the KV heads)::

        weights = Σ (ρ + (weight_bytes − ρ)/t) − tied_bytes/t (whole model in one stage)
        kv = M·b·Σ (κ·min(T, w) + σ)/min(t, KV heads)
        workspace = reserve + b·min(s, 8192)·(4·hidden + 2·ffn_active/t)·activation_bytes + b·vocab·4/t
    """
    model = inputs["model"]
    layers = model["layers"][span["start"] : span["stop"]]
    tokens = workload["prompt_tokens"] + workload["output_tokens"]
    state = math.fsum(_kv_bytes(layer["kv"], tokens) / min(degree, layer["kv"].get("heads", 1)) for layer in layers)
    weights = math.fsum(layer_weight_bytes(layer, degree) for layer in layers)
    return StageBytes(
        weights_bytes=weights - (model["tied_bytes"] / degree if whole else 0),
        kv_bytes=workload["micro_batches"] * workload["batch"] * state,
        workspace_bytes=_workspace(model, workload, inputs["options"]["reserve_bytes"], degree),
        kv_per_token=state / tokens,
    )


def layer_weight_bytes(layer: Mapping[str, Any], degree: int) -> float:
    """Return the bytes of a layer's weights on each of `degree` devices."""
    whole = layer["replicated_weight_bytes"]
    if degree > layer["kv"].get("heads", 1):  # devices share KV heads: each holds what projects to keys and values
        whole += layer.get("kv_projection_weight_bytes", 0)
    return float(whole + (layer["weight_bytes"] - whole) / degree)


def _kv_bytes(kv: Mapping[str, Any], tokens: int) -> float:
    window = kv.get("window_tokens")
    kept = tokens if window is None or window > tokens else window
    return float(kv.get("bytes_per_token", 0.0) * kept + kv.get("constant_bytes", 0.0))


def _workspace(model: Mapping[str, Any], workload: Mapping[str, Any], reserve: float, degree: int) -> float:
    batch, prompt = workload["batch"], workload["prompt_tokens"]
    width = 4 * model["hidden_size"] + 2 * max(layer["ffn_active"] for layer in model["layers"]) / degree
    activations = batch * min(prompt, CHUNK_TOKENS) * width * DTYPE_BYTES[model["activation_dtype"]]
    return float(reserve + activations + batch * model["vocab_size"] * LOGIT_BYTES / degree)


def kv_room_tokens(stages: Sequence[tuple[StageBytes, float]]) -> float | None:
    """Return the tokens of KV that the tightest of the stages (bytes, available) has room for; None without KV."""
    rooms = [
        (available - own.workspace_bytes - own.weights_bytes) / own.kv_per_token
        for own, available in stages
        if own.kv_per_token > 0
    ]
    return min(rooms) if rooms else None
