"""Reads and writes `gpuplan/batching-problem/1`, and executors files (the same without ``requests``).

Optional columns (``arrival_s``, ``deadline_s``, ``weight``) may also be one value for all requests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.problems.batching import (
    MOST_TOKENS,
    BatchingProblem,
    BatchObjective,
    BatchTime,
    Executor,
    FloatArray,
    IdArray,
    IntArray,
    Requests,
    check_executors,
    id_column,
)
from gpuplan.profiles.problems.documents import read_document
from gpuplan.profiles.problems.fields import Fields
from gpuplan.profiles.problems.placement_io import check_schema
from gpuplan.profiles.records import as_float, show

SCHEMA: Final = "gpuplan/batching-problem/1"

_EXECUTORS_KEYS = ("schema", "name", "comment", "executors", "time", "objective")
_KEYS = (*_EXECUTORS_KEYS, "requests")
_REQUEST_KEYS = ("id", "prompt_tokens", "output_tokens", "arrival_s", "deadline_s", "weight")
_EXECUTOR_KEYS = ("name", "kv_capacity_tokens", "max_batch", "speed")
_TIME_KEYS = (
    "prefill_fixed_s",
    "prefill_s_per_token",
    "step_fixed_s",
    "step_s_per_sequence",
    "step_s_per_context_token",
)
_WEIGHTS = ("latency", "makespan", "padding", "violation")


@dataclass(frozen=True, slots=True)
class ExecutorsFile:
    """What an executors file holds; `objective` is None where it does not say."""

    executors: tuple[Executor, ...]
    time: BatchTime
    objective: BatchObjective | None
    name: str = ""


def load_batching_problem(path: str | Path) -> BatchingProblem:
    """Read a batching-problem file (JSON or YAML).

    Raises
    ------
    InputError
        The file cannot be used; the message names the file and the JSON path.
    """
    return batching_from_dict(read_document(path), source=str(path))


def load_executors(path: str | Path) -> ExecutorsFile:
    """Read an executors file: a batching-problem file without ``requests``; InputError as above."""
    source = str(path)
    document = read_document(path)
    check_schema(document, SCHEMA, source)
    if isinstance(document, dict) and "requests" in document:
        raise InputError(
            "expected executors, time and objective only, got requests as well; remove them, or hand the file to "
            "gpuplan solve",
            source=source,
            place="$.requests",
        )
    root = Fields(document, source=source, keys=_EXECUTORS_KEYS)
    root.text("comment", "", empty=True)
    return ExecutorsFile(
        executors=_executors(root),
        time=_time(root),
        objective=_objective(root) if "objective" in root else None,
        name=root.text("name", "", empty=True),
    )


def batching_from_dict(document: Any, source: str | None = None) -> BatchingProblem:
    """Return the problem that a `gpuplan/batching-problem/1` document holds.

    Raises
    ------
    InputError
        With the JSON path of the first defect found.
    """
    check_schema(document, SCHEMA, source)
    root = Fields(document, source=source, keys=_KEYS)
    root.text("comment", "", empty=True)
    executors = _executors(root)
    try:
        return BatchingProblem(
            requests=_requests(root),
            executors=executors,
            time=_time(root),
            objective=_objective(root),
            name=root.text("name", "", empty=True),
        )
    except InputError as error:
        if source is None:
            raise
        raise error.at(source) from None


def _executors(root: Fields) -> tuple[Executor, ...]:
    if root.value.get("executors") == []:
        root.fail("expected at least one executor, got none", "executors")
    executors = tuple(_executor(fields) for fields in root.records("executors", _EXECUTOR_KEYS, least=1))
    try:
        check_executors(executors)
    except InputError as error:
        raise InputError(error.message, source=root.source, place=error.place) from None
    return executors


def _executor(fields: Fields) -> Executor:
    return Executor(
        name=fields.text("name"),
        kv_capacity_tokens=fields.number("kv_capacity_tokens"),
        max_batch=fields.whole("max_batch", minimum=1),
        speed=fields.number("speed", 1.0, positive=True),
    )


def _time(root: Fields) -> BatchTime:
    fields = root.record("time", _TIME_KEYS)
    return BatchTime(*(fields.number(key) for key in _TIME_KEYS))


def _objective(root: Fields) -> BatchObjective:
    fields = root.record("objective", (*_WEIGHTS, "deadlines"))
    weights = [fields.number(key) for key in _WEIGHTS]
    deadlines = fields.choice("deadlines", ("soft", "hard"), "soft")
    return BatchObjective(weights[0], weights[1], weights[2], weights[3], deadlines)  # type: ignore[arg-type]


def _requests(root: Fields) -> Requests:
    fields = root.record("requests", _REQUEST_KEYS)
    ids = _ids(fields)
    size = len(ids)
    return Requests(
        id=ids,
        prompt_tokens=_tokens(fields, "prompt_tokens", size),
        output_tokens=_tokens(fields, "output_tokens", size),
        arrival_s=_column(fields, "arrival_s", size, 0.0),
        deadline_s=_deadlines(fields, size),
        weight=_column(fields, "weight", size, 1.0),
    )


def _ids(fields: Fields) -> IdArray:
    values = fields.get("id", "a list of ids")
    if not isinstance(values, list):
        fields.fail(f"expected a list of ids, got {show(values)}", "id")
    if not values:
        fields.fail("expected at least one request, got none", "id")
    if not set(map(type, values)) <= {str, int}:
        row = next(row for row, value in enumerate(values) if type(value) not in (str, int))
        fields.fail(f"expected text or a whole number, got {show(values[row])}", f"id[{row}]")
    return id_column(values)


def _tokens(fields: Fields, key: str, size: int) -> IntArray:
    column = fields.vector(key, size, "id")
    whole = (column == np.floor(column)) & (column < MOST_TOKENS)
    if not whole.all():
        row = int(np.argmin(whole))
        fields.fail(f"expected a whole number of tokens, got {column[row]}", f"{key}[{row}]")
    return column.astype(np.int64)


def _column(fields: Fields, key: str, size: int, default: float) -> FloatArray:
    value = fields.value.get(key, default)
    if isinstance(value, list):
        return fields.vector(key, size, "id")
    return np.full(size, fields.number(key, default))


def _deadlines(fields: Fields, size: int) -> FloatArray:
    key = "deadline_s"
    value = fields.value.get(key)
    if value is None:
        return np.full(size, np.inf)
    if not isinstance(value, list):
        return np.full(size, fields.number(key))
    if None not in value:
        return fields.vector(key, size, "id")
    if len(value) != size:
        fields.fail(f"expected {size} numbers or nulls, one for each id, got {len(value)}", key)
    column = np.full(size, np.inf)
    for row, item in enumerate(value):
        if item is not None:
            number = as_float(item)
            if number is None or not 0.0 <= number < float("inf"):
                fields.fail(
                    f"expected a finite number of at least 0, or null for no deadline, got {show(item)}",
                    f"{key}[{row}]",
                )
            column[row] = number
    return column


def batching_to_dict(problem: BatchingProblem) -> dict[str, Any]:
    """Return the `gpuplan/batching-problem/1` document of a problem; `batching_from_dict` takes it back."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "requests": requests_to_dict(problem.requests),
        "executors": [asdict(executor) for executor in problem.executors],
        "time": asdict(problem.time),
        "objective": asdict(problem.objective),
    }
    if problem.name:
        document["name"] = problem.name
    return document


def requests_to_dict(requests: Requests) -> dict[str, Any]:
    """Return requests by column, as the file format holds them; columns that say nothing are left out."""
    document: dict[str, Any] = {
        "id": requests.id.tolist(),
        "prompt_tokens": requests.prompt_tokens.tolist(),
        "output_tokens": requests.output_tokens.tolist(),
    }
    if requests.arrival_s.any():
        document["arrival_s"] = requests.arrival_s.tolist()
    if np.isfinite(requests.deadline_s).any():
        document["deadline_s"] = [None if value == float("inf") else value for value in requests.deadline_s.tolist()]
    if (requests.weight != 1.0).any():
        document["weight"] = requests.weight.tolist()
    return document
