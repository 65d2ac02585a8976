"""``gpuplan iteration``: parameters for engines that batch by iteration (continuous batching, chunked prefill)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.cli.batch_options import BatchOptions, batch_options
from gpuplan.cli.errors import ExitCode
from gpuplan.cli.options import format_option, output_option
from gpuplan.cli.output import Output, check_writable, write_text
from gpuplan.cli.values import Seconds, Whole
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gpuplan.plans.iteration import IterationParameters
    from gpuplan.profiles.problems.batching import BatchTime, Executor
    from gpuplan.profiles.requests import RequestTable

#: Sequences an engine may run at most, unless told: vLLM's own default for large devices is of this size.
_SEQUENCES = 256


@click.command("iteration")
@click.argument("requests", metavar="REQUESTS")
@click.option("--tpot-slo-s", type=Seconds(), required=True, help="Time of an iteration at most, s.")
@batch_options
@click.option("--executor", "name", metavar="NAME", help="Which of several executors.  [default: the first]")
@click.option("--max-tokens", type=Whole(), default=8192, show_default=True, help="Tokens of an iteration at most.")
@click.option(
    "--context",
    type=click.Choice(["mean", "full"]),
    default="mean",
    show_default=True,
    help="What decoding sequences read: their mean context, or the whole KV cache.",
)
@click.option(
    "--queue-order", type=click.Choice(["fcfs", "shortest-first", "deadline", "weight"]), help="Fix the order."
)
@click.option("--to", "engine", metavar="ENGINE", help="Print the line that starts vllm, sglang or tensorrt-llm.")
@click.option("--model", default="MODEL", metavar="NAME", help="What the engine is to load.")
@output_option("Write the line of --to here.")
@format_option
def iteration_command(
    requests: str,
    tpot_slo_s: float,
    batch: BatchOptions,
    name: str | None,
    max_tokens: int,
    context: str,
    queue_order: str | None,
    engine: str | None,
    model: str,
    output_path: Path | None,
    form: str,
) -> int:
    """Say with which parameters a continuous-batching engine should serve requests like REQUESTS.

    Most sequences, token budget of an iteration under the TPOT target, admission limit from the KV chance constraint
    (--epsilon, 0.01 unless given), queue order for the objective.
    """
    from gpuplan.cli.batch_inputs import read_objective, read_table
    from gpuplan.plans.export.iteration import export_iteration
    from gpuplan.solvers.batching.iteration import iteration_parameters

    output = Output(data=form == "json" or (engine is not None and output_path is None))
    if output_path is not None and engine is None:
        raise UsageError("-o writes the line of an engine; name it with --to")
    if form == "json" and engine is not None and output_path is None:
        raise UsageError("--format json and --to both print to stdout; write the line with -o FILE")
    check_writable(output_path)
    table = read_table(requests, batch)
    executor, time, objective = _machine(batch, table, name, max_tokens, output)
    asked = table.to_requests(ignore_arrivals=batch.ignore_arrivals, slo_s=batch.slo_s)
    found = iteration_parameters(
        asked,
        executor,
        time,
        tpot_s=tpot_slo_s,
        epsilon=0.01 if batch.epsilon is None else batch.epsilon,
        lengths=_lengths(batch, asked.id),
        objective=read_objective(batch, objective),
        context=context,  # type: ignore[arg-type]
        queue_order=queue_order,  # type: ignore[arg-type]
        most_tokens=max_tokens,
    )
    notes = list(found.notes)
    if engine is not None:
        details = export_iteration(found, engine, model=model)
        notes += details.notes
        if output_path is None:
            click.echo(details.text, nl=False)
        else:
            write_text(output_path, details.text)
    for note in notes:
        output.note(note)
    if form == "json":
        output.document(found.to_dict())
    output.show(parameters_table(found, executor.name))
    return ExitCode.DONE


def _lengths(batch: BatchOptions, ids: Any) -> Any:
    from gpuplan.cli.batch_uncertain import read_lengths

    return None if batch.predictions is None else read_lengths(batch, ids)


def _machine(
    batch: BatchOptions, table: RequestTable, name: str | None, max_tokens: int, output: Output
) -> tuple[Executor, BatchTime, Any]:
    """Return executor, time and objective. A plan's workspace is that of `max_tokens`: chunks, not whole prompts."""
    if (batch.plan_file is None) == (batch.executors is None):
        raise UsageError(
            "expected either --plan PLAN or --executors FILE, got " + ("both" if batch.plan_file else "none")
        )
    if batch.plan_file is not None:
        from gpuplan.plans import load_plan
        from gpuplan.plans.batch_executors import executor_from_plan

        most = batch.max_batch or _SEQUENCES
        fitted = executor_from_plan(
            load_plan(batch.plan_file), max_batch=most, longest_prompt=max(1, -(-max_tokens // most))
        )
        output.note(
            f"executor e0: {fitted.executor.kv_capacity_tokens:,.0f} tokens of KV; times fitted to the plan, worst "
            f"residual {fitted.worst_ttft * 100:.1f} % (TTFT), {fitted.worst_tpot * 100:.1f} % (TPOT)"
        )
        return fitted.executor, fitted.time, None
    from gpuplan.profiles.problems.batching_io import load_executors

    assert batch.executors is not None
    file = load_executors(batch.executors)
    executor = next((own for own in file.executors if name in (None, own.name)), None)
    if executor is None:
        raise UsageError(f"no executor is called {name!r}; known are {', '.join(own.name for own in file.executors)}")
    if batch.max_batch is not None:
        executor = dataclasses.replace(executor, max_batch=batch.max_batch)
    return executor, file.time, file.objective


def parameters_table(found: IterationParameters, executor: str) -> Table:
    """Return the parameters and what they rest on, two columns."""
    from gpuplan.cli.style import plain_table
    from gpuplan.units import format_seconds

    table = plain_table("", "", title=f"parameters for {executor}")
    limits = ", ".join(f"{name} {value:,}" for name, value in found.limits.items())
    orders = ", ".join(f"{name} {value:.4g} s" for name, value in found.order_values.items())
    rows = (
        ("sequences at most", f"{found.max_sequences:,} (allowed by {limits})"),
        ("tokens an iteration", f"{found.token_budget:,} ({found.prompt_tokens:,} of prompts beside a full batch)"),
        ("fullest iteration", f"{format_seconds(found.iteration_s)} (target {format_seconds(found.tpot_s)})"),
        ("without prompts", format_seconds(found.decode_s)),
        ("admission limit", f"{found.admission_limit:,} requests at their full length"),
        (
            "KV overflow",
            f"{found.overflow_probability:.2g} (allowed {found.epsilon:g}, {found.overflow_method})",
        ),
        ("queue order", f"{found.queue_order} ({orders})"),
    )
    for row in rows:
        table.add_row(*row)
    return table
