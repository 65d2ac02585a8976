"""Rows numbered as states, and the transitions of states, sorted by what they waste."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuplan.profiles.problems.flow import FloatArray, IntArray
from gpuplan.solvers.flow.growth import ROUNDING

#: How much further than asked for a state is expanded.
GENEROSITY = 1.2
#: States expanded at once.
CHUNK = 128


class Transitions:
    """Transitions of states, those of one state together and by rising excess.

    Each has the nodes it uses (`columns` of them), the state that follows, the ranges it starts, and whatever whole
    numbers a walk notes with it (`notes` of them).
    """

    #: Keeps states apart in one sorted array of `rank·SPREAD + excess`.
    SPREAD = 64.0
    #: The most excess of a transition that is kept; a sweep whose slack is larger proves nothing.
    MOST_EXCESS = 0.5 * SPREAD

    def __init__(self, columns: int, notes: int = 0) -> None:
        self._rank: dict[int, int] = {}
        self._window: dict[int, float] = {}
        self._blocks = 0
        self._parts: list[tuple[FloatArray, IntArray, IntArray, IntArray]] = []
        self._sizes: list[IntArray] = []
        self.excess: FloatArray = np.zeros(0)
        self.used: IntArray = np.zeros((0, columns), dtype=np.int64)
        self.following: IntArray = np.zeros(0, dtype=np.int64)
        self.notes: IntArray = np.zeros((0, notes), dtype=np.int64)
        self.picks: list[tuple[int, ...]] = []
        self._keys: FloatArray = np.zeros(0)
        self._offsets: IntArray = np.zeros(1, dtype=np.int64)

    def windows(self, states: IntArray) -> FloatArray:
        """Return the excess up to which the transitions of each state are here; below 0 where none are."""
        return np.array([self._window.get(state, -1.0) for state in states.tolist()])

    def missing(self, states: IntArray, slack: FloatArray, window: float) -> Iterator[tuple[IntArray, FloatArray]]:
        """Yield, some at once, the states whose transitions up to their slack (or `window`) are not here, and how far.

        A little further than asked for, so that a state is rarely expanded again.
        """
        window = min(window, self.MOST_EXCESS)
        wanted = np.minimum(slack, window)
        fresh = np.flatnonzero(self.windows(states) < wanted)
        windows = np.minimum(wanted * GENEROSITY, window)
        for first in range(0, len(fresh), CHUNK):
            rows = fresh[first : first + CHUNK]
            yield states[rows], windows[rows]

    def add(
        self,
        states: IntArray,
        windows: FloatArray,
        sizes: IntArray,
        excess: FloatArray,
        used: IntArray,
        following: IntArray,
        picks: list[tuple[int, ...]],
        notes: IntArray | None = None,
    ) -> None:
        """Append the transitions of states; those that a state had before are forgotten."""
        for state, window in zip(states.tolist(), windows.tolist(), strict=True):
            self._rank[state] = self._blocks
            self._window[state] = window
            self._blocks += 1
        self._sizes.append(sizes)
        noted = np.zeros((len(excess), 0), dtype=np.int64) if notes is None else notes
        self._parts.append((excess, used, following, noted))
        self.picks += picks

    def pack(self) -> None:
        """Join what was added since the last time."""
        if not self._parts:
            return
        self.excess = np.concatenate([self.excess, *(part[0] for part in self._parts)])
        self.used = np.concatenate([self.used, *(part[1] for part in self._parts)])
        self.following = np.concatenate([self.following, *(part[2] for part in self._parts)])
        self.notes = np.concatenate([self.notes, *(part[3] for part in self._parts)])
        sizes = np.concatenate([np.diff(self._offsets), *self._sizes])
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._keys = np.repeat(np.arange(len(sizes)), sizes) * self.SPREAD + self.excess
        self._parts, self._sizes = [], []

    def affordable(self, states: IntArray, slack: FloatArray) -> tuple[IntArray, IntArray]:
        """Return, for each state with its slack, the first transition and how many cost at most the slack."""
        distinct, at = np.unique(states, return_inverse=True)
        rank = np.array([self._rank[state] for state in distinct.tolist()], dtype=np.int64)[at]
        first = self._offsets[rank]
        limit = np.minimum(slack, self.MOST_EXCESS) + ROUNDING
        stop = np.searchsorted(self._keys, rank * self.SPREAD + limit, side="right")
        return first, np.maximum(stop - first, 0)


class Numbered:
    """Distinct rows of whole numbers, numbered in the order in which they came."""

    def __init__(self, width: int, dtype: type[np.integer[Any]] = np.int64) -> None:
        self._numbers: dict[bytes, int] = {}
        self._rows = np.zeros((0, width), dtype=dtype)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def rows(self) -> NDArray[Any]:
        """The rows by number."""
        return self._rows[: len(self._numbers)]

    def numbers(self, rows: NDArray[np.integer[Any]]) -> IntArray:
        """Return the numbers of rows, new ones added."""
        known = len(self._numbers)
        found = np.empty(len(rows), dtype=np.int64)
        fresh: list[int] = []
        rows = rows.astype(self._rows.dtype, copy=False)
        for at, row in enumerate(rows):
            key = row.tobytes()
            number = self._numbers.setdefault(key, len(self._numbers))
            if number == known + len(fresh):
                fresh.append(at)
            found[at] = number
        if fresh:
            self._append(rows[fresh], known)
        return found

    def _append(self, rows: NDArray[np.integer[Any]], known: int) -> None:
        needed = known + len(rows)
        if needed > len(self._rows):
            larger = np.zeros((max(2 * needed, 64), self._rows.shape[1]), dtype=self._rows.dtype)
            larger[:known] = self._rows[:known]
            self._rows = larger
        self._rows[known:needed] = rows
