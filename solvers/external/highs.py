"""HiGHS, the copy inside SciPy: with a start, improving points and interrupts where SciPy's own binding offers them.

`scipy.optimize.milp` offers none of the three. The binding beneath it (SciPy 1.15 and later) does; where it is missing
or differs, `milp` is called, and only the end is known.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuplan.errors import SolverUnavailableError
from gpuplan.solvers.external.linear import FloatArray, LinearAnswer, LinearModel, LinearStatus, OnImprovement


def solve(
    model: LinearModel,
    seconds: float | None,
    *,
    start: FloatArray | None = None,
    threads: int | None = None,
    cancel: Callable[[], bool] | None = None,
    on_improvement: OnImprovement | None = None,
) -> LinearAnswer:
    """Minimise a model to a gap of 0.

    Parameters
    ----------
    model
        Any size.
    seconds
        Wall time, or None.
    start
        A feasible point.
    threads
        None keeps the default of the process (HiGHS has one pool of threads a process).
    cancel, on_improvement
        Asked, and told, between HiGHS's own steps.
    """
    binding = _binding()
    if binding is None:
        return _by_milp(model, seconds)
    return _Run(binding, model, start, cancel, on_improvement).solve(seconds, threads)


def _binding() -> Any:
    """Return SciPy's own binding of HiGHS where it has callbacks and starts, else None."""
    try:
        binding: Any = importlib.import_module("scipy.optimize._highspy._core")
    except ImportError:
        return None
    kinds = getattr(getattr(binding, "cb", None), "HighsCallbackType", None)
    needed = (hasattr(binding._Highs, "setCallback"), hasattr(binding._Highs, "setSolution"))
    return binding if all(needed) and hasattr(kinds, "kCallbackMipInterrupt") else None


class _Run:
    """One run of HiGHS through SciPy's binding."""

    def __init__(
        self,
        binding: Any,
        model: LinearModel,
        start: FloatArray | None,
        cancel: Callable[[], bool] | None,
        on_improvement: OnImprovement | None,
    ) -> None:
        self._binding, self._model = binding, model
        self._cancel, self._tell = cancel, on_improvement
        self._bound = -math.inf
        self._highs = binding._Highs()
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("mip_rel_gap", 0.0)
        self._highs.passModel(self._lp())
        if start is not None:
            point = binding.HighsSolution()
            point.col_value = start.tolist()
            self._highs.setSolution(point)

    def _lp(self) -> Any:
        from scipy.sparse import csr_array

        model, lp = self._model, self._binding.HighsLp()
        shape = (model.num_rows, model.num_variables)
        matrix = csr_array((model.values, model.columns, model.starts), shape=shape).tocsc()
        lp.num_col_ = lp.a_matrix_.num_col_ = model.num_variables
        lp.num_row_ = lp.a_matrix_.num_row_ = model.num_rows
        lp.a_matrix_.format_ = self._binding.MatrixFormat.kColwise
        lp.a_matrix_.start_ = matrix.indptr.astype(np.int32)
        lp.a_matrix_.index_ = matrix.indices.astype(np.int32)
        lp.a_matrix_.value_ = matrix.data
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = model.cost, model.lower, model.upper
        lp.row_lower_, lp.row_upper_ = model.row_lower, model.row_upper
        kinds = self._binding.HighsVarType
        lp.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in model.integer]
        return lp

    def solve(self, seconds: float | None, threads: int | None) -> LinearAnswer:
        """Run and read the answer."""
        if seconds is not None:
            self._highs.setOptionValue("time_limit", float(seconds))
        if threads is not None:
            self._highs.setOptionValue("threads", int(threads))
        if self._cancel is not None or self._tell is not None:
            self._listen()
        self._highs.run()
        return self._answer()

    def _listen(self) -> None:
        kinds = self._binding.cb.HighsCallbackType
        wanted = ("kCallbackMipImprovingSolution", "kCallbackMipInterrupt", "kCallbackSimplexInterrupt")
        improving = kinds.kCallbackMipImprovingSolution
        last_told = time.monotonic()

        def called(kind: int, message: str, said: Any, answer: Any, data: object) -> None:
            nonlocal last_told
            if kind == improving:
                self._improved(np.array(said.mip_solution, dtype=np.float64), said.mip_dual_bound)
            elif kind == kinds.kCallbackMipInterrupt and time.monotonic() - last_told > 0.1:
                last_told = time.monotonic()
                self._improved(None, said.mip_dual_bound)
            if kind != improving and self._cancel is not None and self._cancel():
                answer.user_interrupt = True

        self._called = called  # the binding keeps no reference of its own
        self._highs.setCallback(called, None)
        for name in wanted:
            if hasattr(kinds, name):
                self._highs.startCallback(getattr(kinds, name))

    def _improved(self, x: FloatArray | None, bound: float) -> None:
        if self._tell is not None and (x is not None or bound > self._bound):
            self._bound = max(self._bound, bound)
            self._tell(x, self._bound)

    def _answer(self) -> LinearAnswer:
        statuses, info = self._binding.HighsModelStatus, self._highs.getInfo()
        status = self._highs.getModelStatus()
        if status == statuses.kInfeasible:
            return LinearAnswer("infeasible", None, math.inf)
        x = None
        if int(info.primal_solution_status) == 2:  # a feasible point
            x = np.array(self._highs.getSolution().col_value, dtype=np.float64)
        whole = bool(self._model.integer.any())
        bound = float(info.mip_dual_bound) if whole else -math.inf
        if x is not None and status == statuses.kOptimal:
            value = float(info.objective_function_value)
            return LinearAnswer("optimal", x, min(bound, value) if whole and math.isfinite(bound) else value)
        bound = bound if math.isfinite(bound) and bound > -1e300 else -math.inf
        note = f"HiGHS stopped: {self._highs.modelStatusToString(status)}"
        return LinearAnswer("feasible" if x is not None else "no_solution", x, bound, note)


def _by_milp(model: LinearModel, seconds: float | None) -> LinearAnswer:
    """Solve through SciPy's public call."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise SolverUnavailableError("HiGHS comes with SciPy, which is not installed; pip install scipy") from error

    shape = (model.num_rows, model.num_variables)
    matrix: Any = csr_array((model.values, model.columns, model.starts), shape=shape)
    answer = milp(
        model.cost,
        integrality=model.integer.astype(np.int64),
        bounds=Bounds(model.lower, model.upper),
        constraints=LinearConstraint(matrix, model.row_lower, model.row_upper),
        options={"mip_rel_gap": 0.0, "time_limit": math.inf if seconds is None else seconds},
    )
    if answer.status == 2:
        return LinearAnswer("infeasible", None, math.inf)
    bound = answer.fun if answer.status == 0 and answer.mip_dual_bound is None else answer.mip_dual_bound
    lower = -math.inf if bound is None else float(bound)
    status: LinearStatus = "no_solution" if answer.x is None else "optimal" if answer.status == 0 else "feasible"
    x = None if answer.x is None else np.asarray(answer.x, dtype=np.float64)
    return LinearAnswer(status, x, lower, "" if answer.status == 0 else str(answer.message))
