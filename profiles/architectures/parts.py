"""Putting one layer together: its weights counted, its operators listed."""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.profiles.architectures.precision import Precision, whole_bytes
from gpuplan.profiles.model import KvState, Layer, LayerKind, Operator


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map as the runtime names it inside its layer (``self_attn.q_proj``)."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def matrix(self) -> int:
        """Elements of the weight matrix."""
        return self.inputs * self.outputs


class LayerParts:
    """Collects the weights and operators of one layer.

    Parameters
    ----------
    precision
        The model's dtypes.
    module
        The layer's module name, to find out which weights a quantisation leaves alone.
    """

    def __init__(self, precision: Precision, module: str) -> None:
        self.precision = precision
        self.module = module
        self.operators: list[Operator] = []
        self._parameters = 0
        self._bytes = 0.0
        self._replicated = 0.0
        self._kv_projections = 0.0

    def weights(self, count: int, *, replicated: bool = False) -> float:
        """Count `count` weights in the activation dtype (norms, biases, routers, embeddings); return their bytes."""
        return self._count(count, count * self.precision.activation_bytes, replicated)

    def linears(self, *linears: Linear, copies: int = 1, replicated: bool = False) -> float:
        """Count linear maps (`copies` of each) in the weight dtype, biases in the activation dtype."""
        size = 0.0
        for linear in linears:
            matrix = self.precision.matrix_bytes(f"{self.module}.{linear.name}", linear.inputs, linear.outputs)
            size += self._count(copies * linear.matrix, copies * matrix, replicated)
            if linear.bias:
                size += self.weights(copies * linear.outputs, replicated=replicated)
        return size

    def compute_dtype(self, *linears: Linear) -> str:
        """Return the dtype whose peak applies to these linear maps."""
        stored = {self.precision.weight_dtype(f"{self.module}.{linear.name}") for linear in linears}
        return self.precision.compute_dtype(stored.pop()) if len(stored) == 1 else self.precision.activation

    def kv_projections(self, size: float) -> None:
        """Note how many of the bytes counted project to keys and values."""
        self._kv_projections += size

    def matmul(self, name: str, *linears: Linear, sharded: bool = True) -> float:
        """Add linear maps that read the same input as one operator; return their bytes."""
        written = sum(linear.outputs for linear in linears)
        size = self.linears(*linears, replicated=not sharded)
        self.operators.append(
            Operator(
                name,
                self.compute_dtype(*linears),
                flops_per_token=2.0 * sum(linear.matrix for linear in linears),
                weight_bytes=size,
                bytes_per_token=(linears[0].inputs + written) * self.precision.activation_bytes,
                sharded=sharded,
            )
        )
        return size

    def elementwise(self, name: str, elements: int, *, weights: int = 0, sharded: bool = False) -> None:
        """Add work that moves `elements` activations per token: norms with their `weights`, activation functions."""
        self.operators.append(
            Operator(
                name,
                self.precision.activation,
                weight_bytes=self.weights(weights, replicated=not sharded),
                bytes_per_token=elements * self.precision.activation_bytes,
                sharded=sharded,
            )
        )

    def add(self, operator: Operator) -> None:
        """Add an operator whose weights are counted already."""
        self.operators.append(operator)

    def build(
        self,
        name: str,
        kind: LayerKind,
        modules: tuple[str, ...],
        *,
        kv: KvState | None = None,
        boundary: int = 0,
        ffn_active: int = 0,
    ) -> Layer:
        """Return the layer; `boundary` is the width of the activation it hands on."""
        return Layer(
            name=name,
            kind=kind,
            modules=modules,
            parameters=self._parameters,
            weight_bytes=whole_bytes(self._bytes),
            replicated_weight_bytes=whole_bytes(self._replicated),
            kv=kv or KvState(),
            boundary_bytes_per_token=boundary * self.precision.activation_bytes,
            ffn_active=ffn_active,
            operators=tuple(self.operators),
            kv_projection_weight_bytes=whole_bytes(self._kv_projections),
        )

    def _count(self, count: int, size: float, replicated: bool) -> float:
        self._parameters += count
        self._bytes += size
        if replicated:
            self._replicated += size
        return size
