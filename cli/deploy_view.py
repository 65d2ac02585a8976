"""A deployment as a person reads it: replicas by shape, sums, links that fill up, what re-planning changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gpuplan.cli.style import plain_table, plural
from gpuplan.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from gpuplan.cli.solving import Search
    from gpuplan.plans.deployment import Changes, Deployment, LinkLoad, ReplicaPlan
    from gpuplan.profiles.problems.deployment import DeploymentProblem

#: Links shown at most, and the utilisation from which one is worth showing.
_LINKS, _BUSY = 5, 0.5
_NO_BREAK = "\N{NO-BREAK SPACE}"
#: Units of the objectives.
UNITS = {"requests": "requests/s", "throughput": "tokens/s", "devices": "devices", "cost": "per hour"}


def deployment_view(problem: DeploymentProblem, plan: Deployment) -> list[RenderableType]:
    """Return heading, table of shapes, sums, links and changes."""
    parts: list[RenderableType] = [_heading(problem, plan), _shapes(problem, plan), "", _sums(plan)]
    busy = _busy(plan.links)
    if busy:
        parts += ["", _links(busy)]
    if plan.changes is not None:
        parts += ["", *_changes(plan.changes)]
    return parts


def _heading(problem: DeploymentProblem, plan: Deployment) -> Text:
    from rich.text import Text

    work = problem.workload
    promises = [
        f"{name} ≤ {format_seconds(limit)}"
        for name, limit in (("TTFT", problem.ttft_slo_s), ("per token", problem.tpot_slo_s))
        if limit is not None
    ]
    if problem.demand_rps is not None:
        promises.append(f"demand {problem.demand_rps:g} requests/s")
    return Text.assemble(
        (f"{plan.model.name} on {plan.topology.name}", "bold"),
        f" · {work.prompt_tokens} → {work.output_tokens} tokens",
        *(f" · {promise}" for promise in promises),
        "\n",
    )


def _shapes(problem: DeploymentProblem, plan: Deployment) -> Table:
    kinds = {device.name: device.kind.name for device in problem.topology.devices}
    groups: dict[tuple[object, ...], list[ReplicaPlan]] = {}
    for replica in plan.replicas:
        used = tuple(dict.fromkeys(kinds[name] for name in replica.device_names))
        metrics = replica.metrics
        key = (replica.shape, used, replica.batch, f"{metrics.ttft_s:.4g}", f"{replica.requests_per_s:.4g}")
        groups.setdefault(key, []).append(replica)
    columns = ("", "shape", "on", "batch", "TTFT", "per token", "requests/s", "tokens/s")
    table = plain_table(*columns, right=("", *columns[3:]))
    for members in groups.values():
        first = members[0]
        table.add_row(
            f"{len(members)} ×",
            first.shape.replace(" ", _NO_BREAK),
            _places(members, kinds),
            f"{first.batch}"
            if first.micro_batches == 1
            else f"{first.micro_batches}{_NO_BREAK}×{_NO_BREAK}{first.batch}",
            format_seconds(first.metrics.ttft_s),
            format_seconds(first.metrics.token_interval_s),
            _rate(first.requests_per_s, first.metrics.requests_per_s),
            f"{first.tokens_per_s:,.0f}",
        )
    return table


def _rate(served: float, able: float) -> str:
    return f"{served:.4g}" if served >= able * (1 - 1e-9) else f"{served:.4g} of {able:.4g}"


def _places(members: Sequence[ReplicaPlan], kinds: dict[str, str]) -> str:
    used = list(dict.fromkeys(kinds[name] for replica in members for name in replica.device_names))
    hosts = list(dict.fromkeys(name.rpartition("/")[0] for replica in members for name in replica.device_names))
    where = hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"
    if len(members) == 1 and len(members[0].device_names) <= 2:
        where = ", ".join(members[0].device_names)
    return f"{where}, {' + '.join(used)}"


def _sums(plan: Deployment) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 3, 0, 0))
    cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in _figures(plan)]
    for first in range(0, len(cells), 3):
        grid.add_row(*cells[first : first + 3])
    return grid


def _figures(plan: Deployment) -> Iterator[tuple[str, str]]:
    metrics = plan.metrics
    yield "requests/s", f"{metrics.requests_per_s:.5g}"
    yield "tokens/s", f"{metrics.tokens_per_s:,.0f}"
    yield "replicas", str(metrics.replicas)
    yield "TTFT worst", format_seconds(metrics.ttft_s.worst)
    yield "per token worst", format_seconds(metrics.token_interval_s.worst)
    yield "devices", f"{metrics.devices_used} of {plan.topology.num_devices}"
    if metrics.price_per_hour is not None:
        yield "price", f"{metrics.price_per_hour:.2f} per hour"
    fullest = max((link.utilization for link in plan.links), default=0.0)
    yield "fullest link", f"{fullest:.1%}" if plan.links else "no hops"
    shares = {tag: getattr(plan.provenance, tag) for tag in ("measured", "interpolated", "fitted", "analytic")}
    if shares["analytic"] < 1.0:
        yield "times", ", ".join(f"{share:.0%} {tag}" for tag, share in shares.items() if round(share, 2) > 0.0)


def _busy(links: Sequence[LinkLoad]) -> list[LinkLoad]:
    found = sorted((link for link in links if link.utilization >= _BUSY), key=lambda link: -link.utilization)
    return found[:_LINKS]


def _links(links: Sequence[LinkLoad]) -> Table:
    table = plain_table("from", "to", "load", "bandwidth", "in use", right=("load", "bandwidth", "in use"))
    for link in links:
        table.add_row(
            link.sender,
            link.receiver,
            f"{format_bytes(link.bytes_per_s)}/s",
            f"{format_bytes(link.bandwidth_bytes_per_s)}/s",
            f"{link.utilization:.0%}",
        )
    return table


def _changes(changes: Changes) -> list[RenderableType]:
    moved = f"{format_bytes(changes.total_moved_bytes)} to load on {plural(len(changes.moved_bytes), 'device')}"
    lines = [f"{changes.decision}; {moved}"]
    for word, names in (("stay", changes.kept), ("new", changes.appeared), ("gone", changes.disappeared)):
        if names:
            lines.append(f"  {word}: {', '.join(names)}")
    return ["\n".join(lines)]


def deployment_certificate(run: Search, plan: Deployment) -> Text:
    """Return the line that says how good the deployment is, and what is known of it."""
    from rich.text import Text

    from gpuplan.cli.certificate import percent

    result, unit = run.result, UNITS[plan.inputs["options"]["objective"]["name"]]
    wall = format_seconds(result.report.wall_time_s)
    bound = "unknown" if result.bound is None else f"{result.bound:.6g} {unit}"
    if result.status == "optimal":
        mark, claim, colour = "✔", f"optimal: no better deployment exists (proven, bound = {bound}, {wall})", "green"
    elif result.gap is None:
        mark, claim, colour = "•", f"a valid deployment; no bound is known ({wall})", "yellow"
    else:
        claim = f"within {percent(result.gap)} of the best possible (bound = {bound}, {wall})"
        mark, colour = "•", "yellow"
    line = Text.assemble((f"{mark} {claim}", f"bold {colour}"))
    if run.stopped:
        line.append(f"\n  stopped by {run.stopped}: this is the best deployment found until then")
    proof = result.report.proof or result.report.bound_kind
    facts = [*([] if proof is None else [f"bound by {proof}"]), *result.report.notes]
    return line.append("".join(f"\n  {fact}" for fact in facts), "dim")
