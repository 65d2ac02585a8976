"""`ilp`: batches led by their longest output, as a mixed-integer programme in PuLP on HiGHS or CBC.

Requests are numbered by output, longest first; the first request of a batch leads it, so each batch has one name and no
symmetry is left. Executors e with limits B_e, speed v_e; prompts have the distinct values S_1 < … < S_m.

    x[i,l,e] = 1   request i is in the batch that l leads on e   (l ≤ i);      y[l,e] = x[l,l,e]
    z[l,e,p] = 1   that batch is padded to prompt S_p;                         v[l,e,p] its size there

    (1) Σ_{l,e} x[i,l,e] = 1
    (2) Σ_p z[l,e,p] = y[l,e],   Σ_p v[l,e,p] = Σ_i x[i,l,e]
    (3) z ≤ v ≤ min(B_e, ⌊K_e/(S_p + o_l)⌋)·z
    (4) Σ_{p: S_p ≥ s_i} z[l,e,p] ≥ x[i,l,e];   Σ_{p: S_p ≥ S_q} v[l,e,p] ≥ Σ_{i: s_i ≥ S_q} x[i,l,e]
    (5) makespan ≥ Σ_{l,p} (c0·z + c1·v)/v_e for every e

A batch's time is c0(o_l) + size·c1(S_p, o_l): linear in z and v, so nothing is approximated. Minimised is
makespan·(arrival + makespan) + padding·(Σ (S_p + o_l)·v − tokens): several executors, equal arrivals, no weight on
latency (that needs an order: cp-sat) and no deadlines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, Executor, IntArray
from gpuplan.solvers.batching.answer import answer, no_solution
from gpuplan.solvers.batching.exact.additive import coefficients, deadlines_count, equal_arrivals
from gpuplan.solvers.batching.exact.linear import Engine, LinearModel, default_engine, run
from gpuplan.solvers.batching.sequence import schedule
from gpuplan.solvers.external.isolated import LIBRARIES
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.result import Result

NAME = "ilp"
MOST: Final = 120
#: Relative difference of plan and bound that counts as proven: the engines' tolerances.
PROOF: Final = 1e-6


def supports(problem: BatchingProblem) -> str | None:
    """Return why the model does not cover `problem`, with the mend, or None."""
    mend = "use auto or cp-sat"
    if problem.objective.latency > 0.0:
        return f"the objective weighs latency, which depends on the order of batches; {mend}"
    if deadlines_count(problem):
        return f"requests have deadlines that count; {mend}"
    if problem.objective.makespan > 0.0 and not equal_arrivals(problem):
        return f"requests arrive at different times; {mend}"
    if problem.num_requests > MOST:
        return f"it takes up to {MOST} requests, and there are {problem.num_requests:,}; use auto or colgen"
    return None


@dataclass(slots=True, eq=False)
class Model:
    """The model (1)-(5) of a problem."""

    problem: BatchingProblem
    order: IntArray = field(init=False)
    heights: IntArray = field(init=False)
    linear: LinearModel = field(init=False)
    x: dict[tuple[int, int, int], int] = field(default_factory=dict)
    scale: float = 1.0

    def __post_init__(self) -> None:
        requests = self.problem.requests
        self.order = np.lexsort((-requests.prompt_tokens, -requests.output_tokens)).astype(np.int64)
        self.heights = np.unique(requests.prompt_tokens)
        self.scale = _scale(self.problem)
        self.linear = LinearModel()
        self.loads: list[list[tuple[int, float]]] = []
        for e, executor in enumerate(self.problem.executors):
            self.loads.append([])
            for leader in range(len(self.order)):
                self._batch(leader, e, executor)
        self._assign()
        self._makespan()

    loads: list[list[tuple[int, float]]] = field(default_factory=list)

    def _batch(self, leader: int, e: int, executor: Executor) -> None:
        """Add variables and (2)-(4) of the batch that `leader` leads on e."""
        requests, linear = self.problem.requests, self.linear
        prompt = requests.prompt_tokens[self.order]
        output = int(requests.output_tokens[self.order[leader]])
        room = executor.room(self.heights + output)
        fitting = [p for p in range(len(self.heights)) if room[p] >= 1 and self.heights[p] >= prompt[leader]]
        members = [i for i in range(leader, len(prompt)) if fitting and prompt[i] <= self.heights[fitting[-1]]]
        if not members or members[0] != leader:
            return
        for i in members:
            self.x[i, leader, e] = linear.add(f"x_{i}_{leader}_{e}", 1.0, integer=True)
        y = self.x[leader, leader, e]
        z = {p: linear.add(f"z_{leader}_{e}_{p}", 1.0, integer=True) for p in fitting}
        v = {p: linear.add(f"v_{leader}_{e}_{p}", float(room[p])) for p in fitting}
        linear.row([(column, 1.0) for column in z.values()] + [(y, -1.0)], 0.0, 0.0)
        filled = [(self.x[i, leader, e], -1.0) for i in members]
        linear.row([(column, 1.0) for column in v.values()] + filled, 0.0, 0.0)
        for p in fitting:
            linear.row([(v[p], 1.0), (z[p], -float(room[p]))], -np.inf, 0.0)
            linear.row([(v[p], 1.0), (z[p], -1.0)], 0.0, np.inf)
        for i in members:
            if i != leader:
                tall = [(z[p], 1.0) for p in fitting if self.heights[p] >= prompt[i]]
                linear.row([*tall, (self.x[i, leader, e], -1.0)], 0.0, np.inf)
        self._heights(leader, e, members, fitting, v)
        self._costs(e, executor, output, z, v)

    def _heights(self, leader: int, e: int, members: list[int], fitting: list[int], v: dict[int, int]) -> None:
        prompt = self.problem.requests.prompt_tokens[self.order]
        for q in fitting[1:]:
            tall = [(v[p], 1.0) for p in fitting if p >= q]
            above = [(self.x[i, leader, e], -1.0) for i in members if prompt[i] >= self.heights[q]]
            if above:
                self.linear.row(tall + above, 0.0, np.inf)

    def _costs(self, e: int, executor: Executor, output: int, z: dict[int, int], v: dict[int, int]) -> None:
        k = coefficients(self.problem.time, 1.0, executor.speed, 0.0)
        steps, padding = max(output - 1, 0), self.problem.objective.padding
        for p in z:
            S = float(self.heights[p])
            each = k[1] * S + steps * k[3] + k[4] * steps * (S + 0.5 * output)
            self.loads[e] += [(z[p], float(k[0] + steps * k[2])), (v[p], float(each))]
            self.linear.cost.append((v[p], padding * (S + output) * self.scale))

    def _assign(self) -> None:
        owners: list[list[tuple[int, float]]] = [[] for _ in self.order]
        for (i, leader, e), column in self.x.items():
            owners[i].append((column, 1.0))
            if i != leader:
                self.linear.row([(self.x[leader, leader, e], 1.0), (column, -1.0)], 0.0, np.inf)
        for own in owners:
            self.linear.row(own, 1.0, 1.0)

    def _makespan(self) -> None:
        weight = self.problem.objective.makespan
        if weight == 0.0:
            return
        if len(self.loads) == 1:
            self.linear.cost += [(column, weight * value * self.scale) for column, value in self.loads[0]]
            return
        last = self.linear.add("makespan", np.inf)
        self.linear.cost.append((last, weight))
        for load in self.loads:
            self.linear.row([(last, 1.0)] + [(column, -value * self.scale) for column, value in load], 0.0, np.inf)

    def groups(self, values: list[float]) -> list[list[list[int]]]:
        """Read the batches by executor."""
        groups: list[dict[int, list[int]]] = [{} for _ in self.problem.executors]
        for (i, leader, e), column in self.x.items():
            if values[column] > 0.5:
                groups[e].setdefault(leader, []).append(int(self.order[i]))
        return [list(own.values()) for own in groups]

    def constant(self) -> float:
        """Return what the objective adds to the model's."""
        requests, goal = self.problem.requests, self.problem.objective
        tokens = float(int(requests.prompt_tokens.sum()) + int(requests.output_tokens.sum()))
        return goal.makespan * float(requests.arrival_s.max(initial=0.0)) - goal.padding * tokens


def _scale(problem: BatchingProblem) -> float:
    """Return the factor that brings a typical objective to 1,000 or 10: tolerances of the engines are absolute."""
    requests, goal = problem.requests, problem.objective
    alone = problem.time.batch_s(1, requests.prompt_tokens, requests.output_tokens).sum()
    typical = goal.makespan * float(alone) / max(float(problem.speed.sum()), 1e-9)
    typical += goal.padding * float((requests.prompt_tokens + requests.output_tokens).sum())
    # HiGHS repairs (and prints) solutions of the makespan rows at larger scales.
    target = 1000.0 if problem.num_executors == 1 else 10.0
    return target / typical if typical > 0.0 else 1.0


def solve(
    problem: BatchingProblem, limits: Limits, seed: int = 0, *, engine: Literal["highs", "cbc"] | None = None
) -> Result[BatchSolution]:
    """Solve the leader model.

    Parameters
    ----------
    engine
        ``highs`` (SciPy's) or ``cbc`` (a PuLP model), in a process of their own; None takes HiGHS.

    Returns
    -------
    Result
        ``optimal`` when plan and bound agree within 1e-6, ``feasible`` with the bound so far, ``no_solution``.
    """
    reason = supports(problem)
    if reason is not None:
        raise UnsupportedError(f"solver {NAME} cannot take this problem: {reason}")
    started, budget = time.perf_counter(), Budget(limits)
    chosen: Engine = engine or default_engine()
    if problem.num_requests == 0:
        return answer(problem, schedule(problem, []), solver=NAME, started=started, seed=seed, proven=True)
    model = Model(problem)
    found = run(model.linear, chosen, budget, seed)
    bound, kind = found.bound / model.scale + model.constant(), f"dual bound of {LIBRARIES[chosen]}"
    if found.values is None:
        known = bound if found.bound > 0.0 else None
        reasons = (f"{NAME}: {found.failure}",) if found.failure else ()
        return no_solution(
            problem, solver=NAME, started=started, seed=seed, bound=known, bound_kind=kind, reasons=reasons
        )
    solution = schedule(problem, model.groups(found.values))
    result = answer(
        problem,
        solution,
        solver=NAME,
        started=started,
        seed=seed,
        work=1,
        bound=max(bound, 0.0),
        bound_kind=kind,
        options={"engine": chosen},
    )
    assert isinstance(result.objective, float)
    if result.objective - bound <= PROOF * abs(result.objective) and result.status != "optimal":
        return answer(
            problem,
            solution,
            solver=NAME,
            started=started,
            seed=seed,
            work=1,
            bound=bound,
            bound_kind=kind,
            options={"engine": chosen},
            proven=True,
        )
    return result
