"""From groups of devices to a chain: stage times, hops and memory of one batch, each computed once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.collectives import GroupLink, rank_pairs
from gpuplan.profiles.memory import TOKEN_BYTES
from gpuplan.solvers.deployment.chain import Chain
from gpuplan.solvers.deployment.fleet import STAGES_KEPT, Fleet, GroupTimes
from gpuplan.topology.compact import CompactTable

Floats = NDArray[np.float64]
Group = tuple[int, ...]
#: Kinds of devices up to which each has its own nearest hops; those of 8,192 took 1.7 s.
MOST_SENDING: Final = 256
#: Memory holds when it is overdrawn by no more than this, relatively.
SLACK = 1e-12


class Units:
    """Makes chains of a fleet's groups."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._stages: dict[tuple[Any, ...], tuple[Floats, Floats]] = {}
        self._shifted: dict[tuple[Any, ...], Floats] = {}
        self._nearest: dict[tuple[int, int], list[tuple[Floats, Floats, float]]] = {}
        self._links: dict[tuple[int, int], list[tuple[GroupLink, GroupLink] | None]] = {}
        self._sorts: dict[int, list[tuple[int, ...]]] = {}
        boundary = fleet.boundary[:-1]
        self._even_cuts = bool((boundary == boundary[0]).all()) if len(boundary) else True

    def chain(self, groups: Sequence[Group], batch: int) -> Chain | None:
        """Return the chain of `groups` in this order; None when two neighbours have no route."""
        fleet = self.fleet
        degree, count = len(groups[0]), len(groups)
        micro = fleet.problem.micro_batches(count)
        times = [fleet.group_times(group, batch) for group in groups]
        available = [min(fleet.kinds[int(fleet.kind_of[d])].available_bytes for d in group) for group in groups]
        stages = [
            self.stage(own, room, degree, batch, micro, whole=count == 1)
            for own, room in zip(times, available, strict=True)
        ]
        hops = self._hops(groups, batch)
        if hops is None:
            return None
        prefill = [self._shift(own[0], hop) for own, (hop, _) in zip(stages, hops, strict=True)]
        decode = [self._shift(own[1], hop) for own, (_, hop) in zip(stages, hops, strict=True)]
        alike = all(own is times[0] for own in times) and self._even_cuts
        return Chain(tuple(prefill), tuple(decode), batch, micro, fleet.steps, alike)

    def stage(
        self, times: GroupTimes, available: float, degree: int, batch: int, micro: int, *, whole: bool
    ) -> tuple[Floats, Floats]:
        """Return prefill and decode seconds of layers i..j−1 on a group, (n+1, n+1); inf where they do not fit."""
        key = (id(times), available, degree, batch, micro, whole)
        if key not in self._stages:
            if len(self._stages) >= STAGES_KEPT:  # both at once: the second is keyed by what the first keeps alive
                self._stages.clear()
                self._shifted.clear()
            barred = self._barred(available, degree, batch, micro, whole=whole)
            prefill, decode = (np.where(barred, np.inf, _spans(own)) for own in (times.prefill_s, times.decode_s))
            self._stages[key] = prefill, decode
        return self._stages[key]

    def _barred(self, available: float, degree: int, batch: int, micro: int, *, whole: bool) -> NDArray[np.bool_]:
        fleet = self.fleet
        memory = fleet.memory(degree, batch)
        need = _differences(memory.weights) + micro * batch * _differences(memory.kv) + memory.workspace
        if whole:
            need[0, -1] -= memory.saving
        size = len(memory.weights)
        empty = np.tri(size, dtype=bool)
        barred = empty | (need > available * (1 + SLACK))
        if fleet.problem.decoder_in_every_stage:
            barred |= fleet.decoders[None, :] == fleet.decoders[:, None]
        return barred

    def _hops(self, groups: Sequence[Group], batch: int) -> list[tuple[Floats | float, Floats | float]] | None:
        """Return the seconds of the hop behind each stage by cut, for prefill and decode; None without a route."""
        fleet = self.fleet
        tables, prompt = fleet.hops(batch), fleet.problem.workload.prompt_tokens
        found: list[tuple[Floats | float, Floats | float]] = []
        for here, there in itertools.pairwise(groups):
            prefill = self.transfer(tables.prefill, here, there, batch * prompt * fleet.boundary)
            decode = self.transfer(tables.decode, here, there, batch * fleet.boundary)
            if not (np.isfinite(prefill).all() and np.isfinite(decode).all()):
                return None
            found.append((prefill, decode))
        back = 0.0
        if len(groups) > 1 and fleet.problem.return_hop:
            message = np.array([float(TOKEN_BYTES * batch)])
            back = float(self.transfer(tables.back, groups[-1], groups[0], message)[0])
            if not math.isfinite(back):
                return None
        found.append((0.0, back))
        return found

    def transfer(self, table: CompactTable, sender: Group, receiver: Group, messages: Floats) -> Floats:
        """Return the seconds of each message over the slowest pair of ranks."""
        pairs = rank_pairs(len(sender), len(receiver))
        numbers = {table.numbers(sender[i], receiver[j]) for i, j in pairs}
        if any(math.isinf(latency) or math.isinf(slowness) for latency, slowness in numbers):
            return np.full(len(messages), np.inf)
        times: Floats = np.max([latency + slowness * messages for latency, slowness in sorted(numbers)], axis=0)
        return times

    def _shift(self, stage: Floats, hop: Floats | float) -> Floats:
        """Return a stage's seconds with the hop behind it; equal ones are one matrix."""
        if isinstance(hop, float):
            if hop == 0.0:
                return stage
            hop_key: Any = hop
            shift: Floats | float = hop
        else:
            hop_key = hop.tobytes()
            shift = np.concatenate([[0.0], hop])[None, :]
        key = (id(stage), hop_key)
        if key not in self._shifted:
            self._shifted[key] = stage + shift
        return self._shifted[key]

    def ideal(self, groups: Sequence[tuple[int, ...]], degree: int, batch: int) -> Chain | None:
        """Return a chain of groups given by the kinds in each, every hop and every link as near as any there is.

        None where some group has no island that holds it.
        """
        fleet, count = self.fleet, len(groups)
        micro = fleet.problem.micro_batches(count)
        nearest = self.nearest_hops(degree, batch)
        inner: list[tuple[Floats | float, Floats | float]] = [(nearest[0], nearest[1])] * (count - 1)
        hops = [*inner, (0.0, nearest[2] if count > 1 else 0.0)]
        prefill, decode = [], []
        for kinds, (before, after) in zip(groups, hops, strict=True):
            times = self.best_times(kinds, degree, batch)
            if times is None:
                return None
            room = min(fleet.kinds[kind].available_bytes for kind in kinds)
            stage = self.stage(times, room, degree, batch, micro, whole=count == 1)
            prefill.append(self._shift(stage[0], before))
            decode.append(self._shift(stage[1], after))
        alike = self._even_cuts and len({tuple(sorted(set(kinds))) for kinds in groups}) == 1
        return Chain(tuple(prefill), tuple(decode), batch, micro, fleet.steps, alike)

    def sorts(self, degree: int) -> list[tuple[int, ...]]:
        """Return the groups of `degree` devices that some island holds, as counts by kind."""
        if degree not in self._sorts:
            found: set[tuple[int, ...]] = set()
            for members in self.fleet.network.samples:
                held = np.bincount(self.fleet.kind_of[list(members)], minlength=len(self.fleet.kinds))
                kinds = [kind for kind, count in enumerate(held) if count]
                for group in itertools.combinations_with_replacement(kinds, degree):
                    own = tuple(group.count(kind) for kind in range(len(held)))
                    if all(count <= most for count, most in zip(own, held, strict=True)):
                        found.add(own)
            self._sorts[degree] = sorted(found)
        return self._sorts[degree]

    def nearest_hops(self, degree: int, batch: int) -> tuple[Floats, Floats, float]:
        """Return bounds below every hop: seconds by cut of a prefill and a decode hop, and of the return hop."""
        found = list({id(own): own for own in self.hops_from(degree, batch)}.values())
        prefill, decode = np.min([own[0] for own in found], axis=0), np.min([own[1] for own in found], axis=0)
        return prefill, decode, min(own[2] for own in found)

    def hops_from(self, degree: int, batch: int) -> list[tuple[Floats, Floats, float]]:
        """Return by kind bounds below every hop from a group of `degree` devices with one of the kind in it.

        Seconds by cut of a prefill and of a decode hop, and of the return hop. Where no island with such a device holds
        two groups, every hop leaves an island.
        """
        key = (degree, batch)
        if key not in self._nearest:
            fleet = self.fleet
            tables, prompt = fleet.hops(batch), fleet.problem.workload.prompt_tokens
            messages = (
                (tables.prefill, batch * prompt * fleet.boundary),
                (tables.decode, batch * fleet.boundary),
                (tables.back, np.array([float(TOKEN_BYTES * batch)])),
            )
            largest = fleet.network.largest
            few = len(largest) <= MOST_SENDING
            senders = [*enumerate(largest.tolist())] if few else [(None, int(largest.max()))]
            self._nearest[key] = []
            for sender, most in senders:
                prefill, decode, back_s = (
                    _least_transfers(fleet.network.distinct(table, apart=bool(2 * degree > most), sender=sender), own)
                    for table, own in messages
                )
                back = float(back_s[0]) if fleet.problem.return_hop else 0.0
                self._nearest[key].append((prefill, decode, back))
            if not few:
                self._nearest[key] *= len(largest)
        return self._nearest[key]

    def best_times(self, kinds: Sequence[int], degree: int, batch: int) -> GroupTimes | None:
        """Return bounds below the layer times of every group that holds devices of `kinds`; None when there is none."""
        fleet, among = self.fleet, tuple(sorted(set(kinds)))
        if degree == 1:
            return fleet.kind_times(among[0], 1, batch)
        links = [self.nearest_links(degree, batch)[kind] for kind in among]
        known = [own for own in links if own is not None]
        if len(known) < len(links):
            return None
        prefill, decode = (
            GroupLink(max(own[p].latency_s for own in known), max(own[p].s_per_byte for own in known)) for p in (0, 1)
        )
        return fleet.joined_times(among, degree, batch, (prefill, decode))

    def nearest_links(self, degree: int, batch: int) -> list[tuple[GroupLink, GroupLink] | None]:
        """Return by kind bounds below α and β of every group of `degree` devices with one of the kind in it.

        In prefill and in decode; None where no island has the room.
        """
        key = (degree, batch)
        if key not in self._links:
            tables = self.fleet.hops(batch)
            prefill, decode = (self._nearest_slowest(table, degree) for table in (tables.prefill, tables.decode))
            self._links[key] = [
                None if first is None or second is None else (first, second)
                for first, second in zip(prefill, decode, strict=True)
            ]
        return self._links[key]

    def _nearest_slowest(self, table: CompactTable, degree: int) -> list[GroupLink | None]:
        """Return by kind bounds below the largest latency and slowness of a group with one of the kind in it.

        A device's slowest partner in a group is at least its (degree − 1)-th nearest neighbour.
        """
        fleet = self.fleet
        least = np.full((2, len(fleet.kinds)), np.inf)
        for members in fleet.network.samples:
            if len(members) < degree:
                continue
            kinds = fleet.kind_of[list(members)]
            for which, rows in enumerate(fleet.network.block(table, members)):
                np.fill_diagonal(rows, -1.0)  # itself comes first
                rows.sort(axis=1)
                np.minimum.at(least[which], kinds, rows[:, degree - 1])
        return [GroupLink(float(a), float(b)) if math.isfinite(a + b) else None for a, b in least.T]


def _least_transfers(numbers: Floats, messages: Floats) -> Floats:
    """Return the seconds of each message over the nearest of pairs (latency, s/byte); inf where there is none."""
    if not len(numbers):
        return np.full(len(messages), np.inf)
    times: Floats = np.min(numbers[:, :1] + numbers[:, 1:] * messages[None, :], axis=0)
    return times


def _differences(prefix: Floats) -> Floats:
    return prefix[None, :] - prefix[:, None]


def _spans(seconds: Floats) -> Floats:
    """Return the sum over layers i..j−1 for all i, j; inf everywhere for a group whose members no route joins."""
    if not np.isfinite(seconds).all():
        return np.full((len(seconds) + 1, len(seconds) + 1), np.inf)
    return _differences(np.concatenate([[0.0], np.cumsum(seconds)]))
