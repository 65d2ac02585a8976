"""What ``solve`` does around any solver: where its answer goes, and how it is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import SearchOptions
from gpuplan.cli.output import Output, check_writable, to_json, write_text
from gpuplan.cli.solving import Search, show_notes, write_stats


def open_output(output_path: Path | None, search: SearchOptions, form: str) -> Output:
    """Return where the answer is printed, once every file asked for can be written."""
    for path in (output_path, search.stats, search.write_model):
        check_writable(path)
    return Output(data=output_path is None or form == "json")


def print_solution(
    run: Search,
    document: dict[str, Any],
    output_path: Path | None,
    output: Output,
    stats: str | None,
    view: Callable[[], Sequence[Any]],
    *,
    objective: str,
    what: str = "solution",
) -> int:
    """Write and print an answer with its certificate; return the exit code.

    Parameters
    ----------
    run, document
        The answer, and its file.
    output_path, stats
        Where file and statistics go, or None.
    view
        Makes the tables of a plan, where there is one to show.
    objective, what
        What was optimised, and what the plan is called.
    """
    from gpuplan.cli.certificate import certificate

    show_notes(run, output)
    write_stats(stats, run, "solve")
    if run.result.plan is None:
        output.document(document)
        return run.exit_code()
    if output_path is not None:
        write_text(output_path, to_json(document))
    output.document(document)
    output.show(*view(), "", certificate(run.result, objective, what=what, stopped=run.stopped))
    return ExitCode.DONE
