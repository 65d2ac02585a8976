"""Least bottleneck: the largest stage compute + outgoing hop of the cycle, then latency at that bottleneck.

Small problems take one pass of the level search on maxima; others a search over caps (`bottleneck_caps`). Memory that
grows with the number of stages splits the plans by stage count, each part with memory of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan.solvers.placement.bottleneck_cheap import CheapCaps
from gpuplan.solvers.placement.core import Query, make_core, single_stage
from gpuplan.solvers.placement.evaluate import evaluate
from gpuplan.solvers.placement.outcome import Outcome, status_of
from gpuplan.solvers.placement.query import Answer, Session, cells
from gpuplan.solvers.placement.tables import ClassPath, ClassTables

if TYPE_CHECKING:
    from gpuplan.solvers.placement.bottleneck_caps import Incumbent, Referee
    from gpuplan.solvers.placement.bottleneck_part import Part

#: Plans within this relative distance of the least bottleneck compete on latency.
TIE = 1e-9
#: Largest labels·(n+1) that one pass takes under ``auto``, about 40 ms of NumPy; twice as many on one host, where
#: loading the kernels (0.4 s) would be most of a first call.
ONE_PASS_CELLS = 1e5
HOST_DEVICES = 8
#: Prices of a cap, in latencies of the best plan, that start the search for the least latency under it.
DEAR = 6.0


def path_bottleneck(tables: ClassTables, path: ClassPath) -> float:
    """Largest stage compute + outgoing hop of a path, s."""
    cycle = tables.cycle
    worst = 0.0
    for k, (c, start, stop) in enumerate(path):
        hop = 0.0
        if k + 1 < len(path):
            hop = cycle.hop(c, path[k + 1][0], stop)
        elif len(path) > 1:
            hop = cycle.returns(c, path[0][0])
        worst = max(worst, float(cycle.prefix[c, stop] - cycle.prefix[c, start]) + hop)
    return worst


def minimise_bottleneck(session: Session, hint: ClassPath | None) -> Outcome:
    """Least bottleneck; with a second key then the least latency at that bottleneck (1e-9 relative)."""
    least = session.ask(Query(bottleneck=True)) if _in_one_pass(session) else by_caps(session, hint)
    if least.path is None:
        return Outcome(status_of(least), None, None)
    if not least.proven:
        return Outcome("feasible", least.path, (max(least.bound, 0.0), 0.0))
    if not session.second_key:
        return Outcome("optimal", least.path, (least.value, 0.0))
    cap_s = least.value * (1.0 + TIE)
    _warm_up(session, least.path, cap_s)
    answer = session.ask(Query(cap_s=cap_s), hint=least.path)
    path = answer.path if answer.path is not None else least.path
    latency = answer.bound if math.isfinite(answer.bound) else 0.0
    proven = answer.proven and answer.path is not None
    return Outcome("optimal" if proven else "feasible", path, (least.value, latency))


def _warm_up(session: Session, path: ClassPath, cap_s: float) -> None:
    """Start the latency bound under a tight cap from multipliers that make waste dear.

    Few choices of devices keep within a cap at its least. The Lagrangian bound sees latency alone and follows each
    choice to its end; prices of the cap, several times the latency at hand in all, cut those that cannot be completed
    (any multipliers give a valid bound).
    """
    tables = session.tables
    if session.runs_small() or tables.problem.micro_batches == "stages":
        return
    from gpuplan.solvers.placement.bottleneck_caps import cap_multipliers
    from gpuplan.solvers.placement.bottleneck_part import WIDE

    core = make_core(tables, Query(bottleneck=True), tables.problem.micro_batches)
    if core.num_classes <= WIDE and core.max_stages >= 2:
        latency = evaluate(tables.problem, tables.to_stages(path)).latency_s
        session.multipliers["best"] = DEAR * latency * cap_multipliers(core, session.budget, cap_s)


def _in_one_pass(session: Session) -> bool:
    """Whether the level search on maxima answers; decided by the size of the problem alone."""
    if not session.runs_small():
        return False
    one_host = session.tables.problem.num_devices <= HOST_DEVICES
    most = ONE_PASS_CELLS * (2.0 if one_host else 1.0)
    return session.engine == "dp" or cells(make_core(session.tables, Query(), 1)) <= most


def by_caps(session: Session, hint: ClassPath | None, sources: Sources | None = None) -> Answer:
    """Least bottleneck by a search over caps; what walks in NumPy find where its kernels are not ready in time.

    `sources` makes the parts to search where they are not those of the session's own classes.
    """
    from gpuplan.solvers.placement.bottleneck_compiling import CAPS

    if not CAPS.loaded():
        cheap = _Meanwhile(session, hint)
        # A call that comes while another's preparation is ending, its limit passed, would end with that: once more.
        if not (CAPS.prepare(session.budget, cheap.step) or CAPS.prepare(session.budget, cheap.step)):
            return cheap.answer()
    from gpuplan.solvers.placement.bottleneck_caps import EXACT, Incumbent

    session.engines.add("labels")
    trace = session.settings.trace
    trace.kind, trace.proof = "device prices", "prices on devices that no cap below can pay, and the labels they cut"
    best = Incumbent()
    if hint is not None:
        best.offer(path_bottleneck(session.tables, hint), hint)
    for part, micro_batches in parts_of(session.tables):
        alone = single_stage(session.tables, part, micro_batches)
        if alone is not None:
            best.offer(*alone)
    search = _Search(session, best, (sources or _own_parts)(session, best))
    search.close()
    if best.path is None and search.lower < math.inf:
        start = session.ask(Query(time_weight=0.0, any_plan=True))
        if start.path is None:
            return start
        best.offer(path_bottleneck(session.tables, start.path), start.path)
        search.close()
    search.finish()
    proven = search.lower >= best.value * (1.0 - EXACT)
    return Answer(best.value, best.path, best.value if proven else search.lower, proven)


class _Meanwhile:
    """What NumPy finds, part by part, while kernels are made ready."""

    def __init__(self, session: Session, hint: ClassPath | None) -> None:
        self.session = session
        self.value, self.path = math.inf, hint
        if hint is not None:
            self.value = path_bottleneck(session.tables, hint)
        self.parts: list[CheapCaps] = []
        self.coming = parts_of(session.tables)

    def step(self) -> bool:
        """Take a step in the part at hand, or begin the next one; False when nothing is left."""
        if self.parts and self.parts[-1].step():
            return True
        following = next(self.coming, None)
        if following is not None:
            self._begin(*following)
        return following is not None

    def answer(self) -> Answer:
        """Return the best plan and what is proven of all parts."""
        begun = bool(self.parts) or self.step()
        for part in self.parts:
            if part.path is None and self.path is None:
                part.fill(self.session.budget)
            self._offer(part.value, part.path)
        whole = begun and next(self.coming, None) is None
        bound = min([self.value, *(part.lower for part in self.parts)]) if whole else 0.0
        trace = self.session.settings.trace
        trace.note("the kernels were not ready in time: walks in NumPy answer")
        trace.kind, trace.proof = "longest stages", "what stages within a cap hold at most, in NumPy"
        return Answer(self.value, self.path, bound, False)

    def _begin(self, query: Query, micro_batches: int) -> None:
        tables = self.session.tables
        alone = single_stage(tables, query, micro_batches)
        if alone is not None:
            self._offer(*alone)
        core = make_core(tables, query, micro_batches)
        if core.max_stages >= 2:
            self.parts.append(CheapCaps(core))

    def _offer(self, value: float, path: ClassPath | None) -> None:
        if path is not None and value < self.value:
            self.value, self.path = value, path


#: Makes the parts that together hold all plans of two stages or more.
Sources = Callable[["Session", "Incumbent"], "list[Part]"]


def _own_parts(session: Session, best: Incumbent) -> list[Part]:
    """One part per stage count where memory grows with it, else one."""
    from gpuplan.solvers.placement.bottleneck_part import Part

    cores = [(part, make_core(session.tables, part, count)) for part, count in parts_of(session.tables)]
    return [
        Part(core, session.budget, best, referee(session, part, best)) for part, core in cores if core.max_stages >= 2
    ]


def referee(session: Session, part: Query, best: Incumbent) -> Referee:
    """Return what has the general engine settle a cap."""

    def ask(cap_s: float) -> tuple[float, ClassPath | None, bool]:
        query = replace(part, bottleneck=False, time_weight=0.0, cap_s=cap_s, any_plan=True)
        answer = session.ask(query, hint=best.path)
        if answer.path is None:
            return math.inf, None, answer.infeasible
        return path_bottleneck(session.tables, answer.path), answer.path, False

    return ask


class _Search:
    """The search over caps in every part of the plans."""

    def __init__(self, session: Session, best: Incumbent, spaces: list[Part]) -> None:
        self.session, self.best, self.spaces = session, best, spaces

    @property
    def lower(self) -> float:
        """No plan of two stages or more is better; those of one are among the plans offered."""
        return min((space.lower for space in self.spaces), default=math.inf)

    def close(self) -> None:
        """Bring bound and best plan together, the most promising part first."""
        for space in self.spaces:
            space.bound()
        for space in self._by_bound():
            space.climb(self._truncated)

    def finish(self) -> None:
        """Prove the best plan, or find better ones, without truncation."""
        if self._truncated:
            return
        for space in self._by_bound():
            space.finish()

    @property
    def _truncated(self) -> bool:
        ladder = self.session.settings.ladder
        return self.session.engine == "beam" or (ladder is not None and ladder[-1].width is not None)

    def _by_bound(self) -> list[Part]:
        return sorted(self.spaces, key=lambda space: space.lower)


def parts_of(tables: ClassTables) -> Iterator[tuple[Query, int]]:
    """One part per stage count where memory grows with it; a plan of fewer stages needs less than its part allows."""
    micro_batches, query = tables.problem.micro_batches, Query(bottleneck=True)
    if micro_batches != "stages":
        yield query, micro_batches
        return
    for count in range(1, tables.max_stages + 1):
        yield query.limited_to(count), count
