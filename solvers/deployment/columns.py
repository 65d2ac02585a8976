"""Candidate replicas by structure, as columns of the integer programme.

Two forms of resources. *Classes*: where the exchangeable devices allow few vectors of counts, every vector is a
candidate, so every set of devices is there up to symmetry. *Pieces*: on larger clusters islands of one make are
copies of each other; a replica lives on a piece of one island, or on equal pieces of several.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.limits import Budget

#: Vectors of class counts up to which every one is a candidate.
MOST_VECTORS: Final = 640
#: Vectors of counts within an island up to which every one is a piece.
MOST_PIECES: Final = 256
#: Islands of a replica at most, where it spans pieces.
MOST_SPANNED: Final = 64
#: A replica over several islands is worth a look when its ceiling per device is this share of the best found.
WORTHWHILE: Final = 0.7

Vector = tuple[int, ...]
#: A class or a kind by number, or a piece: (island make, counts of its classes).
Resource = tuple[str, int, Vector]
#: Devices resource by resource.
Sources = tuple[tuple[Resource, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A candidate: `needs` counts resources; `replica` stands on the devices of `sources`, resource by resource.

    `kept` is the number of the current replica it keeps where it is, or None.
    """

    needs: Mapping[Resource, int]
    replica: Replica
    sources: Sources
    kept: int | None = None

    @property
    def size(self) -> int:
        """Devices it uses."""
        return len(self.replica.devices)


def by_device(replica: Replica, sources: Sources, kept: int | None = None) -> Column:
    """Return the column that needs each device of its sources."""
    return Column({key: len(devices) for key, devices in sources}, replica, sources, kept)


def best_by_needs(columns: Iterable[Column]) -> list[Column]:
    """Return the best of the columns that need the same, in the order they come in."""
    best: dict[tuple[tuple[Resource, int], ...], Column] = {}
    for column in columns:
        key = tuple(column.needs.items())
        if key not in best or column.replica.value > best[key].replica.value:
            best[key] = column
    return list(best.values())


@dataclass(slots=True)
class Make:
    """Islands that are copies of each other; each a tuple of its classes, each a tuple of device numbers."""

    number: int
    copies: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)

    @property
    def whole(self) -> Vector:
        """Return the counts of the classes of one copy."""
        return tuple(len(members) for members in self.copies[0])


def class_vectors(fleet: Fleet) -> int:
    """Return how many vectors of counts the exchangeable classes allow, the empty one included."""
    return math.prod(len(members) + 1 for members in fleet.classes)


def class_sources(fleet: Fleet, devices: Iterable[int]) -> Sources:
    """Return `devices` by class."""
    taken = set(devices)
    parts = [(i, tuple(d for d in members if d in taken)) for i, members in enumerate(fleet.classes)]
    return tuple((("class", i, ()), own) for i, own in parts if own)


def class_columns(fleet: Fleet, shaper: Shaper, budget: Budget) -> list[Column]:
    """Return the best replica of every vector of class counts."""
    columns: list[Column] = []
    limit = fleet.problem.max_devices or len(fleet.devices)
    for vector in sorted(vectors(tuple(map(len, fleet.classes))), key=sum):
        if budget.exhausted() or sum(vector) > limit:
            break
        devices = piece_devices(fleet.classes, vector)
        budget.spend(1)
        replica = shaper.best(devices)
        if replica is not None:
            columns.append(by_device(replica, class_sources(fleet, devices)))
    return columns


def island_makes(fleet: Fleet) -> list[Make]:
    """Return the islands by make: equal kinds and class sizes in order, equal links between their devices."""
    class_of = {device: number for number, members in enumerate(fleet.classes) for device in members}
    table = fleet.hops(fleet.problem.workload.batch).decode
    links = [
        tuple(sorted({table.numbers(a, b) for a, b in itertools.permutations(members, 2)}))
        for members in fleet.network.samples
    ]
    makes: dict[tuple[object, ...], Make] = {}
    for i, members in enumerate(fleet.islands):
        groups: dict[int, list[int]] = {}
        for device in members:
            groups.setdefault(class_of[device], []).append(device)
        parts = tuple(tuple(group) for group in groups.values())
        key = (tuple((int(fleet.kind_of[part[0]]), len(part)) for part in parts), links[fleet.network.patterns[i]])
        makes.setdefault(key, Make(len(makes))).copies.append(parts)
    return list(makes.values())


def piece_columns(fleet: Fleet, shaper: Shaper, makes: Sequence[Make], budget: Budget) -> list[Column]:
    """Return the best replica on each piece of an island, and on equal pieces of several islands."""
    columns: list[Column] = []
    for make in makes:
        for vector in pieces(make.whole):
            budget.spend(1)
            column = spanning(shaper, [make], [1], vector)
            if column is not None:
                columns.append(column)
            if budget.exhausted():
                return columns
    best = max((column.replica.value / column.size for column in columns), default=0.0)
    for make in makes:
        columns += _spanning_columns(fleet, shaper, make, best, budget)
    if len(makes) > 1:
        columns += _mixed_columns(fleet, shaper, makes, best, budget)
    return columns


def _spanning_columns(fleet: Fleet, shaper: Shaper, make: Make, best: float, budget: Budget) -> list[Column]:
    columns: list[Column] = []
    limit = fleet.problem.max_devices or len(fleet.devices)
    for vector in pieces(make.whole):
        for count in range(2, min(len(make.copies), MOST_SPANNED) + 1):
            size = count * sum(vector)
            if budget.exhausted():
                return columns
            if size > limit or size > fleet.num_layers * max(fleet.degrees):
                break
            devices = _devices(make, count, vector)
            if shaper.ceilings.best(shaper.counts(devices)) < WORTHWHILE * best * size:
                continue
            budget.spend(1)
            column = spanning(shaper, [make], [count], vector)
            if column is not None:
                columns.append(column)
    return columns


def _mixed_columns(fleet: Fleet, shaper: Shaper, makes: Sequence[Make], best: float, budget: Budget) -> list[Column]:
    """Return replicas over whole islands of two makes, few of each."""
    columns: list[Column] = []
    for a, b in itertools.combinations(makes, 2):
        for first, second in itertools.product(range(1, 4), repeat=2):
            if budget.exhausted():
                return columns
            if first > len(a.copies) or second > len(b.copies):
                continue
            devices = [*_devices(a, first, a.whole), *_devices(b, second, b.whole)]
            size = len(devices)
            too_many = size > (fleet.problem.max_devices or size)
            if too_many or shaper.ceilings.best(shaper.counts(devices)) < WORTHWHILE * best * size:
                continue
            budget.spend(1)
            column = spanning(shaper, [a, b], [first, second], None)
            if column is not None:
                columns.append(column)
    return columns


def spanning(shaper: Shaper, makes: Sequence[Make], counts: Sequence[int], vector: Vector | None) -> Column | None:
    """Return the column of the best replica over `counts` islands of each make, a piece `vector` (or all) of each."""
    sources: list[tuple[Resource, tuple[int, ...]]] = []
    needs: dict[Resource, int] = {}
    for make, count in zip(makes, counts, strict=True):
        piece = make.whole if vector is None else vector
        key: Resource = ("piece", make.number, piece)
        needs[key] = count
        for parts in make.copies[:count]:
            sources.append((key, piece_devices(parts, piece)))
    replica = shaper.best([device for _, devices in sources for device in devices])
    return None if replica is None else Column(needs, replica, tuple(sources))


def _devices(make: Make, count: int, vector: Vector) -> list[int]:
    return [device for parts in make.copies[:count] for device in piece_devices(parts, vector)]


def piece_devices(parts: Sequence[Sequence[int]], vector: Vector) -> tuple[int, ...]:
    """Return the first devices of each class, as many as `vector` says."""
    return tuple(device for members, count in zip(parts, vector, strict=True) for device in members[:count])


def pieces(whole: Vector) -> list[Vector]:
    """Return the pieces of an island worth a look: all of them, or even ones where there are too many."""
    if math.prod(count + 1 for count in whole) <= MOST_PIECES:
        return sorted(vectors(whole), key=lambda v: (sum(v), v))
    single = [
        tuple(count if i == c else 0 for i in range(len(whole)))
        for c, most in enumerate(whole)
        for count in range(1, most + 1)
    ]
    steps = 2 ** math.ceil(math.log2(max(whole)))
    shares = {tuple(most * step // steps for most in whole) for step in range(1, steps + 1)}
    # Runs of neighbouring classes: the devices of an unlike island in topology order.
    runs = {
        tuple(most if first <= i < last else 0 for i, most in enumerate(whole))
        for first in range(len(whole))
        for last in range(first + 1, len(whole) + 1)
    }
    found = {*single, *shares, *runs}
    return sorted((vector for vector in found if any(vector)), key=lambda v: (sum(v), v))


def vectors(most: Vector) -> Iterable[Vector]:
    """Return every vector of counts from 0 to `most` but the empty one."""
    return itertools.islice(itertools.product(*(range(count + 1) for count in most)), 1, None)
