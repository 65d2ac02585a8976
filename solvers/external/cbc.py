"""CBC, the program PuLP brings along or one on the path: run with its log read as it grows.

What CBC proved stands in its log alone. Its bound is read from there, what printing rounded off taken off again; a
run that stopped early is never "optimal", whatever the solution file says. Interrupted, CBC writes its best point and
ends by itself; killed, it leaves the bound.
"""

from __future__ import annotations

import contextlib
import math
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpuplan.errors import SolverUnavailableError
from gpuplan.solvers.external.linear import FloatArray, LinearAnswer, LinearModel, OnImprovement
from gpuplan.solvers.external.pulp_models import import_pulp, to_pulp

#: How long CBC may take to write its best point once its time is over or it was interrupted, s.
GRACE_S = 0.5
_POSSIBLE = re.compile(r"best possible (-?[0-9.]+(?:e[+-]?[0-9]+)?)")
_CONTINUOUS = re.compile(r"Continuous objective value is (-?[0-9.]+(?:e[+-]?[0-9]+)?)")
_LOWER = re.compile(r"^Lower bound:\s*(-?[0-9.]+(?:e[+-]?[0-9]+)?)")
_EITHER = "Pre-processing says infeasible or unbounded"
_INFEASIBLE = re.compile(r"^(?:Result - )?(?:Problem proven|Problem is|Linear relaxation) infeasible")


def program() -> str:
    """Return the path of CBC; SolverUnavailableError where there is none."""
    pulp = import_pulp()
    path = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    solver = pulp.COIN_CMD(path=path)
    if not solver.available():
        raise SolverUnavailableError("the cbc engine needs CBC, which is not installed; run pip install 'pulp<4'")
    return str(solver.path)


class Log:
    """What CBC's log says so far.

    Attributes
    ----------
    bound
        Proven lower bound, −inf where none was printed.
    optimal, infeasible
        Whether it ended with that proof.
    either
        Whether it ended with a proof that there is no point, or that the cost falls without end.
    cut
        Whether it was interrupted or killed at its limit.
    code
        Its exit code where it ended by itself: −n when signal n killed it.
    """

    def __init__(self) -> None:
        self.bound = -math.inf
        self.optimal = self.infeasible = self.either = self.cut = False
        self.code: int | None = None
        self.last = ""

    def read(self, line: str) -> None:
        """Take one line."""
        if line.strip():
            self.last = line.strip()
        if "Result - Optimal solution found" in line:
            self.optimal = True
        if _INFEASIBLE.search(line):
            self.infeasible = True
        if line.startswith(_EITHER):
            self.either = True
        for pattern, lost in ((_POSSIBLE, 1e-9), (_CONTINUOUS, 1e-5)):
            found = pattern.search(line)
            if found:
                self._raise(float(found[1]), lost)
        found = _LOWER.search(line)
        if found:  # printed with three digits behind the point
            self.bound = max(self.bound, float(found[1]) - 5e-4)

    @property
    def broken(self) -> bool:
        """Whether a signal that was not ours killed it."""
        return self.code is not None and self.code < 0

    def failure(self) -> str:
        """Say how it ended without an answer."""
        how = "ended without an answer" + ("" if self.code is None else f" (exit code {self.code})")
        if self.broken:
            assert self.code is not None
            how = f"crashed (signal {-self.code})"
        return f"CBC {how}: " + (f"its last words were {self.last[:80]!r}" if self.last else "it printed nothing")

    def _raise(self, bound: float, lost: float) -> None:
        if abs(bound) < 1e40:
            self.bound = max(self.bound, bound - lost * max(abs(bound), 1.0))


def solve(
    model: LinearModel,
    seconds: float | None,
    *,
    start: FloatArray | None = None,
    threads: int = 1,
    seed: int = 0,
    cancel: Callable[[], bool] | None = None,
    on_improvement: OnImprovement | None = None,
    command: list[str] | None = None,
) -> LinearAnswer:
    """Minimise a model to a gap of 0.

    Parameters
    ----------
    model, seconds, start, threads, seed
        As in `isolated.solve_isolated`. Several threads need a CBC built with them.
    cancel, on_improvement
        Asked every 20 ms; told the bound alone, for CBC shows no point before its end.
    command
        The program and its first words; None: `program`.
    """
    words = command or [program()]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        names = _write(model, Path(folder), start)
        left = None if seconds is None else max(seconds - (time.monotonic() - started), 0.01)
        log = _run(_command(words, Path(folder), left, threads, seed, start is not None), left, cancel, on_improvement)
        return _answer(model, log, Path(folder) / "model.sol", names)


def _command(
    words: list[str], folder: Path, seconds: float | None, threads: int, seed: int, started: bool
) -> list[str]:
    limit = [] if seconds is None else ["-sec", f"{seconds:.3f}", "-timeMode", "elapsed"]
    many = ["-threads", str(threads)] if threads > 1 else []
    start = ["-mips", str(folder / "start.sol")] if started else []
    options = [*limit, *many, "-ratio", "0.0", "-allow", "1e-9", "-randomCbcSeed", str(seed + 1), *start]
    return [*words, str(folder / "model.mps"), *options, "-solve", "-solution", str(folder / "model.sol")]


def _write(model: LinearModel, folder: Path, start: FloatArray | None) -> dict[str, int]:
    """Write model and start; return the column of each name in the file."""
    lp, variables = to_pulp(model)
    lp.writeMPS(str(folder / "model.mps"), rename=1)
    ordered = lp.variables()
    column = {id(variable): k for k, variable in enumerate(variables)}
    names = {f"X{k:07d}": column[id(variable)] for k, variable in enumerate(ordered)}
    if start is not None:
        lines = [f"{k} {name} {start[at]:.17g} 0" for k, (name, at) in enumerate(names.items())]
        head = f"Optimal - objective value {model.value(start):.12g}"
        (folder / "start.sol").write_text("\n".join([head, *lines]) + "\n")
    return names


def _run(
    command: list[str],
    seconds: float | None,
    cancel: Callable[[], bool] | None,
    on_improvement: OnImprovement | None,
) -> Log:
    """Run CBC until it ends, is interrupted and ends, or has to be killed."""
    log = Log()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    limit = math.inf if seconds is None else time.monotonic() + seconds + min(0.05 * seconds, GRACE_S)
    asked = False
    try:
        while time.monotonic() < limit:
            if not asked and cancel is not None and cancel():
                asked, log.cut, limit = True, True, time.monotonic() + GRACE_S
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.02)
                if line is None:
                    break
                before = log.bound
                log.read(line)
                if on_improvement is not None and log.bound > before:
                    on_improvement(None, log.bound)
        else:
            log.cut = True
        if not log.cut:
            with contextlib.suppress(subprocess.TimeoutExpired):
                log.code = process.wait(1.0)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    return log


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put(None)


def _answer(model: LinearModel, log: Log, path: Path, names: dict[str, int]) -> LinearAnswer:
    if (log.infeasible or (log.either and _bounded(model))) and not log.optimal:
        return LinearAnswer("infeasible", None, math.inf)
    x = _point(model, path, names)
    if x is None:
        if not log.broken and (log.cut or log.optimal or math.isfinite(log.bound)):
            return LinearAnswer("no_solution", None, log.bound, "CBC found no solution within its limit")
        return LinearAnswer("failed", None, log.bound, log.failure())
    value = model.value(x)
    if log.optimal:
        return LinearAnswer("optimal", x, value)
    return LinearAnswer("feasible", x, min(log.bound, value), "CBC stopped at its limit")


def _bounded(model: LinearModel) -> bool:
    """Return whether no point costs less than some number: each cost pulls towards an end that there is."""
    ends = np.where(model.cost > 0.0, model.lower, np.where(model.cost < 0.0, model.upper, 0.0))
    return bool(np.isfinite(ends).all())


def _point(model: LinearModel, path: Path, names: dict[str, int]) -> FloatArray | None:
    """Read the solution file; None where there is none, or where what it says breaks the model."""
    try:
        head, *lines = path.read_text(errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    if "infeasible" in head.lower() and "integer" not in head.lower():
        return None
    x = np.zeros(model.num_variables)
    for line in lines:
        words = line.replace("**", "").split()
        if len(words) >= 3 and words[1] in names:
            with contextlib.suppress(ValueError):
                x[names[words[1]]] = float(words[2])
    return x if model.holds(x, 1e-5) else None
