"""GLM-4.5 to GLM-4.7: grouped-query attention, dense first layers, routed and shared experts behind them."""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import Norms, read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.deepseek import routed_feed_forwards
from gpuplan.profiles.model import ModelProfile


def build_glm4_moe(request: Request) -> ModelProfile:
    """GLM-4.5 and its kin; their multi-token-prediction layer is no part of the pipeline and is not counted."""
    fields = request.fields
    norms: Norms = "head" if fields.boolean("use_qk_norm", False) else "none"
    attention = read_attention(fields, qkv_bias=fields.boolean("attention_bias", False), norms=norms)
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    parts = routed_feed_forwards(fields, read_depth(fields), router_bias=True)
    blocks = [Block(sizes.hidden, attention, part) for part in parts]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)
