"""Each objective as a sequence of core minimisations (`Query`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.problems.placement import ObjectiveName
from gpuplan.solvers.placement.bottleneck import minimise_bottleneck
from gpuplan.solvers.placement.capacity import maximise_capacity
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.outcome import Outcome, finite_or_none, status_of
from gpuplan.solvers.placement.query import Answer, Session
from gpuplan.solvers.placement.tables import ClassPath, ClassTables

Method = Callable[[Session, ClassPath | None], Outcome]


def minimise_latency(session: Session, hint: ClassPath | None) -> Outcome:
    """Least latency."""
    answer = session.ask(Query(), hint=hint)
    return Outcome(status_of(answer), answer.path, finite_or_none(answer.bound))


def path_latency(tables: ClassTables, path: ClassPath) -> float:
    """Latency of a path, s."""
    timing, total = tables.latency, 0.0
    for k, (c, start, stop) in enumerate(path):
        total += float(timing.prefix[c, stop] - timing.prefix[c, start])
        if k + 1 < len(path):
            total += timing.hop(c, path[k + 1][0], stop)
    return total + (timing.returns(path[-1][0], path[0][0]) if len(path) > 1 else 0.0)


def fewest_devices(session: Session, hint: ClassPath | None) -> Answer:
    """Fewest devices any plan uses: entry cost 1, no times."""
    return session.ask(Query(time_weight=0.0, entry=session.tables.devices_each), hint=hint)


def minimise_devices(session: Session, hint: ClassPath | None) -> Outcome:
    """Fewest devices, then latency."""
    first = fewest_devices(session, hint)
    if first.path is None:
        return Outcome(status_of(first), None, (max(first.bound, 0.0), 0.0))
    devices = session.tables.devices_of(first.path)
    query = Query().limited_to(devices)
    if session.tables.sizes is not None:
        query = Query(budget=(session.tables.devices_each, float(devices)))
    second = session.ask(query, hint=first.path)
    return _lexicographic(first, float(devices), second)


def minimise_price(session: Session, hint: ClassPath | None) -> Outcome:
    """Least price per hour of the used devices, then latency."""
    price = session.tables.price
    if np.isnan(session.tables.problem.price_per_hour).any():
        missing = int(np.flatnonzero(np.isnan(session.tables.problem.price_per_hour))[0])
        name = session.tables.problem.device_names[missing]
        raise InputError(
            f"the cost objective needs price_per_hour of every device, but {name} has none; give it a price",
            place=f"$.devices[{missing}].price_per_hour",
        )
    first = session.ask(Query(time_weight=0.0, entry=tuple(price.tolist())), hint=hint)
    if first.path is None:
        return Outcome(status_of(first), None, (max(first.bound, 0.0), 0.0))
    paid = math.fsum(float(price[c]) for c, _, _ in first.path)
    second = session.ask(Query(budget=(tuple(price.tolist()), paid)), hint=first.path)
    return _lexicographic(first, paid, second)


def _lexicographic(first: Answer, value: float, second: Answer) -> Outcome:
    """Join a first key and the best latency at that value of it."""
    path = second.path if second.path is not None else first.path
    if not first.proven:
        return Outcome("feasible", path, (max(first.bound, 0.0), 0.0))
    bound = second.bound if math.isfinite(second.bound) else 0.0
    proven = second.proven and second.path is not None
    return Outcome("optimal" if proven else "feasible", path, (value, bound))


def minimise_balanced(session: Session, hint: ClassPath | None) -> Outcome:
    """``α₁·latency/latency* + α₂·devices/devices*``; the starred values are the single optima of the same problem."""
    goal = session.tables.problem.objective
    fastest = session.ask(Query(), hint=hint)
    if fastest.path is None:
        return Outcome(status_of(fastest), None, None)
    if fastest.value <= 0.0:
        raise InputError("the balanced objective divides by the least latency, which is 0; give the layers times")
    fewest = fewest_devices(session, fastest.path)
    devices = session.tables.devices_of(fewest.path if fewest.path is not None else fastest.path)
    extra = {"latency_star_s": fastest.value, "devices_star": float(devices)}
    per_device = goal.devices_weight / devices
    answer = session.ask(
        Query(
            time_weight=goal.latency_weight / fastest.value,
            entry=tuple(per_device * count for count in session.tables.devices_each),
        ),
        hint=fastest.path,
    )
    if not (fastest.proven and fewest.proven):
        return _balanced_so_far(session, fastest, fewest, answer)
    path = answer.path if answer.path is not None else fastest.path
    return Outcome("optimal" if answer.proven else "feasible", path, finite_or_none(answer.bound), extra)


def _balanced_so_far(session: Session, fastest: Answer, fewest: Answer, answer: Answer) -> Outcome:
    """Return the best balanced plan where the starred values are only known to lie in intervals.

    `answer` is that of the balanced question, asked with starred values no less than those found.

    Notes
    -----
    Say f(p) = a + c with a = α₁·latency/L and c = α₂·devices/K, where L and K are the least found; the least there are
    are L* ≥ L/Λ and K* ≥ K/M, and f*(p) is f(p) with these. The bound b stated holds twice over:

    * No plan has f below b: every plan has f ≥ `answer`'s bound B (smaller starred values only raise f), and, since its
      latency is L* or more and its devices K* or more, f ≥ α₁/Λ + α₂/M.
    * b/f(p) is at most the ratio of the true optimum to f*(p), so that the gap stated is no less than the true one: the
      optimum of f* is α₁ + α₂ or more, and B or more because f* ≥ f, while f*(p) ≤ Λ·a + M·c.
    """
    tables, goal = session.tables, session.tables.problem.objective
    paths = [found.path for found in (answer, fastest, fewest) if found.path is not None]
    seconds, devices = [path_latency(tables, path) for path in paths], [tables.devices_of(path) for path in paths]
    least_s = fastest.value if fastest.proven else min(seconds)
    extra = {"latency_star_s": least_s, "devices_star": float(min(devices))}
    parts = [
        (goal.latency_weight * latency_s / least_s, goal.devices_weight * count / min(devices))
        for latency_s, count in zip(seconds, devices, strict=True)
    ]
    value, place = min((sum(part), k) for k, part in enumerate(parts))
    if fastest.bound <= 0.0 or value <= 0.0:
        return Outcome("feasible", paths[place], 0.0, extra)
    loose_s = max(least_s / fastest.bound, 1.0)
    fewest_known = math.ceil(fewest.bound - 1e-9) if math.isfinite(fewest.bound) else 1
    loose_devices = min(devices) / max(min(fewest_known, min(devices)), 1)
    true_value = loose_s * parts[place][0] + loose_devices * parts[place][1]
    share = max(answer.bound, goal.latency_weight + goal.devices_weight) / true_value
    found = max(answer.bound, goal.latency_weight / loose_s + goal.devices_weight / loose_devices)
    return Outcome("feasible", paths[place], min(found, share * value), extra)


METHODS: dict[ObjectiveName, Method] = {
    "latency": minimise_latency,
    "bottleneck": minimise_bottleneck,
    "efficiency": minimise_devices,
    "balanced": minimise_balanced,
    "cost": minimise_price,
    "kv-capacity": maximise_capacity,
}
