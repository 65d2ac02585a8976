"""A chain of device groups in pipeline order: where to cut the layers, and what the replica is then worth.

With the stages' prefill and decode seconds p_k and d_k, hops included, and ``interval = max(M·max d_k, Σ d_k)``::

    requests:    minimise  Σ p_k + (M − 1)·max p_k + (o − 1)·interval       (seconds of M·b requests)
    throughput:  minimise  interval                                         (seconds of M·b tokens)

Cuts are searched cap by cap: for the least bottleneck, then the next larger one, and so on, the best split whose
stages keep to it. For each cap the least Σ p_k and the least max p_k bound what is left, so the sweep ends with a
lower bound; where all units are alike Σ p_k is the same for every split and the bound is met.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Values within this (relative) are one cap.
SAME: Final = 1e-12
#: Caps of a quick sweep and of one that is to prove its answer.
QUICK, THOROUGH = 4, 400


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages to be cut.

    prefill_s, decode_s
        One matrix a stage, shape (n+1, n+1): seconds of layers i..j−1 with the hop behind them, the last one's return
        hop included; inf where they do not fit, or break a rule.
    uniform
        Whether every split has the same Σ p_k and Σ d_k.
    """

    prefill_s: tuple[Floats, ...]
    decode_s: tuple[Floats, ...]
    batch: int
    micro_batches: int
    steps: int
    uniform: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """What a replica does, in seconds: of the first token, a decode step, its slowest stages, a token, all requests."""

    batch: int
    micro_batches: int
    ttft_s: float
    tpot_s: float
    bottleneck_s: float
    slowest_prefill_s: float
    interval_s: float
    cycle_s: float

    @property
    def requests_per_s(self) -> float:
        """M·b requests in each cycle."""
        return self.micro_batches * self.batch / self.cycle_s if self.cycle_s > 0.0 else math.inf

    @property
    def tokens_per_s(self) -> float:
        """M·b tokens in each interval."""
        return self.micro_batches * self.batch / self.interval_s if self.interval_s > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Slo:
    """Most seconds to the first token and between tokens; inf where nothing is asked."""

    ttft_s: float = math.inf
    token_s: float = math.inf

    def holds(self, rate: Rate) -> bool:
        """Return whether a replica keeps to it."""
        return rate.ttft_s <= self.ttft_s and rate.interval_s <= self.token_s


@dataclass(frozen=True, slots=True)
class Sweep:
    """The best split found (None: none keeps to the SLO) and a bound below every split's value, s.

    `least_ttft_s` and `least_interval_s` bound every split, SLO or not.
    """

    cuts: tuple[int, ...] | None
    rate: Rate | None
    lower_s: float
    least_ttft_s: float
    least_interval_s: float


def rate_of(chain: Chain, cuts: Sequence[int]) -> Rate:
    """Return what `chain` does when stage k holds layers ``cuts[k]..cuts[k+1]−1``."""
    spans = list(itertools.pairwise(cuts))
    prefill = [float(own[span]) for own, span in zip(chain.prefill_s, spans, strict=True)]
    decode = [float(own[span]) for own, span in zip(chain.decode_s, spans, strict=True)]
    ttft, tpot = math.fsum(prefill), math.fsum(decode)
    interval = max(chain.micro_batches * max(decode), tpot)
    cycle = ttft + (chain.micro_batches - 1) * max(prefill) + chain.steps * interval
    return Rate(chain.batch, chain.micro_batches, ttft, tpot, max(decode), max(prefill), interval, cycle)


def sweep(chain: Chain, slo: Slo, *, tokens: bool, caps: int = QUICK) -> Sweep:
    """Search the cuts of `chain` for the smallest cycle (for the smallest interval with `tokens`).

    Parameters
    ----------
    caps
        Bottlenecks to try at most; what is left then stays in the bound.
    """
    fastest = least_largest(chain.decode_s)
    first = least_sum(chain.prefill_s)
    if fastest is None or first is None:
        return Sweep(None, None, math.inf, math.inf, math.inf)
    search = _Search(chain, slo, tokens, least_ttft=first[0])
    search.offer_uncapped()
    cap: float | None = fastest[0]
    for _ in range(caps):
        if cap is None or max(search.tail(cap), search.floor) >= search.best * (1 - SAME):
            break
        search.at_cap(cap)
        cap = search.next_cap(cap)
    lower = search.proven if cap is None else min(search.proven, search.tail(cap))
    lower = min(max(lower, search.floor), search.best)
    return Sweep(search.cuts, search.rate, lower, first[0], search.least_interval(fastest[0]))


class _Search:
    """The state of a sweep: best split so far, and what every split visited is proven to take."""

    def __init__(self, chain: Chain, slo: Slo, tokens: bool, least_ttft: float) -> None:
        self.chain, self.slo, self.tokens = chain, slo, tokens
        self.best = math.inf
        self.proven = math.inf
        self.floor = 0.0
        self.cuts: tuple[int, ...] | None = None
        self.rate: Rate | None = None
        self.least_ttft = least_ttft
        widest = least_largest(chain.prefill_s)
        self.least_prefill = 0.0 if widest is None else widest[0]
        steps = least_sum(chain.decode_s)
        self.least_tpot = 0.0 if steps is None else steps[0]
        self.deep = chain.micro_batches >= len(chain.decode_s)
        self._values: Floats | None = None

    def least_interval(self, cap: float) -> float:
        """Return a bound on the interval of any split whose bottleneck is at least `cap`."""
        return max(self.chain.micro_batches * cap, self.least_tpot)

    def tail(self, cap: float) -> float:
        """Return a bound on any split whose bottleneck is at least `cap`."""
        interval = self.least_interval(cap)
        if not self._within_slo(interval):
            return math.inf
        return self._value(self.least_ttft, self.least_prefill, interval)

    def _within_slo(self, interval: float) -> bool:
        slack = 1.0 + 1e-9  # a bound must not fail on its own rounding
        return self.least_ttft <= self.slo.ttft_s * slack and interval <= self.slo.token_s * slack

    def _value(self, ttft: float, slowest: float, interval: float) -> float:
        if self.tokens:
            return interval
        return ttft + (self.chain.micro_batches - 1) * slowest + self.chain.steps * interval

    def at_cap(self, cap: float) -> None:
        """Try the splits whose stages decode within `cap`; bound those whose bottleneck is just that."""
        chain = self.chain
        within = [own <= cap * (1 + SAME) for own in chain.decode_s]
        prefill = [np.where(ok, own, np.inf) for ok, own in zip(within, chain.prefill_s, strict=True)]
        widest = least_largest(prefill)
        assert widest is not None  # the least bottleneck has a split
        self.offer(widest[1])
        ttft = self.least_ttft
        if not chain.uniform:
            found = least_sum(prefill)
            assert found is not None
            ttft = found[0]
            self.offer(found[1])
            self._offer_sums(within)
        interval = self.least_interval(cap)
        if self._within_slo(interval):
            self.proven = min(self.proven, self._value(ttft, widest[0], interval))

    def offer_uncapped(self) -> None:
        """Try the splits of least sums: with one micro-batch in flight they are the best there are."""
        chain = self.chain
        if chain.micro_batches >= len(chain.decode_s) > 1:
            return
        found = least_sum(list(chain.decode_s) if self.tokens else self._request_s(chain.decode_s))
        if found is not None:
            self.offer(found[1])
            if chain.micro_batches == 1:
                self.floor = found[0]

    def _request_s(self, decode: Sequence[Floats]) -> list[Floats]:
        """Return prefill + steps · decode; inf where decode is, also without steps (0·inf would be no number)."""
        steps = self.chain.steps
        rows = zip(self.chain.prefill_s, decode, strict=True)
        return [p + np.where(np.isinf(d), np.inf, steps * np.where(np.isinf(d), 0.0, d)) for p, d in rows]

    def _offer_sums(self, within: Sequence[NDArray[np.bool_]]) -> None:
        chain = self.chain
        decode = [np.where(ok, own, np.inf) for ok, own in zip(within, chain.decode_s, strict=True)]
        if not self.deep:
            steps = least_sum(decode)
            assert steps is not None
            self.offer(steps[1])
        whole = least_sum(self._request_s(decode))
        if whole is not None:
            self.offer(whole[1])

    def offer(self, cuts: tuple[int, ...]) -> None:
        """Keep a split when it is better and keeps to the SLO."""
        rate = rate_of(self.chain, cuts)
        value = rate.interval_s if self.tokens else rate.cycle_s
        if value < self.best and self.slo.holds(rate):
            self.best, self.cuts, self.rate = value, cuts, rate

    def next_cap(self, cap: float) -> float | None:
        """Return the smallest stage time above `cap`, or None."""
        if self._values is None:
            distinct = {id(own): own for own in self.chain.decode_s}
            together = np.concatenate([own[np.isfinite(own)] for own in distinct.values()])
            self._values = np.unique(together)
        place = int(np.searchsorted(self._values, cap * (1 + 2 * SAME), side="right"))
        return float(self._values[place]) if place < len(self._values) else None


def least_largest(costs: Sequence[Floats]) -> tuple[float, tuple[int, ...]] | None:
    """Return the least possible largest stage, and its cuts; None when no split is allowed."""
    return _best_cuts(costs, np.maximum)


def least_sum(costs: Sequence[Floats]) -> tuple[float, tuple[int, ...]] | None:
    """Return the least possible sum over the stages, and its cuts; None when no split is allowed."""
    return _best_cuts(costs, np.add)


def _best_cuts(costs: Sequence[Floats], join: np.ufunc) -> tuple[float, tuple[int, ...]] | None:
    size = costs[0].shape[0]
    reached = np.full(size, np.inf)
    reached[0] = 0.0
    origins = []
    columns = np.arange(size)
    for cost in costs:
        joined = join(reached[:, None], cost)
        origin = joined.argmin(axis=0)
        reached = joined[origin, columns]
        origins.append(origin)
    if not math.isfinite(reached[-1]):
        return None
    cuts = [size - 1]
    for origin in reversed(origins):
        cuts.append(int(origin[cuts[-1]]))
    return float(reached[-1]), tuple(reversed(cuts))
