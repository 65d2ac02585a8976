"""Nemotron-H and Nemotron 3: layers that are a Mamba-2 mixer, attention, a feed-forward part or experts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuplan.profiles.architectures.assembly import MOST_LAYERS, Ends, Request, read_sizes
from gpuplan.profiles.architectures.attention import (
    GroupedAttention,
    Mixer,
    check_groups,
)
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, FeedForward, Plain, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields, describe
from gpuplan.profiles.architectures.mamba import read_mamba2
from gpuplan.profiles.model import ModelProfile

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_KINDS = {"linear_attention": "mamba", "full_attention": "attention"} | {kind: kind for kind in _LETTERS.values()}
_PROJECTIONS = ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj")


def build_nemotron_h(request: Request) -> ModelProfile:
    """Every layer has one norm and one part; ``hybrid_override_pattern`` or ``layers_block_type`` says which."""
    fields = request.fields
    kinds = _read_kinds(fields)
    heads, kv_heads = _heads(fields)
    sizes = read_sizes(fields, heads, kv_heads)
    made = {kind: _part(fields, kind) for kind in dict.fromkeys(kinds)}
    blocks = [Block(sizes.hidden, *made[kind], norms=1) for kind in kinds]
    ends = Ends(
        embedding_modules=(f"{request.prefix}.embeddings",),
        head_modules=(f"{request.prefix}.norm_f", request.head),
        norm_weights=sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", False),
    )
    return assemble_blocks(request, sizes, ends, blocks)


def _part(fields: ConfigFields, kind: str) -> tuple[Mixer | None, FeedForward | None]:
    """Return a layer's mixer and feed-forward part, one of them None."""
    if kind == "mamba":
        return read_mamba2(fields), None
    if kind == "attention":
        return _attention(fields), None
    return None, _mlp(fields) if kind == "mlp" else _experts(fields)


def _heads(fields: ConfigFields) -> tuple[int, int]:
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.optional_integer("num_key_value_heads") or heads
    check_groups(fields, heads, kv_heads, "num_key_value_heads")
    return heads, kv_heads


def _attention(fields: ConfigFields) -> GroupedAttention:
    heads, kv_heads = _heads(fields)
    head_dim = fields.optional_integer("head_dim", "attention_head_dim") or 128  # transformers' default
    return GroupedAttention(fields.integer("hidden_size"), heads, kv_heads, head_dim, names=_PROJECTIONS)


def _mlp(fields: ConfigFields) -> Plain:
    names = ("mixer.up_proj", "mixer.down_proj")
    hidden, width = fields.integer("hidden_size"), fields.integer("intermediate_size")
    return Plain(hidden, width, fields.boolean("mlp_bias", False), names)


def _experts(fields: ConfigFields) -> Experts:
    count, per_token = read_expert_counts(fields, "n_routed_experts")
    experts = Experts(
        fields.integer("hidden_size"),
        fields.integer("moe_intermediate_size"),
        count,
        per_token,
        shared_width=fields.integer("moe_shared_expert_intermediate_size", minimum=0),
        router_bias=True,
        gated=False,
        module="mixer",
    )
    return replace(experts, latent=fields.optional_integer("moe_latent_size"))


def _read_kinds(fields: ConfigFields) -> Sequence[str]:
    """Return the kind of every layer; the list (or pattern) says how many there are."""
    listed = fields.strings("layers_block_type")
    if listed:
        kinds = [_known(fields, kind, _KINDS, f"layers_block_type[{index}]") for index, kind in enumerate(listed)]
    else:
        name = "hybrid_override_pattern"
        pattern = fields.text(name)
        if not pattern:
            raise fields.error("expected a letter for each layer (M, *, - or E), found none; add it", name)
        kinds = [_known(fields, letter, _LETTERS, name) for letter in pattern]
    depth = fields.optional_integer("num_hidden_layers", maximum=MOST_LAYERS)
    if len(kinds) > MOST_LAYERS or depth not in (None, len(kinds)):
        raise fields.error(
            f"expected as many layers as the {len(kinds)} kinds listed, got {depth or len(kinds)}; correct one of them",
            "num_hidden_layers",
        )
    return kinds


def _known(fields: ConfigFields, value: str, known: dict[str, str], place: str) -> str:
    if value not in known:
        raise fields.error(f"expected one of {', '.join(known)}, got {describe(value)}; correct the config", place)
    return known[value]
