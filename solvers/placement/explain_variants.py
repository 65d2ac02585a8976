"""Other questions worth asking beside the one a plan answers: fewer devices, more memory, a faster link."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gpuplan.units import format_bytes

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap
    from gpuplan.profiles import PlacementProblem
    from gpuplan.solvers.placement.explain_limits import StageLimit
    from gpuplan.topology.graph import Device, Link, Topology

#: Devices whose memory is doubled, and kinds that are added, at most.
_MOST = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """A changed problem and what is changed in it (the start of a sentence)."""

    key: str
    what: str
    problem: PlacementProblem
    solver: str = "auto"


def alternatives(problem: PlacementProblem, plan: DeviceMap) -> Iterator[Variant]:
    """Yield the plans a person would try instead: one fewer device, one alone, an even split."""
    used = plan.metrics.devices_used
    if used > 2:
        yield Variant("fewer_devices", f"One fewer device ({used - 1})", problem.replace(max_devices=used - 1))
    if used > 1:
        yield Variant("single_device", "A single device", problem.replace(max_devices=1))
    if problem.single_devices:
        yield from _even_splits(problem, used)
    yield from _degrees(problem)


def _degrees(problem: PlacementProblem) -> Iterator[Variant]:
    """Yield each size of stages alone where several were asked for."""
    if problem.single_devices:
        return
    from gpuplan.profiles.problems.degrees import degrees_within
    from gpuplan.topology.islands import islands

    largest = max(len(island.devices) for island in islands(problem.topology))
    degrees = degrees_within(problem.model, problem.tensor_parallel, problem.runtime, largest)
    for degree in degrees if len(degrees) > 1 else ():
        size = "1 device" if degree == 1 else f"{degree} devices"
        what = f"Stages of {size} each"
        yield Variant("degree", what, problem.replace(tensor_parallel=(degree,), uneven_tensor_parallel=False))


def _even_splits(problem: PlacementProblem, used: int) -> Iterator[Variant]:
    most = min(problem.topology.num_devices, problem.max_devices or problem.topology.num_devices)
    for count in dict.fromkeys(count for count in (used, most) if count > 1):
        what = f"An even split over {count} devices"
        yield Variant("even", what, problem.replace(max_devices=count), solver="even")


def improvements(problem: PlacementProblem, plan: DeviceMap, limits: Sequence[StageLimit]) -> Iterator[Variant]:
    """Yield changes of the machine that might help: memory, a link, a device."""
    for device in _memory_candidates(problem, plan, limits):
        yield Variant(
            "more_memory",
            f"Twice the memory on {device.name} (+{format_bytes(device.available_bytes)})",
            problem.replace(topology=with_memory(problem.topology, device.name, 2 * device.available_bytes)),
        )
    hop = slowest_hop(plan)
    if hop is not None:
        a, b = hop
        route = next(stage.hop.route for stage in plan.stages if stage.hop and stage.devices[0] == a)
        yield Variant(
            "faster_link",
            f"A route twice as fast between {a} and {b}",
            problem.replace(topology=with_faster_route(problem.topology, route)),
        )
    yield from _more_devices(problem, plan)


def _memory_candidates(problem: PlacementProblem, plan: DeviceMap, limits: Sequence[StageLimit]) -> list[Device]:
    """Return full devices of the plan, then unused ones that would be faster; one of each size and kind."""
    full = [problem.topology.device(limit.device) for limit in limits if limit.memory_full]
    if problem.objective_name == "kv-capacity":
        full = [problem.topology.device(stage.devices[0]) for stage in plan.stages]
    unused = [device for device in problem.topology.devices if device.name not in plan.device_names]
    fastest = min(_speed(problem, problem.topology.device(name)) for name in plan.device_names)
    faster = [device for device in unused if _speed(problem, device) < fastest]
    distinct = {(device.kind.name, device.available_bytes): device for device in reversed(full + faster)}
    return list(reversed(distinct.values()))[:_MOST]


def _speed(problem: PlacementProblem, device: Device) -> float:
    times = problem.costs.layer_times(problem.model, device, problem.workload)
    return float(np.sum(times.prefill_s) + problem.workload.decode_steps * np.sum(times.decode_s))


def _more_devices(problem: PlacementProblem, plan: DeviceMap) -> Iterator[Variant]:
    used = plan.metrics.devices_used
    if problem.max_devices is not None and problem.max_devices <= used < problem.topology.num_devices:
        yield Variant("more_devices", f"One more device ({used + 1} allowed)", problem.replace(max_devices=used + 1))
        return
    names = set(plan.device_names)
    kinds = dict.fromkeys(problem.topology.device(name).kind.name for name in plan.device_names)
    idle = {device.kind.name for device in problem.topology.devices if device.name not in names}
    for kind in [kind for kind in kinds if kind not in idle][:_MOST]:
        twin = next(problem.topology.device(name) for name in plan.device_names if _kind(problem, name) == kind)
        yield Variant(
            "one_more_device",
            f"One more {kind} beside {twin.name}",
            problem.replace(topology=with_twin(problem.topology, twin)),
        )


def _kind(problem: PlacementProblem, name: str) -> str:
    return problem.topology.device(name).kind.name


def slowest_hop(plan: DeviceMap) -> tuple[str, str] | None:
    """Return the two devices whose hop takes longest in a request, or None without hops."""
    steps = plan.workload.output_tokens - 1
    hops = [(stage.hop.prefill_s + steps * stage.hop.decode_s, stage) for stage in plan.stages if stage.hop]
    if not hops:
        return None
    _, stage = max(hops, key=lambda hop: hop[0])
    assert stage.hop is not None
    return stage.devices[0], plan.stages[stage.hop.to].devices[0]


def with_memory(topology: Topology, name: str, available_bytes: int) -> Topology:
    """Return a topology where one device has other memory (and, should that be more, a kind that allows it)."""

    def changed(device: Device) -> Device:
        kind = device.kind
        if available_bytes > kind.memory_bytes:
            kind = replace(kind, name=f"{kind.name}-larger", memory_bytes=available_bytes)
        return replace(device, kind=kind, available_bytes=available_bytes)

    devices = tuple(changed(device) if device.name == name else device for device in topology.devices)
    return replace(topology, devices=devices)


def with_faster_route(topology: Topology, route: Sequence[str]) -> Topology:
    """Return a topology whose links along `route` have twice the bandwidth and half the latency."""
    steps = {frozenset(pair) for pair in itertools.pairwise(route)}

    def changed(link: Link) -> Link:
        if frozenset((link.a, link.b)) not in steps:
            return link
        return replace(link, bandwidth_bytes_per_s=2.0 * link.bandwidth_bytes_per_s, latency_s=link.latency_s / 2.0)

    return replace(topology, links=tuple(changed(link) for link in topology.links))


def with_twin(topology: Topology, twin: Device) -> Topology:
    """Return a topology with one more device, joined like `twin` and to `twin` by the best of its direct links."""
    index = 1 + max(device.index for device in topology.devices if device.host == twin.host)
    taken = {part.name for part in topology.components}  # excluded devices are no longer among the devices
    while f"{twin.host}/gpu{index}" in taken:
        index += 1
    name = f"{twin.host}/gpu{index}"
    component = next(part for part in topology.components if part.name == twin.name)
    mine = [link for link in topology.links if twin.name in (link.a, link.b)]
    copies = [
        replace(link, a=name if link.a == twin.name else link.a, b=name if link.b == twin.name else link.b)
        for link in mine
    ]
    names = {device.name for device in topology.devices}
    direct = [link for link in mine if link.a in names and link.b in names]
    if direct:
        best = max(direct, key=lambda link: link.bandwidth_bytes_per_s)
        copies.append(replace(best, a=twin.name, b=name))
    return replace(
        topology,
        devices=(*topology.devices, replace(twin, name=name, index=index)),
        components=(*topology.components, replace(component, name=name)),
        links=(*topology.links, *copies),
    )
