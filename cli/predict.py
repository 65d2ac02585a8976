"""``gpuplan predict``: learn output lengths from a history, say how well, predict new requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.batch_options import parse_pairs
from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import format_option, output_option
from gpuplan.cli.output import Output, check_writable, write_text
from gpuplan.cli.values import Whole
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.profiles.predictors import AccuracyReport


@click.command("predict")
@click.argument("history", metavar="HISTORY")
@click.argument("requests", metavar="[REQUESTS]", required=False)
@click.option("--buckets", metavar="EDGE,…", help="Upper edges of the buckets.  [default: 8,16,…,2048]")
@click.option("--column", multiple=True, metavar="NAME=COLUMN", help="Which column of both tables is NAME; repeatable.")
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@output_option("Write the predictions of REQUESTS here, as --predictions of gpuplan batch takes them.")
@format_option
def predict_command(
    history: str,
    requests: str | None,
    buckets: str | None,
    column: tuple[str, ...],
    seed: int,
    output_path: Path | None,
    form: str,
) -> int:
    """Learn from HISTORY, requests with their outputs, and predict the output lengths of REQUESTS.

    Accuracy is measured on the last quarter of HISTORY, which the predictor measured has not seen. Needs scikit-learn
    (the extra "predict").
    """
    from gpuplan.cli.batch_uncertain import parse_buckets
    from gpuplan.profiles.predictions import predictions_csv
    from gpuplan.profiles.predictors import accuracy_report, require_sklearn, train_bucket_predictor
    from gpuplan.profiles.requests_io import load_requests

    output = Output(data=form == "json")
    if (requests is None) != (output_path is None):
        raise UsageError("expected both REQUESTS and -o FILE, or neither for the accuracy alone")
    check_writable(output_path)
    require_sklearn("gpuplan predict")
    edges, columns = parse_buckets(buckets), parse_pairs(column, "--column")
    table = load_requests(history, columns=columns)
    report = accuracy_report(table, buckets=edges, seed=seed)
    if requests is not None and output_path is not None:
        asked = load_requests(requests, columns=columns, outputs=False)
        predictor = train_bucket_predictor(table, buckets=edges, seed=seed)
        write_text(output_path, predictions_csv(asked.id, predictor.predict(asked)))
        output.show(f"wrote {output_path}")
    output.document(_document(report))
    output.show(accuracy_table(report))
    return ExitCode.DONE


def _document(report: AccuracyReport) -> dict[str, Any]:
    return dataclasses.asdict(report)


def accuracy_table(report: AccuracyReport) -> Table:
    """Return accuracies side by side: the trained predictor, and what the classes' histograms alone would say."""
    from gpuplan.cli.style import plain_table

    title = (
        f"{report.trained.requests:,} requests unseen, {report.training_requests:,} to learn from "
        "(marginal: the history's histogram alone)"
    )
    table = plain_table("", "trained", "marginal", right=("trained", "marginal"), title=title)
    rows = (
        ("right bucket", "bucket_accuracy", "{:.1%}"),
        ("within one bucket", "within_one_bucket", "{:.1%}"),
        ("mean error", "mean_absolute_error_tokens", "{:.1f} tokens"),
        ("mean relative error", "mean_absolute_percentage_error", "{:.1%}"),
        ("above the 90 % quantile", "underestimated", "{:.1%}"),
        ("log loss", "log_loss", "{:.3f}"),
    )
    for label, name, pattern in rows:
        table.add_row(label, *(pattern.format(getattr(own, name)) for own in (report.trained, report.marginal)))
    return table
