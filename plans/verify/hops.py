"""Hand-overs between stages, recomputed from the links a plan embeds.

Between groups of t and t′ devices, for i = 0 … max(t, t′) − 1, device i mod t sends the whole boundary to device
i mod t′; the slowest of them counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.verify.findings import Ledger, agree, show
from gpuplan.plans.verify.routes import Network

#: Bytes of one sampled token on its way back.
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class HopFigures:
    """A hand-over: what it may take, s, and for each pair of devices the fastest time of the routing message.

    The routes of a pass are those of its largest boundary, `message_bytes` in decoding (or the sampled tokens).
    Several values stand only where equally fast routes carry a smaller message differently.
    """

    to: int
    message_bytes: float
    own_bytes: float
    fastest_s: Mapping[tuple[str, str], float]
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]


def recompute_hop(
    ledger: Ledger, document: Mapping[str, Any], k: int, network: Network
) -> tuple[bool, HopFigures | None]:
    """Return whether the hop out of stage `k` has a route, and the hop; None when nothing is handed on."""
    stages, inputs, workload = document["stages"], document["inputs"], document["workload"]
    last = k + 1 == len(stages)
    if last and (len(stages) == 1 or not inputs["options"]["return_hop"]):
        return True, None
    to = 0 if last else k + 1
    pairs = _pairs(stages[k]["devices"], stages[to]["devices"])
    batch, prompt = workload["batch"], workload["prompt_tokens"]
    if last:
        message = own = float(TOKEN_BYTES * batch)
    else:
        layers = inputs["model"]["layers"]
        message = batch * max(layer["boundary_bytes_per_token"] for layer in layers)
        own = batch * layers[stages[k]["layers"]["stop"] - 1]["boundary_bytes_per_token"]
    decode = [network.fastest(*pair, message) for pair in pairs]
    if [] in decode:
        sender, receiver = pairs[decode.index([])]
        ledger.add(f"$.stages[{k}].hop", f"there is no route from {sender} to {receiver}")
        return False, None
    prefill = [] if last else [network.fastest(*pair, message * prompt) for pair in pairs]
    return True, HopFigures(
        to=to,
        message_bytes=message,
        own_bytes=own,
        fastest_s={pair: min(a + message / w for a, w in ways) for pair, ways in zip(pairs, decode, strict=True)},
        prefill_s=_slowest(prefill, own * prompt) if prefill else (0.0,),
        decode_s=_slowest(decode, own),
    )


def _pairs(senders: Sequence[str], receivers: Sequence[str]) -> list[tuple[str, str]]:
    count = max(len(senders), len(receivers))
    return [(senders[i % len(senders)], receivers[i % len(receivers)]) for i in range(count)]


def _slowest(pairs: Sequence[Sequence[tuple[float, float]]], message_bytes: float) -> tuple[float, ...]:
    """Return what the slowest pair may take, each on any of its equally fast routes."""
    times = [[latency + message_bytes / bandwidth for latency, bandwidth in ways] for ways in pairs]
    least = max(min(values) for values in times)
    return tuple(value for values in times for value in values if value >= least)


def check_hop(
    ledger: Ledger, said: Mapping[str, Any] | None, hop: HopFigures | None, place: str, network: Network
) -> None:
    """Compare the hop that a stage states with the recomputed one."""
    if said is None or hop is None:
        if said is not None:
            ledger.add(place, "expected null: nothing is handed on from here")
        elif hop is not None:
            ledger.add(place, f"says null, but the stage hands over to stage {hop.to}")
        return
    ledger.same(f"{place}.to", said["to"], hop.to)
    ledger.number(f"{place}.prefill_s", said["prefill_s"], closest(said["prefill_s"], hop.prefill_s))
    ledger.number(f"{place}.decode_s", said["decode_s"], closest(said["decode_s"], hop.decode_s))
    _check_route(ledger, said["route"], hop, f"{place}.route", network)


def closest(said: float | None, values: tuple[float, ...]) -> float:
    """Return the value stated when it is one of `values`: any of equally fast routes will do."""
    return next((value for value in values if agree(said, value)), values[0])


def _check_route(ledger: Ledger, route: list[str], hop: HopFigures, place: str, network: Network) -> None:
    ends = route[0], route[-1]
    if ends not in hop.fastest_s:
        expected = " or ".join(f"from {sender} to {receiver}" for sender, receiver in hop.fastest_s)
        ledger.add(place, f"says {show(route)}, expected a route {expected}")
        return
    seconds = network.time_over(route, hop.message_bytes)
    if seconds is None:
        ledger.add(place, f"says {show(route)}, which the links do not allow")
    elif not agree(seconds, hop.fastest_s[ends]):
        fastest = hop.fastest_s[ends]
        ledger.add(place, f"says {show(route)}, which takes {show(seconds)} s where {show(fastest)} s is possible")
    elif len(hop.fastest_s) > 1:
        _check_slowest(ledger, route, hop, place, network)


def _check_slowest(ledger: Ledger, route: list[str], hop: HopFigures, place: str, network: Network) -> None:
    ways = network.fastest(route[0], route[-1], hop.message_bytes)
    times = [latency + hop.own_bytes / bandwidth for latency, bandwidth in ways]
    if not any(agree(own, slowest) for own in times for slowest in hop.decode_s):
        ledger.add(
            place,
            f"says {show(route)}, which takes {show(times[0])} s, but the slowest takes {show(hop.decode_s[0])} s",
        )
