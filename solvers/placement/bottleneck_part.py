"""One part of the plans: the spaces that a search over caps works through, from coarse to exact.

Where hosts are alike, kinds of hosts come first: far fewer states, and a bound on all plans. Then all classes; where
these are too many to link every pair, a bound by hops of less detail and plans among the devices of the highest price.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.bottleneck_bounds import CapBounds
from gpuplan.solvers.placement.bottleneck_caps import (
    FIRST,
    LADDER,
    SHORT_LADDER,
    TRUNCATED,
    CapSpace,
    Incumbent,
    Referee,
    Rung,
    chosen,
)
from gpuplan.solvers.placement.bottleneck_cheap import CheapCaps
from gpuplan.solvers.placement.bottleneck_core import Realise, by_least_hop, cap_core
from gpuplan.solvers.placement.bottleneck_kinds import kinds_core
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.reduced import restore, restrict
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike.quiet import QuietBudget

#: Classes from which hops to every follower are too many numbers.
WIDE = 160
#: Followers of each class that are told apart there, groups of the others, and how close the bound by them is brought.
NEAR, GROUPS = 12, 12
BY_NEAR = Rung(150, 0, 1e-3)
#: Caps, relative to the bound, whose prices choose devices.
SLACKS = (0.02, 0.002)
#: Caps halved for a first plan there.
HALVINGS = 10
#: Seconds that hops of less detail take for each pair of classes, and the least hops alone: 0.24 and 0.07 s at 1,024.
HOPS_S, LEAST_HOP_S = 2.5e-7, 8e-8
#: Edges from which a first bound takes the least hop out of each class.
MANY_EDGES = 150


class Part:
    """Plans of two stages or more of one core; `best` is shared with other parts, `lower` is proven.

    `realise` turns a path of the core into that of a plan, where the two differ; `eager`: see `CapSpace`.
    """

    def __init__(
        self,
        core: Core,
        budget: Budget,
        best: Incumbent,
        referee: Referee,
        realise: Realise | None = None,
        *,
        eager: bool = False,
    ) -> None:
        self.core, self.budget, self.best, self.referee, self.realise = core, budget, best, referee, realise
        self.eager = eager
        self.kinds: CapSpace | None = None
        kinds = kinds_core(core)
        if kinds is not None:
            self.kinds = CapSpace(kinds, budget, best, _silent, relaxed=True)
        self.wide = core.num_classes > WIDE
        self._whole: CapSpace | None = None
        self.bounded = False
        # Some stage holds the layer that is slowest on its fastest device.
        self.proven = float(np.diff(core.prefix, axis=1).min(axis=0).max()) * (1.0 - 1e-12)

    @property
    def lower(self) -> float:
        """No plan of the part is better."""
        spaces = [space.lower for space in (self.kinds, self._whole) if space is not None]
        return max([self.proven, *spaces])

    @property
    def settled(self) -> bool:
        """Whether no plan of this part can be better than the best one."""
        return any(space is not None and space.settled for space in (self.kinds, self._whole))

    @property
    def whole(self) -> CapSpace:
        """All classes, made when they are needed."""
        if self._whole is None:
            edges = by_least_hop(self.core, NEAR, GROUPS) if self.wide else None
            core = cap_core(self.core, edges, self.realise)
            self._whole = CapSpace(core, self.budget, self.best, self.referee, eager=self.eager)
        self._whole.lower = max(self._whole.lower, self.lower)
        return self._whole

    @property
    def _too_late(self) -> bool:
        """Whether many classes are yet to be linked and the time left does not suffice for it."""
        return self.wide and self._whole is None and not self._time_for(HOPS_S)

    def _time_for(self, each_pair_s: float) -> bool:
        return self.budget.remaining_s >= each_pair_s * self.core.num_classes**2

    def bound(self) -> None:
        """Raise the bound by prices of the coarsest space."""
        if self.bounded or self.budget.exhausted():
            return
        self.bounded = True
        if self.kinds is not None:
            self.kinds.bound(self.kinds.bounds, FIRST)
            return
        if self.wide:
            self._walk()
            if self._too_late:
                return
        space = self.whole
        if len(space.core.edges.source) > MANY_EDGES and self._time_for(LEAST_HOP_S):
            space.bound(CapBounds(space.core, self.budget, by_least_hop(self.core)), FIRST)
            if not self.wide:
                return
        space.bound(space.bounds, FIRST)

    def _walk(self) -> None:
        """Have a plan before the bounds of many classes take their time."""
        cheap = CheapCaps(self.core)
        cheap.walk(HALVINGS, self.budget)
        path = cheap.path if self.realise is None or cheap.path is None else self.realise(cheap.path)
        self.best.offer(cheap.value, path)

    def climb(self, truncated: bool) -> None:
        """Close the interval between bound and best plan with truncated searches."""
        if self.kinds is not None:
            self.kinds.climb(SHORT_LADDER)
            if not truncated:
                self.kinds.finish()
        if self.settled or self.budget.exhausted() or self._too_late:
            return
        if self.wide:
            self._climb_among_few(truncated)
        else:
            self.whole.climb(SHORT_LADDER if self.eager else TRUNCATED if truncated else LADDER)

    def finish(self) -> None:
        """Search without truncation until nothing is left."""
        if not self.wide and not self.settled:
            self.whole.finish()

    def _climb_among_few(self, truncated: bool) -> None:
        """Seek plans among the devices of the highest price; what is proven about them alone says nothing here."""
        for slack in SLACKS:
            if self.settled or self.budget.exhausted():
                return
            bounds = self.whole.bounds
            near = bounds.cap(min(self.best.value, self.whole.trivial, (1.0 + slack) * self.lower))
            keep = chosen(self.core, bounds.price(near, BY_NEAR.steps).entry)
            own = Incumbent(self.best.value)
            few = restrict(self.core, keep)
            if self.core.modes is not None:
                few = replace(few, modes=self.core.modes.of_classes(keep))
            part = Part(few, QuietBudget(self.budget), own, _silent, self._of_all(keep))
            part.proven = max(part.proven, self.lower)
            part.bound()
            part.climb(truncated)
            if own.path is not None:
                self.best.offer(own.value, own.path)
            self.whole.bound(bounds, BY_NEAR)

    def _of_all(self, keep: IntArray) -> Realise:
        """Return what puts a path over some classes into all of them."""

        def realise(path: ClassPath) -> ClassPath | None:
            whole = restore(path, keep)
            return whole if self.realise is None else self.realise(whole)

        return realise


def _silent(cap_s: float) -> tuple[float, None, bool]:
    """Leave a cap open."""
    return math.inf, None, False
