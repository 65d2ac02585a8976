"""MiniMax-Text-01 and MiniMax-M1: lightning attention in most layers, full attention in a few, experts in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.architectures.windows import FULL, read_kinds
from gpuplan.profiles.model import KvState, ModelProfile, Operator

_LINEAR = "linear_attention"


@dataclass(frozen=True, slots=True)
class LightningAttention:
    """Linear attention with a decay per head: the state of a head is one head_dim×head_dim matrix.

    Parameters
    ----------
    hidden, heads, head_dim
        Sizes in elements; queries, keys and values have as many heads.

    References
    ----------
    MiniMax-01 (arXiv:2501.08313), section 2.2.
    """

    hidden: int
    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Elements of all heads of one token."""
        return self.heads * self.head_dim

    @property
    def state(self) -> int:
        """Elements of the state of one sequence."""
        return self.heads * self.head_dim * self.head_dim

    def norm_weights(self) -> int:
        """Return the weights of the norm on the outputs of all heads."""
        return self.width

    def norm_elements(self) -> int:
        """Return the elements it moves per token."""
        return 2 * self.width

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return the state, kept in the activation dtype."""
        return KvState(constant_bytes=self.state * parts.precision.activation_bytes, heads=self.heads)

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add input projection, recurrence, output gate and output projection.

        Per token and state element: decay (1), outer product of key and value (2), read-out for the query (2). The
        state is read and written once per pass and sequence: one position of a window of 1.
        """
        size = parts.precision.activation_bytes
        parts.matmul("qkv_proj", Linear("self_attn.qkv_proj", self.hidden, 3 * self.width))
        parts.add(
            Operator(
                "lightning_attention",
                parts.precision.activation,
                flops_per_token=5.0 * self.state,
                bytes_per_token=4 * self.width * size,
                bytes_per_position=2 * self.state * size,
                window=1,
            )
        )
        parts.matmul("output_gate", Linear("self_attn.output_gate", self.hidden, self.width))
        parts.matmul("out_proj", Linear("self_attn.out_proj", self.width, self.hidden))


def build_minimax(request: Request) -> ModelProfile:
    """MiniMax-Text-01 and M1; ``attn_type_list`` (0 lightning, 1 full) or ``layer_types`` says which layer is which."""
    fields = request.fields
    attention = read_attention(fields)
    linear = LightningAttention(attention.hidden, attention.heads, attention.head_dim)
    count, per_token = read_expert_counts(fields, "num_local_experts", "num_experts")
    experts = Experts(
        attention.hidden, fields.integer("intermediate_size"), count, per_token, module="block_sparse_moe"
    )
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    blocks = [
        Block(sizes.hidden, attention if kind == FULL else linear, experts)
        for kind in _kinds(fields, read_depth(fields))
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)


def _kinds(fields: ConfigFields, depth: int) -> Sequence[str]:
    """Return each layer's kind; where the config says nothing every other one is full, as in the runtime's class."""
    numbers = fields.config.get("attn_type_list")
    if numbers is None:
        default = [FULL if index % 2 == 0 else _LINEAR for index in range(depth)]
        return read_kinds(fields, depth, (FULL, _LINEAR)) or default
    known = isinstance(numbers, list) and all(
        isinstance(number, int) and not isinstance(number, bool) and number in (0, 1) for number in numbers
    )
    if not known or len(numbers) != depth:
        raise fields.error(
            f"expected 0 (lightning) or 1 (full attention) for each of the {depth} layers; correct the list",
            "attn_type_list",
        )
    return [FULL if number else _LINEAR for number in numbers]
