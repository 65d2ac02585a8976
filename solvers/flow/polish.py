"""Annealing on the real links: chains of short runs from planned placements, the best so far, and chance.

Runs are short, so that the clock is looked at every few hundredths of a second; a chain links them, each run going on
where the last ended, a little colder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuplan.plans.flow_solution import NodeRange
from gpuplan.profiles.problems.flow import IntArray
from gpuplan.solvers.flow.anneal import Annealed, Arrays, Schedule, anneal
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.limits import Budget

#: Chains without gain before annealing ends, where no limit ends it.
ROUNDS = 40
#: Moves of a run of 24 nodes between two looks at the clock; fewer for more nodes.
MOVES = 20_000
#: Runs of a chain.
LINKS_OF_CHAIN = 30
#: Placements kept to start from again.
ELITES = 4

State = tuple[IntArray, IntArray]


@dataclass(frozen=True, slots=True)
class Heat:
    """How a chain anneals: first temperature, share of swaps, where its target is between the incumbent and the bound.

    With `rough` the least cut stands in for the flow.
    """

    hot: float
    swaps: float
    aim: float
    rough: bool = False


#: Heats of chains from planned placements, from the best so far, and from chance. Far targets change the structure of a
#: placement, near ones its details; which of the two is missing is not known, so every aim has its turn.
FROM_PLANS = (Heat(0.02, 0.9, 0.0), Heat(0.1, 0.3, 0.5))
FROM_BEST = (Heat(0.003, 0.3, 0.0), Heat(0.02, 0.3, 0.0), Heat(0.08, 0.3, 0.0), Heat(0.3, 0.3, 0.0))
#: First temperatures and shares of swaps of the runs that realise a placement of the label search, and runs of each.
REALISING = ((0.05, 1.0), (0.3, 1.0), (0.05, 0.5), (0.01, 0.3))
RUNS_OF_REALISING = 3
FROM_CHANCE = Heat(0.3, 0.3, 0.3)
AIMS = (0.0, 0.05, 0.2, 0.5)
#: The same for many nodes, which little heat disorders beyond repair within any budget.
MANY_NODES = 64
FROM_PLANS_OF_MANY = (Heat(0.001, 0.3, 0.1, rough=True),)
FROM_BEST_OF_MANY = (
    Heat(0.001, 0.3, 0.1),
    Heat(0.001, 0.3, 0.1, rough=True),
    Heat(0.0003, 0.3, 0.2),
    Heat(0.003, 0.3, 0.3, rough=True),
)


class Polish:
    """Chains of annealing with the best placements they met."""

    def __init__(self, incumbent: Incumbent, arrays: Arrays, seed: int) -> None:
        self.incumbent = incumbent
        self.budget = incumbent.budget
        self.arrays = arrays
        self.rng = np.random.default_rng(seed)
        self.elites: list[tuple[float, State]] = []
        self.many = len(arrays.kinds) > MANY_NODES
        self.from_plans = FROM_PLANS_OF_MANY if self.many else FROM_PLANS
        self.from_best = FROM_BEST_OF_MANY if self.many else FROM_BEST

    def improve(self, start: Sequence[NodeRange], budget: Budget) -> None:
        """Anneal from a placement, within a part of the incumbent's budget."""
        self.budget = budget
        for heat in self.from_plans:
            self._chain(self._state(start), heat)

    def realise(self, starts: Sequence[Sequence[NodeRange]], target: float, budget: Budget) -> None:
        """Anneal placements towards the target (tokens/s) they were found for: who holds what first, then details."""
        self.budget = budget
        found: Annealed | None = None
        for start in starts:
            tried = self._run(self._state(start), target, *REALISING[0])
            if tried is not None and (found is None or tried.value > found.value):
                found = tried
        for hot, swaps in REALISING:
            for _ in range(RUNS_OF_REALISING):
                if found is not None:
                    found = self._run((found.best_start, found.best_length), target, hot, swaps) or found
        if found is not None:
            self._keep(found)

    def _run(self, state: State, target: float, hot: float, swaps: float) -> Annealed | None:
        """Anneal once and offer what is found; None when the limits are reached."""
        if self._over():
            return None
        moves = max(MOVES * 24 // max(len(self.arrays.kinds), 24), 500)
        found = anneal(self.arrays, *state, target, Schedule(moves, hot, 0.03 * hot, swaps), self._seed())
        self.budget.spend(moves)
        self.incumbent.offer(_placement(found.best_start, found.best_length))
        return found

    def _seed(self) -> int:
        return int(self.rng.integers(2**31))

    def rounds(self, budget: Budget) -> None:
        """Anneal from the best placements and now and then from chance, until the budget ends or nothing is gained."""
        self.budget = budget
        stale = 0
        while stale < ROUNDS and not self._over():
            before = self.incumbent.value
            turn, rng = stale % 6, self.rng
            if (turn == 5 and not self.many) or not self.elites:
                self._chain(self._random(), dataclasses.replace(FROM_CHANCE, swaps=float(rng.uniform(0.0, 0.6))))
            else:
                at = int(rng.integers(len(self.elites))) if turn % 2 else 0
                heat = self.from_best[turn % 4]
                if not self.many:
                    heat = dataclasses.replace(heat, aim=float(rng.choice(AIMS)))
                self._chain(self.elites[at][1], heat)
            stale = 0 if self.incumbent.value > before * (1.0 + 1e-6) else stale + 1

    def _over(self) -> bool:
        return self.incumbent.closed or self.budget.exhausted()

    def _chain(self, state: State, heat: Heat) -> None:
        if self._over():
            return
        incumbent = self.incumbent
        target = min(incumbent.value * 1.001 + heat.aim * (incumbent.bound - incumbent.value), incumbent.bound)
        steps = np.geomspace(heat.hot, 0.03 * heat.hot, LINKS_OF_CHAIN + 1)
        moves = max(MOVES * 24 // max(len(self.arrays.kinds), 24) // (1 if heat.rough else 2), 500)
        best: Annealed | None = None
        for link in range(LINKS_OF_CHAIN):
            schedule = Schedule(moves, float(steps[link]), float(steps[link + 1]), heat.swaps, heat.rough)
            found = anneal(self.arrays, *state, target, schedule, self._seed())
            self.budget.spend(moves)
            state = found.start, found.length
            if best is None or found.value > best.value:
                best = found
            if found.value > incumbent.value:
                incumbent.offer(_placement(found.best_start, found.best_length))
            if self._over():
                break
        if best is not None:
            self._keep(best)

    def _keep(self, found: Annealed) -> None:
        """Keep what a chain found among the elites, unless its value is there already."""
        if all(abs(found.value - value) > 1e-9 * value for value, _ in self.elites):
            self.elites.append((found.value, (found.best_start, found.best_length)))
            self.elites.sort(key=lambda pair: -pair[0])
            del self.elites[ELITES:]

    def _random(self) -> State:
        arrays, rng = self.arrays, self.rng
        most = arrays.most[arrays.kinds]
        lengths = np.where(most > 0, rng.integers(1, np.maximum(most, 1) + 1), 0).astype(np.int64)
        starts = rng.integers(0, arrays.num_layers - lengths + 1).astype(np.int64)
        return starts, lengths

    def _state(self, placement: Sequence[NodeRange]) -> State:
        nodes = len(self.arrays.kinds)
        starts, lengths = np.zeros(nodes, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
        for item in placement:
            starts[item.node], lengths[item.node] = item.start, item.stop - item.start
        return starts, lengths


def _placement(starts: IntArray, lengths: IntArray) -> list[NodeRange]:
    pairs = enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    return [NodeRange(node, first, first + count) for node, (first, count) in pairs if count > 0]
