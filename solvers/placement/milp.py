"""`milp-blocks`: the placement as a mixed-integer programme in block/link flow form, a cross-check of the exact solver.

Variables: y[d,i,j] = 1 when device d holds layers i..j−1 (only blocks that fit); z[d,e,i] = 1 when the cut after
layer i−1 hands over from d to e; r[d,e] = 1 when d is last and e first (return hop of several stages).

    (1) Σ_{d,j} y[d,0,j] = 1                                       one first stage
    (2) Σ_a y[d,a,i] = Σ_e z[d,e,i],  Σ_d z[d,e,i] = Σ_b y[e,i,b]  the stage before a cut hands over to the one after
    (3) Σ_{i,j} y[d,i,j] ≤ 1                                       a device holds one block
    (4) Σ_e r[d,e] = Σ_{i>0} y[d,i,n],  Σ_d r[d,e] = Σ_{j<n} y[e,0,j]
    (5) Σ y ≤ max_devices (= K where M is as many as the stages)

latency minimises Σ c·y + Σ τ·z + Σ τ_r·r; bottleneck minimises θ ≥ Σ c·y[d] + Σ τ·z[d] + Σ τ_r·r[d] for each device.
Other objectives: see `goals`.

Engines: ``highs`` is the HiGHS inside SciPy (in the process; its dual bound is the bound), ``cbc`` the model as a PuLP
model on the CBC that PuLP 3 brings along (a process of its own; its bound is read from its log, since PuLP calls a
timed-out run "Optimal"). Neither needs the `highspy` package, which must not meet OR-Tools in one process: PuLP is
imported with `highspy` hidden. PuLP writes the model files. Size grows with D·n²/2 + D²·n; large problems are refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution, StageRange
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.evaluate import broken_rule
from gpuplan.solvers.placement.goals import (
    BOTTLENECK,
    LATENCY,
    PRICE,
    STAGES,
    TIE,
    Blocks,
    Goal,
    Step,
    check_supported,
    conclude,
    make_blocks,
    over_stage_counts,
    refuse_large,
    solve_objective,
)
from gpuplan.solvers.result import Report, Result

Engine = Literal["highs", "cbc"]

MAX_VARIABLES = 150_000
_IMPORT_LOCK = threading.Lock()


def available(engine: Engine | None = None) -> bool:
    """Return whether an engine (None: any) is installed, without importing it."""
    engines = {"highs": "scipy", "cbc": "pulp"}
    wanted = engines.values() if engine is None else [engines[engine]]
    return any(importlib.util.find_spec(module) is not None for module in wanted)


def default_engine() -> Engine:
    """Return ``highs`` where SciPy is installed, else ``cbc``."""
    return "highs" if available("highs") else "cbc"


@contextlib.contextmanager
def _without_highspy() -> Iterator[None]:
    """Hide `highspy` while PuLP is imported: it and OR-Tools bring clashing copies of one library."""
    with _IMPORT_LOCK:
        if "highspy" in sys.modules or importlib.util.find_spec("highspy") is None:
            yield
            return
        sys.modules["highspy"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules["highspy"]


def import_pulp() -> Any:
    """Return the PuLP module; SolverUnavailableError when it is not installed."""
    try:
        with _without_highspy():
            import pulp
    except ImportError as error:
        raise SolverUnavailableError("milp-blocks needs PuLP, which is not installed; run pip install pulp") from error
    return pulp


# -------------------------------------------------------------------------------------------------------- the model


Terms = list[tuple[int, float]]  # (column, coefficient)


@dataclass(slots=True)
class Columns:
    """Variables of the model, in the order they were made, all between 0 and `upper`."""

    names: list[str]
    upper: list[float]
    integer: list[bool]

    def add(self, name: str, upper: float, *, integer: bool = False) -> int:
        """Make a variable and return its column."""
        self.names.append(name)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.names) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One constraint: lower ≤ Σ terms ≤ upper."""

    name: str
    terms: Terms
    lower: float
    upper: float


class Model:
    """The linear model of one goal over the blocks of a problem.

    Parameters
    ----------
    blocks
        What a plan can be made of.
    goal
        What to minimise; its times are multiplied by `scale`, so that absolute tolerances of the engines (1e-6) are
        small against values of about 1,000.
    stages
        Exact number of stages, or None.
    """

    def __init__(self, blocks: Blocks, goal: Goal, stages: int | None) -> None:
        self.blocks, self.goal = blocks, goal
        self.scale = _scale(blocks, goal)
        self.columns = Columns([], [], [])
        self.rows: list[Row] = []
        self._make_variables()
        self._flow()
        if blocks.returns is not None:
            self._return_hop()
        self._limits(stages)
        self.objective = self._objective()

    def _make_variables(self) -> None:
        add = self.columns.add
        self.y = {key: add("y_{}_{}_{}".format(*key), 1.0, integer=True) for key in self.blocks.blocks}
        self.z = {key: add("z_{}_{}_{}".format(*key), 1.0) for key in self.blocks.links}
        self.r = {key: add("r_{}_{}".format(*key), 1.0) for key in self.blocks.returns or ()}

    def _equal(self, name: str, left: list[int], right: list[int]) -> None:
        """Add Σ left = Σ right."""
        self.rows.append(Row(name, [(k, 1.0) for k in left] + [(k, -1.0) for k in right], 0.0, 0.0))

    def _flow(self) -> None:
        """Add (1) to (3)."""
        n, D = self.blocks.problem.num_layers, self.blocks.problem.num_devices
        ending, starting = _group(self.y, lambda k: (k[0], k[2])), _group(self.y, lambda k: (k[0], k[1]))
        handing, taking = _group(self.z, lambda k: (k[0], k[2])), _group(self.z, lambda k: (k[1], k[2]))
        holding = _group(self.y, lambda k: k[0])
        self.rows.append(Row("first", [(y, 1.0) for (_, i, _), y in self.y.items() if i == 0], 1.0, 1.0))
        for d in range(D):
            if d in holding:
                self.rows.append(Row(f"once_{d}", [(y, 1.0) for y in holding[d]], -math.inf, 1.0))
            for i in range(1, n):
                for name, stage, link in (("hand", ending, handing), ("take", starting, taking)):
                    if (d, i) in stage or (d, i) in link:
                        self._equal(f"{name}_{d}_{i}", stage.get((d, i), []), link.get((d, i), []))

    def _return_hop(self) -> None:
        """Add (4)."""
        n = self.blocks.problem.num_layers
        last = _group({k: y for k, y in self.y.items() if k[2] == n and k[1] > 0}, lambda k: k[0])
        first = _group({k: y for k, y in self.y.items() if k[1] == 0 and k[2] < n}, lambda k: k[0])
        sends, takes = _group(self.r, lambda k: k[0]), _group(self.r, lambda k: k[1])
        for d in range(self.blocks.problem.num_devices):
            for name, stage, link in (("last", last, sends), ("back", first, takes)):
                if d in stage or d in link:
                    self._equal(f"{name}_{d}", stage.get(d, []), link.get(d, []))

    def _limits(self, stages: int | None) -> None:
        """Add (5) and the caps of an earlier step."""
        everything = [(y, 1.0) for y in self.y.values()]
        if stages is not None:
            self.rows.append(Row("stages", everything, float(stages), float(stages)))
        caps = [cap for cap in (self.blocks.problem.max_devices, self.goal.stages_cap) if cap is not None]
        if caps:
            self.rows.append(Row("devices", everything, -math.inf, float(min(caps))))
        if self.goal.price_cap is not None:
            prices = self._price()
            top = max((price for _, price in prices), default=0.0) or 1.0
            cap = self.goal.price_cap * (1 + TIE) / top
            self.rows.append(Row("price", _times(prices, 1 / top), -math.inf, cap))

    def _seconds(self, timing: str, device: int | None = None) -> Terms:
        """Variables with their times: of one sending device, or of all."""
        blocks = self.blocks
        terms = [(y, blocks.block_s(timing, *k)) for k, y in self.y.items() if device in (None, k[0])]
        terms += [(z, blocks.link_s(timing, *k)) for k, z in self.z.items() if device in (None, k[0])]
        return terms + [(r, blocks.return_s(timing, *k)) for k, r in self.r.items() if device in (None, k[0])]

    def _price(self) -> Terms:
        return [(y, float(self.blocks.problem.price_per_hour[d])) for (d, _, _), y in self.y.items()]

    def _objective(self) -> Terms:
        goal, terms = self.goal, Terms()
        if goal.bottleneck:
            theta = self.columns.add("theta", math.inf)
            for d in range(self.blocks.problem.num_devices):
                stage = _times(self._seconds("cycle", d), self.scale)
                self.rows.append(Row(f"stage_{d}", [*stage, (theta, -1.0)], -math.inf, 0.0))
            terms.append((theta, 1.0))
        if goal.latency:
            terms += _times(self._seconds("latency"), goal.latency * self.scale)
        if goal.stages:
            terms += [(y, goal.stages * self.scale) for y in self.y.values()]
        if goal.price:
            terms += _times(self._price(), goal.price * self.scale)
        return terms

    def stages(self, values: list[float]) -> tuple[StageRange, ...]:
        """Read the pipeline from the variables' values."""
        chosen = sorted((i, j, d) for (d, i, j), y in self.y.items() if values[y] > 0.5)
        return tuple(StageRange(d, i, j) for i, j, d in chosen)


def _times(terms: Terms, factor: float) -> Terms:
    return [(column, factor * value) for column, value in terms if value != 0.0]


def _group(variables: dict[Any, int], key: Callable[[Any], Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, column in variables.items():
        groups.setdefault(key(index), []).append(column)
    return groups


def _scale(blocks: Blocks, goal: Goal) -> float:
    """Return the factor that brings a typical value of the goal to 1,000."""
    problem, typical = blocks.problem, goal.stages
    if goal.price:
        typical += goal.price * float(problem.price_per_hour.max())
    if goal.latency or goal.bottleneck:
        name, share = ("cycle", 1.0 / problem.num_devices) if goal.bottleneck else ("latency", goal.latency)
        typical += share * float(blocks.prefix[name][:, -1].min())
        if blocks.links:
            typical += share * float(np.mean([blocks.link_s(name, *link) for link in blocks.links]))
    return 1000.0 / typical if typical > 0.0 else 1.0


# ------------------------------------------------------------------------------------------------------- the engines


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """Values by column (None: no solution found), dual bound of the scaled objective, infeasibility proven."""

    values: list[float] | None
    bound: float
    infeasible: bool = False


def run_highs(model: Model, seconds: float | None) -> EngineAnswer:
    """Solve with SciPy's HiGHS, without a gap."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    width = len(model.columns.names)
    cost = np.zeros(width)
    for column, value in model.objective:
        cost[column] += value
    entries = [(number, column, value) for number, row in enumerate(model.rows) for column, value in row.terms]
    rows, columns, data = zip(*entries, strict=True)
    matrix = csr_array((np.array(data, dtype=float), (rows, columns)), shape=(len(model.rows), width))
    lower, upper = np.array([row.lower for row in model.rows]), np.array([row.upper for row in model.rows])
    answer = milp(
        cost,
        integrality=np.array(model.columns.integer, dtype=np.int64),
        bounds=Bounds(np.zeros(width), np.array(model.columns.upper)),
        constraints=LinearConstraint(matrix, lower, upper),
        options={"mip_rel_gap": 0.0, "time_limit": math.inf if seconds is None else seconds},
    )
    values = None if answer.x is None else answer.x.tolist()
    bound = answer.fun if answer.status == 0 and answer.mip_dual_bound is None else answer.mip_dual_bound
    return EngineAnswer(values, -math.inf if bound is None else float(bound), answer.status == 2)


def to_pulp(model: Model) -> tuple[Any, list[Any]]:
    """Return the model as a PuLP problem, and its variables by column."""
    pulp = import_pulp()
    lp = pulp.LpProblem("gpuplan_placement", pulp.LpMinimize)
    make = getattr(lp, "add_variable", pulp.LpVariable)  # PuLP before 3.3 has the class alone
    columns = model.columns
    variables = [
        make(name, 0, None if math.isinf(upper) else upper, pulp.LpInteger if integer else pulp.LpContinuous)
        for name, upper, integer in zip(columns.names, columns.upper, columns.integer, strict=True)
    ]
    lp.setObjective(pulp.lpSum(value * variables[column] for column, value in model.objective))
    for row in model.rows:
        left = pulp.lpSum(value * variables[column] for column, value in row.terms)
        lp += (left == row.upper if row.lower == row.upper else left <= row.upper), row.name
    return lp, variables


def _cbc(pulp: Any, **options: Any) -> Any:
    """Return the CBC that PuLP brings along, or one on the path."""
    path = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    solver = pulp.COIN_CMD(path=path, **options)
    if not solver.available():
        raise SolverUnavailableError("the cbc engine needs CBC, which is not installed; run pip install 'pulp<4'")
    return solver


def run_cbc(model: Model, seconds: float | None, threads: int, seed: int) -> EngineAnswer:
    """Solve with CBC in a process of its own; what it proved is in its log."""
    pulp = import_pulp()
    lp, variables = to_pulp(model)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        solver = _cbc(
            pulp,
            msg=False,
            timeLimit=seconds,
            threads=threads if threads > 1 else None,
            gapRel=0.0,
            logPath=str(log),
            options=[f"randomCbcSeed {seed + 1}"],
        )
        try:
            lp.solve(solver)
        except pulp.PulpSolverError:  # it crashed or printed garbage: nothing is known
            return EngineAnswer(None, -math.inf)
        text = log.read_text(errors="replace") if log.exists() else ""
    if lp.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        infeasible = lp.status == pulp.LpStatusInfeasible and "infeasible" in text and "time limit" not in text
        return EngineAnswer(None, _logged_bound(text), infeasible)
    values = [float(variable.varValue or 0.0) for variable in variables]
    if "Optimal solution found" in text:
        return EngineAnswer(values, float(lp.objective.value() or 0.0))
    return EngineAnswer(values, _logged_bound(text))


def _logged_bound(text: str) -> float:
    found = re.findall(r"Lower bound:\s*(-?[0-9.]+(?:e[+-]?[0-9]+)?)", text)
    # CBC prints three digits: take the rounding off.
    return float(found[-1]) - 5e-4 if found else -math.inf


# -------------------------------------------------------------------------------------------------------- the method


def _minimise(
    problem: DensePlacement, goal: Goal, stages: int | None, budget: Budget, engine: Engine, seed: int
) -> Step:
    """Build and solve one model, M a number."""
    blocks = make_blocks(problem)
    starts, ends = {i for _, i, _ in blocks.blocks}, {j for *_, j in blocks.blocks}
    if 0 not in starts or problem.num_layers not in ends:
        return Step(None, math.inf, infeasible=True)
    if budget.exhausted():
        return Step(None, -math.inf)
    budget.spend(1)
    model = Model(blocks, goal, stages)
    seconds = None if math.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01)
    answer = run_highs(model, seconds) if engine == "highs" else run_cbc(model, seconds, budget.limits.threads, seed)
    if answer.infeasible:
        return Step(None, math.inf, infeasible=True)
    plan = None if answer.values is None else model.stages(answer.values)
    if plan is not None and broken_rule(problem, plan) is not None:
        plan = None  # holds within the engine's tolerances only
    return Step(plan, answer.bound / model.scale)


def solve(
    problem: DensePlacement, limits: Limits, seed: int = 0, *, engine: Engine | None = None
) -> Result[PlacementSolution]:
    """Solve the block/link model.

    Parameters
    ----------
    problem
        Objectives latency, bottleneck, efficiency, cost, balanced; no front.
    limits
        Time is shared by the steps of an objective; threads reach CBC only; a cancel is seen between steps.
    seed
        Seed of CBC; HiGHS runs with its fixed default.
    engine
        ``highs`` or ``cbc``; None takes HiGHS where SciPy is installed.

    Returns
    -------
    Result
        ``optimal`` when plan and bound agree within 1e-6, ``feasible`` with the bound and gap so far, ``infeasible``
        (proven by the engine), ``no_solution`` at a limit.

    Raises
    ------
    UnsupportedError
        Other objectives, fronts, and models of over 150,000 variables.
    SolverUnavailableError
        PuLP or the engine is not installed.
    """
    check_supported(problem, "milp-blocks")
    refuse_large(problem, "milp-blocks", MAX_VARIABLES)
    chosen: Engine = engine or default_engine()
    budget = Budget(limits)

    def minimize(goal: Goal) -> Step:
        return over_stage_counts(problem, goal, lambda p, g, k: _minimise(p, g, k, budget, chosen, seed))

    answer = solve_objective(problem, minimize)
    report = Report(
        "milp-blocks",
        seed=seed,
        wall_time_s=time.perf_counter() - budget.started,
        work=budget.work,
        bound_kind=f"dual bound of {chosen}",
        options={"engine": chosen},
    )
    return conclude(problem, "milp-blocks", answer, budget, report)


def write_model(problem: DensePlacement, path: str | Path) -> None:
    """Write the model as ``.lp`` or ``.mps`` (of a pair and of balanced: its first step).

    Raises
    ------
    UsageError
        Another suffix, or a place that cannot be written.
    UnsupportedError
        As in `solve`, and for micro-batches that follow the stages (there is one model per number of stages).
    """
    check_supported(problem, "milp-blocks")
    refuse_large(problem, "milp-blocks", MAX_VARIABLES)
    if problem.micro_batches == "stages":
        raise UnsupportedError("one model has one number of micro-batches; give --micro-batches a number to write it")
    target = Path(path)
    if target.suffix not in (".lp", ".mps"):
        raise UsageError(f"expected a model file that ends in .lp or .mps, got {target.name!r}")
    goal = {"bottleneck": BOTTLENECK, "efficiency": STAGES, "cost": PRICE}.get(problem.objective.name, LATENCY)
    lp, _ = to_pulp(Model(make_blocks(problem), goal, None))
    try:
        (lp.writeLP if target.suffix == ".lp" else lp.writeMPS)(str(target))
    except OSError as error:
        raise UsageError(f"cannot write the model to {target}: {error.strerror or error}") from error
