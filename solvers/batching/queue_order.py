"""Which order a queue should have: each is tried on n slots and judged by the problem's own objective.

A slot serves one request at a time, for its prompt's and its output's iterations in a full batch: the fluid picture of
continuous batching. What it ranks is the order, not the engine's times.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from gpuplan.plans.iteration import QueueOrder
from gpuplan.profiles.problems.batching import DEADLINE_SLACK_S, BatchObjective, FloatArray, Requests

#: Requests that orders are tried on at most.
SAMPLE: Final = 20_000


def order_values(
    requests: Requests, service_s: FloatArray, slots: int, objective: BatchObjective
) -> dict[QueueOrder, float]:
    """Return the objective under each queue order that the requests tell apart, `fcfs` first.

    Parameters
    ----------
    service_s
        Time each request occupies a slot, s, shape (N,).
    slots
        Requests served at once.
    """
    first = np.argsort(requests.arrival_s, kind="stable")[:SAMPLE]
    requests, service_s = requests.take(first), service_s[first]
    keys: dict[QueueOrder, FloatArray] = {"fcfs": requests.arrival_s}
    if np.ptp(service_s) > 0.0:
        keys["shortest-first"] = service_s
    if np.isfinite(requests.deadline_s).any():
        keys["deadline"] = requests.deadline_s
    if np.ptp(requests.weight) > 0.0:
        keys["weight"] = service_s / np.maximum(requests.weight, 1e-12)
    return {name: _value(requests, service_s, slots, key, objective) for name, key in keys.items()}


def best_order(values: dict[QueueOrder, float]) -> QueueOrder:
    """Return the order with the least value; of equal ones the first."""
    return min(values, key=lambda name: values[name])


def finish_times(requests: Requests, service_s: FloatArray, slots: int, key: FloatArray) -> FloatArray:
    """Return when each request is done on `slots` equal slots that take the least key among those that wait, s."""
    arrival = requests.arrival_s.tolist()
    turns = np.argsort(requests.arrival_s, kind="stable").tolist()
    rank = np.empty(len(requests), dtype=np.int64)
    rank[np.lexsort((requests.arrival_s, key))] = np.arange(len(requests))
    service, ranks = service_s.tolist(), rank.tolist()
    by_rank = np.argsort(rank).tolist()
    finish = np.zeros(len(requests))
    free = [0.0] * min(slots, len(requests))
    waiting: list[int] = []
    coming = 0
    for _ in range(len(requests)):
        now = heapq.heappop(free)
        if not waiting:
            now = max(now, arrival[turns[coming]])
        while coming < len(turns) and arrival[turns[coming]] <= now:
            heapq.heappush(waiting, ranks[turns[coming]])
            coming += 1
        row = by_rank[heapq.heappop(waiting)]
        finish[row] = now + service[row]
        heapq.heappush(free, float(finish[row]))
    return finish


def _value(requests: Requests, service_s: FloatArray, slots: int, key: FloatArray, objective: BatchObjective) -> float:
    finish = finish_times(requests, service_s, slots, key)
    late = finish > requests.deadline_s + DEADLINE_SLACK_S
    # Hard deadlines: every one missed counts more than all the rest.
    price = objective.violation if objective.deadlines == "soft" else 1e6 * max(float(finish.max(initial=1.0)), 1.0)
    return (
        objective.latency * float(np.sum(requests.weight * (finish - requests.arrival_s)))
        + objective.makespan * float(finish.max(initial=0.0))
        + price * float(np.sum(requests.weight[late]))
    )
