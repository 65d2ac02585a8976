"""From a family's decoder layers to a whole model: embedding in front, final norm and LM head behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.architectures.precision import Precision
from gpuplan.profiles.model import Layer, ModelProfile, Operator

#: More layers than any model has; a larger number is a slip, and would only fill memory.
MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """What a family's builder is given.

    Parameters
    ----------
    fields
        The language model's config.
    precision
        Its dtypes.
    name, architecture, family, source
        For the profile.
    prefix, head
        Module names of the language model without its head (``model``, or ``model.language_model``) and of the head.
    """

    fields: ConfigFields
    precision: Precision
    name: str
    architecture: str
    family: str
    source: str
    prefix: str = "model"
    head: str = "lm_head"


@dataclass(frozen=True, slots=True)
class Ends:
    """What embedding and head of a model look like.

    Parameters
    ----------
    embedding_modules, head_modules
        Module names of layer 0 (buffers computed once per pass, such as the rotary table, belong here) and of the
        last layer.
    positions
        Rows of a learned position table, 0 for none.
    embedding_width
        Width of the embedding rows where it differs from the hidden size (OPT-350M), else None.
    norm_weights
        Weights of the final norm, 0 for none.
    embedding_norm_weights
        Weights of a norm on the embedding (BLOOM), 0 for none.
    head_bias
        The head has a bias (GPT-J, Phi-2).
    tied
        The head's matrix is the embedding's.
    """

    embedding_modules: tuple[str, ...]
    head_modules: tuple[str, ...]
    norm_weights: int
    tied: bool
    positions: int = 0
    embedding_width: int | None = None
    embedding_norm_weights: int = 0
    head_bias: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """Figures every profile carries."""

    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    max_position: int | None


def read_depth(fields: ConfigFields, *names: str) -> int:
    """Return the number of decoder layers."""
    return fields.integer(*(names or ("num_hidden_layers", "num_layers", "n_layer")), maximum=MOST_LAYERS)


def read_sizes(fields: ConfigFields, heads: int, kv_heads: int) -> Sizes:
    """Return hidden size, vocabulary and longest position under their usual names."""
    return Sizes(
        hidden=fields.integer("hidden_size"),
        vocab=fields.integer("vocab_size"),
        heads=heads,
        kv_heads=kv_heads,
        max_position=fields.optional_integer("max_position_embeddings"),
    )


def standard_ends(request: Request, sizes: Sizes, *, tied_by_default: bool = False) -> Ends:
    """Return the ends of the Llama layout: RMS norm, no positions, `lm_head` without bias."""
    return Ends(
        embedding_modules=(f"{request.prefix}.embed_tokens", f"{request.prefix}.rotary_emb"),
        head_modules=(f"{request.prefix}.norm", request.head),
        norm_weights=sizes.hidden,
        tied=request.fields.boolean("tie_word_embeddings", tied_by_default),
    )


def assemble(
    request: Request, sizes: Sizes, ends: Ends, depth: int, decoder_layer: Callable[[int], Layer]
) -> ModelProfile:
    """Return the profile; equal operator lists of its layers become one object."""
    layers = [
        _embedding(request.precision, sizes, ends),
        *(decoder_layer(index) for index in range(depth)),
        _head(request.precision, sizes, ends),
    ]
    table = sizes.vocab * (ends.embedding_width or sizes.hidden)
    return ModelProfile(
        name=request.name,
        architecture=request.architecture,
        family=request.family,
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        num_attention_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        dtype=request.precision.weight,
        activation_dtype=request.precision.activation,
        kv_dtype=request.precision.kv,
        layers=_share_operators(layers),
        tied_bytes=int(table * request.precision.activation_bytes) if ends.tied else 0,
        tied_parameters=table if ends.tied else 0,
        max_position=sizes.max_position,
        source=request.source,
    )


def _embedding(precision: Precision, sizes: Sizes, ends: Ends) -> Layer:
    """Return layer 0: a lookup reads one row a token (two with learned positions), no matrix is streamed."""
    parts = LayerParts(precision, "")
    width = ends.embedding_width or sizes.hidden
    parts.weights(sizes.vocab * width)
    parts.weights(ends.positions * sizes.hidden, replicated=True)
    rows = 3 if ends.positions else 2
    parts.elementwise("embedding_lookup", rows * sizes.hidden, sharded=True)
    if width != sizes.hidden:
        _project(parts, "project_in", width, sizes.hidden, tokens_last=False)
    if ends.embedding_norm_weights:
        parts.elementwise("embedding_norm", 2 * sizes.hidden, weights=ends.embedding_norm_weights)
    return parts.build("embedding", "embedding", ends.embedding_modules, boundary=sizes.hidden)


def _head(precision: Precision, sizes: Sizes, ends: Ends) -> Layer:
    """Return the last layer: norm over all tokens, then the logits of last tokens; nothing is handed on."""
    parts = LayerParts(precision, "")
    width = ends.embedding_width or sizes.hidden
    if ends.norm_weights:
        parts.elementwise("final_norm", 2 * sizes.hidden, weights=ends.norm_weights)
    if width != sizes.hidden:
        _project(parts, "project_out", sizes.hidden, width, tokens_last=True)
    parts.add(
        Operator(
            "lm_head",
            precision.activation,
            flops_per_token=2.0 * width * sizes.vocab,
            weight_bytes=parts.weights(width * sizes.vocab + (sizes.vocab if ends.head_bias else 0)),
            bytes_per_token=(width + sizes.vocab) * precision.activation_bytes,
            tokens="last",
        )
    )
    return parts.build("head", "head", ends.head_modules)


def _project(parts: LayerParts, name: str, inputs: int, outputs: int, *, tokens_last: bool) -> None:
    """Add a projection between embedding width and hidden size; not part of a decoder layer, so never quantised."""
    parts.add(
        Operator(
            name,
            parts.precision.activation,
            flops_per_token=2.0 * inputs * outputs,
            weight_bytes=parts.weights(inputs * outputs, replicated=True),
            bytes_per_token=(inputs + outputs) * parts.precision.activation_bytes,
            tokens="last" if tokens_last else "all",
            sharded=False,
        )
    )


def _share_operators(layers: list[Layer]) -> tuple[Layer, ...]:
    """Let layers with equal operators hold the same tuple, so that profiles stay small and compare fast."""
    seen: dict[tuple[Operator, ...], tuple[Operator, ...]] = {}
    return tuple(replace(layer, operators=seen.setdefault(layer.operators, layer.operators)) for layer in layers)
