"""Qwen's mixtures of experts: Qwen2-MoE (with a shared expert) and Qwen3-MoE."""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Request, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, FeedForward, Gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.llama import qwen_windows
from gpuplan.profiles.model import ModelProfile


def build_qwen2_moe(request: Request) -> ModelProfile:
    """Qwen1.5-MoE and Qwen2-57B-A14B: biases on queries, keys and values; a gated shared expert."""
    fields = request.fields
    attention = read_attention(fields, qkv_bias=fields.boolean("qkv_bias", True))
    shared = fields.integer("shared_expert_intermediate_size", minimum=0)
    return _build(request, attention, shared)


def build_qwen3_moe(request: Request) -> ModelProfile:
    """Qwen3-30B-A3B and its like: norms on the heads of queries and keys, no shared expert."""
    bias = request.fields.boolean("attention_bias", False)
    return _build(request, read_attention(request.fields, qkv_bias=bias, output_bias=bias, norms="head"), 0)


def qwen_feed_forwards(fields: ConfigFields, depth: int, shared: int) -> list[FeedForward]:
    """Return each layer's feed-forward part; `shared` is the width of the shared expert, 0 for none.

    Every ``decoder_sparse_step``-th layer has experts, but none that ``mlp_only_layers`` lists.
    """
    hidden = fields.integer("hidden_size")
    count, per_token = read_expert_counts(fields, "num_experts", "num_local_experts")
    experts = Experts(
        hidden,
        fields.integer("moe_intermediate_size"),
        count,
        per_token,
        shared_width=shared,
        shared_gate=shared > 0,
        shared="shared_expert",
    )
    step = fields.optional_integer("decoder_sparse_step") or 1
    listed = set(fields.integers("mlp_only_layers"))
    sparse = [index not in listed and (index + 1) % step == 0 for index in range(depth)]
    if all(sparse):  # such configs need not give the width of dense layers
        return [experts] * depth
    dense = Gated(hidden, fields.integer("intermediate_size"))
    return [experts if is_sparse else dense for is_sparse in sparse]


def _build(request: Request, attention: GroupedAttention, shared: int) -> ModelProfile:
    sizes = read_sizes(request.fields, attention.heads, attention.kv_heads)
    windows = qwen_windows(request)
    feed_forwards = qwen_feed_forwards(request.fields, len(windows), shared)
    blocks = [
        Block(sizes.hidden, attention, feed_forward, window)
        for feed_forward, window in zip(feed_forwards, windows, strict=True)
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)
