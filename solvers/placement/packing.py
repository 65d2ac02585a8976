"""Does it fit at all? Exact feasibility of memory, routes and limits, without any time in it.

Layers are packed into contiguous blocks, one a device. Where every device of a component reaches every other, order
plays no part: states are counts of used devices per class of equal room, and a state keeps the furthest layer it can
hold (or, where every stage must hold a marked layer, the set of layers it can end at). Where routes are missing, a
state is (used set, last device), with the first device fixed where the return hop needs a route.

Answers are exact or None. Where the states are too many, a few rules still decide most problems: packings that just
try (a plan found is a proof) and relaxations that no plan can beat (`quick`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.placement import DensePlacement, FloatArray, UnitHops
from gpuplan.solvers.placement.baselines.common import layer_bytes, most_devices, stage_counts, with_micro_batches
from gpuplan.solvers.placement.quick_fit import fits_quickly
from gpuplan.solvers.placement.reach import Component, components

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

#: States × classes (× layers², where sets are kept) that one check may cost.
MAX_WORK = 30_000_000
#: Devices of a component with missing routes.
MAX_UNROUTED = 10
MEMORY_TOLERANCE = 1e-12


@dataclass(frozen=True)
class _Lattice:
    """All counts of used devices per class, in mixed radix, by number of devices."""

    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of states."""
        return math.prod(count + 1 for count in self.counts)

    @cached_property
    def strides(self) -> list[int]:
        """Return how far apart states are that differ by one device of a class."""
        return [math.prod(count + 1 for count in self.counts[:c]) for c in range(len(self.counts))]

    @cached_property
    def levels(self) -> list[list[tuple[int, IntArray]]]:
        """Return levels[k − 1]: (class, states with k devices, one of them of the class)."""
        states = np.arange(self.size)
        digits = [states // stride % (count + 1) for stride, count in zip(self.strides, self.counts, strict=True)]
        total = np.sum(digits, axis=0)
        order = np.argsort(total, kind="stable")
        ends = np.cumsum(np.bincount(total, minlength=sum(self.counts) + 1)).tolist()
        levels = [order[start:stop] for start, stop in itertools.pairwise(ends)]
        return [[(c, level[digit[level] > 0]) for c, digit in enumerate(digits)] for level in levels]


class Packing:
    """Feasibility of one problem for any memory of its devices.

    Parameters
    ----------
    problem
        Its micro-batches may be ``"stages"``: then every number of stages is tried with as many micro-batches.
    same_routes
        A packing of a problem with the same devices and routes, whose tables are used again.
    """

    def __init__(self, problem: DensePlacement, same_routes: Packing | None = None) -> None:
        self.problem = problem
        self.components: list[Component] = components(problem) if same_routes is None else same_routes.components
        self._lattices: dict[tuple[int, ...], _Lattice] = {} if same_routes is None else same_routes._lattices

    def fits(self, available_bytes: FloatArray | None = None) -> bool | None:
        """Return whether any plan fits, None where that is not decided."""
        fewest = self.fewest_devices(available_bytes)
        return self.fits_by_rules(available_bytes) if fewest is None else fewest > 0

    def fits_by_rules(self, available_bytes: FloatArray | None = None) -> bool | None:
        """Decide without states where a rule does."""
        available = self.problem.available_bytes if available_bytes is None else available_bytes
        room = available * (1.0 + MEMORY_TOLERANCE) - self.problem.fixed_bytes
        numbers = [None] if self.problem.micro_batches != "stages" else list(stage_counts(self.problem))
        verdicts = []
        for number in numbers:
            problem = self.problem if number is None else with_micro_batches(self.problem, number)
            limit = most_devices(problem) if number is None else number
            sizes = np.concatenate([[0.0], np.cumsum(layer_bytes(problem))])
            for part in self.components:
                rooms = room[list(part.devices)]
                verdicts.append(fits_quickly(rooms, sizes, limit, problem.must_hold, part.complete))
                if verdicts[-1]:
                    return True
        return None if None in verdicts else False

    def fewest_devices(self, available_bytes: FloatArray | None = None) -> int | None:
        """Return the fewest devices of any plan, 0 when none fits, None where that is not decided."""
        available = self.problem.available_bytes if available_bytes is None else available_bytes
        room = available * (1.0 + MEMORY_TOLERANCE) - self.problem.fixed_bytes
        if self.problem.micro_batches != "stages":
            return self._fewest(self.problem, room, most_devices(self.problem))
        # A plan of fewer stages than micro-batches assumed also fits with its own, smaller number.
        for stages in stage_counts(self.problem):
            found = self._fewest(with_micro_batches(self.problem, stages), room, stages)
            if found is None or found > 0:
                return found
        return 0

    def unlike_devices(self) -> list[int]:
        """Return one device of each sort: alike are devices of equal room in groups of equal rooms that all reach."""
        first: dict[tuple[bytes, float], int] = {}
        for part in self.components:
            rooms = self.problem.available_bytes[list(part.devices)]
            group = np.sort(rooms).tobytes() if part.complete else repr(part.devices).encode()
            for device, room in zip(part.devices, rooms.tolist(), strict=True):
                sort = room if part.complete else float(device)
                first.setdefault((group, sort), device)
        return sorted(first.values())

    def cheap(self, checks: int) -> bool:
        """Return whether that many checks stay within the work of one large one."""
        return all(self._work(part, self._rooms(part)) * checks <= 2 * MAX_WORK for part in self.components)

    def _fewest(self, problem: DensePlacement, room: FloatArray, limit: int) -> int | None:
        sizes = np.concatenate([[0.0], np.cumsum(layer_bytes(problem))])
        may_be_one = problem.must_hold is None or bool(problem.must_hold.any())
        if may_be_one and sizes[-1] - problem.single_stage_saving_bytes <= room.max():
            return 1
        known: dict[bytes, int | None] = {}  # groups that reach each other and have equal rooms have equal answers
        found = []
        for part in self.components:
            key = np.sort(room[list(part.devices)]).tobytes() if part.complete else repr(part.devices).encode()
            if key not in known:
                known[key] = self._fewest_of(part, problem, room, sizes, limit)
            found.append(known[key])
        if any(number is None for number in found):
            return None
        return min((number for number in found if number), default=0)

    def _fewest_of(
        self, part: Component, problem: DensePlacement, room: FloatArray, sizes: FloatArray, limit: int
    ) -> int | None:
        rooms = room[list(part.devices)]
        if self._work(part, np.unique(rooms, return_counts=True)[1]) > MAX_WORK:
            return None
        if not part.complete:
            return _fewest_by_sets(part, _steps(problem, rooms, sizes), limit)
        values, counts = np.unique(rooms, return_counts=True)
        kept = tuple(min(int(count), problem.num_layers) for count in counts)
        lattice = self._lattices.setdefault(kept, _Lattice(kept))
        if problem.must_hold is None:
            return _fewest_by_furthest(lattice, _furthest(values, sizes), limit)
        return _fewest_by_ends(lattice, _steps(problem, values, sizes), limit)

    def _rooms(self, part: Component) -> IntArray:
        counts: IntArray = np.unique(self.problem.available_bytes[list(part.devices)], return_counts=True)[1]
        return counts

    def _work(self, part: Component, counts: IntArray) -> float:
        n, D = self.problem.num_layers, len(part.devices)
        if not part.complete:
            firsts = 1 if part.open_return is None or bool(part.open_return.all()) else D
            return float(2.0**D * D * n * n / 50 * firsts) if D <= MAX_UNROUTED else math.inf
        states = math.prod(float(min(int(count), n) + 1) for count in counts)  # inf, where it is too large for a number
        sets = n * n / 50 if self.problem.must_hold is not None else 1.0
        return states * len(counts) * sets


def _furthest(room: FloatArray, sizes: FloatArray) -> IntArray:
    """Return end[c, i]: one past the last layer a device of room c holds from layer i on; shape (C, n+1)."""
    ends = np.searchsorted(sizes, (sizes[None, :] + room[:, None]).ravel(), side="right").reshape(len(room), -1) - 1
    furthest: IntArray = np.maximum(ends, np.arange(len(sizes))[None, :])
    return furthest


def _steps(problem: DensePlacement, room: FloatArray, sizes: FloatArray) -> FloatArray:
    """Return step[c, i, j] = 1 where layers i..j−1 may be a stage on a device of room c; shape (C, n+1, n+1)."""
    n = problem.num_layers
    ends = _furthest(room, sizes)
    position = np.arange(n + 1)
    fits = (position[None, None, :] > position[None, :, None]) & (position[None, None, :] <= ends[:, :, None])
    if problem.must_hold is not None:
        marks = np.concatenate([[0], np.cumsum(problem.must_hold)])
        fits &= (marks[None, :] > marks[:, None])[None, :, :]
    return fits.astype(np.float64)


def _fewest_by_furthest(lattice: _Lattice, ends: IntArray, limit: int) -> int:
    """Return the fewest devices that hold everything: of each state only the furthest layer matters."""
    n = ends.shape[1] - 1
    furthest = np.zeros(lattice.size, dtype=np.int64)
    for level, groups in enumerate(lattice.levels[:limit], start=1):
        for c, states in groups:
            reached = ends[c][furthest[states - lattice.strides[c]]]
            furthest[states] = np.maximum(furthest[states], reached)
            if states.size and int(reached.max()) == n:
                return level
    return 0


def _fewest_by_ends(lattice: _Lattice, steps: FloatArray, limit: int) -> int:
    """Return the fewest devices that hold everything, keeping for each state all layers it can end at."""
    n = steps.shape[1] - 1
    reach = np.zeros((lattice.size, n + 1))
    reach[0, 0] = 1.0
    for level, groups in enumerate(lattice.levels[:limit], start=1):
        for c, states in groups:
            ends = (reach[states - lattice.strides[c]] @ steps[c]) > 0.0
            reach[states] = np.maximum(reach[states], ends)
            if ends[:, n].any():
                return level
    return 0


def _fewest_by_sets(part: Component, steps: FloatArray, limit: int) -> int:
    """Return the fewest devices along open routes: states (used set, last device), first device fixed if need be."""
    D, n = len(part.devices), steps.shape[1] - 1
    start = np.zeros(n + 1)
    start[0] = 1.0
    best = 0
    needs_first = part.open_return is not None and not bool((part.open_return | np.eye(D, dtype=np.bool_)).all())
    for firsts in [[d] for d in range(D)] if needs_first else [list(range(D))]:
        reach = np.zeros((1 << D, D, n + 1))
        for first in firsts:
            reach[1 << first, first] = (start @ steps[first]) > 0.0
        found = _extend(part, steps, reach, limit, firsts[0] if needs_first else None)
        best = found if found and (not best or found < best) else best
    return best


def _extend(part: Component, steps: FloatArray, reach: FloatArray, limit: int, first: int | None) -> int:
    """Extend every set by every device it reaches; return the fewest devices that end at the last layer, or 0."""
    D, n = len(part.devices), steps.shape[1] - 1
    open_hop = part.open_hop.astype(np.float64)
    may_end = np.ones(D, dtype=np.bool_)
    if first is not None:
        assert part.open_return is not None
        may_end = part.open_return[:, first]
    best = 0
    for used in range(1, 1 << D):
        size = used.bit_count()
        lasts = reach[used]
        if size > limit or not lasts.any():
            continue
        done = lasts[:, n] > 0.0 if size == 1 else (lasts[:, n] > 0.0) & may_end
        if done.any() and (not best or size < best):
            best = size
        arriving = open_hop.T @ lasts
        for e in range(D):
            if not used >> e & 1 and arriving[e].any():
                wider = used | 1 << e
                reach[wider, e] = np.maximum(reach[wider, e], ((arriving[e] > 0.0) @ steps[e]) > 0.0)
    return best


def without(
    problem: DensePlacement, *, limit: bool = False, marks: bool = False, routes: bool = False
) -> DensePlacement:
    """Return the problem without its device limit, its marked layers, or with every route open."""
    changes: dict[str, object] = {}
    if limit:
        changes["max_devices"] = None
    if marks:
        changes["must_hold"] = None
    if routes:
        for name in ("latency", "cycle"):
            timing = getattr(problem, name)
            zero = np.zeros((1, 1))
            hop = UnitHops(np.zeros(problem.num_devices, dtype=np.int64), zero, zero)
            changes[name] = dataclasses.replace(timing, hop=hop, return_hop=None)
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]
