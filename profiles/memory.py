"""Memory of a stage: weights, KV state of the sequences in flight, and workspace."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuplan.profiles.model import Layer, ModelProfile
from gpuplan.profiles.workload import Workload
from gpuplan.units import DTYPE_BYTES, GIB

#: A prefill longer than this is cut in chunks, so activations never hold more tokens of one sequence.
CHUNK_TOKENS = 8192
#: Bytes of one logit, and of one sampled token on its way back to the first stage.
LOGIT_BYTES = 4
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes a stage needs on every device of its group.

    weights_bytes, kv_bytes, workspace_bytes
        Weights (a tied copy counted once when one stage holds the whole model), KV state, workspace.
    """

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float

    @property
    def total_bytes(self) -> float:
        """All three."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


def workspace_bytes(
    model: ModelProfile, workload: Workload, *, reserve_bytes: float = GIB, tensor_parallel: int = 1
) -> float:
    """Return the workspace every device of a plan keeps free of weights and KV.

    With the hidden width and the widest active FFN of the model, activations of α bytes and t ranks::

        reserve + b·min(s, 8192)·(4·hidden + 2·ffn_active/t)·α + b·vocab·4/t

    Parameters
    ----------
    model, workload
        What runs; logits are held for the last token only.
    reserve_bytes
        Left to the driver and the runtime, bytes.
    tensor_parallel
        t.
    """
    t = tensor_parallel
    width = 4 * model.hidden_size + 2 * max(layer.ffn_active for layer in model.layers) / t
    tokens = workload.batch * min(workload.prompt_tokens, CHUNK_TOKENS)
    activations = tokens * width * DTYPE_BYTES[model.activation_dtype]
    return reserve_bytes + activations + workload.batch * model.vocab_size * LOGIT_BYTES / t


def kv_bytes_per_token(layer: Layer, workload: Workload) -> float:
    """Return the layer's effective KV bytes per token: κ·min(T, w)/T + σ/T for sequences of T = s + o tokens."""
    return layer.kv.bytes_for(workload.sequence_tokens) / workload.sequence_tokens


def stage_memory(
    model: ModelProfile,
    start: int,
    stop: int,
    workload: Workload,
    *,
    reserve_bytes: float = GIB,
    tensor_parallel: int = 1,
) -> MemoryUse:
    """Return what layers `start`..`stop`−1 need on every device that shares them, M·b sequences in flight."""
    layers = model.layers[start:stop]
    sequences = workload.micro_batches * workload.batch
    tied = model.tied_bytes if len(layers) == model.num_layers else 0
    return MemoryUse(
        weights_bytes=math.fsum(weight_share(layer, tensor_parallel) for layer in layers) - tied / tensor_parallel,
        kv_bytes=sequences * math.fsum(kv_share(layer, workload, tensor_parallel) for layer in layers),
        workspace_bytes=workspace_bytes(model, workload, reserve_bytes=reserve_bytes, tensor_parallel=tensor_parallel),
    )


def weight_share(layer: Layer, tensor_parallel: int) -> float:
    """Return the bytes of a layer's weights on each of t ranks."""
    whole = layer.replicated_weight_bytes
    if tensor_parallel > layer.kv.heads:  # ranks share heads, so each holds the projections to keys and values
        whole += layer.kv_projection_weight_bytes
    return whole + (layer.weight_bytes - whole) / tensor_parallel


def kv_share(layer: Layer, workload: Workload, tensor_parallel: int) -> float:
    """Return the bytes of one sequence's KV state in a layer on each of t ranks."""
    return layer.kv.bytes_for(workload.sequence_tokens) / min(tensor_parallel, layer.kv.heads)
