"""Grouped-query attention, the kind nearly every family has (MLA lives in `deepseek`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import KvState, Operator

#: Norms on queries and keys: none, one a head, or one over the whole row of all heads.
Norms = Literal["none", "head", "row"]


class Mixer(Protocol):
    """The part of a block in which tokens see each other: attention of some kind, or a recurrent state."""

    def norm_weights(self) -> int:
        """Return the weights of the norms inside."""
        ...

    def norm_elements(self) -> int:
        """Return the elements those norms move per token."""
        ...

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return what it keeps per sequence."""
        ...

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add its weights and operators."""
        ...


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """`heads` query heads share `kv_heads` heads of keys and values.

    Parameters
    ----------
    hidden, heads, kv_heads, head_dim
        Sizes in elements.
    qkv_bias, output_bias
        Which projections have a bias.
    norms
        RMS norms on queries and keys: ``head``, of `head_dim` weights each (Qwen3), or ``row``, over all heads of a
        token at once (MiniMax-M2).
    names
        Module names of the input projection(s) and the output projection inside the layer.
    gate
        The query projection also gives a gate on the output, as wide as the queries (Qwen3-Next).
    sinks
        One learned logit a head stands beside the keys (gpt-oss).
    keys_as_values
        Values are the keys' projection before its norm: no matrix of their own, but cached all the same (Gemma 4).
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    norms: Norms = "none"
    names: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    gate: bool = False
    sinks: bool = False
    keys_as_values: bool = False

    @property
    def query_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key heads (or all value heads) of one token."""
        return self.kv_heads * self.head_dim

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return the layer's cache: 2·kv_heads·head_dim elements a token."""
        return KvState(2 * self.kv_width * parts.precision.kv_bytes, window, heads=self.kv_heads)

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add qkv projection, attention and output projection.

        Query-key products and the weighted values cost ``4·heads·head_dim`` FLOPs a pair; the cache is read once
        for every position of every sequence.
        """
        linears = self._input_linears()
        size = parts.matmul("qkv_proj", *linears)
        parts.kv_projections(size * (1.0 - self._query_outputs() / sum(linear.outputs for linear in linears)))
        kv = self.kv_state(parts).bytes_per_token
        moved = 2 * (self.query_width + self.kv_width) + (3 * self.query_width if self.gate else 0)
        parts.add(
            Operator(
                "attention",
                parts.precision.activation,
                flops_per_pair=4.0 * self.query_width,
                weight_bytes=parts.weights(self.heads if self.sinks else 0),
                bytes_per_token=moved * parts.precision.activation_bytes + kv,
                bytes_per_position=kv,
                window=window,
            )
        )
        parts.matmul("o_proj", Linear(self.names[-1], self.query_width, self.hidden, self.output_bias))

    def _query_outputs(self) -> int:
        return self.query_width * (2 if self.gate else 1)

    def _input_linears(self) -> tuple[Linear, ...]:
        widths = [self._query_outputs(), self.kv_width, self.kv_width]
        names = self.names[:-1]
        if len(names) == 1:  # one fused projection
            widths = [sum(widths)]
        elif self.keys_as_values:
            names, widths = names[:2], widths[:2]
        return tuple(Linear(name, self.hidden, width, self.qkv_bias) for name, width in zip(names, widths, strict=True))

    def norm_weights(self) -> int:
        """Return the weights of the norms on queries and keys."""
        return {"none": 0, "head": 2 * self.head_dim, "row": self.query_width + self.kv_width}[self.norms]

    def norm_elements(self) -> int:
        """Return the elements those norms move per token."""
        return 0 if self.norms == "none" else 2 * (self.query_width + self.kv_width)


def read_attention(
    fields: ConfigFields,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    norms: Norms = "none",
) -> GroupedAttention:
    """Read the usual field names; heads must divide evenly."""
    hidden = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.optional_integer("num_key_value_heads") or heads
    check_groups(fields, heads, kv_heads, "num_key_value_heads")
    head_dim = fields.optional_integer("head_dim") or split_heads(fields, hidden, heads)
    return GroupedAttention(hidden, heads, kv_heads, head_dim, qkv_bias, output_bias, norms)


def split_heads(fields: ConfigFields, hidden: int, heads: int) -> int:
    """Return hidden/heads, refusing a remainder."""
    if hidden % heads:
        raise fields.error(
            f"expected num_attention_heads to divide hidden_size, got {heads} heads and {hidden}; "
            "correct one of them or add head_dim",
            "num_attention_heads",
        )
    return hidden // heads


def check_groups(fields: ConfigFields, heads: int, kv_heads: int, name: str) -> None:
    """Refuse KV heads that do not divide the attention heads."""
    if heads % kv_heads:
        raise fields.error(
            f"expected a number that divides the {heads} attention heads, got {kv_heads}; correct the config", name
        )
