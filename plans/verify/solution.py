"""Placement solutions against their problem: every constraint and value, from the formulas of the file format."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuplan.plans.verify.answers import Answer, verify_answer
from gpuplan.plans.verify.certificate import Goal, PlanValues, check_certificate
from gpuplan.plans.verify.findings import MEMORY_TOLERANCE, Ledger, Verification, show

if TYPE_CHECKING:
    from gpuplan.profiles.problems.placement import DensePlacement, Hops, Timing

SCHEMA = "gpuplan/placement-solution/1"

#: A point is superfluous when another is at most this factor above it in every component.
DOMINANCE = 1 + 1e-9


def verify_solution(solution: Answer, problem: DensePlacement) -> Verification:
    """Recompute a `gpuplan/placement-solution/1` document, or its file, against the problem it claims to answer.

    Returns
    -------
    Verification
        Not ok for any stage that breaks a constraint, any value off by more than 1e-6 relative, a bound on the
        wrong side, a gap that does not follow, or a point of a front that another one dominates.

    Raises
    ------
    InputError
        The document does not follow its schema.
    """
    check = _check_front if problem.front else _check_single
    return verify_answer(solution, SCHEMA, lambda ledger, document: check(ledger, document, problem))


def _check_single(ledger: Ledger, document: Mapping[str, Any], problem: DensePlacement) -> None:
    if "points" in document:
        ledger.add("$.points", "the problem asks for one plan, not for a front")
    if "stages" not in document:
        ledger.add("$.stages", "expected the stages of the plan, got none")
        return
    values = _check_stages(ledger, document["stages"], problem, "$.stages")
    if values is not None:
        objective = problem.objective
        goal = Goal(objective.name, objective.latency_weight, objective.devices_weight)
        check_certificate(ledger, document, goal, values, "$")


def _check_front(ledger: Ledger, document: Mapping[str, Any], problem: DensePlacement) -> None:
    for key in ("stages", "objective"):
        if document.get(key) is not None:
            ledger.add(f"$.{key}", "the problem asks for a front, which holds points only")
    if not document.get("points"):
        ledger.add("$.points", "expected the points of the front, got none")
        return
    values = [_check_point(ledger, point, problem, f"$.points[{i}]") for i, point in enumerate(document["points"])]
    found = [(i, _triple(value)) for i, value in enumerate(values) if value is not None]
    for (i, own), (j, other) in itertools.permutations(found, 2):
        if all(theirs <= DOMINANCE * mine for mine, theirs in zip(own, other, strict=True)):
            ledger.add(f"$.points[{i}]", f"is no better in anything than $.points[{j}]")
    if document["gap"] not in (None, 0):
        ledger.add("$.gap", f"says {document['gap']}, but a front has gap 0.0 when complete and null otherwise")


def _check_point(ledger: Ledger, point: Mapping[str, Any], problem: DensePlacement, place: str) -> PlanValues | None:
    values = _check_stages(ledger, point["stages"], problem, f"{place}.stages")
    if values is not None:
        ledger.number(f"{place}.latency_s", point["latency_s"], values.latency_s)
        ledger.number(f"{place}.bottleneck_s", point["bottleneck_s"], values.bottleneck_s)
        ledger.same(f"{place}.devices", point["devices"], values.devices)
    return values


def _triple(values: PlanValues) -> tuple[float, float, float]:
    return values.latency_s, values.bottleneck_s, values.devices


def _check_stages(
    ledger: Ledger, stages: Sequence[Mapping[str, Any]], problem: DensePlacement, place: str
) -> PlanValues | None:
    """Check the constraints; return the values, or None when the stages are no pipeline that can be priced."""
    sound = _check_shape(ledger, stages, problem, place)
    if not sound:
        return None
    numbers = {name: i for i, name in enumerate(problem.device_names)}
    rows = [(numbers[stage["device"]], stage["start"], stage["stop"]) for stage in stages]
    if problem.max_devices is not None and len(rows) > problem.max_devices:
        ledger.add(place, f"uses {len(rows)} devices, more than the {problem.max_devices} allowed")
    _check_memory(ledger, rows, problem, place)
    _check_must_hold(ledger, rows, problem, place)
    return _values(ledger, rows, problem, place)


def _check_shape(ledger: Ledger, stages: Sequence[Mapping[str, Any]], problem: DensePlacement, place: str) -> bool:
    before = ledger.verdict()
    expected = 0
    seen: dict[str, int] = {}
    for k, stage in enumerate(stages):
        name, start, stop = stage.get("device"), stage["start"], stage["stop"]
        if name is None:
            message = "name a group, but the problem has the numbers of single devices; verify a map of it instead"
            ledger.add(f"{place}[{k}].devices", message)
        elif name not in problem.device_names:
            ledger.add(f"{place}[{k}].device", f"says {name!r}, which the problem does not have")
        elif name in seen:
            ledger.add(f"{place}[{k}].device", f"says {name!r}, which {place}[{seen[name]}] uses already")
        if name is not None:
            seen.setdefault(name, k)
        if start != expected:
            ledger.add(f"{place}[{k}].start", f"says {start}, but the next layer to place is {expected}")
        if not start < stop <= problem.num_layers:
            ledger.add(f"{place}[{k}].stop", f"says {stop}, expected {start + 1} to {problem.num_layers}")
        expected = stop
    if expected != problem.num_layers:
        ledger.add(place, f"end at layer {expected}, but there are {problem.num_layers} layers to place")
    return ledger.verdict() == before


def _check_memory(ledger: Ledger, rows: list[tuple[int, int, int]], problem: DensePlacement, place: str) -> None:
    count = len(rows) if problem.micro_batches == "stages" else problem.micro_batches
    tokens = count * problem.tokens_per_micro_batch
    saved = problem.single_stage_saving_bytes if len(rows) == 1 else 0.0
    for k, (device, start, stop) in enumerate(rows):
        held = problem.memory_bytes[start:stop] + tokens * problem.kv_bytes_per_token[start:stop]
        used = problem.fixed_bytes - saved + math.fsum(held.tolist())
        available = float(problem.available_bytes[device])
        if used > available * (1 + MEMORY_TOLERANCE):
            ledger.add(
                f"{place}[{k}]",
                f"needs {show(used)} bytes on {problem.device_names[device]}, which has {show(available)}",
            )


def _check_must_hold(ledger: Ledger, rows: list[tuple[int, int, int]], problem: DensePlacement, place: str) -> None:
    if problem.must_hold is None:
        return
    for k, (_, start, stop) in enumerate(rows):
        if not np.any(problem.must_hold[start:stop]):
            ledger.add(f"{place}[{k}]", "holds none of the layers that every stage must hold one of")


def _values(ledger: Ledger, rows: list[tuple[int, int, int]], problem: DensePlacement, place: str) -> PlanValues | None:
    latency = _parts(problem.latency, rows)
    cycle = _parts(problem.cycle, rows)
    routed = True
    for k, ((_, hop), (_, step)) in enumerate(zip(latency, cycle, strict=True)):
        if math.isinf(hop) or math.isinf(step):
            routed = False
            receiver = problem.device_names[rows[(k + 1) % len(rows)][0]]
            ledger.add(f"{place}[{k}].device", f"has no route to {receiver}, where it hands over")
    if not routed:
        return None
    hops = [hop for _, hop in latency]
    compute = math.fsum(own for own, _ in latency)
    price = math.fsum(float(problem.price_per_hour[device]) for device, _, _ in rows)
    return PlanValues(
        latency_s=compute + math.fsum(hops),
        bottleneck_s=max(own + hop for own, hop in cycle),
        devices=len(rows),
        price_per_hour=None if math.isnan(price) else price,
        kv_room_tokens=_kv_room(rows, problem),
        compute_s=compute,
        hops_s=math.fsum(hops[:-1]),
        return_hop_s=hops[-1],
    )


def _parts(timing: Timing, rows: list[tuple[int, int, int]]) -> list[tuple[float, float]]:
    """Return (compute, outgoing hop) of every stage, s."""
    parts = []
    for k, (device, start, stop) in enumerate(rows):
        hop = 0.0
        if k + 1 < len(rows):
            hop = _transfer(timing.hop, device, rows[k + 1][0], float(timing.boundary_bytes[stop - 1]))
        elif len(rows) > 1 and timing.return_hop is not None:
            hop = _transfer(timing.return_hop, device, rows[0][0], timing.return_bytes)
        parts.append((math.fsum(timing.compute_s[device, start:stop]), hop))
    return parts


def _transfer(table: Hops, sender: int, receiver: int, message_bytes: float) -> float:
    latency, per_byte = table.pair(sender, receiver)
    if math.isinf(latency) or math.isinf(per_byte):
        return math.inf  # no route, whatever the message (0 bytes times inf would be NaN)
    return latency + message_bytes * per_byte


def _kv_room(rows: list[tuple[int, int, int]], problem: DensePlacement) -> float | None:
    saved = problem.single_stage_saving_bytes if len(rows) == 1 else 0.0
    rooms = []
    for device, start, stop in rows:
        per_token = math.fsum(problem.kv_bytes_per_token[start:stop])
        if per_token > 0:
            weights = math.fsum(problem.memory_bytes[start:stop]) - saved
            rooms.append((float(problem.available_bytes[device]) - problem.fixed_bytes - weights) / per_token)
    return min(rooms) if rooms else None
