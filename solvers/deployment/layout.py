"""Groups of devices for chains that are given by kinds: on as few islands as can be, one replica after the other."""

from __future__ import annotations

from collections.abc import Sequence

from gpuplan.solvers.deployment.ceilings import Counts
from gpuplan.solvers.deployment.fleet import Fleet
from gpuplan.solvers.deployment.units import Group


class Stock:
    """The devices of a fleet that no replica has yet, by island and kind."""

    def __init__(self, fleet: Fleet) -> None:
        kinds = range(len(fleet.kinds))
        self._free = [
            [[d for d in members if int(fleet.kind_of[d]) == kind] for kind in kinds] for members in fleet.islands
        ]
        self._islands = [[i for i, free in enumerate(self._free) if free[kind]] for kind in kinds]

    def take(self, order: Sequence[Counts]) -> tuple[Group, ...] | None:
        """Return groups of the sorts in `order`, from islands in use already where they have what it takes.

        None where the islands that are left hold no such groups; what was taken until then stays taken.
        """
        used: list[int] = []
        groups: list[Group] = []
        for sort in order:
            island = next((i for i in reversed(used) if self._holds(i, sort)), None)
            if island is None:
                kind = next(k for k, count in enumerate(sort) if count)
                island = next((i for i in self._islands[kind] if self._holds(i, sort)), None)
            if island is None:
                return None
            used.append(island)
            groups.append(self._taken(island, sort))
        return tuple(groups)

    def _holds(self, island: int, sort: Counts) -> bool:
        return all(len(free) >= count for free, count in zip(self._free[island], sort, strict=True))

    def _taken(self, island: int, sort: Counts) -> Group:
        group: list[int] = []
        for kind, count in enumerate(sort):
            free = self._free[island][kind]
            group += free[:count]
            del free[:count]
            if count and not free:
                self._islands[kind].remove(island)
        return tuple(sorted(group))
