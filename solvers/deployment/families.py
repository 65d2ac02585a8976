"""Ceilings of all vectors of counts of a small fleet together, as close as asked.

A *family* is the replicas of one degree, batch and number of stages K. Its boxes split the ranges of the slowest
prefill stage P and the slowest decode stage B; in the box [P₀, P₁] × [B₀, B₁] a replica over u takes at least

    f(u; P₁, B₁) + (M − 1)·P₀ + (o − 1)·max(M·B₀, Σ decode)

with f the least Σ prefill of any chain over u within the caps (see `lattice`), inf where none keeps to them. The
ceiling of u is M·b over the least of its boxes. The box that says least is split; a split serves all u of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gpuplan.solvers.deployment.chain import Slo
from gpuplan.solvers.deployment.lattice import Counts, Floats, Lattice

#: A ceiling is close when its box leaves no more than this share of the cycle open.
CLOSE: Final = 5e-4
#: Rounding, relatively.
SLACK: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Span:
    """A box: ranges of P and B (s), and the ceiling of every vector of the family."""

    prefill: tuple[float, float]
    decode: tuple[float, float]
    values: Floats


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chain that a bound comes from: its groups in order, as counts by kind, and where they end if that is known."""

    degree: int
    batch: int
    order: tuple[Counts, ...]
    cuts: tuple[int, ...] = ()


@dataclass(slots=True)
class Family:
    """The replicas of one degree, batch and number of stages; `rows` are the vectors by number."""

    degree: int
    batch: int
    count: int
    micro: int
    spans: list[Span] = field(default_factory=list)
    best: Floats = field(default_factory=lambda: np.zeros(0))


class Families:
    """The families of a fleet, made when asked for; nothing is split once `over` says so."""

    def __init__(self, lattice: Lattice, slo: Slo, *, tokens: bool) -> None:
        self.lattice, self.slo, self.tokens = lattice, slo, tokens
        self.fleet = lattice.fleet
        self.over: Callable[[], bool] = lambda: False
        self._families: dict[tuple[int, int, int], Family] = {}

    def ceiling(self, counts: Counts, degree: int, batch: int) -> float:
        """Return the ceiling of a vector as far as it is known."""
        family, row = self._at(counts, degree, batch)
        return 0.0 if row is None else float(family.best[row])

    def sharpen(self, counts: Counts, degree: int, batch: int, enough: float) -> tuple[float, bool]:
        """Split until the ceiling is at most `enough` or close; return it, and whether it is close."""
        family, row = self._at(counts, degree, batch)
        if row is None:
            return 0.0, True
        while family.best[row] > enough and not self.over():
            number = int(np.argmax([span.values[row] for span in family.spans]))
            halves = self._halves(family, family.spans[number], float(family.best[row]))
            if halves is None:
                return float(family.best[row]), True
            family.spans[number : number + 1] = [self._span(family, *half) for half in halves]
            family.spans = [span for span in family.spans if span.values.any()]
            family.best = _together(family)
        return float(family.best[row]), bool(family.best[row] <= 0.0)

    def chain(self, counts: Counts, degree: int, batch: int) -> Chosen | None:
        """Return the chain that the ceiling of a vector comes from; None where there is none."""
        family, row = self._at(counts, degree, batch)
        if row is None:
            return None
        best = max(family.spans, key=lambda span: float(span.values[row]), default=None)
        if best is None or best.values[row] <= 0.0:
            return None
        order = self.lattice.chain(degree, batch, counts, (best.prefill[1], best.decode[1]))
        return None if order is None else Chosen(degree, batch, order)

    def _at(self, counts: Counts, degree: int, batch: int) -> tuple[Family, int | None]:
        """Return the family of a vector and its row there; None where no islands hold such groups."""
        count = sum(counts) // degree
        family = self._family(degree, batch, count)
        states, number = self.lattice.levels(degree)[count].states, self.lattice.number(counts)
        row = int(np.searchsorted(states, number))
        return family, row if row < len(states) and int(states[row]) == number else None

    def _family(self, degree: int, batch: int, count: int) -> Family:
        key = (degree, batch, count)
        if key not in self._families:
            family = Family(degree, batch, count, self.fleet.problem.micro_batches(count))
            own = self.lattice.stages(degree, batch, count)
            low, high = [], []
            for rows, hop in ((own.prefill, own.hops[0]), (own.decode, max(own.hops[1:]))):
                known = [row for row, times in zip(rows, own.times, strict=True) if times is not None]
                low.append(float(np.min([np.diff(row) for row in known], axis=0).max()) if known else 0.0)
                high.append(max((float(row[-1]) for row in known), default=0.0) + hop)
            family.spans = [self._span(family, (low[0], high[0]), (low[1], high[1]))]
            family.best = _together(family)
            self._families[key] = family
        return self._families[key]

    def _span(self, family: Family, prefill: tuple[float, float], decode: tuple[float, float]) -> Span:
        lattice, slo, steps = self.lattice, self.slo, self.fleet.steps
        shape = family.degree, family.batch, family.count
        caps = (prefill[1], decode[1])
        total = lattice.least(*shape, caps, decode=False) * (1 - SLACK)
        interval = np.full(len(total), family.micro * decode[0])
        if family.micro < family.count or self.tokens:
            interval = np.maximum(interval, lattice.least(*shape, caps, decode=True) * (1 - SLACK))
        interval = np.maximum(interval, 1e-300)
        cycle = interval if self.tokens else total + (family.micro - 1) * prefill[0] + steps * interval
        broken = (total > slo.ttft_s * (1 + SLACK)) | (interval > slo.token_s * (1 + SLACK)) | ~np.isfinite(total)
        values = np.where(broken, 0.0, family.micro * family.batch * (1 + SLACK) / np.maximum(cycle, 1e-300))
        return Span(prefill, decode, values)

    def _halves(
        self, family: Family, span: Span, value: float
    ) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...] | None:
        """Return the halves of a box in the range that leaves more open; None when neither leaves much."""
        cycle = family.micro * family.batch / value
        open_s = (
            0.0 if self.tokens else (family.micro - 1) * (span.prefill[1] - span.prefill[0]),
            (1 if self.tokens else self.fleet.steps) * family.micro * (span.decode[1] - span.decode[0]),
        )
        wide = [self._wide(range_s) for range_s in (span.prefill, span.decode)]
        open_s = (open_s[0] if wide[0] else 0.0, open_s[1] if wide[1] else 0.0)
        if max(open_s) <= CLOSE * cycle:
            return None
        if open_s[0] > open_s[1]:
            first, second = _cut(span.prefill)
            return (first, span.decode), (second, span.decode)
        first, second = _cut(span.decode)
        return (span.prefill, first), (span.prefill, second)

    def _wide(self, range_s: tuple[float, float]) -> bool:
        return range_s[1] > range_s[0] * (1 + 0.1 * CLOSE) and range_s[1] > 0.0


def _together(family: Family) -> Floats:
    if not family.spans:
        return np.zeros_like(family.best)
    best: Floats = np.max([span.values for span in family.spans], axis=0)
    return best


def _cut(range_s: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = range_s
    middle = math.sqrt(low * high) if low > 0.0 else high / 1024
    return (low, middle), (middle, high)
