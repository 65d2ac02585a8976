"""Grouped-query attention with a mixture of experts in every layer: Mixtral, MiniMax-M2, Phi-3.5-MoE, gpt-oss."""

from __future__ import annotations

from dataclasses import replace

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, Norms, read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, read_expert_counts
from gpuplan.profiles.architectures.windows import read_windows
from gpuplan.profiles.model import ModelProfile


def build_mixtral(request: Request) -> ModelProfile:
    """Mixtral 8x7B and 8x22B: Mistral's attention."""
    return _build(request, read_attention(request.fields), _experts(request))


def build_minimax_m2(request: Request) -> ModelProfile:
    """MiniMax-M2, M2.1 and M2.5: norms over whole rows of queries and keys, a correction on the router's choice.

    The multi-token-prediction modules of the files are no part of the pipeline and are not counted.
    """
    norms: Norms = "row" if request.fields.boolean("use_qk_norm", True) else "none"
    corrected = request.fields.boolean("use_routing_bias", True)
    return _build(
        request, read_attention(request.fields, norms=norms), replace(_experts(request), router_bias=corrected)
    )


def build_phimoe(request: Request) -> ModelProfile:
    """Phi-3.5-MoE: LayerNorms, biases on the projections of the attention and on the head where the config says so."""
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    attention = read_attention(fields, qkv_bias=bias, output_bias=bias)
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    ends = replace(
        standard_ends(request, sizes), norm_weights=2 * sizes.hidden, head_bias=fields.boolean("lm_head_bias", False)
    )
    experts, windows = _experts(request), read_windows(fields, read_depth(fields))
    blocks = [Block(sizes.hidden, attention, experts, window, norm_vectors=2) for window in windows]
    return assemble_blocks(request, sizes, ends, blocks)


def build_gpt_oss(request: Request) -> ModelProfile:
    """gpt-oss: biases everywhere, an attention sink a head, windows in every other layer unless the config says."""
    fields = request.fields
    bias = fields.boolean("attention_bias", True)
    attention = replace(read_attention(fields, qkv_bias=bias, output_bias=bias), sinks=True)
    experts = replace(_experts(request), bias=True, router_bias=True)
    return _build(request, attention, experts, default_window=128, every=2)


def _experts(request: Request) -> Experts:
    fields = request.fields
    count, per_token = read_expert_counts(fields, "num_local_experts", "num_experts")
    return Experts(fields.integer("hidden_size"), fields.integer("intermediate_size"), count, per_token)


def _build(
    request: Request,
    attention: GroupedAttention,
    experts: Experts,
    *,
    default_window: int | None = None,
    every: int = 0,
) -> ModelProfile:
    fields = request.fields
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    windows = read_windows(fields, read_depth(fields), default=default_window, every=every)
    blocks = [Block(sizes.hidden, attention, experts, window) for window in windows]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)
