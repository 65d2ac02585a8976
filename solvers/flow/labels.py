"""Label search over layers: whether every layer can get `target` ticks with the nodes there are.

Left to right, a label is what the next layers have been promised and how many nodes of each kind are used. At each
layer it starts one of the minimal covers of what the layer lacks. Labels go when

* the prices of what is used and of what the layers ahead still need exceed what all nodes are worth,
* a kind runs out,
* another label with the same promises uses no more nodes of any kind.

All three keep some way to the target if there is one, so an untruncated search that ends empty *proves* the target
impossible. A beam keeps the cheapest labels only and proves nothing. All labels of a layer are one set of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import IntArray
from gpuplan.solvers.flow.automaton import Automaton
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.flow.sweep import Labels, Options, Outcome, Range, Sweep, most_slack
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget

__all__ = ["LabelSearch", "Options", "Outcome", "Range", "search_labels"]

#: Children made at once at most: bounds memory.
MOST_ROWS = 1_000_000


def search_labels(
    instance: Instance, prices: Prices, options: Options, budget: Budget, pool: Sequence[Prices] = ()
) -> Outcome:
    """Look for ranges that give every layer the target of `prices`; `pool` holds further prices for that target."""
    if prices.impossible(instance.num_layers) or len(prices.items.value) == 0:
        return Outcome("impossible")
    return LabelSearch(instance, prices, options, budget, pool).run()


class LabelSearch(Sweep[Labels]):
    """The sweep of `search_labels`."""

    def __init__(
        self, instance: Instance, prices: Prices, options: Options, budget: Budget, pool: Sequence[Prices]
    ) -> None:
        singles = options.single_layers
        # Sums of whole counts times prices: rounding is far below this.
        worth = prices.worth * (1.0 + 1e-9) + 1e-9
        slack = worth - instance.num_layers * prices.layer_cost(instance, limited=False).full
        self.walk = Automaton(
            instance,
            prices,
            min(slack, options.window),
            budget,
            pool,
            count_holders=singles is not None,
            most_rows=4 * options.most_labels,
            branch=options.branch,
        )
        super().__init__(instance, self.walk, options, budget, slack, MOST_ROWS)
        limit = instance.counts if singles is None else np.append(instance.counts, singles)
        self.limit: IntArray = limit.astype(np.int64)

    def start(self) -> Labels:
        """Return the label that has promised and used nothing."""
        zero = np.zeros(1, dtype=np.int64)
        used = np.zeros((1, len(self.limit)), dtype=np.int64)
        slack = np.array([self.slack])
        return Labels(np.array([self.walk.first]), used, slack, slack, zero, zero)

    def transitions(self, labels: Labels, layer: int) -> Transitions:
        """Return a table with the minimal covers of the labels' states."""
        return self.walk.transitions(*most_slack(labels.state, labels.slack))

    def children(self, labels: Labels, table: Transitions, parent: IntArray, step: IntArray, layer: int) -> Labels:
        """Return the children that nodes and prices allow, layers that do not exist paid for and worth nothing."""
        used = labels.used[parent] + table.used[step]
        fits = np.flatnonzero((used <= self.limit).all(axis=1))
        parent, step, used = parent[fits], step[fits], used[fits]
        slack = labels.slack[parent] - table.excess[step]
        found = Labels(table.following[step], used, slack, slack, parent, step)
        return self._payable(self.undominated(found), self.instance.num_layers - layer - 1)

    def _payable(self, labels: Labels, layers_left: int) -> Labels:
        left = labels.slack - self.walk.overhang(labels.state, layers_left)
        margin = np.minimum(left, self.walk.margin(labels.state, labels.used, layers_left))
        paid = Labels(labels.state, labels.used, labels.slack, margin, labels.parent, labels.pick)
        return paid.take(np.flatnonzero(margin >= 0.0))
