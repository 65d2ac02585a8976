"""How many requests to admit at once: the largest n with P(f_1 + … + f_n > K) ≤ ε, footprints f drawn alike.

A footprint is prompt and output of a request drawn from the table (``final``: every request at its full length, the
worst moment), or what a running request holds at a random step (``running``: each step of each request equally likely,
so long outputs weigh more). Sums are convolved on a grid; a grid coarser than the tokens rounds each footprint up, so
that the probability is never understated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import FloatArray, IntArray

Footprint = Literal["final", "running"]
#: Cells of the grid at most.
CELLS: Final = 8192
#: Requests at once at most.
MOST: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Admission:
    """The limit, the probability of overflow at it, and how that was found (``exact``, or the width of the grid)."""

    limit: int
    probability: float
    method: str


class FootprintSums:
    """Distributions of sums of footprints, cut off above K."""

    def __init__(
        self, prompt: IntArray, lengths: Lengths, capacity: int, *, footprint: Footprint = "final", cells: int = CELLS
    ) -> None:
        if len(prompt) != len(lengths) or not len(prompt):
            raise UsageError(f"expected lengths of {len(prompt)} requests, at least one, got {len(lengths)}")
        tokens, mass = _final(prompt, lengths) if footprint == "final" else _running(prompt, lengths)
        unit = max(int(np.gcd.reduce(tokens)), 1)
        self.unit = max(unit, -(-capacity // cells))
        self.exact = self.unit == unit
        self.cells = capacity // self.unit + 1
        place = -(-tokens // self.unit)
        inside = place < self.cells
        single = np.bincount(place[inside], weights=mass[inside], minlength=self.cells)
        self._powers: list[FloatArray] = [single.astype(np.float64)]
        self._padded = 1 << (2 * self.cells - 1).bit_length()

    @property
    def method(self) -> str:
        """How probabilities are found."""
        return "exact" if self.exact else f"grid of {self.unit} tokens, rounded up"

    def overflow(self, count: int) -> float:
        """Return P(sum of `count` footprints > K)."""
        sums, k = None, 0
        while count >> k:
            if count >> k & 1:
                sums = self._power(k) if sums is None else self._product(sums, self._power(k))
            k += 1
        return 0.0 if sums is None else _beyond(sums)

    def largest(self, epsilon: float, most: int = MOST) -> int:
        """Return the largest count, `most` at most, whose overflow probability is `epsilon` at most."""
        sums, count = None, 0
        for k in reversed(range(most.bit_length())):
            if count + (1 << k) > most:
                continue
            trial = self._power(k) if sums is None else self._product(sums, self._power(k))
            if _beyond(trial) <= epsilon:
                sums, count = trial, count + (1 << k)
        return count

    def _power(self, k: int) -> FloatArray:
        while len(self._powers) <= k:
            self._powers.append(self._product(self._powers[-1], self._powers[-1]))
        return self._powers[k]

    def _product(self, first: FloatArray, second: FloatArray) -> FloatArray:
        if self.cells <= 256:
            return np.convolve(first, second)[: self.cells]
        both = np.fft.irfft(np.fft.rfft(first, self._padded) * np.fft.rfft(second, self._padded), self._padded)
        return np.asarray(np.maximum(both[: self.cells], 0.0))


def admission_limit(
    prompt: IntArray,
    lengths: Lengths,
    capacity: int,
    epsilon: float,
    *,
    footprint: Footprint = "final",
    most: int = MOST,
) -> Admission:
    """Return the most requests to admit at once.

    Parameters
    ----------
    prompt, lengths
        The workload that requests are drawn from, alike and independently.
    capacity
        KV tokens K.
    epsilon
        Probability of overflow at most, in (0, 1).

    Returns
    -------
    Admission
        Limit 0 when even one request overflows with a larger probability.

    Notes
    -----
    O(G log G · log n) on a grid of G ≤ 8,192 cells; a few milliseconds.
    """
    if not 0.0 < epsilon < 1.0:
        raise UsageError(f"expected a probability between 0 and 1, got {epsilon}")
    sums = FootprintSums(prompt, lengths, capacity, footprint=footprint)
    limit = sums.largest(epsilon, most)
    return Admission(limit, sums.overflow(limit), sums.method)


def _beyond(sums: FloatArray) -> float:
    return min(max(1.0 - float(sums.sum()), 0.0), 1.0)


def _final(prompt: IntArray, lengths: Lengths) -> tuple[IntArray, FloatArray]:
    tokens = np.repeat(prompt, np.diff(lengths.offsets)) + lengths.tokens
    return tokens, lengths.probability / len(lengths)


def _running(prompt: IntArray, lengths: Lengths) -> tuple[IntArray, FloatArray]:
    """Return footprints s + k, k = 1..O equally likely over all steps of all requests."""
    first = np.repeat(prompt, np.diff(lengths.offsets)) + 1
    stop = first + lengths.tokens
    change = np.bincount(first, weights=lengths.probability, minlength=int(stop.max()) + 1)
    change -= np.bincount(stop, weights=lengths.probability, minlength=int(stop.max()) + 1)
    steps = np.maximum(np.cumsum(change), 0.0)
    tokens = np.flatnonzero(steps > 1e-15 * steps.max()) if steps.any() else np.array([int(prompt.max())])
    mass = steps[tokens] if steps.any() else np.ones(1)
    return tokens.astype(np.int64), mass / mass.sum()
