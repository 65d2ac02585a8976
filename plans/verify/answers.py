"""What every solution file is checked for, whatever it decides: read, complete, a certificate that holds together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuplan.plans.files import read_document
from gpuplan.plans.validation import check_document
from gpuplan.plans.verify.findings import Ledger, agree, show


def read_answer(
    solution: Mapping[str, Any] | str | os.PathLike[str],
    schema: str,
    check: Callable[..., None] = check_document,
) -> Mapping[str, Any]:
    """Return the document of a solution, or of its file, once `check` found that it follows `schema`."""
    source = None if isinstance(solution, Mapping) else os.fspath(solution)
    document = solution if isinstance(solution, Mapping) else read_document(solution)
    check(document, schema, source=source)
    return document


def holds_plan(ledger: Ledger, document: Mapping[str, Any], keys: Sequence[str] = ()) -> bool:
    """Return whether there is a plan to check, with all of `keys`; note what is missing."""
    if document["status"] in ("infeasible", "no_solution"):
        ledger.add("$.status", f"says {document['status']!r}: there is no plan to check")
        return False
    missing = [key for key in keys if document.get(key) is None]
    for key in missing:
        ledger.add(f"$.{key}", f"expected the {key} of the plan, got none")
    return not missing


def check_single_bound(ledger: Ledger, said: Mapping[str, Any], place: str, *, maximise: bool = False) -> None:
    """Check the bound of one number: below it (above when maximising), its gap, and that ``optimal`` is earned."""
    objective, bound, gap = said["objective"], said["bound"], said["gap"]
    optimal = said["status"] == "optimal"
    if not has_bound(ledger, bound, gap, optimal, place):
        return
    wrong, side = (bound < objective, "below") if maximise else (bound > objective, "above")
    if wrong and not agree(bound, objective):
        ledger.add(f"{place}.bound", f"says {show(bound)}, {side} the objective {show(objective)}")
    elif optimal and not agree(bound, objective):
        ledger.add(f"{place}.bound", f"says {show(bound)}, which does not prove {show(objective)} optimal")
    expected = 0.0 if optimal or bound == objective else abs(bound - objective) / objective if objective else math.inf
    if not (gap is None if math.isinf(expected) else agree(gap, expected)):
        ledger.add(f"{place}.gap", f"says {show(gap)}, recomputed {show(expected)}")


def has_bound(ledger: Ledger, bound: Any, gap: float | None, optimal: bool, place: str) -> bool:
    """Return whether there is a bound; without one nothing is optimal and the gap is null."""
    if bound is not None:
        return True
    if optimal:
        ledger.add(f"{place}.bound", "says null, but a plan is optimal only with a bound that proves it")
    if gap is not None:
        ledger.add(f"{place}.gap", f"says {show(gap)}, but without a bound the gap is null")
    return False
