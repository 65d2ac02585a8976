"""From REQUESTS and options to a batching problem."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuplan.cli.batch_files import PROBLEM, kind_of
from gpuplan.cli.batch_options import BatchOptions, parse_pairs, parse_weights
from gpuplan.cli.output import Output
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.plans.batch_metrics import ServiceLevels
    from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor
    from gpuplan.profiles.requests import RequestTable


@dataclass(frozen=True, slots=True)
class BatchQuestion:
    """The problem, the service levels reported beside it, and where the times come from."""

    problem: BatchingProblem
    levels: ServiceLevels
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Machines:
    executors: tuple[Executor, ...]
    time: BatchTime
    objective: BatchObjective | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


def read_question(requests: str, batch: BatchOptions, output: Output) -> BatchQuestion:
    """Read requests and executors; say on stderr what was assumed, fitted or left out."""
    from gpuplan.plans.batch_metrics import ServiceLevels
    from gpuplan.profiles.problems.batching import BatchingProblem, unservable
    from gpuplan.profiles.requests import time_warnings, unit_warnings

    if (batch.plan_file is None) == (batch.executors is None):
        raise UsageError(
            "expected either --plan PLAN or --executors FILE, got " + ("both" if batch.plan_file else "none")
        )
    if Path(requests).suffix.lower() in (".json", ".yaml", ".yml") and kind_of(requests) == PROBLEM:
        raise UsageError(f"{requests} is a problem with executors of its own: use gpuplan solve {requests}")
    table = read_table(requests, batch)
    machines = _from_plan(batch, table, output) if batch.plan_file else _from_file(batch)
    for warning in (*unit_warnings(table), *time_warnings(machines.time)):
        output.note(f"warning: {warning}")
    asked = table.to_requests(ignore_arrivals=batch.ignore_arrivals, slo_s=batch.slo_s)
    if batch.skip_unservable:
        rows = unservable(asked, machines.executors)
        if len(rows):
            table, asked = _without(table, asked, rows, output)
    problem = BatchingProblem(
        requests=asked,
        executors=machines.executors,
        time=machines.time,
        objective=read_objective(batch, machines.objective),
        name=Path(requests).name,
    )
    return BatchQuestion(
        problem=_relaxed(problem, batch, output),
        levels=ServiceLevels(table.ttft_slo_s, table.tpot_slo_s),
        provenance={**machines.provenance, "requests_layout": table.layout, "ignore_arrivals": batch.ignore_arrivals},
    )


def read_table(requests: str, batch: BatchOptions) -> RequestTable:
    """Read REQUESTS, with predictions in place of output lengths where there are any."""
    from gpuplan.profiles.requests_io import load_requests

    table = load_requests(requests, columns=parse_pairs(batch.column, "--column"))
    if batch.predictions is None:
        return table
    from gpuplan.cli.batch_uncertain import read_lengths

    predicted = read_lengths(batch, table.id).quantile(batch.quantile)
    return dataclasses.replace(table, output_tokens=predicted, predicted_output_tokens=predicted)


def _from_plan(batch: BatchOptions, table: RequestTable, output: Output) -> _Machines:
    from gpuplan.plans import load_plan
    from gpuplan.plans.batch_executors import executor_from_plan

    assert batch.plan_file is not None
    plan = load_plan(batch.plan_file)
    longest = int(table.prompt_tokens.max())
    fitted = executor_from_plan(plan, max_batch=batch.max_batch or 32, longest_prompt=longest)
    output.note(
        f"executor e0: {fitted.executor.kv_capacity_tokens:,.0f} tokens of KV; batch times fitted to the plan, worst "
        f"residual {fitted.worst_ttft * 100:.1f} % (TTFT), {fitted.worst_tpot * 100:.1f} % (TPOT)"
    )
    return _Machines((fitted.executor,), fitted.time, provenance=fitted.provenance(plan))


def _from_file(batch: BatchOptions) -> _Machines:
    from gpuplan.profiles.problems.batching_io import load_executors

    assert batch.executors is not None
    file = load_executors(batch.executors)
    executors = file.executors
    if batch.max_batch is not None:
        most = batch.max_batch
        executors = tuple(dataclasses.replace(own, max_batch=min(own.max_batch, most)) for own in executors)
    return _Machines(executors, file.time, file.objective, {"source": "executors", "name": file.name})


def _without(table: RequestTable, asked: Any, rows: Any, output: Output) -> tuple[RequestTable, Any]:
    import numpy as np

    named = ", ".join(str(name) for name in asked.id[rows[:5]].tolist())
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    output.note(f"left out as larger than every executor's KV cache: request {named}{more}")
    keep = np.ones(len(asked), dtype=bool)
    keep[rows] = False
    if not keep.any():
        raise UsageError("--skip-unservable leaves no request: every one is larger than every executor's KV cache")
    return table.take(keep), asked.take(keep)


def read_objective(batch: BatchOptions, given: BatchObjective | None) -> BatchObjective:
    """Return the objective of the options, where they say nothing that of the executors file."""
    from gpuplan.profiles.problems.batching import BatchObjective

    objective = given or BatchObjective()
    if batch.weights is not None:
        objective = BatchObjective(**parse_weights(batch.weights), deadlines=objective.deadlines)
    if batch.deadlines is not None:
        objective = dataclasses.replace(objective, deadlines=batch.deadlines)  # type: ignore[arg-type]
    return objective


def _relaxed(problem: BatchingProblem, batch: BatchOptions, output: Output) -> BatchingProblem:
    if not batch.relax_deadlines or not problem.hard:
        return problem
    from gpuplan.solvers.batching.relax import relaxed

    problem = relaxed(problem)
    output.note(f"deadlines relaxed: a violation costs {problem.objective.violation:g} s, more than all the rest")
    return problem
