"""The driver: candidates by structure, a programme over counts, concrete devices, links, a bound."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.errors import UsageError
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers.deployment.bounds import Bound, bound, exact_bound, few_vectors
from gpuplan.solvers.deployment.ceilings import Ceilings
from gpuplan.solvers.deployment.chain import Slo
from gpuplan.solvers.deployment.choice import Market, Pick, by_kinds, with_handicap
from gpuplan.solvers.deployment.columns import (
    MOST_VECTORS,
    Column,
    Make,
    class_columns,
    class_vectors,
    island_makes,
    piece_columns,
)
from gpuplan.solvers.deployment.exhaustive import exact_columns
from gpuplan.solvers.deployment.families import Families
from gpuplan.solvers.deployment.fleet import Fleet, memory_bytes
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.lattice import Lattice
from gpuplan.solvers.deployment.links import Traffic, overloaded, throttled
from gpuplan.solvers.deployment.mixed import chain_columns
from gpuplan.solvers.deployment.moving import kept_columns, moved_bytes, placement_of, resident_shares, total_weights
from gpuplan.solvers.deployment.proofs import PROOFS
from gpuplan.solvers.deployment.reasons import beyond_demand, nowhere
from gpuplan.solvers.deployment.replicas import Replica, Shaper
from gpuplan.solvers.deployment.units import Units
from gpuplan.solvers.limits import Budget, Limits, Progress, checked_limits, refuse_memory
from gpuplan.solvers.result import Report, Result, Status, relative_gap

if TYPE_CHECKING:
    from gpuplan.plans.deployment import Deployment

#: Name in reports and files.
SOLVER = "deploy"
#: Relative gap that counts as proof.
PROOF = 1e-9
#: Choices made anew at most because a link would be overdrawn.
LINK_ROUNDS = 3
#: Share of its value that a replica may lose on other devices before they are searched anew.
MOVING = 0.01
#: Seconds set aside for the answer: in any case, for each device and for each kind; of the limit at most this share.
WRITING_S, DEVICE_S, KIND_S, MOST_WRITING = 0.005, 2.0e-4, 0.01, 0.4
#: Share of the time left that candidates may take, and that where the bound brings candidates of its own.
CANDIDATES = 0.5
FEW_CANDIDATES = 0.3
#: Share of the time left that the bound may take where it brings candidates.
BOUND = 0.75

#: Bytes a search takes for each device where none are alike: what can be refused before devices are told into kinds.
UNLIKE_DEVICE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Switch:
    """What switching from the current deployment costs.

    move_cost
        Objective units for each byte a device has to load.
    hysteresis
        Share of the current objective that a change has to gain beyond that.
    """

    move_cost: float = 0.0
    hysteresis: float = 0.05


@dataclass(frozen=True, slots=True)
class Placed:
    """Replicas on their devices, the requests/s (tokens/s) each is to serve, and what all are worth."""

    replicas: tuple[Replica, ...]
    kept: tuple[int | None, ...]
    rates: tuple[float, ...]
    objective: float

    @property
    def throttled(self) -> bool:
        """Whether a link holds a replica back."""
        return any(rate < own.value * (1 - 1e-12) for rate, own in zip(self.rates, self.replicas, strict=True))


def deploy(
    problem: DeploymentProblem,
    *,
    current: Deployment | None = None,
    move_cost: float = 0.0,
    hysteresis: float = 0.05,
    time_limit_s: float | None = 60.0,
    work_limit: int | None = None,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    seed: int = 0,
    cancel: Callable[[], bool] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result[Deployment]:
    """Find the replicas of a model that serve most over a cluster, or serve a demand with least.

    Parameters
    ----------
    problem
        What is asked.
    current
        The deployment in place. With it the answer keeps replicas where they are when that costs nothing, and keeps
        all of them unless a change gains more than ``hysteresis·|current objective| + move_cost·bytes moved``. Under
        a demand a change must, besides, serve the demand times 1 + hysteresis, so that a demand that goes to and fro
        within that does not make the plan go to and fro.
    move_cost
        Objective units (requests/s, tokens/s, devices, price per hour) for each byte a device has to load.
    time_limit_s, work_limit, threads, memory_limit_bytes, cancel, on_progress
        See `Limits`; work counts candidate replicas.
    seed
        Kept in the report; nothing here is random.

    Returns
    -------
    Result
        ``optimal`` (the bound is met), ``feasible`` with bound and gap, ``infeasible`` with reasons, ``no_solution``.

    Raises
    ------
    UsageError
        A value out of range.
    UnsupportedError
        More unlike devices than link tables are kept for, or more memory than is allowed.
    """
    limits = checked_limits(Limits(time_limit_s, work_limit, threads, cancel, on_progress, memory_limit_bytes))
    devices = problem.topology.num_devices
    refuse_memory(f"a deployment over {devices:,} devices", float(UNLIKE_DEVICE_BYTES * devices), limits)
    switch = _switch(move_cost, hysteresis)
    return _Search(problem, Budget(limits), seed, current, switch).run()


def _searching(budget: Budget, fleet: Fleet) -> Budget:
    """Return the same clock with what it takes to write the deployment out set aside, and a bound without a search."""
    limit = budget.limits.time_limit_s
    if limit is None:
        return budget
    writing = WRITING_S + len(fleet.devices) * DEVICE_S + len(fleet.kinds) * KIND_S
    own = Budget(dataclasses.replace(budget.limits, time_limit_s=limit - min(writing, MOST_WRITING * limit)))
    own.started = budget.started
    return own


def _over(share: Budget) -> bool:
    return share.remaining_s <= 0.0


def _switch(move_cost: float, hysteresis: float) -> Switch:
    for name, value in (("move_cost", move_cost), ("hysteresis", hysteresis)):
        if isinstance(value, bool) or not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"expected {name} to be a number of at least 0, got {value!r}")
    return Switch(move_cost, hysteresis)


class _Search:
    """One search: its parts, and what it has found."""

    def __init__(
        self,
        problem: DeploymentProblem,
        budget: Budget,
        seed: int,
        current: Deployment | None,
        switch: Switch,
    ) -> None:
        self.problem, self.seed = problem, seed
        self.current, self.switch = current, switch
        self.fleet = Fleet(problem)
        refuse_memory("a deployment over this cluster", memory_bytes(self.fleet), budget.limits)
        self.budget = _searching(budget, self.fleet)
        self.goal = Goal(self.fleet, problem)
        self.units = Units(self.fleet)
        slo = Slo(problem.ttft_slo_s or math.inf, problem.tpot_slo_s or math.inf)
        tokens = problem.objective == "throughput"
        families = None
        if len(self.fleet.kinds) > 1 and few_vectors(self.fleet):
            families = Families(Lattice(self.fleet, self.units), slo, tokens=tokens)
            families.over = self._over_bound
        self.ceilings = Ceilings(self.fleet, self.units, slo, tokens, families)
        self.shaper = Shaper(self.units, self.ceilings)
        self.traffic = Traffic(self.fleet, tokens=self.ceilings.tokens)
        self.bounding = self.budget
        self.notes: list[str] = []
        self.work = 0

    def run(self) -> Result[Deployment]:
        """Search and answer."""
        makes = None if class_vectors(self.fleet) <= MOST_VECTORS else island_makes(self.fleet)
        self._tell("candidates", None, None)
        self._note_candidates(makes)
        columns = self._columns(makes)
        kept = [] if self.current is None else kept_columns(self.fleet, self.shaper, self.current, makes)
        placed = self._choose([*kept, *columns], makes) if columns or kept else None
        decision = ""
        if self.current is not None:
            placed, decision = self._settle(placed, kept, columns, makes)
        self._tell("bound", placed.objective if placed else None, None)
        known = [(own.replica.value, self.shaper.counts(own.replica.devices)) for own in columns]
        objective = placed.objective if placed else None
        self.bounding = self._share(1.0 if len(self.fleet.kinds) == 1 else BOUND)
        proven = bound(self.fleet, self.ceilings, self.goal, objective, self.bounding, known)
        if proven.chains and self.current is None:
            placed = self._with_chains(placed, columns, makes, proven)
        if makes is None and self.current is None:
            placed, proven = self._exactly(placed, proven)
        if placed is None:
            return self._without_plan(proven)
        return self._answer(placed, proven, decision)

    def _with_chains(
        self, placed: Placed | None, columns: list[Column], makes: Sequence[Make] | None, proven: Bound
    ) -> Placed | None:
        """Choose again with the replicas that the bound is made of; return the better choice."""
        more = chain_columns(self.fleet, self.shaper, makes, proven.chains, self._share())
        self.work += len(more)
        columns = [*columns, *more]
        found = self._choose(columns, makes) if more else None
        if makes is not None and more:
            other = self._choose(by_kinds(self.fleet, columns), makes, by_kind=True)
            if other is not None and (found is None or self.goal.better(other.objective, found.objective)):
                found = other
        if found is None or (placed is not None and not self.goal.better(found.objective, placed.objective)):
            return placed
        self.notes.append(f"{len(more)} replicas over unequal pieces that the bound asks for")
        return found

    def _exactly(self, placed: Placed | None, proven: Bound) -> tuple[Placed | None, Bound]:
        """Return plan and bound by every replica there is, where they are few and the gap is open."""
        closed = placed is not None and proven.value is not None
        if proven.infeasible or (closed and self._proves(proven.value, placed)):
            return placed, proven
        columns = exact_columns(self.fleet, self.shaper, self.budget.exhausted)
        if columns is None:
            return placed, proven
        found = self._choose(columns, None) if columns else None
        if found is not None and (placed is None or self.goal.better(found.objective, placed.objective)):
            placed = found
        return placed, dataclasses.replace(exact_bound(self.fleet, self.goal, columns), chains=())

    def _proves(self, limit: float | None, placed: Placed | None) -> bool:
        assert limit is not None
        assert placed is not None
        return not self.goal.better(limit, placed.objective + self._proof(placed.objective))

    def _tell(self, phase: str, objective: float | None, limit: float | None) -> None:
        self.budget.report(phase, objective, limit)

    def _columns(self, makes: list[Make] | None) -> list[Column]:
        """Return the candidates found in their share of the time; where there is none yet, in all of it."""
        columns: list[Column] = []
        for share in (self._share(), self.budget):
            self.shaper.stop = functools.partial(_over, share)
            columns = columns or self._made(makes, share)
            self.work = max(self.work, share.work)
            if columns or share.remaining_s > 0.0:
                break
        self.shaper.stop = None
        return columns

    def _made(self, makes: list[Make] | None, share: Budget) -> list[Column]:
        if makes is None:
            return class_columns(self.fleet, self.shaper, share)
        return piece_columns(self.fleet, self.shaper, makes, share)

    def _note_candidates(self, makes: list[Make] | None) -> None:
        if makes is None:
            self.notes.append(f"every set of devices up to symmetry ({class_vectors(self.fleet) - 1:,} of them)")
            return
        islands = ", ".join(f"{len(make.copies)}" for make in makes)
        self.notes.append(f"pieces of islands, {len(makes)} make{'s' if len(makes) != 1 else ''} ({islands} alike)")

    def _over_bound(self) -> bool:
        return self.bounding.exhausted()

    def _share(self, share: float | None = None) -> Budget:
        """Return what the candidates (or else a `share` of the time left) may use, so that the rest has its own."""
        if share is None:
            share = CANDIDATES if self.ceilings.families is None else FEW_CANDIDATES
        remaining = self.budget.remaining_s
        limit = None if math.isinf(remaining) else share * remaining
        return Budget(dataclasses.replace(self.budget.limits, time_limit_s=limit))

    def _market(self, columns: Sequence[Column], makes: Sequence[Make] | None, goal: Goal) -> Market:
        worths = [goal.worth(column.replica.value, column.replica.devices) for column in columns]
        market = Market(self.fleet, goal, columns, makes, worths, time_limit_s=max(self.budget.remaining_s, 0.1))
        if self.current is None or not columns:
            return market
        loads = [0.0 if column.kept is not None else total_weights(self.fleet, column.replica) for column in columns]
        heaviest = max(loads)
        # Whatever loads as much: the one that lets more replicas stay.
        loads = [
            -heaviest / 8 if column.kept is not None else load for column, load in zip(columns, loads, strict=True)
        ]
        # Equal plans: the one that moves less. Too small a handicap to change what is best otherwise.
        least = 1e-7 * max(map(abs, worths)) / heaviest if heaviest > 0.0 else 0.0
        price = max(self.switch.move_cost, least)
        return with_handicap(market, [(price if load > 0.0 else least) * load for load in loads])

    def _choose(
        self,
        columns: list[Column],
        makes: Sequence[Make] | None,
        demand: float | None = None,
        *,
        hold: bool = False,
        by_kind: bool = False,
    ) -> Placed | None:
        """Return the best choice whose links hold: slowed down, or made anew where that costs too much.

        `demand` replaces the problem's; with `hold` every kept replica stays; `by_kind` as for `Market`.
        """
        goal = self.goal
        if demand is not None:
            goal = Goal(self.fleet, self.problem.replace(demand_rps=demand))
        best: Placed | None = None
        for _ in range(LINK_ROUNDS):
            market = self._market(columns, makes, goal)
            market.hold, market.by_kind = hold, by_kind
            _, picks = market.choose()
            if not picks:
                break
            whole = self._realise(self._polished(picks))
            hot = overloaded(self.traffic, whole.replicas, whole.rates)
            placed = self._slowed(whole) if hot else whole
            if self._meets(placed, goal) and (best is None or goal.better(placed.objective, best.objective)):
                best = placed
            if not hot or self.budget.exhausted():
                break
            columns = self._slower_columns(columns, picks, placed)
        return best

    def _polished(self, picks: Sequence[Pick]) -> list[Pick]:
        """Return the picks with the new replicas among them cut as well as a thorough search can."""
        better: dict[int, Column] = {}
        for pick in picks:
            column = pick.column
            if id(column) in better:
                continue
            better[id(column)] = column
            limit = self.budget.limits.time_limit_s
            roomy = limit is None or self.budget.remaining_s > 0.3 * limit
            if column.kept is None and roomy and not self.budget.exhausted():
                found = self.shaper.best(sorted(column.replica.devices), thorough=True)
                if found is not None and found.value > column.replica.value:
                    better[id(column)] = dataclasses.replace(column, replica=found)
        return [Pick(better[id(pick.column)], pick.devices) for pick in picks]

    def _realise(self, picks: Sequence[Pick]) -> Placed:
        replicas: list[Replica] = []
        for pick in picks:
            column = pick.column
            if column.kept is not None:
                replicas.append(column.replica)
                continue
            swap = {
                old: new
                for (_, olds), news in zip(column.sources, pick.devices, strict=True)
                for old, new in zip(olds, news, strict=True)
            }
            replica = self.shaper.moved(column.replica, swap)
            if replica is None or replica.value < column.replica.value * (1 - MOVING):
                other = self.shaper.best(list(swap.values()))
                replica = max((own for own in (replica, other) if own is not None), key=lambda own: own.value)
            replicas.append(replica)
        rates = tuple(replica.value for replica in replicas)
        kept = tuple(pick.column.kept for pick in picks)
        return Placed(tuple(replicas), kept, rates, self._objective(replicas, rates))

    def _objective(self, replicas: Sequence[Replica], rates: Sequence[float]) -> float:
        worths = [self.goal.worth(rate, replica.devices) for replica, rate in zip(replicas, rates, strict=True)]
        return math.fsum(worths)

    def _slowed(self, placed: Placed) -> Placed:
        rates = tuple(throttled(self.traffic, placed.replicas, placed.rates))
        return Placed(placed.replicas, placed.kept, rates, self._objective(placed.replicas, rates))

    def _meets(self, placed: Placed, goal: Goal) -> bool:
        demand = goal.problem.demand_rps
        return demand is None or math.fsum(placed.rates) >= demand * (1 - 1e-9)

    def _slower_columns(self, columns: list[Column], picks: Sequence[Pick], placed: Placed) -> list[Column]:
        """Return the columns with those that a link holds back at the rate they reach."""
        reached: dict[int, float] = {}
        for pick, replica, rate in zip(picks, placed.replicas, placed.rates, strict=True):
            share = rate / replica.value if replica.value > 0.0 else 0.0
            reached[id(pick.column)] = min(share, reached.get(id(pick.column), 1.0))
        return [
            dataclasses.replace(
                column, replica=dataclasses.replace(column.replica, value=column.replica.value * reached[id(column)])
            )
            if reached.get(id(column), 1.0) < 1.0
            else column
            for column in columns
            if reached.get(id(column), 1.0) > 0.0
        ]

    def _settle(
        self, found: Placed | None, kept: list[Column], columns: list[Column], makes: Sequence[Make] | None
    ) -> tuple[Placed | None, str]:
        """Return what to do about the current deployment, and why in a sentence."""
        stays, what = self._as_it_is(kept), "the current deployment stays"
        if stays is None:
            stays, what = self._choose([*kept, *columns], makes, hold=True) if kept else None, "what can go on stays"
        if stays is None:
            return found, "the current deployment cannot go on"
        threshold = self.switch.hysteresis
        if self.problem.demand_rps is not None and threshold > 0.0:
            # A cheaper plan has to outlast a demand that comes back.
            found = self._choose([*kept, *columns], makes, self.problem.demand_rps * (1 + threshold))
        if found is None:
            return stays, f"{what}: nothing else would serve the demand for long"
        gain = found.objective - stays.objective
        gain = gain if self.goal.maximised else -gain
        moved = math.fsum(self._moved(found).values()) - math.fsum(self._moved(stays).values())
        net = gain - self.switch.move_cost * moved
        needed = threshold * abs(stays.objective)
        if net > needed:
            return found, f"changed: the gain of {gain:.6g} less {gain - net:.6g} for moving is above {needed:.6g}"
        return stays, f"{what}: a further change would gain {net + 0.0:.6g}, not above {needed:.6g}"

    def _as_it_is(self, kept: Sequence[Column]) -> Placed | None:
        """Return the current deployment when it still holds under the problem."""
        problem = self.problem
        assert self.current is not None
        if not kept or len(kept) < len(self.current.replicas):
            return None
        replicas = tuple(column.replica for column in kept)
        used = sum(column.size for column in kept)
        if used > (problem.max_devices or used) or len(kept) > (problem.max_replicas or len(kept)):
            return None
        rates = tuple(replica.value for replica in replicas)
        placed = Placed(replicas, tuple(column.kept for column in kept), rates, self._objective(replicas, rates))
        if overloaded(self.traffic, replicas, rates):
            placed = self._slowed(placed)
        return placed if self._meets(placed, self.goal) else None

    def _moved(self, placed: Placed) -> dict[str, float]:
        assert self.current is not None
        return moved_bytes(self.fleet, placed.replicas, resident_shares(placement_of(self.current)))

    def _without_plan(self, proven: Bound) -> Result[Deployment]:
        status: Status = "infeasible" if proven.infeasible else "no_solution"
        reasons: tuple[str, ...] = ()
        if proven.infeasible or (self.goal.maximised and proven.value == 0.0):
            status = "infeasible"
            if self.problem.demand_rps is not None and self.ceilings.reached.fits and self._any_replica():
                reasons = beyond_demand(self.fleet, self.ceilings, self.goal, self.budget)
            else:
                reasons = nowhere(self.fleet, self.ceilings)
        elif not self.budget.exhausted():
            reasons = ("no candidate fits and keeps to what is asked, though the bound does not rule one out",)
        limit = None if status == "infeasible" else proven.value
        return Result(
            status, None, None, limit, None, self._report(proven.kind if limit is not None else None), {}, reasons
        )

    def _any_replica(self) -> bool:
        from gpuplan.solvers.deployment.bounds import counts_of_kinds
        from gpuplan.solvers.deployment.columns import vectors

        return any(self.ceilings.best(vector) > 0.0 for vector in vectors(counts_of_kinds(self.fleet)))

    def _answer(self, placed: Placed, proven: Bound, decision: str) -> Result[Deployment]:
        from gpuplan.solvers.deployment.answer import build

        limit, objective = proven.value, placed.objective
        status: Status = "feasible"
        if limit is not None and self._proves(limit, placed):
            status, limit = "optimal", objective
        gap = 0.0 if status == "optimal" else relative_gap(objective, limit)
        if placed.throttled:
            self.notes.append("links hold some replicas below what they could serve")
        if decision:
            self.notes.append(decision)
        report = self._report(None if limit is None else proven.kind)
        plan = build(self, placed, status, limit, gap, decision)
        return Result(status, plan, objective, limit, gap, report, plan.result.terms, ())

    def _proof(self, objective: float) -> float:
        return PROOF * abs(objective) * (1 if self.goal.maximised else -1)

    def _report(self, kind: str | None) -> Report:
        options = {"move_cost": self.switch.move_cost, "hysteresis": self.switch.hysteresis}
        return Report(
            SOLVER,
            self.seed,
            self.budget.elapsed_s,
            self.work,
            kind,
            options if self.current is not None else {},
            tuple(self.notes),
            PROOFS.get(kind or "", ""),
        )
