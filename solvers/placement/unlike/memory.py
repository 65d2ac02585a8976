"""Relaxed paths that remember: a device visited lately cannot be visited again while it is remembered.

Every class e has a set N(e) of classes it remembers. A state is (e, M), M ⊆ N(e) the remembered classes that the path
has visited; a hand-over to e' is open when e' is not in M, and leads to M' = (M ∪ {e}) ∩ N(e'). Any sets give a valid
relaxation, between "visit again and again" (all empty) and the plans themselves (everything). The sets grow where
relaxed paths return. (The ng-route relaxation of vehicle routing: Baldacci, Mingozzi, Roberti 2011, Operations
Research 59(5), section 4; grown on demand as in Roberti, Mingozzi 2014, Transportation Science 48(3).)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np

from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core
from gpuplan.solvers.placement.unlike.links import Wide, make_wide

#: Most classes that one remembers, stages of a cycle that is broken, and states besides the classes.
MOST_REMEMBERED, LONGEST_CYCLE, MOST_STATES = 5, 5, 1000


class Memory:
    """The sets N(e), and the cycles seen since they last grew."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.sets: dict[int, list[int]] = {}
        self.cycles: Counter[tuple[int, int]] = Counter()

    def watch(self, classes: IntArray) -> None:
        """Count which classes lie inside the cycles of a relaxed path."""
        latest: dict[int, int] = {}
        path = classes.tolist()
        for at, d in enumerate(path):
            before = latest.get(d)
            if before is not None and self.core.counts[d] == 1 and at - before - 1 <= LONGEST_CYCLE:
                for e in set(path[before + 1 : at]):
                    self.cycles[e, d] += 1
            latest[d] = at

    def grow(self) -> bool:
        """Remember the most frequent cycles, within the limits; return whether any set grew."""
        states = self.states
        grew = False
        for (e, d), _ in sorted(self.cycles.items(), key=lambda item: (-item[1], item[0])):
            known = self.sets.setdefault(e, [])
            if d in known or len(known) >= MOST_REMEMBERED or states + 2 ** len(known) > MOST_STATES:
                continue
            states += 2 ** len(known)
            known.append(d)
            grew = True
        self.cycles.clear()
        return grew

    @property
    def states(self) -> int:
        """States besides the classes."""
        return sum(2 ** len(known) - 1 for known in self.sets.values())

    def wide(self) -> Wide:
        """Prepare the states for the kernels."""
        owner, seen = self._list()
        core = self.core
        pairs = np.ix_(owner, owner)
        closed = self._closed(owner, seen)
        states = dataclasses.replace(
            core,
            counts=core.counts[owner],
            prefix=np.ascontiguousarray(core.prefix[owner]),
            hop_s=np.where(closed, np.inf, core.hop_s[pairs]),
            hop_s_per_byte=np.where(closed, 0.0, core.hop_s_per_byte[pairs]),
            back=None if core.back is None else np.ascontiguousarray(core.back[pairs]),
            low=np.ascontiguousarray((core.low if core.cap is None else core.cap.loosest)[owner]),
            cap=None,
        )
        return make_wide(core, states, owner)

    def _list(self) -> tuple[IntArray, list[tuple[int, ...]]]:
        """List the states: the classes, then every class with each set it may remember."""
        owner = list(range(self.core.num_classes))
        seen: list[tuple[int, ...]] = [()] * len(owner)
        for e in sorted(self.sets):
            for size in range(1, len(self.sets[e]) + 1):
                for subset in itertools.combinations(self.sets[e], size):
                    owner.append(e)
                    seen.append(subset)
        return np.array(owner, dtype=np.int64), seen

    def _closed(self, owner: IntArray, seen: list[tuple[int, ...]]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return which hand-overs between states are closed, shape (S, S).

        With indicator columns over the classes remembered anywhere: s → t is open when (seen(s) ∪ {s}) ∩ N(t) is
        what t has seen, and t itself is not in seen(s). Both are counted by one matrix product.
        """
        remembered = sorted({d for known in self.sets.values() for d in known})
        column = {d: k for k, d in enumerate(remembered)}
        held, after, minds, itself = (np.zeros((len(owner), len(column)), dtype=np.float32) for _ in range(4))
        for s, e in enumerate(owner.tolist()):
            held[s, [column[d] for d in seen[s]]] = 1.0
            minds[s, [column[d] for d in self.sets.get(e, ())]] = 1.0
            if e in column:
                itself[s, column[e]] = 1.0
        after = np.maximum(held, itself)
        differs = after @ (minds * (1.0 - 2.0 * held)).T + (minds * held).sum(axis=1)
        return np.asarray(differs + held @ itself.T > 0.5)
