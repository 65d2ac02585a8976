"""Mixtral: Mistral's attention, a mixture of experts in every layer."""

from __future__ import annotations

from functools import partial

from gpuplan.profiles.architectures.assembly import Request, assemble, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, read_attention
from gpuplan.profiles.architectures.feed_forward import Experts, read_expert_counts
from gpuplan.profiles.architectures.llama import add_norms
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.architectures.windows import read_windows
from gpuplan.profiles.model import Layer, ModelProfile


def build_mixtral(request: Request) -> ModelProfile:
    """Mixtral 8x7B and 8x22B."""
    fields = request.fields
    attention = read_attention(fields)
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    count, per_token = read_expert_counts(fields, "num_local_experts", "num_experts")
    experts = Experts(attention.hidden, fields.integer("intermediate_size"), count, per_token)
    windows = read_windows(fields, read_depth(fields))
    layer = partial(_decoder_layer, request, attention, experts, windows)
    return assemble(request, sizes, standard_ends(request, sizes), len(windows), layer)


def _decoder_layer(
    request: Request, attention: GroupedAttention, experts: Experts, windows: list[int | None], index: int
) -> Layer:
    module = f"{request.prefix}.layers.{index}"
    parts = LayerParts(request.precision, module)
    add_norms(parts, attention)
    attention.add_to(parts, windows[index])
    experts.add_to(parts)
    return parts.build(
        f"layer {index}",
        "decoder",
        (module,),
        kv=attention.kv_state(parts, windows[index]),
        boundary=attention.hidden,
        ffn_active=experts.active_width,
    )
