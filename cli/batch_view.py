"""Batch plans for people: what they are worth, the first batches, a timeline in text and as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuplan.cli.style import plain_table, plural
from gpuplan.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.plans.batch_plan import BatchPlan
    from gpuplan.plans.batch_solution import BatchSolution
    from gpuplan.profiles.problems.batching import BatchingProblem

_SHOWN: Final = 8
_WIDTH: Final = 60
_LEVELS: Final = " ▁▂▃▄▅▆▇█"
#: Batches drawn one by one at most; of more, neighbours share a bar.
_MOST_BARS: Final = 4000


def batch_view(plan: BatchPlan) -> list[Any]:
    """Return what the command shows: metrics, the first batches, the timeline."""
    return [metrics_table(plan), "", batches_table(plan.problem, plan.solution), "", *timeline(plan)]


def metrics_table(plan: BatchPlan) -> Table:
    """Return the plan's metrics, two columns."""
    metrics, solution = plan.metrics, plan.solution
    table = plain_table("", "", title=_title(plan))
    rows = [
        ("makespan", format_seconds(metrics.makespan_s)),
        ("latency mean / P50 / P95 / P99", " / ".join(map(format_seconds, _latencies(plan)))),
        ("first token, mean", format_seconds(metrics.mean_ttft_s)),
        ("padding", f"{metrics.padding_tokens:,} tokens ({metrics.padding_fraction * 100:.1f} %)"),
        ("deadlines kept", _deadlines(plan)),
    ]
    for name, share in (("TTFT", metrics.ttft_slo_attainment), ("TPOT", metrics.tpot_slo_attainment)):
        if share is not None:
            rows.append((f"{name} levels kept", f"{share * 100:.1f} %"))
    for row in rows:
        table.add_row(*row)
    if len(solution.unmet):
        ids = plan.problem.requests.id[solution.unmet[:5]].tolist()
        more = f" and {len(solution.unmet) - 5} more" if len(solution.unmet) > 5 else ""
        table.add_row("deadlines no plan can meet", ", ".join(map(str, ids)) + more)
    return table


def _title(plan: BatchPlan) -> str:
    solution = plan.solution
    executors = plural(len(plan.problem.executors), "executor")
    batches = plural(solution.num_batches, "batch", "batches")
    return f"{plural(len(solution.rows), 'request')} in {batches} on {executors}, by {plan.result.solver}"


def _latencies(plan: BatchPlan) -> tuple[float, float, float, float]:
    metrics = plan.metrics
    return metrics.mean_latency_s, metrics.p50_latency_s, metrics.p95_latency_s, metrics.p99_latency_s


def _deadlines(plan: BatchPlan) -> str:
    share = plan.metrics.slo_attainment
    return "none given" if share is None else f"{share * 100:.1f} % ({plan.metrics.violations:,} missed)"


def batches_table(problem: BatchingProblem, solution: BatchSolution) -> Table:
    """Return the first batches to start, and how many more there are."""
    table = plain_table(
        "executor", "start", "time", "requests", "padded to", "ids", right=("start", "time", "requests", "padded to")
    )
    for m in np.argsort(solution.start_s, kind="stable")[:_SHOWN].tolist():
        ids = problem.requests.id[solution.rows[solution.offsets[m] : solution.offsets[m + 1]]].tolist()
        start, finish = float(solution.start_s[m]), float(solution.finish_s[m])
        table.add_row(
            problem.executors[int(solution.executor[m])].name,
            format_seconds(start),
            format_seconds(finish - start),
            str(len(ids)),
            f"{solution.prompt_tokens[m]}+{solution.output_tokens[m]}",
            ", ".join(map(str, ids[:4])) + (", …" if len(ids) > 4 else ""),
        )
    if solution.num_batches > _SHOWN:
        table.add_row("…", "", "", "", "", f"{solution.num_batches - _SHOWN:,} more")
    return table


def timeline(plan: BatchPlan) -> list[str]:
    """Return one line an executor: how full its batches are over time (a full bar: `max_batch` all the time)."""
    problem, end = plan.problem, max(plan.metrics.makespan_s, 1e-12)
    names = [executor.name for executor in problem.executors[:16]]
    wide = max(map(len, names))
    lines = [f"{name:>{wide}} │{_bar(plan, e, end)}│" for e, name in enumerate(names)]
    scale = f"0 s{format_seconds(end):>{_WIDTH - 3}}"
    more = len(problem.executors) - len(names)
    return [*lines, " " * (wide + 2) + scale, *([f"and {plural(more, 'more executor')}"] if more else [])]


def _bar(plan: BatchPlan, executor: int, end: float) -> str:
    solution = plan.solution
    own = np.flatnonzero(solution.executor == executor)
    edges = np.linspace(0.0, end, _WIDTH + 1)
    # ∫ requests running dt up to each edge, by the batches before it and the part of the one across it.
    points = np.column_stack([solution.start_s[own], solution.finish_s[own]]).ravel()
    area = np.repeat(np.cumsum((solution.finish_s - solution.start_s)[own] * solution.sizes[own]), 2)
    area[::2] -= ((solution.finish_s - solution.start_s)[own]) * solution.sizes[own]
    done = np.interp(edges, points, area) if len(own) else np.zeros(_WIDTH + 1)
    share = np.diff(done) / (end / _WIDTH) / plan.problem.executors[executor].max_batch
    steps = np.ceil(np.clip(share, 0.0, 1.0) * (len(_LEVELS) - 1) - 1e-9).astype(int)
    return "".join(_LEVELS[step] for step in steps)


_LEFT, _TOP, _PLOT_WIDTH, _ROW = 90, 48, 860, 34


def timeline_svg(plan: BatchPlan, title: str) -> str:
    """Return the plan as an SVG picture: time across, a row an executor, a bar a batch, darker when fuller."""
    problem, solution = plan.problem, plan.solution
    end = max(plan.metrics.makespan_s, 1e-12)
    height = _TOP + _ROW * problem.num_executors + 44
    width = _LEFT + _PLOT_WIDTH + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}: {escape(_title(plan))}</text>',
    ]
    for e, executor in enumerate(problem.executors):
        y = _TOP + _ROW * e
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 18}" text-anchor="end">{escape(executor.name)}</text>')
    step = -(-solution.num_batches // _MOST_BARS)
    for m in range(0, solution.num_batches, step):
        parts.append(_svg_bar(problem, solution, m, step, end))
    return "\n".join([*parts, *_svg_axis(end, height), "</svg>\n"])


def _svg_bar(problem: BatchingProblem, solution: BatchSolution, m: int, step: int, end: float) -> str:
    e = int(solution.executor[m])
    last = m
    while last + 1 < min(m + step, solution.num_batches) and solution.executor[last + 1] == e:
        last += 1
    start, finish = float(solution.start_s[m]), float(solution.finish_s[last])
    size = float(solution.sizes[m : last + 1].mean())
    x, wide = _LEFT + start / end * _PLOT_WIDTH, max((finish - start) / end * _PLOT_WIDTH, 0.5)
    shade = 0.25 + 0.75 * size / problem.executors[e].max_batch
    label = (
        f"{size:g} requests, {solution.prompt_tokens[m]}+{solution.output_tokens[m]} tokens, "
        f"{format_seconds(start)} to {format_seconds(finish)}"
    )
    return (
        f'<rect x="{x:.2f}" y="{_TOP + _ROW * e}" width="{wide:.2f}" height="{_ROW - 8}" fill="#2b6cb0" '
        f'fill-opacity="{shade:.2f}" stroke="white" stroke-width="0.3"><title>{label}</title></rect>'
    )


def _svg_axis(end: float, height: int) -> list[str]:
    base = height - 38
    lines = [f'<path d="M{_LEFT} {base} h{_PLOT_WIDTH}" stroke="#444"/>']
    for step in range(6):
        x = _LEFT + _PLOT_WIDTH * step / 5
        lines.append(f'<path d="M{x:.1f} {base} v5" stroke="#444"/>')
        lines.append(f'<text x="{x:.1f}" y="{base + 20}" text-anchor="middle">{format_seconds(end * step / 5)}</text>')
    return lines
