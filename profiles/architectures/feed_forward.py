"""Feed-forward parts: gated, plain, and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import Operator


def add_gated(parts: LayerParts, hidden: int, width: int, *, bias: bool = False, module: str = "mlp") -> None:
    """Add ``down(act(gate(x))·up(x))``: two matmuls and the activation between them."""
    parts.matmul(
        "gate_up_proj",
        Linear(f"{module}.gate_proj", hidden, width, bias),
        Linear(f"{module}.up_proj", hidden, width, bias),
    )
    parts.elementwise("activation", 3 * width, sharded=True)
    parts.matmul("down_proj", Linear(f"{module}.down_proj", width, hidden, bias))


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of `count` gated experts of `width`, `per_token` of them for each token, and shared ones.

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
        A bias of E numbers that corrects the routing (DeepSeek-V3).
    module, router
        Module names inside the layer.
    """

    hidden: int
    width: int
    count: int
    per_token: int
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    module: str = "mlp"
    router: str = "gate"
    shared: str = "shared_experts"

    @property
    def active_width(self) -> int:
        """Intermediate width one token passes through."""
        return self.per_token * self.width + self.shared_width

    def add_to(self, parts: LayerParts) -> None:
        """Add router, routed experts and shared experts."""
        self._add_router(parts)
        names = f"{self.module}.experts"
        self._add_experts(parts, "experts", names, self.width, self.count, self.per_token)
        if self.shared_width:
            self._add_experts(parts, "shared_experts", f"{self.module}.{self.shared}", self.shared_width, 1, 1)

    def _add_router(self, parts: LayerParts) -> None:
        """Routers (and the shared expert's gate) stay in the activation dtype and on every rank."""
        outputs = self.count + (1 if self.shared_gate else 0)
        correction = self.count if self.router_bias else 0
        parts.add(
            Operator(
                "router",
                parts.precision.activation,
                flops_per_token=2.0 * self.hidden * outputs,
                weight_bytes=parts.weights(self.hidden * outputs + correction, replicated=True),
                bytes_per_token=(self.hidden + outputs) * parts.precision.activation_bytes,
                sharded=False,
            )
        )

    def _add_experts(self, parts: LayerParts, name: str, module: str, width: int, count: int, used: int) -> None:
        """Per expert and token: read x, write gate and up, read them, write and read the product, write y."""
        linears = (
            Linear(f"{module}.gate_proj", self.hidden, width),
            Linear(f"{module}.up_proj", self.hidden, width),
            Linear(f"{module}.down_proj", width, self.hidden),
        )
        parts.add(
            Operator(
                name,
                parts.compute_dtype(*linears),
                flops_per_token=2.0 * used * sum(linear.matrix for linear in linears),
                weight_bytes=parts.linears(*linears, copies=count),
                bytes_per_token=used * (2 * self.hidden + 6 * width) * parts.precision.activation_bytes,
                experts=count if count > 1 else 0,
                experts_per_token=used if count > 1 else 0,
            )
        )


def read_expert_counts(fields: ConfigFields, *names: str) -> tuple[int, int]:
    """Return E and k, k at most E."""
    count = fields.integer(*names)
    per_token = fields.integer("num_experts_per_tok", "experts_per_token")
    if per_token > count:
        raise fields.error(
            f"expected at most the {count} experts there are, got {per_token}; correct the config",
            "num_experts_per_tok",
        )
    return count, per_token
