"""Which layer ranges a class of devices may hold: windows of start positions for every end position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.tables import ClassTables

#: Covers the rounding of T − hop; a cap is itself the value of a plan, and values are compared to 1e-9.
CAP_TOLERANCE = 1e-13


def memory_windows(tables: ClassTables, micro_batches: int, capacity_tokens: float | None) -> IntArray:
    """Return low[c, j]: the least l such that layers l..j−1 fit a device of c; j or more when none do.

    A stage fits when its weights and the KV of every micro-batch are at most the room of the device and, with a
    capacity X, when it has room for X KV tokens or holds no KV. Shape (C, n+1), non-decreasing in j.
    """
    tokens = micro_batches * tables.problem.tokens_per_micro_batch
    if tables.memory.ndim == 1:
        return _windows(tables.memory, tables.kv, tables.room, tables.room_exact, tokens, capacity_tokens)
    low = np.empty(tables.memory.shape, dtype=np.int64)
    alike: dict[bytes, list[int]] = {}  # one entry per tensor-parallel degree
    for c, row in enumerate(np.concatenate([tables.memory, tables.kv], axis=1)):
        alike.setdefault(row.tobytes(), []).append(c)
    for rows in alike.values():
        memory, kv = tables.memory[rows[0]], tables.kv[rows[0]]
        low[rows] = _windows(memory, kv, tables.room[rows], tables.room_exact[rows], tokens, capacity_tokens)
    return low


def _windows(
    memory: FloatArray,
    kv: FloatArray,
    room: FloatArray,
    room_exact: FloatArray,
    tokens: float,
    capacity_tokens: float | None,
) -> IntArray:
    low = _least_start(memory + tokens * kv, room)
    if capacity_tokens is None:
        return low
    without_kv = np.searchsorted(kv, kv, side="left")
    return np.maximum(low, np.minimum(_least_start(memory + capacity_tokens * kv, room_exact), without_kv[None, :]))


def _least_start(needed: FloatArray, room: FloatArray) -> IntArray:
    """Least l with needed[j] − needed[l] ≤ room[c], j + 1 where even an empty stage does not fit."""
    ends = np.arange(len(needed))
    low = np.searchsorted(needed, (needed[None, :] - room[:, None]).ravel(), side="left").reshape(len(room), -1)
    # needed[j] − room rounds; take the neighbour back in when the difference itself fits.
    back = np.maximum(low - 1, 0)
    low = np.where(needed[ends][None, :] - needed[back] <= room[:, None], back, low)
    return np.where(room[:, None] < 0.0, ends[None, :] + 1, low).astype(np.int64)


@dataclass(frozen=True, slots=True)
class CapWindows:
    """Windows under a cap T on stage compute + outgoing hop of the cycle.

    following
        following[d, e, j]: least start of d's stage when it ends at j and hands over to e; shape (C, C, n+1).
    ending
        ending[d, f]: least start of d's stage when it is the last and f is the first class; shape (C, C).
    loosest
        Least of `following` over e, made non-decreasing in j (a relaxation), shape (C, n+1).
    """

    following: IntArray
    ending: IntArray
    loosest: IntArray


def cap_windows(tables: ClassTables, low: IntArray, cap_s: float) -> CapWindows:
    """Return the windows that the memory windows `low` and a cap of `cap_s` seconds leave."""
    cycle = tables.cycle
    num, n = tables.num_classes, tables.num_layers
    following = np.empty((num, num, n + 1), dtype=np.int64)
    ending = np.empty((num, num), dtype=np.int64)
    for d in range(num):
        prefix = cycle.prefix[d]
        # Stage + hop ≤ T, solved for the prefix at the start; no route leaves no start at all.
        over = prefix - cap_s - CAP_TOLERANCE * (cap_s + prefix[n])
        hops = cycle.hop_s[d][:, None] + cycle.boundary * cycle.hop_s_per_byte[d][:, None]
        following[d] = np.searchsorted(prefix, hops + over)
        ending[d] = np.searchsorted(prefix, over[n] + (np.zeros(num) if cycle.back is None else cycle.back[d]))
    following = np.maximum(following, low[:, None, :])
    ending = np.maximum(ending, low[:, n:])
    loosest = following.min(axis=1)
    loosest[:, n] = np.minimum(ending.min(axis=1), loosest[:, n])
    loosest = np.minimum.accumulate(loosest[:, ::-1], axis=1)[:, ::-1]
    return CapWindows(following, ending, np.ascontiguousarray(np.maximum(loosest, low)))
