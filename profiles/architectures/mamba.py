"""Mamba-2: a state-space mixer with a constant state."""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.architectures.precision import read_state_bytes
from gpuplan.profiles.model import KvState, Operator


@dataclass(frozen=True, slots=True)
class Mamba2:
    """`heads` heads of `head_dim` channels, each channel with `state_size` states; `groups` share their B and C.

    `kernel` is the taps of the convolution, `state_bytes` the bytes of one element of the state, `bias` that of the
    projections, `conv_bias` that of the convolution.
    """

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state_size: int
    kernel: int
    state_bytes: float
    bias: bool = False
    conv_bias: bool = True
    module: str = "mixer"

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state_size

    @property
    def state(self) -> int:
        """Elements of the state."""
        return self.inner * self.state_size

    def norm_weights(self) -> int:
        """Return 0: the gated norm is cut like the heads, so `add_to` counts it."""
        return 0

    def norm_elements(self) -> int:
        """Return 0, for the same reason."""
        return 0

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return the state, and the inputs the convolution looks back on."""
        looked_back = (self.kernel - 1) * self.channels * parts.precision.activation_bytes
        return KvState(constant_bytes=self.state * self.state_bytes + looked_back, heads=self.groups)

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add input projection, convolution and scan, gated norm, output projection.

        Per token and state element: decay (1), update by the outer product of x and B (2), read-out by C (2). The
        state is read and written once per pass and sequence: one position of a window of 1.
        """
        width = self.inner + self.channels + self.heads
        parts.matmul("in_proj", Linear(f"{self.module}.in_proj", self.hidden, width, self.bias))
        taps = (self.kernel + (1 if self.conv_bias else 0)) * self.channels
        parts.add(
            Operator(
                "scan",
                parts.precision.activation,
                flops_per_token=5.0 * self.state + 2.0 * self.kernel * self.channels,
                weight_bytes=parts.weights(taps + 3 * self.heads),
                bytes_per_token=(2 * self.channels + self.inner) * parts.precision.activation_bytes,
                bytes_per_position=2 * self.state * self.state_bytes,
                window=1,
            )
        )
        parts.elementwise("gated_norm", 3 * self.inner, weights=self.inner, sharded=True)
        parts.matmul("out_proj", Linear(f"{self.module}.out_proj", self.inner, self.hidden, self.bias))


def read_mamba2(fields: ConfigFields) -> Mamba2:
    """Read Nemotron-H's fields."""
    heads = fields.integer("mamba_num_heads")
    groups = fields.integer("n_groups", "mamba_n_groups")
    if heads % groups:
        raise fields.error(f"expected a number that divides the {heads} heads, got {groups}", "n_groups")
    return Mamba2(
        hidden=fields.integer("hidden_size"),
        heads=heads,
        head_dim=fields.integer("mamba_head_dim"),
        groups=groups,
        state_size=fields.integer("ssm_state_size"),
        kernel=fields.integer("conv_kernel", "mamba_d_conv"),
        state_bytes=read_state_bytes(fields),
        bias=fields.boolean("use_bias", False),
        conv_bias=fields.boolean("use_conv_bias", True),
    )
