"""A device map as a person reads it: its stages with memory, times and limits, then its metrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gpuplan.cli.style import layer_range, memory_bar, plain_table, plural
from gpuplan.units import format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from gpuplan.plans import DeviceMap
    from gpuplan.plans.device_map import Stage
    from gpuplan.profiles import PlacementProblem


def map_view(plan: DeviceMap, *, kinds: Mapping[str, str], limits: Sequence[tuple[str, ...]]) -> list[RenderableType]:
    """Return a plan's heading, stage table and metrics.

    Parameters
    ----------
    kinds
        Kind of each device.
    limits
        What limits each stage, one line each; length of the stages.
    """
    return [heading(plan), stage_table(plan, kinds, limits), "", metrics_grid(plan)]


def heading(plan: DeviceMap) -> Text:
    """Return the line that names the model, the cluster and the workload."""
    from rich.text import Text

    work = plan.workload
    return Text.assemble(
        (f"{plan.model.name} on {plan.topology.name}", "bold"),
        f" · batch {work.batch}, {work.prompt_tokens} → {work.output_tokens} tokens",
        f" · {work.micro_batches} micro-batches" if work.micro_batches != 1 else "",
        "\n",
    )


def stage_table(plan: DeviceMap, kinds: Mapping[str, str], limits: Sequence[tuple[str, ...]]) -> Table:
    """Return the stages, two lines each."""
    columns = ("#", "device", "layers", "memory", "prefill", "decode", "limited by")
    table = plain_table(*columns, right=("prefill", "decode"))
    for number, (stage, why) in enumerate(zip(plan.stages, limits, strict=True)):
        start, stop = stage.layers.start, stage.layers.stop
        last = number == len(plan.stages) - 1
        hop = stage.hop
        table.add_row(
            str(number),
            _device(stage, kinds),
            f"{layer_range(start, stop)}\n{plural(stop - start, 'layer')}",
            memory_bar(stage.memory.used_bytes, stage.memory.available_bytes),
            _time(stage.prefill_s, None if hop is None or last else hop.prefill_s),
            _time(stage.decode_s, None if hop is None else hop.decode_s, arrow="↩" if last else "→"),
            "\n".join(why),
        )
    return table


def _device(stage: Stage, kinds: Mapping[str, str]) -> Text:
    from rich.text import Text

    kind = kinds.get(stage.devices[0], "")
    size = len(stage.devices)
    several = f"{size}×\N{NO-BREAK SPACE}{kind}"
    return Text.assemble(device_names(stage.devices), "\n", (several if size > 1 else kind, "dim"))


def device_names(names: Sequence[str]) -> str:
    """Return the devices of a stage in few words: ``host0/gpu0–gpu3`` for a run of one host.

    >>> device_names(["h/gpu0", "h/gpu1", "h/gpu2"]), device_names(["h/gpu0", "h/gpu2"])
    ('h/gpu0–gpu2', 'h/gpu0, h/gpu2')
    """
    stem = names[0].rstrip("0123456789")
    numbers = [name.removeprefix(stem) for name in names]
    run = all(name.startswith(stem) for name in names) and all(number.isdecimal() for number in numbers)
    if len(names) > 2 and run and all(int(b) == int(a) + 1 for a, b in itertools.pairwise(numbers)):
        return f"{names[0]}–{names[-1].rpartition('/')[2]}"
    return ", ".join(names)


def _time(seconds: float, hop_s: float | None, arrow: str = "→") -> Text:
    from rich.text import Text

    hop = "" if hop_s is None else f"{arrow} {format_seconds(hop_s)}"
    return Text.assemble(format_seconds(seconds), "\n", (hop, "dim"))


def metrics_grid(plan: DeviceMap) -> Table:
    """Return the plan's figures, three to a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 3, 0, 0))
    cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in _metrics(plan)]
    for first in range(0, len(cells), 3):
        grid.add_row(*cells[first : first + 3])
    return grid


def _metrics(plan: DeviceMap) -> Iterator[tuple[str, str]]:
    metrics = plan.metrics
    yield "TTFT", format_seconds(metrics.ttft_s)
    yield "TPOT", format_seconds(metrics.tpot_s)
    yield "latency", format_seconds(metrics.latency_s)
    yield "bottleneck", format_seconds(metrics.bottleneck_s)
    yield "throughput", f"{metrics.throughput_tokens_per_s:.4g} tokens/s"
    yield "KV capacity", "no KV" if metrics.kv_capacity_tokens is None else f"{metrics.kv_capacity_tokens:,} tokens"
    yield "devices", str(metrics.devices_used)
    yield "memory in use", f"{metrics.memory_utilization:.0%}"
    shares = {tag: getattr(plan.provenance, tag) for tag in ("measured", "interpolated", "fitted", "analytic")}
    if shares["analytic"] < 1.0:
        yield "times", ", ".join(f"{share:.0%} {tag}" for tag, share in shares.items() if round(share, 2) > 0.0)


#: Words short enough for a column.
_SHORT = {"memory bandwidth": "bandwidth", "compute": "compute", "overhead": "overhead"}


def stage_limits_text(problem: PlacementProblem, plan: DeviceMap) -> list[tuple[str, ...]]:
    """Return what limits each stage: its decode step, and whether its memory is full."""
    from gpuplan.solvers.placement.explain_limits import stage_limits

    return [
        ("link" if limit.hop_share > 0.5 else _SHORT[limit.decode_bound], "memory full" if limit.memory_full else "")
        for limit in stage_limits(problem, plan)
    ]
