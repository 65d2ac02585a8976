"""External solvers in a process of their own: limits, cancels, crashes, garbage; CBC's log; the small MILP call."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.solvers.external import cbc, highs, linear, worker
from gpuplan.solvers.external.build import Builder, OutOfTimeError, times
from gpuplan.solvers.external.child import Channel, run_task
from gpuplan.solvers.external.isolated import Best, read_reply, solve_isolated
from gpuplan.solvers.external.linear import linear_model, solve_milp
from gpuplan.solvers.external.pulp_models import write_linear
from gpuplan.solvers.external.worker import Reply, Worker, kept_workers, worker_for


def knapsack(size: int = 20, rows: int = 3, seed: int = 0) -> tuple[Any, ...]:
    """Return c, A, lb, ub, integrality and bounds of a random knapsack with several rows."""
    draw = np.random.default_rng(seed)
    A = draw.integers(1, 30, (rows, size)).astype(float)
    c = -draw.integers(5, 40, size).astype(float)
    return c, A, -np.inf, np.floor(A.sum(axis=1) / 3), 1, (0, 1)


def best_by_hand(c: Any, A: Any, ub: Any) -> float:
    """Return the optimum of a small binary problem by going through all points."""
    size = len(c)
    points = (np.arange(1 << size)[:, None] >> np.arange(size)) & 1
    return float((points @ c)[(points @ A.T <= ub).all(axis=1)].min())


# --------------------------------------------------------------------------------------------- the small MILP call


@pytest.mark.parametrize("seed", range(20))
def test_solve_milp_finds_the_optimum(seed: int) -> None:
    """Random knapsacks against all 1,024 points, in this process."""
    c, A, lb, ub, whole, bounds = knapsack(10, 3, seed)
    status, x, bound = solve_milp(c, A, lb, ub, whole, bounds, None)
    best = best_by_hand(c, A, ub)
    assert status == "optimal"
    assert x is not None
    assert c @ x == pytest.approx(best)
    assert bound <= best + 1e-6


@pytest.mark.parametrize("engine", ["highs", "cbc"])
def test_both_engines_agree_in_their_own_process(engine: str) -> None:
    """HiGHS and CBC, with and without a start, find the same optimum as all points do."""
    with kept_workers():
        for seed in range(6):
            c, A, lb, ub, whole, bounds = knapsack(10, 3, seed)
            start = np.zeros(10)
            model = linear_model(c, A, lb, ub, whole, bounds)
            for given in (None, start):
                answer = solve_isolated(engine, model, None, start=given)  # type: ignore[arg-type]
                assert answer.status == "optimal"
                assert model.value(answer.x) == pytest.approx(best_by_hand(c, A, ub))  # type: ignore[arg-type]


def test_the_public_call_of_scipy_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SciPy's own binding is missing, `scipy.optimize.milp` gives the same answers."""
    monkeypatch.setattr(highs, "_binding", lambda: None)
    c, A, lb, ub, whole, bounds = knapsack(10)
    status, x, bound = solve_milp(c, A, lb, ub, whole, bounds, 10.0)
    assert status == "optimal"
    assert x is not None
    assert c @ x == pytest.approx(best_by_hand(c, A, ub))
    assert bound == pytest.approx(c @ x)
    # x ≤ 1 each, and the first row would need more than all of them.
    assert solve_milp(c, A, A.sum(axis=1) + 1, np.inf, whole, bounds, 10.0)[0] == "infeasible"


@pytest.mark.parametrize("isolated_run", [False, True])
def test_infeasible_and_continuous_models(isolated_run: bool) -> None:
    """A row no point reaches is infeasible with bound inf; without whole numbers the bound is the value."""
    c, A, _, ub, _, bounds = knapsack(6)
    with kept_workers():
        status, x, bound = solve_milp(c, A, A.sum(axis=1) + 1, np.inf, 1, bounds, None, isolated=isolated_run)
        assert (status, x, bound) == ("infeasible", None, math.inf)
        status, x, bound = solve_milp(c, A, -np.inf, ub, 0, bounds, None, isolated=isolated_run)
    assert status == "optimal"
    assert x is not None
    assert bound == pytest.approx(c @ x)


def test_an_incumbent_is_kept_where_nothing_better_is_found() -> None:
    """With hardly any time the point given comes back; one that breaks a row is not taken."""
    c, A, lb, ub, whole, bounds = knapsack(400, 40)
    start = np.zeros(400)
    start[0] = 1.0
    status, x, bound = solve_milp(c, A, lb, ub, whole, bounds, 0.001, start)
    assert status == "feasible"
    assert x is not None
    assert c @ x <= c @ start
    assert bound <= c @ x
    status, x, _ = solve_milp(c, A, lb, ub, whole, bounds, 0.001, np.ones(400))
    assert status in ("no_solution", "feasible")
    assert x is None or (A @ x <= ub + 1e-6).all()


def test_models_over_the_limit_of_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit set to 10 entries, a matrix of 30 and a row too many are refused in one sentence."""
    monkeypatch.setattr(linear, "MAX_ENTRIES", 10)
    monkeypatch.setattr("gpuplan.solvers.external.build.MAX_ENTRIES", 10)
    with pytest.raises(UnsupportedError, match=r"30 matrix entries and at most 10"):
        linear_model(*knapsack(10))
    builder = Builder()
    columns = [builder.add(f"x{k}", 1.0) for k in range(6)]
    builder.at_most("first", [(k, 1.0) for k in columns], 1.0)
    with pytest.raises(UnsupportedError, match="more than 10 matrix entries"):
        builder.at_most("second", [(k, 1.0) for k in columns], 1.0)


def test_costs_of_a_column_add_up_and_zeros_are_left_out() -> None:
    """Two costs of one column make their sum; a zero coefficient makes no entry."""
    builder = Builder()
    column = builder.add("x", 4.0, integer=True)
    builder.cost += [(column, -1.0), (column, -2.0)]
    builder.at_most("row", times([(column, 2.0), (column, 0.0)], 3.0), 12.0)
    model = builder.build()
    assert model.cost.tolist() == [-3.0]
    assert (model.columns.tolist(), model.values.tolist()) == ([0], [6.0])
    assert highs.solve(model, None).x == pytest.approx([2.0])  # 6·x ≤ 12


def test_a_model_that_takes_too_long_to_build_is_given_up() -> None:
    """The clock is looked at every 1,000 variables and rows."""
    asked: list[int] = []
    builder = Builder(stop=lambda: bool(asked.append(1)) or len(asked) == 3)
    for k in range(2_999):
        builder.add(f"x{k}", 1.0)
    assert len(asked) == 2
    with pytest.raises(OutOfTimeError):
        builder.add("x2999", 1.0)


def test_points_are_checked_against_everything() -> None:
    """A point outside its bounds, beside a whole number or above a row does not hold."""
    model = linear_model([1.0, 1.0], [[1.0, 1.0]], -np.inf, 3.0, [1, 0], (0, 2))
    assert model.holds([1.0, 1.5])
    assert not model.holds([1.5, 0.0])
    assert not model.holds([1.0, 2.5])
    assert not model.holds([2.0, 2.0])
    assert not model.holds([-1.0, 0.0])


def test_written_models_need_a_known_ending(tmp_path: Path) -> None:
    """Neither another ending nor a folder that does not exist is accepted."""
    model = linear_model(*knapsack(4))
    write_linear(model, tmp_path / "model.lp")
    assert "x3" in (tmp_path / "model.lp").read_text()
    with pytest.raises(UsageError, match=r"\.lp or \.mps"):
        write_linear(model, tmp_path / "model.txt")
    with pytest.raises(UsageError, match="cannot write"):
        write_linear(model, tmp_path / "nowhere" / "model.mps")


# --------------------------------------------------------------------------------------- processes that misbehave


def child(tmp_path: Path, text: str) -> Worker:
    """Return a worker whose process is a script of our own."""
    script = tmp_path / "child.py"
    script.write_text(f"import json, os, signal, sys, time\n{text}\n")
    return Worker("FAKE", [sys.executable, str(script)])


def test_a_crash_is_told_with_its_signal(tmp_path: Path) -> None:
    """A process that dies of SIGSEGV is reported, and the next task starts a new one."""
    with child(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)") as fake:
        for _ in range(2):
            reply = fake.run("x:y", None, seconds=20.0)
            assert (reply.outcome, reply.note) == ("failed", "the process for FAKE crashed (signal 11)")


def test_an_end_without_an_answer_is_told(tmp_path: Path) -> None:
    """A process that just exits is reported with its exit code."""
    with child(tmp_path, "sys.exit(3)") as fake:
        reply = fake.run("x:y", None, seconds=20.0)
    assert reply.outcome == "failed"
    assert reply.note == "the process for FAKE ended without an answer (exit code 3)"


@pytest.mark.parametrize("line", ["Segmentation fault (core dumped)", "[1, 2]", "{}", "\\x00\\xff", "null"])
def test_garbage_is_told_as_such(tmp_path: Path, line: str) -> None:
    """Anything but an event is garbage: the process is killed and the line quoted."""
    with child(tmp_path, f"print({line!r}, flush=True); time.sleep(60)") as fake:
        reply = fake.run("x:y", None, seconds=20.0)
    assert reply.outcome == "failed"
    assert reply.note.startswith("the process for FAKE printed what is no answer ('")
    assert "\n" not in reply.note


def test_a_hang_is_killed_and_what_it_told_is_kept(tmp_path: Path) -> None:
    """Killed at its limit: the last better point and bound are what comes back."""
    told = json.dumps({"event": "improved", "x": [1.0, 0.0], "bound": -7.5})
    best = Best()
    with child(tmp_path, f"print({told!r}, flush=True); time.sleep(600)") as fake:
        reply = fake.run("x:y", None, seconds=3.0, on_event=best)
    assert reply.outcome == "stopped"
    answer = read_reply(reply, best, "FAKE")
    assert (answer.status, answer.bound) == ("feasible", -7.5)
    assert answer.x is not None
    assert answer.x.tolist() == [1.0, 0.0]
    assert answer.note == "FAKE was stopped at its limit"


def test_a_cancel_kills_what_does_not_stop_by_itself(tmp_path: Path) -> None:
    """A process deaf to the wish to stop is killed after a second of grace."""
    with child(tmp_path, "time.sleep(600)") as fake:
        reply = fake.run("x:y", None, seconds=None, cancel=lambda: True)
    assert reply.outcome == "stopped"


def test_a_program_that_is_not_there_is_told() -> None:
    """No exception, but a failed reply."""
    reply = Worker("FAKE", ["/no/such/program"]).run("x:y", None, seconds=5.0)
    assert reply.outcome == "failed"
    assert reply.note == "the process for FAKE did not start: No such file or directory"


@pytest.mark.parametrize("answer", [None, [], {"x": None}, {"status": "optimal", "x": "y", "bound": 1, "note": ""}])
def test_an_answer_that_is_none_is_a_failure(answer: Any) -> None:
    """Keys that are missing or of another type: failed, with what was told before."""
    best = Best()
    best({"event": "improved", "x": [1.0], "bound": 0.5})
    read = read_reply(Reply("done", answer), best, "FAKE")
    assert (read.status, read.bound, read.note) == ("failed", 0.5, "FAKE answered with something that is no solution")


def test_a_failed_solver_leaves_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`solve_milp` in a process that crashes: failed, with the incumbent given."""
    monkeypatch.setattr(worker, "_python", lambda: [sys.executable, "-c", "import os; os.abort()"])
    c, A, lb, ub, whole, bounds = knapsack(5)
    status, x, bound = solve_milp(c, A, lb, ub, whole, bounds, 20.0, np.zeros(5), isolated=True)
    assert (status, bound) == ("failed", -math.inf)
    assert x is not None
    assert x.tolist() == [0.0] * 5


def test_errors_of_a_task_cross_the_pipe() -> None:
    """An exception in the child is a failed reply with its kind; functions outside gpuplan are not run."""
    with Worker("test") as process:
        reply = process.run("gpuplan.units:parse_bytes", "a", seconds=None)
        assert (reply.outcome, reply.kind) == ("failed", "TypeError")
        reply = process.run("os:getcwd", None, seconds=None)
        assert reply.kind == "ValueError"
        assert "os is no part of gpuplan" in reply.note


def test_tasks_tell_their_answers_as_lines() -> None:
    """The child's side alone: an answer, a gpuplan error, another exception."""
    import io
    import pickle

    def lines(task: str, payload: object) -> dict[str, Any]:
        stream = io.BytesIO()
        run_task(pickle.dumps((task, payload)), Channel(stream))
        found: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
        return found

    model = linear_model(*knapsack(4))
    payload = {"engine": "highs", "model": model, "until": None, "start": None, "threads": None, "seed": 0}
    done = lines("gpuplan.solvers.external.isolated:work", payload)
    assert done["event"] == "done"
    assert done["answer"]["status"] == "optimal"
    assert lines("gpuplan.solvers.external.isolated:work", payload | {"engine": "nonsense"})["event"] == "error"
    assert lines("gpuplan.solvers.external.isolated:nothing", payload)["kind"] == "AttributeError"


def test_children_are_shared_inside_a_block_only() -> None:
    """The same worker twice inside, another one while it is busy, and in another thread; none after the block."""
    with kept_workers():
        with worker_for("a") as first, worker_for("a") as second:
            assert second is not first
        with worker_for("a") as third:
            assert third is first
        others: list[Worker] = []
        thread = threading.Thread(target=lambda: others.append(_borrow("a")))
        thread.start()
        thread.join()
        assert others[0] is not first
    with worker_for("a") as fourth:
        assert fourth is not first


def _borrow(library: str) -> Worker:
    with worker_for(library) as found:
        return found


def test_the_grace_is_within_ten_percent_or_fifty_milliseconds() -> None:
    """0.03 s for short limits, at most 8 %, never more than a second."""
    assert worker.grace_s(0.1) == 0.03
    assert worker.grace_s(5.0) == pytest.approx(0.4)
    assert worker.grace_s(600.0) == 1.0


# ------------------------------------------------------------------------------------------------------------- CBC


def fake_cbc(tmp_path: Path, text: str) -> list[str]:
    """Return the command of a program that stands in for CBC."""
    script = tmp_path / "cbc.py"
    script.write_text(f"import os, sys, time\nsolution = sys.argv[-1]\n{text}\n")
    return [sys.executable, str(script)]


def test_cbc_that_prints_garbage_has_failed(tmp_path: Path) -> None:
    """No solution file, no result: failed, with its last words."""
    model = linear_model(*knapsack(4))
    answer = cbc.solve(model, 10.0, command=fake_cbc(tmp_path, "print('?!')"))
    assert (answer.status, answer.x, answer.bound) == ("failed", None, -math.inf)
    assert answer.note == "CBC ended without an answer (exit code 0): its last words were '?!'"


def test_cbc_that_says_nothing_has_failed(tmp_path: Path) -> None:
    """A silent crash is told as such."""
    answer = cbc.solve(linear_model(*knapsack(4)), 10.0, command=fake_cbc(tmp_path, "os.abort()"))
    assert (answer.status, answer.note) == ("failed", "CBC crashed (signal 6): it printed nothing")


def test_cbc_killed_after_a_bound_has_failed_and_leaves_it(tmp_path: Path) -> None:
    """Killed from outside (by a system out of memory, say) it did not reach its limit; the bound it proved holds."""
    text = "print('Continuous objective value is -50 - 0.00 seconds', flush=True); os.kill(os.getpid(), 9)"
    answer = cbc.solve(linear_model(*knapsack(4)), 10.0, command=fake_cbc(tmp_path, text))
    assert (answer.status, answer.x) == ("failed", None)
    assert -50.01 < answer.bound < -50.0
    assert answer.note.startswith("CBC crashed (signal 9): its last words were 'Continuous objective")


def test_cbc_that_hangs_leaves_its_bound(tmp_path: Path) -> None:
    """Killed at its limit, what its log said of the bound holds, rounding taken off."""
    text = "print('Cbc0010I After 100 nodes, 3 on tree, 1e+50 best solution, best possible -41.5 (2.00 seconds)', "
    command = fake_cbc(tmp_path, text + "flush=True); time.sleep(600)")
    answer = cbc.solve(linear_model(*knapsack(4)), 3.0, command=command)
    assert (answer.status, answer.x) == ("no_solution", None)
    assert answer.bound == pytest.approx(-41.5)
    assert answer.bound < -41.5


def test_cbc_with_a_solution_that_breaks_the_model_is_not_believed(tmp_path: Path) -> None:
    """Its file says all variables are 1, which no row allows."""
    lines = "\\n".join(["Optimal - objective value -99", *(f"{k} X{k:07d} 1 0" for k in range(4))])
    text = f"open(solution, 'w').write('{lines}\\n'); print('Result - Optimal solution found')"
    answer = cbc.solve(linear_model(*knapsack(4)), 10.0, command=fake_cbc(tmp_path, text))
    assert answer.x is None
    assert answer.status == "no_solution"


def test_a_stopped_cbc_is_never_optimal(tmp_path: Path) -> None:
    """The solution file of a timed-out CBC says "Stopped on time"; without the proof in the log it is feasible."""
    lines = "\\n".join(["Stopped on time - objective value 0", *(f"{k} X{k:07d} 0 0" for k in range(4))])
    text = (
        f"open(solution, 'w').write('{lines}\\n');"
        "print('Continuous objective value is -50 - 0.00 seconds\\nResult - Stopped on time limit\\n')"
    )
    answer = cbc.solve(linear_model(*knapsack(4)), 10.0, command=fake_cbc(tmp_path, text))
    assert answer.status == "feasible"
    assert answer.x is not None
    assert answer.x.tolist() == [0.0] * 4
    assert -50.01 < answer.bound < -50.0


def test_logged_bounds_are_rounded_to_the_safe_side() -> None:
    """CBC prints three digits of its final bound and six of the first; what is taken is below both."""
    log = cbc.Log()
    assert log.bound == -math.inf
    log.read("Continuous objective value is 12.3456 - 0.01 seconds\n")
    assert 12.345 < log.bound < 12.3456
    log.read("Lower bound:                    12.346\n")
    assert log.bound == pytest.approx(12.3455)
    log.read("Cbc0010I After 0 nodes, 1 on tree, 1e+50 best solution, best possible -1.7976931e+308 (0.02 seconds)\n")
    assert log.bound == pytest.approx(12.3455)
    for line in (
        "Result - Problem proven infeasible",
        "Result - Linear relaxation infeasible",
        "Problem is infeasible",
    ):
        said = cbc.Log()
        said.read(line)
        assert said.infeasible


def test_infeasible_or_unbounded_is_infeasible_where_costs_have_an_end(tmp_path: Path) -> None:
    """CBC's presolve does not say which; costs that no point can bring below some number leave one."""
    words = fake_cbc(tmp_path, "print('Pre-processing says infeasible or unbounded')")
    ended = linear_model([1.0], [[1.0]], 1.0, 2.0, 1.0, (0.0, 3.0))
    endless = linear_model([-1.0], [[1.0]], 1.0, np.inf, 1.0, (0.0, np.inf))
    assert cbc.solve(ended, 10.0, command=words).status == "infeasible"
    assert cbc.solve(endless, 10.0, command=words).status == "failed"


@pytest.mark.parametrize("engine", ["highs", "cbc"])
def test_bounds_at_a_limit_are_on_the_valid_side(engine: str) -> None:
    """Stopped after 0.7 s, no bound is above the optimum of the same model run to its end."""
    model = linear_model(*knapsack(36, 8, 3))
    best = solve_isolated("highs", model, 60.0)
    assert best.status == "optimal"
    with kept_workers():
        for seconds in (0.05, 0.3, 0.7):
            answer = solve_isolated(engine, model, seconds)  # type: ignore[arg-type]
            assert answer.status in ("optimal", "feasible", "no_solution")
            assert answer.bound <= best.bound + 1e-6
            assert answer.x is None or model.value(answer.x) >= best.bound - 1e-6


@pytest.mark.parametrize("engine", ["highs", "cbc"])
def test_a_cancel_hands_back_the_best_so_far(engine: str) -> None:
    """Cancelled after a second of no limit, from a start: a point at least as good comes back."""
    model = linear_model(*knapsack(300, 40))
    start = np.zeros(300)
    started = time.monotonic()
    answer = solve_isolated(
        engine,  # type: ignore[arg-type]
        model,
        None,
        start=start,
        cancel=lambda: time.monotonic() - started > 2.0,
    )
    assert answer.status in ("feasible", "no_solution")
    assert linear.best_of(model, answer, start).status == "feasible"


# ------------------------------------------------------------------------------------- libraries in one process


@pytest.mark.slow
@pytest.mark.parametrize("first", ["highs", "cp-sat"])
def test_the_order_in_which_libraries_load_does_not_matter(first: str) -> None:
    """SciPy's HiGHS and OR-Tools meet in a process of a user's own making: both answer, whichever came first.

    min −x − 2y with x + y ≤ 3.5 and whole 0 ≤ x, y ≤ 2 is −5 at (1, 2).
    """
    code = """
import subprocess
import sys
import numpy as np
from gpuplan.solvers.external.linear import solve_milp
from gpuplan.solvers.placement.constraint import import_cp_model

def by_highs():
    print(solve_milp([-1, -2], [[1, 1]], -np.inf, 3.5, 1, (0, 2), None)[1].tolist())

def by_cp_sat():
    cp = import_cp_model()
    model, solver = cp.CpModel(), cp.CpSolver()
    x, y = model.new_int_var(0, 2, "x"), model.new_int_var(0, 2, "y")
    model.add(2 * x + 2 * y <= 7)
    model.maximize(x + 2 * y)
    solver.solve(model)
    print([float(solver.value(x)), float(solver.value(y))])

calls = [by_highs, by_cp_sat] if sys.argv[1] == "highs" else [by_cp_sat, by_highs]
for call in calls * 2:
    call()
"""
    done = subprocess.run([sys.executable, "-c", code, first], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1.0, 2.0]"] * 4


def test_the_python_api_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Searches that finish by HiGHS in this process, or in one of its own, leave stdout alone, C code included."""
    from gpuplan import load_model, load_topology
    from gpuplan.profiles import PlacementProblem
    from gpuplan.profiles.problems.deployment import DeploymentProblem
    from gpuplan.solvers import deploy, solve

    c, A, lb, ub, whole, bounds = knapsack(24, 6, 1)
    for isolated in (False, True):
        assert solve_milp(c, A, lb, ub, whole, bounds, 5.0, isolated=isolated)[0] == "optimal"
    model, topology = load_model("llama-3.1-8b"), load_topology("8xl4")
    problem = PlacementProblem(model, topology)
    for solver in ("auto", "labels", "milp-blocks"):
        assert solve(problem, solver=solver, time_limit_s=20.0).plan is not None
    assert deploy(DeploymentProblem(model, topology), time_limit_s=20.0).plan is not None
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
