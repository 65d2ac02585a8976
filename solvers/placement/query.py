"""Answering one query: one-stage plans priced apart, the core problem by the engine that suits its size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.profiles.problems.placement import FloatArray
from gpuplan.solvers.limits import Budget, refuse_memory
from gpuplan.solvers.placement import small, small_bottleneck
from gpuplan.solvers.placement.core import IMPROVEMENT, Core, CoreOutcome, Query, make_core, single_stage
from gpuplan.solvers.placement.effort import BEAM_LADDER, Settings
from gpuplan.solvers.placement.tables import ClassPath, ClassTables
from gpuplan.solvers.placement.windows import memory_windows

if TYPE_CHECKING:
    from gpuplan.solvers.placement.hierarchy.detect import Hierarchy
    from gpuplan.solvers.placement.unlike.nearly import NearlyAlike

EngineName = Literal["auto", "dp", "labels", "beam", "quotient"]

#: Largest labels·(n+1) that the small engine takes under ``auto``: about 0.1 s of NumPy.
SMALL_CELLS = 8e5
#: A front may take hundreds of searches: above this size the small engine answers the first few, and the compiled
#: kernels the rest.
SMALL_FRONT_CELLS = 5e4
SMALL_FRONT_QUERIES = 16
#: Bytes the small engine takes for each label and boundary: values, and where they came from.
BYTES_PER_CELL = 24
#: Seconds that the numbers of a query take for each pair of classes: 0.3-0.7 s at 4,096, 10-20 ms at 1,024.
CORE_S = 3e-8


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a query; as `CoreOutcome`, one-stage plans included.

    value, path
        Best plan better than the upper value given, or inf and None.
    bound
        Lower bound on every plan; inf when proven that none exists, −inf when nothing is known.
    proven
        Whether no plan is better than `value` (or than the upper value, without a path).
    by_count
        Best plan of every stage count, where the small engine ran without an upper value.
    """

    value: float
    path: ClassPath | None
    bound: float
    proven: bool
    by_count: tuple[tuple[float, ClassPath], ...] = ()

    @property
    def infeasible(self) -> bool:
        """Whether it is proven that no plan exists."""
        return self.path is None and self.proven and self.bound == math.inf


@dataclass(slots=True)
class Session:
    """One solve call: its tables, engine, clock, and what one query learns for the next.

    engine
        ``auto`` picks by size; ``dp`` the small engine, ``labels`` the large one, ``beam`` the large one truncated.
    settings
        How hard the large engine tries.
    small_queries
        Queries that ``auto`` gives to the small engine where it suits a single one, but not a front; None: all.
    multipliers
        Lagrange multipliers of the last core solved, to warm-start the next; owned by the large engine.
    second_key
        Whether the latency is minimised behind the least bottleneck.
    engines, notes, asked
        Names of the engines that ran; sentences for the report; queries asked so far.
    """

    tables: ClassTables
    engine: EngineName
    budget: Budget
    settings: Settings = field(default_factory=Settings)
    small_queries: int | None = None
    second_key: bool = True
    multipliers: dict[str, FloatArray] = field(default_factory=dict)
    engines: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    asked: int = 0
    _cells: float | None = None
    _hierarchy: Hierarchy | str | None = None
    _nearly_alike: NearlyAlike | str | None = None

    def ask(self, query: Query, upper: float = math.inf, hint: ClassPath | None = None) -> Answer:
        """Return the best plan of a query below `upper`; `hint` is a path to try as the first incumbent."""
        self.asked += 1
        best = Answer(math.inf, None, math.inf, True)
        for part, micro_batches in self._by_micro_batches(query):
            best = _better(best, self.ask_part(part, micro_batches, min(upper, best.value), hint))
            if query.any_plan and best.path is not None:
                break
        return best

    def _by_micro_batches(self, query: Query) -> Iterator[tuple[Query, int]]:
        """One part per stage count when every stage holds as many micro-batches as there are stages.

        A plan of fewer stages than its part allows needs less memory than assumed, so each part is safe and their
        union is complete.
        """
        micro_batches = self.tables.problem.micro_batches
        if micro_batches != "stages":
            yield query, micro_batches
            return
        most = self.tables.max_stages if query.max_stages is None else min(self.tables.max_stages, query.max_stages)
        for count in range(1, most + 1):
            yield query.limited_to(count), count

    def ask_part(self, query: Query, micro_batches: int, upper: float, hint: ClassPath | None = None) -> Answer:
        """Return the best plan of a query below `upper`, every stage holding so many micro-batches.

        Where there is a plan to go back to, or rules know none, nothing is begun that no time is left for.
        """
        alone = single_stage(self.tables, query, micro_batches)
        known = () if alone is None else (alone,)
        best = Answer(math.inf, None, math.inf, True, known)
        if alone is not None:
            better = alone[0] < upper
            best = Answer(alone[0] if better else math.inf, alone[1] if better else None, alone[0], True, known)
            if better and query.any_plan:
                return best
        if self._too_late(query, hint):
            return _better(best, Answer(math.inf, None, self._plain_bound(query, micro_batches), False))
        core = make_core(self.tables, query, micro_batches)
        if core.max_stages < 2:
            return best
        least = min(upper, best.value)
        if self._may_round(query, core):
            from gpuplan.solvers.placement.unlike.nearly import minimise_nearly_alike

            rest = minimise_nearly_alike(self, query, micro_batches, core, least, hint)
        else:
            rest = self._minimise(query, core, least, hint)
        if rest.path is None and not rest.proven and math.isinf(least) and core.cap is None:
            from gpuplan.solvers.placement.cheap import last_resort

            stopped, rest = rest, last_resort(core, rest, self.budget)
            if query.bottleneck and rest.path is not None:
                rest = _as_bottleneck(self.tables, stopped, rest.path)
        bound, proven = rest.bound, rest.proven
        if not (rest.proven or query.bottleneck or query.any_plan):
            from gpuplan.solvers.placement.cheap import plain_bound

            plain = plain_bound(core)
            bound, proven = max(bound, min(plain, rest.value)), rest.path is not None and plain >= rest.value
        return _better(best, Answer(rest.value, rest.path, bound, proven, rest.by_count))

    def _too_late(self, query: Query, hint: ClassPath | None) -> bool:
        """Whether no time is left for the numbers of a query, and rules would not have to answer it."""
        left_s = self.budget.remaining_s
        if hint is not None and left_s < CORE_S * self.tables.num_classes**2:
            return True
        return left_s <= 0.0 and not math.isinf(query.cap_s)

    def _plain_bound(self, query: Query, micro_batches: int) -> float:
        """Return a bound on the plans of two stages or more that reads nothing of a pair of classes."""
        if query.bottleneck or query.any_plan:
            return -math.inf
        from gpuplan.solvers.placement.cheap import plain_sum

        tables = self.tables
        low = memory_windows(tables, micro_batches, query.capacity_tokens)
        entry = np.zeros(tables.num_classes) if query.entry is None else np.array(query.entry, dtype=np.float64)
        return plain_sum(tables.latency.prefix * query.time_weight, low, entry)

    def _may_round(self, query: Query, core: Core) -> bool:
        """Whether the large engine is to answer, and a rounded problem may bound its plans before within the limits."""
        if self.engine != "auto" or query.bottleneck or core.any_plan or core.cap is not None or core.modes is not None:
            return False
        if self.runs_small() or self._quotient_for(core) is not None:
            return False
        from gpuplan.solvers.placement.unlike.rounding import rounding_fits

        return rounding_fits(self.tables.problem, self.budget)

    def _minimise(self, query: Query, core: Core, upper: float, hint: ClassPath | None) -> CoreOutcome:
        if self.runs_small():
            self.engines.add("dp")
            refuse_memory("solver dp", BYTES_PER_CELL * cells(core), self.budget.limits)
            if query.bottleneck:
                return small_bottleneck.minimise_bottleneck(core, upper, self.budget)
            return small.minimise(core, upper, self.budget)
        if query.bottleneck:
            raise UnsupportedError("only the small engine finds the least bottleneck in one pass")
        found = self._quotient_for(core)
        if found is not None:
            from gpuplan.solvers.placement.hierarchy import quotient

            self.engines.add("quotient")
            return quotient.minimise(core, found, upper, self.budget, self.settings, hint)
        self.engines.add("labels")
        return self.minimise_large(core, upper, hint)

    def nearly_alike(self) -> NearlyAlike | None:
        """Return the problem with nearly alike devices taken as alike, where that helps; looked for once."""
        if self._nearly_alike is None:
            from gpuplan.solvers.placement.unlike.nearly import find_nearly_alike

            self._nearly_alike = find_nearly_alike(self) or "there are none"
        return None if isinstance(self._nearly_alike, str) else self._nearly_alike

    def hierarchy(self) -> Hierarchy | None:
        """Return the hierarchy of the classes where there is a valid one; looked for once."""
        if self._hierarchy is None:
            from gpuplan.solvers.placement.hierarchy.detect import find_hierarchy

            self._hierarchy = find_hierarchy(self.tables)
            if isinstance(self._hierarchy, str) and self.engine == "quotient":
                self.notes.append(f"the quotient is refused: {self._hierarchy}; labels answers instead")
        return None if isinstance(self._hierarchy, str) else self._hierarchy

    def _quotient_for(self, core: Core) -> Hierarchy | None:
        """Return the hierarchy when the quotient may answer a core."""
        if self.engine not in ("auto", "quotient"):
            return None
        found = self.hierarchy()
        if found is None:
            return None
        from gpuplan.solvers.placement.hierarchy.quotient import refusal

        reason = refusal(core, found)
        if reason is not None and self.engine == "quotient":
            note = f"the quotient is refused: {reason}; labels answers instead"
            self.notes += [note] if note not in self.notes else []
        return found if reason is None else None

    def minimise_large(self, core: Core, upper: float, hint: ClassPath | None) -> CoreOutcome:
        """Return the best plan of a core below `upper`, by the large engine."""
        from gpuplan.solvers.placement.compiling import LARGE, answer_meanwhile

        until_ready = answer_meanwhile(LARGE, core, upper, self.budget, self.settings, hint)
        if until_ready is not None:
            return until_ready
        from gpuplan.solvers.placement import large  # loads kernels

        settings = self.settings
        if self.engine == "beam" and settings.ladder is None:
            settings = replace(settings, ladder=BEAM_LADDER)
        return large.minimise(core, upper, self.budget, settings, hint=hint, multipliers=self.multipliers)

    def runs_small(self) -> bool:
        """Whether the small engine answers the next query; decided by problem size and number of queries alone."""
        if self._cells is None:
            self._cells = self._small_engine_cells()
        if self.small_queries is None or self.engine != "auto" or self._cells <= SMALL_FRONT_CELLS:
            return self._cells <= SMALL_CELLS
        return self._cells <= SMALL_CELLS and self.asked <= self.small_queries

    def _small_engine_cells(self) -> float:
        """Size of the small engine's search; 0 where it is asked for by name, inf where it is not to run."""
        if self.engine not in ("auto", "dp"):
            return math.inf
        tables = self.tables
        # Without modes, counts alone tell: tables of thousands of classes are not made for that.
        if tables.modes is not None or small.keys_fit(tables.counts, tables.num_classes):
            core = make_core(tables, Query(), 1)
            if small.fits(core):
                return 0.0 if self.engine == "dp" else cells(core)
        if self.engine == "auto":
            return math.inf
        raise UnsupportedError(
            f"solver dp packs device counts into 63 bits and {tables.num_classes} device classes need more; "
            "use solver labels or auto"
        )


def cells(core: Core) -> float:
    """Size of the small engine's search: labels·positions."""
    return small.count_labels(core) * (core.num_layers + 1)


def _as_bottleneck(tables: ClassTables, stopped: CoreOutcome, path: ClassPath) -> CoreOutcome:
    """Return a rule's path as an answer on its largest stage: a rule adds times up, so its bound bounds no maximum."""
    from gpuplan.solvers.placement.bottleneck import path_bottleneck

    value = path_bottleneck(tables, path)
    return CoreOutcome(value, path, min(stopped.bound, value), False)


def _better(first: Answer, second: Answer) -> Answer:
    """Join the answers to two parts of a query."""
    best = second if second.value < first.value else first
    by_count: dict[int, tuple[float, ClassPath]] = {}
    for value, path in (*first.by_count, *second.by_count):
        if len(path) not in by_count or value < by_count[len(path)][0]:
            by_count[len(path)] = (value, path)
    return Answer(
        best.value,
        best.path,
        min(first.bound, second.bound),
        first.proven and second.proven,
        tuple(by_count[count] for count in sorted(by_count)),
    )


def improves(value: float, incumbent: float) -> bool:
    """Whether a value is better than an incumbent by more than rounding."""
    return value < incumbent - IMPROVEMENT * abs(incumbent)
