"""Packing runs of stages into islands: what makes a path over kinds of islands a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Stages that follow each other in one island of `kind`, on `size` devices; the two of a `ring` share theirs."""

    kind: int
    size: int
    ring: bool = False


def pack_runs(
    runs: Sequence[Run], islands: Sequence[Sequence[int]], sizes: Sequence[int], *, apart: bool
) -> list[int] | None:
    """Return an island for every run, or None where none was found.

    Neighbours lie on different islands, as their hop says; so do the first and the last run where `apart`, unless they
    form a ring. Each run has an island of its own while there are enough; else the largest runs are packed first, each
    into the first island that has room.
    """
    chosen: list[int | None] = [None] * len(runs)
    left = {island: sizes[kind] for kind, group in enumerate(islands) for island in group}
    ring = [k for k, run in enumerate(runs) if run.ring]
    order = sorted(range(len(runs)), key=lambda k: (k not in ring, -runs[k].size, k))
    for k in order:
        run = runs[k]
        if run.ring and k != ring[0] and chosen[ring[0]] is not None:
            wanted: Sequence[int] = [chosen[ring[0]]]  # type: ignore[list-item]
        else:
            wanted = sorted(islands[run.kind], key=lambda island: (-left[island], island))
        near = _neighbours(k, len(runs), apart and not ring)
        taken = {chosen[other] for other in near}
        place = next((island for island in wanted if left[island] >= run.size and island not in taken), None)
        if place is None:
            return None
        chosen[k] = place
        left[place] -= run.size
    return [island for island in chosen if island is not None]


def _neighbours(k: int, count: int, closed: bool) -> set[int]:
    """Return the runs that may not share the island of run `k`."""
    near = {k - 1, k + 1} & set(range(count))
    if closed and count > 1 and k in (0, count - 1):
        near |= {0, count - 1} - {k}
    return near
