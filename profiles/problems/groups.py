"""Groups of devices as stages: what a group of every composition costs, weighs and hands on.

A *mode* is one composition: so many devices of each segment of an island, t in all. With the devices of a segment
exchangeable and side by side, every group of a mode has the same numbers:

* layer time: the slowest member's at degree t, plus the collectives over its slowest pair;
* memory: what each rank holds at degree t, in the least memory of its members;
* hand-over: the slowest pair of rank i mod t → rank i mod t′, i = 0…max(t, t′)−1, at the phase's largest message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpuplan.profiles.collectives import GroupLink, Phase, collective_s, group_link, rank_pairs
from gpuplan.profiles.memory import TOKEN_BYTES, kv_share, weight_share, workspace_bytes
from gpuplan.profiles.problems.build import PlacementProblem, largest_boundary, times_on
from gpuplan.profiles.problems.hops import FloatArray, HopTable, IntArray
from gpuplan.profiles.problems.placement import Timing
from gpuplan.profiles.problems.routing import combined
from gpuplan.profiles.problems.segments import Segments

#: One mode: the segment of every rank, rising.
Word = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupModes:
    """C modes and their numbers.

    words
        The segment of every rank, by mode.
    degrees, islands
        t and the island of each mode, shape (C,).
    use, capacity
        Devices of segment r that mode c takes, shape (S, C), and those there are, shape (S,).
    available_bytes, price_per_hour, fixed_bytes, saving_bytes
        Least memory of a member, price of all members, workspace, the tied copy saved; shape (C,).
    memory_bytes, kv_bytes_per_token
        Of each layer on every rank, shape (C, n).
    latency, cycle
        As in a `DensePlacement` whose devices are the modes; the diagonal of a hop is for two groups of one mode.
    """

    words: tuple[Word, ...]
    degrees: IntArray
    islands: IntArray
    use: IntArray
    capacity: IntArray
    available_bytes: FloatArray
    price_per_hour: FloatArray
    fixed_bytes: FloatArray
    saving_bytes: FloatArray
    memory_bytes: FloatArray
    kv_bytes_per_token: FloatArray
    latency: Timing
    cycle: Timing


def compositions(counts: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to take `total` items from kinds of so many each, first kinds first.

    >>> list(compositions((2, 1), 2))
    [(2, 0), (1, 1)]
    """
    if not counts:
        if total == 0:
            yield ()
        return
    for taken in range(min(counts[0], total), -1, -1):
        for rest in compositions(counts[1:], total - taken):
            yield (taken, *rest)


def count_compositions(counts: Sequence[int], total: int) -> int:
    """Return how many there are, without making them."""
    ways = [1] + [0] * total
    for count in counts:
        ways = [sum(ways[t - k] for k in range(min(count, t) + 1)) for t in range(total + 1)]
    return ways[total]


def count_modes(segments: Segments, degrees: Sequence[int]) -> int:
    """Return how many modes all islands have together at these degrees."""
    sizes = segments.counts
    return sum(count_compositions([int(sizes[s]) for s in parts], t) for parts in segments.islands for t in degrees)


def words_of(segments: Segments, degrees: Sequence[int], chosen: Sequence[int] | None = None) -> tuple[Word, ...]:
    """Return the modes of some islands (all by default) at these degrees, by island and degree."""
    sizes = segments.counts
    words = []
    for island in range(len(segments.islands)) if chosen is None else chosen:
        parts = segments.islands[island]
        for t in degrees:
            for taken in compositions([int(sizes[s]) for s in parts], t):
                words.append(tuple(s for s, count in zip(parts, taken, strict=True) for _ in range(count)))
    return tuple(words)


def group_modes(problem: PlacementProblem, segments: Segments, words: Sequence[Word]) -> GroupModes:
    """Return the numbers of some modes; those whose members do not reach each other are left out."""
    words = tuple(word for word in words if _connected(segments, word))
    degrees = np.array([len(word) for word in words], dtype=np.int64)
    shares = {t: _Shares.of(problem, t) for t in sorted(set(degrees.tolist()))}
    island_of = {s: k for k, parts in enumerate(segments.islands) for s in parts}
    devices = problem.topology.devices
    firsts = [[devices[segments.devices[s][0]] for s in word] for word in words]
    latency, cycle = _timings(problem, segments, words)
    prices = [[np.nan if d.price_per_hour is None else d.price_per_hour for d in group] for group in firsts]
    return GroupModes(
        words=words,
        degrees=degrees,
        islands=np.array([island_of[word[0]] for word in words], dtype=np.int64),
        use=_use(len(segments.devices), words),
        capacity=segments.counts,
        available_bytes=np.array([min(d.available_bytes for d in group) for group in firsts], dtype=np.float64),
        price_per_hour=np.array([float(np.sum(group)) for group in prices]),
        fixed_bytes=np.array([shares[t].fixed_bytes for t in degrees.tolist()]),
        saving_bytes=np.array([shares[t].saving_bytes for t in degrees.tolist()]),
        memory_bytes=np.array([shares[t].memory_bytes for t in degrees.tolist()]),
        kv_bytes_per_token=np.array([shares[t].kv_bytes_per_token for t in degrees.tolist()]),
        latency=latency,
        cycle=cycle,
    )


def of_one_degree(modes: GroupModes) -> GroupModes:
    """Return the modes with no way from one degree to another, so that all stages of a plan share theirs."""
    apart = modes.degrees[:, None] != modes.degrees[None, :]

    def part(table: HopTable | None) -> HopTable | None:
        if table is None:
            return None
        return HopTable(np.where(apart, np.inf, table.latency_s), np.where(apart, 0.0, table.s_per_byte))

    def cut(timing: Timing) -> Timing:
        hop = part(_table(timing.hop))
        assert hop is not None
        back = None if timing.return_hop is None else part(_table(timing.return_hop))
        return replace(timing, hop=hop, return_hop=back)

    return replace(modes, latency=cut(modes.latency), cycle=cut(modes.cycle))


def _table(hops: object) -> HopTable:
    assert isinstance(hops, HopTable)
    return hops


@dataclass(frozen=True, slots=True)
class _Shares:
    """Memory of every rank at one degree."""

    fixed_bytes: float
    saving_bytes: float
    memory_bytes: FloatArray
    kv_bytes_per_token: FloatArray

    @classmethod
    def of(cls, problem: PlacementProblem, t: int) -> _Shares:
        model, workload = problem.model, problem.workload
        return cls(
            float(workspace_bytes(model, workload, reserve_bytes=problem.reserve_bytes, tensor_parallel=t)),
            model.tied_bytes / t,
            np.array([weight_share(layer, t) for layer in model.layers], dtype=np.float64),
            np.array([kv_share(layer, workload, t) / workload.sequence_tokens for layer in model.layers]),
        )


def shares_at(problem: PlacementProblem, degree: int) -> tuple[float, float, FloatArray, FloatArray]:
    """Return workspace, tied bytes saved, bytes of each layer and its KV bytes per token on a rank at one degree."""
    shares = _Shares.of(problem, degree)
    return shares.fixed_bytes, shares.saving_bytes, shares.memory_bytes, shares.kv_bytes_per_token


def _use(num_segments: int, words: Sequence[Word]) -> IntArray:
    use = np.zeros((num_segments, len(words)), dtype=np.int64)
    for c, word in enumerate(words):
        np.add.at(use[:, c], list(word), 1)
    return use


def _connected(segments: Segments, word: Word) -> bool:
    tables = [segments.prefill, segments.decode]
    return all(np.isfinite(table.latency_s[a, b]) for table in tables for a, b in _rank_pairs_within(word))


def _rank_pairs_within(word: Word) -> set[tuple[int, int]]:
    return {(a, b) for i, a in enumerate(word) for j, b in enumerate(word) if i != j}


def _timings(problem: PlacementProblem, segments: Segments, words: Sequence[Word]) -> tuple[Timing, Timing]:
    """Return the numbers of a whole request and of one decode step, by mode."""
    workload = problem.workload
    b, s, steps = workload.batch, workload.prompt_tokens, workload.decode_steps
    prefill_s, decode_s = (_layer_seconds(problem, segments, words, phase) for phase in ("prefill", "decode"))
    per_token = np.array([layer.boundary_bytes_per_token for layer in problem.model.layers], dtype=np.float64)
    largest = largest_boundary(problem.model)
    prefill = group_hops(segments, segments.prefill, words, b * s * largest)
    decode = group_hops(segments, segments.decode, words, b * largest)
    message = float(TOKEN_BYTES * b)
    back = None if segments.back is None else group_hops(segments, segments.back, words, message)
    latency = Timing(
        prefill_s + steps * decode_s,
        _table(combined((1, b * s, prefill), (steps, steps * b, decode))),
        per_token,
        None if back is None else _table(combined((steps, steps, back))),
        0.0 if back is None else message,
    )
    return latency, Timing(decode_s, _table(combined((1, b, decode))), per_token, back, latency.return_bytes)


def _layer_seconds(
    problem: PlacementProblem, segments: Segments, words: Sequence[Word], phase: Phase
) -> FloatArray:  # fmt: skip
    """Return the seconds of every layer on every mode in one pass, collectives included; shape (C, n)."""
    table = segments.prefill if phase == "prefill" else segments.decode
    rows = []
    for word in words:
        t = len(word)
        times = [times_on(problem, problem.topology.devices[segments.devices[s][0]], t) for s in sorted(set(word))]
        slowest = np.max([own.prefill_s if phase == "prefill" else own.decode_s for own in times], axis=0)
        if t > 1:
            link = _group_link(table, word)
            slowest = slowest + collective_s(problem.model, problem.workload, phase, t, link)
        rows.append(slowest)
    return np.array(rows).reshape(len(rows), problem.model.num_layers)


def _group_link(table: HopTable, word: Word) -> GroupLink:
    rows = np.array(word)
    block = np.ix_(rows, rows)
    return group_link(table.latency_s[block], table.s_per_byte[block], range(len(word)))


def group_hops(segments: Segments, table: HopTable, words: Sequence[Word], message_bytes: float) -> HopTable:
    """Return the slowest pair of ranks between every two modes for one message; no route where both do not fit.

    Parameters
    ----------
    segments, words
        The modes.
    table
        Routes of a phase between segments.
    message_bytes
        The phase's largest message, by which the slowest pair is chosen.
    """
    num = len(words)
    latency, per_byte = np.full((num, num), np.inf), np.zeros((num, num))
    by_degree: dict[int, list[int]] = {}
    for c, word in enumerate(words):
        by_degree.setdefault(len(word), []).append(c)
    for t, senders in by_degree.items():
        for u, receivers in by_degree.items():
            pairs = np.array(rank_pairs(t, u))
            left = np.array([words[c] for c in senders])[:, None, pairs[:, 0]]
            right = np.array([words[c] for c in receivers])[None, :, pairs[:, 1]]
            alpha, beta = table.latency_s[left, right], table.s_per_byte[left, right]
            slowest = np.argmax(alpha + message_bytes * beta, axis=2)[:, :, None]
            block = np.ix_(senders, receivers)
            latency[block] = np.take_along_axis(alpha, slowest, axis=2)[:, :, 0]
            per_byte[block] = np.take_along_axis(beta, slowest, axis=2)[:, :, 0]
    crowded = _crowded(_use(len(segments.devices), words), segments.counts)
    closed = crowded | ~np.isfinite(latency)
    return HopTable(np.where(closed, np.inf, latency), np.where(closed, 0.0, per_byte))


def _crowded(use: IntArray, capacity: IntArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return where two modes together need more devices than a segment has; shape (C, C)."""
    crowded = np.zeros((use.shape[1], use.shape[1]), dtype=np.bool_)
    for row, most in zip(use, capacity, strict=True):
        takers = np.flatnonzero(row)
        block = np.ix_(takers, takers)
        crowded[block] |= row[takers][:, None] + row[takers][None, :] > most
    return crowded
