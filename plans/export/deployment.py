"""Deployments in the words of a runtime: one text a replica, each server on a port of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gpuplan.plans.export.registry import Export, export_details

if TYPE_CHECKING:
    from gpuplan.plans.deployment import Deployment
    from gpuplan.plans.device_map import DeviceMap

#: Port of the first replica; the others follow.
FIRST_PORT: Final = 8000
#: How the line that starts a server begins, where it takes ``--port``.
_SERVERS: Final = ("vllm serve", "python -m sglang.launch_server", "python3 -m sglang.launch_server", "llama-server")


def export_deployment(deployment: Deployment, runtime: str, *, model: str | None = None) -> dict[str, Export]:
    """Return every replica of `deployment` as `runtime` takes it, by name.

    Raises
    ------
    UsageError
        An unknown runtime.
    UnsupportedError
        The runtime cannot run a replica; the message names the mend.
    """
    found = {}
    devices = {device["name"]: device for device in deployment.inputs["topology"]["devices"]}
    for number, replica in enumerate(deployment.replicas):
        plan = _with_own_devices(deployment.device_map(number), devices)
        details = export_details(plan, runtime, model=model)
        found[replica.name] = dataclasses.replace(details, text=with_port(details.text, FIRST_PORT + number))
    return found


def _with_own_devices(plan: DeviceMap, devices: Mapping[str, Mapping[str, Any]]) -> DeviceMap:
    """Return `plan` with no other devices than its own listed: thousands of replicas would each look through all."""
    own = [devices[name] for name in plan.device_names]
    return dataclasses.replace(plan, inputs={**plan.inputs, "topology": {**plan.inputs["topology"], "devices": own}})


def with_port(text: str, port: int) -> str:
    r"""Return shell lines whose first server listens on `port`; text that starts none is left alone.

    >>> with_port("vllm serve m \\\n  --tensor-parallel-size 2\n", 8001)
    'vllm serve m \\\n  --port 8001 \\\n  --tensor-parallel-size 2\n'
    """
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if line.startswith(_SERVERS) and " --port" not in text:
            more = line.endswith("\\")
            lines[place] = line if more else f"{line} \\"
            lines.insert(place + 1, f"  --port {port} \\" if more else f"  --port {port}")
            return "\n".join(lines) + "\n"
    return text
