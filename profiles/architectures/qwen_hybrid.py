"""Qwen3-Next and Qwen3.5: three layers of gated delta nets for each layer of gated full attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import FeedForward, Gated
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.gated_delta import read_gated_delta
from gpuplan.profiles.architectures.qwen_moe import qwen_feed_forwards
from gpuplan.profiles.architectures.windows import FULL, read_kinds
from gpuplan.profiles.model import ModelProfile

_LINEAR = "linear_attention"


def build_qwen3_next(request: Request) -> ModelProfile:
    """Qwen3-Next: experts and a gated shared one in every layer."""
    return _build(request, _mixtures(request.fields), fused=True)


def build_qwen3_5(request: Request) -> ModelProfile:
    """Qwen3.5, the dense sizes."""
    fields = request.fields
    dense = Gated(fields.integer("hidden_size"), fields.integer("intermediate_size"))
    return _build(request, [dense] * read_depth(fields), fused=False)


def build_qwen3_5_moe(request: Request) -> ModelProfile:
    """Qwen3.5, the mixtures."""
    return _build(request, _mixtures(request.fields), fused=False)


def _mixtures(fields: ConfigFields) -> list[FeedForward]:
    shared = fields.integer("shared_expert_intermediate_size", minimum=0)
    return qwen_feed_forwards(fields, read_depth(fields), shared)


def _build(request: Request, feed_forwards: Sequence[FeedForward], *, fused: bool) -> ModelProfile:
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    attention = read_attention(fields, qkv_bias=bias, output_bias=bias, norms="head")
    attention = replace(attention, gate=fields.boolean("attn_output_gate", True))
    kinds = _kinds(fields, len(feed_forwards))
    linear = read_gated_delta(fields, fused=fused) if _LINEAR in kinds else None
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    blocks = [
        Block(sizes.hidden, attention if kind == FULL else linear, feed_forward)
        for kind, feed_forward in zip(kinds, feed_forwards, strict=True)
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)


def _kinds(fields: ConfigFields, depth: int) -> Sequence[str]:
    """Return each layer's kind; without ``layer_types`` every ``full_attention_interval``-th is full attention."""
    kinds = read_kinds(fields, depth, (FULL, _LINEAR))
    every = fields.optional_integer("full_attention_interval") or 4
    return kinds or [_LINEAR if (index + 1) % every else FULL for index in range(depth)]
