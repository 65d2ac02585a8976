"""Largest KV capacity: a search over token counts, each probe a feasibility question, then latency at the best."""

from __future__ import annotations

import math

import numpy as np

from gpuplan.errors import InputError
from gpuplan.solvers.placement.core import Query
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import ClassPath, ClassTables


def maximise_capacity(session: Session, hint: ClassPath | None) -> Outcome:
    """Most KV tokens (bound and objective carry −tokens), then latency with that room."""
    tables = session.tables
    if not tables.kv.any():
        raise InputError(
            "the kv-capacity objective needs layers with KV, but kv_bytes_per_token is 0 everywhere; "
            "choose another objective"
        )
    start = session.ask(Query(time_weight=0.0, any_plan=True), hint=hint)
    if start.path is None:
        return Outcome(status_of(start), None, (-_upper(tables), 0.0))
    tokens, path, most = _search(session, start.path)
    answer = session.ask(Query(capacity_tokens=tokens), hint=path)
    path = answer.path if answer.path is not None else path
    if most > tokens:
        return Outcome("feasible", path, (-most, 0.0))
    bound = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (-tokens, bound))


def path_capacity(tables: ClassTables, path: ClassPath) -> float:
    """KV tokens a plan has room for."""
    if tables.sizes is not None:
        return _group_capacity(tables, path)
    tokens = evaluate(tables.problem, tables.to_stages(path)).kv_capacity_tokens
    assert tokens is not None
    return float(tokens)


def _group_capacity(tables: ClassTables, path: ClassPath) -> float:
    """KV tokens of a plan whose stages are groups of devices: the least room over stages with KV."""
    rooms = []
    for c, start, stop in path:
        memory, kv = tables.memory_of(c), tables.kv_of(c)
        per_token = float(kv[stop] - kv[start])
        if per_token > 0.0:
            weights = float(memory[stop] - memory[start]) - (tables.saving_of(c) if len(path) == 1 else 0.0)
            rooms.append(math.floor((float(tables.room_exact[c]) - weights) / per_token))
    return float(min(rooms))


def _search(session: Session, path: ClassPath) -> tuple[float, ClassPath, float]:
    """Return the most tokens found, a plan that has room for them, and the most that are not disproven."""
    best = path_capacity(session.tables, path)
    most = _upper(session.tables)
    ceiling, unproven = most, False
    while best < ceiling and not session.budget.exhausted():
        tokens = best + math.ceil((ceiling - best) / 2.0)
        answer = session.ask(Query(time_weight=0.0, capacity_tokens=tokens, any_plan=True), hint=path)
        if answer.path is not None:
            path = answer.path
            best = max(tokens, path_capacity(session.tables, path))
        else:
            unproven = unproven or not answer.infeasible
            ceiling = tokens - 1.0
            most = most if unproven else ceiling
        session.budget.report("kv-capacity", -best, -most)
    return best, path, max(most, best)


def _upper(tables: ClassTables) -> float:
    """Return a capacity no plan exceeds: every layer with KV lies somewhere, at best alone on the roomiest device."""
    if tables.memory.ndim == 1:
        return math.floor(_most_tokens(tables, 0, float(tables.room_exact.max())))
    rooms = [_most_tokens(tables, c, float(tables.room_exact[c])) for c in range(tables.num_classes)]
    return float(math.floor(max(rooms)))


def _most_tokens(tables: ClassTables, c: int, room: float) -> float:
    """Tokens of the layer that leaves least room, were each alone on a device of class c."""
    weights, kv = np.diff(tables.memory_of(c)), np.diff(tables.kv_of(c))
    holds = kv > 0.0
    return float(((room - weights[holds] + tables.saving_of(c)) / kv[holds]).min())
