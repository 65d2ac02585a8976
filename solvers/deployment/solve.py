"""The driver: candidates by structure, a programme over counts, concrete devices, links, a bound."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers.deployment.bounds import Bound, bound, counts_of_kinds, exact_bound, few_vectors, part_of
from gpuplan.solvers.deployment.boxes import Maker
from gpuplan.solvers.deployment.ceilings import Ceilings
from gpuplan.solvers.deployment.chain import Slo
from gpuplan.solvers.deployment.choice import by_kinds
from gpuplan.solvers.deployment.columns import (
    MOST_VECTORS,
    Column,
    class_columns,
    class_vectors,
    island_makes,
    piece_columns,
    vectors,
)
from gpuplan.solvers.deployment.emptiness import no_replica
from gpuplan.solvers.deployment.exhaustive import exact_columns
from gpuplan.solvers.deployment.families import Families
from gpuplan.solvers.deployment.fleet import Fleet, memory_bytes
from gpuplan.solvers.deployment.goal import Goal
from gpuplan.solvers.deployment.lattice import Lattice
from gpuplan.solvers.deployment.links import Traffic
from gpuplan.solvers.deployment.mixed import chain_columns
from gpuplan.solvers.deployment.moving import kept_columns, placement_of, resident_shares
from gpuplan.solvers.deployment.placing import Placed, Placer
from gpuplan.solvers.deployment.proofs import PROOFS
from gpuplan.solvers.deployment.reasons import beyond_demand, nowhere
from gpuplan.solvers.deployment.replicas import Shaper
from gpuplan.solvers.deployment.switching import Switch, settle
from gpuplan.solvers.deployment.units import Units
from gpuplan.solvers.limits import Budget, Limits, Progress, checked_limits, refuse_memory
from gpuplan.solvers.result import Report, Result, Status, relative_gap

if TYPE_CHECKING:
    from gpuplan.plans.deployment import Deployment

#: Name in reports and files.
SOLVER = "deploy"
#: Relative gap that counts as proof.
PROOF = 1e-9
#: Seconds set aside for the answer: in any case, for each device and for each kind; of the limit at most this share.
WRITING_S, DEVICE_S, KIND_S, MOST_WRITING = 0.005, 6e-5, 0.01, 0.5
#: Share of the time left that candidates may take, and that where the bound brings candidates of its own.
CANDIDATES = 0.5
FEW_CANDIDATES = 0.3
#: Share of the time left that the bound may take where it brings candidates.
BOUND = 0.75
#: Bytes a search takes for each device where none are alike: what can be refused before devices are told into kinds.
UNLIKE_DEVICE_BYTES = 100_000


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
    return _Search(problem, Budget(limits), seed, current, Switch(move_cost, hysteresis)).run()


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
        self.makes = None if class_vectors(self.fleet) <= MOST_VECTORS else island_makes(self.fleet)
        move_cost = None if current is None else switch.move_cost
        resident = {} if current is None else resident_shares(placement_of(current))
        self.placer = Placer(self.goal, self.shaper, self.traffic, self.makes, self.budget, move_cost, resident)
        self.bounding = self.budget
        self.notes: list[str] = []
        self.asked_for = 0
        self.work = 0

    def run(self) -> Result[Deployment]:
        """Search and answer."""
        self._tell("candidates", None, None)
        self._note_candidates()
        columns = self._columns()
        kept = [] if self.current is None else kept_columns(self.fleet, self.shaper, self.current, self.makes)
        placed = self.placer.choose([*kept, *columns]) if columns or kept else None
        decision = ""
        if self.current is not None:
            placed, decision = settle(self.placer, self.switch, self.current, placed, kept, columns)
        self._tell("bound", placed.objective if placed else None, None)
        placed, columns, proven = self._bounded(self.placer, placed, columns)
        if placed is None and self.problem.demand_rps is not None and not proven.infeasible:
            placed, proven = self._serving_most(columns, proven)
        if self.makes is None and self.current is None:
            placed, proven = self._exactly(placed, proven)
        if placed is None:
            return self._without_plan(proven)
        return self._answer(placed, proven, decision)

    def _bounded(
        self, placer: Placer, placed: Placed | None, columns: list[Column]
    ) -> tuple[Placed | None, list[Column], Bound]:
        """Return a bound on the placer's goal, and plan and candidates with the replicas that it asks for."""
        known = [(own.replica.value, self.shaper.counts(own.replica.devices)) for own in columns]
        objective = placed.objective if placed else None
        self.bounding = self._share(1.0 if len(self.fleet.kinds) == 1 else BOUND)
        proven = bound(self.fleet, self.ceilings, placer.goal, objective, self.bounding, known)
        if proven.chains and self.current is None:
            more = chain_columns(self.fleet, self.shaper, self.makes, proven.chains, self._share())
            self.work += len(more)
            columns = [*columns, *more]
            placed = self._with_chains(placer, placed, columns, len(more))
        return placed, columns, proven

    def _with_chains(
        self, placer: Placer, placed: Placed | None, columns: list[Column], asked_for: int
    ) -> Placed | None:
        """Choose again with the replicas that the bound asks for; return the better choice."""
        goal = placer.goal
        found = placer.choose(columns) if asked_for else None
        if self.makes is not None and asked_for:
            other = placer.choose(by_kinds(self.fleet, columns), by_kind=True)
            if other is not None and (found is None or goal.better(other.objective, found.objective)):
                found = other
        if found is None or (placed is not None and not goal.better(found.objective, placed.objective)):
            return placed
        self.asked_for += asked_for
        return found

    def _serving_most(self, columns: list[Column], proven: Bound) -> tuple[Placed | None, Bound]:
        """Return the plan that serves most, where that meets the demand, and the bound with its candidates known.

        A demand that the candidates cannot meet says nothing of which others could: to serve more does.
        """
        problem = self.problem.replace(objective="requests", demand_rps=None)
        placer = dataclasses.replace(self.placer, goal=dataclasses.replace(self.goal, problem=problem))
        found, demand = placer.choose(columns), self.problem.demand_rps or 0.0
        if found is None or not self.placer.meets(found, self.goal):
            found, columns, most = self._bounded(placer, found, columns)
            if most.value is not None and most.value < demand * (1 - PROOF):
                return None, Bound(None, most.kind, infeasible=True)
        if found is None or not self.placer.meets(found, self.goal):
            return None, proven
        placed, _, closer = self._bounded(self.placer, self.placer.trimmed(found), columns)
        if proven.value is None or (closer.value is not None and self.goal.better(proven.value, closer.value)):
            proven = closer
        return placed, proven

    def _exactly(self, placed: Placed | None, proven: Bound) -> tuple[Placed | None, Bound]:
        """Return plan and bound by every replica there is, where they are few and the gap is open."""
        closed = placed is not None and proven.value is not None
        if proven.infeasible or (closed and self._proves(proven.value, placed)):
            return placed, proven
        columns = exact_columns(self.fleet, self.shaper, self.budget.exhausted)
        if columns is None:
            return placed, proven
        found = self.placer.choose(columns) if columns else None
        if found is not None and (placed is None or self.goal.better(found.objective, placed.objective)):
            placed = found
        return placed, dataclasses.replace(exact_bound(self.fleet, self.goal, columns), chains=())

    def _proves(self, limit: float | None, placed: Placed | None) -> bool:
        assert limit is not None
        assert placed is not None
        return not self.goal.better(limit, placed.objective + self._proof(placed.objective))

    def _tell(self, phase: str, objective: float | None, limit: float | None) -> None:
        self.budget.report(phase, objective, limit)

    def _columns(self) -> list[Column]:
        """Return the candidates found in their share of the time; where there is none yet, in all of it."""
        columns: list[Column] = []
        for share in (self._share(), self.budget):
            self.shaper.stop = functools.partial(_over, share)
            columns = columns or self._made(share)
            self.work = max(self.work, share.work)
            if columns or share.remaining_s > 0.0:
                break
        self.shaper.stop = None
        return columns

    def _made(self, share: Budget) -> list[Column]:
        if self.makes is None:
            return class_columns(self.fleet, self.shaper, share)
        return piece_columns(self.fleet, self.shaper, self.makes, share)

    def _note_candidates(self) -> None:
        makes = self.makes
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
        return part_of(self.budget, share)

    def _without_plan(self, proven: Bound) -> Result[Deployment]:
        status: Status = "infeasible" if proven.infeasible else "no_solution"
        reasons: tuple[str, ...] = ()
        if proven.infeasible or (self.goal.maximised and proven.value == 0.0):
            status = "infeasible"
            if self.problem.demand_rps is not None and self._any_replica():
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
        counts = counts_of_kinds(self.fleet)
        if not few_vectors(self.fleet):
            return not no_replica(Maker(self.ceilings, counts), self.budget)
        return self.ceilings.reached.fits and any(self.ceilings.best(vector) > 0.0 for vector in vectors(counts))

    def _answer(self, placed: Placed, proven: Bound, decision: str) -> Result[Deployment]:
        from gpuplan.solvers.deployment.answer import build

        limit, objective = proven.value, placed.objective
        status: Status = "feasible"
        if limit is not None and self._proves(limit, placed):
            status, limit = "optimal", objective
        gap = 0.0 if status == "optimal" else relative_gap(objective, limit)
        if placed.throttled:
            self.notes.append("links hold some replicas below what they could serve")
        if self.asked_for:
            self.notes.append(f"{self.asked_for} replicas over unequal pieces that the bound asks for")
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
