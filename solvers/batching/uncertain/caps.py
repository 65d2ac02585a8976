"""How many output tokens to allow a batch: the newsvendor's question.

A batch that is started with a cap of c output tokens keeps b·c of them ready. Tokens kept ready and not used cost
`over` a token; a request that would go on beyond c misses O − c tokens at `under` a token and is started again at
`restart`:

    cost(c) = Σ_i [ over·E(c − O_i)⁺ + under·E(O_i − c)⁺ + restart·P(O_i > c) ]

Between two possible lengths the cost is linear and at a possible length it can only drop, so the best cap is a possible
length; all are tried, exactly. For one request without restart cost it is the quantile at under/(under + over), the
critical fractile. `scarf_cap` knows only mean and deviation and guards against the worst distribution that has them.

References
----------
H. Scarf, "A min-max solution of an inventory problem", Studies in the Mathematical Theory of Inventory and Production,
Stanford University Press, 1958.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class CapCost:
    """What caps cost, s: `over` a token kept ready in vain, `under` a token missing, `restart` a request cut off."""

    over_s_per_token: float
    under_s_per_token: float = 0.0
    restart_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("over_s_per_token", "under_s_per_token", "restart_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise UsageError(f"expected {name} of at least 0, got {value}")

    @property
    def level(self) -> float:
        """The critical fractile under/(under + over); 1 where nothing kept ready costs."""
        whole = self.under_s_per_token + self.over_s_per_token
        return self.under_s_per_token / whole if whole > 0.0 else 1.0


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap, its expected cost, s, and how many of the batch's requests are cut off on average."""

    tokens: int
    cost_s: float
    restarts: float


def cap_costs(lengths: Lengths, cost: CapCost) -> tuple[IntArray, FloatArray]:
    """Return the possible lengths and what a cap at each costs one batch, s. O(M log M) for M entries."""
    order = np.argsort(lengths.tokens, kind="stable")
    tokens, mass = lengths.tokens[order].astype(np.float64), lengths.probability[order]
    points, last = np.unique(tokens, return_index=True)
    until = np.append(last[1:], len(tokens)) - 1
    below, weighed = np.cumsum(mass)[until], np.cumsum(mass * tokens)[until]
    over = points * below - weighed
    above = float(len(lengths)) - below
    under = (float(np.sum(mass * tokens)) - weighed) - points * above
    above, under = np.maximum(above, 0.0), np.maximum(under, 0.0)
    values = cost.over_s_per_token * over + cost.under_s_per_token * under + cost.restart_s * above
    return points.astype(np.int64), np.asarray(values, dtype=np.float64)


def best_cap(lengths: Lengths, cost: CapCost) -> Cap:
    """Return the cap with the least expected cost for one batch (of equal ones the largest: fewer restarts)."""
    points, values = cap_costs(lengths, cost)
    best = len(values) - 1 - int(np.argmin(values[::-1]))
    cap = int(points[best])
    return Cap(cap, float(values[best]), float(np.sum(1.0 - lengths.within(cap))))


def best_caps(lengths: Lengths, solution: BatchSolution, cost: CapCost) -> tuple[Cap, ...]:
    """Return the best cap of each batch of a plan."""
    return tuple(best_cap(lengths.take(batch.requests), cost) for batch in solution)


def scarf_cap(mean: float, deviation: float, cost: CapCost) -> float:
    """Return the cap that is best against the worst distribution of this mean and deviation (restart cost left out).

    ``μ + σ/2·(√(u/o) − √(o/u))``, or 0 when that order quantity is not worth its risk, o·(1 + (σ/μ)²) > u + o.
    """
    over, under = cost.over_s_per_token, cost.under_s_per_token
    if not (over > 0.0 and under > 0.0):
        raise UsageError("expected costs above 0 both for tokens kept ready in vain and for missing ones")
    if mean <= 0.0 or over * (1.0 + (deviation / mean) ** 2) > under + over:
        return 0.0
    return mean + deviation / 2.0 * (math.sqrt(under / over) - math.sqrt(over / under))
