"""Gives a relaxed path real hosts: runs of stages packed into classes at just the levels it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.hops import IntArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.hierarchy.relaxed import KindCore, Leg
from gpuplan.solvers.placement.tables import ClassPath

#: Hosts tried for runs in all before a path is given up, and between two looks at the clock (about 10 ms).
MOST_TRIES, LOOK = 5000, 100


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive stages in one host.

    level, phase
        Of the hop into it, and between it and the first host (−1: no matter).
    needs
        needs[l]: devices of each kind used from here until the path leaves the unit of level l; shape (L+1, T).
    """

    kind: int
    length: int
    level: int
    phase: int
    needs: IntArray


def realise(kinds: KindCore, legs: tuple[Leg, ...], phases: bool, budget: Budget) -> ClassPath | None:
    """Return a path over classes with exactly the hops of a relaxed one, or None when no packing was found.

    Parameters
    ----------
    phases
        Whether the level to the first host matters (for the return hop).
    budget
        Its time ends a long packing.
    """
    runs = _runs(kinds, legs, phases)
    hosts = _Packer(kinds, runs, budget).pack()
    if hosts is None:
        return None
    path, place = [], iter(range(len(legs)))
    for run, host in zip(runs, hosts, strict=True):
        for _ in range(run.length):
            leg = legs[next(place)]
            path.append((host, leg.start, leg.stop))
    return tuple(path)


def _runs(kinds: KindCore, legs: tuple[Leg, ...], phases: bool) -> list[_Run]:
    groups: list[list[Leg]] = []
    for k, leg in enumerate(legs):
        if k and leg.level == 0:
            groups[-1].append(leg)
        else:
            groups.append([leg])
    num, levels = len(kinds.per), kinds.hierarchy.levels
    needs = np.zeros((levels + 1, num), dtype=np.int64)
    runs = []
    for number in range(len(groups) - 1, -1, -1):
        group = groups[number]
        if number + 1 < len(groups):
            needs[: groups[number + 1][0].level] = 0  # the hop into the next run leaves these units
        needs[:, group[0].kind] += len(group)
        level = group[0].level if number else levels
        runs.append(_Run(group[0].kind, len(group), level, group[0].phase if phases else -1, needs.copy()))
    return runs[::-1]


class _Packer:
    """Depth-first search for a host of every run; hosts that look alike from here are tried once."""

    def __init__(self, kinds: KindCore, runs: list[_Run], budget: Budget) -> None:
        self.hierarchy, self.budget = kinds.hierarchy, budget
        self.runs = runs
        self.left = kinds.core.counts.copy()
        units = kinds.hierarchy.unit
        self.room = [np.zeros((int(numbers.max()) + 1, len(kinds.per)), dtype=np.int64) for numbers in units]
        for numbers, room in zip(units, self.room, strict=True):
            np.add.at(room, (numbers, kinds.hierarchy.kind), kinds.core.counts)
        self.hosts: list[int] = []
        self.tries = 0

    def pack(self) -> list[int] | None:
        """Return a host for every run."""
        stack = [self._candidates()]
        while stack:
            late = self.tries % LOOK == LOOK - 1 and self.budget.remaining_s <= 0.0
            if self.tries > MOST_TRIES or late:
                return None
            host = next(stack[-1], None)
            if host is None:
                stack.pop()
                if self.hosts:
                    self._use(self.hosts.pop(), -1)
                continue
            self.tries += 1
            self._use(host, 1)
            self.hosts.append(host)
            if len(self.hosts) == len(self.runs):
                return self.hosts
            stack.append(self._candidates())
        return None

    def _use(self, host: int, sign: int) -> None:
        run = self.runs[len(self.hosts)]
        self.left[host] -= sign * run.length
        for numbers, room in zip(self.hierarchy.unit, self.room, strict=True):
            room[numbers[host], run.kind] -= sign * run.length

    def _candidates(self) -> Iterator[int]:
        run, tree = self.runs[len(self.hosts)], self.hierarchy
        able = (tree.kind == run.kind) & (self.left >= run.length)
        if self.hosts:
            able &= tree.level[self.hosts[-1]] == run.level
            if run.phase >= 0:
                able &= tree.level[self.hosts[0]] == run.phase
        for level in range(1, run.level):
            able &= (self.room[level][tree.unit[level]] >= run.needs[level]).all(axis=1)
        return iter(self._unlike(np.flatnonzero(able), run))

    def _unlike(self, hosts: IntArray, run: _Run) -> list[int]:
        """Keep one of hosts that leave the same behind: fresh ones first, then by what their units have left."""
        tree = self.hierarchy
        seen: set[bytes] = set()
        kept = []
        for host in sorted(hosts.tolist(), key=lambda h: (-int(self.left[h]), h)):
            marks = [self.left[host : host + 1]]
            marks += [self.room[level][tree.unit[level][host]] for level in range(1, tree.levels)]
            if self.hosts:
                marks += [tree.level[self.hosts[0]][host : host + 1], tree.level[self.hosts[-1]][host : host + 1]]
            key = np.concatenate(marks).tobytes()
            if key not in seen:
                seen.add(key)
                kept.append(host)
        return kept
