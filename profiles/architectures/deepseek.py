"""DeepSeek V2, V3, R1 and V3.2: multi-head latent attention (MLA), shared and routed experts, dense first layers.

The multi-token-prediction layer of the V3 files is no part of the pipeline and is not counted.

MLA caches one latent a token for all heads. Each phase runs in the form runtimes choose for it: prefill expands the
latent to heads (plain form), decode keeps queries and values in the latent (absorbed form). Weights and FLOPs per
token are the same in both. The operator carries the plain form's FLOPs per pair, and per position the latent's bytes:
exact for prefill and for decode as long as reading the latent is what limits it; where compute limits the absorbed
form (H·(2·rank + rope)/(rank + rope) FLOPs a byte of bf16 latent: 242 for V3), decode attention is underrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gpuplan.profiles.architectures.assembly import Request, assemble, read_depth, read_sizes, standard_ends
from gpuplan.profiles.architectures.feed_forward import Experts, Gated, read_expert_counts
from gpuplan.profiles.architectures.fields import ConfigFields
from gpuplan.profiles.architectures.parts import LayerParts, Linear
from gpuplan.profiles.model import KvState, Layer, ModelProfile, Operator


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek-V3.2's lightning indexer: `heads` small heads pick the `keep` positions that attention reads."""

    heads: int
    head_dim: int
    keep: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Sizes of MLA in elements; `query_rank` None means one full query projection (V2-Lite)."""

    hidden: int
    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: bool
    indexer: Indexer | None = None

    def kv_state(self, parts: LayerParts) -> KvState:
        """Return the cache: latent, rotary key, and the indexer's key where there is one."""
        index = self.indexer.head_dim if self.indexer else 0
        return KvState((self.kv_rank + self.rope_dim + index) * parts.precision.kv_bytes, heads=1)

    def norm_weights(self) -> int:
        """Return the weights of the norms on both latents, and of the LayerNorm on the indexer's key."""
        return (self.query_rank or 0) + self.kv_rank + (2 * self.indexer.head_dim if self.indexer else 0)

    def add_to(self, parts: LayerParts) -> None:
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
                window=self.indexer.keep if self.indexer else None,
            )
        )


def build_deepseek_v2(request: Request) -> ModelProfile:
    """DeepSeek-V2 and V2-Lite."""
    corrected = request.fields.text("topk_method") == "noaux_tc"
    return _build(request, _attention(request.fields), router_bias=corrected)


def build_deepseek_v3(request: Request) -> ModelProfile:
    """DeepSeek-V3, R1, and Kimi-K2, which has the same layers."""
    return _build(request, _attention(request.fields), router_bias=True)


def build_deepseek_v32(request: Request) -> ModelProfile:
    """DeepSeek-V3.2: V3 with an indexer that narrows attention to ``index_topk`` positions."""
    fields = request.fields
    indexer = Indexer(fields.integer("index_n_heads"), fields.integer("index_head_dim"), fields.integer("index_topk"))
    return _build(request, _attention(fields, indexer), router_bias=True)


def _attention(fields: ConfigFields, indexer: Indexer | None = None) -> LatentAttention:
    return LatentAttention(
        hidden=fields.integer("hidden_size"),
        heads=fields.integer("num_attention_heads"),
        query_rank=fields.optional_integer("q_lora_rank"),
        kv_rank=fields.integer("kv_lora_rank"),
        nope_dim=fields.integer("qk_nope_head_dim"),
        rope_dim=fields.integer("qk_rope_head_dim"),
        value_dim=fields.integer("v_head_dim"),
        bias=fields.boolean("attention_bias", False),
        indexer=indexer,
    )


def _build(request: Request, attention: LatentAttention, *, router_bias: bool) -> ModelProfile:
    fields = request.fields
    sizes = read_sizes(fields, attention.heads, 1)
    depth = read_depth(fields)
    experts = _experts(fields, router_bias)
    dense = _dense_layers(fields, depth, experts)
    dense_width = fields.integer("intermediate_size") if dense else 0
    layer = partial(_decoder_layer, request, attention, experts, dense, dense_width)
    return assemble(request, sizes, standard_ends(request, sizes), depth, layer)


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


def _dense_layers(fields: ConfigFields, depth: int, experts: Experts | None) -> frozenset[int]:
    """Return the dense layers: the first ones, and all but every ``moe_layer_freq``-th behind them."""
    first = fields.optional_integer("first_k_dense_replace", minimum=0) or 0
    step = fields.optional_integer("moe_layer_freq") or 1
    return frozenset(index for index in range(depth) if experts is None or index < first or index % step)


def _decoder_layer(
    request: Request,
    attention: LatentAttention,
    experts: Experts | None,
    dense: frozenset[int],
    dense_width: int,
    index: int,
) -> Layer:
    module = f"{request.prefix}.layers.{index}"
    hidden = attention.hidden
    parts = LayerParts(request.precision, module)
    latents = attention.norm_weights()
    parts.elementwise("norms", 8 * hidden + 2 * latents, weights=2 * hidden + latents)
    attention.add_to(parts)
    if experts is None or index in dense:
        Gated(hidden, dense_width).add_to(parts)
    else:
        experts.add_to(parts)
    return parts.build(
        f"layer {index}",
        "decoder",
        (module,),
        kv=attention.kv_state(parts),
        boundary=hidden,
        ffn_active=dense_width if experts is None or index in dense else experts.active_width,
    )
