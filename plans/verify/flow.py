"""Flow solutions against their problem: every range, link, conservation law and value, from the file format.

The maximum flow of the placement is recomputed by shortest augmenting paths, begun from the stated flows: when those
are a maximum flow, one search that finds no augmenting path proves it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gpuplan.plans.verify.answers import Answer, check_single_bound, verify_answer
from gpuplan.plans.verify.findings import RELATIVE_TOLERANCE, Ledger, Verification, agree, show

if TYPE_CHECKING:
    from gpuplan.profiles.problems.flow import FlowProblem

SCHEMA: Final = "gpuplan/flow-solution/1"
SOURCE: Final = "source"
SINK: Final = "sink"
#: Augmenting paths thinner than this share of the flow are rounding.
THIN: Final = 1e-9

#: Start and stop of each node that holds layers.
Spans = Mapping[str, tuple[int, int]]
#: Tokens/s by (sender, receiver).
Arcs = dict[tuple[str, str], float]


def verify_flow_solution(solution: Answer, problem: FlowProblem) -> Verification:
    """Recompute a `gpuplan/flow-solution/1` document, or its file, against the problem it claims to answer.

    Returns
    -------
    Verification
        Not ok for a range that its node cannot hold, a flow over a link that may carry none or not as much, a node
        that passes more than T(k) or loses tokens, chains longer than `max_hops`, an objective that is neither the
        flow out of the source nor the most the placement lets through (1e-6 relative), a bound below the objective,
        or a gap that does not follow.

    Raises
    ------
    InputError
        The document does not follow its schema.
    """
    keys = ("objective", "placement", "flows")
    return verify_answer(solution, SCHEMA, lambda ledger, document: _check(ledger, document, problem), keys=keys)


def _check(ledger: Ledger, document: Mapping[str, Any], problem: FlowProblem) -> None:
    spans = _check_placement(ledger, document["placement"], problem)
    if spans is None:
        return
    capacity = _capacities(spans, problem)
    flows = _check_flows(ledger, document["flows"], capacity, spans, problem)
    if flows is not None:
        hops = _check_hops(ledger, flows, spans, problem)
        _check_terms(ledger, document["terms"], spans, hops)
        _check_objective(ledger, document["objective"], flows, capacity, spans, problem)
    check_single_bound(ledger, document, "$", maximise=True)


def _check_placement(ledger: Ledger, placement: Mapping[str, Any], problem: FlowProblem) -> Spans | None:
    spans, sound = {}, True
    kinds = dict(zip(problem.node_names, problem.node_kinds.tolist(), strict=True))
    for name, span in placement.items():
        place, start, stop = f"$.placement.{name}", span["start"], span["stop"]
        if name not in kinds:
            ledger.add(place, "the problem has no node of this name")
            sound = False
        elif not 0 <= start < stop <= problem.num_layers:
            ledger.add(place, f"says layers {start} to {stop}, expected a part of 0 to {problem.num_layers}")
            sound = False
        elif stop - start > len(problem.throughput_tokens_per_s[kinds[name]]):
            most = len(problem.throughput_tokens_per_s[kinds[name]])
            ledger.add(place, f"holds {stop - start} layers, more than the {most} its kind can hold")
            sound = False
        spans[name] = (start, stop)
    return spans if sound else None


def _capacities(spans: Spans, problem: FlowProblem) -> Arcs:
    """Return the capacity of every link that may carry flow under the placement."""
    numbers = {name: i for i, name in enumerate(problem.node_names) if name in spans}
    arcs: Arcs = {}
    for name, i in numbers.items():
        if spans[name][0] == 0:
            arcs[SOURCE, name] = float(problem.source_tokens_per_s[i])
        if spans[name][1] == problem.num_layers:
            arcs[name, SINK] = float(problem.sink_tokens_per_s[i])
        for other, j in numbers.items():
            if spans[other][0] <= spans[name][1] < spans[other][1]:
                arcs[name, other] = float(problem.link_tokens_per_s[i, j])
    return {arc: value for arc, value in arcs.items() if value > 0.0}


def _throughput(name: str, spans: Spans, problem: FlowProblem) -> float:
    kind = int(problem.node_kinds[problem.node_names.index(name)])
    start, stop = spans[name]
    return float(problem.throughput_tokens_per_s[kind][stop - start - 1])


def _check_flows(
    ledger: Ledger, items: list[Mapping[str, Any]], capacity: Arcs, spans: Spans, problem: FlowProblem
) -> Arcs | None:
    """Return the flow by link, or None when a link is no link of the placement."""
    flows: Arcs = {}
    sound = True
    for k, item in enumerate(items):
        arc, place = (item["from"], item["to"]), f"$.flows[{k}]"
        if arc in flows:
            ledger.add(place, f"says the flow from {arc[0]} to {arc[1]} a second time")
            sound = False
        elif arc not in capacity:
            if item["tokens_per_s"] > 0.0:
                ledger.add(place, f"there can be no flow from {arc[0]} to {arc[1]}: {_no_link(arc, spans, problem)}")
                sound = False
            continue
        flows[arc] = float(item["tokens_per_s"])
    if not sound:
        return None
    for k, item in enumerate(items):
        arc = item["from"], item["to"]
        if arc in flows and _above(flows[arc], capacity[arc]):
            ledger.add(f"$.flows[{k}].tokens_per_s", f"says {show(flows[arc])}, the link takes {show(capacity[arc])}")
    _check_nodes(ledger, flows, spans, problem)
    return flows


def _no_link(arc: tuple[str, str], spans: Spans, problem: FlowProblem) -> str:
    sender, receiver = arc
    for name, end in ((sender, SOURCE), (receiver, SINK)):
        if name != end and name not in spans:
            return f"{name} holds no layers"
    if sender == SOURCE and receiver != SINK and spans[receiver][0] != 0:
        return f"{receiver} does not start at layer 0"
    if receiver == SINK and sender != SOURCE and spans[sender][1] != problem.num_layers:
        return f"{sender} does not stop at layer {problem.num_layers}"
    if SOURCE not in arc and SINK not in arc and not spans[receiver][0] <= spans[sender][1] < spans[receiver][1]:
        return f"{receiver} does not hold layer {spans[sender][1]}, where {sender} stops"
    return "the problem has no such link"


def _check_nodes(ledger: Ledger, flows: Arcs, spans: Spans, problem: FlowProblem) -> None:
    arriving: dict[str, list[float]] = {name: [] for name in spans}
    leaving: dict[str, list[float]] = {name: [] for name in spans}
    for (sender, receiver), value in flows.items():
        leaving.get(sender, []).append(value)
        arriving.get(receiver, []).append(value)
    for name in spans:
        taken, given, most = math.fsum(arriving[name]), math.fsum(leaving[name]), _throughput(name, spans, problem)
        if not agree(taken, given):
            ledger.add("$.flows", f"{name} takes {show(taken)} tokens/s and passes {show(given)} on")
        if _above(max(taken, given), most):
            layers = spans[name][1] - spans[name][0]
            ledger.add("$.flows", f"{name} passes {show(taken)} tokens/s, at most {show(most)} with {layers} layers")


def _check_hops(ledger: Ledger, flows: Arcs, spans: Spans, problem: FlowProblem) -> int:
    """Return the links between nodes in the longest chain of links with flow."""
    # Along a chain stops rise, so nodes by stop are in topological order.
    depth = dict.fromkeys(spans, 0)
    after: dict[str, list[str]] = {name: [] for name in spans}
    for (sender, receiver), value in flows.items():
        if value > 0.0 and sender != SOURCE and receiver != SINK:
            after[sender].append(receiver)
    for name in sorted(spans, key=lambda name: spans[name][1]):
        for receiver in after[name]:
            depth[receiver] = max(depth[receiver], depth[name] + 1)
    hops = max(depth.values(), default=0)
    if problem.max_hops is not None and hops > problem.max_hops:
        ledger.add("$.flows", f"a chain of links with flow has {hops} hops, more than the {problem.max_hops} allowed")
    return hops


def _check_terms(ledger: Ledger, terms: Mapping[str, Any], spans: Spans, hops: int) -> None:
    layers = [layer for start, stop in spans.values() for layer in range(start, stop)]
    known = {
        "nodes": len(spans),
        "hops": hops,
        "layers_on_one_node": sum(layers.count(layer) == 1 for layer in set(layers)),
    }
    for name, said in terms.items():
        if name not in known:
            ledger.add(f"$.terms.{name}", f"unknown term; the terms here are {', '.join(sorted(known))}")
        else:
            ledger.number(f"$.terms.{name}", said, known[name])


def _check_objective(
    ledger: Ledger, said: float, flows: Arcs, capacity: Arcs, spans: Spans, problem: FlowProblem
) -> None:
    out = math.fsum(value for (sender, _), value in flows.items() if sender == SOURCE)
    ledger.number("$.objective", said, out)
    most = _maximum_flow(flows, capacity, spans, problem)
    # With a limit on hops the flow may have to leave some of what links and nodes could take.
    if not agree(out, most) and (problem.max_hops is None or out > most):
        ledger.add("$.objective", f"says {show(said)}, but the placement lets {show(most)} tokens/s through")


def _maximum_flow(flows: Arcs, capacity: Arcs, spans: Spans, problem: FlowProblem) -> float:
    """Return the most tokens/s the placement passes, by augmenting paths from the stated flows where they hold."""
    most = {name: _throughput(name, spans, problem) for name in spans}
    thin = THIN * min(math.fsum(most.values()), math.fsum(capacity[arc] for arc in capacity if arc[0] == SOURCE))
    room = _room(capacity, most)
    flow = _start(room, flows)
    if flow is None:
        flow, room = 0.0, _room(capacity, most)
    return _augment(room, flow, thin)


def _room(capacity: Arcs, most: Mapping[str, float]) -> Arcs:
    """Return what links and nodes can take: an arc from ``a>`` to ``<b`` a link, from ``<a`` to ``a>`` a node."""
    room = {(f"{a}>", f"<{b}"): value for (a, b), value in capacity.items()}
    return room | {(f"<{name}", f"{name}>"): value for name, value in most.items()}


def _start(room: Arcs, flows: Arcs) -> float | None:
    """Take the stated flows out of `room`; return their sum, or None where they do not fit."""
    total = 0.0
    for (a, b), value in flows.items():
        _push(room, (f"{a}>", f"<{b}"), value)
        if b != SINK:
            _push(room, (f"<{b}", f"{b}>"), value)
        total += value if a == SOURCE else 0.0
    fits = all(left >= -RELATIVE_TOLERANCE * max(total, 1e-300) for left in room.values())
    return total if fits else None


def _push(room: Arcs, arc: tuple[str, str], value: float) -> None:
    room[arc] = room.get(arc, 0.0) - value
    back = arc[1], arc[0]
    room[back] = room.get(back, 0.0) + value


def _augment(room: Arcs, flow: float, thin: float) -> float:
    neighbours: dict[str, list[str]] = {}
    for a, b in list(room):
        neighbours.setdefault(a, []).append(b)
        if (b, a) not in room:
            room[b, a] = 0.0
            neighbours.setdefault(b, []).append(a)
    start, end = f"{SOURCE}>", f"<{SINK}"
    while True:
        before = _search(room, neighbours, start, end, thin)
        if end not in before:
            return flow
        path, node = [], end
        while node != start:
            path.append((before[node], node))
            node = before[node]
        width = min(room[arc] for arc in path)
        for arc in path:
            _push(room, arc, width)
        flow += width


def _search(room: Arcs, neighbours: Mapping[str, list[str]], start: str, end: str, thin: float) -> dict[str, str]:
    before = {start: start}
    queue = deque([start])
    while queue and end not in before:
        node = queue.popleft()
        for other in neighbours.get(node, ()):
            if other not in before and room[node, other] > thin:
                before[other] = node
                queue.append(other)
    return before


def _above(value: float, limit: float) -> bool:
    return value > limit and not agree(value, limit)
