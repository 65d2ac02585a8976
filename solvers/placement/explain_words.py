"""An explanation's facts as sentences; no figure is made here, only written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gpuplan.solvers.placement.explain_variants import slowest_hop
from gpuplan.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from gpuplan.plans import DeviceMap
    from gpuplan.profiles import PlacementProblem
    from gpuplan.solvers.placement.explain import Answer, Explanation, Figures
    from gpuplan.solvers.placement.explain_limits import StageLimit
    from gpuplan.solvers.result import Result

#: A smaller relative change is none.
_SAME = 1e-9
#: A smaller one is hardly worth the money.
_LITTLE = 1e-3
#: More devices than this are counted, not named.
_MOST_NAMED = 3


def sentences(problem: PlacementProblem, result: Result[DeviceMap], facts: Explanation) -> Iterator[str]:
    """Yield what binds, what else could be done, and what would help."""
    plan = result.require_plan()
    yield _kv_room(facts.limits) if facts.objective == "kv-capacity" else _memory(facts.limits)
    yield _bounds(facts.limits)
    hops = _hops(problem, plan)
    if hops:
        yield hops
    idle = _idle(problem, result, plan)
    if idle:
        yield idle
    for answer in _telling(facts.alternatives):
        yield _alternative(answer, facts)
    yield from _help(facts)
    if facts.dropped:
        yield f"Not answered within the time allowed: {_listed([_lower(what) for what in facts.dropped])}."


def _memory(limits: Sequence[StageLimit]) -> str:
    full = [limit for limit in limits if limit.memory_full]
    if not full:
        least = min(limits, key=lambda limit: limit.free_bytes)
        return f"Memory does not bind: the fullest device, {least.device}, has {format_bytes(least.free_bytes)} left."
    wanted = format_bytes(min(limit.next_layer_bytes for limit in full if limit.next_layer_bytes is not None))
    if len(full) > _MOST_NAMED:
        least = min(full, key=lambda limit: limit.free_bytes)
        tightest = f"tightest on {least.device} ({format_bytes(least.free_bytes)} left)"
        where = f"{len(full)} of {len(limits)} devices, {tightest}"
    else:
        where = _listed([f"{limit.device} ({format_bytes(limit.free_bytes)} left)" for limit in full])
    return f"Memory binds on {where}: one more layer takes {wanted}."


def _kv_room(limits: Sequence[StageLimit]) -> str:
    rooms = {limit.device: limit.kv_room_tokens for limit in limits if limit.kv_room_tokens is not None}
    if not rooms:
        return "No stage keeps a KV cache."
    least, most = min(rooms, key=lambda name: rooms[name]), max(rooms, key=lambda name: rooms[name])
    if len(rooms) == 1:
        return f"The KV capacity is set by {least}, which holds {rooms[least]:,.0f} tokens."
    return (
        f"The KV capacity is set by the tightest stage, {least} with {math.floor(rooms[least]):,} tokens;"
        f" the roomiest, {most}, would hold {math.floor(rooms[most]):,}."
    )


def _bounds(limits: Sequence[StageLimit]) -> str:
    words = {
        "memory bandwidth": "memory bandwidth",
        "compute": "compute",
        "overhead": "neither bandwidth nor compute but the fixed cost of its kernels",
    }
    decode = list(dict.fromkeys(words[limit.decode_bound] for limit in limits))
    prefill = list(dict.fromkeys(words[limit.prefill_bound] for limit in limits))
    if decode == prefill:
        return f"Prefill and decoding are limited by {' or '.join(decode)}."
    return f"Decoding is limited by {' or '.join(decode)}, prefill by {' or '.join(prefill)}."


def _hops(problem: PlacementProblem, plan: DeviceMap) -> str:
    hop = slowest_hop(plan)
    if hop is None:
        return ""
    steps = plan.workload.output_tokens - 1
    total = sum(stage.hop.prefill_s + steps * stage.hop.decode_s for stage in plan.stages if stage.hop)
    stage = next(stage for stage in plan.stages if stage.devices[0] == hop[0])
    assert stage.hop is not None
    kinds = _link_kinds(problem, stage.hop.route)
    return (
        f"Hops take {_percent(total / plan.metrics.latency_s)} of the latency; the slowest, {hop[0]} → {hop[1]}"
        f" over {kinds}, takes {format_seconds(stage.hop.decode_s)} a step."
    )


def _link_kinds(problem: PlacementProblem, route: Sequence[str]) -> str:
    kinds = {frozenset((link.a, link.b)): link.kind for link in problem.topology.links}
    steps = [kinds.get(frozenset(pair)) for pair in itertools.pairwise(route)]
    return ", ".join(dict.fromkeys(kind for kind in steps if kind)) or "its link"


def _idle(problem: PlacementProblem, result: Result[DeviceMap], plan: DeviceMap) -> str:
    idle = problem.topology.num_devices - plan.metrics.devices_used
    capped = problem.max_devices is not None and plan.metrics.devices_used >= problem.max_devices
    if not idle or capped or result.status != "optimal":
        return ""
    them = "1 device stays" if idle == 1 else f"{idle} devices stay"
    return f"{them} unused: that no plan with more of them is better is part of the proof."


def _telling(answers: Sequence[Answer]) -> list[Answer]:
    """Leave out that one device does not do where one fewer already does not."""
    impossible = any(answer.key == "fewer_devices" and answer.status == "infeasible" for answer in answers)
    return [answer for answer in answers if not (impossible and answer.key == "single_device")]


def _alternative(answer: Answer, facts: Explanation) -> str:
    if answer.figures is None:
        verdict = "is impossible" if answer.status == "infeasible" else "does not work"
        return f"{answer.what} {verdict}: {(answer.reasons or ('no plan exists',))[0].rstrip('.')}."
    return f"{answer.what} {_gives(answer, facts)}."


def _help(facts: Explanation) -> Iterator[str]:
    useful = [answer for answer in facts.improvements if _matters(answer, facts)]
    useless = [answer for answer in facts.improvements if answer not in useful]
    if useful and not any(_worthwhile(answer, facts) for answer in useful):
        yield f"Little would help: at best {_lower(useful[0].what)} {_gives(useful[0], facts)}."
        return
    if useful:
        yield f"What would help most: {_lower(useful[0].what)} {_gives(useful[0], facts)}."
    for answer in useful[1:]:
        yield f"Then {_lower(answer.what)} {_gives(answer, facts)}."
    if useless:
        listed = _listed([_lower(answer.what) for answer in useless], "or")
        yield f"{'No gain' if useful else 'Nothing tried would help: no gain'} from {listed}."


def _worthwhile(answer: Answer, facts: Explanation) -> bool:
    return abs(answer.change or 0.0) >= _LITTLE or facts.objective == "efficiency"


def _matters(answer: Answer, facts: Explanation) -> bool:
    if answer.figures is None or answer.change is None:
        return False
    more = facts.objective == "kv-capacity"
    gained = answer.change > _SAME if more else answer.change < -_SAME
    return gained or (facts.objective == "efficiency" and answer.figures.devices_used < facts.figures.devices_used)


def _gives(answer: Answer, facts: Explanation) -> str:
    worth, base = answer.figures, facts.figures
    assert worth is not None
    named = answer.key in ("fewer_devices", "single_device", "even")  # those say their devices already
    same = worth.devices_used == base.devices_used
    devices = "" if named or same else f" on {_devices(worth.devices_used)}"
    name, value, difference = _figure(worth, base, facts.objective)
    if answer.change is None or abs(answer.change) <= _SAME:
        return f"gives the same {name}, {value}{devices}"
    proof = ", the best found in the time allowed" if answer.status == "feasible" and answer.key != "even" else ""
    direction = "more" if answer.change > 0 else "less"
    return f"gives a {name} of {value}{devices}, {difference} ({_percent(answer.change)}) {direction}{proof}"


def _figure(worth: Figures, base: Figures, objective: str) -> tuple[str, str, str]:
    """Return the main figure's name, its value, and by how much it differs from the plan's."""
    if objective == "throughput":
        return "bottleneck", *_seconds(worth.bottleneck_s, base.bottleneck_s)
    if objective == "cost":
        now, before = worth.price_per_hour or 0.0, base.price_per_hour or 0.0
        return "price", f"{now:.2f} an hour", f"{abs(now - before):.2f}"
    if objective == "kv-capacity":
        tokens, planned = worth.kv_capacity_tokens or 0, base.kv_capacity_tokens or 0
        return "KV capacity", f"{tokens:,} tokens", f"{abs(tokens - planned):,}"
    return "latency", *_seconds(worth.latency_s, base.latency_s)


def _seconds(now: float, before: float) -> tuple[str, str]:
    return format_seconds(now), format_seconds(abs(now - before))


def _percent(share: float) -> str:
    """Return a share that never rounds to zero.

    >>> _percent(0.082), _percent(-0.00031), _percent(0.0)
    ('8.2 %', '0.03 %', '0.0 %')
    """
    digits = 1
    while share and digits < 9 and round(abs(share) * 100, digits) == 0.0:
        digits += 1
    return f"{abs(share) * 100:.{digits}f} %"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _listed(parts: Sequence[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
