"""Llama 4: chunked attention in three layers of four, experts in every layer or every second one."""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, Gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.windows import FULL, read_kinds
from gpuplan.profiles.model import ModelProfile

_CHUNKED = "chunked_attention"
_DENSE_NAMES = ("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj")


def build_llama4(request: Request) -> ModelProfile:
    """Llama 4 Scout and Maverick. A chunked layer sees the tokens of its chunk only, so it keeps at most one chunk."""
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    attention = read_attention(fields, qkv_bias=bias, output_bias=bias)
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    chunks = _chunks(fields, read_depth(fields))
    sparse = _sparse_layers(fields, len(chunks))
    experts = _experts(fields) if sparse else None
    dense = None
    if len(sparse) < len(chunks):
        dense = Gated(sizes.hidden, fields.integer("intermediate_size_mlp"), names=_DENSE_NAMES)
    blocks = [
        Block(sizes.hidden, attention, experts if index in sparse else dense, chunk)
        for index, chunk in enumerate(chunks)
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)


def _experts(fields: ConfigFields) -> Experts:
    width = fields.integer("intermediate_size")
    count, per_token = read_expert_counts(fields, "num_local_experts")
    return Experts(
        fields.integer("hidden_size"),
        width,
        count,
        per_token,
        shared_width=width,
        module="feed_forward",
        shared="shared_expert",
    )


def _chunks(fields: ConfigFields, depth: int) -> list[int | None]:
    """Return each layer's chunk; layers without rotary positions (every fourth) attend to everything."""
    chunk = fields.optional_integer("attention_chunk_size")
    kinds = read_kinds(fields, depth, (FULL, _CHUNKED))
    if kinds is not None:
        return [chunk if kind == _CHUNKED else None for kind in kinds]
    rotary = fields.integers("no_rope_layers")
    if not rotary:
        every = fields.optional_integer("no_rope_layer_interval") or 4
        return [chunk if (index + 1) % every else None for index in range(depth)]
    if len(rotary) < depth:
        raise fields.error(f"expected 0 or 1 for each of the {depth} layers, got {len(rotary)}", "no_rope_layers")
    return [chunk if flag else None for flag in rotary[:depth]]


def _sparse_layers(fields: ConfigFields, depth: int) -> frozenset[int]:
    """Return the layers with experts: ``moe_layers``, or every ``interleave_moe_layer_step``-th."""
    if fields.config.get("moe_layers") is not None:
        return frozenset(index for index in fields.integers("moe_layers") if index < depth)
    step = fields.optional_integer("interleave_moe_layer_step", minimum=0)
    if step == 0:
        return frozenset()
    return frozenset(range((step or 1) - 1, depth, step or 1))
