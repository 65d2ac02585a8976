"""Ctrl-C: the incumbent comes back with exit 0, 130 when there is none, and a second one kills."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from gpuplan.cli.errors import InterruptedSearchError
from gpuplan.cli.interrupt import Interrupt
from gpuplan.cli.options import SearchOptions
from gpuplan.cli.solving import Search
from gpuplan.solvers.result import Report, Result


def _hard_problem() -> tuple[dict[str, object], dict[str, object]]:
    """Return a problem that takes minutes, and a plan of it: 160 layers over 60 unlike, nearly full devices.

    Layers are cut into 60 pieces at random, and each device gets a little more memory than one piece takes.
    """
    draw = random.Random(2)
    sizes = [draw.uniform(0.5, 1.5) * 1e9 for _ in range(160)]
    cuts = [0, *sorted(draw.sample(range(1, 160), 59)), 160]
    pieces = list(itertools.pairwise(cuts))
    speeds = [draw.uniform(0.3, 3.0) for _ in pieces]
    problem = {
        "schema": "gpuplan/placement-problem/1",
        "devices": [
            {"name": f"g{k}", "available_bytes": sum(sizes[start:stop]) * draw.uniform(1.02, 1.3)}
            for k, (start, stop) in enumerate(pieces)
        ],
        "layers": [{"name": f"l{k}", "memory_bytes": size, "boundary_bytes": 16384} for k, size in enumerate(sizes)],
        "compute_s": [[draw.uniform(0.5, 1.5) * 1e-3 / speed for _ in sizes] for speed in speeds],
        "hop_latency_s": [[draw.uniform(1e-5, 1e-3) if a != b else 0 for b in range(60)] for a in range(60)],
        "hop_s_per_byte": [[1e-10 if a != b else 0 for b in range(60)] for a in range(60)],
        "return_hop": True,
        "objective": {"name": "latency"},
    }
    plan = {
        "schema": "gpuplan/placement-solution/1",
        "status": "feasible",
        "objective": 1.0,  # not read: a start is priced anew
        "terms": {},
        "bound": None,
        "gap": None,
        "solver": "by hand",
        "seed": 0,
        "stages": [{"device": f"g{k}", "start": start, "stop": stop} for k, (start, stop) in enumerate(pieces)],
    }
    return problem, plan


@pytest.fixture
def searching(tmp_path, write):
    """Start the installed program on a hard problem, and return once it is searching."""
    problem, plan = _hard_problem()
    write("problem.json", problem)
    # The search starts from a plan, so that there is an incumbent from its first moment.
    write("start.json", plan)
    words = ["--time-limit", "100", "--warm-start", "start.json", "--write-model", "seen.json", "-o", "end.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuplan", "solve", "problem.json", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "seen.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # from the written problem to the installed handler
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_ctrl_c_keeps_the_incumbent(searching, run, tmp_path):
    """After Ctrl-C the best plan so far is written and verified, the exit code is 0, and the output says so."""
    searching.send_signal(signal.SIGINT)
    stdout, stderr = searching.communicate(timeout=90)
    assert searching.returncode == 0, stderr
    assert "stopped by Ctrl-C" in stdout
    assert "stopping with the best plan so far" in stderr
    assert json.loads((tmp_path / "end.json").read_text("utf-8"))["status"] == "feasible"
    assert run("verify", "end.json", "--problem", "problem.json").exit_code == 0


def test_ctrl_c_without_a_plan_is_130():
    """An interrupted search that has nothing yet is an error of its own."""
    result = Result("no_solution", None, None, None, None, Report("labels"))
    with pytest.raises(InterruptedSearchError):
        Search(result, interrupted=True, options=SearchOptions()).exit_code()


def test_first_signal_sets_the_flag_and_second_kills(capsys):
    """The first SIGINT raises nothing and sets the flag; from then on the system's own handler is in place."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt()
        signal.raise_signal(signal.SIGINT)
        assert interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again to kill" in capsys.readouterr().err


def test_outside_the_main_thread_it_is_a_plain_flag():
    """Python allows signal handlers in the main thread only; elsewhere the block works without one."""
    seen: list[bool] = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Report("labels", wall_time_s=9.99), "the time limit of 10 s"),
        (Report("labels", wall_time_s=1.0, work=500), "the work limit of 500"),
        (Report("even", wall_time_s=0.1), ""),
    ],
)
def test_why_a_search_stopped(report, words):
    """A plan without proof says whether time or work ran out; a rule of thumb stops by itself."""
    result = Result("feasible", object(), 1.0, 0.9, 0.1, report)
    options = SearchOptions(time_limit=10.0, work_limit=500)
    assert Search(result, interrupted=False, options=options).stopped == words


def test_limit_without_a_plan_is_five(capsys):
    """A limit that ends the search before any plan is exit 5 and names the limit."""
    result = Result("no_solution", None, None, None, None, Report("labels", wall_time_s=10.0))
    assert Search(result, interrupted=False, options=SearchOptions(time_limit=10.0)).exit_code() == 5
    assert "the time limit of 10 s" in capsys.readouterr().err
