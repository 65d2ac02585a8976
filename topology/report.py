"""The document of ``gpuplan topology show --format json``."""

from __future__ import annotations

from typing import Any, Final

from gpuplan.topology.graph import Topology
from gpuplan.topology.islands import islands
from gpuplan.topology.link_numbers import PCIE_CODES
from gpuplan.topology.routes import Route, Router
from gpuplan.topology.symmetry import exchangeable_classes

#: One token's activation of a hidden size of 8192 in bf16: what a decode step of one sequence hands on.
DECODE_MESSAGE_BYTES: Final = 16384.0
#: Half a million pairs; beyond, a report would be larger than anybody reads.
_MOST_IN_PAIRS: Final = 1024
_MANY_PAIRS: Final = ("routes of single pairs are left out: there are too many devices",)


def topology_report(topology: Topology, message_bytes: float = DECODE_MESSAGE_BYTES) -> dict[str, Any]:
    """Return what ``topology show`` prints as JSON.

    Parameters
    ----------
    topology
        The graph.
    message_bytes
        Size of the message whose fastest routes `pairs` shows, bytes.

    Returns
    -------
    dict
        ``devices`` (name, host, index, kind, available_bytes; NICs are none), ``links`` (every edge of the graph once),
        ``pairs`` (the route of every two devices: kind is the matrix code it came from where there was one, else the
        kind of its slowest link; null without a route; empty for more than 1,024 devices), ``islands``, ``classes``
        (lists of device names), ``notes``.
    """
    router = Router(topology)
    return {
        "name": topology.name,
        "message_bytes": float(message_bytes),
        "devices": [
            {
                "name": device.name,
                "host": device.host,
                "index": device.index,
                "kind": device.kind.name,
                "available_bytes": device.available_bytes,
            }
            for device in topology.devices
        ],
        "links": [
            {
                "a": link.a,
                "b": link.b,
                "kind": link.code or link.kind,
                "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s,
                "latency_s": link.latency_s,
            }
            for link in topology.links
        ],
        "pairs": _pairs(router, message_bytes),
        "islands": [
            {"name": island.name, "kind": island.kind, "devices": list(island.devices)} for island in islands(topology)
        ],
        "classes": [list(group) for group in exchangeable_classes(topology, router=router)],
        "notes": [*topology.notes, *(_MANY_PAIRS if topology.num_devices > _MOST_IN_PAIRS else ())],
    }


def _pairs(router: Router, message_bytes: float) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = []
    if len(router.devices) > _MOST_IN_PAIRS:
        return pairs
    for position, a in enumerate(router.devices):
        routes = router.routes_from(a, message_bytes, router.devices[position + 1 :])
        for b in router.devices[position + 1 :]:
            pairs.append({"a": a, "b": b, **_pair(routes.get(b))})
    return pairs


def _pair(found: Route | None) -> dict[str, Any]:
    if found is None:
        return {"kind": None, "bandwidth_bytes_per_s": None, "latency_s": None}
    return {
        "kind": route_kind(found),
        "bandwidth_bytes_per_s": found.bandwidth_bytes_per_s,
        "latency_s": found.latency_s,
    }


def route_kind(found: Route) -> str:
    """Return the matrix code all links of a route came from (of PCIe the farthest), or else its slowest link's kind."""
    codes = set(found.codes)
    if codes <= set(PCIE_CODES):
        return max(map(str, codes), key=PCIE_CODES.index)
    if len(codes) == 1 and None not in codes and len({link.kind for link in found.links}) == 1:
        return str(found.codes[0])
    slowest = min(found.links, key=lambda link: (link.bandwidth_bytes_per_s, -link.latency_s))
    return slowest.code or slowest.kind
