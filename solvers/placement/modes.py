"""Modes: classes that draw on shared resources, such as groups of 1, 2 or 4 devices of one island.

A plan with v[c] stages on class c takes ``Σ_c use[r, c]·v[c]`` of resource r, at most capacity[r]. Without modes every
class is a resource of its own, of which each stage takes one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.placement.classes import IntArray


@dataclass(frozen=True, slots=True)
class Modes:
    """What the classes of a problem draw on.

    use
        use[r, c]: how much of resource r one stage on class c takes; shape (R, C).
    capacity
        Shape (R,).
    home, ahead
        A class opens resource home[c] only after ahead[c] (a twin) is in use; −1 for no such order; shape (C,).
    """

    use: IntArray
    capacity: IntArray
    home: IntArray
    ahead: IntArray

    @classmethod
    def plain(cls, counts: IntArray, pred: IntArray) -> Modes:
        """Return the modes of classes that share nothing."""
        num = len(counts)
        return cls(np.eye(num, dtype=np.int64), counts, np.arange(num, dtype=np.int64), pred)

    @property
    def num_resources(self) -> int:
        """Resources, R."""
        return len(self.capacity)

    def counts(self, most: int) -> IntArray:
        """Return how many stages each class may have by itself, at most `most`; shape (C,)."""
        each = np.where(self.use > 0, self.capacity[:, None] // np.maximum(self.use, 1), most)
        return np.asarray(np.minimum(each.min(axis=0), most), dtype=np.int64)

    def with_resource(self, use: IntArray, capacity: int) -> Modes:
        """Return the modes with one more resource."""
        return Modes(
            np.ascontiguousarray(np.concatenate([self.use, use[None, :]])),
            np.append(self.capacity, capacity).astype(np.int64),
            self.home,
            self.ahead,
        )

    def of_classes(self, keep: IntArray) -> Modes:
        """Return the modes of some classes, resources that none of them needs left out."""
        needed = np.flatnonzero(self.use[:, keep].any(axis=1))
        place = np.full(self.num_resources + 1, -1, dtype=np.int64)  # the last entry answers for −1
        place[needed] = np.arange(len(needed))
        return Modes(
            np.ascontiguousarray(self.use[np.ix_(needed, keep)]),
            self.capacity[needed],
            place[self.home[keep]],
            place[self.ahead[keep]],
        )

    def per_resource(self, weights: FloatArray) -> FloatArray:
        """Return weights of resources that add up to those of every class: ``Σ_r w[r]·use[r, c] = weights[c]``."""
        found, *_ = np.linalg.lstsq(self.use.T.astype(np.float64), weights, rcond=None)
        if not np.allclose(found @ self.use, weights, rtol=1e-9, atol=1e-12):
            raise ValueError("the weights of the classes do not follow from what they draw on")
        return np.asarray(found, dtype=np.float64)
