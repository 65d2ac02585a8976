"""Batch plans as Parquet (the extra ``parquet``): one row a request, the rest of the document as metadata.

Columns: ``executor``, ``position``, ``id``, ``prompt_tokens``, ``output_tokens`` (of the batch, padded), ``start_s``,
``finish_s``, ``unmet``, and the request's own ``row``, ``request_prompt_tokens``, ``request_output_tokens``,
``arrival_s``, ``deadline_s``, ``weight``.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuplan.errors import InputError, UsageError
from gpuplan.plans.canonical import canonical_json

if TYPE_CHECKING:
    from gpuplan.plans.batch_plan import BatchPlan

_KEY: Final = b"gpuplan"
_MAGIC: Final = b"PAR1"


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Return whether the file at `path` begins as a Parquet file does; False when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == _MAGIC
    except (OSError, ValueError):
        return False


def write_batch_parquet(plan: BatchPlan, path: str | os.PathLike[str]) -> None:
    """Write `plan` to `path`, whole or not at all (UsageError; SolverUnavailableError without the extra)."""
    from gpuplan.plans.batch_plan import head_to_dict
    from gpuplan.profiles.requests_parquet import require_pyarrow

    require_pyarrow(f"writing {os.fspath(path)}")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table(_columns(plan)).replace_schema_metadata({_KEY: canonical_json(head_to_dict(plan, embed=False))})
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        parquet.write_table(table, temporary)
        os.replace(temporary, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot write {str(path)!r}: {reason}; name a writable file") from None
    finally:
        temporary.unlink(missing_ok=True)


def _columns(plan: BatchPlan) -> dict[str, Any]:
    solution, requests = plan.solution, plan.problem.requests
    rows, sizes = solution.rows, solution.sizes
    names = np.array([executor.name for executor in plan.problem.executors], dtype=object)
    first = np.searchsorted(solution.executor, solution.executor, side="left")
    position = np.arange(solution.num_batches) - first
    ids = requests.id[rows]
    text = ids.dtype.kind == "O"
    deadline = requests.deadline_s[rows]
    unmet = np.zeros(len(rows), dtype=bool)
    unmet[solution.unmet] = True
    return {
        "executor": np.repeat(names[solution.executor], sizes).astype(str),
        "position": np.repeat(position, sizes),
        "id": np.array([json.dumps(name) for name in ids.tolist()]) if text else ids,
        "prompt_tokens": np.repeat(solution.prompt_tokens, sizes),
        "output_tokens": np.repeat(solution.output_tokens, sizes),
        "start_s": np.repeat(solution.start_s, sizes),
        "finish_s": np.repeat(solution.finish_s, sizes),
        "unmet": unmet[rows],
        "row": rows,
        "request_prompt_tokens": requests.prompt_tokens[rows],
        "request_output_tokens": requests.output_tokens[rows],
        "arrival_s": requests.arrival_s[rows],
        "deadline_s": np.where(np.isinf(deadline), np.nan, deadline),
        "weight": requests.weight[rows],
    }


def read_batch_parquet(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the whole document of a Parquet plan, requests embedded.

    Raises
    ------
    InputError
        The file is cut short, no batch plan, or lacks a column.
    """
    from gpuplan.profiles.requests_parquet import require_pyarrow

    source = os.fspath(path)
    require_pyarrow(f"reading {source}")
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    try:
        table = parquet.ParquetFile(source).read()
        document: dict[str, Any] = json.loads((table.schema.metadata or {})[_KEY])
        columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in _NAMES}
    except KeyError as error:
        raise InputError(f"expected a batch plan, got a Parquet file without {error.args[0]}", source=source) from None
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"expected a whole Parquet file, got one that is cut short or damaged ({reason}); write it again",
            source=source,
        ) from None
    return _document(document, columns, source)


_NAMES: Final = (
    "executor",
    "position",
    "id",
    "prompt_tokens",
    "output_tokens",
    "start_s",
    "finish_s",
    "unmet",
    "row",
    "request_prompt_tokens",
    "request_output_tokens",
    "arrival_s",
    "deadline_s",
    "weight",
)


def _document(document: dict[str, Any], columns: dict[str, Any], source: str) -> dict[str, Any]:
    ids: list[Any] = columns["id"].tolist()
    if columns["id"].dtype.kind == "O":
        ids = [json.loads(name) for name in ids]
    order = np.argsort(columns["row"], kind="stable")
    if not np.array_equal(columns["row"][order], np.arange(len(order))):
        raise InputError("expected every row of the requests once in column row", source=source)
    requests = {
        "id": [ids[k] for k in order.tolist()],
        "prompt_tokens": columns["request_prompt_tokens"][order].tolist(),
        "output_tokens": columns["request_output_tokens"][order].tolist(),
    }
    arrival, deadline, weight = (columns[name][order] for name in ("arrival_s", "deadline_s", "weight"))
    if arrival.any():
        requests["arrival_s"] = arrival.tolist()
    if not np.isnan(deadline).all():
        requests["deadline_s"] = [None if value != value else value for value in deadline.tolist()]
    if (weight != 1.0).any():
        requests["weight"] = weight.tolist()
    document["inputs"]["problem"]["requests"] = requests
    document["batches"] = _batches(columns, ids)
    document["unmet"] = [ids[k] for k in order.tolist() if columns["unmet"][k]]
    return document


def _batches(columns: dict[str, Any], ids: list[Any]) -> list[dict[str, Any]]:
    executor, position = columns["executor"], columns["position"]
    starts = np.flatnonzero(np.r_[True, (executor[1:] != executor[:-1]) | (position[1:] != position[:-1])])
    ends = np.r_[starts[1:], len(executor)]
    return [
        {
            "executor": executor[a],
            "position": int(position[a]),
            "requests": ids[a:b],
            "prompt_tokens": int(columns["prompt_tokens"][a]),
            "output_tokens": int(columns["output_tokens"][a]),
            "start_s": float(columns["start_s"][a]),
            "finish_s": float(columns["finish_s"][a]),
        }
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
