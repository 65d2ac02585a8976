"""Linear models as PuLP models: for CBC, and for written `.lp` and `.mps` files.

PuLP imports `highspy` where it is installed, which must not meet OR-Tools in one process: it is hidden meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpuplan.errors import SolverUnavailableError, UsageError
from gpuplan.solvers.external.linear import LinearModel

_IMPORT_LOCK = threading.Lock()


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
        raise SolverUnavailableError(
            "CBC and written models need PuLP, which is not installed; run pip install pulp"
        ) from error
    return pulp


def to_pulp(model: LinearModel, name: str = "gpuplan_placement") -> tuple[Any, list[Any]]:
    """Return the model as a PuLP problem, and its variables in their order."""
    pulp = import_pulp()
    lp = pulp.LpProblem(name, pulp.LpMinimize)
    make = getattr(lp, "add_variable", pulp.LpVariable)  # PuLP before 3.3 has the class alone
    names = model.names or [f"x{k}" for k in range(model.num_variables)]
    variables = [
        make(
            text,
            None if math.isinf(lower) else lower,
            None if math.isinf(upper) else upper,
            pulp.LpInteger if whole else pulp.LpContinuous,
        )
        for text, lower, upper, whole in zip(
            names, model.lower.tolist(), model.upper.tolist(), model.integer.tolist(), strict=True
        )
    ]
    lp.setObjective(pulp.LpAffineExpression([(variables[k], v) for k, v in enumerate(model.cost.tolist()) if v]))
    for text, expression, low, high in _rows(pulp, model, variables):
        if low == high:
            lp += expression == high, text
            continue
        if not math.isinf(high):
            lp += expression <= high, text
        if not math.isinf(low):
            lp += expression >= low, text if math.isinf(high) else f"{text}_low"
    return lp, variables


def _rows(pulp: Any, model: LinearModel, variables: list[Any]) -> Iterator[tuple[str, Any, float, float]]:
    """Yield each row: its name, its left side, its two sides."""
    starts, columns, values = model.starts.tolist(), model.columns.tolist(), model.values.tolist()
    names = model.row_names or [f"r{k}" for k in range(model.num_rows)]
    for row, name in enumerate(names):
        span = range(starts[row], starts[row + 1])
        expression = pulp.LpAffineExpression([(variables[columns[k]], values[k]) for k in span])
        yield name, expression, float(model.row_lower[row]), float(model.row_upper[row])


def write_linear(model: LinearModel, path: str | Path) -> None:
    """Write a model as ``.lp`` or ``.mps``; UsageError for another suffix or a place that cannot be written."""
    target = Path(path)
    if target.suffix not in (".lp", ".mps"):
        raise UsageError(f"expected a model file that ends in .lp or .mps, got {target.name!r}")
    lp, _ = to_pulp(model)
    try:
        (lp.writeLP if target.suffix == ".lp" else lp.writeMPS)(str(target))
    except OSError as error:
        raise UsageError(f"cannot write the model to {target}: {error.strerror or error}") from error
