"""ε-classes: devices that differ by a few per cent taken as alike, for a bound and a first plan within moments.

The problem is rounded so that every device of a group is as good as the best of them (see `rounding`). What trades
places then forms classes again, mostly the hosts, and the engines for classes answer within milliseconds: a plain
search, the quotient of hosts and racks, or labels on a key. The optimum of the rounded problem bounds every plan of the
true one; its stages, given to the fastest devices of their classes, are a plan of the true one where memory allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.limits import Budget
from gpuplan.solvers.placement.classes import IntArray
from gpuplan.solvers.placement.core import Core, CoreOutcome, Query, bits_of, known_plan
from gpuplan.solvers.placement.effort import KEY_BITS, Settings, Trace
from gpuplan.solvers.placement.reduced import restore, restrict
from gpuplan.solvers.placement.tables import ClassPath, ClassTables, class_tables
from gpuplan.solvers.placement.unlike.quiet import ShareBudget
from gpuplan.solvers.placement.unlike.rounding import Rounded, Rounding

if TYPE_CHECKING:
    from gpuplan.solvers.placement.query import Answer, Session

#: Shares by which devices of a group may differ, the coarsest first.
EPSILONS = (0.08, 0.04, 0.02, 0.01, 0.005, 0.0025)
#: Classes from which on it is worth a try, and the share of them that must go.
FEWEST_CLASSES, SHARE_GONE = 24, 0.5
#: Most of the time and work left that the rounded problem may take, and then the search over a few hundred classes;
#: seconds the rounded problem may take where that is no larger a share than the latter.
ROUNDED_SHARE, FEW_SHARE, ROUNDED_S = 0.1, 0.3, 0.3
#: Exchanges of a class for one of its kind that are tried.
MOST_TRIES = 2_000
#: More classes than this are first searched by a few of them.
MANY_CLASSES, FEW_CLASSES = 1_500, 384
#: Bounds of the rounded problem are lowered by this share, for sums rounded in another order.
SLACK = 1e-12


@dataclass(frozen=True)
class Finest:
    """The rounding chosen for a problem, at a share `epsilon` between devices of a group, and its tables."""

    rounding: Rounding
    rounded: Rounded
    epsilon: float
    tables: ClassTables

    def describe(self) -> str:
        """Say what was taken as alike."""
        groups, classes = int(self.rounded.group.max()) + 1, self.tables.num_classes
        kinds = "1 kind" if groups == 1 else f"{groups} kinds"
        return (
            f"{len(self.rounded.group):,} devices taken as {kinds} in {classes:,} "
            f"ε-classes, each as fast as the fastest of its kind (ε = {100.0 * self.rounded.epsilon:.2g} %)"
        )


@dataclass(frozen=True)
class NearlyAlike:
    """The rounded problem of a session.

    session
        A session of its own on the rounded problem.
    home
        Class of each device in the true problem, shape (D,).
    """

    finest: Finest
    session: Session
    home: tuple[int, ...]

    def ask(self, query: Query, micro_batches: int, core: Core, upper: float) -> tuple[float, ClassPath | None]:
        """Return a bound on every plan (`upper` or more: none is better), and a path of the true problem or None."""
        answer = self._answer(self.session, query, micro_batches, upper)
        bound = answer.bound - SLACK * abs(answer.bound) if math.isfinite(answer.bound) else answer.bound
        if answer.path is None:
            return (max(upper, bound) if answer.proven else bound), None
        path = self._true_path(self.session, core, answer.path)
        if path is not None and bound < core.value(path):
            path = self._exchanged(core, answer.path, path)
        if path is None and len(answer.path) > 1:
            path = self._cautious(query, micro_batches, core)
        return bound, path

    def proof(self) -> str:
        """Say what answered the rounded problem."""
        inner = self.session
        if "quotient" in inner.engines:
            found = inner.hierarchy()
            return "the quotient" if found is None else f"the quotient of {found.describe()}"
        return "an exhaustive search" if inner.engines == {"dp"} else "a label search"

    def _answer(self, session: Session, query: Query, micro_batches: int, upper: float) -> Answer:
        whole = session.budget
        session.budget = _share(whole)
        try:
            return session.ask_part(self._restated(query, session.tables), micro_batches, upper)
        finally:
            session.budget = whole

    def _restated(self, query: Query, tables: ClassTables) -> Query:
        """Return a query with the least entry cost and weight of each class's devices."""
        entry, budget = query.entry, query.budget
        if entry is not None:
            entry = self._least(entry, tables)
        if budget is not None:
            budget = self._least(budget[0], tables), budget[1]
        return replace(query, entry=entry, budget=budget)

    def _least(self, values: tuple[float, ...], tables: ClassTables) -> tuple[float, ...]:
        return tuple(min(values[self.home[device]] for device in members) for members in tables.members)

    def _true_path(self, session: Session, core: Core, path: ClassPath) -> ClassPath | None:
        """Give the stages to true devices of their classes, the longest to the fastest; None where they do not fit."""
        left = {c: list(session.tables.members[c]) for c in {c for c, _, _ in path}}
        chosen = [-1] * len(path)
        lengths = [self._length(session, stage) for stage in path]
        for k in sorted(range(len(path)), key=lambda k: -lengths[k]):
            c, start, stop = path[k]
            device = min(left[c], key=lambda d: self._cost(core, self.home[d], start, stop))
            chosen[k] = self.home[device]
            left[c].remove(device)
        true = tuple((c, start, stop) for c, (_, start, stop) in zip(chosen, path, strict=True))
        return true if core.holds(true) else None

    def _length(self, session: Session, stage: tuple[int, int, int]) -> float:
        c, start, stop = stage
        prefix = session.tables.latency.prefix
        return float(prefix[c, stop] - prefix[c, start])

    def _cost(self, core: Core, c: int, start: int, stop: int) -> float:
        if int(core.low[c, stop]) > start:
            return math.inf
        return float(core.prefix[c, stop] - core.prefix[c, start] + core.entry[c])

    def _exchanged(self, core: Core, path: ClassPath, true: ClassPath) -> ClassPath:
        """Return what comes of exchanging classes (hosts) for others of their kind while that helps."""
        tree = self.session.hierarchy()
        if tree is None:
            return true
        best, tries = core.value(true), 0
        for c in dict.fromkeys(c for c, _, _ in path):
            for other in np.flatnonzero(tree.kind == tree.kind[c]).tolist():
                if other == c or tries == MOST_TRIES or self.session.budget.exhausted():
                    continue
                tries += 1
                places = {c: other, other: c}
                moved = tuple((places.get(d, d), start, stop) for d, start, stop in path)
                found = self._true_path(self.session, core, moved)
                if found is not None and core.value(found) < best:
                    best, true, path, c = core.value(found), found, moved, other
        return true

    def improved(self, session: Session, core: Core, path: ClassPath) -> ClassPath:
        """Return the best plan found on a plan's hosts and the fastest others, a few hundred classes in all."""
        from gpuplan.solvers.placement import large

        keep = self._promising(core, path)
        place = {int(c): k for k, c in enumerate(keep)}
        inner = tuple((place[c], start, stop) for c, start, stop in path)
        budget = ShareBudget(session.budget, FEW_SHARE)
        settings = Settings(session.settings.threads)
        found = large.minimise(restrict(core, keep), core.value(path), budget, settings, hint=inner)
        return path if found.path is None else restore(found.path, keep)

    def _promising(self, core: Core, path: ClassPath) -> IntArray:
        """Return the classes of a plan, then of the ε-classes that are fastest against what they are taken for."""
        used, tables = {c for c, _, _ in path}, self.finest.tables
        times = core.prefix[:, -1]
        groups = [sorted({self.home[device] for device in members}) for members in tables.members]
        taken_for = np.maximum(tables.latency.prefix[:, -1], 1e-300)
        slowness = [float(times[classes].mean() / taken_for[r]) for r, classes in enumerate(groups)]
        chosen = set(used)
        for r in sorted(range(len(groups)), key=lambda r: (used.isdisjoint(groups[r]), slowness[r])):
            if len(chosen.union(groups[r])) <= FEW_CLASSES:
                chosen.update(groups[r])
        return np.array(sorted(chosen), dtype=np.int64)

    def _cautious(self, query: Query, micro_batches: int, core: Core) -> ClassPath | None:
        """Return a plan of the problem rounded the other way, whose every plan is one of the true problem."""
        finest = self.finest
        worse = finest.rounding.rounded(finest.rounded.group, finest.epsilon, up=True)
        session = _session(_tables(worse), self.session)
        answer = self._answer(session, query, micro_batches, math.inf)
        return None if answer.path is None else self._true_path(session, core, answer.path)


def find_nearly_alike(session: Session) -> NearlyAlike | None:
    """Return a session's problem rounded, where the engines for classes answer it and half the classes go."""
    tables = session.tables
    if tables.modes is not None or tables.sizes is not None or tables.num_classes < FEWEST_CLASSES:
        return None
    finest = finest_rounding(tables.problem, SHARE_GONE * tables.num_classes)
    if finest is None:
        return None
    inner = _session(finest.tables, session)
    if not _fits(inner):
        return None
    home = np.zeros(tables.problem.num_devices, dtype=np.int64)
    for c, members in enumerate(tables.members):
        home[list(members)] = c
    return NearlyAlike(finest, inner, tuple(home.tolist()))


def finest_rounding(problem: DensePlacement, most: float) -> Finest | None:
    """Return the finest rounding that leaves as few classes as the coarsest; None where those are more than `most`.

    Raises
    ------
    UnsupportedError
        The coarsest leaves too many classes for tables of them.
    """
    rounding = Rounding(problem, with_price=problem.objective.name == "cost")
    best: Finest | None = None
    for epsilon in EPSILONS:
        group = rounding.groups(epsilon)
        if group is None:
            break
        rounded = rounding.rounded(group, epsilon)
        try:
            tables = _tables(rounded)
        except UnsupportedError:  # finer still leaves more
            if best is None:
                raise
            break
        if tables.num_classes > (most if best is None else best.tables.num_classes):
            break
        best = Finest(rounding, rounded, epsilon, tables)
    return best


def _tables(rounded: Rounded) -> ClassTables:
    return class_tables(rounded.problem, with_price=rounded.problem.objective.name == "cost")


def _session(tables: ClassTables, outer: Session) -> Session:
    """Return a session of its own on rounded tables, within a share of the limits of the outer one."""
    from gpuplan.solvers.placement.query import Session

    return Session(tables, "auto", outer.budget, Settings(outer.settings.threads))


def _share(whole: Budget) -> ShareBudget:
    """Return what a rounded problem may take of what is left now."""
    return ShareBudget(whole, max(ROUNDED_SHARE, min(FEW_SHARE, ROUNDED_S / max(whole.remaining_s, 1e-9))))


def _fits(session: Session) -> bool:
    """Whether the engines for classes answer the rounded problem: a plain search, a hierarchy, or a key."""
    if session.runs_small() or sum(bits_of(session.tables.counts)) <= KEY_BITS:
        return True
    return session.hierarchy() is not None


def minimise_nearly_alike(
    session: Session, query: Query, micro_batches: int, core: Core, upper: float, hint: ClassPath | None
) -> CoreOutcome:
    """Return the best plan below `upper`: bounded by ε-classes where they help, then by the large engine."""
    session.engines.add("labels")
    found = session.nearly_alike()
    if found is None:
        return session.minimise_large(core, upper, hint)
    bound, path = found.ask(query, micro_batches, core, upper)
    trace = session.settings.trace
    trace.note(f"{found.finest.describe()}: {found.proof()} gives a bound and a first plan")
    trace.proof = trace.kind = ""
    best = min(
        (known for known in (hint, path) if known is not None and core.holds(known)), key=core.value, default=None
    )
    rest = known_plan(core, best, upper)
    if bound < _target(core, min(rest.value, upper)):
        first = rest
        if core.num_classes > MANY_CLASSES and first.path is not None:
            hint = found.improved(session, core, first.path)
            first = known_plan(core, hint, upper)
        # Elsewhere the search goes its own way: from rounded plans it has come to worse ones.
        rest = session.minimise_large(core, upper, hint)
        if first.value < rest.value and not rest.proven:
            rest = CoreOutcome(first.value, first.path, min(rest.bound, first.value), False)
    return _joined(core, rest, bound, upper, found, trace)


def _joined(core: Core, rest: CoreOutcome, bound: float, upper: float, found: NearlyAlike, trace: Trace) -> CoreOutcome:
    """Return an outcome with the better of two bounds, and say which it is."""
    if rest.proven or bound <= rest.bound:
        return rest
    trace.kind, trace.proof = "ε-classes", f"{found.finest.describe()}; {found.proof()} of them"
    least = min(rest.value, upper)
    proven = bound >= _target(core, least)
    return CoreOutcome(rest.value, rest.path, least if proven else min(bound, least), proven)


def _target(core: Core, value: float) -> float:
    """Return the bound at which nothing better than a value is left."""
    if math.isinf(value):
        return math.inf
    return value - core.step * (1.0 - 1e-6) if core.step > 0.0 else value - 1e-11 * abs(value)
