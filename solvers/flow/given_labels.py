"""Label search around ranges that are given: some nodes have their places, the others cover what is left.

The given ranges are promised to the labels when the search comes to the layer where they start. What they save later is
counted from the first layer on, so that labels are judged by all that is known. Only for beams: it proves nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gpuplan.profiles.problems.flow import IntArray
from gpuplan.solvers.flow.instance import Instance
from gpuplan.solvers.flow.labels import LabelSearch
from gpuplan.solvers.flow.prices import Prices
from gpuplan.solvers.flow.sweep import Labels, Options, Outcome, Range
from gpuplan.solvers.flow.transitions import Transitions
from gpuplan.solvers.limits import Budget


def search_around(
    instance: Instance, prices: Prices, given: Sequence[Range], options: Options, budget: Budget
) -> Outcome:
    """Look for ranges that with the given ones give every layer the target of `prices`; the answer holds all of them.

    Parameters
    ----------
    instance
        Its counts include the nodes of the given ranges.
    prices
        For the target; their worth is not read.
    """
    search = _Around(instance, prices, given, options, budget)
    if search.slack < 0.0:
        return Outcome("missed")
    outcome = search.run()
    answer = "missed" if outcome.answer == "impossible" else outcome.answer
    ranges = (*outcome.ranges, *given) if answer == "found" else ()
    return Outcome(answer, (ranges,), outcome.labels)


class _Around(LabelSearch):
    def __init__(
        self, instance: Instance, prices: Prices, given: Sequence[Range], options: Options, budget: Budget
    ) -> None:
        self._promises = _promises(instance, given, int(prices.items.layers.max()))
        self._saved = _saved(instance, prices, self._promises)
        kinds = [item.kind for item in given]
        left = instance.counts - np.bincount(np.array(kinds, dtype=np.int64), minlength=instance.num_kinds)
        worth = float(prices.price @ left) + sum(self._saved.values())
        rest = dataclasses.replace(instance, counts=left)
        super().__init__(rest, dataclasses.replace(prices, worth=worth), options, budget, ())

    def start(self) -> Labels:
        return self._promised(super().start(), 0)

    def _step(self, labels: Labels, table: Transitions, layer: int) -> Labels | None:
        following = super()._step(labels, table, layer)
        return None if following is None else self._promised(following, layer + 1)

    def _promised(self, labels: Labels, layer: int) -> Labels:
        """Return the labels with what starts on a layer; what it saves them may differ from what was counted."""
        if layer not in self._promises or not len(labels):
            return labels
        state, saved = self.walk.promised(labels.state, self._promises[layer])
        slack = labels.slack + saved - self._saved[layer]
        return dataclasses.replace(labels, state=state, slack=slack, margin=slack)


def _promises(instance: Instance, given: Sequence[Range], width: int) -> dict[int, IntArray]:
    """Return what starts on a layer, ticks on this and the next layers, by layer."""
    rows: dict[int, IntArray] = {}
    for item in given:
        row = rows.setdefault(item.start, np.zeros(width, dtype=np.int64))
        row[: item.layers] += instance.ticks[item.kind, item.layers]
    return rows


def _saved(instance: Instance, prices: Prices, promises: dict[int, IntArray]) -> dict[int, float]:
    """Return the price of what promises save layers that have nothing else, by the layer where they start."""
    cost = prices.layer_cost(instance, limited=False)
    need = np.full(instance.num_layers, prices.items.target, dtype=np.int64)
    saved = {}
    for layer in sorted(promises):
        before = float(cost.cost(need, None).sum())
        reach = min(len(promises[layer]), instance.num_layers - layer)
        need[layer : layer + reach] = np.maximum(need[layer : layer + reach] - promises[layer][:reach], 0)
        saved[layer] = before - float(cost.cost(need, None).sum())
    return saved
