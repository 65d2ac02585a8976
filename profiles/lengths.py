"""Output lengths that are not known yet: one discrete distribution a request.

Points, buckets, quantiles and samples all become lengths with probabilities, so that what is computed from them is
exact. Where a source leaves room (a bucket, the gap between two quantiles), the mass sits at its upper end: the lengths
used are then never shorter than the source says, and a bound on overflow stays a bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.problems.batching import MOST_TOKENS, FloatArray, IntArray

Spread = Literal["upper", "uniform"]
#: Probabilities of a request sum to 1 within this.
_SUM_SLACK: Final = 1e-6
#: Points that a bucket spread evenly is given at most.
_POINTS: Final = 16


@dataclass(frozen=True, slots=True)
class Buckets:
    """Ranges of output tokens: bucket k holds lengths above ``edges[k−1]`` (or 0) up to and including ``edges[k]``.

    Longer outputs than the last edge count as the last bucket: the edge is then the generation limit.
    """

    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        edges = tuple(int(edge) for edge in self.edges)
        if not edges or edges[0] < 1 or any(b <= a for a, b in itertools.pairwise(edges)):
            raise UsageError(f"expected bucket edges that rise from at least 1, got {list(self.edges)}")
        object.__setattr__(self, "edges", edges)

    def __len__(self) -> int:
        return len(self.edges)

    def index(self, tokens: ArrayLike) -> IntArray:
        """Return the bucket number of each length.

        >>> Buckets((8, 16, 32)).index([0, 8, 9, 32, 500]).tolist()
        [0, 0, 1, 2, 2]
        """
        found = np.searchsorted(np.array(self.edges), np.asarray(tokens), side="left")
        return np.minimum(found, len(self.edges) - 1).astype(np.int64)

    def lower(self, bucket: int) -> int:
        """Return the shortest length of a bucket."""
        return self.edges[bucket - 1] + 1 if bucket else 1


#: The buckets of UELLM's length predictor (arXiv 2409.14961): powers of two.
UELLM_BUCKETS: Final = Buckets(tuple(2**k for k in range(3, 12)))


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Independent distributions of the output tokens of N requests.

    Parameters
    ----------
    offsets
        Request i takes the values ``tokens[offsets[i]:offsets[i+1]]``, shape (N+1,).
    tokens
        Possible lengths, rising within a request, shape (M,).
    probability
        Their probabilities, above 0, summing to 1 within a request, shape (M,).

    Raises
    ------
    InputError
        A request without a length, a length that is no count, probabilities that do not sum to 1.
    """

    offsets: IntArray
    tokens: IntArray
    probability: FloatArray

    def __post_init__(self) -> None:
        for name, kind in (("offsets", np.int64), ("tokens", np.int64), ("probability", np.float64)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        self._check_shape()
        self._check_probability()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    # ------------------------------------------------------------------------------------------- where they come from

    @classmethod
    def of_points(cls, tokens: ArrayLike) -> Lengths:
        """Return lengths that are known, one each."""
        column = np.asarray(tokens)
        return cls(np.arange(len(column) + 1), column, np.ones(len(column)))

    @classmethod
    def of_rows(cls, tokens: Sequence[ArrayLike], probability: Sequence[ArrayLike] | None = None) -> Lengths:
        """Return a distribution for each row of possible lengths; equal probabilities where none are given.

        >>> Lengths.of_rows([[5, 3, 5, 9]]).probability.tolist()
        [0.25, 0.5, 0.25]
        """
        counts = [len(np.atleast_1d(np.asarray(row))) for row in tokens]
        _refuse_empty(counts)
        flat = np.concatenate([np.atleast_1d(np.asarray(row)) for row in tokens]) if counts else np.empty(0, np.int64)
        if probability is None:
            mass = np.repeat(1.0 / np.array(counts, dtype=np.float64), counts)
        else:
            mass = np.concatenate([np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in probability])
        if len(mass) != len(flat):
            raise InputError(f"expected a probability for each of {len(flat)} lengths, got {len(mass)}")
        return _merged(np.repeat(np.arange(len(counts)), counts), flat, mass, len(counts))

    @classmethod
    def of_buckets(cls, bucket: ArrayLike, buckets: Buckets = UELLM_BUCKETS, *, spread: Spread = "upper") -> Lengths:
        """Return lengths known by bucket number.

        Parameters
        ----------
        spread
            ``upper``: the bucket's upper edge. ``uniform``: evenly over its lengths, in at most 16 points, each
            standing at the upper end of its share.
        """
        numbers = np.asarray(bucket, dtype=np.int64)
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= len(buckets)):
            raise InputError(f"expected bucket numbers from 0 to {len(buckets) - 1}, got {numbers.max()}")
        return cls.of_bucket_probabilities(np.eye(len(buckets))[numbers], buckets, spread=spread)

    @classmethod
    def of_bucket_probabilities(
        cls, probability: ArrayLike, buckets: Buckets = UELLM_BUCKETS, *, spread: Spread = "upper"
    ) -> Lengths:
        """Return lengths from a classifier's probabilities, shape (N, number of buckets)."""
        table = np.asarray(probability, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(buckets):
            raise InputError(f"expected a probability for each of {len(buckets)} buckets, got shape {table.shape}")
        points, owner = _bucket_points(buckets, spread)
        share = 1.0 / np.bincount(owner, minlength=len(buckets))
        mass = table[:, owner] * share[owner]
        rows = np.repeat(np.arange(len(table)), len(points))
        return _merged(rows, np.tile(points, len(table)), mass.ravel(), len(table))

    @classmethod
    def of_quantiles(cls, levels: ArrayLike, tokens: ArrayLike, *, limit: int | None = None) -> Lengths:
        """Return lengths from quantiles, shape (N, K) for K rising levels; mass between two sits at the upper one.

        Parameters
        ----------
        limit
            Most output tokens of any request (the engine's generation limit): where the mass above the last level
            sits. Not needed when the last level is 1.

        Raises
        ------
        InputError
            Levels or lengths that fall, or mass above the last level and no limit.
        """
        level = np.asarray(levels, dtype=np.float64)
        table = np.atleast_2d(np.asarray(tokens, dtype=np.float64))
        _check_quantiles(level, table)
        if level[-1] < 1.0:
            if limit is None:
                raise InputError(
                    f"expected a quantile of level 1 or a limit on output tokens, got levels up to {level[-1]:g}; "
                    "say what the longest output is with --output-limit"
                )
            table = np.column_stack([table, np.maximum(table[:, -1], float(limit))])
            level = np.append(level, 1.0)
        mass = np.diff(level, prepend=0.0)
        rows = np.repeat(np.arange(len(table)), len(level))
        return _merged(rows, np.ceil(table).ravel(), np.tile(mass, len(table)), len(table))

    @classmethod
    def joined(cls, parts: Sequence[Lengths]) -> Lengths:
        """Return the requests of all `parts`, one part after the other."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.probability for part in parts]),
        )

    # -------------------------------------------------------------------------------------------------- what they say

    def mean(self) -> FloatArray:
        """Return the expected output tokens of each request, shape (N,)."""
        return self._sums(self.probability * self.tokens)

    def variance(self) -> FloatArray:
        """Return the variance of the output tokens of each request, shape (N,)."""
        centred = self.tokens - np.repeat(self.mean(), np.diff(self.offsets))
        return self._sums(self.probability * centred**2)

    def least(self) -> IntArray:
        """Return the shortest possible output of each request, shape (N,)."""
        return self.tokens[self.offsets[:-1]]

    def most(self) -> IntArray:
        """Return the longest possible output of each request, shape (N,)."""
        return self.tokens[self.offsets[1:] - 1]

    def quantile(self, level: float) -> IntArray:
        """Return, for each request, the shortest length that holds with probability `level` at least, shape (N,).

        >>> Lengths.of_rows([[10, 20, 30, 40]]).quantile(0.5).tolist()
        [20]
        """
        if not 0.0 < level <= 1.0:
            raise UsageError(f"expected a level above 0 and at most 1, got {level}")
        reached = self._cumulative() >= level - 1e-12
        reached[self.offsets[1:] - 1] = True
        first = np.maximum.reduceat(np.where(reached, -np.arange(len(self.tokens)), -(2**62)), self.offsets[:-1])
        return self.tokens[-first]

    def within(self, tokens: ArrayLike) -> FloatArray:
        """Return P(output ≤ tokens) of each request; `tokens` is one number or shape (N,)."""
        limit = np.repeat(np.broadcast_to(np.asarray(tokens, dtype=np.float64), (len(self),)), np.diff(self.offsets))
        return np.minimum(self._sums(np.where(self.tokens <= limit, self.probability, 0.0)), 1.0)

    def row(self, request: int) -> tuple[IntArray, FloatArray]:
        """Return the lengths and probabilities of one request."""
        part = slice(self.offsets[request], self.offsets[request + 1])
        return self.tokens[part], self.probability[part]

    def sample(self, draws: int, seed: int) -> IntArray:
        """Return independent draws, shape (draws, N)."""
        position = np.random.default_rng(seed).random((draws, len(self))) + np.arange(len(self))
        whole = self._cumulative() + np.repeat(np.arange(len(self)), np.diff(self.offsets))
        found = np.searchsorted(whole, position, side="right")
        return self.tokens[np.clip(found, self.offsets[:-1], self.offsets[1:] - 1)]

    def take(self, rows: ArrayLike) -> Lengths:
        """Return the distributions of `rows` (indices or a mask), in that order."""
        index = np.arange(len(self))[np.asarray(rows)]
        counts = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        spots = np.repeat(self.offsets[:-1][index] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Lengths(offsets, self.tokens[spots], self.probability[spots])

    def capped(self, limit: int) -> Lengths:
        """Return the distributions of min(output, limit)."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return _merged(rows, np.minimum(self.tokens, limit), self.probability, len(self))

    # ------------------------------------------------------------------------------------------------------- in here

    def _sums(self, values: FloatArray) -> FloatArray:
        if not len(self):
            return np.empty(0)
        return np.asarray(np.add.reduceat(values, self.offsets[:-1]), dtype=np.float64)

    def _cumulative(self) -> FloatArray:
        """Return P(output ≤ tokens[m]) by entry."""
        total = np.cumsum(self.probability)
        before = np.concatenate([[0.0], total])[self.offsets[:-1]]
        return np.asarray(total - np.repeat(before, np.diff(self.offsets)), dtype=np.float64)

    def _check_shape(self) -> None:
        counts = np.diff(self.offsets)
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens):
            raise InputError("expected offsets from 0 to the number of lengths")
        if len(self.tokens) != len(self.probability):
            raise InputError(f"expected {len(self.tokens)} probabilities, got {len(self.probability)}")
        _refuse_empty(counts.tolist())
        bad = (self.tokens < 0) | (self.tokens >= MOST_TOKENS)
        if bad.any():
            raise InputError(f"expected output lengths of at least 0, got {self.tokens[bad][0]}")
        inside = np.ones(max(len(self.tokens) - 1, 0), dtype=bool)
        inside[self.offsets[1:-1] - 1] = False
        if bool((np.diff(self.tokens)[inside] <= 0).any()):
            raise InputError("expected lengths that rise within each request")

    def _check_probability(self) -> None:
        with np.errstate(invalid="ignore"):
            good = np.isfinite(self.probability) & (self.probability > 0.0)
        if not good.all():
            raise InputError(f"expected probabilities above 0, got {self.probability[~good][0]}")
        sums = self._sums(self.probability)
        off = np.abs(sums - 1.0) > _SUM_SLACK
        if off.any():
            row = int(np.argmax(off))
            raise InputError(f"expected probabilities that sum to 1, got {sums[row]:g}", place=f"row {row + 1}")


def _refuse_empty(counts: Sequence[int]) -> None:
    if 0 in counts:
        raise InputError("expected a length for every request, got none", place=f"row {list(counts).index(0) + 1}")


def _bucket_points(buckets: Buckets, spread: Spread) -> tuple[IntArray, IntArray]:
    """Return the lengths that stand for the buckets, and the bucket of each."""
    points: list[int] = []
    owner: list[int] = []
    for k, upper in enumerate(buckets.edges):
        lower = buckets.lower(k)
        count = 1 if spread == "upper" else min(_POINTS, upper - lower + 1)
        ends = [lower - 1 + -(-(upper - lower + 1) * (i + 1) // count) for i in range(count)]
        points += ends
        owner += [k] * count
    return np.array(points, dtype=np.int64), np.array(owner, dtype=np.int64)


def _check_quantiles(level: FloatArray, table: FloatArray) -> None:
    if not len(level) or level[0] <= 0.0 or level[-1] > 1.0 or bool((np.diff(level) <= 0.0).any()):
        raise InputError(f"expected quantile levels that rise within 0 to 1, got {level.tolist()}")
    if table.shape[1] != len(level):
        raise InputError(f"expected {len(level)} quantiles a request, got {table.shape[1]}")
    if not np.isfinite(table).all() or bool((table < 0.0).any()):
        raise InputError("expected quantiles that are finite numbers of at least 0")
    falls = (np.diff(table, axis=1) < 0.0).any(axis=1)
    if falls.any():
        raise InputError("expected quantiles that rise with their level", place=f"row {int(np.argmax(falls)) + 1}")


def _merged(rows: IntArray, tokens: ArrayLike, mass: FloatArray, size: int) -> Lengths:
    """Return lengths from entries in any order: equal lengths of a request joined, mass 0 left out."""
    column = np.asarray(tokens)
    if column.dtype.kind not in "iuf":
        raise InputError("expected whole numbers of tokens, got something else")
    if column.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(column) & (column == np.floor(column)) & (np.abs(column) < MOST_TOKENS))
        if bad.any():
            raise InputError(
                f"expected a whole number of tokens, got {column[bad][0]:g}", place=f"row {int(rows[bad][0]) + 1}"
            )
    kept = mass != 0.0
    rows, column, mass = rows[kept], column[kept].astype(np.int64), mass[kept]
    order = np.lexsort((column, rows))
    rows, column, mass = rows[order], column[order], mass[order]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (np.diff(rows) != 0) | (np.diff(column) != 0)
    starts = np.flatnonzero(new)
    sums = np.add.reduceat(mass, starts) if len(starts) else mass
    counts = np.bincount(rows[starts], minlength=size)
    return Lengths(np.concatenate([[0], np.cumsum(counts)]), column[starts], sums)
