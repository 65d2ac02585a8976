"""Loads of shared links, added up from the routes of every replica's messages.

A request sends its prompt's activations once and a token's at each of o − 1 decode steps over every hop, and 4 bytes a
step over the return hop, on each pair of ranks; with the objective throughput a token sends its own activations alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, agree, show
from gpuplan.plans.verify.routes import Network

#: Bytes of one sampled token on its way back.
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class Message:
    """What one pair of ranks sends: its size for the choice of a route, and bytes for one request (token) served."""

    stage: int
    phase: str
    sender: str
    receiver: str
    size: float
    sent: float


def messages(document: Mapping[str, Any], i: int) -> Iterator[Message]:
    """Yield the messages of replica `i`."""
    replica, inputs = document["replicas"][i], document["inputs"]
    stages, batch = replica["stages"], replica["batch"]
    layers, asked = inputs["model"]["layers"], inputs["workload"]
    tokens = inputs["options"]["objective"]["name"] == "throughput"
    steps = 1 if tokens else asked["output_tokens"] - 1
    largest = max(layer["boundary_bytes_per_token"] for layer in layers)
    for k, (here, there) in enumerate(itertools.pairwise(stages)):
        own = layers[here["layers"]["stop"] - 1]["boundary_bytes_per_token"]
        for pair in _pairs(here["devices"], there["devices"]):
            if not tokens:
                prompt = asked["prompt_tokens"]
                yield Message(k, "prefill", *pair, batch * prompt * largest, own * prompt)
            yield Message(k, "decode", *pair, batch * largest, own * steps)
    if len(stages) > 1 and inputs["options"]["return_hop"]:
        for pair in _pairs(stages[-1]["devices"], stages[0]["devices"]):
            yield Message(len(stages) - 1, "return", *pair, TOKEN_BYTES * batch, TOKEN_BYTES * steps)


def _pairs(senders: Sequence[str], receivers: Sequence[str]) -> list[tuple[str, str]]:
    count = max(len(senders), len(receivers))
    return [(senders[j % len(senders)], receivers[j % len(receivers)]) for j in range(count)]


def check_routes(ledger: Ledger, document: Mapping[str, Any], i: int, network: Network) -> bool:
    """Check that the routes of replica `i` are those of its messages, each a fastest one; return whether they are."""
    said = document["replicas"][i]["routes"]
    found = list(messages(document, i))
    place = f"$.replicas[{i}].routes"
    wanted = Counter((own.stage, own.phase, own.sender, own.receiver) for own in found)
    listed = Counter((own["stage"], own["phase"], own["route"][0], own["route"][-1]) for own in said)
    if wanted != listed:
        ledger.add(place, f"list {len(said)} ways, expected one for each of {len(found)} pairs of ranks that talk")
        return False
    sizes = {(own.stage, own.phase, own.sender, own.receiver): own.size for own in found}
    sound = True
    for j, own in enumerate(said):
        route = own["route"]
        size = sizes[own["stage"], own["phase"], route[0], route[-1]]
        seconds = network.time_over(route, size)
        fastest = network.fastest(route[0], route[-1], size)
        best = min((latency + size / bandwidth for latency, bandwidth in fastest), default=None)
        if seconds is None or not agree(seconds, best):
            ledger.add(f"{place}[{j}].route", f"says {show(route)}, which is no fastest route of the links")
            sound = False
    return sound


def check_links(ledger: Ledger, document: Mapping[str, Any]) -> None:
    """Check the loads stated against those added up, and that no link is overdrawn."""
    loads = _loads(document)
    bandwidth = _bandwidths(document["inputs"]["topology"])
    seen: set[tuple[str, str]] = set()
    for j, link in enumerate(document["links"]):
        edge, place = (link["from"], link["to"]), f"$.links[{j}]"
        if edge not in loads or edge in seen:
            ledger.add(place, f"says {edge[0]} to {edge[1]}, which carries no hop or stands twice")
            continue
        seen.add(edge)
        ledger.number(f"{place}.bytes_per_s", link["bytes_per_s"], loads[edge])
        ledger.number(f"{place}.bandwidth_bytes_per_s", link["bandwidth_bytes_per_s"], bandwidth[edge])
        ledger.number(f"{place}.utilization", link["utilization"], loads[edge] / bandwidth[edge])
    for edge in sorted(loads.keys() - seen):
        ledger.add("$.links", f"do not list {edge[0]} to {edge[1]}, which carries {show(loads[edge])} bytes/s")
    for (a, b), load in sorted(loads.items()):
        if load > bandwidth[a, b] * (1 + RELATIVE_TOLERANCE):
            carried, there = show(load), show(bandwidth[a, b])
            ledger.add("$.links", f"overdraw {a} to {b}: {carried} bytes/s over {there}")


def _loads(document: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    key = "tokens_per_s" if document["inputs"]["options"]["objective"]["name"] == "throughput" else "requests_per_s"
    loads: dict[tuple[str, str], float] = {}
    for i, replica in enumerate(document["replicas"]):
        sent = {(own.stage, own.phase, own.sender, own.receiver): own.sent for own in messages(document, i)}
        for own in replica["routes"]:
            route = own["route"]
            for edge in itertools.pairwise(route):
                amount = replica[key] * sent[own["stage"], own["phase"], route[0], route[-1]]
                loads[edge] = loads.get(edge, 0.0) + amount
    return loads


def _bandwidths(topology: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for link in topology["links"]:
        for edge in ((link["a"], link["b"]), (link["b"], link["a"])):
            found[edge] = link["bandwidth_bytes_per_s"]
    return found
