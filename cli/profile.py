"""``gpuplan profile``: where times come from: show a source, compare two, fit one to timed runs, measure one here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.groups import SuggestingGroup
from gpuplan.cli.options import ModelOptions, catalog_option, format_option, model_options, output_option
from gpuplan.cli.output import Output, check_writable, write_text
from gpuplan.cli.values import Seconds, Whole
from gpuplan.errors import InputError, UsageError

if TYPE_CHECKING:
    from gpuplan.profiles import CostProfile
    from gpuplan.profiles.fitting import FitResult
    from gpuplan.topology.graph import Device

_GPU = click.option("--gpu", "kind", metavar="KIND", help="The device kind; see gpuplan list gpus.")
_DEGREE = click.option("--tensor-parallel", "degree", type=Whole(), default=1, show_default=True, help="Devices timed.")


@click.group("profile", cls=SuggestingGroup)
def profile_group() -> None:
    """Show, compare, fit or measure cost sources.

    A SOURCE is a cost table (.yaml), a fitted profile (.json), a published table (LLMServingSim, Vidur, Helix,
    Splitwise, DistServe), aiconfigurator[:backend[:version]], or analytic.
    """


@profile_group.command("show")
@click.argument("source")
@_GPU
@format_option
def show(source: str, kind: str | None, form: str) -> int:
    """Show what SOURCE holds: which times, over which sizes, what was smoothed, how well it fits."""
    from gpuplan.cli.profile_view import source_report, source_view
    from gpuplan.profiles.cost_sources import read_source

    output = Output(data=form == "json")
    if source == "analytic":
        raise UsageError(
            "the analytic costs hold no times to show; gpuplan profile compare analytic OTHER sets them beside some"
        )
    read = read_source(source, () if kind is None else (_kind_name(kind),))
    if output.data:
        output.document(source_report(read))
    else:
        output.show(*source_view(read))
    return ExitCode.DONE


@profile_group.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("--model", required=True, metavar="MODEL", help="Whose layers: a name, or a config.json.")
@click.option("--gpu", "kind", required=True, metavar="KIND", help="On what; see gpuplan list gpus.")
@_DEGREE
@click.option("--batches", default="1,4,16,64", show_default=True, help="Batches to compare.")
@click.option("--lengths", default="128,256,512,1024,2048", show_default=True, help="Prompts and contexts to compare.")
@click.option("--costs-fallback", is_flag=True, help="Let the roofline fill in what a table does not have.")
@click.option("--plot", metavar="FILE.svg", help="Also draw one against the other.")
@model_options
@catalog_option
@format_option
def compare(
    first: str,
    second: str,
    model: str,
    kind: str,
    degree: int,
    batches: str,
    lengths: str,
    costs_fallback: bool,
    plot: str | None,
    shape: ModelOptions,
    catalog: str | None,
    form: str,
) -> int:
    """Set two cost sources beside each other on the same shapes: time of MODEL's decoder layers, error table, plot."""
    from gpuplan.cli.inputs import read_model
    from gpuplan.cli.profile_view import agreement_report, agreement_view
    from gpuplan.profiles.agreement import compare_costs

    output = Output(data=form == "json")
    check_writable(plot)
    device = _device(kind, catalog)
    left, right = (_costs(source, device, costs_fallback) for source in (first, second))
    profile = read_model(model, shape, catalog)
    agreement = compare_costs(
        left, right, profile, device, batches=_numbers(batches, "--batches"), lengths=_numbers(lengths, "--lengths"),
        tensor_parallel=degree,
    )  # fmt: skip
    if not agreement.rows:
        raise InputError(f"expected shapes that both sources have a time for, got none: {agreement.reason}")
    if plot is not None:
        pairs = {
            phase: [(row.first_s, row.second_s) for row in agreement.rows if row.phase == phase]
            for phase in ("prefill", "decode")
        }
        _draw(plot, pairs, f"{profile.name} on {device.kind.name}", first, second)
    output.document(agreement_report(agreement))
    output.show(*agreement_view(agreement, _short(first), _short(second)))
    return ExitCode.DONE


@profile_group.command("fit")
@click.argument("logs")
@output_option("Write the fitted profile here (.json).")
@click.option("--model", metavar="MODEL", help="Which model was timed: a name, or a config.json.")
@_GPU
@_DEGREE
@click.option(
    "--column", multiple=True, metavar="NAME=COLUMN", help="What the log calls batch, prompt, output, time, …"
)
@click.option("--links", is_flag=True, help="LOGS are transfers: Vidur's network CSV or NCCL-tests output.")
@click.option("--plot", metavar="FILE.svg", help="Also draw fitted against measured times.")
@format_option
def fit(
    logs: str,
    output_path: Path | None,
    model: str | None,
    kind: str | None,
    degree: int,
    column: tuple[str, ...],
    links: bool,
    plot: str | None,
    form: str,
) -> int:
    """Fit coefficients to timed runs of a whole model, with the residuals they leave.

    LOGS is CSV or Parquet with columns batch, prompt, output (tokens) and time (s, end to end); ttft and tpot (s)
    sharpen the fit. With --links: latency and bandwidth from measured transfers.
    """
    from gpuplan.cli.profile_view import fit_view
    from gpuplan.profiles.fitted import fit_from_result, fit_text, fit_to_dict
    from gpuplan.profiles.fitting import fit_runs, read_runs

    output = Output(data=form == "json")
    check_writable(output_path)
    check_writable(plot)
    if links:
        return _fit_links(logs, plot, output)
    if model is None or kind is None:
        raise UsageError("name what was timed: --model MODEL and --gpu KIND")
    result = fit_runs(read_runs(logs, _columns(column)))
    name = _model_name(model)
    made = fit_from_result(
        result, len(result.measured_s), name=f"{name} on {_kind_name(kind)}", device_kind=_kind_name(kind), model=name,
        tensor_parallel=degree, source=f"fitted to {Path(logs).name}",
    )  # fmt: skip
    if output_path is not None:
        write_text(output_path, fit_text(made))
    if plot is not None:
        _draw(plot, {"runs": _pairs(result)}, made.name, "measured", "fitted")
    output.document(fit_to_dict(made))
    output.show(*fit_view(made))
    if output_path is not None:
        output.lines("", f"wrote {output_path}; next:", f"  gpuplan map {model} CLUSTER --costs {output_path}")
    return ExitCode.DONE


@profile_group.command("measure")
@click.argument("model")
@output_option("Write the cost table here (.yaml, with a .csv beside it).", required=True)
@_GPU
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="What to run on.  [default: cuda where there is one]"
)
@click.option("--max-tokens", type=Whole(), default=2048, show_default=True, help="Most tokens of a pass.")
@click.option("--max-batch", type=Whole(), default=16, show_default=True, help="Most sequences of a decode step.")
@click.option("--max-context", type=Whole(16), default=4096, show_default=True, help="Longest context.")
@click.option("--limit", type=Seconds(), default=0.5, show_default=True, help="Seconds of one run to stop growing at.")
@model_options
@catalog_option
@format_option
def measure_command(
    model: str,
    output_path: Path,
    kind: str | None,
    device: str | None,
    max_tokens: int,
    max_batch: int,
    max_context: int,
    limit: float,
    shape: ModelOptions,
    catalog: str | None,
    form: str,
) -> int:
    """Run MODEL's operators at growing sizes on this machine with PyTorch, and write their times as a cost table."""
    from gpuplan.cli.inputs import read_model
    from gpuplan.cli.profile_view import source_report, source_view
    from gpuplan.profiles.measure import Sweep, measure
    from gpuplan.profiles.tables import save_table
    from gpuplan.profiles.tables.readers.detect import CostSource

    output = Output(data=form == "json")
    check_writable(output_path)
    if output_path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"expected a file name that ends in .yaml, got {str(output_path)!r}")
    table = measure(
        read_model(model, shape, catalog),
        device_kind=None if kind is None else _kind_name(kind),
        device=device,
        sweep=Sweep(max_tokens, max_batch, max_context, limit),
        on_progress=_tell(output),
    )
    save_table(table, output_path)
    source = CostSource(tables=(table,))
    output.document(source_report(source))
    output.show(*source_view(source))
    output.lines(
        "", f"wrote {output_path}; next:", f"  gpuplan map {model} CLUSTER --costs {output_path} --costs-fallback"
    )
    return ExitCode.DONE


def _tell(output: Output) -> Callable[[str], None] | None:
    """Return what reports progress, on a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda name: output.note(f"measuring {name}")


def _fit_links(logs: str, plot: str | None, output: Output) -> int:
    from gpuplan.cli.profile_view import links_report, links_view
    from gpuplan.profiles.link_fits import fit_link, read_transfers

    fits = [fit_link(transfers) for transfers in read_transfers(logs)]
    if plot is not None:
        pairs = {
            fit.transfers.name: list(zip(fit.transfers.seconds.tolist(), fit.predicted_s.tolist(), strict=True))
            for fit in fits
        }
        _draw(plot, pairs, Path(logs).name, "measured", "fitted")
    output.document(links_report(fits))
    output.show(links_view(fits))
    return ExitCode.DONE


def _costs(source: str, device: Device, fallback: bool) -> CostProfile:
    from gpuplan.profiles.cost_sources import load_costs

    return load_costs(() if source == "analytic" else (source,), kinds=(device.kind.name,), fallback=fallback)


def _device(kind: str, catalog: str | None) -> Device:
    from gpuplan.topology import device_kind
    from gpuplan.topology.graph import Device

    found = device_kind(kind, catalog=catalog)
    return Device("host0/gpu0", "host0", 0, found, found.memory_bytes)


def _kind_name(kind: str) -> str:
    """Return a kind's full name; one that the catalogue lacks stays as it is typed (a CPU, a board of one's own)."""
    from gpuplan.topology import device_kind

    try:
        return device_kind(kind).name
    except UsageError:
        return kind


def _model_name(model: str) -> str:
    from gpuplan.profiles import load_model

    return load_model(model).name


def _columns(pairs: tuple[str, ...]) -> dict[str, str]:
    from gpuplan.profiles.fitting import ALIASES

    chosen = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs or ours not in ALIASES:
            raise UsageError(f"expected --column NAME=COLUMN with one of {', '.join(ALIASES)}, got {pair!r}")
        chosen[ours] = theirs
    return chosen


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option}: expected whole numbers above 0 with commas between, got {text!r}")
    return [int(part) for part in parts]


def _pairs(result: FitResult) -> list[tuple[float, float]]:
    return list(zip(result.measured_s.tolist(), result.predicted_s.tolist(), strict=True))


def _draw(path: str, pairs: Any, title: str, across: str, up: str) -> None:
    from gpuplan.cli.profile_plot import agreement_svg

    write_text(path, agreement_svg(pairs, title=title, across=across, up=up))


def _short(source: str) -> str:
    return source if len(source) <= 24 else f"…{source[-23:]}"
