"""``gpuplan export``: a plan in the words of a runtime."""

from __future__ import annotations

from pathlib import Path

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import output_option
from gpuplan.cli.output import Output, check_writable, write_text


@click.command("export")
@click.argument("plan")
@click.option("--to", "runtime", metavar="RUNTIME", required=True, help="See gpuplan list runtimes.")
@output_option("Write here instead of to stdout.")
def export_command(plan: str, runtime: str, output_path: Path | None) -> int:
    """Write PLAN as what RUNTIME reads: lines to paste, or a file for it."""
    from gpuplan.cli.inputs import check_runtime
    from gpuplan.plans import export, load_plan

    check_runtime(runtime)
    check_writable(output_path)
    text = export(load_plan(plan), runtime)
    text = text if text.endswith("\n") else text + "\n"
    if output_path is None:
        click.echo(text, nl=False)
        return ExitCode.DONE
    write_text(output_path, text)
    Output(data=False).show(f"wrote {output_path}")
    return ExitCode.DONE
