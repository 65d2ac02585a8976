"""Llama and what shares its layout: Mistral, Qwen2, Qwen3, and GLM-4 as transformers has it.

A decoder layer is: norm, grouped-query attention, norm, gated feed-forward. The relatives differ in biases,
in norms on queries and keys, and in sliding windows.
"""

from __future__ import annotations

from functools import partial

from gpuplan.profiles.architectures.assembly import Request, assemble, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, read_attention
from gpuplan.profiles.architectures.feed_forward import add_gated
from gpuplan.profiles.architectures.parts import LayerParts
from gpuplan.profiles.architectures.windows import read_windows
from gpuplan.profiles.model import Layer, ModelProfile

#: Window of a Mistral config without the field ``sliding_window`` (the default of transformers' MistralConfig).
MISTRAL_WINDOW = 4096


def build_llama(request: Request) -> ModelProfile:
    """Llama 1 to 3 and its many namesakes; ``attention_bias`` covers all four projections."""
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    attention = read_attention(fields, qkv_bias=bias, output_bias=bias)
    depth = read_depth(fields)
    return _build(request, attention, [None] * depth, mlp_bias=fields.boolean("mlp_bias", False))


def build_mistral(request: Request) -> ModelProfile:
    """Mistral: no biases, and a sliding window unless the config says null."""
    fields = request.fields
    windows = read_windows(fields, read_depth(fields), default=MISTRAL_WINDOW)
    return _build(request, read_attention(fields), windows)


def build_qwen2(request: Request) -> ModelProfile:
    """Qwen 2 and 2.5: queries, keys and values have biases, the output projection has none."""
    return _build(request, read_attention(request.fields, qkv_bias=True), qwen_windows(request))


def build_qwen3(request: Request) -> ModelProfile:
    """Qwen 3: norms on the heads of queries and keys instead of biases."""
    bias = request.fields.boolean("attention_bias", False)
    attention = read_attention(request.fields, qkv_bias=bias, output_bias=bias, head_norms=True)
    return _build(request, attention, qwen_windows(request))


def build_glm(request: Request) -> ModelProfile:
    """GLM-4 (`GlmForCausalLM`): biases on queries, keys and values if asked for."""
    fields = request.fields
    attention = read_attention(fields, qkv_bias=fields.boolean("attention_bias", False))
    return _build(request, attention, [None] * read_depth(fields))


def build_glm4(request: Request) -> ModelProfile:
    """GLM-4-0414 (`Glm4ForCausalLM`): two further norms behind attention and feed-forward."""
    fields = request.fields
    attention = read_attention(fields, qkv_bias=fields.boolean("attention_bias", False))
    return _build(request, attention, [None] * read_depth(fields), block_norms=4)


def qwen_windows(request: Request) -> list[int | None]:
    """Qwen slides from layer ``max_window_layers`` on, and only with ``use_sliding_window``."""
    fields = request.fields
    depth = read_depth(fields)
    if not fields.boolean("use_sliding_window", False):
        return [None] * depth
    return read_windows(fields, depth, first=fields.integer("max_window_layers", minimum=0), default=4096)


def add_norms(parts: LayerParts, attention: GroupedAttention, block_norms: int = 2) -> None:
    """Add the layer's norms: each block norm adds the residual too (reads and writes two rows a token)."""
    parts.elementwise(
        "norms",
        4 * block_norms * attention.hidden + attention.norm_elements(),
        weights=block_norms * attention.hidden + attention.norm_weights(),
    )


def _build(
    request: Request,
    attention: GroupedAttention,
    windows: list[int | None],
    *,
    mlp_bias: bool = False,
    block_norms: int = 2,
) -> ModelProfile:
    sizes = read_sizes(request.fields, attention.heads, attention.kv_heads)
    width = request.fields.integer("intermediate_size")
    layer = partial(_decoder_layer, request, attention, windows, width, mlp_bias, block_norms)
    return assemble(request, sizes, standard_ends(request, sizes), len(windows), layer)


def _decoder_layer(
    request: Request,
    attention: GroupedAttention,
    windows: list[int | None],
    width: int,
    mlp_bias: bool,
    block_norms: int,
    index: int,
) -> Layer:
    module = f"{request.prefix}.layers.{index}"
    parts = LayerParts(request.precision, module)
    add_norms(parts, attention, block_norms)
    attention.add_to(parts, windows[index])
    add_gated(parts, attention.hidden, width, bias=mlp_bias)
    return parts.build(
        f"layer {index}",
        "decoder",
        (module,),
        kv=attention.kv_state(parts, windows[index]),
        boundary=attention.hidden,
        ffn_active=width,
    )
