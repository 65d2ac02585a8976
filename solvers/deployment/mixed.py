"""Candidates over unequal pieces of unlike islands: what the prices of devices ask for, on whole devices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from gpuplan.solvers.deployment.ceilings import Ceiling
from gpuplan.solvers.deployment.columns import Column, Make, Resource, piece_devices
from gpuplan.solvers.deployment.families import Chosen
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.pricing import Sketch
from gpuplan.solvers.deployment.replicas import Shaper
from gpuplan.solvers.deployment.units import Group
from gpuplan.solvers.limits import Budget

#: Sketches looked at, and candidates made of them, at most.
MOST_SKETCHES: Final = 60
MOST_COLUMNS: Final = 160


def sketched_columns(
    fleet: Fleet, shaper: Shaper, makes: Sequence[Make], sketches: Sequence[Sketch], budget: Budget
) -> list[Column]:
    """Return replicas on whole devices near the sketches, each with the stages and batch of its sketch."""
    columns: list[Column] = []
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for sketch in sketches[:MOST_SKETCHES]:
        for groups in _whole(sketch):
            key = sketch.degree, sketch.batch, groups
            if key in seen:
                continue
            seen.add(key)
            if budget.exhausted() or len(columns) >= MOST_COLUMNS:
                return columns
            budget.spend(1)
            column = _column(fleet, shaper, makes, groups, sketch)
            if column is not None:
                columns.append(column)
    return columns


def _whole(sketch: Sketch) -> Iterator[tuple[int, ...]]:
    """Yield whole numbers of groups by kind near those of a sketch, as many as it has stages or one more."""
    groups = sketch.devices / sketch.degree
    lower = np.floor(groups + 1e-6).astype(int)
    kinds = [k for k, count in enumerate(groups) if count - lower[k] > 1e-6]
    for more in itertools.product((0, 1), repeat=min(len(kinds), 4)):
        found = lower.copy()
        for k, extra in zip(kinds, more, strict=False):
            found[k] += extra
        if sketch.stages <= found.sum() <= sketch.stages + 1:
            yield tuple(int(count) for count in found)


def _column(
    fleet: Fleet, shaper: Shaper, makes: Sequence[Make], groups: Sequence[int], sketch: Sketch
) -> Column | None:
    taken = _sources(fleet, makes, groups, sketch.degree)
    if taken is None:
        return None
    replica = shaper.at([d for _, devices in taken for d in devices], sketch.degree, sketch.batch)
    if replica is None:
        return None
    return Column(dict(Counter(key for key, _ in taken)), replica, tuple(taken))


def _sources(
    fleet: Fleet, makes: Sequence[Make], groups: Sequence[int], degree: int
) -> list[tuple[Resource, tuple[int, ...]]] | None:
    """Return pieces with `groups` of each kind, on as few islands as can be; None where there are too few devices."""
    vectors: dict[tuple[int, int], list[int]] = {}
    for kind, count in enumerate(groups):
        left = count * degree
        for m, make in enumerate(makes):
            places = [i for i, part in enumerate(make.copies[0]) if int(fleet.kind_of[part[0]]) == kind]
            for copy in range(len(make.copies) if places else 0):
                room = min(sum(make.whole[i] for i in places), left) // degree * degree
                left -= room
                vector = vectors.setdefault((m, copy), [0] * len(make.whole)) if room else [0] * len(make.whole)
                for i in places:
                    vector[i] = min(make.whole[i], room)
                    room -= vector[i]
        if left:
            return None
    found: list[tuple[Resource, tuple[int, ...]]] = []
    for (m, copy), counts in vectors.items():
        key: Resource = ("piece", makes[m].number, tuple(counts))
        found.append((key, piece_devices(makes[m].copies[copy], key[2])))
    return found


def chain_columns(
    fleet: Fleet, shaper: Shaper, makes: Sequence[Make] | None, chains: Sequence[Chosen], budget: Budget
) -> list[Column]:
    """Return the replicas that follow `chains`, each on devices of as few islands as can be."""
    columns: list[Column] = []
    for chain in dict.fromkeys(chains):
        if budget.exhausted() or len(columns) >= MOST_COLUMNS:
            break
        budget.spend(1)
        groups = _groups_of(fleet, chain.order)
        replica = None if groups is None else shaper.on(groups, Ceiling(0.0, chain.degree, chain.batch), thorough=True)
        if replica is None:
            continue
        sources = _classes_of(fleet, replica.devices) if makes is None else _pieces_of(makes, replica.devices)
        needs = Counter(key for key, _ in sources)
        if makes is None:
            needs = Counter({key: len(devices) for key, devices in sources})
        columns.append(Column(dict(needs), replica, tuple(sources)))
    return columns


def _groups_of(fleet: Fleet, order: Sequence[tuple[int, ...]]) -> tuple[Group, ...] | None:
    """Return groups of the sorts in `order`, from islands in use already where they have what it takes."""
    free = [
        [[d for d in members if int(fleet.kind_of[d]) == kind] for kind in range(len(fleet.kinds))]
        for members in fleet.islands
    ]
    used: list[int] = []
    groups: list[Group] = []
    for sort in order:
        fitting = [i for i, own in enumerate(free) if all(len(have) >= n for have, n in zip(own, sort, strict=True))]
        if not fitting:
            return None
        island = next((i for i in reversed(used) if i in fitting), fitting[0])
        used.append(island)
        group: list[int] = []
        for kind, count in enumerate(sort):
            group += free[island][kind][:count]
            del free[island][kind][:count]
        groups.append(tuple(sorted(group)))
    return tuple(groups)


def _classes_of(fleet: Fleet, devices: Sequence[int]) -> list[tuple[Resource, tuple[int, ...]]]:
    taken = set(devices)
    parts = [(i, tuple(d for d in members if d in taken)) for i, members in enumerate(fleet.classes)]
    return [(("class", i, ()), own) for i, own in parts if own]


def _pieces_of(makes: Sequence[Make], devices: Sequence[int]) -> list[tuple[Resource, tuple[int, ...]]]:
    taken = set(devices)
    found: list[tuple[Resource, tuple[int, ...]]] = []
    for make in makes:
        for parts in make.copies:
            held = [tuple(d for d in part if d in taken) for part in parts]
            if any(held):
                key: Resource = ("piece", make.number, tuple(map(len, held)))
                found.append((key, tuple(d for part in held for d in part)))
    return found
