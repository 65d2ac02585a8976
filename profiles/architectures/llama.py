"""Llama and what shares its layout: Mistral, Qwen2, Qwen3, InternLM, Phi-3, and GLM-4 as transformers has it.

A decoder layer is: norm, grouped-query attention, norm, gated feed-forward. The relatives differ in biases,
in norms on queries and keys, in fused projections, and in sliding windows.
"""

from __future__ import annotations

from dataclasses import replace

from gpuplan.profiles.architectures.assembly import Ends, Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.attention import GroupedAttention, read_attention
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import GATED_NAMES, Gated
from gpuplan.profiles.architectures.windows import read_windows
from gpuplan.profiles.model import ModelProfile

#: Window of a Mistral config without the field ``sliding_window`` (the default of transformers' MistralConfig).
MISTRAL_WINDOW = 4096
_PHI3_NAMES = ("self_attn.qkv_proj", "self_attn.o_proj")
_INTERNLM2_NAMES = ("attention.wqkv", "attention.wo")


def build_llama(request: Request) -> ModelProfile:
    """Llama 1 to 3 and its many namesakes; ``attention_bias`` covers all four projections."""
    fields = request.fields
    bias = fields.boolean("attention_bias", False)
    return _build(request, read_attention(fields, qkv_bias=bias, output_bias=bias))


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
    attention = read_attention(request.fields, qkv_bias=bias, output_bias=bias, norms="head")
    return _build(request, attention, qwen_windows(request))


def build_glm(request: Request) -> ModelProfile:
    """GLM-4 (`GlmForCausalLM`): biases on queries, keys and values if asked for."""
    fields = request.fields
    return _build(request, read_attention(fields, qkv_bias=fields.boolean("attention_bias", False)))


def build_glm4(request: Request) -> ModelProfile:
    """GLM-4-0414 (`Glm4ForCausalLM`): two further norms behind attention and feed-forward."""
    fields = request.fields
    return _build(request, read_attention(fields, qkv_bias=fields.boolean("attention_bias", False)), norms=4)


def build_phi3(request: Request) -> ModelProfile:
    """Phi-3, Phi-3.5 and Phi-4: queries, keys and values are one matrix, gate and up another; all layers slide."""
    fields = request.fields
    attention = replace(read_attention(fields), names=_PHI3_NAMES)
    windows = read_windows(fields, read_depth(fields))
    return _build(request, attention, windows, names=("mlp.gate_up_proj", "mlp.down_proj"))


def build_internlm(request: Request) -> ModelProfile:
    """InternLM 1 (its remote code): Llama with biases on all four projections unless ``bias`` is false."""
    bias = request.fields.boolean("bias", True)
    return _build(request, read_attention(request.fields, qkv_bias=bias, output_bias=bias))


def build_internlm2(request: Request) -> ModelProfile:
    """InternLM 2 and 2.5 (their remote code): Llama with other names, queries, keys and values in one matrix."""
    fields = request.fields
    bias = fields.boolean("bias", False)
    attention = replace(read_attention(fields, qkv_bias=bias, output_bias=bias), names=_INTERNLM2_NAMES)
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    ends = Ends(
        embedding_modules=(f"{request.prefix}.tok_embeddings",),
        head_modules=(f"{request.prefix}.norm", "output"),
        norm_weights=sizes.hidden,
        tied=fields.boolean("tie_word_embeddings", False),
    )
    names = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
    block = Block(sizes.hidden, attention, Gated(sizes.hidden, fields.integer("intermediate_size"), names=names))
    return assemble_blocks(request, sizes, ends, [block] * read_depth(fields))


def build_internlm3(request: Request) -> ModelProfile:
    """InternLM 3: Llama with ``qkv_bias`` on queries, keys and values, and ``bias`` on all else."""
    fields = request.fields
    bias = fields.boolean("bias", False)
    attention = read_attention(fields, qkv_bias=fields.boolean("qkv_bias", False), output_bias=bias)
    return _build(request, attention, mlp_bias=bias)


def qwen_windows(request: Request) -> list[int | None]:
    """Qwen slides from layer ``max_window_layers`` on, and only with ``use_sliding_window``."""
    fields = request.fields
    depth = read_depth(fields)
    if not fields.boolean("use_sliding_window", False):
        return [None] * depth
    return read_windows(fields, depth, first=fields.integer("max_window_layers", minimum=0), default=4096)


def _build(
    request: Request,
    attention: GroupedAttention,
    windows: list[int | None] | None = None,
    *,
    mlp_bias: bool | None = None,
    norms: int = 2,
    names: tuple[str, ...] = GATED_NAMES,
) -> ModelProfile:
    """Return the model; no `windows` means full attention everywhere, `mlp_bias` None what the config says."""
    fields = request.fields
    sizes = read_sizes(fields, attention.heads, attention.kv_heads)
    bias = fields.boolean("mlp_bias", False) if mlp_bias is None else mlp_bias
    feed_forward = Gated(sizes.hidden, fields.integer("intermediate_size"), bias, names)
    blocks = [
        Block(sizes.hidden, attention, feed_forward, window, norms)
        for window in (windows if windows is not None else [None] * read_depth(fields))
    ]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)
