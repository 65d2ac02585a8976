"""Least bottleneck of modes: one pass where the small engine runs, else the search over caps that single devices have.

Over kinds of islands the parts are the blocks of the quotient. A block is a relaxation, whose sequences become plans
once their runs are packed; caps that it leaves open are settled by the session itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan.solvers.placement.bottleneck import TIE, by_caps, parts_of, path_bottleneck
from gpuplan.solvers.placement.core import Query, make_core
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import ClassPath

if TYPE_CHECKING:
    from gpuplan.solvers.placement.bottleneck_caps import Incumbent, Referee
    from gpuplan.solvers.placement.bottleneck_part import Part
    from gpuplan.solvers.placement.groups.quotient import QuotientSession
    from gpuplan.solvers.placement.groups.search import GroupSession


def minimise_group_bottleneck(session: GroupSession, hint: ClassPath | None) -> Outcome:
    """Least bottleneck, then latency at that bottleneck (1e-9 relative)."""
    from gpuplan.solvers.placement.groups.quotient import QuotientSession

    if session.runs_small():
        least = session.ask(Query(bottleneck=True))
    else:
        least = by_caps(session, hint, _block_parts if isinstance(session, QuotientSession) else None)
    if least.path is None:
        return Outcome(status_of(least), None, None)
    if not least.proven:
        return Outcome("feasible", least.path, (max(least.bound, 0.0), 0.0))
    answer = session.ask(Query(cap_s=least.value * (1.0 + TIE)), hint=least.path)
    path = answer.path if answer.path is not None else least.path
    latency = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (least.value, latency))


def _block_parts(session: Session, best: Incumbent) -> list[Part]:
    """Return the parts of a session over kinds of islands: its blocks, rings as if an island held both their ends."""
    from gpuplan.solvers.placement.bottleneck_part import Part
    from gpuplan.solvers.placement.groups.quotient import QuotientSession

    assert isinstance(session, QuotientSession)
    found: list[Part] = []
    for block in (*session.blocks, *session.rings.values()):
        for query, micro_batches in parts_of(session.tables):
            core = make_core(block.free.tables, query, micro_batches)
            if core.max_stages >= 2 and core.num_classes > 0:
                found.append(Part(core, session.budget, best, _within(session, best), block.realised, eager=True))
    return found


def _within(session: QuotientSession, best: Incumbent) -> Referee:
    """Return what has the session settle a cap: no plan at all means none in a block."""

    def ask(cap_s: float) -> tuple[float, ClassPath | None, bool]:
        answer = session.within(cap_s, best.path)
        if answer.path is None:
            return math.inf, None, answer.proven
        return path_bottleneck(session.tables, answer.path), answer.path, False

    return ask
