"""Gated delta nets: linear attention with a constant state, as the hybrids of Qwen3-Next and Qwen3.5 have it."""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.architectures.precision import read_state_bytes
from gpuplan.profiles.model import KvState, Operator


@dataclass(frozen=True, slots=True)
class GatedDelta:
    """A short convolution over queries, keys and values, then the delta rule on a matrix per value head.

    Parameters
    ----------
    hidden, key_heads, value_heads, key_dim, value_dim
        Sizes in elements; keys and queries have `key_heads` heads.
    kernel
        Taps of the convolution.
    state_bytes
        Bytes of one element of the state.
    fused
        One input projection for queries, keys, values and the output gate, one for the two rates (Qwen3-Next),
        instead of four (Qwen3.5).
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    state_bytes: float
    fused: bool

    @property
    def value_width(self) -> int:
        """Elements of all value heads of one token."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.value_width

    @property
    def state(self) -> int:
        """Elements of the state: a key×value matrix a value head."""
        return self.value_heads * self.key_dim * self.value_dim

    def norm_weights(self) -> int:
        """Return the weights of the gated norm, one a value dimension."""
        return self.value_dim

    def norm_elements(self) -> int:
        """Return the elements it moves per token: outputs and gates in, normed outputs out."""
        return 3 * self.value_width

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return the state, and the inputs the convolution looks back on."""
        looked_back = (self.kernel - 1) * self.channels * parts.precision.activation_bytes
        return KvState(constant_bytes=self.state * self.state_bytes + looked_back, heads=self.key_heads)

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add input projection, convolution and delta rule, output projection.

        Per token and state element: decay (1), read-out for the key (2), rank-one update (2), read-out for the query
        (2). The state is read and written once per pass and sequence: one position of a window of 1.
        """
        parts.matmul("in_proj", *self._input_linears())
        moved = (2 * self.channels + self.value_width) * parts.precision.activation_bytes
        parts.add(
            Operator(
                "delta_rule",
                parts.precision.activation,
                flops_per_token=7.0 * self.state + 2.0 * self.kernel * self.channels,
                weight_bytes=parts.weights(self.kernel * self.channels + 2 * self.value_heads),
                bytes_per_token=moved,
                bytes_per_position=2 * self.state * self.state_bytes,
                window=1,
            )
        )
        parts.matmul("out_proj", Linear("linear_attn.out_proj", self.value_width, self.hidden))

    def _input_linears(self) -> tuple[Linear, ...]:
        if self.fused:
            widths = {"in_proj_qkvz": self.channels + self.value_width, "in_proj_ba": 2 * self.value_heads}
        else:
            rates = {"in_proj_b": self.value_heads, "in_proj_a": self.value_heads}
            widths = {"in_proj_qkv": self.channels, "in_proj_z": self.value_width, **rates}
        return tuple(Linear(f"linear_attn.{name}", self.hidden, width) for name, width in widths.items())


def read_gated_delta(fields: ConfigFields, *, fused: bool) -> GatedDelta:
    """Read the ``linear_…`` fields."""
    key_heads = fields.integer("linear_num_key_heads")
    value_heads = fields.integer("linear_num_value_heads")
    if value_heads % key_heads:
        raise fields.error(
            f"expected a multiple of the {key_heads} key heads, got {value_heads}; correct the config",
            "linear_num_value_heads",
        )
    return GatedDelta(
        hidden=fields.integer("hidden_size"),
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=fields.integer("linear_key_head_dim"),
        value_dim=fields.integer("linear_value_head_dim"),
        kernel=fields.integer("linear_conv_kernel_dim"),
        state_bytes=read_state_bytes(fields),
        fused=fused,
    )
