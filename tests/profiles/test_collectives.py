"""Collectives of groups by hand, and the degrees a model allows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpuplan.errors import UsageError
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.collectives import (
    GroupLink,
    allowed_degrees,
    check_degree,
    collective_s,
    group_link,
    rank_pairs,
    ring_s,
)
from gpuplan.profiles.memory import stage_memory


def test_ring_by_hand() -> None:
    """Four ranks, 8 MB, 1 GB/s and 1 µs: 2·3/4·8e6·1e-9 = 12 ms of bytes and 6 steps of 1 µs."""
    assert ring_s(8e6, 4, GroupLink(1e-6, 1e-9)) == pytest.approx(0.012 + 6e-6, rel=1e-12)


def test_one_rank_needs_no_collective() -> None:
    """A group of one pays nothing, whatever its links."""
    assert ring_s(8e6, 1, GroupLink(1.0, 1.0)) == 0.0
    assert not collective_s(load_model("llama-3.1-8b"), Workload(), "prefill", 1, GroupLink(1.0, 1.0)).any()


def test_the_slowest_pair_counts_for_each_number() -> None:
    """Largest latency and largest slowness may come from different ordered pairs; the diagonal counts for nothing."""
    latency = np.array([[9.0, 1.0, 5.0], [2.0, 9.0, 1.0], [1.0, 1.0, 9.0]])
    slowness = np.array([[9.0, 0.1, 0.1], [0.1, 9.0, 0.7], [0.1, 0.1, 9.0]])
    assert group_link(latency, slowness, [0, 1]) == GroupLink(2.0, 0.1)
    assert group_link(latency, slowness, [0, 1, 2]) == GroupLink(5.0, 0.7)
    assert group_link(latency, slowness, [1]) == GroupLink(0.0, 0.0)


def test_collectives_of_every_layer() -> None:
    """Llama 3.1 8B on two ranks, bytes alone: a ring at the embedding, two a decoder layer, the logits at the head."""
    # b = 2, s = 3: 2(t−1)/t = 1, so b·s·4096·2 = 49,152 B, twice that, and b·128256·4 = 1,026,048 B at 1 ns a byte;
    # in a decode step s is 1, and the head pays the same.
    model, link = load_model("llama-3.1-8b"), GroupLink(0.0, 1e-9)
    work = Workload(batch=2, prompt_tokens=3)
    prefill, decode = (collective_s(model, work, phase, 2, link) for phase in ("prefill", "decode"))
    assert prefill[[0, 1, -1]] == pytest.approx([49152e-9, 98304e-9, 1026048e-9], rel=1e-12)
    assert decode[[0, 1, -1]] == pytest.approx([16384e-9, 32768e-9, 1026048e-9], rel=1e-12)
    assert len(prefill) == 34


def test_ranks_pair_up_in_turn() -> None:
    """Two ranks serve four in turn, four go to two in turn, and equal groups pair up one to one."""
    assert rank_pairs(2, 4) == ((0, 0), (1, 1), (0, 2), (1, 3))
    assert rank_pairs(4, 2) == ((0, 0), (1, 1), (2, 0), (3, 1))
    assert rank_pairs(2, 2) == ((0, 0), (1, 1))


def test_allowed_degrees() -> None:
    """Heads, KV heads (divided, or shared by several ranks) and experts limit the degree."""
    assert allowed_degrees(load_model("llama-3.1-8b"), 64) == (1, 2, 4, 8, 16, 32)  # 32 heads, 8 KV heads
    assert allowed_degrees(load_model("mixtral-8x7b"), 64) == (1, 2, 4, 8)  # 8 experts
    twelve = dataclasses.replace(load_model("llama-3.1-8b"), num_attention_heads=12, num_kv_heads=4)
    assert allowed_degrees(twelve, 12) == (1, 2, 4, 12)  # 3 and 6: no whole number of KV heads, nor of ranks a head


def test_a_degree_that_is_not_allowed_names_those_that_are() -> None:
    """The refusal says why, and what is allowed."""
    with pytest.raises(UsageError, match=r"got 3, which does not divide its 32 attention heads; it allows 1, 2, 4, 8"):
        check_degree(load_model("llama-3.1-8b"), 3, 8)


def test_key_value_projections_are_whole_beyond_the_kv_heads() -> None:
    """Eight KV heads: eight ranks cut the projections, sixteen hold each all 4096·2·1024·2 bytes of them."""
    model, work = load_model("llama-3.1-8b"), Workload()
    layer = model.layers[1]
    assert layer.kv_projection_weight_bytes == 4096 * 2 * 1024 * 2
    eight, sixteen = (stage_memory(model, 1, 2, work, tensor_parallel=t).weights_bytes for t in (8, 16))
    rest = layer.weight_bytes - layer.replicated_weight_bytes
    assert eight == pytest.approx(layer.replicated_weight_bytes + rest / 8)
    whole = layer.replicated_weight_bytes + layer.kv_projection_weight_bytes
    assert sixteen == pytest.approx(whole + (layer.weight_bytes - whole) / 16)
