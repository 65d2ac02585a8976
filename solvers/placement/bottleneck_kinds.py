"""Hosts of a kind taken together: a relaxation of the search over caps whose sequences are packed into real hosts.

Classes with equal times and windows are of one *kind*. A state (kind, place) is a stage on the place-th device of a
run inside one class. The next stage is on the next device of the run, at the least hop inside a class of the kind; or
it begins a run elsewhere, at the least hop between two different classes of the kinds. Of each kind only the devices
are counted. Every plan is such a sequence with hops no longer than its own, so that what is impossible here is
impossible. A sequence is a plan once its runs are packed into classes, and `plan` says what it is then worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement import bottleneck_kernels as kernels
from gpuplan.solvers.placement.bottleneck_core import CapCore, Edges, Planner, earliest_ends, planner, stock_of_modes
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, trivial_upper
from gpuplan.solvers.placement.modes import Modes
from gpuplan.solvers.placement.tables import ClassPath

#: More states than this are no help.
MOST_STATES = 512
#: Classes whose rows are read at once.
ROWS = 64


@dataclass(frozen=True)
class Kinds:
    """Kind of each class, shape (C,); longest run and devices of each kind, shape (T,); an example class of each."""

    of: IntArray
    longest: IntArray
    total: IntArray
    example: IntArray

    @property
    def number(self) -> int:
        """Kinds, T."""
        return len(self.total)


def kinds_core(core: Core) -> CapCore | None:
    """Return the relaxation by kinds, or None where it takes no classes together."""
    if core.modes is not None:
        return None
    kinds = kinds_of(core)
    if kinds.number == core.num_classes or kinds.longest.sum() > MOST_STATES:
        return None
    states = np.repeat(np.arange(kinds.number), kinds.longest)
    begins = np.concatenate([[0], np.cumsum(kinds.longest)])
    place = np.arange(len(states)) - begins[states]
    use = (states[None, :] == np.arange(kinds.number)[:, None]).astype(np.int64)
    modes = Modes(use, kinds.total, states, np.full(len(states), -1, dtype=np.int64))
    shown = kinds.example[states]
    back = None
    if core.back is not None:
        back = np.ascontiguousarray(_least(core.back.take, kinds, inside=True)[np.ix_(states, states)])
    return CapCore(
        np.ascontiguousarray(core.prefix[shown]),
        np.ascontiguousarray(core.low[shown]),
        core.top,
        back,
        place == 0,
        stock_of_modes(modes),
        core.max_stages,
        trivial_upper(core),
        _edges(core, kinds, states, begins[:-1]),
        _packing(core, kinds, states, place),
    )


def kinds_of(core: Core) -> Kinds:
    """Tell classes by their times and windows."""
    rows = np.concatenate([core.prefix, core.low.astype(np.float64)], axis=1)
    seen: dict[bytes, int] = {}
    kind = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows], dtype=np.int64)
    longest, total = np.zeros(len(seen), dtype=np.int64), np.zeros(len(seen), dtype=np.int64)
    np.maximum.at(longest, kind, np.minimum(core.counts, core.num_layers))
    np.add.at(total, kind, core.counts)
    example = np.unique(kind, return_index=True)[1]
    return Kinds(kind, longest, np.minimum(total, core.num_layers), example.astype(np.int64))


def _least(rows_of: Callable[..., FloatArray], kinds: Kinds, *, inside: bool) -> FloatArray:
    """Return the least entry between different classes of two kinds (`inside`: or one class), shape (T, T).

    ``rows_of(classes, 0)`` copies rows of the table: few at once, since arrays of all pairs take longest to allocate.
    """
    least = np.full((kinds.number, len(kinds.of)), np.inf)
    order = np.argsort(kinds.of, kind="stable")
    for first in range(0, len(order), ROWS):
        classes = order[first : first + ROWS]
        rows = rows_of(classes, 0)
        if not inside:
            rows[np.arange(len(classes)), classes] = np.inf
        of = kinds.of[classes]
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        least[of[starts]] = np.minimum(least[of[starts]], np.minimum.reduceat(rows, starts, axis=0))
    cuts = np.searchsorted(kinds.of[order], np.arange(kinds.number))
    return np.asarray(np.minimum.reduceat(least[:, order], cuts, axis=1))


def _edges(core: Core, kinds: Kinds, states: IntArray, begins: IntArray) -> Edges:
    """Each state's next place, and a door by kind to the first places of all kinds."""
    inner, inner_per_byte = np.full(kinds.number, np.inf), np.full(kinds.number, np.inf)
    np.minimum.at(inner, kinds.of, np.diag(core.hop_s))
    routed_inside = np.isfinite(np.diag(core.hop_s))
    np.minimum.at(inner_per_byte, kinds.of, np.where(routed_inside, np.diag(core.hop_s_per_byte), np.inf))
    further = np.append(states[1:] == states[:-1], False) & np.isfinite(inner)[states]
    nexts = np.flatnonzero(further)
    own = np.concatenate([[0], np.cumsum(further)]).astype(np.int64)

    def per_byte(classes: IntArray, axis: int) -> FloatArray:
        routed = np.isfinite(core.hop_s.take(classes, axis))
        return np.where(routed, core.hop_s_per_byte.take(classes, axis), np.inf)

    outer, outer_per_byte = _least(core.hop_s.take, kinds, inside=False), _least(per_byte, kinds, inside=False)
    routed = np.isfinite(outer)
    leave, enter = np.nonzero(routed)
    gate = (len(nexts) + np.concatenate([[0], np.cumsum(routed.sum(axis=1))])).astype(np.int64)
    fixed = np.concatenate([inner[states[nexts]], outer[leave, enter]])
    slope = np.concatenate([inner_per_byte[states[nexts]], outer_per_byte[leave, enter]])
    target = np.concatenate([nexts + 1, begins[enter]]).astype(np.int64)
    source = np.concatenate([nexts, begins[leave]]).astype(np.int64)
    hops = fixed[:, None] + slope[:, None] * core.boundary
    prefix = core.prefix[kinds.example[states[source]]]
    nothing = np.zeros(len(states), dtype=np.int64)
    ways = kernels.Ways(own, states.astype(np.int64), gate, target, nothing, 1)
    return Edges(ways, source, earliest_ends(prefix, hops))


def _packing(core: Core, kinds: Kinds, states: IntArray, place: IntArray) -> Planner:
    """Return what packs the runs of a sequence into classes and makes the best plan of that."""
    exact, hosts = planner(core), _Hosts(core, kinds)

    def plan(sequence: IntArray) -> tuple[float, ClassPath] | None:
        kind, begins = states[sequence], np.flatnonzero(place[sequence] == 0)
        lengths = np.diff(np.append(begins, len(sequence)))
        best: tuple[float, ClassPath] | None = None
        for largest_first in (False, True):
            packed = hosts.pack(kind[begins].tolist(), lengths.tolist(), largest_first=largest_first)
            found = None if packed is None else exact(np.repeat(packed, lengths))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return best

    return plan


class _Hosts:
    """The classes that runs are packed into; plain lists, for a run has few to choose from."""

    def __init__(self, core: Core, kinds: Kinds) -> None:
        self.counts: list[int] = core.counts.tolist()
        self.members: list[list[int]] = [np.flatnonzero(kinds.of == kind).tolist() for kind in range(kinds.number)]
        self.core = core
        self.largest = float(core.boundary.max(initial=0.0))
        self._far: dict[int, list[float]] = {}

    def far(self, before: int) -> list[float]:
        """Return the longest hop from a class to every class."""
        if before not in self._far:
            self._far[before] = (self.core.hop_s[before] + self.largest * self.core.hop_s_per_byte[before]).tolist()
        return self._far[before]

    def pack(self, kind: list[int], lengths: list[int], *, largest_first: bool) -> list[int] | None:
        """Return a class for every run, in order or the largest first; None where one has none."""
        left, packed = self.counts.copy(), [-1] * len(kind)
        for k in sorted(range(len(kind)), key=lambda k: -lengths[k]) if largest_first else range(len(kind)):
            able = [c for c in self.members[kind[k]] if left[c] >= lengths[k]]
            if not able:
                return None
            before = packed[k - 1] if k > 0 else -1
            # Near the run before it; of equal hops the host that is used up most.
            hops = self.far(before) if before >= 0 else [0.0] * len(left)
            packed[k] = min(able, key=lambda c, hops=hops: (hops[c], left[c]))  # type: ignore[misc]
            left[packed[k]] -= lengths[k]
        return packed
