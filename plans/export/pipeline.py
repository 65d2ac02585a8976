"""What every runtime asks of a plan: layers by kind, devices by host, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.errors import UnsupportedError

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap, Stage


@dataclass(frozen=True, slots=True)
class HostShare:
    """The stages of one host: its name and the driver's numbers of its devices, in pipeline order."""

    host: str
    indices: tuple[int, ...]


def decoder_layers(plan: DeviceMap) -> tuple[int, ...]:
    """Return how many decoder layers each stage holds (embedding and head not counted)."""
    return tuple(sum(kind == "decoder" for kind in layer_kinds(plan, stage)) for stage in plan.stages)


def layer_kinds(plan: DeviceMap, stage: Stage) -> list[str]:
    """Return the kinds of a stage's layers: ``embedding``, ``decoder`` or ``head``."""
    layers = plan.inputs["model"]["layers"][stage.layers.start : stage.layers.stop]
    return [layer["kind"] for layer in layers]


def refuse_stages_without_decoder(plan: DeviceMap, runtime: str) -> None:
    """Raise UnsupportedError when a stage holds only embedding or head, which `runtime` cannot run."""
    for k, count in enumerate(decoder_layers(plan)):
        if count == 0:
            held = " and ".join(layer_kinds(plan, plan.stages[k]))
            raise UnsupportedError(
                f"{runtime} needs a decoder layer in every stage, but stage {k} ({plan.stages[k].devices[0]}) holds the"
                f" {held} only; plan again with --for {runtime}"
            )


def refuse_tensor_parallel(plan: DeviceMap, runtime: str, mend: str) -> None:
    """Raise UnsupportedError when a stage has several devices."""
    for k, stage in enumerate(plan.stages):
        if stage.tensor_parallel > 1:
            raise UnsupportedError(
                f"{runtime} runs one device a stage, but stage {k} has tensor-parallel degree"
                f" {stage.tensor_parallel}; {mend}"
            )


def refuse_several_hosts(plan: DeviceMap, runtime: str, mend: str) -> None:
    """Raise UnsupportedError when the plan spans hosts."""
    hosts = list(dict.fromkeys(device["host"] for device in _devices(plan)))
    if len(hosts) > 1:
        used = ", ".join(hosts)
        raise UnsupportedError(f"{runtime} drives the devices of one host, but the plan uses {used}; {mend}")


def tensor_parallel_degree(plan: DeviceMap, runtime: str) -> int:
    """Return the degree all stages share; UnsupportedError when they differ."""
    degrees = {stage.tensor_parallel for stage in plan.stages}
    if len(degrees) > 1:
        raise UnsupportedError(
            f"{runtime} takes one tensor-parallel degree for all stages, but the plan has"
            f" {', '.join(map(str, sorted(degrees)))}; plan again without --uneven-tensor-parallel"
        )
    return degrees.pop()


def even_split(layers: int, stages: int) -> tuple[int, ...]:
    """Return the layers of each stage dealt evenly, the first stages taking one more where they do not divide.

    >>> even_split(10, 4)
    (3, 3, 2, 2)
    """
    return tuple(layers // stages + (k < layers % stages) for k in range(stages))


def host_shares(plan: DeviceMap, runtime: str) -> tuple[HostShare, ...]:
    """Return the hosts in pipeline order; UnsupportedError unless each one's stages are neighbours and equally many."""
    shares: list[HostShare] = []
    for device in _devices(plan):
        host, index = device["host"], int(device["index"])
        if shares and shares[-1].host == host:
            shares[-1] = HostShare(host, (*shares[-1].indices, index))
        else:
            shares.append(HostShare(host, (index,)))
    hosts = [share.host for share in shares]
    if len(set(hosts)) < len(hosts):
        raise UnsupportedError(
            f"{runtime} numbers its ranks host by host, but the pipeline comes back to a host"
            f" ({', '.join(hosts)}); plan on one host, or exclude devices so that each host is used once in a row"
        )
    if len({len(share.indices) for share in shares}) > 1:
        counts = ", ".join(f"{len(share.indices)} on {share.host}" for share in shares)
        raise UnsupportedError(
            f"{runtime} starts the same number of devices on every host, but the plan uses {counts};"
            " exclude devices until the hosts are used equally, or plan on one host"
        )
    return tuple(shares)


def device_environment(plan: DeviceMap, share: HostShare) -> dict[str, str]:
    """Return the variables that make the runtime see a host's devices as 0, 1, … in pipeline order."""
    numbers = ",".join(map(str, share.indices))
    if vendors(plan) == {"amd"}:
        return {"HIP_VISIBLE_DEVICES": numbers}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": numbers}


def vendors(plan: DeviceMap) -> set[str]:
    """Return the makers of the devices used, in lower case."""
    kinds = plan.inputs["topology"]["kinds"]
    return {str(kinds[device["kind"]].get("vendor", "nvidia")).lower() for device in _devices(plan)}


def memory_share(plan: DeviceMap) -> float:
    """Return the least share of a used device's memory that the plan may take."""
    kinds = plan.inputs["topology"]["kinds"]
    shares = (device["available_bytes"] / kinds[device["kind"]]["memory_bytes"] for device in _devices(plan))
    return float(min(shares))


def shell_lines(environment: Mapping[str, str], command: Sequence[str]) -> str:
    """Return ``export`` lines and the command, one option a line."""
    exports = [f"export {name}={value}" for name, value in environment.items()]
    return "\n".join([*exports, " \\\n  ".join(command)]) + "\n"


def _devices(plan: DeviceMap) -> list[Mapping[str, Any]]:
    """Return the devices used, in pipeline order."""
    listed = {device["name"]: device for device in plan.inputs["topology"]["devices"]}
    return [listed[name] for name in plan.device_names]
