"""Re-planning: what stays, and which bytes every device has to load.

A device holds rank r of t of a layer as the share [r/t, (r+1)/t). A new share inside one it holds already costs
nothing; any other is loaded whole, ``weights of the layer at degree t`` bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from gpuplan.errors import UsageError
from gpuplan.plans.deployment import Deployment
from gpuplan.solvers.deployment.columns import Column, Make, Resource, by_device, class_sources
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.deployment.units import Group

#: Shares of layers by device name and layer.
Resident = dict[tuple[str, int], list[tuple[Fraction, Fraction]]]


def placement_of(deployment: Deployment) -> list[dict[str, Any]]:
    """Return where a deployment's replicas stand, as a plan made from it embeds it."""
    return [
        {
            "name": replica.name,
            "stages": [
                {"devices": list(stage.devices), "layers": {"start": stage.layers.start, "stop": stage.layers.stop}}
                for stage in replica.stages
            ],
        }
        for replica in deployment.replicas
    ]


def resident_shares(current: Sequence[Mapping[str, Any]]) -> Resident:
    """Return what every device of the current deployment holds."""
    found: Resident = {}
    for replica in current:
        for stage in replica["stages"]:
            degree = len(stage["devices"])
            for rank, name in enumerate(stage["devices"]):
                share = Fraction(rank, degree), Fraction(rank + 1, degree)
                for layer in range(stage["layers"]["start"], stage["layers"]["stop"]):
                    found.setdefault((name, layer), []).append(share)
    return found


def moved_bytes(fleet: Fleet, replicas: Sequence[Replica], resident: Resident) -> dict[str, float]:
    """Return the bytes that every device has to load for `replicas`; devices that load nothing are left out."""
    found: dict[str, float] = {}
    for replica in replicas:
        weights = fleet.memory(replica.degree, replica.rate.batch).weights
        for k, group in enumerate(replica.groups):
            for rank, device in enumerate(group):
                name = fleet.devices[device].name
                share = Fraction(rank, len(group)), Fraction(rank + 1, len(group))
                for layer in range(replica.cuts[k], replica.cuts[k + 1]):
                    if not _covered(share, resident.get((name, layer), ())):
                        found[name] = found.get(name, 0.0) + float(weights[layer + 1] - weights[layer])
    return found


def _covered(share: tuple[Fraction, Fraction], held: Sequence[tuple[Fraction, Fraction]]) -> bool:
    return any(low <= share[0] and share[1] <= high for low, high in held)


def total_weights(fleet: Fleet, replica: Replica) -> float:
    """Return the bytes of weights on all devices of a replica."""
    weights = fleet.memory(replica.degree, replica.rate.batch).weights
    spans = zip(replica.cuts[:-1], replica.cuts[1:], strict=True)
    return sum(replica.degree * float(weights[stop] - weights[start]) for start, stop in spans)


def check_current(fleet: Fleet, current: Deployment) -> None:
    """Refuse a deployment of other weights or on other devices: what it holds would not be what is to stay."""
    theirs = [(tuple(layer["modules"]), layer["weight_bytes"]) for layer in current.inputs["model"]["layers"]]
    if theirs != [(layer.modules, layer.weight_bytes) for layer in fleet.model.layers]:
        raise UsageError(
            f"expected a current deployment of {fleet.model.name} with weights in {fleet.model.dtype}, got one of "
            f"{current.model.name} in {current.inputs['model']['dtype']}; where all is loaded anew leave it out"
        )
    kinds = {device["name"]: device["kind"] for device in current.inputs["topology"]["devices"]}
    for device in fleet.devices:
        if kinds.get(device.name, device.kind.name) != device.kind.name:
            raise UsageError(
                f"expected a current deployment on {fleet.problem.topology.name}, where {device.name} is of kind "
                f"{device.kind.name}, got one where that is {kinds[device.name]}; where all is loaded anew leave it out"
            )


def kept_columns(fleet: Fleet, shaper: Shaper, current: Deployment, makes: Sequence[Make] | None) -> list[Column]:
    """Return the current replicas that could go on where they are, each at the batch that now serves it best."""
    check_current(fleet, current)
    columns = []
    for number in range(len(current.replicas)):
        replica = _as_it_stands(fleet, shaper, current, number)
        if replica is not None:
            columns.append(_kept_column(fleet, replica, number, makes))
    return columns


def _as_it_stands(fleet: Fleet, shaper: Shaper, current: Deployment, number: int) -> Replica | None:
    known = {device.name: d for d, device in enumerate(fleet.devices)}
    plan = current.replicas[number]
    if any(name not in known for name in plan.device_names) or plan.tensor_parallel not in fleet.degrees:
        return None
    if any(stage.tensor_parallel != plan.tensor_parallel for stage in plan.stages):
        return None
    groups: tuple[Group, ...] = tuple(tuple(known[name] for name in stage.devices) for stage in plan.stages)
    cuts = (0, *(stage.layers.stop for stage in plan.stages))
    islands = all(len({int(fleet.island_of[d]) for d in group}) == 1 for group in groups)
    if cuts[-1] != fleet.num_layers or not islands:
        return None
    # The batch it has comes first: equal values leave it alone.
    batches = sorted(fleet.batches(), key=lambda batch: batch != plan.batch)
    found = [shaper.as_cut(groups, cuts, batch) for batch in batches]
    return max((own for own in found if own is not None), key=lambda own: own.value, default=None)


def _kept_column(fleet: Fleet, replica: Replica, number: int, makes: Sequence[Make] | None) -> Column:
    if makes is None:
        return by_device(replica, class_sources(fleet, replica.devices), number)
    devices, sources = set(replica.devices), []
    for i, members in enumerate(fleet.islands):
        taken = tuple(d for d in members if d in devices)
        if taken:
            key: Resource = ("kept", number * len(fleet.islands) + i, ())
            sources.append((key, taken))
    return Column({key: 1 for key, _ in sources}, replica, tuple(sources), number)
