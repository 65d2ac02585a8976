"""One road from a question to an answer for all generic cross-checks: refusals, starts, steps, the Result."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.baselines.common import balanced_parts, check_prices, refuse_front
from gpuplan.solvers.placement.evaluate import evaluate, terms
from gpuplan.solvers.placement.goals import OBJECTIVES, PROVEN, Answer, Goal, Step, over_stage_counts, solve_objective
from gpuplan.solvers.placement.holders import Holders, Stages, device_holders
from gpuplan.solvers.result import Report, Result, Status, relative_gap


class Run(abc.ABC):
    """One call of a cross-check: what it may use, and what it has done."""

    budget: Budget

    @abc.abstractmethod
    def once(self, holders: Holders, goal: Goal, stages: int | None, hint: Stages | None) -> Step:
        """Minimise one goal, M a number, with so many stages or any (None), from a plan that keeps to it or None."""

    @abc.abstractmethod
    def report(self) -> Report:
        """Return how the answer was reached."""


class CrossCheck(abc.ABC):
    """A solver that is a model of its own, handed to somebody else's engine goal by goal."""

    name: str
    #: Whether its model takes holders of several copies.
    merges: bool = False

    @abc.abstractmethod
    def check(self, holders: Holders, limits: Limits) -> None:
        """Refuse what the model does not take, or what would take too much memory."""

    @abc.abstractmethod
    def run(self, limits: Limits, seed: int, **options: Any) -> Run:
        """Return a call of it."""

    @abc.abstractmethod
    def write(self, holders: Holders, path: Path, **options: Any) -> None:
        """Write the model of the objective's first goal."""

    def answer(
        self,
        holders: Holders,
        limits: Limits,
        seed: int = 0,
        start: Stages | None = None,
        *,
        latency_second: bool = False,
        **options: Any,
    ) -> tuple[Answer, Run]:
        """Answer a problem over holders; the run says how."""
        check_supported(holders.problem, self.name)
        self.check(holders, limits)
        run = self.run(limits, seed, **options)

        def minimize(goal: Goal, hint: Stages | None) -> Step:
            return over_stage_counts(holders, goal, hint, run.once)

        with kept_workers():
            return solve_objective(holders, minimize, start, latency_second=latency_second), run

    def solve(
        self,
        problem: DensePlacement,
        limits: Limits,
        seed: int = 0,
        *,
        warm_start: PlacementSolution | None = None,
        latency_second: bool = False,
        **options: Any,
    ) -> Result[PlacementSolution]:
        """Solve a placement.

        Parameters
        ----------
        problem
            Objectives latency, bottleneck, efficiency, cost, balanced; no front.
        limits
            Time, hard, is shared by the steps of an objective; threads of the engine; a cancel is seen at once.
        seed
            Seed of the engine, where it takes one.
        warm_start
            A plan the engine starts from; never left for a worse one.
        latency_second
            Whether the latency follows a bottleneck as second key.
        options
            Of the method: ``engine`` of a linear form, ``form`` of the constraint programme.

        Returns
        -------
        Result
            ``optimal`` when plan and bound (rounding included) agree within 1e-6, ``feasible`` with the bound and gap
            so far, ``infeasible`` (proven by the engine, checked), ``no_solution`` at a limit or where the engine
            failed (`report.failure`).

        Raises
        ------
        UnsupportedError
            Other objectives, fronts, models of too many variables or, by estimate, too much memory.
        SolverUnavailableError
            What it needs is not installed.
        """
        holders = device_holders(problem)
        start = check_start(holders, warm_start)
        answer, run = self.answer(holders, limits, seed, start, latency_second=latency_second, **options)
        return conclude(problem, run.report().solver, answer, run.budget, run.report())

    def write_model(self, problem: DensePlacement, path: str | Path, **options: Any) -> None:
        """Write the model of a problem (of a pair and of balanced: its first step).

        Raises
        ------
        UsageError
            Another suffix, or a place that cannot be written.
        UnsupportedError
            As in `solve`, and for micro-batches that follow the stages (there is one model per number of stages).
        """
        self.write_holders(device_holders(problem), path, **options)

    def write_holders(self, holders: Holders, path: str | Path, **options: Any) -> None:
        """Write the model of a problem over holders; errors as in `write_model`."""
        check_supported(holders.problem, self.name)
        self.check(holders, Limits())
        if holders.problem.micro_batches == "stages":
            raise UnsupportedError(
                "one model has one number of micro-batches; give --micro-batches a number to write it"
            )
        self.write(holders, Path(path), **options)


def check_supported(problem: DensePlacement, name: str) -> None:
    """Refuse fronts, objectives without a natural linear form, and missing prices."""
    refuse_front(problem, name)
    if problem.objective.name not in OBJECTIVES:
        raise UnsupportedError(
            f"{name} supports {', '.join(OBJECTIVES)}, not {problem.objective.name}; use --solver auto"
        )
    if problem.objective.name == "cost":
        check_prices(problem)


def refuse_large(problem: DensePlacement, name: str, variables: int, most: int) -> None:
    """Refuse problems whose model would be too large to be a useful cross-check."""
    if variables > most:
        n, D = problem.num_layers, problem.num_devices
        raise UnsupportedError(
            f"{name} takes models of up to {most:,} variables, {D} devices and {n} layers need up to {variables:,}; "
            "use --solver auto"
        )


def check_start(holders: Holders, warm_start: PlacementSolution | None) -> Stages | None:
    """Return the stages of a plan to start from; UsageError when it is none of this problem."""
    if warm_start is None:
        return None
    fault = holders.fault(warm_start.stages)
    if fault is not None:
        raise UsageError(f"the warm start is not a plan for this problem: {fault}; give one that is, or none")
    return warm_start.stages


def why_no_plan(name: str, answer: Answer, exhausted: bool, objective: str) -> str:
    """Say why a method has no plan, where none was proven impossible."""
    if answer.failure:
        return f"{name}: {answer.failure}"
    limit = "the limit was reached" if exhausted else "the engine ended"
    what = "its reference values were proven" if objective == "balanced" else "a plan was found"
    return f"{name}: {limit} before {what}; allow more time or use --solver auto"


def conclude(
    problem: DensePlacement, name: str, answer: Answer, budget: Budget, report: Report
) -> Result[PlacementSolution]:
    """Turn an answer into a Result; ``optimal`` only when value and bound agree within 1e-6."""
    if answer.failure:
        report = dataclasses.replace(report, failure=answer.failure)
    if answer.stages is None:
        if answer.infeasible and not answer.failure:
            from gpuplan.solvers.placement.infeasible import explain_infeasible

            reasons = explain_infeasible(problem)
            if reasons:
                return Result("infeasible", None, None, None, None, report, reasons=reasons)
            reasons = (f"{name}: the engine says infeasible, but memory and routes allow a plan; use --solver auto",)
            return Result("no_solution", None, None, None, None, report, reasons=reasons)
        reasons = (why_no_plan(name, answer, budget.exhausted(), problem.objective.name),)
        return Result("no_solution", None, None, answer.bound, None, report, reasons=reasons)
    assert answer.value is not None
    gap = relative_gap(answer.value, answer.bound)
    status: Status = "optimal" if gap is not None and gap <= PROVEN else "feasible"
    figures = terms(problem, answer.stages)
    if answer.stars is not None:
        figures.update(balanced_parts(problem, evaluate(problem, answer.stages), *answer.stars))
    gap = 0.0 if status == "optimal" else gap
    return Result(status, PlacementSolution(answer.stages), answer.value, answer.bound, gap, report, terms=figures)
