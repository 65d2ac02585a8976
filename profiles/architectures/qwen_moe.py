"""Qwen's mixtures of experts: Qwen2-MoE (with a shared expert) and Qwen3-MoE."""

from __future__ import annotations

from functools import partial

from gpuplan.profiles.architectures.assembly import Request, assemble, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, read_attention
from gpuplan.profiles.architectures.feed_forward import Experts, add_gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.llama import add_norms, qwen_windows
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.model import Layer, ModelProfile


def build_qwen2_moe(request: Request) -> ModelProfile:
    """Qwen1.5-MoE and Qwen2-57B-A14B: biases on queries, keys and values; a gated shared expert."""
    fields = request.fields
    attention = read_attention(fields, qkv_bias=fields.boolean("qkv_bias", True))
    shared = fields.integer("shared_expert_intermediate_size", minimum=0)
    return _build(request, attention, _experts(fields, shared))


def build_qwen3_moe(request: Request) -> ModelProfile:
    """Qwen3-30B-A3B and its like: norms on the heads of queries and keys, no shared expert."""
    bias = request.fields.boolean("attention_bias", False)
    attention = read_attention(request.fields, qkv_bias=bias, output_bias=bias, head_norms=True)
    return _build(request, attention, _experts(request.fields, 0))


def _experts(fields: ConfigFields, shared: int) -> Experts:
    count, per_token = read_expert_counts(fields, "num_experts", "num_local_experts")
    return Experts(
        fields.integer("hidden_size"),
        fields.integer("moe_intermediate_size"),
        count,
        per_token,
        shared_width=shared,
        shared_gate=shared > 0,
        shared="shared_expert",
    )


def _build(request: Request, attention: GroupedAttention, experts: Experts) -> ModelProfile:
    fields = request.fields
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    windows = qwen_windows(request)
    dense = _dense_layers(fields, len(windows))
    dense_width = fields.integer("intermediate_size") if dense else 0
    layer = partial(_decoder_layer, request, attention, experts, dense, dense_width, windows)
    return assemble(request, sizes, standard_ends(request, sizes), len(windows), layer)


def _dense_layers(fields: ConfigFields, depth: int) -> frozenset[int]:
    """Every ``decoder_sparse_step``-th layer has experts, except those in ``mlp_only_layers``."""
    step = fields.optional_integer("decoder_sparse_step") or 1
    listed = set(fields.integers("mlp_only_layers"))
    return frozenset(index for index in range(depth) if index in listed or (index + 1) % step)


def _decoder_layer(
    request: Request,
    attention: GroupedAttention,
    experts: Experts,
    dense: frozenset[int],
    dense_width: int,
    windows: list[int | None],
    index: int,
) -> Layer:
    module = f"{request.prefix}.layers.{index}"
    parts = LayerParts(request.precision, module)
    add_norms(parts, attention)
    attention.add_to(parts, windows[index])
    if index in dense:
        add_gated(parts, attention.hidden, dense_width)
    else:
        experts.add_to(parts)
    return parts.build(
        f"layer {index}",
        "decoder",
        (module,),
        kv=attention.kv_state(parts, windows[index]),
        boundary=attention.hidden,
        ffn_active=dense_width if index in dense else experts.active_width,
    )
