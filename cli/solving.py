"""Running a search with Ctrl-C, progress and limits, and what its end means for the exit code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpuplan.cli.errors import ExitCode, InterruptedSearchError, say_error
from gpuplan.cli.interrupt import Interrupt
from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import Output, to_json, write_text
from gpuplan.cli.progress import SearchProgress

if TYPE_CHECKING:
    from gpuplan.solvers.limits import Limits, Progress
    from gpuplan.solvers.result import Result


class Search:
    """One run of a solver from the command line: the result, and how it ended."""

    def __init__(self, result: Result[Any], *, interrupted: bool, options: SearchOptions) -> None:
        self.result = result
        self.interrupted = interrupted
        self._options = options

    @property
    def seconds_to_explain(self) -> float:
        """Return how long an explanation may take: what the search left of its time, a twentieth of it at least."""
        limit = self._options.time_limit
        return max(limit - self.result.report.wall_time_s, 0.05 * limit)

    def add_reason(self, sentence: str | None) -> None:
        """Add what is known beside the solver's own reasons."""
        if sentence is not None:
            self.result = replace(self.result, reasons=(*self.result.reasons, sentence))

    @property
    def stopped(self) -> str:
        """Return what ended the search before its proof, or an empty string."""
        if self.result.status not in ("feasible", "no_solution"):
            return ""
        if self.interrupted:
            return "Ctrl-C"
        if self.result.report.wall_time_s >= 0.9 * self._options.time_limit:
            return f"the time limit of {self._options.time_limit:g} s"
        work_limit = self._options.work_limit
        if work_limit is not None and self.result.report.work >= work_limit:
            return f"the work limit of {work_limit}"
        return ""

    def exit_code(self) -> ExitCode:
        """Return the exit code; without a plan, say why on stderr in one line."""
        if self.result.plan is not None:
            return ExitCode.DONE
        if self.result.status == "infeasible":
            say_error("no plan exists (proven): " + ("; ".join(self.result.reasons) or "no reason was recorded"))
            return ExitCode.INFEASIBLE
        if self.interrupted:
            raise InterruptedSearchError("interrupted before a plan was found")
        if self.result.reasons:  # a rule of thumb fails for a reason of its own
            say_error(f"no plan was found: {'; '.join(self.result.reasons)}")
            return ExitCode.NO_SOLUTION
        limit = self.stopped or "a limit"
        say_error(f"no plan was found before {limit} was reached; allow more with --time-limit or --work-limit")
        return ExitCode.NO_SOLUTION


def run_search(
    call: Callable[..., Result[Any]], problem: Any, options: SearchOptions, objective: str, **more: Any
) -> Search:
    """Call a solver with the limits of the command line, Ctrl-C as its ``cancel`` and progress on a terminal."""
    if options.memory_limit is not None:
        more["memory_limit_bytes"] = options.memory_limit
    seconds = objective in ("latency", "bottleneck", "throughput")
    with Interrupt() as interrupt, SearchProgress("searching", seconds=seconds) as progress:
        result = call(
            problem,
            solver=options.solver,
            time_limit_s=options.time_limit,
            work_limit=options.work_limit,
            threads=options.threads,
            seed=options.seed,
            cancel=interrupt,
            on_progress=progress,
            **more,
        )
    return Search(result, interrupted=interrupt.requested, options=options)


def search_limits(
    options: SearchOptions,
    cancel: Callable[[], bool] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Limits:
    """Return the limits of the command line as solvers take them."""
    from gpuplan.solvers.limits import Limits

    return Limits(
        options.time_limit, options.work_limit, options.threads, cancel, on_progress, options.memory_limit
    )  # fmt: skip


def failure_document(result: Result[Any]) -> dict[str, Any]:
    """Return what JSON output says when there is no plan."""
    return {
        "status": result.status,
        "reasons": list(result.reasons),
        "result": {
            "status": result.status,
            "objective": None,
            "bound": value_to_json(result.bound),
            "gap": None,
            "solver": result.report.solver,
            "seed": result.report.seed,
        },
    }


def value_to_json(value: Any) -> Any:
    """Return an objective value as JSON knows it: pairs as lists, infinity as null."""
    if isinstance(value, tuple | list):
        return [value_to_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_stats(path: str | None, search: Search, command: str, extra: Mapping[str, Any] | None = None) -> None:
    """Write times and work as JSON, apart from the plan, which holds no wall times."""
    if path is None:
        return
    result, report = search.result, search.result.report
    document = {
        "schema": "gpuplan/stats/1",
        "command": command,
        "status": result.status,
        "objective": value_to_json(result.objective),
        "bound": value_to_json(result.bound),
        "gap": value_to_json(result.gap),
        "solver": report.solver,
        "seed": report.seed,
        "wall_time_s": report.wall_time_s,
        "work": report.work,
        "interrupted": search.interrupted,
        "options": {key: value_to_json(value) for key, value in report.options.items()},
        "bound_kind": report.bound_kind,
        "proof": report.proof,
        "failure": report.failure,
        "notes": list(report.notes),
        **(extra or {}),
    }
    write_text(path, to_json(document))


def show_notes(search: Search, output: Output) -> None:
    """Tell what the solver remarked, unless the certificate below a plan says it."""
    if search.result.plan is None:
        for note in search.result.report.notes:
            output.note(note)
