"""``gpuplan verify``: every number and constraint, recomputed."""

from __future__ import annotations

from typing import Any

import click

from gpuplan.cli.errors import ExitCode, say_error
from gpuplan.cli.options import format_option
from gpuplan.cli.output import Output


@click.command("verify")
@click.argument("plan")
@click.option("--problem", metavar="PROBLEM", help="The problem a SOLUTION answers.")
@format_option
def verify_command(plan: str, problem: str | None, form: str) -> int:
    """Recompute every number and constraint of PLAN independently (of a SOLUTION with --problem)."""
    from gpuplan.cli import batch_files, flow_files

    output = Output(data=form == "json")
    outcome = batch_files.verify_file(plan, problem)
    if outcome is None:
        outcome = flow_files.verify_file(plan, problem)
    if outcome is None:
        outcome = _verify_solution(plan, problem) if problem is not None else _verify_plan(plan)
    findings = [{"place": finding.place, "message": finding.message} for finding in outcome.problems]
    output.document({"ok": outcome.ok, "problems": findings})
    if outcome.ok:
        output.show(f"✔ {plan}: every number and constraint holds")
        return ExitCode.DONE
    output.show(*(f"✘ {finding['place']}: {finding['message']}" for finding in findings))
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    say_error(f"{plan} does not hold: {first['place']}: {first['message']}{more}")
    return ExitCode.VERIFICATION


def _verify_plan(path: str) -> Any:
    from gpuplan.plans import verify

    return verify(path)


def _verify_solution(path: str, problem: str) -> Any:
    from gpuplan.plans import verify_solution
    from gpuplan.profiles import load_problem

    return verify_solution(path, load_problem(problem))
