"""What every solution file is checked for, whatever it decides: read, complete, a certificate that holds together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuplan.plans.files import read_document
from gpuplan.plans.validation import check_document
from gpuplan.plans.verify.findings import Ledger, Verification, agree, show

#: A solution: its document, or the path of its file.
Answer = Mapping[str, Any] | str | os.PathLike[str]


def verify_answer(
    solution: Answer,
    schema: str,
    check: Callable[[Ledger, Mapping[str, Any]], None],
    *,
    keys: Sequence[str] = (),
    follows: Callable[..., None] = check_document,
) -> Verification:
    """Read a solution and check its plan, where it has one with all of `keys`.

    `check` adds what does not hold; `follows` is asked first whether the document follows `schema` (InputError).
    """
    source = None if isinstance(solution, Mapping) else os.fspath(solution)
    document = solution if isinstance(solution, Mapping) else read_document(solution)
    follows(document, schema, source=source)
    ledger = Ledger()
    if holds_plan(ledger, document, keys):
        check(ledger, document)
    return ledger.verdict()


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
