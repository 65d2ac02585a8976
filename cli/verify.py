"""``gpuplan verify``: every number and constraint, recomputed."""

from __future__ import annotations

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
    from gpuplan.plans import verify

    output = Output(data=form == "json")
    outcome = verify(plan, problem=problem)
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
