"""The search by kinds of islands: the same objectives over a session that answers by the quotient."""

from __future__ import annotations

import dataclasses

from gpuplan.solvers.placement.groups.asked import Asked
from gpuplan.solvers.placement.groups.proofs import ISLANDS
from gpuplan.solvers.placement.groups.quotient import QuotientSession
from gpuplan.solvers.placement.groups.search import Found, answered
from gpuplan.solvers.placement.groups.tables import all_modes, mode_tables, shared_segments


def search_quotient(asked: Asked) -> Found:
    """Search plans by kinds of islands; exact once their runs are packed into the islands there are."""
    modes = all_modes(asked.problem, asked.segments, asked.degrees)
    if not len(modes.words):
        return Found("infeasible", how="no group")
    tables = mode_tables(asked.problem, modes, shared_segments(asked.segments, modes))
    found = answered(asked, modes, QuotientSession(tables, asked.segments, modes, asked.engine, asked.budget))
    return dataclasses.replace(found, how=f"{found.how} over {ISLANDS}")
