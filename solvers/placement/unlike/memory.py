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
from gpuplan.solvers.placement.unlike.kernels import Frame, Gates, Links
from gpuplan.solvers.placement.unlike.links import Wide

#: Most classes that one remembers, stages of a cycle that is broken, and states besides the classes.
MOST_REMEMBERED, LONGEST_CYCLE, MOST_STATES = 5, 5, 1000


class Memory:
    """The sets N(e), and the cycles seen since they last grew."""

    def __init__(self, core: Core, sets: dict[int, list[int]] | None = None) -> None:
        self.core = core
        self.sets: dict[int, list[int]] = {} if sets is None else sets
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

    def of_classes(self, core: Core, keep: IntArray) -> Memory:
        """Return the memory of the classes `keep`, which make up `core`."""
        return Memory(core, restrict_sets(self.sets, keep))

    @property
    def states(self) -> int:
        """States besides the classes."""
        return sum(2 ** len(known) - 1 for known in self.sets.values())

    def wide(self, plain: Wide) -> Wide:
        """Prepare the states for the kernels; `plain` is the core without memory."""
        if not self.sets:
            return plain
        owner, seen = self._list()
        special, closed = self._closed(owner, seen)
        frame = plain.frame
        stretched = Frame(
            np.ascontiguousarray(frame.prefix[:, owner]),
            np.ascontiguousarray(frame.reach[:, owner]),
            frame.farthest,
            frame.nearest,
            frame.boundary,
            frame.term[owner],
        )
        core = self.core
        hops = np.ix_(owner[special], owner)
        into = plain.links
        gates = Gates(special, np.where(closed, np.inf, into.into_s[hops]), np.where(closed, 0.0, into.into_pb[hops]))
        links = self._links(plain, owner, gates)
        return dataclasses.replace(plain, core=core, frame=stretched, links=links, gates=gates, owner=owner)

    def _links(self, plain: Wide, owner: IntArray, gates: Gates) -> Links:
        """Links of the states: near ones of their class, and every open state with a memory."""
        links, num = plain.links, self.core.num_classes
        into_s, into_pb = np.take(links.into_s, owner, axis=1), np.take(links.into_pb, owner, axis=1)
        shared = gates.to < num
        into_s[gates.to[shared]], into_pb[gates.to[shared]] = gates.from_s[shared], gates.from_pb[shared]
        count = len(links.near) // num
        near = links.near.reshape(num, count)[owner]
        senders = np.arange(len(owner))[:, None]
        behind, to = np.nonzero(np.isfinite(gates.from_s[~shared]).T)
        sender = np.concatenate([np.repeat(senders[:, 0], count), behind])
        order = np.argsort(sender, kind="stable")
        columns = [
            np.concatenate([near.ravel(), gates.to[~shared][to]]),
            np.concatenate([into_s[near, senders].ravel(), gates.from_s[~shared][to, behind]]),
            np.concatenate([into_pb[near, senders].ravel(), gates.from_pb[~shared][to, behind]]),
        ]
        first = np.concatenate([[0], np.cumsum(np.bincount(sender, minlength=len(owner)))]).astype(np.int64)
        near_to, near_s, near_pb = (np.ascontiguousarray(column[order]) for column in columns)
        return Links(first, near_to, near_s, near_pb, links.far_s[owner], links.far_pb[owner], into_s, into_pb)

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

    def _closed(
        self, owner: IntArray, seen: list[tuple[int, ...]]
    ) -> tuple[IntArray, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
        """Return the states t that are not open from all, and where a hand-over s → t is closed, shape (T, S).

        With indicator columns over the classes remembered anywhere: s → t is open when (seen(s) ∪ {s}) ∩ N(t) is
        what t has seen, and t itself is not in seen(s). Both are counted by one matrix product.
        """
        remembered = sorted({d for known in self.sets.values() for d in known})
        column = {d: k for k, d in enumerate(remembered)}
        special = np.array([t for t, e in enumerate(owner.tolist()) if e in column or self.sets.get(e)], dtype=np.int64)
        held, minds, itself = (np.zeros((len(owner), len(column)), dtype=np.float32) for _ in range(3))
        for s, e in enumerate(owner.tolist()):
            held[s, [column[d] for d in seen[s]]] = 1.0
            minds[s, [column[d] for d in self.sets.get(e, ())]] = 1.0
            if e in column:
                itself[s, column[e]] = 1.0
        after = np.maximum(held, itself)
        minds, seen_there, itself = minds[special], held[special], itself[special]
        differs = (minds * (1.0 - 2.0 * seen_there)) @ after.T + (minds * seen_there).sum(axis=1)[:, None]
        return special, np.asarray(differs + itself @ held.T > 0.5)


def restrict_sets(sets: dict[int, list[int]], keep: IntArray) -> dict[int, list[int]]:
    """Return the sets of the classes `keep`, renumbered in their order."""
    place = {int(c): k for k, c in enumerate(keep)}
    return {
        place[e]: [place[d] for d in known if d in place]
        for e, known in sets.items()
        if e in place and any(d in place for d in known)
    }
