"""Lagrangian bound over many classes: the bound of `placement.lagrangian`, with kernels that skip most links.

    L(λ, μ) = min over relaxed paths of ( cost + Σ_c λ_c·v_c + Σ_m μ_m·(rows[m]·v) ) − λ·counts − μ·limits,   λ, μ ≥ 0

v_c counts the stages on class c; a relaxed path may visit a device again and again. Every L is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.kernels import BEST
from gpuplan.solvers.placement.lagrangian import Relaxation, kernel_arrays
from gpuplan.solvers.placement.tables import ClassPath
from gpuplan.solvers.placement.unlike import kernels
from gpuplan.solvers.placement.unlike.links import Wide, feasible_counts

#: Steps without a better bound before the step length shrinks, and the length below which steps end.
PATIENCE, SHORTEST = 6, 2e-3
#: A step is begun where this many times the last one's time is left: at 4,096 classes they take 0.1-0.5 s.
SURE = 1.2
#: A step's direction keeps this share of the one before.
MEMORY = 0.7


@dataclass
class Steps:
    """State of the subgradient steps, kept from one call to the next.

    length
        Factor on the step, falling.
    idle
        Steps since the bound last rose.
    patience
        How many of them shorten the steps.
    """

    length: float = 1.0
    idle: int = 0
    patience: int = PATIENCE
    direction: FloatArray = field(default_factory=lambda: np.zeros(0))


class WideRelaxation:
    """Multipliers and bound of a core of many classes.

    Attributes
    ----------
    multipliers, best
        Multipliers now and at the best bound, of the classes and then of the further rows, shape (C + M,).
    lower
        Best bound so far; inf: proven that no plan exists.
    after, rest
        Completions at the best multipliers, position-major.
    plan
        Best plan that a relaxed path turned out to be, and its value.
    stages
        Stages of the last relaxed path.
    watch
        Called with the classes of every relaxed path.
    took_s
        Time of the last step.
    """

    def __init__(self, wide: Wide, multipliers: FloatArray | None = None) -> None:
        self.wide = wide
        num, n = len(wide.owner), wide.core.num_layers
        self.capacity = np.concatenate([wide.core.capacity.astype(np.float64), wide.limits])
        known = multipliers is not None and len(multipliers) == len(self.capacity)
        self.multipliers = np.array(multipliers) if known else np.zeros(len(self.capacity))
        self.best = self.multipliers.copy()
        self.lower = -math.inf
        self.after, self.rest = np.full((2, n + 1, num), np.inf)
        self._after, self._rest = np.full((2, n + 1, num), np.inf)
        self._classes, self._stops = np.zeros((2, n + 1), dtype=np.int64)
        self.steps = Steps(direction=np.zeros(len(self.capacity)))
        self.plan: tuple[float, ClassPath] | None = None
        self.done = False
        self.stages = 0
        self.watch: Callable[[IntArray], None] | None = None
        self.took_s = 0.0

    def weight(self, multipliers: FloatArray | None = None) -> FloatArray:
        """Return the value of opening a stage on each class, multipliers included, shape (C,)."""
        chosen = self.best if multipliers is None else multipliers
        core, num = self.wide.core, len(self.wide.core.capacity)
        held = chosen[:num] if core.modes is None else chosen[:num] @ core.modes.use
        return np.ascontiguousarray(core.entry + held + chosen[num:] @ self.wide.rows)

    def class_rest(self) -> FloatArray:
        """Return the completions of the classes, free of any memory, shape (n+1, C)."""
        return np.ascontiguousarray(self.rest[:, : self.wide.core.num_classes])

    def constant(self) -> float:
        """Return what the best multipliers give back: λ·counts + μ·limits."""
        return float(self.best @ self.capacity)

    def restart(self, patience: int = PATIENCE) -> None:
        """Begin again with long steps from the best multipliers."""
        self.steps = Steps(patience=patience, direction=np.zeros(len(self.capacity)))
        self.multipliers[:] = self.best
        self.done = False

    def raise_bound(self, steps: int, upper: float, budget: Budget, target: float) -> None:
        """Take up to `steps` subgradient steps against the incumbent value `upper`; stop once the bound is `target`."""
        for _ in range(steps):
            if self.done or self.lower >= target or budget.exhausted() or budget.remaining_s < SURE * self.took_s:
                break
            before = budget.elapsed_s
            self._step(upper)
            budget.spend(1)
            self.took_s = budget.elapsed_s - before

    def _step(self, upper: float) -> None:
        weight = self.weight(self.multipliers)[self.wide.owner]
        frame, links = self.wide.frame, self.wide.links
        kernels.backward(frame, links, weight, self._after, self._rest)
        constant = float(self.multipliers @ self.capacity)
        bound = float((self._rest[0] + weight).min()) - constant
        if bound > self.wide.trivial + 1e-9 * (abs(self.wide.trivial) + constant):
            self.lower, self.done = math.inf, True
            return
        self._note(bound)
        count = kernels.follow(frame, links, weight, self._after, self._rest, self._classes, self._stops)
        self.stages = count
        self._classes[:count] = self.wide.owner[self._classes[:count]]
        used = np.bincount(self._classes[:count], minlength=self.wide.core.num_classes)
        self._take_path(count, used)
        if self.watch is not None:
            self.watch(self._classes[:count])
        if self.plan is not None:
            upper = min(upper, self.plan[0])
        self._move(used, upper, bound)

    def _note(self, bound: float) -> None:
        """Remember a better bound with its completions, or shorten the steps after too many in vain."""
        steps = self.steps
        if bound > self.lower + 1e-7 * abs(self.lower) or self.lower == -math.inf:
            self.lower, steps.idle = bound, 0
            self.best[:] = self.multipliers
            self.after, self._after = self._after, self.after
            self.rest, self._rest = self._rest, self.rest
            # The kernels still need this step's completions.
            self._after[:], self._rest[:] = self.after, self.rest
            return
        steps.idle += 1
        if steps.idle >= steps.patience:
            steps.length *= 0.7
            steps.idle = 0
            self.multipliers[:] = self.best
            steps.direction[:] = 0.0

    def _take_path(self, count: int, used: IntArray) -> None:
        core = self.wide.core
        if not feasible_counts(core, used):
            return
        path = to_path(self._classes, self._stops, count)
        value = core.value(path)
        if (self.plan is None or value < self.plan[0]) and (core.cap is None or core.holds(path)):
            self.plan = (value, path)

    def _move(self, used: IntArray, upper: float, bound: float) -> None:
        """Move the multipliers along the deflected excess of the relaxed path."""
        steps = self.steps
        modes = self.wide.core.modes
        taken = used if modes is None else modes.use @ used
        excess = np.concatenate([taken, self.wide.rows @ used]) - self.capacity
        free = self.multipliers <= 0.0
        direction = np.where(free & (excess < 0.0), 0.0, excess) + MEMORY * steps.direction
        direction[free & (direction < 0.0)] = 0.0
        steps.direction = direction
        norm = float(direction @ direction)
        if norm == 0.0 or steps.length < SHORTEST:
            self.done = True
            return
        scale = abs(self.lower)
        aim = upper if math.isfinite(upper) else self.lower + 0.05 * scale
        length = steps.length * max(aim - bound, 1e-4 * scale) / norm
        np.maximum(0.0, self.multipliers + length * direction, out=self.multipliers)

    def completions(self, term: FloatArray, ending: IntArray, allowed: IntArray) -> Relaxation:
        """Return the relaxation that the label search reads, for plans with this return hop and these first classes.

        A class's completions are those of its state without memory, which no history can beat.
        """
        wide, num = self.wide, self.wide.core.num_classes
        after, rest = np.empty((2, *self.rest.shape))
        frame = wide.frame._replace(term=np.ascontiguousarray(term[wide.owner]))
        weight = self.weight()
        kernels.backward(frame, wide.links, weight[wide.owner], after, rest)
        relaxation = Relaxation(kernel_arrays(wide.core), term, ending, allowed, self.best.copy())
        relaxation.after = np.ascontiguousarray(after[:, :num].T)
        relaxation.rest = np.ascontiguousarray(rest[:, :num].T)
        bound = float((relaxation.rest[allowed, 0] + weight[allowed]).min()) - self.constant()
        relaxation.state[BEST] = bound
        return relaxation

    def through(self) -> FloatArray:
        """Return the least relaxed cost of a plan that uses each class, at the best multipliers; shape (C,)."""
        arrive, _ = self.arrivals()
        states = (arrive + self.rest)[:-1].min(axis=0) - self.constant()
        costs = np.full(self.wide.core.num_classes, np.inf)
        np.minimum.at(costs, self.wide.owner, states)
        return costs

    def arrivals(self) -> tuple[FloatArray, FloatArray]:
        """Return arrive[i, d] and ended[j, d] of `kernels.forward` at the best multipliers."""
        arrive, ended = np.empty((2, *self.rest.shape))
        wide = self.wide
        weight = self.weight()[wide.owner]
        kernels.forward(wide.frame, wide.turned, wide.gates, wide.owner, weight, arrive, ended)
        return arrive, ended


def to_path(classes: IntArray, stops: IntArray, count: int) -> ClassPath:
    """Return stages from their classes and stops."""
    cuts = [0, *stops[:count].tolist()]
    return tuple((int(classes[k]), cuts[k], cuts[k + 1]) for k in range(count))
