"""Cost sources for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuplan.cli.style import bullets, plain_table
from gpuplan.units import format_bandwidth, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gpuplan.profiles.agreement import Agreement
    from gpuplan.profiles.fitted import Fit
    from gpuplan.profiles.link_fits import LinkFit
    from gpuplan.profiles.tables import CostTable
    from gpuplan.profiles.tables.readers.detect import CostSource

PHASES = ("prefill", "decode")


def source_report(source: CostSource) -> dict[str, Any]:
    """Return what a source holds, without its rows."""
    from gpuplan.profiles.fitted import fit_to_dict

    return {
        "tables": [_table_report(table) for table in source.tables],
        "fits": [fit_to_dict(fit) for fit in source.fits],
    }


def _table_report(table: CostTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "device_kind": table.device_kind,
        "model": table.model,
        "tensor_parallel": table.tensor_parallel,
        "dtype": table.dtype,
        "chunk_tokens": table.chunk_tokens,
        "software": table.software,
        "source": table.source,
        "series": [
            {
                "covers": list(series.covers),
                "phase": series.phase,
                "axes": {
                    axis: [float(low), float(high)]
                    for axis, low, high in zip(
                        series.axes, series.points.min(axis=0), series.points.max(axis=0), strict=True
                    )
                },
                "rows": len(series.seconds),
                "smoothed": int(series.smoothed.sum()),
                "largest_change": series.largest_change,
            }
            for series in table.series
        ],
        "notes": list(table.all_notes()),
    }


def source_view(source: CostSource) -> list[RenderableType]:
    """Return tables for a terminal."""
    shown: list[RenderableType] = []
    for table in source.tables:
        shown += [_table_view(table), *([bullets(table.notes)] if table.notes else []), ""]
    if source.fits:
        shown.append(_fits_view(source.fits))
        notes = [f"{fit.name}: {note}" for fit in source.fits for note in fit.notes]
        shown += [bullets(dict.fromkeys(notes))] if notes else []
    return shown


def _table_view(table: CostTable) -> RenderableType:
    view = plain_table(
        "times of", "measured for", "rows", "smoothed", "by at most", right=("rows", "smoothed", "by at most"),
        title=table.citation,
    )  # fmt: skip
    for series in table.series:
        count = int(series.smoothed.sum())
        change = f"{series.largest_change:.1%}" if count else ""
        view.add_row(series.name, series.range_text(), str(len(series.seconds)), str(count or ""), change)
    return view


def _fits_view(fits: Sequence[Fit]) -> RenderableType:
    view = plain_table(
        "fit", "tp", "prefill (s)", "decode step (s)", "median", "worst", right=("tp", "median", "worst")
    )
    for fit in fits:
        steps = []
        for regime in fit.regimes:
            upto = f"b ≤ {regime.max_batch}: " if regime.max_batch is not None else ""
            steps.append(upto + _formula(regime.decode, ("", "·b", "·b·c")))
        errors = ["" if e is None else f"{e:.1%}" for e in (fit.median_error, fit.worst_error)]
        prefill = _formula(fit.prefill, ("", "·b·s", "·b·s²"))
        view.add_row(fit.name, str(fit.tensor_parallel), prefill, "\n".join(steps), *errors)
    return view


def _formula(values: Sequence[float], factors: Sequence[str]) -> str:
    return " + ".join(f"{value:.3g}{factor}" for value, factor in zip(values, factors, strict=True) if value) or "0"


def fit_view(fit: Fit) -> list[RenderableType]:
    """Return a fit and what it left."""
    shown = [_fits_view([fit])]
    return [*shown, bullets(fit.notes)] if fit.notes else list(shown)


def links_view(fits: Sequence[LinkFit]) -> RenderableType:
    """Return latency and bandwidth of links with their residuals."""
    view = plain_table(
        "transfers", "rows", "latency", "bandwidth", "median error", "worst",
        right=("rows", "latency", "bandwidth", "median error", "worst"),
    )  # fmt: skip
    for fit in fits:
        view.add_row(
            fit.transfers.name, str(len(fit.transfers.seconds)), format_seconds(fit.latency_s),
            format_bandwidth(fit.bandwidth_bytes_per_s), f"{fit.median_error:.1%}", f"{fit.worst_error:.1%}",
        )  # fmt: skip
    return view


def links_report(fits: Sequence[LinkFit]) -> dict[str, Any]:
    """Return fitted links as JSON."""
    import math

    return {
        "links": [
            {
                "transfers": fit.transfers.name,
                "rows": len(fit.transfers.seconds),
                "latency_s": fit.latency_s,
                "bandwidth_bytes_per_s": fit.bandwidth_bytes_per_s
                if math.isfinite(fit.bandwidth_bytes_per_s)
                else None,
                "median_error": fit.median_error,
                "worst_error": fit.worst_error,
            }
            for fit in fits
        ]
    }


def agreement_view(agreement: Agreement, first: str, second: str) -> list[RenderableType]:
    """Return the error table of two sources."""
    view = plain_table(
        "pass", "batch", "tokens", first, second, "difference", right=("batch", "tokens", first, second, "difference")
    )
    for row in agreement.rows:
        view.add_row(
            row.phase, str(row.batch), str(row.length), format_seconds(row.first_s), format_seconds(row.second_s),
            f"{row.difference:+.1%}",
        )  # fmt: skip
    sentences = []
    for phase in PHASES:
        median, worst = agreement.median(phase), agreement.worst(phase)
        if median is not None:
            count = len(agreement.differences(phase))
            sentences.append(f"{phase}: median {median:.1%}, worst {worst:.1%} apart over {count} shapes")
    if agreement.missing:
        sentences.append(f"{agreement.missing} shapes have no time in one of the two: {agreement.reason}")
    return [view, "", bullets(sentences)]


def agreement_report(agreement: Agreement) -> dict[str, Any]:
    """Return the comparison as JSON."""
    return {
        "rows": [
            {
                "phase": row.phase,
                "batch": row.batch,
                "length": row.length,
                "first_s": row.first_s,
                "second_s": row.second_s,
                "difference": row.difference,
            }
            for row in agreement.rows
        ],
        "summary": {phase: {"median": agreement.median(phase), "worst": agreement.worst(phase)} for phase in PHASES},
        "missing": agreement.missing,
    }
