"""What the linear forms of a placement (`milp`, `milp_layers`) share: objective, engines, starts, written models.

Engines: ``highs`` is the HiGHS inside SciPy, ``cbc`` the CBC that PuLP 3 brings along, both in a process of their own
with hard limits (`external`). A run that ends early hands back its best plan and bound; no engine's word is taken for
"optimal" or "infeasible" without the bound, or the exact check of memory and routes.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.external.build import Builder, OutOfTimeError, Terms, times
from gpuplan.solvers.external.isolated import LIBRARIES, LinearEngine, solve_isolated
from gpuplan.solvers.external.linear import FloatArray, LinearModel, memory_estimate
from gpuplan.solvers.limits import Budget, Limits, refuse_memory
from gpuplan.solvers.placement.cross_checks import CrossCheck, Run, refuse_large
from gpuplan.solvers.placement.goals import TIE, Goal, Step, first_goal
from gpuplan.solvers.placement.holders import Blocks, Holders, Stages, make_blocks
from gpuplan.solvers.result import Report

Engine = LinearEngine
#: What tells a stage apart: its holder, with several copies also where it ends.
Stage = tuple[int, ...]
#: Modules an engine needs.
MODULES: dict[str, tuple[str, ...]] = {"highs": ("scipy",), "cbc": ("pulp",)}


def available(engine: Engine) -> bool:
    """Return whether an engine is installed, without importing it."""
    return all(importlib.util.find_spec(module) is not None for module in MODULES[engine])


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model may become: variables, rows, entries of its matrix."""

    variables: int
    rows: int
    entries: int


class LinearForm(abc.ABC):
    """The linear model of one goal over the blocks of a problem.

    Parameters
    ----------
    blocks
        What a plan can be made of, M a number.
    goal
        What to minimise; its times are multiplied by `scale`, so that absolute tolerances of the engines (1e-6) are
        small against values of about 1,000.
    stages
        Number of stages, or None.
    stop
        Asked while the model is built; OutOfTimeError when it says so.
    """

    def __init__(self, blocks: Blocks, goal: Goal, stages: int | None, stop: Callable[[], bool] | None = None) -> None:
        self.blocks, self.goal = blocks, goal
        self.builder = Builder(stop=stop)
        self.scale = _scale(blocks, goal)
        self.builder.check()
        self._theta: int | None = None
        self.make_variables()
        self.make_rows(stages)
        self._cap_devices()
        if goal.price_cap is not None:
            self._cap_price(goal.price_cap)
        if goal.cycle_cap is not None:
            self._cap_cycle(goal.cycle_cap)
        self.builder.check()
        self._set_objective()
        self.builder.check()
        self.linear: LinearModel = self.builder.build()

    #: The form, in words.
    title = ""
    #: Whether a holder may be used several times.
    merges = False

    @classmethod
    @abc.abstractmethod
    def size(cls, problem: DensePlacement) -> Size:
        """Return how large the model of a problem may become."""

    @abc.abstractmethod
    def make_variables(self) -> None:
        """Make all variables but that of the bottleneck."""

    @abc.abstractmethod
    def make_rows(self, stages: int | None) -> None:
        """Add the rows that make a plan of the variables; `stages`: their number, where it is set."""

    @abc.abstractmethod
    def seconds(self, timing: str) -> list[tuple[Stage, int, float]]:
        """List (stage that takes it, variable, time) of everything that takes time."""

    @abc.abstractmethod
    def price(self) -> Terms:
        """Return what sums up to the price."""

    @abc.abstractmethod
    def used(self) -> list[tuple[int, int]]:
        """List (holder, variable): the variables of a holder sum up to whether it is used."""

    @abc.abstractmethod
    def stages(self, values: list[float]) -> Stages:
        """Read the pipeline from the variables' values."""

    @abc.abstractmethod
    def held(self, stages: Stages) -> list[int]:
        """Return the variables of blocks and layers that are 1 in a plan; KeyError where the model has none."""

    def chosen(self, stages: Stages) -> list[int]:
        """Return the variables that are 1 in a plan; KeyError for a plan the model has no variables for."""
        columns = self.held(stages)
        columns += [self.z[a.device, b.device, b.start] for a, b in itertools.pairwise(stages)]
        if self.r and len(stages) > 1:
            columns.append(self.r[stages[-1].device, stages[0].device])
        return columns

    def make_hops(self) -> None:
        """Make z[d,e,i], 1 where the cut at i hands over from d to e, and r[d,e], 1 where d is last and e first."""
        add = self.builder.add
        self.z = {key: add("z_{}_{}_{}".format(*key), 1.0) for key in self.blocks.links}
        self.r = {key: add("r_{}_{}".format(*key), 1.0) for key in self.blocks.returns or ()}

    def hop_seconds(self, timing: str) -> list[tuple[Stage, int, float]]:
        """List (stage that sends, variable, time) of every hand-over and return hop."""
        n = self.blocks.problem.num_layers
        terms = [(self.stage(d, i), z, self.blocks.link_s(timing, d, e, i)) for (d, e, i), z in self.z.items()]
        return terms + [(self.stage(d, n), r, self.blocks.return_s(timing, d, e)) for (d, e), r in self.r.items()]

    def stage(self, holder: int, stop: int) -> Stage:
        """Return what tells a stage apart: its holder, with several copies also where it ends."""
        return (holder,) if self.blocks.holders.copies[holder] == 1 else (holder, stop)

    def devices(self) -> Terms:
        """Return what sums up to the number of devices."""
        sizes = self.blocks.holders.sizes
        return [(column, float(sizes[holder])) for holder, column in self.used()]

    def _cap_devices(self) -> None:
        """Add the device limit of the problem and that of an earlier step, and what holders share."""
        caps = [cap for cap in (self.blocks.problem.max_devices, self.goal.devices_cap) if cap is not None]
        if caps:
            self.builder.at_most("devices", self.devices(), float(min(caps)))
        shared = self.blocks.holders.shared
        for name, terms, most in () if shared is None else shared.rows():
            weight = dict(terms)
            self.builder.at_most(name, [(column, weight[h]) for h, column in self.used() if h in weight], most)

    def _cap_cycle(self, cap_s: float) -> None:
        """Keep every stage with its hop within a cap, in units of the cap."""
        unit = 1000.0 / cap_s if cap_s > 0.0 else 1.0
        for stage, terms in self._cycles(unit).items():
            self.builder.at_most(f"cycle_{stage}", terms, cap_s * (1 + TIE) * unit)

    def _cycles(self, factor: float) -> dict[str, Terms]:
        """Return the time of a stage with its hop: of a holder, or of one of several copies that ends at a cut."""
        by_stage: dict[Stage, Terms] = {}
        for stage, column, seconds in self.seconds("cycle"):
            by_stage.setdefault(stage, []).append((column, seconds))
        return {"_".join(map(str, stage)): times(by_stage[stage], factor) for stage in sorted(by_stage)}

    def _cap_price(self, price_cap: float) -> None:
        prices = self.price()
        top = max((price for _, price in prices), default=0.0) or 1.0
        self.builder.at_most("price", times(prices, 1 / top), price_cap * (1 + TIE) / top)

    def _set_objective(self) -> None:
        goal, cost = self.goal, self.builder.cost
        if goal.bottleneck:
            self._theta = self.builder.add("theta", math.inf)
            for stage, terms in self._cycles(self.scale).items():
                self.builder.at_most(f"stage_{stage}", [*terms, (self._theta, -1.0)], 0.0)
            cost.append((self._theta, 1.0))
        if goal.latency:
            cost += times(
                [(column, seconds) for _, column, seconds in self.seconds("latency")], goal.latency * self.scale
            )
        if goal.devices:
            cost += times(self.devices(), goal.devices * self.scale)
        if goal.price:
            cost += times(self.price(), goal.price * self.scale)

    def start(self, stages: Stages | None) -> FloatArray | None:
        """Return the values of a plan, None without one or for one that the model does not hold."""
        if stages is None:
            return None
        x = np.zeros(self.linear.num_variables)
        try:
            x[self.chosen(stages)] = 1.0
        except KeyError:
            return None
        if self._theta is not None:
            sums: dict[Stage, float] = {}
            for stage, column, seconds in self.seconds("cycle"):
                sums[stage] = sums.get(stage, 0.0) + seconds * self.scale * x[column]
            x[self._theta] = max(sums.values())
        return x if self.linear.holds(x) else None


def _scale(blocks: Blocks, goal: Goal) -> float:
    """Return the factor that brings a typical value of the goal to 1,000."""
    problem, typical = blocks.problem, goal.devices
    if goal.price:
        typical += goal.price * float(problem.price_per_hour.max())
    if goal.latency or goal.bottleneck:
        name, share = ("cycle", 1.0 / problem.num_devices) if goal.bottleneck else ("latency", goal.latency)
        typical += share * float(blocks.prefix[name][:, -1].min())
        if blocks.links:
            typical += share * float(np.mean([blocks.link_s(name, *link) for link in blocks.links]))
    return 1000.0 / typical if typical > 0.0 else 1.0


# -------------------------------------------------------------------------------------------------------- the method


@dataclass(slots=True)
class _LinearRun(Run):
    """One call of a `LinearMethod`: the form, the engine, the budget, and what went wrong or was done."""

    name: str
    form: type[LinearForm]
    engine: Engine
    budget: Budget
    seed: int
    finished: bool = True

    def once(self, holders: Holders, goal: Goal, stages: int | None, hint: Stages | None) -> Step:
        """Build and solve one model, M a number."""
        blocks = make_blocks(holders)
        starts, ends = {i for _, i, _ in blocks.blocks}, {j for *_, j in blocks.blocks}
        if 0 not in starts or holders.problem.num_layers not in ends:
            return Step(None, math.inf, infeasible=True)
        if self.budget.exhausted():
            self.finished = False
            return Step(None, -math.inf)
        self.budget.spend(1)
        try:
            form = self.form(blocks, goal, stages, self.budget.exhausted)
        except OutOfTimeError:
            self.finished = False
            return Step(None, -math.inf)
        answer = solve_isolated(
            self.engine,
            form.linear,
            None if math.isinf(self.budget.remaining_s) else max(self.budget.remaining_s, 0.01),
            start=form.start(hint),
            threads=self.budget.limits.threads,
            seed=self.seed,
            cancel=self.budget.limits.cancel,
            on_progress=lambda value, bound: self._told(form, value, bound),
        )
        self.finished = self.finished and answer.status in ("optimal", "infeasible")
        if answer.status == "infeasible":
            return Step(None, math.inf, infeasible=True)
        plan = None if answer.x is None else form.stages(answer.x.tolist())
        if plan is not None and holders.fault(plan) is not None:
            plan = None  # holds within the engine's tolerances only
        return Step(plan, answer.bound / form.scale, failure=answer.note if answer.status == "failed" else "")

    def report(self) -> Report:
        """Return how the answer was reached."""
        finished = "finished" if self.finished else "stopped early"
        library = LIBRARIES[self.engine]
        return Report(
            self.name,
            seed=self.seed,
            wall_time_s=self.budget.elapsed_s,
            work=self.budget.work,
            bound_kind=f"dual bound of {library}",
            proof=f"LP relaxation of the {self.form.title} form, branch and bound of {library} {finished}",
            options={"engine": self.engine, "threads": self.budget.limits.threads},
        )

    def _told(self, form: LinearForm, value: float | None, bound: float) -> None:
        known = None if math.isinf(bound) else bound / form.scale
        self.budget.report(self.name, None if value is None else value / form.scale, known)


class LinearMethod(CrossCheck):
    """A linear form as a solver: its name, its model, and the variables it takes at most.

    Option ``engine``: ``highs`` or ``cbc``. The seed is CBC's; HiGHS runs with its fixed default.
    """

    def __init__(self, name: str, form: type[LinearForm], most: int) -> None:
        self.name, self.form, self.most, self.merges = name, form, most, form.merges

    def check(self, holders: Holders, limits: Limits) -> None:
        """Refuse models of too many variables or, by estimate, too much memory."""
        size = self.form.size(holders.problem)
        refuse_large(holders.problem, self.name, size.variables, self.most)
        refuse_memory(self.name, memory_estimate(size.variables, size.rows, size.entries), limits)

    def run(self, limits: Limits, seed: int, *, engine: Engine = "highs", **options: Any) -> Run:
        """Return a call of it."""
        name = self.name if engine == "highs" else f"{self.name}-{engine}"
        return _LinearRun(name, self.form, engine, Budget(limits), seed)

    def write(self, holders: Holders, path: Path, **options: Any) -> None:
        """Write the model as ``.lp`` or ``.mps``, its objective in the goal's own unit."""
        from gpuplan.solvers.external.pulp_models import write_linear

        form = self.form(make_blocks(holders), first_goal(holders.problem), None)
        write_linear(dataclasses.replace(form.linear, cost=form.linear.cost / form.scale), path)
