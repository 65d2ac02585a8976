"""Gemma 1 to 4: tied embeddings, norms on both sides of each half, sliding windows, soft caps.

Soft caps (``attn_logit_softcapping``, ``final_logit_softcapping``) change numbers, not sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, check_groups, read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, FeedForward, Gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.architectures.windows import read_windows
from gpuplan.profiles.model import ModelProfile

#: Defaults of transformers' configs: the windows, and every how many-th layer has full attention.
_WINDOW, _WINDOW_4 = 4096, 512
_EVERY_2, _EVERY_3 = 2, 6


def build_gemma(request: Request) -> ModelProfile:
    """Gemma 1 and CodeGemma: two norms, full attention."""
    bias = request.fields.boolean("attention_bias", False)
    attention = read_attention(request.fields, qkv_bias=bias, output_bias=bias)
    return _build(request, attention, [None] * read_depth(request.fields), norms=2)


def build_gemma2(request: Request) -> ModelProfile:
    """Gemma 2: every second layer attends to everything."""
    bias = request.fields.boolean("attention_bias", False)
    attention = read_attention(request.fields, qkv_bias=bias, output_bias=bias)
    windows = read_windows(request.fields, read_depth(request.fields), default=_WINDOW, every=_EVERY_2)
    return _build(request, attention, windows)


def build_gemma3(request: Request) -> ModelProfile:
    """Gemma 3: norms on queries and keys, every sixth layer attends to everything."""
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    attention = read_attention(fields, qkv_bias=bias, output_bias=bias, norms="head")
    every = fields.optional_integer("sliding_window_pattern") or _EVERY_3
    return _build(request, attention, read_windows(fields, read_depth(fields), default=_WINDOW, every=every))


def build_gemma4(request: Request) -> ModelProfile:
    """Gemma 4: layers of full attention have heads of their own size and number; a mixture beside the dense part.

    Raises
    ------
    InputError
        The small models' per-layer inputs and shared caches: such layers cannot be placed apart.
    """
    fields = request.fields
    for name in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if fields.optional_integer(name, minimum=0):
            raise fields.error(
                "expected 0: layers that read inputs or caches of other layers cannot be placed apart; "
                "describe the model by hand in a gpuplan/model/1 file (docs/models.md)",
                name,
            )
    bias = fields.boolean("attention_bias", False)
    sliding = read_attention(fields, qkv_bias=bias, output_bias=bias, norms="head")
    full = _full_attention(fields, sliding)
    windows = read_windows(fields, read_depth(fields), default=_WINDOW_4, every=_EVERY_3)
    windows[-1] = None  # whatever the config says of the last layer, the runtime gives it full attention
    feed_forward, norms = _feed_forward_4(fields, sliding.hidden)
    sizes = read_sizes(fields, sliding.heads, sliding.kv_heads)
    blocks = [
        Block(sizes.hidden, full if window is None else sliding, feed_forward, window, norms, scalars=1)
        for window in windows
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes, tied_by_default=True), blocks)


def _full_attention(fields: ConfigFields, sliding: GroupedAttention) -> GroupedAttention:
    shares = fields.boolean("attention_k_eq_v", False)
    kv_heads = sliding.kv_heads
    if shares:
        kv_heads = fields.optional_integer("num_global_key_value_heads") or kv_heads
        check_groups(fields, sliding.heads, kv_heads, "num_global_key_value_heads")
    head_dim = fields.optional_integer("global_head_dim") or sliding.head_dim
    return replace(sliding, kv_heads=kv_heads, head_dim=head_dim, keys_as_values=shares)


@dataclass(frozen=True, slots=True)
class _DenseBesideExperts:
    """Gemma 4's mixtures: a dense part and routed experts side by side, their outputs added."""

    dense: Gated
    experts: Experts

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        return self.dense.active_width + self.experts.active_width

    def add_to(self, parts: LayerParts) -> None:
        """Add both."""
        self.dense.add_to(parts)
        self.experts.add_to(parts)


def _feed_forward_4(fields: ConfigFields, hidden: int) -> tuple[FeedForward, int]:
    """Return the feed-forward part and how many norms over the hidden state go with it."""
    dense = Gated(hidden, fields.integer("intermediate_size"))
    if not fields.boolean("enable_moe_block", False):
        return dense, 4
    count, per_token = read_expert_counts(fields, "num_experts", per_token_names=("top_k_experts",))
    width = fields.integer("moe_intermediate_size")
    scales = hidden + count  # the router scales its input, and each expert's weight
    return _DenseBesideExperts(dense, Experts(hidden, width, count, per_token, router_weights=scales, module="")), 7


def _build(request: Request, attention: GroupedAttention, windows: list[int | None], *, norms: int = 4) -> ModelProfile:
    fields = request.fields
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    feed_forward = Gated(sizes.hidden, fields.integer("intermediate_size"))
    blocks = [Block(sizes.hidden, attention, feed_forward, window, norms) for window in windows]
    return assemble_blocks(request, sizes, standard_ends(request, sizes, tied_by_default=True), blocks)
