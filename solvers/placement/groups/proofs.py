"""Why a bound on plans over groups holds: its kind in a word or two, and a sentence for the certificate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

EXHAUSTIVE: Final = "exhaustive search"
PRUNED: Final = "Lagrangian and label search"
BEST_CASES: Final = "best-case groups"
ISLANDS: Final = "kinds of islands"
EACH_SIZE: Final = "one size at a time"


def kind_of(engines: Iterable[str]) -> str:
    """Return what sort of bound a search by some engines gives."""
    return EXHAUSTIVE if set(engines) <= {"dp"} else PRUNED


def sentence(kind: str, labels: int, how: str = "") -> str:
    """Return how a bound was proven.

    >>> sentence("exhaustive search", 12)
    'exhaustive label search over all groups, 12 labels'
    """
    if kind == BEST_CASES:
        said = "every group taken to be the best of its size on its island in everything"
    elif kind == EXHAUSTIVE:
        said = "exhaustive label search over all groups"
    else:
        said = "Lagrangian relaxation over all groups and the label search it prunes"
    if ISLANDS in how:
        said += ", islands of a kind taken as unlimited and counted where they run out"
    if how == EACH_SIZE:
        said += ", each size by itself: the least of their bounds"
    return f"{said}, {labels:,} label{'' if labels == 1 else 's'}"
