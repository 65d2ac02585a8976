"""Mixed-integer models row by row, on the HiGHS inside SciPy or, as PuLP models, on CBC."""

from __future__ import annotations

import importlib.util
import math
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpuplan.errors import SolverUnavailableError
from gpuplan.solvers.external.pulp_models import import_pulp
from gpuplan.solvers.limits import Budget

Engine = Literal["highs", "cbc"]
Terms = list[tuple[int, float]]  # (column, coefficient)


def default_engine() -> Engine:
    """Return ``highs`` where SciPy is installed, else ``cbc``."""
    return "highs" if importlib.util.find_spec("scipy") is not None else "cbc"


@dataclass(slots=True)
class LinearModel:
    """min Σ cost, rows lower ≤ Σ terms ≤ upper, variables between 0 and their upper ends."""

    names: list[str] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: Terms = field(default_factory=list)
    rows: list[tuple[Terms, float, float]] = field(default_factory=list)

    def add(self, name: str, upper: float, *, integer: bool = False) -> int:
        """Make a variable and return its column."""
        self.names.append(name)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.names) - 1

    def row(self, terms: Terms, lower: float, upper: float) -> None:
        """Add a constraint."""
        self.rows.append((terms, lower, upper))


@dataclass(frozen=True, slots=True)
class Found:
    """Values by column (None: no solution found) and the dual bound (−inf: none)."""

    values: list[float] | None
    bound: float


def run(model: LinearModel, engine: Engine, budget: Budget, seed: int) -> Found:
    """Solve without a gap until the budget ends."""
    budget.spend(1)
    seconds = None if math.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01)
    return _highs(model, seconds) if engine == "highs" else _cbc(model, seconds, budget.limits.threads, seed)


def _highs(model: LinearModel, seconds: float | None) -> Found:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    cost = np.zeros(len(model.names))
    for column, value in model.cost:
        cost[column] += value
    sizes = [len(terms) for terms, _, _ in model.rows]
    columns = np.array([column for terms, _, _ in model.rows for column, _ in terms], dtype=np.int64)
    data = np.array([value for terms, _, _ in model.rows for _, value in terms], dtype=np.float64)
    matrix = csr_array((data, columns, np.cumsum([0, *sizes])), shape=(len(sizes), len(model.names)))
    lower, upper = (np.array([row[side] for row in model.rows]) for side in (1, 2))
    found = milp(
        cost,
        integrality=np.array(model.integer, dtype=np.int64),
        bounds=Bounds(np.zeros(len(model.names)), np.array(model.upper)),
        constraints=LinearConstraint(matrix, lower, upper),
        options={"mip_rel_gap": 0.0, "time_limit": math.inf if seconds is None else seconds},
    )
    bound = found.fun if found.status == 0 and found.mip_dual_bound is None else found.mip_dual_bound
    return Found(None if found.x is None else found.x.tolist(), -math.inf if bound is None else float(bound))


def to_pulp(model: LinearModel) -> tuple[Any, list[Any]]:
    """Return the model as a PuLP problem, and its variables by column."""
    pulp = import_pulp()
    lp = pulp.LpProblem("gpuplan_batching", pulp.LpMinimize)
    make = getattr(lp, "add_variable", pulp.LpVariable)  # PuLP before 3.3 has the class alone
    variables = [
        make(name, 0, None if math.isinf(upper) else upper, pulp.LpInteger if integer else pulp.LpContinuous)
        for name, upper, integer in zip(model.names, model.upper, model.integer, strict=True)
    ]
    lp.setObjective(pulp.lpSum(value * variables[column] for column, value in model.cost))
    for number, (terms, lower, upper) in enumerate(model.rows):
        left = pulp.LpAffineExpression([(variables[column], value) for column, value in terms])
        if lower == upper:
            lp += left == lower, f"r{number}"
        elif math.isinf(upper):
            lp += left >= lower, f"r{number}"
        else:
            lp += left <= upper, f"r{number}"
    return lp, variables


def _cbc(model: LinearModel, seconds: float | None, threads: int, seed: int) -> Found:
    """Solve with CBC in a process of its own; what it proved is in its log."""
    pulp = import_pulp()
    lp, variables = to_pulp(model)
    path = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        solver = pulp.COIN_CMD(
            path=path,
            msg=False,
            timeLimit=seconds,
            threads=threads if threads > 1 else None,
            gapRel=0.0,
            logPath=str(log),
            options=[f"randomCbcSeed {seed + 1}"],
        )
        if not solver.available():
            raise SolverUnavailableError("the cbc engine needs CBC, which is not installed; run pip install 'pulp<4'")
        try:
            lp.solve(solver)
        except pulp.PulpSolverError:  # it crashed or printed garbage: nothing is known
            return Found(None, -math.inf)
        text = log.read_text(errors="replace") if log.exists() else ""
    if lp.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return Found(None, _logged_bound(text))
    values = [float(variable.varValue or 0.0) for variable in variables]
    if "Optimal solution found" in text:
        return Found(values, float(lp.objective.value() or 0.0))
    return Found(values, _logged_bound(text))


def _logged_bound(text: str) -> float:
    found = re.findall(r"Lower bound:\s*(-?[0-9.]+(?:e[+-]?[0-9]+)?)", text)
    # CBC prints three digits: take the rounding off.
    return float(found[-1]) - 5e-4 if found else -math.inf
