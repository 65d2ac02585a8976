"""Multi-head latent attention (MLA), shared and routed experts, dense first layers: DeepSeek V2 to V3.2, GLM-5.

The multi-token-prediction layer of the V3 files is no part of the pipeline and is not counted.

MLA caches one latent a token for all heads. Each phase runs in the form runtimes choose for it: prefill expands the
latent to heads (plain form), decode keeps queries and values in the latent (absorbed form). Weights and FLOPs per
token are the same in both; FLOPs per pair are not: 2·H·(nope + rope + value) against 2·H·(2·rank + rope).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuplan.profiles.architectures.assembly import Request, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.blocks import Block, assemble_blocks
from gpuplan.profiles.architectures.feed_forward import Experts, FeedForward, Gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.architectures.windows import read_kinds
from gpuplan.profiles.model import KvState, ModelProfile, Operator


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek-V3.2's lightning indexer: `heads` small heads pick the positions that attention reads."""

    heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Sizes of MLA in elements; `query_rank` None means one full query projection (V2-Lite).

    Sparse attention (DSA) reads `keep` positions, picked by the layer's own `indexer` or, without one, by that of a
    layer before it.
    """

    hidden: int
    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: bool
    keep: int | None = None
    indexer: Indexer | None = None

    def kv_state(self, parts: LayerParts, window: int | None = None) -> KvState:
        """Return the cache: latent, rotary key, and the indexer's key where there is one."""
        index = self.indexer.head_dim if self.indexer else 0
        return KvState((self.kv_rank + self.rope_dim + index) * parts.precision.kv_bytes, heads=1)

    def norm_weights(self) -> int:
        """Return the weights of the norms on both latents, and of the LayerNorm on the indexer's key."""
        return (self.query_rank or 0) + self.kv_rank + (2 * self.indexer.head_dim if self.indexer else 0)

    def norm_elements(self) -> int:
        """Return the elements those norms move per token."""
        return 2 * self.norm_weights()

    def add_to(self, parts: LayerParts, window: int | None = None) -> None:
        """Add the projections down (on every rank whole), up, the indexer, attention and output projection."""
        self._add_down(parts)
        self._add_up(parts)
        if self.indexer:
            self._add_indexer(parts, self.indexer)
        self._add_attention(parts)
        parts.matmul("o_proj", Linear("self_attn.o_proj", self.heads * self.value_dim, self.hidden, self.bias))

    def _add_down(self, parts: LayerParts) -> None:
        down = Linear("self_attn.kv_a_proj_with_mqa", self.hidden, self.kv_rank + self.rope_dim, self.bias)
        if self.query_rank is None:
            parts.matmul("kv_down_proj", down, sharded=False)
        else:
            query = Linear("self_attn.q_a_proj", self.hidden, self.query_rank, self.bias)
            parts.matmul("q_kv_down_proj", query, down, sharded=False)

    def _add_up(self, parts: LayerParts) -> None:
        queries = self.heads * (self.nope_dim + self.rope_dim)
        expand = Linear("self_attn.kv_b_proj", self.kv_rank, self.heads * (self.nope_dim + self.value_dim))
        if self.query_rank is None:
            parts.matmul("q_kv_up_proj", Linear("self_attn.q_proj", self.hidden, queries), expand)
        else:
            parts.matmul("q_kv_up_proj", Linear("self_attn.q_b_proj", self.query_rank, queries), expand)

    def _add_indexer(self, parts: LayerParts, indexer: Indexer) -> None:
        """Add the indexer: it scores every cached position, one product of `head_dim` a head and pair.

        Its key and head weights come from the hidden state, its queries from the query latent.
        """
        width = indexer.heads * indexer.head_dim
        linears = (
            Linear("self_attn.indexer.wq_b", self.query_rank or self.hidden, width),
            Linear("self_attn.indexer.wk", self.hidden, indexer.head_dim),
        )
        gates = self.hidden * indexer.heads  # weights_proj stays unquantised, like a router
        weight_bytes = parts.linears(*linears, replicated=True) + parts.weights(gates, replicated=True)
        parts.add(
            Operator(
                "indexer",
                parts.compute_dtype(*linears),
                flops_per_token=2.0 * (sum(linear.matrix for linear in linears) + gates),
                flops_per_pair=2.0 * width,
                weight_bytes=weight_bytes,
                bytes_per_token=(self.hidden + 2 * width) * parts.precision.activation_bytes,
                bytes_per_position=indexer.head_dim * parts.precision.kv_bytes,
                sharded=False,
            )
        )

    def _add_attention(self, parts: LayerParts) -> None:
        latent = (self.kv_rank + self.rope_dim) * parts.precision.kv_bytes
        key = self.nope_dim + self.rope_dim
        moved = self.heads * 2 * (key + self.value_dim) * parts.precision.activation_bytes
        parts.add(
            Operator(
                "attention",
                parts.precision.activation,
                flops_per_pair=2.0 * self.heads * (key + self.value_dim),
                bytes_per_token=moved + latent,
                bytes_per_position=latent,
                window=self.keep,
                decode_flops_per_pair=2.0 * self.heads * (2 * self.kv_rank + self.rope_dim),
            )
        )


def build_deepseek_v2(request: Request) -> ModelProfile:
    """DeepSeek-V2 and V2-Lite."""
    corrected = request.fields.text("topk_method") == "noaux_tc"
    return _build(request, _attention(request.fields), router_bias=corrected)


def build_deepseek_v3(request: Request) -> ModelProfile:
    """DeepSeek-V3, R1, and what has the same layers: Kimi-K2, GLM-4.7-Flash."""
    return _build(request, _attention(request.fields), router_bias=True)


def build_sparse_latent(request: Request) -> ModelProfile:
    """DeepSeek-V3.2 and GLM-5: V3 with indexers that narrow attention to ``index_topk`` positions."""
    fields = request.fields
    indexer = Indexer(fields.integer("index_n_heads"), fields.integer("index_head_dim"))
    shared = replace(_attention(fields), keep=fields.integer("index_topk"))
    full = replace(shared, indexer=indexer)
    return _build(request, *(full if own else shared for own in _own_indexers(fields)), router_bias=True)


def _own_indexers(fields: ConfigFields) -> list[bool]:
    """Return which layers have an indexer: all, or those of ``indexer_types`` or ``index_topk_freq``."""
    depth = read_depth(fields)
    kinds = read_kinds(fields, depth, ("full", "shared"), "indexer_types")
    if kinds is not None:
        return [kind == "full" for kind in kinds]
    every = fields.optional_integer("index_topk_freq") or 1
    offset = fields.optional_integer("index_skip_topk_offset", minimum=0)
    first = 2 if offset is None else offset
    return [max(index - first + 1, 0) % every == 0 for index in range(depth)]


def routed_feed_forwards(fields: ConfigFields, depth: int, *, router_bias: bool) -> list[FeedForward]:
    """Return each layer's feed-forward part: dense in the first layers, routed and shared experts behind them."""
    hidden = fields.integer("hidden_size")
    experts = _experts(fields, router_bias)
    dense = _dense_layers(fields, depth) if experts else [True] * depth
    gated = Gated(hidden, fields.integer("intermediate_size")) if any(dense) else None
    return [part for is_dense in dense if (part := gated if is_dense else experts) is not None]


def _attention(fields: ConfigFields) -> LatentAttention:
    return LatentAttention(
        hidden=fields.integer("hidden_size"),
        heads=fields.integer("num_attention_heads"),
        query_rank=fields.optional_integer("q_lora_rank"),
        kv_rank=fields.integer("kv_lora_rank"),
        nope_dim=fields.integer("qk_nope_head_dim"),
        rope_dim=fields.integer("qk_rope_head_dim"),
        value_dim=fields.integer("v_head_dim"),
        bias=fields.boolean("attention_bias", False),
    )


def _build(request: Request, *attentions: LatentAttention, router_bias: bool) -> ModelProfile:
    """Return the model; one attention stands for all layers."""
    fields = request.fields
    sizes = read_sizes(fields, attentions[0].heads, 1)
    depth = read_depth(fields)
    mixers: Sequence[LatentAttention] = attentions if len(attentions) == depth else attentions * depth
    parts = routed_feed_forwards(fields, depth, router_bias=router_bias)
    blocks = [Block(sizes.hidden, mixer, part) for mixer, part in zip(mixers, parts, strict=True)]
    return assemble_blocks(request, sizes, standard_ends(request, sizes), blocks)


def _experts(fields: ConfigFields, router_bias: bool) -> Experts | None:
    """Return the mixture; None where the config has no routed experts at all."""
    if fields.optional_integer("n_routed_experts") is None:
        return None
    count, per_token = read_expert_counts(fields, "n_routed_experts")
    width = fields.integer("moe_intermediate_size")
    shared = fields.optional_integer("n_shared_experts", minimum=0) or 0
    return Experts(
        fields.integer("hidden_size"), width, count, per_token, shared_width=shared * width, router_bias=router_bias
    )


def _dense_layers(fields: ConfigFields, depth: int) -> list[bool]:
    """Return which layers are dense: listed ones, else the first, and all but every ``moe_layer_freq``-th behind."""
    kinds = read_kinds(fields, depth, ("dense", "sparse"), "mlp_layer_types")
    if kinds is not None:
        return [kind == "dense" for kind in kinds]
    first = fields.optional_integer("first_k_dense_replace", minimum=0) or 0
    step = fields.optional_integer("moe_layer_freq") or 1
    return [index < first or index % step != 0 for index in range(depth)]
