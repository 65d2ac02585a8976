"""How likely a batch is to outgrow its KV cache: P(Σ(s+O) > K), exactly where that is cheap, else by a stated method.

With independent outputs O_i in [l_i, u_i], μ = Σ(s_i + E O_i), σ² = Σ Var O_i and t = K + 1 − μ (a whole number of
tokens above K is K + 1 at least):

    sum, exact       the distribution of Σ O_i by convolution, common divisors taken out
    sum, hoeffding   exp(−2 t² / Σ(u_i − l_i)²)                                    for t > 0, else 1
    sum, chebyshev   σ² / (σ² + t²), the one-sided form (Cantelli)                 for t > 0, else 1
    sum, sample      the share of overflows among draws, with an upper limit at a stated confidence (Clopper-Pearson)
    padded, exact    P(b·(max s + max O) > K) = 1 − Π P(O_i ≤ ⌊K/b⌋ − max s): what a padded batch reserves

``sum`` is what paged KV memory holds when every request has reached its full length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gpuplan.errors import UsageError
from gpuplan.profiles.lengths import Lengths
from gpuplan.profiles.problems.batching import FloatArray, IntArray

Memory = Literal["sum", "padded"]
Method = Literal["auto", "exact", "hoeffding", "chebyshev", "sample"]
#: Multiplications up to which ``auto`` convolves (about 20 ms).
EXACT_STEPS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Overflow:
    """A probability of overflow.

    Parameters
    ----------
    probability
        The probability, or an upper bound on it; of samples the upper confidence limit.
    method
        How it was found: ``exact``, ``hoeffding``, ``chebyshev``, ``sample`` or ``never`` (even the longest fit).
    estimate
        For samples the share that overflowed, else the same as `probability`.
    """

    probability: float
    method: str
    estimate: float

    @property
    def exact(self) -> bool:
        """Whether `probability` is the probability itself and no bound on it."""
        return self.method in ("exact", "never")


def overflow_probability(
    prompt: IntArray,
    lengths: Lengths,
    capacity: int,
    *,
    memory: Memory = "sum",
    method: Method = "auto",
    draws: int = 10_000,
    confidence: float = 0.999,
    seed: int = 0,
) -> Overflow:
    """Return how likely the requests of one batch are to outgrow `capacity`.

    Parameters
    ----------
    prompt
        Prompt tokens, shape (b,).
    lengths
        Their outputs, independent of each other.
    capacity
        KV tokens K.
    memory
        ``sum``: Σ(s+O); ``padded``: b·(max s + max O).
    method
        ``auto``: exact when that takes at most `EXACT_STEPS`, else the lower of the two bounds.
    draws, confidence, seed
        For ``sample``.

    Returns
    -------
    Overflow
        The probability (or a bound, never below it; for ``sample`` with the given confidence) and how it was found.
    """
    if len(prompt) != len(lengths):
        raise UsageError(f"expected lengths of {len(prompt)} requests, got {len(lengths)}")
    if not len(prompt):
        return Overflow(0.0, "never", 0.0)
    if memory == "padded":
        return _padded(prompt, lengths, capacity)
    room = capacity - int(prompt.sum())
    if int(lengths.most().sum()) <= room:
        return Overflow(0.0, "never", 0.0)
    if method == "sample":
        return _sampled(lengths, room, draws, confidence, seed)
    if method == "exact" or (method == "auto" and _steps(lengths, room) <= EXACT_STEPS):
        return _same(exact_overflow(lengths, room), "exact")
    bounds = {"hoeffding": hoeffding(lengths, room), "chebyshev": chebyshev(lengths, room)}
    name = method if method in bounds else min(bounds, key=lambda key: bounds[key])
    return _same(bounds[name], name)


def _same(probability: float, method: str) -> Overflow:
    return Overflow(probability, method, probability)


def _padded(prompt: IntArray, lengths: Lengths, capacity: int) -> Overflow:
    longest = capacity // len(prompt) - int(prompt.max())
    if int(lengths.most().max()) <= longest:
        return Overflow(0.0, "never", 0.0)
    return _same(float(1.0 - np.prod(lengths.within(longest))), "exact")


def hoeffding(lengths: Lengths, room: int) -> float:
    """Return Hoeffding's bound on P(Σ O > room)."""
    over = room + 1 - math.fsum(lengths.mean())
    width = float(np.sum((lengths.most() - lengths.least()).astype(np.float64) ** 2))
    if over <= 0.0:
        return 1.0
    return math.exp(-2.0 * over**2 / width) if width > 0.0 else 0.0


def chebyshev(lengths: Lengths, room: int) -> float:
    """Return the one-sided Chebyshev bound (Cantelli's) on P(Σ O > room)."""
    over = room + 1 - math.fsum(lengths.mean())
    if over <= 0.0:
        return 1.0
    variance = math.fsum(lengths.variance())
    return variance / (variance + over**2)


def _unit(lengths: Lengths) -> int:
    """Return the greatest common divisor of what each output adds to its least."""
    return max(int(np.gcd.reduce(lengths.tokens - np.repeat(lengths.least(), np.diff(lengths.offsets)))), 1)


def _cells(lengths: Lengths, room: int) -> int:
    """Return how many sums up to `room` there are above the least one, in units."""
    most = int(lengths.most().sum())
    return max((min(most, room) - int(lengths.least().sum())) // _unit(lengths) + 1, 0)


def _steps(lengths: Lengths, room: int) -> float:
    return float(_cells(lengths, room)) * len(lengths.tokens)


def exact_overflow(lengths: Lengths, room: int) -> float:
    """Return P(Σ O > room) by convolution. O(support · possible sums), sums above `room` left out."""
    cells = _cells(lengths, room)
    if cells <= 0:
        return 1.0
    unit = _unit(lengths)
    fits = np.zeros(cells)
    fits[0] = 1.0
    beyond = 0.0
    for i in range(len(lengths)):
        tokens, probability = lengths.row(i)
        grown = np.zeros(cells)
        for shift, mass in zip(((tokens - tokens[0]) // unit).tolist(), probability.tolist(), strict=True):
            if shift < cells:
                grown[shift:] += mass * fits[: cells - shift]
        # What leaves the grid is summed apart: 1 − Σ would lose small probabilities to rounding.
        beyond += _leaving(fits, (tokens - tokens[0]) // unit, probability)
        fits = grown
    return min(beyond, 1.0)


def _leaving(fits: FloatArray, shift: IntArray, probability: FloatArray) -> float:
    """Return the mass that one more output pushes past the grid."""
    tail = np.concatenate([np.cumsum(fits[::-1]), [0.0]])  # tail[k−1]: mass of the last k cells
    last = np.minimum(shift, len(fits))
    return float(np.sum(probability * np.where(last > 0, tail[last - 1], 0.0)))


def _sampled(lengths: Lengths, room: int, draws: int, confidence: float, seed: int) -> Overflow:
    if draws < 1:
        raise UsageError(f"expected at least one draw, got {draws}")
    over = int((lengths.sample(draws, seed).sum(axis=1) > room).sum())
    return Overflow(upper_limit(over, draws, confidence), "sample", over / draws)


def upper_limit(hits: int, draws: int, confidence: float) -> float:
    """Return the one-sided Clopper-Pearson limit: a larger share has fewer than `hits` + 1 hits with 1 − confidence.

    >>> round(upper_limit(0, 1000, 0.999), 6)  # 1 − 0.001^(1/1000)
    0.006884
    """
    if hits >= draws:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(hits + 1, draws - hits, confidence))
