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
@click.option("--model", metavar="NAME", help="What the runtime is to load: a path or repository id.")
def export_command(plan: str, runtime: str, output_path: Path | None, model: str | None) -> int:
    """Write PLAN as what RUNTIME reads: lines to paste, or a file for it."""
    from gpuplan.cli.inputs import check_name
    from gpuplan.plans import export_details, list_runtimes, load_plan
    from gpuplan.plans.kinds import document_kind

    output = Output(data=output_path is None)
    check_name(runtime, [known.name for known in list_runtimes()], "runtime")
    check_writable(output_path)
    if document_kind(plan) == "gpuplan/deployment":
        from gpuplan.cli.deploy import export_file

        return export_file(plan, runtime, output_path, model, output)
    details = export_details(load_plan(plan), runtime, model=model)
    for note in details.notes:
        output.note(note)
    text = details.text if details.text.endswith("\n") else details.text + "\n"
    if output_path is None:
        click.echo(text, nl=False)
        return ExitCode.DONE
    write_text(output_path, text)
    output.show(f"wrote {output_path}")
    return ExitCode.DONE
