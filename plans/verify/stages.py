"""Stages of a device map: the pipeline they form, and each one's figures, recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.files import join_place
from gpuplan.plans.verify.findings import MEMORY_TOLERANCE, Ledger, agree, show
from gpuplan.plans.verify.layer_times import decode_pass, layer_seconds, prefill_pass
from gpuplan.plans.verify.measured_times import PHASES, MeasuredTimes
from gpuplan.plans.verify.memory import StageBytes, stage_bytes
from gpuplan.plans.verify.routes import Network

#: Runtimes that refuse a stage without a decoder layer.
DECODER_ON_EVERY_STAGE = ("vllm", "sglang")
#: Bytes of one sampled token on its way back.
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class HopFigures:
    """A hand-over, s, and the fastest time the decode (or return) message could take."""

    to: int
    sender: str
    receiver: str
    message_bytes: float
    fastest_s: float
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StageFigures:
    """A stage, recomputed: seconds without and with its hop, bytes by kind."""

    prefill_s: float
    decode_s: float
    memory: StageBytes
    available_bytes: float
    price_per_hour: float | None
    hop: HopFigures | None
    hop_prefill_s: float
    hop_decode_s: float


def check_pipeline(ledger: Ledger, document: Mapping[str, Any]) -> bool:
    """Check that the stages are a pipeline over distinct devices that holds every layer once.

    Returns whether they can be priced.
    """
    sound = _check_layers(ledger, document)
    sound = _check_devices(ledger, document) and sound
    _check_options(ledger, document)
    return sound


def _check_layers(ledger: Ledger, document: Mapping[str, Any]) -> bool:
    count = len(document["inputs"]["model"]["layers"])
    expected, sound = 0, True
    for k, stage in enumerate(document["stages"]):
        start, stop = stage["layers"]["start"], stage["layers"]["stop"]
        place = f"$.stages[{k}].layers"
        if not ledger.same(f"{place}.start", start, expected):
            sound = False
            if k > 0:  # which of the two is wrong cannot be told
                ledger.add(f"$.stages[{k - 1}].layers.stop", f"says {expected}, but stage {k} starts at {start}")
        if not start < stop <= count:
            ledger.add(f"{place}.stop", f"says {stop}, expected {start + 1} to {count}")
            sound = False
        expected = stop
    if expected != count:
        last = f"$.stages[{len(document['stages']) - 1}].layers.stop"
        ledger.add(last, f"says {expected}, but the model has {count} layers")
        sound = False
    return sound


def _check_devices(ledger: Ledger, document: Mapping[str, Any]) -> bool:
    inputs = document["inputs"]
    known = {device["name"] for device in inputs["topology"]["devices"]}
    seen: dict[str, int] = {}
    sound = True
    for k, stage in enumerate(document["stages"]):
        if stage["tensor_parallel"] != len(stage["devices"]):
            message = f"says {stage['tensor_parallel']}, but the stage has {len(stage['devices'])} devices"
            ledger.add(f"$.stages[{k}].tensor_parallel", message)
            sound = False
        elif stage["tensor_parallel"] != 1:
            ledger.add(f"$.stages[{k}].tensor_parallel", "stages of several devices cannot be recomputed yet")
            sound = False
        for i, name in enumerate(stage["devices"]):
            place = f"$.stages[{k}].devices[{i}]"
            if name not in known:
                ledger.add(place, f"says {name!r}, which the topology does not have")
            elif name in seen:
                ledger.add(place, f"says {name!r}, which stage {seen[name]} uses already")
            elif name not in inputs["costs"]["devices"]:
                ledger.add(
                    join_place("$.inputs.costs.devices", name), "expected the coefficients of a device used, got none"
                )
            else:
                seen[name] = k
                continue
            sound = False
    return sound


def _check_options(ledger: Ledger, document: Mapping[str, Any]) -> None:
    options, stages = document["inputs"]["options"], document["stages"]
    used = sum(len(stage["devices"]) for stage in stages)
    if options["max_devices"] is not None and used > options["max_devices"]:
        ledger.add("$.stages", f"use {used} devices, more than the {options['max_devices']} allowed")
    asked, said = options["micro_batches"], document["workload"]["micro_batches"]
    ledger.same("$.workload.micro_batches", said, len(stages) if asked == "stages" else asked)
    if said != 1 and options["objective"]["name"] != "throughput":
        ledger.add("$.workload.micro_batches", f"says {said}, but only the objective throughput takes more than 1")
    if options["runtime"] in DECODER_ON_EVERY_STAGE:
        layers = document["inputs"]["model"]["layers"]
        for k, stage in enumerate(stages):
            held = layers[stage["layers"]["start"] : stage["layers"]["stop"]]
            if not any(layer["kind"] == "decoder" for layer in held):
                ledger.add(f"$.stages[{k}].layers", f"hold no decoder layer, which {options['runtime']} needs")


def recompute_stages(ledger: Ledger, document: Mapping[str, Any], network: Network) -> list[StageFigures] | None:
    """Return the figures of every stage, or None when the inputs do not hold what they need."""
    devices = {device["name"]: device for device in document["inputs"]["topology"]["devices"]}
    figures = []
    measured = None if document["inputs"]["costs"]["source"] == "analytic" else MeasuredTimes(ledger, document)
    for k in range(len(document["stages"])):
        times = _stage_seconds(ledger, document, k) if measured is None else _measured_seconds(measured, document, k)
        routed, hop = _hop(ledger, document, k, network)
        if times is None or not routed:
            return None
        figures.append(_figures(document, k, times, hop, devices))
    return figures


def _figures(
    document: Mapping[str, Any],
    k: int,
    times: tuple[float, float],
    hop: HopFigures | None,
    devices: Mapping[str, Mapping[str, Any]],
) -> StageFigures:
    stage, inputs = document["stages"][k], document["inputs"]
    device = devices[stage["devices"][0]]
    said = stage["hop"] or {}
    return StageFigures(
        prefill_s=times[0],
        decode_s=times[1],
        memory=stage_bytes(inputs, document["workload"], stage["layers"], whole=len(document["stages"]) == 1),
        available_bytes=device["available_bytes"],
        price_per_hour=device.get("price_per_hour"),
        hop=hop,
        hop_prefill_s=0.0 if hop is None else _closest(said.get("prefill_s"), hop.prefill_s),
        hop_decode_s=0.0 if hop is None else _closest(said.get("decode_s"), hop.decode_s),
    )


def _closest(said: float | None, values: tuple[float, ...]) -> float:
    # Equally fast routes may carry a smaller message differently: any of them will do.
    return next((value for value in values if agree(said, value)), values[0])


def _stage_seconds(ledger: Ledger, document: Mapping[str, Any], k: int) -> tuple[float, float] | None:
    stage, inputs = document["stages"][k], document["inputs"]
    model, workload = inputs["model"], document["workload"]
    name = stage["devices"][0]
    device = inputs["costs"]["devices"][name]
    kinds = [layer["operators"] for layer in model["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]]
    if any(kind not in model["operator_sets"] for kind in kinds):
        return None
    totals = []
    for step in (prefill_pass(workload), decode_pass(workload)):
        try:
            each = {kind: layer_seconds(model["operator_sets"][kind], device, step) for kind in set(kinds)}
        except KeyError as error:
            place = join_place("$.inputs.costs.devices", name) + ".peak_flops_per_s"
            ledger.add(place, f"expected the peak of {error.args[0]!r}, which a layer computes in, got none")
            return None
        totals.append(math.fsum(each[kind] for kind in kinds))
    return totals[0], totals[1]


def _measured_seconds(times: MeasuredTimes, document: Mapping[str, Any], k: int) -> tuple[float, float] | None:
    stage, model = document["stages"][k], document["inputs"]["model"]
    layers = model["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]
    if any(layer["operators"] not in model["operator_sets"] for layer in layers):
        return None
    totals = []
    for phase in PHASES:
        each = [times.layer(stage["devices"][0], layer["operators"], phase) for layer in layers]
        if any(parts is None for parts in each):
            return None
        totals.append(math.fsum(value for parts in each if parts is not None for value in parts.values()))
    return totals[0], totals[1]


def _hop(ledger: Ledger, document: Mapping[str, Any], k: int, network: Network) -> tuple[bool, HopFigures | None]:
    """Return whether the hop out of stage `k` has a route, and the hop; None when nothing is handed on."""
    stages, inputs, workload = document["stages"], document["inputs"], document["workload"]
    last = k + 1 == len(stages)
    if last and (len(stages) == 1 or not inputs["options"]["return_hop"]):
        return True, None
    to = 0 if last else k + 1
    ends = stages[k]["devices"][0], stages[to]["devices"][0]
    batch, prompt = workload["batch"], workload["prompt_tokens"]
    if last:
        message = own = float(TOKEN_BYTES * batch)
    else:
        layers = inputs["model"]["layers"]
        message = batch * max(layer["boundary_bytes_per_token"] for layer in layers)
        own = batch * layers[stages[k]["layers"]["stop"] - 1]["boundary_bytes_per_token"]
    decode = network.fastest(*ends, message)
    if not decode:
        ledger.add(f"$.stages[{k}].hop", f"there is no route from {ends[0]} to {ends[1]}")
        return False, None
    prefill = [] if last else network.fastest(*ends, message * prompt)
    return True, HopFigures(
        to=to,
        sender=ends[0],
        receiver=ends[1],
        message_bytes=message,
        fastest_s=min(latency + message / bandwidth for latency, bandwidth in decode),
        prefill_s=tuple(latency + own * prompt / bandwidth for latency, bandwidth in prefill) or (0.0,),
        decode_s=tuple(latency + own / bandwidth for latency, bandwidth in decode),
    )


def check_stage(ledger: Ledger, document: Mapping[str, Any], k: int, figures: StageFigures, network: Network) -> None:
    """Compare the figures that stage `k` states with the recomputed ones."""
    stage, place = document["stages"][k], f"$.stages[{k}]"
    layers = document["inputs"]["model"]["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]
    _check_modules(ledger, stage["modules"], [module for layer in layers for module in layer["modules"]], place)
    ledger.number(f"{place}.prefill_s", stage["prefill_s"], figures.prefill_s)
    ledger.number(f"{place}.decode_s", stage["decode_s"], figures.decode_s)
    _check_memory(ledger, stage["memory"], figures, f"{place}.memory", stage["devices"][0])
    _check_hop(ledger, stage["hop"], figures, f"{place}.hop", network)


def _check_modules(ledger: Ledger, said: list[str], modules: list[str], place: str) -> None:
    for i, (own, module) in enumerate(zip(said, modules, strict=False)):
        if not ledger.same(f"{place}.modules[{i}]", own, module):
            return
    if len(said) != len(modules):
        ledger.add(f"{place}.modules", f"names {len(said)} modules, recomputed {len(modules)}")


def _check_memory(ledger: Ledger, said: Mapping[str, Any], figures: StageFigures, place: str, device: str) -> None:
    memory = figures.memory
    ledger.number(f"{place}.weights_bytes", said["weights_bytes"], memory.weights_bytes)
    ledger.number(f"{place}.kv_bytes", said["kv_bytes"], memory.kv_bytes)
    ledger.number(f"{place}.workspace_bytes", said["workspace_bytes"], memory.workspace_bytes)
    ledger.number(f"{place}.available_bytes", said["available_bytes"], figures.available_bytes)
    if memory.used_bytes > figures.available_bytes * (1 + MEMORY_TOLERANCE):
        ledger.add(
            place, f"needs {show(memory.used_bytes)} bytes on {device}, which has {show(figures.available_bytes)}"
        )


def _check_hop(
    ledger: Ledger, said: Mapping[str, Any] | None, figures: StageFigures, place: str, network: Network
) -> None:
    hop = figures.hop
    if said is None or hop is None:
        if said is not None:
            ledger.add(place, "expected null: nothing is handed on from here")
        elif hop is not None:
            ledger.add(place, f"says null, but the stage hands over to stage {hop.to}")
        return
    ledger.same(f"{place}.to", said["to"], hop.to)
    ledger.number(f"{place}.prefill_s", said["prefill_s"], figures.hop_prefill_s)
    ledger.number(f"{place}.decode_s", said["decode_s"], figures.hop_decode_s)
    _check_route(ledger, said["route"], hop, f"{place}.route", network)


def _check_route(ledger: Ledger, route: list[str], hop: HopFigures, place: str, network: Network) -> None:
    if route[0] != hop.sender or route[-1] != hop.receiver:
        ledger.add(place, f"says {show(route)}, expected a route from {hop.sender} to {hop.receiver}")
        return
    seconds = network.time_over(route, hop.message_bytes)
    if seconds is None:
        ledger.add(place, f"says {show(route)}, which the links do not allow")
    elif not agree(seconds, hop.fastest_s):
        ledger.add(
            place, f"says {show(route)}, which takes {show(seconds)} s where {show(hop.fastest_s)} s is possible"
        )
