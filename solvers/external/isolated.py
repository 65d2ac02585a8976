"""Linear models solved by HiGHS or CBC in a process of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuplan.errors import SolverUnavailableError
from gpuplan.solvers.external.linear import FloatArray, LinearAnswer, LinearModel
from gpuplan.solvers.external.worker import Event, Reply, worker_for

if TYPE_CHECKING:
    from gpuplan.solvers.external.child import Channel

LinearEngine = Literal["highs", "cbc"]
LIBRARIES: dict[str, str] = {"highs": "HiGHS", "cbc": "CBC"}
#: Part of the time that is kept for reading the answer back.
READ_BACK_S = 0.02

OnProgress = Callable[[float | None, float], None]


class Best:
    """The best point and bound a child has told so far."""

    def __init__(self) -> None:
        self.x: list[float] | None = None
        self.bound = -math.inf

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if event.get("event") == "improved":
            self.bound = max(self.bound, float(event["bound"]))
            if event.get("x") is not None:
                self.x = event["x"]


def solve_isolated(
    engine: LinearEngine,
    model: LinearModel,
    seconds: float | None,
    *,
    start: FloatArray | None = None,
    threads: int = 1,
    seed: int = 0,
    cancel: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> LinearAnswer:
    """Minimise a model in a child process.

    Parameters
    ----------
    engine
        ``highs`` or ``cbc``.
    seconds
        Hard limit, the start of the process included; None: no limit.
    start
        A feasible point.
    cancel
        Asked every 20 ms: the child stops with what it has.
    on_progress
        Called with the value of each better point (None: none yet) and the bound.

    Raises
    ------
    SolverUnavailableError
        The engine is not installed.
    """
    best = Best()

    def heard(event: Event) -> None:
        best(event)
        if on_progress is not None:
            on_progress(None if best.x is None else model.value(best.x), best.bound)

    until = None if seconds is None else time.monotonic() + seconds  # one clock for all processes of a machine
    payload = {"engine": engine, "model": model, "until": until, "start": start, "threads": threads, "seed": seed}
    with worker_for(LIBRARIES[engine]) as worker:
        reply = worker.run(
            "gpuplan.solvers.external.isolated:work", payload, seconds=seconds, cancel=cancel, on_event=heard
        )
    return read_reply(reply, best, LIBRARIES[engine])


def read_reply(reply: Reply, best: Best, library: str) -> LinearAnswer:
    """Return the answer of a child, or the best of what it told before it ended."""
    if reply.kind == "SolverUnavailableError":
        raise SolverUnavailableError(reply.note)
    x = None if best.x is None else np.asarray(best.x, dtype=np.float64)
    if reply.outcome == "failed":
        note = reply.note if library in reply.note else f"{library} failed: {reply.note}"
        return LinearAnswer("failed", x, best.bound, note)
    if reply.outcome == "stopped":
        note = f"{library} was stopped at its limit"
        return LinearAnswer("no_solution" if x is None else "feasible", x, best.bound, note)
    answer = reply.answer
    try:
        assert answer is not None
        point = None if answer["x"] is None else np.asarray(answer["x"], dtype=np.float64)
        return LinearAnswer(answer["status"], point, float(answer["bound"]), str(answer["note"]))
    except (AssertionError, KeyError, TypeError, ValueError):
        return LinearAnswer("failed", x, best.bound, f"{library} answered with something that is no solution")


def seconds_left(until: float | None) -> float | None:
    """Return how long an engine in a child may run, s."""
    return None if until is None else max(until - time.monotonic() - READ_BACK_S, 0.01)


def work(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Solve a model; runs in the child."""
    engine, model, start = payload["engine"], payload["model"], payload["start"]
    if engine == "highs":
        import scipy.optimize  # noqa: F401  # loaded before the clock is read: it takes half a second
    seconds = seconds_left(payload["until"])
    if engine == "highs":
        from gpuplan.solvers.external import highs

        answer = highs.solve(
            model,
            seconds,
            start=start,
            threads=payload["threads"],
            cancel=channel.stopped,
            on_improvement=channel.improved,
        )
    elif engine == "cbc":
        from gpuplan.solvers.external import cbc

        answer = cbc.solve(
            model,
            seconds,
            start=start,
            threads=payload["threads"],
            seed=payload["seed"],
            cancel=channel.stopped,
            on_improvement=channel.improved,
        )
    else:
        raise SolverUnavailableError(f"expected one of the engines {', '.join(LIBRARIES)}, got {engine!r}")
    x = None if answer.x is None else [float(value) for value in answer.x]
    return {"status": answer.status, "x": x, "bound": answer.bound, "note": answer.note}
