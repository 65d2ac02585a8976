"""Batch plans (`gpuplan/batch-plan/1`): who runs with whom, where and when, what it is worth, what it follows from.

A plan embeds its problem, so the file alone can be verified; above `MOST_EMBEDDED` requests a JSON plan holds their
digest instead (a Parquet plan always holds the requests).
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.plans.batch_checks import check_batches_document
from gpuplan.plans.batch_metrics import BatchMetrics, ServiceLevels, batch_metrics
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.plans.batch_solution_io import batches_to_list, solution_from_list
from gpuplan.plans.canonical import digest
from gpuplan.plans.files import read_document, write_document
from gpuplan.profiles.problems.batching_io import batching_from_dict, batching_to_dict, requests_to_dict

if TYPE_CHECKING:
    from gpuplan.plans.answers import ResultLike
    from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, Requests

SCHEMA: Final = "gpuplan/batch-plan/1"
#: Requests that a JSON plan embeds at most.
MOST_EMBEDDED: Final = 200_000
_LEVELS: Final = ("ttft_slo_s", "tpot_slo_s")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What the solver claims."""

    status: str
    objective: float
    terms: Mapping[str, float]
    bound: float | None
    gap: float | None
    solver: str
    options: Mapping[str, Any]
    seed: int
    gpuplan_version: str


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """A plan, its problem, its metrics and its certificate.

    Parameters
    ----------
    problem, solution
        The question and the answer.
    provenance
        Where the batch time comes from: ``source`` (``executors`` file or ``plan``) and what a fit was made from.
    levels
        TTFT and TPOT service levels, reported but not planned for.
    """

    problem: BatchingProblem
    solution: BatchSolution
    metrics: BatchMetrics
    result: BatchResult
    provenance: Mapping[str, Any] = field(default_factory=dict)
    levels: ServiceLevels = field(default_factory=ServiceLevels)
    name: str | None = None
    comment: str | None = None


def build_batch_plan(
    problem: BatchingProblem,
    result: ResultLike,
    *,
    provenance: Mapping[str, Any] | None = None,
    levels: ServiceLevels | None = None,
    name: str | None = None,
) -> BatchPlan:
    """Return the plan of a solver's `result` with a solution."""
    solution = result.plan
    assert isinstance(solution, BatchSolution)
    assert isinstance(result.objective, float)
    assert result.bound is None or isinstance(result.bound, float)
    return BatchPlan(
        problem=problem,
        solution=solution,
        metrics=batch_metrics(problem, solution, levels),
        result=BatchResult(
            status=result.status,
            objective=result.objective,
            terms=dict(result.terms),
            bound=result.bound,
            gap=None if result.gap is None or math.isinf(result.gap) else result.gap,
            solver=result.report.solver,
            options=dict(getattr(result.report, "options", {})),
            seed=result.report.seed,
            # By name: the package's face imports this room, and an import back would close a circle.
            gpuplan_version=str(importlib.import_module("gpuplan").__version__),
        ),
        provenance=dict(provenance or {"source": "executors"}),
        levels=levels or ServiceLevels(),
        name=name,
    )


def batch_plan_to_dict(plan: BatchPlan) -> dict[str, Any]:
    """Return the `gpuplan/batch-plan/1` document of `plan`."""
    return head_to_dict(plan) | {
        "batches": _positions(batches_to_list(plan.solution, plan.problem)),
        "unmet": plan.problem.requests.id[plan.solution.unmet].tolist(),
    }


def head_to_dict(plan: BatchPlan, *, embed: bool | None = None) -> dict[str, Any]:
    """Return the document without batches; `embed` says whether the requests go in (default: unless they are many)."""
    requests = plan.problem.requests
    embed = len(requests) <= MOST_EMBEDDED if embed is None else embed
    problem = batching_to_dict(plan.problem)
    columns = problem["requests"]
    if not embed:
        del problem["requests"]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "executors": [asdict(executor) for executor in plan.problem.executors],
        "requests": {"num_requests": len(requests), "digest": digest(columns)},
        "metrics": asdict(plan.metrics),
        "result": asdict(plan.result),
        "provenance": dict(plan.provenance),
        "inputs": {"problem": problem},
    }
    levels = {name: _nulls(getattr(plan.levels, name)) for name in _LEVELS if getattr(plan.levels, name) is not None}
    if levels:
        document["inputs"]["service_levels"] = levels
    document |= {key: value for key in ("name", "comment") if (value := getattr(plan, key)) is not None}
    return document


def requests_digest(requests: Requests) -> str:
    """Return the digest a plan keeps of its requests."""
    return digest(requests_to_dict(requests))


def problem_settings(problem: BatchingProblem) -> dict[str, Any]:
    """Return what a plan embeds of its problem beside the requests: executors, time and objective."""
    document = batching_to_dict(problem)
    return {key: document[key] for key in ("executors", "time", "objective")}


def embedded_problem(
    document: Mapping[str, Any], problem: BatchingProblem | None = None, source: str | None = None
) -> BatchingProblem:
    """Return the problem a plan's document embeds; `problem` supplies it where the document holds a digest only."""
    inner = document["inputs"]["problem"]
    if "requests" in inner:
        try:
            return batching_from_dict(inner)
        except InputError as error:
            place = "$.inputs.problem" + (error.place or "$").removeprefix("$")
            raise InputError(error.message, source=source, place=place) from None
    if problem is None:
        raise InputError(
            "expected the requests this plan is for, but a plan of so many holds their digest only; name the "
            "batching-problem file with --problem",
            source=source,
            place="$.inputs.problem.requests",
        )
    return problem


def batch_plan_from_dict(
    document: Mapping[str, Any], *, problem: BatchingProblem | None = None, source: str | None = None
) -> BatchPlan:
    """Return the plan that `document` holds.

    Raises
    ------
    InputError
        With the JSON path of the first defect. What the figures say is not checked here: see `gpuplan.plans.verify`.
    """
    check_batches_document(document, SCHEMA, source=source)
    asked = embedded_problem(document, problem, source)
    return BatchPlan(
        problem=asked,
        solution=solution_from_list(document["batches"], document["unmet"], asked, source),
        metrics=BatchMetrics(**document["metrics"]),
        result=BatchResult(**document["result"]),
        provenance=dict(document["provenance"]),
        levels=levels_from_dict(document["inputs"].get("service_levels", {})),
        name=document.get("name"),
        comment=document.get("comment"),
    )


def levels_from_dict(columns: Mapping[str, Sequence[float | None]]) -> ServiceLevels:
    """Return service levels from their columns, null for none."""
    arrays = {key: np.array([np.nan if item is None else item for item in column]) for key, column in columns.items()}
    return ServiceLevels(**arrays)


def save_batch_plan(plan: BatchPlan, path: str | os.PathLike[str]) -> None:
    """Write `plan` to `path`: Parquet when it ends in .parquet, else JSON; whole or not at all (UsageError)."""
    if Path(path).suffix.lower() == ".parquet":
        from gpuplan.plans.batch_parquet import write_batch_parquet

        write_batch_parquet(plan, path)
    else:
        write_document(batch_plan_to_dict(plan), path)


def load_batch_plan(path: str | os.PathLike[str], *, problem: BatchingProblem | None = None) -> BatchPlan:
    """Read the batch plan at `path` (JSON or Parquet, by content); InputError when the file cannot be used."""
    return batch_plan_from_dict(read_batch_document(path), problem=problem, source=os.fspath(path))


def read_batch_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the document of a batch plan's file, JSON or Parquet."""
    from gpuplan.plans.batch_parquet import is_parquet, read_batch_parquet

    return read_batch_parquet(path) if is_parquet(path) else read_document(path)


def _positions(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    count: dict[str, int] = {}
    for batch in batches:
        batch["position"] = count.get(batch["executor"], 0)
        count[batch["executor"]] = batch["position"] + 1
    return batches


def _nulls(column: FloatArray) -> list[float | None]:
    return [None if value != value else value for value in column.tolist()]
