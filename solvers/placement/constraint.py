"""`cp-sat`: the placement as a constraint programme for OR-Tools CP-SAT, a cross-check of the exact solver.

A pipeline is a circuit through a depot and the used devices; an unused device loops on itself. Literals: a[d,e] (e
comes after d), f[d] and l[d] (d first, last), y[d,i,j] (d holds layers i..j−1, only blocks that fit).

    circuit(a, f, l, loops), or with positions p[d]: Σ_d f[d] = Σ_d l[d] = 1,  Σ_e a[d,e] + l[d] = Σ_e a[e,d] + f[d] = 1
                             where d is used (0 elsewhere),  f[d] ⇒ p[d] = 0,  a[d,e] ⇒ p[e] = p[d] + 1
    Σ_{i,j} y[d,i,j] = 1 when d is used, none otherwise;  Σ_{d, i ≤ l < j} y[d,i,j] = 1 for every layer l
    f[d] ⇔ d's block starts at 0,  l[d] ⇔ it ends at n
    a[d,e] ⇒ d's block ends where e's starts
    z[d,e,i] ≥ a[d,e] ∧ (d's block ends at i): the hand-over pays its time;  r[d,e] ≥ l[d] ∧ f[e]: the return hop

Times become whole numbers, rounded *down* to multiples of 2⁻²⁸ of the largest one: the value of every plan is then at
most its real value, so the solver's bound, divided by the scale, is a valid bound of the real problem. What the
rounding costs (at most 3·K units) is part of the reported gap.
One worker, or several that take turns (`interleave_search`), and a fixed seed: the same answer every time. Times that
differ by many orders make a loose scale; the gap says so. OR-Tools is loaded in a process of its own, never in this
one: other solvers' libraries may clash with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpuplan.errors import SolverUnavailableError, UsageError
from gpuplan.plans.placement_solution import StageRange
from gpuplan.solvers.external.worker import Event, Reply, worker_for
from gpuplan.solvers.limits import Budget, Limits, refuse_memory
from gpuplan.solvers.placement.cross_checks import CrossCheck, Run, refuse_large
from gpuplan.solvers.placement.goals import TIE, Goal, Step, first_goal
from gpuplan.solvers.placement.holders import Blocks, Holders, Stages, make_blocks
from gpuplan.solvers.result import Report

if TYPE_CHECKING:
    from gpuplan.solvers.external.child import Channel

Form = Literal["circuit", "positions"]
MAX_VARIABLES = 50_000
#: The largest coefficient. OR-Tools 9.15 presolve was seen to lose plans without a word where integers pass 2³¹.
LARGEST = 1 << 28
#: Bytes CP-SAT was seen to need for each literal.
BYTES_PER_LITERAL = 4_000
_LIBRARY = "CP-SAT"
_HERE = "gpuplan.solvers.placement.constraint"


def available() -> bool:
    """Return whether OR-Tools is installed, without importing it."""
    return importlib.util.find_spec("ortools") is not None


def import_cp_model() -> Any:
    """Return OR-Tools' cp_model; SolverUnavailableError when it is missing or would clash."""
    if sys.modules.get("highspy") is not None:
        raise SolverUnavailableError(
            "cp-sat cannot run in a process that has loaded highspy (their libraries clash); run it on its own"
        )
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise SolverUnavailableError("cp-sat needs OR-Tools, which is not installed; pip install ortools") from error
    return cp_model


class Model:
    """The CP-SAT model of one goal over the blocks of a problem; `stages`: exact number of stages, or None."""

    def __init__(self, blocks: Blocks, goal: Goal, stages: int | None, form: Form = "circuit") -> None:
        self.cp = import_cp_model()
        self.model = self.cp.CpModel()
        self.blocks, self.goal = blocks, goal
        self.scale = _scale(blocks, goal)
        self._make_literals()
        if form == "circuit":
            self._circuit()
        else:
            self._positions()
        self._blocks()
        self._limits(stages)
        self._minimise()

    def _new(self, name: str) -> Any:
        return self.model.new_bool_var(name)

    def _make_literals(self) -> None:
        devices = range(self.blocks.problem.num_devices)
        self.y = {key: self._new("y_{}_{}_{}".format(*key)) for key in self.blocks.blocks}
        self.first, self.last = [self._new(f"f_{d}") for d in devices], [self._new(f"l_{d}") for d in devices]
        self.unused = [self._new(f"u_{d}") for d in devices]
        self.after = {
            pair: self._new("a_{}_{}".format(*pair)) for pair in dict.fromkeys(k[:2] for k in self.blocks.links)
        }

    def _circuit(self) -> None:
        arcs = [(d + 1, e + 1, literal) for (d, e), literal in self.after.items()]
        for d, unused in enumerate(self.unused):
            arcs += [(0, d + 1, self.first[d]), (d + 1, 0, self.last[d]), (d + 1, d + 1, unused)]
        self.model.add_circuit(arcs)

    def _positions(self) -> None:
        devices = range(len(self.unused))
        place = [self.model.new_int_var(0, len(self.unused) - 1, f"p_{d}") for d in devices]
        self.model.add_exactly_one(self.first)
        self.model.add_exactly_one(self.last)
        for d in devices:
            used = self.unused[d].negated()
            self.model.add(sum(after for (i, _), after in self.after.items() if i == d) + self.last[d] == used)
            self.model.add(sum(after for (_, i), after in self.after.items() if i == d) + self.first[d] == used)
            self.model.add(place[d] == 0).only_enforce_if(self.first[d])
        for (d, e), after in self.after.items():
            self.model.add(place[e] == place[d] + 1).only_enforce_if(after)

    def _blocks(self) -> None:
        n = self.blocks.problem.num_layers
        self.ends: dict[tuple[int, int], Any] = {}
        starts: dict[tuple[int, int], Any] = {}
        for d, unused in enumerate(self.unused):
            mine = [(key, y) for key, y in self.y.items() if key[0] == d]
            self.model.add_exactly_one([unused, *(y for _, y in mine)])
            for i in range(n + 1):
                starts[d, i] = self._any(f"s_{d}_{i}", [y for key, y in mine if key[1] == i])
                self.ends[d, i] = self._any(f"e_{d}_{i}", [y for key, y in mine if key[2] == i])
            self.model.add(self.first[d] == starts[d, 0])
            self.model.add(self.last[d] == self.ends[d, n])
        for layer in range(n):
            # Follows from the circuit, but ties the blocks to the layers directly: far better bounds.
            self.model.add_exactly_one([y for (_, i, j), y in self.y.items() if i <= layer < j])
        for (d, e), after in self.after.items():
            for i in range(1, n):
                self.model.add_bool_or([after.negated(), self.ends[d, i].negated(), starts[e, i]])

    def _any(self, name: str, literals: list[Any]) -> Any:
        """Return a literal that is the sum of at most one true literal."""
        literal = self._new(name)
        self.model.add(sum(literals) == literal)
        return literal

    def _limits(self, stages: int | None) -> None:
        if stages is not None:
            self.model.add(sum(unused.negated() for unused in self.unused) == stages)
        caps = [cap for cap in (self.blocks.problem.max_devices, self.goal.devices_cap) if cap is not None]
        if caps:
            self.model.add(self._devices(1) <= min(caps))
        shared = self.blocks.holders.shared
        for _, terms, most in () if shared is None else shared.rows():
            self.model.add(sum(round(count) * self.unused[h].negated() for h, count in terms) <= round(most))
        if self.goal.price_cap is not None:
            top = float(self.blocks.problem.price_per_hour.max()) or 1.0
            # Rounded down on the left and up on the right: no plan within the cap is lost.
            unit = LARGEST / top
            self.model.add(self._price(unit) <= math.ceil(self.goal.price_cap * (1 + TIE) * unit))

    def _devices(self, each: int) -> Any:
        """Return the devices in use, `each` a device."""
        sizes = self.blocks.holders.sizes.tolist()
        return sum(each * size * unused.negated() for size, unused in zip(sizes, self.unused, strict=True))

    def _price(self, unit: float) -> Any:
        prices = self.blocks.problem.price_per_hour
        return sum(math.floor(float(prices[d]) * unit) * unused.negated() for d, unused in enumerate(self.unused))

    def _links(self) -> dict[tuple[int, int, int], Any]:
        """Literals z: true when d hands over to e at cut i."""
        links = {}
        for d, e, i in self.blocks.links:
            links[d, e, i] = self._new(f"z_{d}_{e}_{i}")
            self.model.add_bool_or([self.after[d, e].negated(), self.ends[d, i].negated(), links[d, e, i]])
        return links

    def _returns(self) -> dict[tuple[int, int], Any]:
        """Literals r: true when d is last and e first; pairs without a route are forbidden."""
        returns: dict[tuple[int, int], Any] = {}
        if self.blocks.returns is None:
            return returns
        reachable = set(self.blocks.returns)
        devices = range(self.blocks.problem.num_devices)
        for d, e in ((d, e) for d in devices for e in devices if d != e):
            clause = [self.last[d].negated(), self.first[e].negated()]
            if (d, e) in reachable:
                returns[d, e] = self._new(f"r_{d}_{e}")
                clause.append(returns[d, e])
            self.model.add_bool_or(clause)
        return returns

    def _times(self, timing: str, factor: float) -> list[tuple[int, int, Any]]:
        """List (sending device, whole-number time, literal) of everything that takes time."""
        blocks = self.blocks
        terms = [(k[0], blocks.block_s(timing, *k), y) for k, y in self.y.items()]
        terms += [(k[0], blocks.link_s(timing, *k), z) for k, z in self.z.items()]
        terms += [(k[0], blocks.return_s(timing, *k), r) for k, r in self.r.items()]
        return [(d, math.floor(seconds * factor), literal) for d, seconds, literal in terms]

    def _minimise(self) -> None:
        goal = self.goal
        self.z, self.r = self._links(), self._returns()
        value: Any = 0
        if goal.bottleneck:
            terms = self._times("cycle", self.scale)
            theta = self.model.new_int_var(0, sum(time for _, time, _ in terms), "theta")
            self._cap_cycle(terms, theta)
            value = theta
        if goal.cycle_cap is not None:
            unit = LARGEST / goal.cycle_cap if goal.cycle_cap > 0.0 else 1.0
            most = math.ceil(goal.cycle_cap * (1 + TIE) * unit)
            # What is above the cap by itself is cut to just above it, so that no coefficient is too large.
            self._cap_cycle([(d, min(time, most + 1), lit) for d, time, lit in self._times("cycle", unit)], most)
        if goal.latency:
            value += sum(time * literal for _, time, literal in self._times("latency", goal.latency * self.scale))
        if goal.devices:
            value += self._devices(math.floor(goal.devices * self.scale))
        if goal.price:
            value += self._price(goal.price * self.scale)
        self.model.minimize(value)

    def _cap_cycle(self, terms: list[tuple[int, int, Any]], most: Any) -> None:
        """Keep what every holder takes within a cap."""
        for holder in range(self.blocks.problem.num_devices):
            self.model.add(sum(time * literal for d, time, literal in terms if d == holder) <= most)

    def stages(self, value: Callable[[Any], bool]) -> list[tuple[int, int, int]]:
        """Read the pipeline (device, start, stop) from the values of literals."""
        return sorted((key for key, y in self.y.items() if value(y)), key=lambda key: key[1])

    def hint(self, stages: list[tuple[int, int, int]]) -> None:
        """Start from a plan: say which blocks it has."""
        chosen = set(stages)
        for key, y in self.y.items():
            self.model.add_hint(y, key in chosen)


def _scale(blocks: Blocks, goal: Goal) -> float:
    """Return units per second (or stage, or price) such that the largest coefficient is 2²⁸."""
    largest = goal.devices * float(blocks.holders.sizes.max())
    if goal.price:
        largest = max(largest, goal.price * float(blocks.problem.price_per_hour.max()))
    if goal.latency or goal.bottleneck:
        name, weight = ("cycle", 1.0) if goal.bottleneck else ("latency", goal.latency)
        times = [blocks.block_s(name, *key) for key in blocks.blocks]
        times += [blocks.link_s(name, *key) for key in blocks.links]
        times += [blocks.return_s(name, *key) for key in blocks.returns or ()]
        largest = max(largest, weight * max(times, default=0.0))
    return LARGEST / largest if largest > 0.0 else 1.0


# ------------------------------------------------------------------------------------------- in a process of its own


def work(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Build and solve one model; runs in the child. Points are told as flat lists of device, start, stop."""
    model = Model(make_blocks(payload["holders"]), payload["goal"], payload["stages"], payload["form"])
    if payload["hint"] is not None:
        model.hint(payload["hint"])
    solver = model.cp.CpSolver()
    solver.parameters.num_workers = payload["threads"]
    solver.parameters.interleave_search = payload["threads"] > 1
    solver.parameters.random_seed = payload["seed"]
    if payload["until"] is not None:
        solver.parameters.max_time_in_seconds = max(payload["until"] - time.monotonic() - 0.02, 0.01)
    solver.best_bound_callback = lambda bound: channel.improved(None, bound / model.scale)
    with stopping(solver, channel):
        status = solver.solve(model.model, _told_solutions(model, channel))
    names = {model.cp.OPTIMAL: "optimal", model.cp.FEASIBLE: "feasible", model.cp.INFEASIBLE: "infeasible"}
    name = names.get(status, "unknown" if status == model.cp.UNKNOWN else "invalid")
    known = name in ("optimal", "feasible", "unknown")
    bound = solver.best_objective_bound / model.scale if known else -math.inf
    stages = model.stages(solver.boolean_value) if name in ("optimal", "feasible") else None
    return {"status": name, "stages": stages, "bound": bound}


def _told_solutions(model: Model, channel: Channel) -> Any:
    """Return a callback that tells every better plan as it is found."""

    class Told(model.cp.CpSolverSolutionCallback):  # type: ignore[misc, name-defined]
        def on_solution_callback(self) -> None:
            flat = [number for key in model.stages(self.boolean_value) for number in key]
            channel.improved(flat, self.best_objective_bound / model.scale)

    return Told()


@contextlib.contextmanager
def stopping(solver: Any, channel: Channel) -> Iterator[None]:
    """Stop the solver when the parent asks for it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            if channel.stopped():
                solver.stop_search()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def write_here(payload: dict[str, Any], channel: Channel) -> bool:
    """Write a model to a file, its objective in the goal's own unit; runs in the child."""
    model = Model(make_blocks(payload["holders"]), payload["goal"], None, payload["form"])
    model.model.proto.objective.scaling_factor = 1 / model.scale
    return bool(model.model.export_to_file(payload["path"]))


# ------------------------------------------------------------------------------------------------------ on this side


class _Heard:
    """The best plan and bound the child has told so far."""

    def __init__(self, budget: Budget) -> None:
        self.stages: Stages | None = None
        self.bound = -math.inf
        self._budget = budget

    def __call__(self, event: Event) -> None:
        if event.get("event") != "improved":
            return
        self.bound = max(self.bound, float(event["bound"]))
        if event.get("x") is not None:
            self.stages = _stages(zip(*[iter(event["x"])] * 3, strict=True))
        self._budget.report("cp-sat", None, self.bound if math.isfinite(self.bound) else None)


def _stages(keys: Any) -> Stages:
    return tuple(StageRange(int(d), int(i), int(j)) for d, i, j in keys)


def _step(holders: Holders, reply: Reply, heard: _Heard) -> Step:
    """Turn the child's reply, or what it told before it ended, into a step."""
    if reply.kind == "SolverUnavailableError":
        raise SolverUnavailableError(reply.note)
    failure = ""
    stages, bound = heard.stages, heard.bound
    if reply.outcome == "failed":
        failure = reply.note if _LIBRARY in reply.note else f"{_LIBRARY} failed: {reply.note}"
    elif reply.outcome == "done":
        try:
            assert reply.answer is not None
            if reply.answer["status"] == "infeasible":
                return Step(None, math.inf, infeasible=True)
            stages = None if reply.answer["stages"] is None else _stages(reply.answer["stages"])
            bound = float(reply.answer["bound"])
        except (AssertionError, KeyError, TypeError, ValueError):
            failure = f"{_LIBRARY} answered with something that is no solution"
    if stages is not None and holders.fault(stages) is not None:
        stages = None
    return Step(stages, bound, failure=failure)


@dataclass(slots=True)
class _ConstraintRun(Run):
    """One call: the budget, and what the search runs with."""

    budget: Budget
    seed: int
    form: Form = "circuit"

    def once(self, holders: Holders, goal: Goal, stages: int | None, hint: Stages | None) -> Step:
        """Solve one model, M a number."""
        budget = self.budget
        if budget.exhausted():
            return Step(None, -math.inf)
        budget.spend(1)
        if not make_blocks(holders).blocks:
            return Step(None, math.inf, infeasible=True)
        seconds = None if math.isinf(budget.remaining_s) else max(budget.remaining_s, 0.01)
        payload = {
            "holders": holders,
            "goal": goal,
            "stages": stages,
            "hint": None if hint is None else [(s.device, s.start, s.stop) for s in hint],
            "until": None if seconds is None else time.monotonic() + seconds,
            "threads": budget.limits.threads,
            "seed": self.seed,
            "form": self.form,
        }
        heard = _Heard(budget)
        with worker_for(_LIBRARY) as worker:
            reply = worker.run(f"{_HERE}:work", payload, seconds=seconds, cancel=budget.limits.cancel, on_event=heard)
        return _step(holders, reply, heard)

    def report(self) -> Report:
        """Return how the answer was reached."""
        threads = self.budget.limits.threads
        return Report(
            _name(self.form),
            seed=self.seed,
            wall_time_s=self.budget.elapsed_s,
            work=self.budget.work,
            bound_kind="dual bound of CP-SAT, rounding included",
            proof=f"clause learning and LP relaxation of the {self.form} form by CP-SAT, times rounded down",
            options={"form": self.form, "workers": threads, "interleaved": threads > 1},
        )


def _name(form: Form) -> str:
    return "cp-sat" if form == "circuit" else f"cp-sat-{form}"


class ConstraintMethod(CrossCheck):
    """The model as a solver; option ``form``: ``circuit`` or ``positions``."""

    name = "cp-sat"

    def check(self, holders: Holders, limits: Limits) -> None:
        """Refuse models of too many literals or, by estimate, too much memory; OR-Tools must be installed."""
        problem = holders.problem
        n, D = problem.num_layers, problem.num_devices
        literals = D * n * (n + 1) // 2 + D * (D - 1) * max(n - 1, 0)
        refuse_large(problem, self.name, literals, MAX_VARIABLES)
        if not available():
            raise SolverUnavailableError("cp-sat needs OR-Tools, which is not installed; run pip install ortools")
        refuse_memory(self.name, literals * BYTES_PER_LITERAL, limits)

    def run(self, limits: Limits, seed: int, *, form: Form = "circuit", **options: Any) -> Run:
        """Return a call of it."""
        return _ConstraintRun(Budget(limits), seed, form)

    def write(self, holders: Holders, path: Path, *, form: Form = "circuit", **options: Any) -> None:
        """Write the model as ``.pb`` or ``.txt`` protocol buffer."""
        if path.suffix not in (".pb", ".txt"):
            raise UsageError(f"expected a model file that ends in .pb or .txt (text), got {path.name!r}")
        written = False
        if path.parent.is_dir():
            payload = {
                "holders": holders,
                "goal": first_goal(holders.problem),
                "path": str(path.resolve()),
                "form": form,
            }
            with worker_for(_LIBRARY) as worker:
                reply = worker.run(f"{_HERE}:write_here", payload, seconds=None)
            if reply.kind == "SolverUnavailableError":
                raise SolverUnavailableError(reply.note)
            written = reply.outcome == "done" and reply.answer is True  # type: ignore[comparison-overlap]
        if not written:
            raise UsageError(f"cannot write the model to {path}; give a folder that exists and can be written to")


METHOD = ConstraintMethod()
solve = METHOD.solve
write_model = METHOD.write_model
