"""OPT: learned positions, biases everywhere, a plain feed-forward, the head tied to the embedding."""

from __future__ import annotations

from functools import partial

from gpuplan.profiles.architectures.assembly import Ends, Request, Sizes, assemble, read_depth
from gpuplan.profiles.architectures.attention import GroupedAttention, split_heads
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import Layer, ModelProfile

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
    norm_weights = 2 * sizes.hidden if fields.boolean("layer_norm_elementwise_affine", True) else 0
    layer = partial(_decoder_layer, request, attention, width, bias, norm_weights)
    return assemble(request, sizes, _ends(request, sizes, norm_weights), read_depth(fields), layer)


def _sizes(fields: ConfigFields) -> Sizes:
    heads = fields.integer("num_attention_heads", "n_head")
    return Sizes(
        hidden=fields.integer("hidden_size", "hidden_dim"),
        vocab=fields.integer("vocab_size"),
        heads=heads,
        kv_heads=heads,
        max_position=fields.integer("max_position_embeddings", "max_seq_len"),
    )


def _ends(request: Request, sizes: Sizes, norm_weights: int) -> Ends:
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
        norm_weights=norm_weights if normed else 0,
        tied=fields.boolean("tie_word_embeddings", True),
        positions=(sizes.max_position or 0) + POSITION_OFFSET,
        embedding_width=width if projected else None,
    )


def _decoder_layer(
    request: Request, attention: GroupedAttention, width: int, bias: bool, norm_weights: int, index: int
) -> Layer:
    module = f"{request.prefix}.layers.{index}"
    hidden = attention.hidden
    parts = LayerParts(request.precision, module)
    parts.elementwise("norms", 8 * hidden, weights=2 * norm_weights)
    attention.add_to(parts)
    parts.matmul("fc1", Linear("fc1", hidden, width, bias))
    parts.elementwise("activation", 2 * width, sharded=True)
    parts.matmul("fc2", Linear("fc2", width, hidden, bias))
    return parts.build(
        f"layer {index}",
        "decoder",
        (module,),
        kv=attention.kv_state(parts),
        boundary=hidden,
        ffn_active=width,
    )
