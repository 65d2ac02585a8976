"""Candidates over unequal pieces of unlike islands: the chains that a bound is made of, on devices there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gpuplan.solvers.deployment.ceilings import Ceiling
from gpuplan.solvers.deployment.columns import Column, Make, Resource, Sources, by_device, class_sources
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.layout import Stock
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.limits import Budget

#: Candidates at most.
MOST_COLUMNS: Final = 160
#: Stages up to which a chain is cut anew as well as a thorough search can: on more of them that takes a second.
FEW_STAGES: Final = 16


def chain_columns(
    fleet: Fleet, shaper: Shaper, makes: Sequence[Make] | None, chains: Sequence[Chosen], budget: Budget
) -> list[Column]:
    """Return the replicas that follow `chains`, each on devices of as few islands as can be."""
    columns: list[Column] = []
    for chain in dict.fromkeys(chains):
        if budget.exhausted() or len(columns) >= MOST_COLUMNS:
            break
        budget.spend(1)
        replica = _followed(fleet, shaper, chain)
        if replica is None:
            continue
        if makes is None:
            columns.append(by_device(replica, class_sources(fleet, replica.devices)))
        else:
            sources = _pieces_of(makes, replica.devices)
            columns.append(Column(Counter(key for key, _ in sources), replica, sources))
    return columns


def _followed(fleet: Fleet, shaper: Shaper, chain: Chosen) -> Replica | None:
    """Return the best replica along a chain: as it is, cut anew, and with like groups side by side."""
    ceiling, thorough = Ceiling(0.0, chain.degree, chain.batch), len(chain.order) <= FEW_STAGES
    found: list[Replica | None] = []
    together = sorted(chain.order, key=chain.order.index)
    for order in dict.fromkeys((chain.order, tuple(together))):
        groups = Stock(fleet).take(order)
        if groups is not None:
            found.append(shaper.on(groups, ceiling, thorough=thorough))
            if chain.cuts and order == chain.order:
                found.append(shaper.as_cut(groups, chain.cuts, chain.batch))
    return max((own for own in found if own is not None), key=lambda own: own.value, default=None)


def _pieces_of(makes: Sequence[Make], devices: Sequence[int]) -> Sources:
    taken = set(devices)
    found: list[tuple[Resource, tuple[int, ...]]] = []
    for make in makes:
        for parts in make.copies:
            held = [tuple(d for d in part if d in taken) for part in parts]
            if any(held):
                key: Resource = ("piece", make.number, tuple(map(len, held)))
                found.append((key, tuple(d for part in held for d in part)))
    return tuple(found)
