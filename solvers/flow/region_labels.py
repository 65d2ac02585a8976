"""Label search over layers by regions: whether the target can flow when links between regions are slow.

As in `labels.py` a label is a state, the nodes used and what prices leave to waste; here also ρ, how much of the flow
can be in which regions (`crossing.py`). Labels go when the prices, the nodes or a boundary rule them out, when they
start a range that may start later, or when another label of the same state uses no more nodes and lets as much flow be
anywhere.

Let a placement pass the target, of those that do one with fewest layers held in all. Where no node ends it starts no
range too many: that range could start one layer later, and there would be one with fewer. So the search may leave such
steps out and still has one that follows the placement; and whatever dominates a label on its way can go on with the
same steps, since which of them are left out depends on the state and on what ended alone. Hence an untruncated search
that ends empty *proves* the target impossible, for these regions and any placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.flow import IntArray
from gpuplan.solvers.flow.crossing import Crossing
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.flow.region_states import ENDED, LONGEST, START, STAY, TOO_MANY, RegionStates
from gpuplan.solvers.flow.sweep import Labels, Options, Outcome, Sweep, most_slack
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget

#: Children made at once at most: bounds memory.
MOST_ROWS = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class RegionLabels(Labels):
    """Labels that also know the ranges that ended here (a row's number, (N,)) and ρ (N, 2^R−1)."""

    ended: IntArray
    rho: IntArray

    def identity(self) -> Sequence[IntArray]:
        """Return the states and the ranges that ended."""
        return (self.state, self.ended)

    def no_better(self, rows: IntArray, back: int) -> NDArray[np.bool_]:
        """Return whether the label `back` before each of `rows` uses no more and lets as much flow be anywhere."""
        used = (self.used[rows - back] <= self.used[rows]).all(axis=1)
        return np.asarray(used & (self.rho[rows - back] >= self.rho[rows]).all(axis=1))


def search_region_labels(
    instance: Instance,
    crossing: Crossing,
    prices: Prices,
    options: Options,
    budget: Budget,
    pool: Sequence[Prices] = (),
) -> Outcome:
    """Look for ranges of groups (the kinds of `instance`) whose flow may reach the target of `prices`.

    ``found`` ranges pass every boundary of this search, which is not yet a flow on the real links.
    """
    if prices.impossible(instance.num_layers) or len(prices.items.value) == 0:
        return Outcome("impossible")
    return _Search(instance, crossing, prices, options, budget, pool).run()


class _Search(Sweep[RegionLabels]):
    def __init__(
        self,
        instance: Instance,
        crossing: Crossing,
        prices: Prices,
        options: Options,
        budget: Budget,
        pool: Sequence[Prices],
    ) -> None:
        worth = prices.worth * (1.0 + 1e-9) + 1e-9
        slack = worth - instance.num_layers * prices.layer_cost(instance, limited=False).full
        self.crossing = crossing
        self.walk = RegionStates(
            instance,
            prices,
            min(slack, options.window),
            budget,
            pool,
            most_rows=4 * options.most_labels,
            branch=options.branch,
        )
        super().__init__(instance, self.walk, options, budget, slack, MOST_ROWS)

    def start(self) -> RegionLabels:
        zero = np.zeros(1, dtype=np.int64)
        used = np.zeros((1, self.instance.num_kinds), dtype=np.int64)
        rho = np.full((1, self.crossing.columns), self.crossing.target, dtype=np.int64)
        slack = np.array([self.slack])
        first, none = np.array([self.walk.first]), np.array([self.walk.none])
        return RegionLabels(first, used, slack, slack, zero, zero, none, rho)

    def transitions(self, labels: RegionLabels, layer: int) -> Transitions:
        return self.walk.transitions(*most_slack(labels.state, labels.slack), first=layer == 0)

    def children(
        self, labels: RegionLabels, table: Transitions, parent: IntArray, step: IntArray, layer: int
    ) -> RegionLabels:
        """Return the children that nodes, prices, layers and boundaries allow."""
        left = self.instance.num_layers - layer
        used = labels.used[parent] + table.used[step]
        fits = (used <= self.instance.counts).all(axis=1) & (table.notes[step, LONGEST] <= left)
        if layer:  # where nothing ends what starts has no flow, so a range too many may start later
            fits &= (table.notes[step, TOO_MANY] == 0) | (labels.ended[parent] != self.walk.none)
        kept = np.flatnonzero(fits)
        parent, step, used = parent[kept], step[kept], used[kept]
        state = table.following[step]
        slack = labels.slack[parent] - table.excess[step]
        margin = np.minimum(slack, self.walk.margin(state, used, left - 1))
        kept = np.flatnonzero(margin >= 0.0)
        parent, step = parent[kept], step[kept]
        rho = self._after(labels, parent, table.notes[step, STAY], table.notes[step, START], layer)
        ended = table.notes[step, ENDED]
        through = rho[:, -1] if left > 1 else self.crossing.to_sink(rho, self.walk.rows[ended])
        flows = np.flatnonzero(through >= self.crossing.target)
        kept, parent, step = kept[flows], parent[flows], step[flows]
        found = RegionLabels(state[kept], used[kept], slack[kept], margin[kept], parent, step, ended[flows], rho[flows])
        return self.undominated(found)

    def _after(self, labels: RegionLabels, parent: IntArray, stay: IntArray, start: IntArray, layer: int) -> IntArray:
        """Return ρ on the layer for nodes that stay and start after labels."""
        rows = self.walk.rows
        if layer == 0:
            return self.crossing.from_source(rows[start])
        return self.crossing.step(labels.rho[parent], rows, labels.ended[parent], stay, start)
