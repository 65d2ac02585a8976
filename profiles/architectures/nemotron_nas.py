"""Models thinned by a search (Llama-Nemotron Super, Ultra and 51B): each layer has its own heads and width, or none.

``block_configs`` gives them layer by layer, as the models' remote code (`DeciLMForCausalLM`) reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, check_groups, split_heads
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import FeedForward, Gated
from gpuplan.profiles.architectures.fields import ConfigFields, describe
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import KvState, ModelProfile

#: Widths are rounded up to a multiple of this.
_ROUND = 256


@dataclass(frozen=True, slots=True)
class _OneMatrix:
    """What a search may put in place of attention or of the feed-forward part: one square matrix."""

    hidden: int
    name: str

    @property
    def active_width(self) -> int:
        """Return 0: there is no intermediate."""
        return 0

    def norm_weights(self) -> int:
        """Return 0: no norms inside."""
        return 0

    def norm_elements(self) -> int:
        """Return 0: no norms inside."""
        return 0

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return an empty state."""
        return KvState()

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add the matrix."""
        parts.matmul(self.name.rpartition(".")[2], Linear(self.name, self.hidden, self.hidden))


def build_nemotron_nas(request: Request) -> ModelProfile:
    """Llama with a mixer and a feed-forward part of its own in every layer; parts taken out take their norm along."""
    fields = request.fields
    depth = read_depth(fields)
    blocks = [_block(fields, section) for section in fields.sections("block_configs")]
    if len(blocks) != depth:
        raise fields.error(f"expected one entry for each of the {depth} layers, got {len(blocks)}", "block_configs")
    heads = fields.integer("num_attention_heads")
    kv_heads = [block.mixer.kv_heads for block in blocks if isinstance(block.mixer, GroupedAttention)]
    sizes = read_sizes(fields, heads, max(kv_heads, default=heads))
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)


def _block(fields: ConfigFields, section: ConfigFields) -> Block:
    hidden = fields.integer("hidden_size")
    mixer = _mixer(fields, section, hidden)
    feed_forward = _feed_forward(section, hidden)
    norms = (mixer is not None) + (feed_forward is not None)
    return Block(hidden, mixer, feed_forward, norms=norms)


def _mixer(fields: ConfigFields, section: ConfigFields, hidden: int) -> GroupedAttention | _OneMatrix | None:
    attention = section.needed_section("attention")
    if attention.boolean("no_op", False):
        return None
    if attention.boolean("replace_with_linear", False):
        return _OneMatrix(hidden, "self_attn.linear_attn")
    heads = fields.integer("num_attention_heads")
    group = attention.integer("n_heads_in_group")
    check_groups(attention, heads, group, "n_heads_in_group")
    head_dim = fields.optional_integer("head_dim") or split_heads(fields, hidden, heads)
    bias = fields.boolean("attention_bias", False)
    return GroupedAttention(hidden, heads, heads // group, head_dim, bias, bias)


def _feed_forward(section: ConfigFields, hidden: int) -> FeedForward | None:
    part = section.needed_section("ffn")
    if part.boolean("no_op", False):
        return None
    if part.boolean("replace_with_linear", False):
        return _OneMatrix(hidden, "mlp.linear_mlp")
    return Gated(hidden, _width(part, hidden))


def _width(part: ConfigFields, hidden: int) -> int:
    """Return the width: two thirds of ``ffn_mult``·hidden, rounded up, or ``intermediate_size`` where it is given."""
    given = part.optional_integer("intermediate_size")
    if given is not None:
        return given
    factor = part.config.get("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1000:
        raise part.error(f"expected a number from 0 to 1000, got {describe(factor)}; correct the config", "ffn_mult")
    return math.ceil(int(2 * factor * hidden / 3) / _ROUND) * _ROUND
