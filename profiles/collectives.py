"""Collectives of tensor-parallel stages: what a group's all-reduces and gathers add to every layer.

A ring over t ranks moves a message of m bytes in 2(t−1) steps, each over the slowest pair of the group::

    2(t−1)/t·m·β + 2(t−1)·α

A decoder layer has two (after attention, after the feed-forward part) of ``tokens·hidden·activation bytes``, the
embedding one of as many, the head one of the last token's logits, ``b·vocab·4``. In a prefill tokens is b·s, in a
decode step b. One rank needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import UsageError
from gpuplan.profiles.memory import LOGIT_BYTES
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.workload import Workload
from gpuplan.units import DTYPE_BYTES

FloatArray = NDArray[np.float64]
Phase = Literal["prefill", "decode"]
#: Collectives of one layer by its kind.
_COUNTS = {"embedding": 1, "decoder": 2, "head": 1}


@dataclass(frozen=True, slots=True)
class GroupLink:
    """The slowest pair of a group: largest latency (s) and largest slowness (s/byte) over all ordered pairs."""

    latency_s: float
    s_per_byte: float


def group_link(latency_s: FloatArray, s_per_byte: FloatArray, members: Sequence[int]) -> GroupLink:
    """Return α and β of a group, the maxima over all ordered pairs of `members`; zeros for one device.

    Parameters
    ----------
    latency_s, s_per_byte
        A phase's route table, shape (D, D): that of the phase's largest boundary message.
    members
        Rows of the group's devices.
    """
    rows = np.asarray(members)
    pairs = ~np.eye(len(rows), dtype=np.bool_)
    if len(rows) == 1:
        return GroupLink(0.0, 0.0)
    block = np.ix_(rows, rows)
    return GroupLink(float(latency_s[block][pairs].max()), float(s_per_byte[block][pairs].max()))


def ring_s(message_bytes: float, tensor_parallel: int, link: GroupLink) -> float:
    """Return the seconds of one collective of `message_bytes` over t ranks.

    >>> ring_s(8e6, 4, GroupLink(1e-6, 1e-9))  # 6/4·8e6·1e-9 + 6·1e-6
    0.012006
    """
    t = tensor_parallel
    if t == 1:
        return 0.0
    return 2.0 * (t - 1) / t * message_bytes * link.s_per_byte + 2.0 * (t - 1) * link.latency_s


def collective_s(
    model: ModelProfile, workload: Workload, phase: Phase, tensor_parallel: int, link: GroupLink
) -> FloatArray:
    """Return the seconds of every layer's collectives in one pass; shape (n,)."""
    tokens = workload.batch * (workload.prompt_tokens if phase == "prefill" else 1)
    hidden = tokens * model.hidden_size * DTYPE_BYTES[model.activation_dtype]
    logits = workload.batch * model.vocab_size * LOGIT_BYTES
    seconds = {
        kind: count * ring_s(float(logits if kind == "head" else hidden), tensor_parallel, link)
        for kind, count in _COUNTS.items()
    }
    return np.array([seconds[layer.kind] for layer in model.layers], dtype=np.float64)


def rank_pairs(senders: int, receivers: int) -> tuple[tuple[int, int], ...]:
    """Return which rank sends the boundary to which between groups of t and t′: i mod t to i mod t′.

    >>> rank_pairs(2, 4)
    ((0, 0), (1, 1), (0, 2), (1, 3))
    """
    return tuple((i % senders, i % receivers) for i in range(max(senders, receivers)))


def allowed_degrees(model: ModelProfile, largest: int) -> tuple[int, ...]:
    """Return the tensor-parallel degrees up to `largest` that the model can be cut into.

    t divides the attention heads and the experts of every MoE layer; KV heads are divided by t or divide it (each is
    then held by several ranks).
    """
    return tuple(t for t in range(1, largest + 1) if _fault(model, t) is None)


def check_degree(model: ModelProfile, degree: int, largest: int) -> None:
    """Refuse a degree that the model does not allow; `largest` limits those named instead."""
    fault = _fault(model, degree)
    if fault is not None:
        allowed = ", ".join(map(str, allowed_degrees(model, max(largest, 1))))
        raise UsageError(
            f"expected a tensor-parallel degree that {model.name} allows, got {degree}, {fault}; it allows {allowed}"
        )


def _fault(model: ModelProfile, t: int) -> str | None:
    heads, kv_heads = model.num_attention_heads, model.num_kv_heads
    if heads % t:
        return f"which does not divide its {heads} attention heads"
    if kv_heads % t and t % kv_heads:
        return f"which neither divides nor is a multiple of its {kv_heads} KV heads"
    for experts in sorted({operator.experts for layer in model.layers for operator in layer.operators}):
        if experts % t:
            return f"which does not divide its {experts} experts"
    return None
