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
    """Weights, KV and workspace of a stage; `kv_per_token` is what one token more of each sequence would take."""

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float
    kv_per_token: float

    @property
    def used_bytes(self) -> float:
        """Everything together."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


def stage_bytes(
    inputs: Mapping[str, Any], workload: Mapping[str, Any], span: Mapping[str, int], *, whole: bool
) -> StageBytes:
    """Return the bytes of layers ``span`` on one device.

    With M·b sequences of T = s + o tokens in flight::

        weights = Σ weight_bytes − tied_bytes (whole model on one device)
        kv = M·b·Σ (κ·min(T, w) + σ)
        workspace = reserve + b·min(s, 8192)·(4·hidden + 2·ffn_active)·activation_bytes + b·vocab·4
    """
    model = inputs["model"]
    layers = model["layers"][span["start"] : span["stop"]]
    tokens = workload["prompt_tokens"] + workload["output_tokens"]
    state = math.fsum(_kv_bytes(layer["kv"], tokens) for layer in layers)
    weights = math.fsum(layer["weight_bytes"] for layer in layers)
    return StageBytes(
        weights_bytes=weights - (model["tied_bytes"] if whole else 0),
        kv_bytes=workload["micro_batches"] * workload["batch"] * state,
        workspace_bytes=_workspace(model, workload, inputs["options"]["reserve_bytes"]),
        kv_per_token=state / tokens,
    )


def _kv_bytes(kv: Mapping[str, Any], tokens: int) -> float:
    window = kv.get("window_tokens")
    kept = tokens if window is None or window > tokens else window
    return float(kv.get("bytes_per_token", 0.0) * kept + kv.get("constant_bytes", 0.0))


def _workspace(model: Mapping[str, Any], workload: Mapping[str, Any], reserve: float) -> float:
    batch, prompt = workload["batch"], workload["prompt_tokens"]
    width = 4 * model["hidden_size"] + 2 * max(layer["ffn_active"] for layer in model["layers"])
    activations = batch * min(prompt, CHUNK_TOKENS) * width * DTYPE_BYTES[model["activation_dtype"]]
    return float(reserve + activations + batch * model["vocab_size"] * LOGIT_BYTES)


def kv_room_tokens(stages: Sequence[tuple[StageBytes, float]]) -> float | None:
    """Return the tokens of KV that the tightest of the stages (bytes, available) has room for; None without KV."""
    rooms = [
        (available - own.workspace_bytes - own.weights_bytes) / own.kv_per_token
        for own, available in stages
        if own.kv_per_token > 0
    ]
    return min(rooms) if rooms else None
