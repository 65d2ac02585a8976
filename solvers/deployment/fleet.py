"""What a deployment search reads of a cluster: kinds, islands, classes, times, memory and hops of device groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.plans.stage_times import Ways
from gpuplan.profiles.collectives import GroupLink, collective_s, group_link
from gpuplan.profiles.memory import TOKEN_BYTES, stage_memory, workspace_bytes
from gpuplan.profiles.problems.degrees import degrees_within
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.profiles.problems.hops import check_entries
from gpuplan.profiles.workload import Workload
from gpuplan.solvers.deployment.network import Network
from gpuplan.topology.compact import CompactTable
from gpuplan.topology.graph import Device
from gpuplan.topology.islands import islands
from gpuplan.topology.routes import Router
from gpuplan.topology.symmetry import exchangeable_classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Entries of hop tables kept at a time, about.
MOST_KEPT: Final = 20_000_000
#: Stage matrices kept at a time, and bytes of boxes for each kind and of what is written for each device, about.
STAGES_KEPT: Final = 256
BOXES_BYTES: Final = 5e6
WRITTEN_BYTES: Final = 2e4
#: Largest batch that ``auto`` tries.
LARGEST_BATCH: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices of equal speed, memory and price; `device` is one of them."""

    device: Device
    available_bytes: float
    price_per_hour: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at one tensor-parallel degree, as prefix sums over the layers, shape (n+1,).

    weights
        On every device of the group.
    kv
        Of one sequence in flight.
    workspace
        At the batch asked for.
    saving
        Less when one group holds the whole model.
    """

    weights: Floats
    kv: Floats
    workspace: float
    saving: float


@dataclass(frozen=True, slots=True)
class Hops:
    """α (s) and β (s/byte) of every pair of devices in each phase, within cells and between route groups."""

    prefill: CompactTable
    decode: CompactTable
    back: CompactTable


@dataclass(frozen=True, slots=True)
class GroupTimes:
    """Seconds of every layer on a group in a prefill and in a decode step, collectives included, shape (n,)."""

    prefill_s: Floats
    decode_s: Floats


class Fleet:
    """A deployment problem with its structure worked out and its numbers kept.

    Attributes
    ----------
    kind_of, island_of
        Number of each device's kind and island, shape (D,).
    ways
        Routes of messages between devices.
    classes
        Devices that may trade places, by number: exchangeable ones, of one island where groups are formed.
    degrees
        Tensor-parallel degrees a replica may have, rising.
    """

    def __init__(self, problem: DeploymentProblem) -> None:
        self.problem = problem
        self.model = problem.model
        self.num_layers = problem.model.num_layers
        self.devices = problem.topology.devices
        self.router = Router(problem.topology)
        self.ways = Ways(problem.topology, router=self.router)
        self.kinds, self.kind_of = _kinds(self.devices)
        numbers = {device.name: d for d, device in enumerate(self.devices)}
        self.islands = tuple(tuple(numbers[name] for name in part.devices) for part in islands(problem.topology))
        self.island_of = np.zeros(len(self.devices), dtype=np.int64)
        for i, members in enumerate(self.islands):
            self.island_of[list(members)] = i
        self.network = Network(self.router, self.islands, self.island_of, self.kind_of)
        self.degrees = _degrees(problem, self.kinds, max(map(len, self.islands)))
        groups = exchangeable_classes(problem.topology, router=self.router)
        classes = [part for group in groups for part in self._apart_by_island([numbers[name] for name in group])]
        self.classes = tuple(sorted(classes))
        self.boundary = np.array([layer.boundary_bytes_per_token for layer in self.model.layers], dtype=np.float64)
        self.decoders = np.concatenate([[0], np.cumsum([layer.kind == "decoder" for layer in self.model.layers])])
        self._times: dict[tuple[int, float | None, int, int], GroupTimes] = {}
        self._groups: dict[tuple[object, ...], GroupTimes] = {}
        self._memory: dict[tuple[int, int], Memory] = {}
        self._layers: dict[int, Memory] = {}
        self._hops: dict[int, Hops] = {}
        check_entries(self.network.entries, "hops between groups of devices")
        self._most_hops = max(MOST_KEPT // max(3 * self.network.entries, 1), 1)

    def _apart_by_island(self, members: Sequence[int]) -> list[tuple[int, ...]]:
        """Return devices that routes take for each other, by island where groups are formed of it.

        Where routes between hosts cost no more than inside one, devices of two islands are alike but for their groups.
        """
        if self.degrees == (1,):
            return [tuple(members)]
        parts: dict[int, list[int]] = {}
        for device in members:
            island = int(self.island_of[device])
            parts.setdefault(island if len(self.islands[island]) > 1 else -1, []).append(device)
        return [tuple(part) for part in parts.values()]

    def workload(self, batch: int) -> Workload:
        """Return the workload point of one micro-batch of `batch` sequences."""
        asked = self.problem.workload
        return Workload(batch, asked.prompt_tokens, asked.output_tokens)

    @property
    def steps(self) -> int:
        """Decode steps after the first token, o − 1."""
        return self.problem.workload.decode_steps

    def kind_times(self, kind: int, degree: int, batch: int) -> GroupTimes:
        """Return the layer times of `kind` at a degree, without collectives."""
        device = self.kinds[kind].device
        key = (*sheet(device), degree, batch)
        if key not in self._times:
            times = self.problem.costs.layer_times(self.model, device, self.workload(batch), tensor_parallel=degree)
            self._times[key] = GroupTimes(np.asarray(times.prefill_s), np.asarray(times.decode_s))
        return self._times[key]

    def group_times(self, group: Sequence[int], batch: int) -> GroupTimes:
        """Return the layer times of a group: its slowest member's, and the collectives over its slowest pair."""
        kinds = tuple(sorted({int(self.kind_of[d]) for d in group}))
        if len(group) == 1:
            return self.kind_times(kinds[0], 1, batch)
        hops = self.hops(batch)
        links = (
            self._slowest_pair(hops.prefill, group),
            self._slowest_pair(hops.decode, group),
        )
        return self.joined_times(kinds, len(group), batch, links)

    def _slowest_pair(self, table: CompactTable, group: Sequence[int]) -> GroupLink:
        return group_link(*self.network.block(table, group), range(len(group)))

    def joined_times(
        self, kinds: tuple[int, ...], degree: int, batch: int, links: tuple[GroupLink, GroupLink]
    ) -> GroupTimes:
        """Return the layer times of `kinds` working together over links (of prefill, of decode)."""
        key = (kinds, degree, batch, links)
        if key not in self._groups:
            times = [self.kind_times(kind, degree, batch) for kind in kinds]
            work = self.workload(batch)
            self._groups[key] = GroupTimes(
                np.max([own.prefill_s for own in times], axis=0)
                + collective_s(self.model, work, "prefill", degree, links[0]),
                np.max([own.decode_s for own in times], axis=0)
                + collective_s(self.model, work, "decode", degree, links[1]),
            )
        return self._groups[key]

    def memory(self, degree: int, batch: int) -> Memory:
        """Return the memory numbers of a degree at a batch."""
        key = (degree, batch)
        if key not in self._memory:
            self._memory[key] = self._make_memory(degree, batch)
        return self._memory[key]

    def _make_memory(self, degree: int, batch: int) -> Memory:
        if degree not in self._layers:
            self._layers[degree] = self._layer_memory(degree)
        reserve = self.problem.reserve_bytes
        work = self.workload(batch)
        workspace = workspace_bytes(self.model, work, reserve_bytes=reserve, tensor_parallel=degree)
        return dataclasses.replace(self._layers[degree], workspace=workspace)

    def _layer_memory(self, degree: int) -> Memory:
        """Return the memory numbers of a degree, without a workspace: the rest is the same at any batch."""
        one, model, n = self.workload(1), self.model, self.num_layers
        rows = [stage_memory(model, row, row + 1, one, tensor_parallel=degree) for row in range(n)]
        weights, kv, saving = [row.weights_bytes for row in rows], [row.kv_bytes for row in rows], 0.0
        if n > 1:
            whole = stage_memory(model, 0, n, one, tensor_parallel=degree)
            saving = max(math.fsum(weights) - whole.weights_bytes, 0.0)
        return Memory(_prefix(weights), _prefix(kv), 0.0, saving)

    def hops(self, batch: int) -> Hops:
        """Return the route tables of the three messages at a batch."""
        if batch not in self._hops:
            while len(self._hops) >= self._most_hops:
                self._hops.pop(next(iter(self._hops)))
            largest = float(self.boundary.max())
            prompt = self.problem.workload.prompt_tokens
            sizes = batch * prompt * largest, batch * largest, float(TOKEN_BYTES * batch)
            self._hops[batch] = Hops(*(self.network.table(size) for size in sizes))
        return self._hops[batch]

    def batches(self) -> list[int]:
        """Return the batches a replica may have: the one asked for, or the powers of two that fit some device."""
        if not self.problem.batch_auto:
            return [self.problem.workload.batch]
        most = max(kind.available_bytes for kind in self.kinds)
        found = []
        batch = 1
        while batch <= LARGEST_BATCH and any(self.memory(t, batch).workspace < most for t in self.degrees):
            found.append(batch)
            batch *= 2
        return found or [1]


def memory_bytes(fleet: Fleet) -> float:
    """Return about how many bytes a search over `fleet` takes: hops, stage matrices, boxes, devices."""
    hops = min(3 * len(fleet.batches()) * fleet.network.entries, MOST_KEPT + 3 * fleet.network.entries)
    stages = 3 * STAGES_KEPT * (fleet.num_layers + 1) ** 2
    return 16.0 * hops + 8.0 * stages + BOXES_BYTES * len(fleet.kinds) + WRITTEN_BYTES * len(fleet.devices)


def _prefix(values: Sequence[float]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])


def _kinds(devices: Sequence[Device]) -> tuple[tuple[Kind, ...], Ints]:
    keys: dict[tuple[object, ...], int] = {}
    kinds: list[Kind] = []
    numbers = []
    for device in devices:
        power = min(device.power_cap_w or device.kind.power_w, device.kind.power_w)
        key = (device.kind.name, power, device.available_bytes, device.price_per_hour)
        if key not in keys:
            keys[key] = len(kinds)
            kinds.append(Kind(device, float(device.available_bytes), device.price_per_hour))
        numbers.append(keys[key])
    return tuple(kinds), np.array(numbers, dtype=np.int64)


def sheet(device: Device) -> tuple[int, float | None]:
    """Return what costs tell devices apart by: many kinds here differ in available memory or price alone."""
    return id(device.kind), device.power_cap_w


def _degrees(problem: DeploymentProblem, kinds: Sequence[Kind], largest_island: int) -> tuple[int, ...]:
    """Return the degrees to try; of ``auto``, those that the costs know too."""
    degrees = degrees_within(problem.model, problem.tensor_parallel, problem.runtime, largest_island)
    if problem.tensor_parallel != "auto":
        return degrees
    known = []
    for degree in degrees:
        try:
            for device in {sheet(kind.device): kind.device for kind in kinds}.values():
                problem.costs.layer_times(problem.model, device, problem.workload, tensor_parallel=degree)
        except (InputError, UnsupportedError):
            if degree == 1:
                raise
            continue
        known.append(degree)
    return tuple(known)
