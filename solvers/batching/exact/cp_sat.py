"""`cp-sat`: any batching problem of few requests as a constraint programme for OR-Tools CP-SAT.

Requests are numbered by output, longest first, and the first request of a batch leads it. x[i,l]: request i is in the
batch that l leads; u[l,e]: that batch runs on executor e, as an optional interval among those of e that do not overlap.

    Σ_l x[i,l] = 1,   x[i,l] ≤ x[l,l],   Σ_e u[l,e] = x[l,l]
    b_l = Σ_i x[i,l] ≤ B_e,   S_l ≥ s_i·x[i,l],   w_l = b_l·S_l,   w_l + o_l·b_l ≤ K_e           where u[l,e]
    interval of l on e: start_l ≥ arrival_i where x[i,l],   length c0 + c1·b_l + c2·w_l,   C_i ≥ end of l where x[i,l]
    hard: C_i ≤ deadline_i;   soft: C_i ≤ deadline_i or late_i
    min  Σ latency·w·C + makespan·max C + padding·Σ(w_l + o_l·b_l) + Σ violation·w·late

Times become whole numbers of 2⁻²⁸ of the horizon, coefficients and arrivals rounded *down*, deadlines *up*: every
plan stays possible and costs no more than it does, so CP-SAT's bound is a bound of the real problem; what rounding
costs is part of the gap. One worker and a fixed seed: the same answer every time. CP-SAT runs in a process of its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuplan.errors import SolverUnavailableError, UnsupportedError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import DEADLINE_SLACK_S, BatchingProblem, IntArray
from gpuplan.solvers.batching.answer import answer, infeasible, no_solution
from gpuplan.solvers.batching.exact.additive import coefficients, deadlines_count
from gpuplan.solvers.batching.heuristics.starts import Start, best_start, rate
from gpuplan.solvers.batching.sequence import schedule
from gpuplan.solvers.external.worker import Event, worker_for
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement.constraint import import_cp_model, stopping
from gpuplan.solvers.result import Result

if TYPE_CHECKING:
    from gpuplan.solvers.external.child import Channel

NAME = "cp-sat"
_KIND: Final = "dual bound of CP-SAT, rounding included"
MOST: Final = 60
#: Units of time in the horizon, the largest weight, the largest sum. CP-SAT's presolve goes wrong with intervals beyond
#: 2³¹ (plans are lost without a word), and wherever coefficients grow as large.
_UNITS, _WEIGHT, _SAFE_SUM = 2.0**28, 2.0**10, 2.0**52
#: Relative difference of plan and bound that counts as proven: rounding is part of the bound.
PROOF: Final = 1e-6


def supports(problem: BatchingProblem) -> str | None:
    """Return why the problem is too large, or None."""
    if problem.num_requests > MOST:
        return f"it takes up to {MOST} requests, and there are {problem.num_requests:,}; use auto, colgen or lns"
    return None


@dataclass(slots=True, eq=False)
class Model:
    """The constraint programme of a problem."""

    problem: BatchingProblem
    cp: Any = field(default_factory=import_cp_model)

    def __post_init__(self) -> None:
        self.model = self.cp.CpModel()
        requests = self.problem.requests
        self.order = np.lexsort((-requests.prompt_tokens, -requests.output_tokens)).astype(np.int64)
        self._scale()
        self._variables()
        for leader in range(len(self.order)):
            self._batch(leader)
        for own in self.running:
            self.model.add_no_overlap(own)
        self._minimise()

    model: Any = field(init=False)
    order: IntArray = field(init=False)
    unit: float = field(init=False)
    cost_unit: float = field(init=False)
    horizon: int = field(init=False)
    x: dict[tuple[int, int], Any] = field(init=False)
    u: dict[tuple[int, int], Any] = field(init=False)
    start: list[Any] = field(init=False)
    end: list[Any] = field(init=False)
    done: list[Any] = field(init=False)
    late: dict[int, Any] = field(init=False)
    running: list[list[Any]] = field(init=False)
    padded: list[Any] = field(init=False)

    def _scale(self) -> None:
        """Choose units: the horizon is 2²⁸ of them.

        No plan without idle time is longer: b requests together take at most b times the longest prompt and output
        alone on the slowest executor.
        """
        problem, goal, requests = self.problem, self.problem.objective, self.problem.requests
        longest = (int(requests.prompt_tokens.max()), int(requests.output_tokens.max()))
        alone = float(problem.time.batch_s(1, *longest, float(problem.speed.min())))
        slack = float(requests.arrival_s.max()) + len(requests) * alone + 1e-9
        self.unit = _UNITS / slack
        self.horizon = math.ceil(slack * self.unit)
        weights = np.append(goal.latency * requests.weight, goal.makespan)
        largest = float(weights.max(initial=0.0))
        other = goal.violation * float(requests.weight.sum()) * self.unit
        tokens = float((requests.prompt_tokens + requests.output_tokens).max(initial=0)) * len(requests)
        other += goal.padding * tokens * len(requests) * self.unit
        total = float(weights.sum()) * self.horizon + other
        self.cost_unit = min(_exact_weights(weights, largest), _SAFE_SUM / max(total, 1e-300))

    def _variables(self) -> None:
        model, n = self.model, len(self.order)
        requests = self.problem.requests
        self.x = {(i, leader): model.new_bool_var(f"x_{i}_{leader}") for leader in range(n) for i in range(leader, n)}
        self.u = {
            (leader, e): model.new_bool_var(f"u_{leader}_{e}")
            for leader in range(n)
            for e in range(self.problem.num_executors)
        }
        self.start = [model.new_int_var(0, self.horizon, f"start_{i}") for i in range(n)]
        self.end = [model.new_int_var(0, self.horizon, f"end_{i}") for i in range(n)]
        self.done = [model.new_int_var(0, self.horizon, f"done_{i}") for i in range(n)]
        self.running, self.padded, self.late = [[] for _ in self.problem.executors], [], {}
        counts = deadlines_count(self.problem)
        for i, row in enumerate(self.order.tolist()):
            model.add_exactly_one([self.x[i, leader] for leader in range(i + 1)])
            due = float(requests.deadline_s[row])
            if counts and math.isfinite(due):
                limit = math.ceil((due + DEADLINE_SLACK_S) * self.unit)
                if self.problem.hard:
                    model.add(self.done[i] <= limit)
                else:
                    self.late[i] = model.new_bool_var(f"late_{i}")
                    model.add(self.done[i] <= limit).only_enforce_if(self.late[i].negated())

    def _batch(self, leader: int) -> None:
        """Add the batch that `leader` leads."""
        model, requests = self.model, self.problem.requests
        members = range(leader, len(self.order))
        led = self.x[leader, leader]
        prompt = requests.prompt_tokens[self.order]
        tallest, most = int(prompt[leader:].max()), min(len(members), int(self.problem.max_batch.max()))
        size = model.new_int_var(0, most, f"b_{leader}")
        height = model.new_int_var(0, tallest, f"S_{leader}")
        product = model.new_int_var(0, tallest * most, f"w_{leader}")
        model.add(size == sum(self.x[i, leader] for i in members))
        shares = []  # what each member adds to b·S: S when it is in, 0 when it is not
        for i in members:
            share = model.new_int_var(0, tallest, f"t_{i}_{leader}")
            model.add(share == height).only_enforce_if(self.x[i, leader])
            model.add(share == 0).only_enforce_if(self.x[i, leader].negated())
            shares.append(share)
        model.add(product == sum(shares))
        for i in members:
            mine = self.x[i, leader]
            if i != leader:
                model.add_implication(mine, led)
            model.add(height >= int(prompt[i])).only_enforce_if(mine)
            arrival = math.floor(float(requests.arrival_s[self.order[i]]) * self.unit)
            model.add(self.start[leader] >= arrival).only_enforce_if(mine)
            model.add(self.done[i] >= self.end[leader]).only_enforce_if(mine)
        output = int(requests.output_tokens[self.order[leader]])
        self.padded.append(product + output * size)
        model.add(sum(self.u[leader, e] for e in range(self.problem.num_executors)) == led)
        for e, executor in enumerate(self.problem.executors):
            here = self.u[leader, e]
            model.add(size <= executor.max_batch).only_enforce_if(here)
            model.add(product + output * size <= min(executor.kv_tokens, 2**50)).only_enforce_if(here)
            self._run(leader, e, output, size, product, here)

    def _run(self, leader: int, e: int, output: int, size: Any, product: Any, here: Any) -> None:
        """Add the optional interval of the batch on e: c0 + c1·size + c2·product, rounded down."""
        k = coefficients(self.problem.time, 1.0, self.problem.executors[e].speed, 0.0) * self.unit
        steps = max(output - 1, 0)
        c0, c1 = math.floor(k[0] + steps * k[2]), math.floor(steps * k[3] + k[4] * steps * output / 2.0)
        c2 = math.floor(k[1] + k[4] * steps)
        length = self.model.new_int_var(0, self.horizon, f"length_{leader}_{e}")
        self.model.add(length == c0 + c1 * size + c2 * product).only_enforce_if(here)
        begin, end = self.start[leader], self.end[leader]
        name = f"run_{leader}_{e}"
        self.running[e].append(self.model.new_optional_interval_var(begin, length, end, here, name))

    def _minimise(self) -> None:
        goal, requests = self.problem.objective, self.problem.requests
        value: Any = 0
        for i, row in enumerate(self.order.tolist()):
            weight = float(requests.weight[row])
            value += math.floor(goal.latency * weight * self.cost_unit) * self.done[i]
            if i in self.late:
                value += math.floor(goal.violation * weight * self.cost_unit * self.unit) * self.late[i]
        if goal.makespan > 0.0:
            last = self.model.new_int_var(0, self.horizon, "last")
            self.model.add_max_equality(last, self.done)
            value += math.floor(goal.makespan * self.cost_unit) * last
        if goal.padding > 0.0:
            value += math.floor(goal.padding * self.cost_unit * self.unit) * sum(self.padded)
        self.model.minimize(value)

    def hint(self, solution: BatchSolution) -> None:
        """Tell the search a plan to begin with."""
        place = np.empty(len(self.order), dtype=np.int64)
        place[self.order] = np.arange(len(self.order))
        chosen = set()
        for batch in solution:
            spots = sorted(place[batch.requests].tolist())
            chosen |= {(i, spots[0]) for i in spots}
            for e in range(self.problem.num_executors):
                self.model.add_hint(self.u[spots[0], e], int(e == batch.executor))
        for key, literal in self.x.items():
            self.model.add_hint(literal, int(key in chosen))

    def real(self, value: float) -> float:
        """Return a value of the model as one of the objective."""
        goal, requests = self.problem.objective, self.problem.requests
        tokens = float(int(requests.prompt_tokens.sum()) + int(requests.output_tokens.sum()))
        constant = goal.latency * float(np.sum(requests.weight * requests.arrival_s)) + goal.padding * tokens
        return value / (self.unit * self.cost_unit) - constant

    def groups(self, solver: Any) -> list[list[IntArray]]:
        """Read the batches of each executor in order of start."""
        found: list[list[tuple[int, int, IntArray]]] = [[] for _ in self.problem.executors]
        for (leader, e), literal in self.u.items():
            if solver.boolean_value(literal):
                spots = [i for i in range(leader, len(self.order)) if solver.boolean_value(self.x[i, leader])]
                found[e].append((solver.value(self.start[leader]), leader, self.order[spots]))
        return [[rows for _, _, rows in sorted(own, key=lambda run: run[:2])] for own in found]


def _exact_weights(weights: np.ndarray[Any, Any], largest: float) -> float:
    """Return units of cost per unit of time: whole weights where a small factor makes them whole."""
    if largest <= 0.0:
        return 1.0
    least = float(weights[weights > 0.0].min())
    for factor in (1.0, 2.0, 3.0, 4.0, 10.0, 100.0):
        whole = weights / least * factor
        if np.abs(whole - np.rint(whole)).max() < 1e-12 and whole.max() <= _WEIGHT:
            return factor / least * (1.0 + 1e-15)
    return _WEIGHT / largest


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0) -> Result[BatchSolution]:
    """Solve the constraint programme.

    Returns
    -------
    Result
        ``optimal`` when plan and bound (rounding included) agree within 1e-6, ``feasible`` with the bound so far,
        ``infeasible`` when hard deadlines cannot hold, ``no_solution`` at a limit.

    Raises
    ------
    UnsupportedError
        More than 60 requests.
    SolverUnavailableError
        OR-Tools is not installed.
    """
    reason = supports(problem)
    if reason is not None:
        raise UnsupportedError(f"solver {NAME} cannot take this problem: {reason}")
    started, budget = time.perf_counter(), Budget(limits)
    if problem.num_requests == 0:
        return answer(problem, schedule(problem, []), solver=NAME, started=started, seed=seed, proven=True)
    known = best_start(problem, budget)
    found = _search(problem, known, budget, seed)
    if found.infeasible and known.missed:
        reasons = ("the hard deadlines cannot all hold; --relax-deadlines gives the plan with the fewest violations",)
        return infeasible(problem, reasons, solver=NAME, started=started, seed=seed, work=budget.work)
    solution, value = _better(problem, found.groups, known)
    bound = found.bound
    if found.infeasible or (bound is not None and bound > value * (1.0 + PROOF) + 1e-9):
        bound = None  # a plan contradicts it: presolve went wrong
    if solution is None:
        why = (f"{NAME}: {found.failure}",) if found.failure else ()
        return no_solution(
            problem,
            solver=NAME,
            started=started,
            seed=seed,
            work=budget.work,
            bound=bound,
            bound_kind=_KIND,
            reasons=why,
        )
    return answer(
        problem,
        solution,
        solver=NAME,
        started=started,
        seed=seed,
        work=budget.work,
        bound=bound,
        bound_kind=None if bound is None else _KIND,
        options={"workers": 1},
        notes=(found.failure,) if found.failure else (),
        proven=bound is not None and value - bound <= PROOF * abs(value),
    )


@dataclass(slots=True)
class _Found:
    """What CP-SAT found: batches of each executor (None: none better than its start), bound, proof, failure."""

    groups: list[list[IntArray]] | None = None
    bound: float | None = None
    infeasible: bool = False
    failure: str = ""


def _search(problem: BatchingProblem, known: Start, budget: Budget, seed: int) -> _Found:
    """Run CP-SAT in a process of its own; its best plan and bound so far come back whatever ends it."""
    seconds = None if math.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01)
    until = None if seconds is None else time.monotonic() + seconds
    payload = {"problem": problem, "start": known.solution, "until": until, "seed": seed}
    found = _Found()

    def heard(event: Event) -> None:
        found.bound = max(float(event["bound"]), 0.0, found.bound or 0.0)
        if event.get("groups") is not None:
            found.groups = _arrays(event["groups"])

    with worker_for("CP-SAT") as worker:
        reply = worker.run(f"{__name__}:work", payload, seconds=seconds, cancel=budget.limits.cancel, on_event=heard)
    if reply.kind == "SolverUnavailableError":
        raise SolverUnavailableError(reply.note)
    if reply.outcome == "failed":
        found.failure = reply.note if "CP-SAT" in reply.note else f"CP-SAT failed: {reply.note}"
    if reply.outcome == "done":
        assert reply.answer is not None
        budget.spend(int(reply.answer["branches"]))
        found.infeasible = bool(reply.answer["infeasible"])
        heard(reply.answer)
    return found


def work(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Build and solve the model; runs in the child."""
    model = Model(payload["problem"])
    model.hint(payload["start"])
    solver = model.cp.CpSolver()
    solver.parameters.num_workers, solver.parameters.random_seed = 1, payload["seed"]
    if payload["until"] is not None:
        solver.parameters.max_time_in_seconds = max(payload["until"] - time.monotonic() - 0.02, 0.01)
    solver.best_bound_callback = lambda bound: channel.tell(event="improved", bound=model.real(bound))
    with stopping(solver, channel):
        status = solver.solve(model.model)
    known = status in (model.cp.OPTIMAL, model.cp.FEASIBLE)
    return {
        "infeasible": status == model.cp.INFEASIBLE,
        "groups": [[rows.tolist() for rows in own] for own in model.groups(solver)] if known else None,
        "bound": model.real(solver.best_objective_bound),
        "branches": int(solver.num_branches),
    }


def _arrays(groups: list[list[list[int]]]) -> list[list[IntArray]]:
    return [[np.array(rows, dtype=np.int64) for rows in own] for own in groups]


def _better(
    problem: BatchingProblem, groups: list[list[IntArray]] | None, known: Start
) -> tuple[BatchSolution | None, float]:
    """Return the better of CP-SAT's plan and the construction, and its objective; None when both miss deadlines."""
    best: Start | None = None if known.missed else known
    if groups is not None:
        found = rate(problem, NAME, groups)
        if not found.missed and found.better_than(best):
            best = found
    return (None, math.inf) if best is None else (best.solution, best.objective)
