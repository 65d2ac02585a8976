"""The GPT line: GPT-2, GPT-J, GPT-NeoX, BLOOM, Falcon and Phi-2: LayerNorms and a plain feed-forward part.

GPT-J, Falcon and Phi-2 compute attention and feed-forward side by side from one norm; that saves a norm, and changes
neither sizes nor the work of the matrices.
"""

from __future__ import annotations

from gpuplan.profiles.architectures.assembly import Ends, Request, Sizes, read_depth
from gpuplan.profiles.architectures.attention import GroupedAttention, check_groups, split_heads
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Plain
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.model import ModelProfile

_HIDDEN = ("hidden_size", "n_embd", "n_embed", "hidden_dim")
_HEADS = ("num_attention_heads", "n_head")
_DEPTH = ("num_hidden_layers", "n_layer", "num_layers")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_4H = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_FUSED = ("self_attention.query_key_value", "self_attention.dense")


def build_gpt2(request: Request) -> ModelProfile:
    """GPT-2: learned positions, one fused projection, biases everywhere, a tied head."""
    fields = request.fields
    sizes = _sizes(fields)
    attention = _attention(fields, sizes, qkv_bias=True, output_bias=True, names=("attn.c_attn", "attn.c_proj"))
    width = fields.optional_integer("n_inner") or 4 * sizes.hidden
    feed_forward = Plain(sizes.hidden, width, True, ("mlp.c_fc", "mlp.c_proj"))
    ends = Ends(
        embedding_modules=(f"{request.prefix}.wte", f"{request.prefix}.wpe"),
        head_modules=(f"{request.prefix}.ln_f", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", True),
        positions=fields.integer("n_positions", "max_position_embeddings"),
    )
    return _blocks(request, sizes, ends, Block(sizes.hidden, attention, feed_forward, norm_vectors=2), layers="h")


def build_gptj(request: Request) -> ModelProfile:
    """GPT-J: one norm a layer, no biases in attention, a head with a bias."""
    fields = request.fields
    sizes = _sizes(fields)
    names = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj")
    attention = _attention(fields, sizes, names=names)
    width = fields.optional_integer("n_inner") or 4 * sizes.hidden
    feed_forward = Plain(sizes.hidden, width, True, ("mlp.fc_in", "mlp.fc_out"))
    ends = Ends(
        embedding_modules=(f"{request.prefix}.wte",),
        head_modules=(f"{request.prefix}.ln_f", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", False),
        head_bias=True,
    )
    block = Block(sizes.hidden, attention, feed_forward, norms=1, norm_vectors=2)
    return _blocks(request, sizes, ends, block, layers="h")


def build_gpt_neox(request: Request) -> ModelProfile:
    """GPT-NeoX-20B, Pythia: two norms a layer, biases everywhere but on the head."""
    fields = request.fields
    sizes = _sizes(fields)
    bias = fields.boolean("attention_bias", True)
    names = ("attention.query_key_value", "attention.dense")
    attention = _attention(fields, sizes, qkv_bias=bias, output_bias=bias, names=names)
    feed_forward = Plain(sizes.hidden, fields.integer("intermediate_size"), True, _4H)
    ends = Ends(
        embedding_modules=(f"{request.prefix}.embed_in", f"{request.prefix}.rotary_emb"),
        head_modules=(f"{request.prefix}.final_layer_norm", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", False),
    )
    return _blocks(request, sizes, ends, Block(sizes.hidden, attention, feed_forward, norm_vectors=2))


def build_bloom(request: Request) -> ModelProfile:
    """BLOOM: ALiBi instead of positions, a norm on the embedding, biases everywhere, a tied head."""
    fields = request.fields
    sizes = _sizes(fields)
    attention = _attention(fields, sizes, qkv_bias=True, output_bias=True, names=_FUSED)
    width = fields.optional_integer("ffn_embed_dim", "n_inner") or 4 * sizes.hidden
    ends = Ends(
        embedding_modules=(f"{request.prefix}.word_embeddings", f"{request.prefix}.word_embeddings_layernorm"),
        head_modules=(f"{request.prefix}.ln_f", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", True),
        embedding_norm_weights=2 * sizes.hidden,
    )
    block = Block(sizes.hidden, attention, Plain(sizes.hidden, width, True, _4H), norm_vectors=2)
    return _blocks(request, sizes, ends, block, layers="h")


def build_falcon(request: Request) -> ModelProfile:
    """Falcon 7B (one key head), 40B and 180B (grouped heads, two norms side by side), and Falcon-RW (ALiBi)."""
    fields = request.fields
    sizes = _sizes(fields, _falcon_kv_heads(fields))
    bias = fields.boolean("bias", False)
    attention = _attention(fields, sizes, qkv_bias=bias, output_bias=bias, names=_FUSED)
    width = fields.optional_integer("ffn_hidden_size") or 4 * sizes.hidden
    ends = Ends(
        embedding_modules=(f"{request.prefix}.word_embeddings", f"{request.prefix}.rotary_emb"),
        head_modules=(f"{request.prefix}.ln_f", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", True),
    )
    feed_forward = Plain(sizes.hidden, width, bias, _4H)
    block = Block(sizes.hidden, attention, feed_forward, norms=_falcon_norms(fields), norm_vectors=2)
    return _blocks(request, sizes, ends, block, layers="h")


def build_phi(request: Request) -> ModelProfile:
    """Phi-1, 1.5 and 2: one norm a layer, biases everywhere, on the head too."""
    fields = request.fields
    heads = fields.integer("num_attention_heads")
    sizes = _sizes(fields, fields.optional_integer("num_key_value_heads") or heads)
    normed = fields.boolean("qk_layernorm", False)
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense")
    attention = _attention(fields, sizes, qkv_bias=True, output_bias=True, names=names, normed=normed)
    feed_forward = Plain(sizes.hidden, fields.integer("intermediate_size"), True, ("mlp.fc1", "mlp.fc2"))
    ends = Ends(
        embedding_modules=(f"{request.prefix}.embed_tokens", f"{request.prefix}.rotary_emb"),
        head_modules=(f"{request.prefix}.final_layernorm", request.head),
        norm_weights=2 * sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", False),
        head_bias=True,
    )
    biases = 2 * attention.head_dim if normed else 0  # the norms on queries and keys are LayerNorms here
    block = Block(sizes.hidden, attention, feed_forward, norms=1, norm_vectors=2, scalars=biases)
    return _blocks(request, sizes, ends, block)


def _sizes(fields: ConfigFields, kv_heads: int | None = None) -> Sizes:
    heads = fields.integer(*_HEADS)
    return Sizes(
        hidden=fields.integer(*_HIDDEN),
        vocab=fields.integer("vocab_size"),
        heads=heads,
        kv_heads=kv_heads or heads,
        max_position=fields.optional_integer(*_POSITIONS),
    )


def _attention(
    fields: ConfigFields,
    sizes: Sizes,
    *,
    names: tuple[str, ...],
    qkv_bias: bool = False,
    output_bias: bool = False,
    normed: bool = False,
) -> GroupedAttention:
    check_groups(fields, sizes.heads, sizes.kv_heads, "num_key_value_heads")
    return GroupedAttention(
        sizes.hidden,
        sizes.heads,
        sizes.kv_heads,
        split_heads(fields, sizes.hidden, sizes.heads),
        qkv_bias,
        output_bias,
        "head" if normed else "none",
        names,
    )


def _falcon_kv_heads(fields: ConfigFields) -> int:
    heads = fields.integer(*_HEADS)
    if fields.boolean("new_decoder_architecture", False):
        return fields.optional_integer("num_kv_heads", "n_head_kv") or heads
    return 1 if fields.boolean("multi_query", True) else heads


def _falcon_norms(fields: ConfigFields) -> int:
    """Return the norms of a layer: two, but one where attention and feed-forward share it."""
    if fields.boolean("new_decoder_architecture", False):
        return fields.optional_integer("num_ln_in_parallel_attn", maximum=2) or 2
    return 1 if fields.boolean("parallel_attn", True) else 2


def _blocks(request: Request, sizes: Sizes, ends: Ends, block: Block, *, layers: str = "layers") -> ModelProfile:
    return assemble_blocks(request, sizes, ends, [block] * read_depth(request.fields, *_DEPTH), layers=layers)
