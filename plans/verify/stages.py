"""Stages of a device map: the pipeline they form, and each one's figures, recomputed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuplan.plans.files import join_place
from gpuplan.plans.verify.collectives import collective_seconds
from gpuplan.plans.verify.findings import MEMORY_TOLERANCE, Ledger, show
from gpuplan.plans.verify.groups import check_groups
from gpuplan.plans.verify.hops import HopFigures, check_hop, closest, recompute_hop
from gpuplan.plans.verify.layer_times import decode_pass, layer_seconds, prefill_pass
from gpuplan.plans.verify.measured_times import PHASES, MeasuredTimes
from gpuplan.plans.verify.memory import StageBytes, stage_bytes
from gpuplan.plans.verify.routes import Network

#: Runtimes that refuse a stage without a decoder layer.
DECODER_ON_EVERY_STAGE = ("sglang", "tensorrt-llm", "vllm")


@dataclass(frozen=True, slots=True)
class StageFigures:
    """A stage, recomputed: seconds without and with its hop, bytes by kind on each of its `devices`.

    `collectives_s` is the part of a prefill and of a decode step that its devices spend talking to one another.
    `available_bytes` is that of the `tightest` device, `price_per_hour` of all together.
    """

    devices: int
    prefill_s: float
    decode_s: float
    collectives_s: tuple[float, float]
    memory: StageBytes
    available_bytes: float
    tightest: str
    price_per_hour: float | None
    hop: HopFigures | None
    hop_prefill_s: float
    hop_decode_s: float


def check_pipeline(ledger: Ledger, document: Mapping[str, Any], network: Network) -> bool:
    """Check that the stages are a pipeline over distinct devices that holds every layer once.

    Returns whether they can be priced.
    """
    sound = _check_layers(ledger, document)
    if _check_devices(ledger, document):
        check_groups(ledger, document, network)
    else:
        sound = False
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
    seen: dict[str, tuple[int, int]] = {}
    sound = True
    for k, stage in enumerate(document["stages"]):
        if stage["tensor_parallel"] != len(stage["devices"]):
            message = f"says {stage['tensor_parallel']}, but the stage has {len(stage['devices'])} devices"
            ledger.add(f"$.stages[{k}].tensor_parallel", message)
            sound = False
        for i, name in enumerate(stage["devices"]):
            place = f"$.stages[{k}].devices[{i}]"
            if name not in known:
                ledger.add(place, f"says {name!r}, which the topology does not have")
            elif name in seen:
                first, number = seen[name]
                ledger.add(place, f"says {name!r}, which stage {first} uses already")
                # Which of the two is wrong cannot be told.
                ledger.add(f"$.stages[{first}].devices[{number}]", f"says {name!r}, which stage {k} uses, too")
            elif name not in inputs["costs"]["devices"]:
                ledger.add(
                    join_place("$.inputs.costs.devices", name), "expected the coefficients of a device used, got none"
                )
            else:
                seen[name] = k, i
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
        rings = collective_seconds(ledger, document, k, network)
        routed, hop = recompute_hop(ledger, document, k, network)
        if times is None or rings is None or not routed:
            return None
        figures.append(_figures(document, k, times, rings, hop, devices))
    return figures


def _figures(
    document: Mapping[str, Any],
    k: int,
    times: tuple[float, float],
    rings: tuple[tuple[float, ...], tuple[float, ...]],
    hop: HopFigures | None,
    devices: Mapping[str, Mapping[str, Any]],
) -> StageFigures:
    stage, inputs = document["stages"][k], document["inputs"]
    members = [devices[name] for name in stage["devices"]]
    prices = [member.get("price_per_hour") for member in members]
    tightest = min(members, key=lambda member: member["available_bytes"])
    whole = len(document["stages"]) == 1
    said = stage["hop"] or {}
    prefill = closest(stage["prefill_s"], tuple(times[0] + own for own in rings[0]))
    decode = closest(stage["decode_s"], tuple(times[1] + own for own in rings[1]))
    return StageFigures(
        devices=len(members),
        prefill_s=prefill,
        decode_s=decode,
        collectives_s=(prefill - times[0], decode - times[1]),
        memory=stage_bytes(inputs, document["workload"], stage["layers"], whole=whole, degree=len(members)),
        available_bytes=tightest["available_bytes"],
        tightest=tightest["name"],
        price_per_hour=None if None in prices else math.fsum(price for price in prices if price is not None),
        hop=hop,
        hop_prefill_s=0.0 if hop is None else closest(said.get("prefill_s"), hop.prefill_s),
        hop_decode_s=0.0 if hop is None else closest(said.get("decode_s"), hop.decode_s),
    )


def _stage_seconds(ledger: Ledger, document: Mapping[str, Any], k: int) -> tuple[float, float] | None:
    """Return the seconds of a stage's layers, each on the slowest of its devices."""
    stage, inputs = document["stages"][k], document["inputs"]
    model, workload = inputs["model"], document["workload"]
    names = stage["devices"]
    kinds = [layer["operators"] for layer in model["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]]
    if any(kind not in model["operator_sets"] for kind in kinds):
        return None
    totals = []
    for step in (prefill_pass(workload), decode_pass(workload)):
        each = dict.fromkeys(kinds, 0.0)
        for name, kind in itertools.product(names, each):
            try:
                own = layer_seconds(model["operator_sets"][kind], inputs["costs"]["devices"][name], step, len(names))
            except KeyError as error:
                place = join_place("$.inputs.costs.devices", name) + ".peak_flops_per_s"
                ledger.add(place, f"expected the peak of {error.args[0]!r}, which a layer computes in, got none")
                return None
            each[kind] = max(each[kind], own)
        totals.append(math.fsum(each[kind] for kind in kinds))
    return totals[0], totals[1]


def _measured_seconds(times: MeasuredTimes, document: Mapping[str, Any], k: int) -> tuple[float, float] | None:
    stage, model = document["stages"][k], document["inputs"]["model"]
    layers = model["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]
    if any(layer["operators"] not in model["operator_sets"] for layer in layers):
        return None
    totals = []
    for phase in PHASES:
        each = [times.slowest(stage["devices"], layer["operators"], phase) for layer in layers]
        if any(parts is None for parts in each):
            return None
        totals.append(math.fsum(value for parts in each if parts is not None for value in parts.values()))
    return totals[0], totals[1]


def check_stage(ledger: Ledger, document: Mapping[str, Any], k: int, figures: StageFigures, network: Network) -> None:
    """Compare the figures that stage `k` states with the recomputed ones."""
    stage, place = document["stages"][k], f"$.stages[{k}]"
    layers = document["inputs"]["model"]["layers"][stage["layers"]["start"] : stage["layers"]["stop"]]
    _check_modules(ledger, stage["modules"], [module for layer in layers for module in layer["modules"]], place)
    ledger.number(f"{place}.prefill_s", stage["prefill_s"], figures.prefill_s)
    ledger.number(f"{place}.decode_s", stage["decode_s"], figures.decode_s)
    _check_memory(ledger, stage["memory"], figures, f"{place}.memory")
    check_hop(ledger, stage["hop"], figures.hop, f"{place}.hop", network)


def _check_modules(ledger: Ledger, said: list[str], modules: list[str], place: str) -> None:
    for i, (own, module) in enumerate(zip(said, modules, strict=False)):
        if not ledger.same(f"{place}.modules[{i}]", own, module):
            return
    if len(said) != len(modules):
        ledger.add(f"{place}.modules", f"names {len(said)} modules, recomputed {len(modules)}")


def _check_memory(ledger: Ledger, said: Mapping[str, Any], figures: StageFigures, place: str) -> None:
    memory = figures.memory
    ledger.number(f"{place}.weights_bytes", said["weights_bytes"], memory.weights_bytes)
    ledger.number(f"{place}.kv_bytes", said["kv_bytes"], memory.kv_bytes)
    ledger.number(f"{place}.workspace_bytes", said["workspace_bytes"], memory.workspace_bytes)
    ledger.number(f"{place}.available_bytes", said["available_bytes"], figures.available_bytes)
    if memory.used_bytes > figures.available_bytes * (1 + MEMORY_TOLERANCE):
        needed, there = show(memory.used_bytes), show(figures.available_bytes)
        ledger.add(place, f"needs {needed} bytes on {figures.tightest}, which has {there}")
