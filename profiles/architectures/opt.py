"""OPT: learned positions, biases everywhere, a plain feed-forward, the head tied to the embedding."""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Ends, Request, Sizes, read_depth
from gpuplan.profiles.architectures.attention import GroupedAttention, split_heads
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Plain
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.model import ModelProfile

#: OPT's position table has two rows more than positions: its indices start at 2.
POSITION_OFFSET = 2
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")


def build_opt(request: Request) -> ModelProfile:
    """OPT-125M to OPT-175B; OPT-350M norms behind its blocks and has a narrower embedding."""
    fields = request.fields
    sizes = _sizes(fields)
    bias = fields.boolean("enable_bias", True)
    head_dim = split_heads(fields, sizes.hidden, sizes.heads)
    attention = GroupedAttention(sizes.hidden, sizes.heads, sizes.heads, head_dim, bias, bias, names=_PROJECTIONS)
    width = fields.integer("ffn_dim", "ffn_embed_dim", "intermediate_size")
    vectors = 2 if fields.boolean("layer_norm_elementwise_affine", True) else 0
    feed_forward = Plain(sizes.hidden, width, bias, ("fc1", "fc2"), operators=("fc1", "fc2"))
    block = Block(sizes.hidden, attention, feed_forward, norm_vectors=vectors)
    return assemble_blocks(request, sizes, _ends(request, sizes, vectors), [block] * read_depth(fields))


def _sizes(fields: ConfigFields) -> Sizes:
    heads = fields.integer("num_attention_heads", "n_head")
    return Sizes(
        hidden=fields.integer("hidden_size", "hidden_dim"),
        vocab=fields.integer("vocab_size"),
        heads=heads,
        kv_heads=heads,
        max_position=fields.integer("max_position_embeddings", "max_seq_len"),
    )


def _ends(request: Request, sizes: Sizes, vectors: int) -> Ends:
    """Return the ends; a model that norms behind its blocks has no final norm."""
    fields = request.fields
    prefix = request.prefix
    width = fields.optional_integer("word_embed_proj_dim") or sizes.hidden
    projected = width != sizes.hidden
    normed = fields.boolean("do_layer_norm_before", True) and not fields.boolean("_remove_final_layer_norm", False)
    return Ends(
        embedding_modules=(
            f"{prefix}.embed_tokens",
            f"{prefix}.embed_positions",
            *((f"{prefix}.project_in",) if projected else ()),
        ),
        head_modules=(
            *((f"{prefix}.final_layer_norm",) if normed else ()),
            *((f"{prefix}.project_out",) if projected else ()),
            "lm_head",
        ),
        norm_weights=vectors * sizes.hidden if normed else 0,
        tied=fields.boolean("tie_word_embeddings", True),
        positions=(sizes.max_position or 0) + POSITION_OFFSET,
        embedding_width=width if projected else None,
    )
