"""Batching solutions (`gpuplan/batching-solution/1`) as plain JSON values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.plans.answers import Answer, ResultLike, answer_from_dict, answer_to_dict
from gpuplan.plans.batch_checks import check_batches_document
from gpuplan.plans.batch_solution import BatchSolution, IntArray
from gpuplan.plans.files import describe, read_document, write_document

if TYPE_CHECKING:
    from gpuplan.profiles.problems.batching import BatchingProblem

SCHEMA: Final = "gpuplan/batching-solution/1"


#: A batching solution as read from a file.
BatchingDocument = Answer[BatchSolution]


def batching_solution_to_dict(result: ResultLike, problem: BatchingProblem) -> dict[str, Any]:
    """Return the `gpuplan/batching-solution/1` document of `result`, an answer to `problem`."""
    document = answer_to_dict(result, SCHEMA)
    plan = result.plan
    if isinstance(plan, BatchSolution):
        document["objective"] = result.objective
        document["batches"] = batches_to_list(plan, problem)
        document["unmet"] = problem.requests.id[plan.unmet].tolist()
    return document


def batches_to_list(plan: BatchSolution, problem: BatchingProblem) -> list[dict[str, Any]]:
    """Return the batches as a file lists them: executors in their order, each one's batches in start order."""
    names = [executor.name for executor in problem.executors]
    ids = problem.requests.id[plan.rows].tolist()
    ends = plan.offsets.tolist()
    columns = (plan.executor, plan.prompt_tokens, plan.output_tokens, plan.start_s, plan.finish_s)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {
            "executor": names[executor],
            "requests": ids[ends[m] : ends[m + 1]],
            "prompt_tokens": prompt,
            "output_tokens": output,
            "start_s": start,
            "finish_s": finish,
        }
        for m, (executor, prompt, output, start, finish) in enumerate(rows)
    ]


def batching_solution_from_dict(
    document: Mapping[str, Any], problem: BatchingProblem, *, source: str | None = None
) -> BatchingDocument:
    """Return the solution that `document` holds, requests and executors as numbers of `problem`.

    Raises
    ------
    InputError
        The document does not follow its schema, or names a request or executor that the problem does not have.
    """
    check_batches_document(document, SCHEMA, source=source)
    plan = None
    if "batches" in document:
        plan = solution_from_list(document["batches"], document.get("unmet", ()), problem, source)
    return answer_from_dict(document, plan)


def solution_from_list(
    batches: Sequence[Mapping[str, Any]], unmet: Sequence[Any], problem: BatchingProblem, source: str | None = None
) -> BatchSolution:
    """Return the plan that a file's batches hold; InputError for an unknown request or executor."""
    numbers = {executor.name: e for e, executor in enumerate(problem.executors)}
    rows = {name: row for row, name in enumerate(problem.requests.id.tolist())}
    executor = []
    for m, batch in enumerate(batches):
        if batch["executor"] not in numbers:
            message = f"expected an executor of the problem, got {describe(batch['executor'])}"
            raise InputError(message, source=source, place=f"$.batches[{m}].executor")
        executor.append(numbers[batch["executor"]])
    order = sorted(range(len(batches)), key=lambda m: executor[m])
    taken = [_rows(batches[m]["requests"], rows, source, f"$.batches[{m}].requests") for m in order]
    offsets = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum([len(own) for own in taken], out=offsets[1:])
    return BatchSolution(
        executor=np.array([executor[m] for m in order], dtype=np.int64),
        offsets=offsets,
        rows=np.concatenate(taken) if taken else np.empty(0, dtype=np.int64),
        prompt_tokens=np.array([batches[m]["prompt_tokens"] for m in order], dtype=np.int64),
        output_tokens=np.array([batches[m]["output_tokens"] for m in order], dtype=np.int64),
        start_s=np.array([batches[m]["start_s"] for m in order], dtype=np.float64),
        finish_s=np.array([batches[m]["finish_s"] for m in order], dtype=np.float64),
        unmet=np.sort(_rows(unmet, rows, source, "$.unmet")),
    )


def save_batching_solution(result: ResultLike, problem: BatchingProblem, path: str | os.PathLike[str]) -> None:
    """Write the document of `result` to `path`, whole or not at all; UsageError when it cannot be written."""
    write_document(batching_solution_to_dict(result, problem), path)


def load_batching_solution(path: str | os.PathLike[str], problem: BatchingProblem) -> BatchingDocument:
    """Read the solution of `problem` at `path`; InputError when the file cannot be used."""
    return batching_solution_from_dict(read_document(path), problem, source=os.fspath(path))


def _rows(ids: Sequence[Any], rows: Mapping[Any, int], source: str | None, place: str) -> IntArray:
    found = [rows.get(name, -1) if type(name) in (str, int) else -1 for name in ids]
    if -1 in found:
        k = found.index(-1)
        message = f"expected a request of the problem, got {describe(ids[k])}"
        raise InputError(message, source=source, place=f"{place}[{k}]")
    return np.array(found, dtype=np.int64)
