"""Failure domains: what goes down together, a device, a host or a rack."""

from __future__ import annotations

from typing import Final, Literal

from gpuplan.errors import UsageError
from gpuplan.topology.graph import Topology

Level = Literal["device", "host", "rack"]
LEVELS: Final = ("device", "host", "rack")


def failure_domains(topology: Topology, level: Level) -> dict[str, tuple[str, ...]]:
    """Return the devices of every failure domain by its name, in topology order.

    Parameters
    ----------
    topology
        The devices.
    level
        ``device``, ``host`` or ``rack``. A host without a rack is a domain of its own, called as the host is.

    Raises
    ------
    UsageError
        Another level.
    """
    if level not in LEVELS:
        raise UsageError(f"expected one of {', '.join(LEVELS)}, got {level!r}")
    found: dict[str, list[str]] = {}
    for device in topology.devices:
        name = {"device": device.name, "host": device.host, "rack": device.rack or device.host}[level]
        found.setdefault(name, []).append(device.name)
    return {name: tuple(devices) for name, devices in found.items()}
