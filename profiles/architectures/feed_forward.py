"""Feed-forward parts: gated, plain, and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import Operator

GATED_NAMES = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class FeedForward(Protocol):
    """The second half of a transformer block."""

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        ...

    def add_to(self, parts: LayerParts) -> None:
        """Add its weights and operators."""
        ...


@dataclass(frozen=True, slots=True)
class Gated:
    """``down(act(gate(x))·up(x))``: two matmuls and the activation between them.

    `names` are gate, up and down inside the layer, or one fused name for gate and up, then down.
    """

    hidden: int
    width: int
    bias: bool = False
    names: tuple[str, ...] = GATED_NAMES

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        return self.width

    def add_to(self, parts: LayerParts) -> None:
        """Add its weights and operators."""
        width = 2 * self.width if len(self.names) == 2 else self.width
        parts.matmul("gate_up_proj", *(Linear(name, self.hidden, width, self.bias) for name in self.names[:-1]))
        parts.elementwise("activation", 3 * self.width, sharded=True)
        parts.matmul("down_proj", Linear(self.names[-1], self.width, self.hidden, self.bias))


@dataclass(frozen=True, slots=True)
class Plain:
    """``down(act(up(x)))``; `names` are up and down inside the layer, and `operators` what to call their work."""

    hidden: int
    width: int
    bias: bool = False
    names: tuple[str, str] = ("mlp.up_proj", "mlp.down_proj")
    operators: tuple[str, str] = ("up_proj", "down_proj")

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        return self.width

    def add_to(self, parts: LayerParts) -> None:
        """Add its weights and operators."""
        parts.matmul(self.operators[0], Linear(self.names[0], self.hidden, self.width, self.bias))
        parts.elementwise("activation", 2 * self.width, sharded=True)
        parts.matmul(self.operators[1], Linear(self.names[1], self.width, self.hidden, self.bias))


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of `count` experts of `width`, `per_token` of them for each token, and shared ones.

    Parameters
    ----------
    hidden, width
        Width of the layer and of one routed expert.
    count, per_token
        E and k.
    shared_width
        Width of all shared experts together, which every token passes; 0 for none.
    shared_gate
        A hidden→1 gate on the shared expert (Qwen2-MoE).
    router_bias
        A bias of E numbers on the router (gpt-oss), or one that corrects its choice (DeepSeek-V3).
    bias
        The experts' maps have biases (gpt-oss).
    gated
        Experts have a gate; without one they are up and down only (Nemotron-H).
    latent
        Width the routed experts work at, between two projections (Nemotron 3); None for that of the layer.
    router_weights
        Further weights of the router: its scales (Gemma 4).
    module, shared
        Module names inside the layer.
    """

    hidden: int
    width: int
    count: int
    per_token: int
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    bias: bool = False
    gated: bool = True
    latent: int | None = None
    router_weights: int = 0
    module: str = "mlp"
    shared: str = "shared_experts"

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        return self.per_token * self.width + self.shared_width

    def add_to(self, parts: LayerParts) -> None:
        """Add router, routed experts and shared experts."""
        self._add_router(parts)
        if self.latent is not None:
            down = Linear(f"{self.module}.fc1_latent_proj", self.hidden, self.latent)
            parts.matmul("latent_proj", down, Linear(f"{self.module}.fc2_latent_proj", self.latent, self.hidden))
        names = ".".join(part for part in (self.module, "experts") if part)
        routed = _Part("experts", names, self.latent or self.hidden, self.width, self.count, self.per_token)
        self._add_experts(parts, routed)
        if self.shared_width:
            module = f"{self.module}.{self.shared}"
            self._add_experts(parts, _Part("shared_experts", module, self.hidden, self.shared_width, 1, 1))

    def _add_router(self, parts: LayerParts) -> None:
        """Routers (and the shared expert's gate) stay in the activation dtype and on every rank."""
        outputs = self.count + (1 if self.shared_gate else 0)
        others = self.router_weights + (self.count if self.router_bias else 0)
        parts.add(
            Operator(
                "router",
                parts.precision.activation,
                flops_per_token=2.0 * self.hidden * outputs,
                weight_bytes=parts.weights(self.hidden * outputs + others, replicated=True),
                bytes_per_token=(self.hidden + outputs) * parts.precision.activation_bytes,
                sharded=False,
            )
        )

    def _add_experts(self, parts: LayerParts, part: _Part) -> None:
        """Per expert and token: read x, write gate and up, read them, write and read the product, write y."""
        inputs = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        linears = (
            *(Linear(f"{part.module}.{name}", part.hidden, part.width, self.bias) for name in inputs),
            Linear(f"{part.module}.down_proj", part.width, part.hidden, self.bias),
        )
        moved = 2 * part.hidden + (2 * len(inputs) + 2) * part.width
        parts.add(
            Operator(
                part.name,
                parts.compute_dtype(*linears),
                flops_per_token=2.0 * part.used * sum(linear.matrix for linear in linears),
                weight_bytes=parts.linears(*linears, copies=part.count),
                bytes_per_token=part.used * moved * parts.precision.activation_bytes,
                experts=part.count if part.count > 1 else 0,
                experts_per_token=part.used if part.count > 1 else 0,
            )
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """The routed or the shared experts of a mixture: `count` of `hidden`→`width`→`hidden`, `used` per token."""

    name: str
    module: str
    hidden: int
    width: int
    count: int
    used: int


def read_expert_counts(
    fields: ConfigFields, *names: str, per_token_names: tuple[str, ...] = ("num_experts_per_tok", "experts_per_token")
) -> tuple[int, int]:
    """Return E and k, k at most E."""
    count = fields.integer(*names)
    per_token = fields.integer(*per_token_names)
    if per_token > count:
        raise fields.error(
            f"expected at most the {count} experts there are, got {per_token}; correct the config",
            per_token_names[0],
        )
    return count, per_token
