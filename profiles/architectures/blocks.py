"""The transformer block most families share: norms, a token mixer, a feed-forward part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuplan.profiles.architectures.assembly import Ends, Request, Sizes, assemble
from gpuplan.profiles.architectures.attention import Mixer
from gpuplan.profiles.architectures.feed_forward import FeedForward
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.architectures.precision import Precision
from gpuplan.profiles.model import KvState, Layer, ModelProfile


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer.

    Parameters
    ----------
    mixer, feed_forward
        Its halves: attention or a recurrent state, then the feed-forward part; None where the model has none.
    window
        Positions the mixer reaches back, None for all.
    norms
        Norms over the hidden state; each also adds the residual (reads and writes two rows a token).
    norm_vectors
        Weight vectors of such a norm: 1 of an RMS norm, 2 of a LayerNorm (weight and bias), 0 of one without either.
    scalars
        Further weights on every rank (Gemma 4's layer scalar).
    """

    hidden: int
    mixer: Mixer | None
    feed_forward: FeedForward | None
    window: int | None = None
    norms: int = 2
    norm_vectors: int = 1
    scalars: int = 0

    def layer(self, precision: Precision, module: str, index: int) -> Layer:
        """Return the layer; `module` is its name in the runtime."""
        parts = LayerParts(precision, module)
        if self.norms:
            self._add_norms(parts)
        kv = KvState()
        if self.mixer is not None:
            self.mixer.add_to(parts, self.window)
            kv = self.mixer.kv_state(parts, self.window)
        if self.feed_forward is not None:
            self.feed_forward.add_to(parts)
        return parts.build(
            f"layer {index}",
            "decoder",
            (module,),
            kv=kv,
            boundary=self.hidden,
            ffn_active=self.feed_forward.active_width if self.feed_forward is not None else 0,
        )

    def _add_norms(self, parts: LayerParts) -> None:
        inner = self.mixer
        weights = self.norms * self.norm_vectors * self.hidden + self.scalars
        parts.elementwise(
            "norms",
            4 * self.norms * self.hidden + (inner.norm_elements() if inner else 0),
            weights=weights + (inner.norm_weights() if inner else 0),
        )


def assemble_blocks(
    request: Request, sizes: Sizes, ends: Ends, blocks: Sequence[Block], *, layers: str = "layers"
) -> ModelProfile:
    """Return the profile of a model of these blocks; `layers` is the module list they stand in."""
    return assemble(
        request,
        sizes,
        ends,
        len(blocks),
        lambda index: blocks[index].layer(request.precision, f"{request.prefix}.{layers}.{index}", index),
    )
