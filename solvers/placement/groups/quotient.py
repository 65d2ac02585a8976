"""Hosts that are alike, as one kind of host: where a plan is told by what is left in the island it is in.

Islands that trade places without changing a number form a *kind*. A *run* is a stretch of stages inside one island. A
class (kind, t, r) is a stage on t devices after which r are left in its island, so the next stage either takes t′ ≤ r
of these or begins a run in an island that is as good as new. Every plan is such a path of the same value; a path is a
plan when its runs can be packed into the islands there are. So the least path is a lower bound, and the optimum once
packed. The return hop splits the paths: all in one island (``alone``), the last run elsewhere than the first
(``open``), or in the island of the first, which keeps x devices for it (``ring``).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.groups import GroupModes
from gpuplan.profiles.problems.hops import FloatArray, IntArray
from gpuplan.profiles.problems.segments import Segments
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.effort import BEAM_LADDER, SHORT_LADDER, Settings
from gpuplan.solvers.placement.groups.packing import Run, pack_runs
from gpuplan.solvers.placement.groups.search import GroupSession
from gpuplan.solvers.placement.modes import Modes
from gpuplan.solvers.placement.query import Answer, EngineName
from gpuplan.solvers.placement.tables import ClassPath, ClassTables, ClassTiming

Role = Literal["any", "first", "last"]
#: Row and column numbers.
Pairs = tuple[IntArray, IntArray]


class State(NamedTuple):
    """One class: a stage on `degree` devices in a run of `role` on an island of `kind`, `left` devices after it."""

    kind: int
    degree: int
    left: int
    role: Role
    top: int  # devices the run may take

    @property
    def fresh(self) -> bool:
        """Whether the stage begins its run."""
        return self.left == self.top - self.degree


@dataclass(frozen=True, slots=True)
class Kinds:
    """Islands by kind; `place` gives the mode of an island and degree."""

    islands: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    degrees: tuple[int, ...]
    place: dict[tuple[int, int], int]


def island_kinds(segments: Segments, modes: GroupModes) -> Kinds:
    """Group the islands that trade places; every island is one segment."""
    groups: dict[int, list[int]] = {}
    for island, leader in enumerate(segments.leaders.tolist()):
        groups.setdefault(leader, []).append(island)
    place = {(int(island), int(t)): c for c, (island, t) in enumerate(zip(modes.islands, modes.degrees, strict=True))}
    sizes = tuple(segments.island_size(group[0]) for group in groups.values())
    degrees = tuple(sorted(set(modes.degrees.tolist())))
    return Kinds(tuple(tuple(group) for group in groups.values()), sizes, degrees, place)


def _run_states(kinds: Kinds, kind: int, role: Role, top: int) -> list[State]:
    """Return the classes of a run that may take `top` devices, those that begin it first."""
    island = kinds.islands[kind][0]
    return [
        State(kind, t, left, role, top)
        for t in kinds.degrees
        if (island, t) in kinds.place
        for left in range(top - t, -1, -1)
    ]


class Block:
    """One part of the paths, as a problem over its classes; `strict` ones begin no more runs than there are islands."""

    def __init__(
        self,
        kinds: Kinds,
        tables: ClassTables,
        states: Sequence[State],
        budget: Budget,
        engine: EngineName,
        *,
        alone: bool = False,
    ) -> None:
        self.kinds, self.whole, self.states, self.alone = kinds, tables, tuple(states), alone
        self.modes = np.array([self._mode(state) for state in states], dtype=np.int64)
        self._steps, self._returns = self._step_pairs(), self._return_pairs()
        self.budget, self.engine = budget, engine
        # Labels are few (devices in use times classes), so that an exhaustive search costs less than good multipliers.
        self.settings = Settings(budget.limits.threads, BEAM_LADDER if engine == "beam" else SHORT_LADDER)
        self.free = _BlockSession(self._tables(strict=False), engine, budget, self.settings)
        self._strict: _BlockSession | None = None

    @property
    def strict(self) -> _BlockSession:
        """The same with as many runs of a kind as it has islands: each path is a plan."""
        if self._strict is None:
            self._strict = _BlockSession(self._tables(strict=True), self.engine, self.budget, self.settings)
        return self._strict

    def ask(self, query: Query, upper: float) -> Answer:
        """Return the best plan of the block below `upper`, as a path of modes, and the bound of its paths."""
        part = self._translated(query)
        answer = self.free.ask(part, upper)
        if answer.path is None:
            return answer
        path = self.realised(answer.path)
        if path is not None:
            return replace(answer, path=path, by_count=())
        second = self.strict.ask(part, upper)
        path = None if second.path is None else self.realised(second.path)
        bound = answer.bound if not query.any_plan else -math.inf
        if path is None:
            return Answer(math.inf, None, bound, False)
        return Answer(second.value, path, bound, second.value <= bound + 1e-12 * abs(bound))

    def _translated(self, query: Query) -> Query:
        """Put the costs and weights of modes on classes."""
        entry = None if query.entry is None else tuple(query.entry[m] for m in self.modes)
        budget = query.budget
        if budget is not None:
            budget = (tuple(budget[0][m] for m in self.modes), budget[1])
        return replace(query, entry=entry, budget=budget)

    def _mode(self, state: State) -> int:
        return self.kinds.place[self.kinds.islands[state.kind][0], state.degree]

    def _tables(self, *, strict: bool) -> ClassTables:
        whole, m = self.whole, self.modes
        modes = self._modes(strict=strict)
        limit = whole.problem.max_devices
        if limit is not None:
            modes = modes.with_resource(np.array([state.degree for state in self.states]), limit)
        assert whole.sizes is not None
        assert whole.saving is not None
        return ClassTables(
            problem=whole.problem,
            members=tuple((c,) for c in range(len(m))),
            counts=modes.counts(whole.num_layers),
            pred=np.array([-1 if self._begins(state) else 0 for state in self.states], dtype=np.int64),
            latency=self._timing(whole.latency),
            cycle=self._timing(whole.cycle),
            room=whole.room[m],
            room_exact=whole.room_exact[m],
            price=whole.price[m],
            memory=whole.memory[m],
            kv=whole.kv[m],
            last_marked=whole.last_marked,
            modes=modes,
            sizes=whole.sizes[m],
            saving=whole.saving[m],
        )

    @staticmethod
    def _begins(state: State) -> bool:
        return state.fresh and state.role != "last"

    def _modes(self, *, strict: bool) -> Modes:
        kinds = range(len(self.kinds.islands))
        use = [[s.degree if s.kind == kind else 0 for s in self.states] for kind in kinds]
        capacity = [len(self.kinds.islands[kind]) * self.kinds.sizes[kind] for kind in kinds]
        if strict:
            use += [[int(s.kind == kind and self._begins(s)) for s in self.states] for kind in kinds]
            capacity += [len(self.kinds.islands[kind]) for kind in kinds]
        home = np.array([s.kind for s in self.states], dtype=np.int64)
        ahead = np.full(len(self.states), -1, dtype=np.int64)
        return Modes(np.array(use, dtype=np.int64), np.array(capacity, dtype=np.int64), home, ahead)

    def _timing(self, timing: ClassTiming) -> ClassTiming:
        num = len(self.states)
        hop, per_byte = np.full((num, num), np.inf), np.zeros((num, num))
        pairs, modes = self._steps
        hop[pairs], per_byte[pairs] = timing.hop_s[modes], timing.hop_s_per_byte[modes]
        back = None
        if timing.back is not None:
            back = np.full((num, num), np.inf)
            pairs, modes = self._returns
            back[pairs] = timing.back[modes]
        return ClassTiming(timing.prefix[self.modes], hop, per_byte, timing.boundary, back)

    def _step_pairs(self) -> tuple[Pairs, Pairs]:
        """Return the pairs of states that may follow each other, and the modes whose hop each has."""
        role, top, left = (np.array([getattr(s, name) for s in self.states]) for name in ("role", "top", "left"))
        degree = np.array([state.degree for state in self.states])
        fresh = np.array([state.fresh for state in self.states])[None, :]
        any_role = role == "any"
        leads = any_role[:, None] & (any_role | (role == "last")) | (role == "first")[:, None] & any_role
        apart = fresh & leads if not self.alone else np.zeros_like(leads)
        same = (role[:, None] == role) & (top[:, None] == top) & (left == left[:, None] - degree)
        return self._pairs(apart, ~fresh & same)

    def _return_pairs(self) -> tuple[Pairs, Pairs]:
        """Return the pairs of last and first states, and the modes whose return hop each has."""
        role = np.array([state.role for state in self.states])
        if self.alone:
            return self._pairs(
                np.zeros((len(role), len(role)), dtype=bool), np.ones((len(role), len(role)), dtype=bool)
            )
        any_role = role == "any"
        return self._pairs(any_role[:, None] & any_role, (role == "last")[:, None] & (role == "first"))

    def _pairs(self, apart: NDArray[np.bool_], inside: NDArray[np.bool_]) -> tuple[Pairs, Pairs]:
        """Return the pairs on two different islands, where a kind has two, and those inside one island.

        Both as row and column numbers: of the states, then of their modes.
        """
        kind = np.array([state.kind for state in self.states])
        same = kind[:, None] == kind
        second = np.array([self._second(state) for state in self.states])
        rows, columns = np.nonzero((apart & (~same | (second >= 0))) | (inside & same))
        other = apart[rows, columns] & same[rows, columns]
        return (rows, columns), (self.modes[rows], np.where(other, second[columns], self.modes[columns]))

    def _second(self, state: State) -> int:
        """Return the mode of a state on the second island of its kind, -1 where there is but one."""
        group = self.kinds.islands[state.kind]
        return self.kinds.place[group[1], state.degree] if len(group) > 1 else -1

    def realised(self, path: ClassPath) -> ClassPath | None:
        """Put the runs of a path on islands, or None where they do not fit."""
        begins = [k for k, (c, _, _) in enumerate(path) if k == 0 or self.states[c].fresh]
        runs, of_stage = [], []
        for run, (begin, end) in enumerate(zip(begins, [*begins[1:], len(path)], strict=True)):
            states = [self.states[c] for c, _, _ in path[begin:end]]
            ring = states[-1].role != "any" and len(path) > 1
            runs.append(Run(states[0].kind, sum(state.degree for state in states), ring=ring))
            of_stage += [run] * len(states)
        islands = pack_runs(runs, self.kinds.islands, self.kinds.sizes, apart=self.whole.latency.back is not None)
        if islands is None:
            return None
        return tuple(
            (self.kinds.place[islands[run], self.states[c].degree], start, stop)
            for run, (c, start, stop) in zip(of_stage, path, strict=True)
        )


class _BlockSession(GroupSession):
    """A session over the classes of a block: their bounds are sharp, so compiled labels need but a look at most."""

    def runs_small(self) -> bool:
        """Whether plain NumPy is asked for by name."""
        return self.engine == "dp" and super().runs_small()


class QuotientSession(GroupSession):
    """A session over modes that answers by blocks of the quotient; its tables are those of all modes."""

    def __init__(
        self, tables: ClassTables, segments: Segments, modes: GroupModes, engine: EngineName, budget: Budget
    ) -> None:
        super().__init__(tables, engine, budget, Settings(budget.limits.threads))
        self._by_question: dict[Hashable, dict[str, FloatArray]] = {}
        self.kinds = island_kinds(segments, modes)
        numbers = range(len(self.kinds.islands))
        states = [s for kind in numbers for s in _run_states(self.kinds, kind, "any", self.kinds.sizes[kind])]
        self._parts = (self.kinds, tables)
        self.blocks = [
            Block(*self._parts, states, budget, engine, alone=True),
            Block(*self._parts, states, budget, engine),
        ]
        self.rings = self._loose_rings(states) if tables.latency.back is not None else {}
        self._exact_rings: dict[int, list[Block]] = {}

    def _loose_rings(self, states: list[State]) -> dict[int, Block]:
        """One block per kind whose first and last run share an island, as if it had room for both: a bound."""
        return {
            kind: Block(*self._parts, self._ring(states, kind, size, size), self.budget, self.engine)
            for kind, size in enumerate(self.kinds.sizes)
        }

    def _ring(self, states: list[State], kind: int, first: int, last: int) -> list[State]:
        return [
            *_run_states(self.kinds, kind, "first", first),
            *states,
            *_run_states(self.kinds, kind, "last", last),
        ]

    def _exact(self, kind: int) -> list[Block]:
        """Return one block for each number of devices kept for the last run."""
        if kind not in self._exact_rings:
            size = self.kinds.sizes[kind]
            states = list(self.blocks[1].states)
            self._exact_rings[kind] = [
                Block(*self._parts, self._ring(states, kind, size - kept, kept), self.budget, self.engine)
                for kept in range(min(self.kinds.degrees), size)
            ]
        return self._exact_rings[kind]

    def _memory_of(self, query: Query) -> dict[str, FloatArray]:
        """Return the multipliers that the blocks share: all price the same devices, so one's suit the next."""
        question = query.time_weight, query.entry, query.capacity_tokens, query.budget, query.max_stages
        return self._by_question.setdefault(question, {})

    def runs_small(self) -> bool:
        """Whether one pass finds the least bottleneck: only where the small engine is asked for by name."""
        return self.engine == "dp" and all(block.free.runs_small() for block in self.blocks)

    def within(self, cap_s: float, hint: ClassPath | None) -> Answer:
        """Return a plan within a cap, by the fewest devices: paths that need more than there are prove that none is."""
        devices = sum(len(group) * size for group, size in zip(self.kinds.islands, self.kinds.sizes, strict=True))
        query = Query(time_weight=0.0, entry=self.tables.devices_each, cap_s=cap_s, any_plan=True)
        step = math.gcd(*self.kinds.degrees)  # values are its multiples, and so must be what they are to beat
        return self.ask(query, float((devices // step + 1) * step))

    def ask(self, query: Query, upper: float = math.inf, hint: ClassPath | None = None) -> Answer:
        """Return the best plan of a query below `upper`; rings are searched where their bound leaves room."""
        self.asked += 1
        best = Answer(math.inf, None, math.inf, True)
        memory = self._memory_of(query)
        for block in self.blocks:
            block.free.multipliers = memory
            best = _joined(best, block.ask(query, min(upper, best.value)))
            if query.any_plan and best.path is not None:
                return best
        for kind, loose in self.rings.items():
            loose.free.multipliers = memory
            bound = loose.free.ask(loose._translated(query), min(upper, best.value))
            if bound.path is None:
                best = _joined(best, bound)
                continue
            for block in self._exact(kind):
                block.free.multipliers = memory
                best = _joined(best, block.ask(query, min(upper, best.value)))
        self.engines |= set().union(*(block.free.engines for block in self.blocks))
        return best


def _joined(first: Answer, second: Answer) -> Answer:
    """Join the answers to two parts of a query."""
    best = second if second.value < first.value else first
    return Answer(best.value, best.path, min(first.bound, second.bound), first.proven and second.proven)
