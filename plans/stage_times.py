"""What the stages of a pipeline take: layers on the slowest device of each group, collectives, hand-overs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import UsageError
from gpuplan.plans.placement_solution import GroupStage, StageRange
from gpuplan.profiles.collectives import GroupLink, Phase, collective_s, rank_pairs
from gpuplan.profiles.costs import LayerTimes, Origin
from gpuplan.profiles.memory import TOKEN_BYTES
from gpuplan.topology.routes import Router

if TYPE_CHECKING:
    from gpuplan.profiles import PlacementProblem, Workload
    from gpuplan.topology.compact import CompactTable
    from gpuplan.topology.graph import Device, Topology
    from gpuplan.topology.routes import Route

AnyStage = StageRange | GroupStage
FloatArray = NDArray[np.float64]
#: Pairs this close (relative) to the slowest are as slow.
TIE = 1e-12


@dataclass(frozen=True, slots=True)
class Transfer:
    """A hand-over to stage number `to` in one pass: the slowest pair of ranks, and its message.

    `routing_bytes` is the message its route is chosen for (the model's largest boundary: one table a phase),
    `own_bytes` what the cut sends over it.
    """

    to: int
    routing_bytes: float
    own_bytes: float


def members(stage: AnyStage) -> tuple[int, ...]:
    """Return the device numbers of a stage, in rank order."""
    return stage.devices if isinstance(stage, GroupStage) else (stage.device,)


class Ways:
    """Routes and layer times that the pipelines of one plan share.

    Parameters
    ----------
    topology
        Where the pipelines stand.
    numbers
        Devices (by number) that routes are asked for; by default all.
    router
        That of these devices, where there is one already.
    """

    def __init__(self, topology: Topology, numbers: Sequence[int] | None = None, router: Router | None = None) -> None:
        used = range(topology.num_devices) if numbers is None else numbers
        self._rows = {number: row for row, number in enumerate(used)}
        self._devices = [topology.devices[number] for number in used]
        self._shared = router is not None
        self._router = router or Router(topology, [device.name for device in self._devices])
        self._tables: dict[float, CompactTable] = {}
        self._routes: dict[tuple[float, int, int], Route] = {}
        self._looks: list[tuple[Hashable, int]] = []
        self.times: dict[tuple[int, float | None, int, Workload], LayerTimes] = {}

    def pair(self, message_bytes: float, sender: int, receiver: int) -> tuple[float, float]:
        """Return latency (s) and slowness (s/byte) between two devices on the fastest route of a message."""
        if message_bytes not in self._tables:
            self._tables[message_bytes] = self._router.compact_table(message_bytes)
        return self._tables[message_bytes].numbers(self._rows[sender], self._rows[receiver])

    def route(self, message_bytes: float, sender: int, receiver: int) -> Route:
        """Return the fastest route of a message; UsageError when there is none."""
        key = message_bytes, sender, receiver
        if key not in self._routes:
            here, there = (self._devices[self._rows[number]].name for number in (sender, receiver))
            if self._shared:  # its tables are there: one search instead of one for each bandwidth
                _, slowness = self.pair(message_bytes, sender, receiver)
                found = self._router.route_within(here, there, (1 - TIE) / slowness)
            else:
                found = self._router.routes_from(here, message_bytes, [there]).get(there)
            if found is None:
                raise UsageError(f"no route joins {here} and {there}; add a link to the topology")
            self._routes[key] = found
        return self._routes[key]

    def likeness(self, numbers: Iterable[int]) -> Hashable:
        """Return what is equal for lists of devices of equal times, memory and numbers between every two of them."""
        if not self._looks:
            compact = self._router.compact()
            places = zip(compact.group.tolist(), compact.cell.tolist(), compact.member.tolist(), strict=True)
            self._looks = [
                (
                    (id(device.kind), device.power_cap_w, device.available_bytes, group, compact.cell_kind[cell], at),
                    cell,
                )
                for device, (group, cell, at) in zip(self._devices, places, strict=True)
            ]
        cells: dict[int, int] = {}
        looks = (self._looks[self._rows[number]] for number in numbers)
        return tuple((look, cells.setdefault(cell, len(cells))) for look, cell in looks)

    def slowest(self, message_bytes: float, group: Sequence[int]) -> GroupLink:
        """Return the largest latency and slowness over all ordered pairs of a group."""
        found = [self.pair(message_bytes, a, b) for a, b in itertools.permutations(group, 2)]
        return GroupLink(max(own[0] for own in found), max(own[1] for own in found))


class StageTimes:
    """Seconds of the stages of one pipeline under any workload.

    Parameters
    ----------
    problem
        Model, topology, costs and whether the sampled tokens return.
    stages
        In pipeline order; groups in rank order.
    ways
        Shared with other pipelines on this topology, with these costs; by default routes among the devices used alone.
    """

    def __init__(self, problem: PlacementProblem, stages: Sequence[AnyStage], ways: Ways | None = None) -> None:
        self.problem = problem
        self.stages = tuple(stages)
        self.groups = [members(stage) for stage in stages]
        self._ways = ways or Ways(problem.topology, [number for group in self.groups for number in group])
        self._largest = max(layer.boundary_bytes_per_token for layer in problem.model.layers)

    def layers(self, k: int, workload: Workload) -> LayerTimes:
        """Return the times of all layers of the model on the slowest device of stage `k`, collectives left out."""
        devices = [self.problem.topology.devices[number] for number in self.groups[k]]
        alike: dict[tuple[int, float | None], Device] = {}
        for device in devices:
            alike.setdefault((id(device.kind), device.power_cap_w), device)
        return slowest_times([self._layer_times(device, workload, len(devices)) for device in alike.values()])

    def _layer_times(self, device: Device, workload: Workload, degree: int) -> LayerTimes:
        key = id(device.kind), device.power_cap_w, degree, workload
        if key not in self._ways.times:
            # Sources that price single devices alone need not know of degrees.
            asked = {} if degree == 1 else {"tensor_parallel": degree}
            self._ways.times[key] = self.problem.costs.layer_times(self.problem.model, device, workload, **asked)
        return self._ways.times[key]

    def collectives(self, k: int, workload: Workload, phase: Phase) -> FloatArray:
        """Return the seconds of every layer's all-reduces and gathers in the group of stage `k`; shape (n,)."""
        group = self.groups[k]
        if len(group) == 1:
            return np.zeros(self.problem.model.num_layers)
        link = self._ways.slowest(self._tokens(workload, phase) * self._largest, group)
        return collective_s(self.problem.model, workload, phase, len(group), link)

    def seconds(self, k: int, workload: Workload, phase: Phase, times: LayerTimes | None = None) -> float:
        """Return what stage `k` takes in one pass, its collectives included, s."""
        times = self.layers(k, workload) if times is None else times
        held = slice(self.stages[k].start, self.stages[k].stop)
        alone = float(np.sum((times.prefill_s if phase == "prefill" else times.decode_s)[held]))
        if len(self.groups[k]) == 1:
            return alone
        return alone + float(np.sum(self.collectives(k, workload, phase)[held]))

    def transfer(self, k: int, workload: Workload, phase: Phase) -> Transfer | None:
        """Return what stage `k` hands on in one pass; None when it hands nothing on."""
        if k + 1 < len(self.stages):
            tokens = self._tokens(workload, phase)
            boundary = self.problem.model.layers[self.stages[k].stop - 1].boundary_bytes_per_token
            return Transfer(k + 1, tokens * self._largest, tokens * boundary)
        if len(self.stages) == 1 or phase == "prefill" or not self.problem.return_hop:
            return None
        message = TOKEN_BYTES * workload.batch
        return Transfer(0, message, message)

    def pass_s(self, workload: Workload, phase: Phase) -> float:
        """Return what one pass through all stages takes with its hand-overs, s: TTFT, or a decode step."""
        numbers = range(len(self.stages))
        return math.fsum(self.seconds(k, workload, phase) + self.hop_s(k, workload, phase) for k in numbers)

    def hop_s(self, k: int, workload: Workload, phase: Phase) -> float:
        """Return what the hand-over of stage `k` takes in one pass, s; 0 when there is none."""
        transfer = self.transfer(k, workload, phase)
        return 0.0 if transfer is None else max(self._pair_times(k, transfer))

    def route(self, k: int, transfer: Transfer) -> Route:
        """Return the route of the slowest pair of ranks, the first of equals; UsageError when there is none."""
        pairs = self._pairs(k, transfer.to)
        chosen = 0
        if len(pairs) > 1:
            times = self._pair_times(k, transfer)
            chosen = next(i for i, own in enumerate(times) if own >= max(times) * (1 - TIE))
        return self._ways.route(transfer.routing_bytes, *pairs[chosen])

    def _pairs(self, k: int, to: int) -> list[tuple[int, int]]:
        senders, receivers = self.groups[k], self.groups[to]
        ranks = rank_pairs(len(senders), len(receivers))
        return [(senders[i], receivers[j]) for i, j in ranks]

    def _pair_times(self, k: int, transfer: Transfer) -> list[float]:
        numbers = [self._ways.pair(transfer.routing_bytes, *pair) for pair in self._pairs(k, transfer.to)]
        return [latency + transfer.own_bytes * slowness for latency, slowness in numbers]

    @staticmethod
    def _tokens(workload: Workload, phase: Phase) -> int:
        return workload.batch * (workload.prompt_tokens if phase == "prefill" else 1)


def slowest_times(times: Sequence[LayerTimes]) -> LayerTimes:
    """Return for every layer and pass the times of the device that is slowest at it, the first of equals."""
    if len(times) == 1:
        return times[0]
    prefill, worst_prefill = _largest([own.prefill_s for own in times])
    decode, worst_decode = _largest([own.decode_s for own in times])
    parts: dict[Origin, tuple[FloatArray, FloatArray]] = {}
    for i, own in enumerate(times):
        for tag, (first, second) in seconds_by_origin(own).items():
            sums = parts.setdefault(tag, (np.zeros_like(prefill), np.zeros_like(decode)))
            sums[0][worst_prefill == i] += first[worst_prefill == i]
            sums[1][worst_decode == i] += second[worst_decode == i]
    return LayerTimes(prefill, decode, times[0].origin, parts)


def _largest(rows: Sequence[FloatArray]) -> tuple[FloatArray, NDArray[np.intp]]:
    stacked = np.array(rows)
    return stacked.max(axis=0), stacked.argmax(axis=0)


def seconds_by_origin(times: LayerTimes) -> dict[Origin, tuple[Any, Any]]:
    """Return the seconds of every layer (prefill, decode) by the tag they carry; shape (n,) each."""
    if times.by_origin is not None:
        return dict(times.by_origin)
    tags = np.array(times.origin)
    return {
        tag: (np.where(tags == tag, times.prefill_s, 0.0), np.where(tags == tag, times.decode_s, 0.0))
        for tag in dict.fromkeys(times.origin)
    }
