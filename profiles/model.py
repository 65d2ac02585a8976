"""Model profiles: the layers of a model in execution order, and what each one weighs, keeps and computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerKind = Literal["embedding", "decoder", "head"]


@dataclass(frozen=True, slots=True)
class KvState:
    """State a layer keeps per sequence.

    A sequence of T tokens holds ``bytes_per_token·min(T, window_tokens) + constant_bytes``.

    Parameters
    ----------
    bytes_per_token
        κ, bytes per cached token; 0 when the state does not grow.
    window_tokens
        w of a sliding-window layer, or None for full attention.
    constant_bytes
        σ of a state-space or linear-attention layer, bytes per sequence.
    heads
        Into how many equal parts tensor parallelism can cut it (KV heads; 1 for an MLA latent).
    """

    bytes_per_token: float = 0.0
    window_tokens: int | None = None
    constant_bytes: float = 0.0
    heads: int = 1

    def bytes_for(self, tokens: int) -> float:
        """Return the bytes one sequence of `tokens` tokens holds."""
        kept = tokens if self.window_tokens is None else min(tokens, self.window_tokens)
        return self.bytes_per_token * kept + self.constant_bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """One kernel-sized piece of a layer, as a roofline sees it.

    In a pass over `N` new tokens of `b` sequences (`N` = b for ``tokens="last"``), with `P` query-key pairs and
    `Q` cached positions read in all::

        flops = flops_per_token·N + flops_per_pair·P        (decode: decode_flops_per_pair·P where it is given)
        bytes = weight_bytes·touched(N) + bytes_per_token·N + bytes_per_position·Q
        touched(N) = 1                        dense
                   = 1 − (1 − k/E)^N          E experts, k of them per token (expected distinct share)

    `decode_flops_per_pair` is for attention that decodes in another form than it prefills in (MLA: heads expanded to
    prefill, absorbed to decode); None means one figure for both. `window` limits pairs and positions of a
    sliding-window layer. `weight_bytes` of an expert operator is that of all E experts together. `dtype` names the
    peak FLOP/s that applies. `sharded` operators divide flops and bytes by the tensor-parallel degree.
    """

    name: str
    dtype: str
    flops_per_token: float = 0.0
    flops_per_pair: float = 0.0
    weight_bytes: float = 0.0
    bytes_per_token: float = 0.0
    bytes_per_position: float = 0.0
    window: int | None = None
    tokens: Literal["all", "last"] = "all"
    experts: int = 0
    experts_per_token: int = 0
    sharded: bool = True
    decode_flops_per_pair: float | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One schedulable layer.

    Parameters
    ----------
    name
        For people: ``embedding``, ``layer 0``, …, ``head``.
    kind
        ``embedding``, ``decoder`` or ``head`` (final norm and LM head).
    modules
        Module names as the runtime (transformers) knows them; together they cover the model.
    parameters
        Parameter count (of an LM head tied to the embedding: 0 is never used; the copy counts here and
        `ModelProfile.parameters` subtracts it once).
    weight_bytes
        Bytes of its weights at the profile's dtypes.
    replicated_weight_bytes
        The part of `weight_bytes` every tensor-parallel rank holds whole (norms, routers).
    kv_projection_weight_bytes
        The part of `weight_bytes` that projects to keys and values: held whole, too, by more ranks than KV heads.
    kv
        State per sequence.
    boundary_bytes_per_token
        Activation handed to the next layer, bytes per token, in the activation dtype; 0 of the head, whose sampled
        tokens (4 bytes a sequence) are the return hop's.
    ffn_active
        Width of the feed-forward intermediate one token passes through (top-k and shared experts summed).
    operators
        Its roofline pieces.
    """

    name: str
    kind: LayerKind
    modules: tuple[str, ...]
    parameters: int
    weight_bytes: int
    replicated_weight_bytes: int
    kv: KvState
    boundary_bytes_per_token: float
    ffn_active: int
    operators: tuple[Operator, ...]
    kv_projection_weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A model as a list of layers: embedding first, then the decoder layers, final norm + LM head last.

    `tied_bytes` is the memory saved when one device holds both the embedding and a head tied to it
    (`single_stage_saving_bytes` of a problem), `tied_parameters` the parameters counted twice by the layers.
    """

    name: str
    architecture: str
    family: str
    hidden_size: int
    vocab_size: int
    num_attention_heads: int
    num_kv_heads: int
    dtype: str
    activation_dtype: str
    kv_dtype: str
    layers: tuple[Layer, ...]
    tied_bytes: int = 0
    tied_parameters: int = 0
    max_position: int | None = None
    source: str = ""

    @property
    def num_layers(self) -> int:
        """Layers, embedding and head included."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Parameter count, tied weights counted once."""
        return sum(layer.parameters for layer in self.layers) - self.tied_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights on one device, tied weights held once."""
        return sum(layer.weight_bytes for layer in self.layers) - self.tied_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes one more cached token costs over all layers while no window is full."""
        return sum(layer.kv.bytes_per_token for layer in self.layers)
