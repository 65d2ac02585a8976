"""From placed replicas to the deployment that is handed out: names, links, terms, changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from gpuplan.plans.deployment import Changes, Deployment
from gpuplan.plans.deployment_build import ReplicaSpec, build_deployment
from gpuplan.plans.device_map import Outcome
from gpuplan.plans.placement_solution import GroupStage
from gpuplan.solvers.deployment.links import link_loads
from gpuplan.solvers.deployment.moving import moved_bytes, placement_of, resident_shares
from gpuplan.solvers.deployment.placing import Placed
from gpuplan.solvers.deployment.replicas import Replica

if TYPE_CHECKING:
    from gpuplan.solvers.deployment.solve import _Search
    from gpuplan.solvers.result import Status


def build(
    search: _Search, placed: Placed, status: Status, limit: float | None, gap: float | None, decision: str
) -> Deployment:
    """Return the deployment of `placed`."""
    placed = _in_order(placed)
    names = _names(search, placed)
    specs = [
        _spec(search, name, replica, rate)
        for name, replica, rate in zip(names, placed.replicas, placed.rates, strict=True)
    ]
    current = None if search.current is None else placement_of(search.current)
    changes = None if current is None else _changes(search, placed, names, decision)
    report = search._report(None)
    outcome = Outcome(
        cast('Literal["optimal", "feasible"]', status),
        placed.objective,
        _terms(search, placed),
        limit,
        None if gap is None or math.isinf(gap) else gap,
        report.solver,
        report.options,
        report.seed,
    )
    loads = link_loads(search.traffic, placed.replicas, placed.rates)
    ways = search.fleet.ways
    return build_deployment(search.problem, specs, loads, outcome, changes=changes, current=current, ways=ways)


def _in_order(placed: Placed) -> Placed:
    """Return the replicas in the order of their devices."""
    order = sorted(range(len(placed.replicas)), key=lambda r: sorted(placed.replicas[r].devices))
    return Placed(
        tuple(placed.replicas[r] for r in order),
        tuple(placed.kept[r] for r in order),
        tuple(placed.rates[r] for r in order),
        placed.objective,
    )


def _names(search: _Search, placed: Placed) -> list[str]:
    """Return a name a replica: its old one where it is kept, else the next number that is free."""
    old = [] if search.current is None else [replica.name for replica in search.current.replicas]
    taken = set(old)
    names = []
    number = 0
    for kept in placed.kept:
        if kept is not None:
            names.append(old[kept])
            continue
        while f"replica{number}" in taken:
            number += 1
        names.append(f"replica{number}")
        taken.add(names[-1])
    return names


def _spec(search: _Search, name: str, replica: Replica, rate: float) -> ReplicaSpec:
    spans = zip(replica.groups, replica.cuts[:-1], replica.cuts[1:], strict=True)
    full = replica.rate.tokens_per_s if search.ceilings.tokens else replica.rate.requests_per_s
    return ReplicaSpec(
        name,
        tuple(GroupStage(group, start, stop) for group, start, stop in spans),
        replica.rate.batch,
        replica.rate.micro_batches,
        1.0 if rate >= full else rate / full,
        search.traffic.routes(replica),
    )


def _terms(search: _Search, placed: Placed) -> dict[str, float]:
    rates = zip(placed.replicas, placed.rates, strict=True)
    key = "tokens_per_s" if search.ceilings.tokens else "requests_per_s"
    terms = {
        key: math.fsum(rate for _, rate in rates),
        "devices": float(sum(len(replica.devices) for replica in placed.replicas)),
        "replicas": float(len(placed.replicas)),
    }
    if search.problem.objective == "cost":
        terms["price_per_hour"] = placed.objective
    return terms


def _changes(search: _Search, placed: Placed, names: Sequence[str], decision: str) -> Changes:
    assert search.current is not None
    kept = tuple(name for name, number in zip(names, placed.kept, strict=True) if number is not None)
    moved = moved_bytes(search.fleet, placed.replicas, resident_shares(placement_of(search.current)))
    return Changes(
        kept=kept,
        appeared=tuple(name for name in names if name not in kept),
        disappeared=tuple(replica.name for replica in search.current.replicas if replica.name not in kept),
        moved_bytes=dict(sorted(moved.items())),
        total_moved_bytes=math.fsum(moved.values()),
        decision=decision,
    )
