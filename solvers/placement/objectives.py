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
from gpuplan.solvers.placement.tables import ClassPath

Method = Callable[[Session, ClassPath | None], Outcome]


def minimise_latency(session: Session, hint: ClassPath | None) -> Outcome:
    """Least latency."""
    answer = session.ask(Query(), hint=hint)
    return Outcome(status_of(answer), answer.path, finite_or_none(answer.bound))


def fewest_devices(session: Session, hint: ClassPath | None) -> Answer:
    """Fewest devices any plan uses: entry cost 1, no times."""
    return session.ask(Query(time_weight=0.0, entry=session.tables.devices_each), hint=hint)


def minimise_devices(session: Session, hint: ClassPath | None) -> Outcome:
    """Fewest devices, then latency."""
    first = fewest_devices(session, hint)
    if first.path is None:
        return Outcome(status_of(first), None, None)
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
        return Outcome(status_of(first), None, None)
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
    path = answer.path if answer.path is not None else fastest.path
    if not (fastest.proven and fewest.proven):
        return Outcome("feasible", path, None, extra)  # the unit of the objective itself is not proven
    return Outcome("optimal" if answer.proven else "feasible", path, finite_or_none(answer.bound), extra)


METHODS: dict[ObjectiveName, Method] = {
    "latency": minimise_latency,
    "bottleneck": minimise_bottleneck,
    "efficiency": minimise_devices,
    "balanced": minimise_balanced,
    "cost": minimise_price,
    "kv-capacity": maximise_capacity,
}
