"""Batch plans and solutions against their schemas, quickly where all batches are plainly well-formed.

JSON Schema takes milliseconds a batch; a plan has tens of thousands. Batches whose keys and values are checked here
column by column need no further look; if any one is off, the schema says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from gpuplan.plans.validation import check_document

_COUNTS: Final = ("prompt_tokens", "output_tokens")
_TIMES: Final = ("start_s", "finish_s")
_KEYS: Final = frozenset(("executor", "requests", *_COUNTS, *_TIMES))
_FEW: Final = 100


def check_batches_document(document: Any, schema: str, *, source: str | None = None) -> None:
    """Raise InputError with the place of the first defect unless `document` follows `schema`.

    Embedded requests are left to the reader of batching problems, which checks every value.
    """
    slim = document
    if isinstance(document, Mapping):
        slim = dict(document)
        keys = _KEYS | {"position"} if "batch-plan" in schema else _KEYS
        if _plain(document.get("batches"), keys):
            slim["batches"] = []
        inputs = document.get("inputs")
        problem = inputs.get("problem") if isinstance(inputs, Mapping) else None
        if isinstance(inputs, Mapping) and isinstance(problem, Mapping) and isinstance(problem.get("requests"), dict):
            slim["inputs"] = {**inputs, "problem": {**problem, "requests": {}}}
    check_document(slim, schema, source=source)


def _plain(batches: Any, keys: frozenset[str]) -> bool:
    """Return whether `batches` is a long list of objects with exactly `keys` and values the schema takes."""
    if not isinstance(batches, list) or len(batches) < _FEW:
        return False
    if not all(type(batch) is dict and batch.keys() == keys for batch in batches):
        return False
    columns = {key: [batch[key] for batch in batches] for key in keys}
    whole = [key for key in (*_COUNTS, "position") if key in keys]
    return (
        set(map(type, columns["executor"])) == {str}
        and set(map(type, columns["requests"])) == {list}
        and all(columns["requests"])
        and all(set(map(type, columns[key])) == {int} and min(columns[key]) >= 0 for key in whole)
        and all(_finite(columns[key]) for key in _TIMES)
    )


def _finite(values: Sequence[Any]) -> bool:
    if not set(map(type, values)) <= {int, float}:
        return False
    try:
        column = np.array(values, dtype=np.float64)
    except OverflowError:
        return False
    return bool((np.isfinite(column) & (column >= 0.0)).all())
