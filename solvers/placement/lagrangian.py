"""Lagrangian bound of a core problem: "each device at most once" (and every budget) priced instead of enforced.

    L(λ) = min over relaxed paths of ( cost + Σ_m λ_m·(Σ_c uses[m, c]·v_c) ) − Σ_m λ_m·limits[m],   λ ≥ 0

v_c counts the stages on class c; a relaxed path may visit a device again and again. Every L(λ) is a lower bound; the
multipliers are raised by deflected subgradient steps. A bound above a value that no plan exceeds proves that none
exists. The relaxed completions after[d, j] and rest[d, l] at the best multipliers bound every label of the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement import kernels
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, FirstGroup, trivial_upper
from gpuplan.solvers.placement.tables import ClassPath

#: Most steps between two looks at the clock, and operations of them all: about 20 ms.
CHUNK = 40
CHUNK_WORK = 2e7
#: Steps without a better bound before the step length shrinks.
PATIENCE = 15


@dataclass(frozen=True)
class Arrays:
    """A core as the kernels read it.

    uses, held, limits
        Constraint rows, by class and by resource: first the resources (without modes: the class counts), then
        max_stages and the budget where they bind.
    trivial
        A value no plan exceeds.
    """

    core: Core
    following: IntArray
    uses: FloatArray
    held: FloatArray
    limits: FloatArray
    trivial: float

    @property
    def capped(self) -> bool:
        """Whether windows depend on the class that follows."""
        return self.core.cap is not None

    def rows(self, max_stages: int) -> kernels.Rows:
        """Return the constraint rows as the kernels read them."""
        return kernels.Rows(self.uses, self.limits, max_stages, self.trivial)


def kernel_arrays(core: Core) -> Arrays:
    """Prepare a core for the kernels."""
    modes, by_resource = core.resources, core.resource_weights
    rows, held = [modes.use.astype(np.float64)], [np.eye(modes.num_resources)]
    limits = [modes.capacity.astype(np.float64)]
    if core.modes is None and core.max_stages < min(int(core.counts.sum()), core.num_layers):
        rows.append(np.ones((1, core.num_classes)))  # with modes it is one of the resources
        held.append(rows[-1])
        limits.append(np.array([float(core.max_stages)]))
    if core.weights is not None and by_resource is not None:
        # Scaled to the size of a count, so that one step length suits every multiplier.
        unit = float(core.weights.mean()) or 1.0
        rows.append(core.weights[None, :] / unit)
        held.append(by_resource[None, :] / unit)
        limits.append(np.array([core.limit / unit]))
    following = np.zeros((1, 1, 1), dtype=np.int64) if core.cap is None else core.cap.following
    return Arrays(
        core, following, np.concatenate(rows), np.concatenate(held), np.concatenate(limits), trivial_upper(core)
    )


def holding_prices(core: Core) -> FloatArray:
    """Return a price per resource unit for bare feasibility: the share of the layers a device can hold at most."""
    low = core.low if core.cap is None else core.cap.loosest
    ends = np.arange(core.num_layers + 1)
    share = np.maximum((ends - np.minimum(low, ends)).max(axis=1) / core.num_layers, 1e-3)
    use = core.resources.use
    return np.asarray(np.where(use > 0, share / np.maximum(use.sum(axis=0), 1), 0.0).max(axis=1))


@dataclass
class Relaxation:
    """Multipliers and bound for the plans that start in one group of classes.

    `lower` is the best bound so far (inf: proven that no such plan exists); `upper`, `path` the best plan that a
    relaxed path turned out to be.
    """

    arrays: Arrays
    term: FloatArray
    ending: IntArray
    allowed: IntArray
    multipliers: FloatArray
    state: FloatArray = field(default_factory=lambda: np.zeros(8))
    upper: float = math.inf
    path: ClassPath | None = None

    def __post_init__(self) -> None:
        core = self.arrays.core
        shape = (core.num_classes, core.num_layers + 1)
        self.best_multipliers = self.multipliers.copy()
        self.after, self.rest = np.full(shape, np.inf), np.full(shape, np.inf)
        self.plain_after, self.plain_rest = np.zeros(shape), np.zeros(shape)
        self.state[kernels.BEST] = -np.inf

    @property
    def lower(self) -> float:
        """Best bound so far."""
        return float(self.state[kernels.BEST])

    def tables(self) -> kernels.Tables:
        """Return the core with this group's return hop and last windows, as the kernels read it."""
        core = self.arrays.core
        return kernels.Tables(
            core.prefix,
            core.hop_s,
            core.hop_s_per_byte,
            core.boundary,
            self.term,
            core.entry,
            core.low,
            core.top,
            self.arrays.capped,
            self.arrays.following,
            self.ending,
        )

    def raise_bound(self, steps: int, upper: float, budget: Budget, target: float) -> None:
        """Take up to `steps` subgradient steps against the incumbent value `upper`; stop once the bound is `target`."""
        core, state = self.arrays.core, self.state
        if self.lower == -math.inf:
            self.refresh()  # the completions must be sound even if a limit leaves no step
        scale = float(self.best_multipliers @ self.arrays.limits)
        state[kernels.SCALE] = scale if self.arrays.trivial == 0.0 else 0.0
        state[kernels.THETA] = 1.0
        state[kernels.IDLE] = state[kernels.DONE] = 0.0
        state[kernels.UPPER] = upper
        self.multipliers[:] = self.best_multipliers
        direction = np.zeros(len(self.arrays.limits))
        classes = np.zeros(core.num_layers + 1, dtype=np.int64)
        stops = np.zeros(core.num_layers + 1, dtype=np.int64)
        tables, rows = self.tables(), self.arrays.rows(core.max_stages)
        ascent = kernels.Ascent(state, self.multipliers, direction, self.best_multipliers, self.after, self.rest)
        chunk = max(1, min(CHUNK, int(CHUNK_WORK / (core.num_classes**2 * core.num_layers))))
        for begin in range(0, steps, chunk):
            if state[kernels.DONE] or self.lower >= target or budget.exhausted():
                break
            state[kernels.STAGES] = 0.0
            kernels.subgradient(
                tables, self.allowed, rows, min(chunk, steps - begin), PATIENCE, ascent, kernels.Path(classes, stops)
            )
            budget.spend(chunk)
            if state[kernels.STAGES]:
                self._take_path(classes, stops)

    def _take_path(self, classes: IntArray, stops: IntArray) -> None:
        count = int(self.state[kernels.STAGES])
        cuts = [0, *stops[:count].tolist()]
        path = tuple((int(classes[k]), cuts[k], cuts[k + 1]) for k in range(count))
        value = self.arrays.core.value(path)
        if value < self.upper:
            self.upper, self.path = value, path

    def relax_plainly(self) -> float:
        """Fill the completions at multipliers zero; return their bound."""
        weight = self.arrays.core.entry
        self._backward(weight, self.plain_after, self.plain_rest)
        return float((self.plain_rest[self.allowed, 0] + weight[self.allowed]).min())

    def price(self) -> FloatArray:
        """Multiplier part of each class's weight, shape (C,)."""
        return np.ascontiguousarray(self.best_multipliers @ self.arrays.uses)

    def refresh(self) -> float:
        """Recompute the completions at the best multipliers for this group; return its bound."""
        price = self.price()
        weight = self.arrays.core.entry + price
        self._backward(weight, self.after, self.rest)
        root = float((self.rest[self.allowed, 0] + weight[self.allowed]).min())
        bound = root - float(self.best_multipliers @ self.arrays.limits)
        self.state[kernels.BEST] = bound
        return bound

    def _backward(self, weight: FloatArray, after: FloatArray, rest: FloatArray) -> None:
        kernels.backward(self.tables(), weight, after, rest)


def joint_relaxation(arrays: Arrays, groups: tuple[FirstGroup, ...], multipliers: FloatArray) -> Relaxation:
    """Return a relaxation of all first groups at once: the least return hop and the loosest window of any."""
    term = np.minimum.reduce([group.term for group in groups])
    ending = np.minimum.reduce([group.ending for group in groups])
    allowed = np.array(sorted(c for group in groups for c in group.classes), dtype=np.int64)
    return Relaxation(arrays, term, ending, allowed, multipliers.copy())


def group_relaxation(arrays: Arrays, group: FirstGroup, multipliers: FloatArray) -> Relaxation:
    """Return the relaxation of one first group, its bound at the given multipliers computed."""
    allowed = np.array(group.classes, dtype=np.int64)
    relaxation = Relaxation(arrays, group.term, group.ending, allowed, multipliers.copy())
    relaxation.refresh()
    return relaxation
