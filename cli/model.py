"""``gpuplan model``: layers, weights, KV."""

from __future__ import annotations

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.groups import SuggestingGroup
from gpuplan.cli.options import ModelOptions, catalog_option, format_option, model_options
from gpuplan.cli.output import Output


@click.group("model", cls=SuggestingGroup)
def model_group() -> None:
    """Show the layers, weights and KV cache of a model."""


@model_group.command("show")
@click.argument("model")
@model_options
@catalog_option
@format_option
def show(model: str, shape: ModelOptions, catalog: str | None, form: str) -> int:
    """Show the layers, weights and KV cache of MODEL."""
    from gpuplan.cli.inputs import read_model
    from gpuplan.cli.model_view import model_report, model_view

    output = Output(data=form == "json")
    profile = read_model(model, shape, catalog)
    if output.data:
        output.document(model_report(profile))
    else:
        output.show(*model_view(profile))
    return ExitCode.DONE
