"""Names as people type them: unique prefixes, the SXM form, the closest name for an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from gpuplan.errors import UsageError


def closest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of `names` that look most like `name`, best first."""
    typed = re.sub(r"[\s_]+", "-", name.strip().lower())
    scored = sorted((-_likeness(typed, known), known) for known in set(names))
    best = -scored[0][0] if scored else 0.0
    return [known for score, known in scored if -score >= max(0.6, best - 0.15)][:count]


def _likeness(typed: str, known: str) -> float:
    """Return how much a typed name looks like a known one, or like its beginning, between 0 and 1."""
    parts = known.split("-")
    if set(typed.split("-")) <= set(parts):
        return 1.0
    beginnings = ["-".join(parts[: number + 1]) for number in range(len(parts))]
    return max(difflib.SequenceMatcher(None, typed, beginning).ratio() for beginning in beginnings)


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """Return the sentence that says `name` is no known `what` and names the closest."""
    pool = list(names)
    near = closest(name, pool)
    some = ", ".join(pool[:4]) + (", …" if len(pool) > 4 else "")
    mend = f"did you mean {' or '.join(near)}?" if near else f"`gpuplan list` shows what there is ({some})"
    return f"unknown {what} {name!r}; {mend}"


def _form_free(name: str) -> str:
    """Return `name` with ``sxm4`` and the like written ``sxm``."""
    return re.sub(r"-sxm\d+(?=-|$)", "-sxm", name)


def resolve_kind(name: str, names: Sequence[str]) -> str:
    """Return the canonical kind that `name` stands for.

    In this order: the name itself; the name with ``sxm`` for ``sxmN``; the only name that adds no more than a memory
    size (``rtx-3090`` is not the 3090 Ti); a unique prefix, whole hyphen-separated parts before parts of words (``l4``
    is ``l4-24gb``, not ``l40-48gb``); of candidates that differ by form only the SXM one.

    Raises
    ------
    UsageError
        The name is ambiguous (the candidates are listed) or unknown (the closest are).

    Examples
    --------
    >>> resolve_kind("h100", ["h100-sxm5-80gb", "h100-pcie-80gb"])
    'h100-sxm5-80gb'
    """
    typed = re.sub(r"[\s_]+", "-", name.strip().lower())
    if typed in names:
        return typed
    for matches in (
        [known for known in names if _form_free(known) == typed],
        _only_memory_open(typed, names),
        [known for known in names if known.startswith(typed + "-") or _form_free(known).startswith(typed + "-")],
        [known for known in names if known.startswith(typed) or _form_free(known).startswith(typed)],
    ):
        if matches and typed:
            return _single(name, matches)
    raise UsageError(unknown("GPU kind", name, names))


def _only_memory_open(typed: str, names: Sequence[str]) -> list[str]:
    """Return the one name that is `typed` and a memory size, or nothing."""
    found = [known for known in names if re.fullmatch(re.escape(typed) + r"-[0-9]+gb", _form_free(known))]
    return found if len(found) == 1 else []


def _single(name: str, matches: Sequence[str]) -> str:
    """Return the only candidate, or the SXM one where the form alone decides."""
    if len(matches) == 1:
        return matches[0]
    parts = [known.split("-") for known in matches]
    forms = [part[1] if len(part) > 1 else "" for part in parts]
    sxm = [known for known, form in zip(matches, forms, strict=True) if form.startswith("sxm")]
    # Ambiguous by form only: one model, and no form comes with two memory sizes.
    if len({part[0] for part in parts}) == 1 and len(set(forms)) == len(forms) and len(sxm) == 1:
        return sxm[0]
    raise UsageError(f"the GPU kind {name!r} is ambiguous; write one of {', '.join(sorted(matches))}")
