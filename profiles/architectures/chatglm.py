"""ChatGLM2, ChatGLM3 and GLM-4 as their own remote code has them (`ChatGLMForConditionalGeneration`).

Queries, keys and values come from one fused projection with a bias, in multi-query groups; gate and up are one
matrix too. The first ChatGLM-6B has the same ``model_type`` but other fields, and is refused by what it lacks.
"""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Ends, Request, Sizes, read_depth
from gpuplan.profiles.architectures.attention import GroupedAttention, check_groups
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Gated
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.model import ModelProfile

_PROJECTIONS = ("self_attention.query_key_value", "self_attention.dense")
_MLP = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def build_chatglm(request: Request) -> ModelProfile:
    """ChatGLM2-6B and its successors."""
    fields = request.fields
    bias = fields.boolean("add_bias_linear", False)
    attention = _attention(fields, bias)
    sizes = Sizes(
        hidden=attention.hidden,
        vocab=fields.integer("padded_vocab_size", "vocab_size"),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        max_position=fields.optional_integer("seq_length"),
    )
    width = fields.integer("ffn_hidden_size")
    vectors = 1 if fields.boolean("rmsnorm", True) else 2
    block = Block(sizes.hidden, attention, Gated(sizes.hidden, width, bias, _MLP), norm_vectors=vectors)
    depth = read_depth(fields, "num_layers", "num_hidden_layers")
    ends = _ends(request, vectors * sizes.hidden)
    return assemble_blocks(request, sizes, ends, [block] * depth, layers="encoder.layers")


def _attention(fields: ConfigFields, bias: bool) -> GroupedAttention:
    heads = fields.integer("num_attention_heads")
    grouped = fields.boolean("multi_query_attention", False)
    kv_heads = fields.integer("multi_query_group_num") if grouped else heads
    check_groups(fields, heads, kv_heads, "multi_query_group_num")
    return GroupedAttention(
        hidden=fields.integer("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=fields.integer("kv_channels"),
        qkv_bias=bias or fields.boolean("add_qkv_bias", False),
        output_bias=bias,
        names=_PROJECTIONS,
    )


def _ends(request: Request, norm_weights: int) -> Ends:
    prefix = request.prefix
    normed = request.fields.boolean("post_layer_norm", True)
    return Ends(
        embedding_modules=(f"{prefix}.embedding", f"{prefix}.rotary_pos_emb"),
        head_modules=(
            *((f"{prefix}.encoder.final_layernorm",) if normed else ()),
            f"{prefix}.output_layer",
        ),
        norm_weights=norm_weights if normed else 0,
        tied=request.fields.boolean("tie_word_embeddings", False),
    )
