"""Small batching instances, solved by hand, and the command line in an empty folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpuplan.cli.main import cli
from gpuplan.profiles.problems.batching import BatchingProblem, BatchObjective, BatchTime, Executor, Requests

#: P = 1 + 0.1·b·S + (O−1)·(0.5 + 0.01·b) + 0.001·b·((O−1)·S + O(O−1)/2), s.
TIME = BatchTime(1.0, 0.1, 0.5, 0.01, 0.001)
#: P = O seconds, whatever the size: one second a step and one for the prefill.
UNIT = BatchTime(prefill_fixed_s=1.0, step_fixed_s=1.0)


@pytest.fixture
def three_requests() -> BatchingProblem:
    """Three requests on one executor of 1000 tokens and batches of two."""
    return BatchingProblem(Requests.of([10, 20, 30], [5, 6, 7]), (Executor("e0", 1000, 2),), TIME)


@pytest.fixture
def executors_document() -> dict[str, Any]:
    """Return an executors file: two executors, the second half as fast."""
    return {
        "schema": "gpuplan/batching-problem/1",
        "executors": [
            {"name": "e0", "kv_capacity_tokens": 4000, "max_batch": 4},
            {"name": "e1", "kv_capacity_tokens": 2000, "max_batch": 2, "speed": 0.5},
        ],
        "time": {
            "prefill_fixed_s": 0.02,
            "prefill_s_per_token": 2e-5,
            "step_fixed_s": 0.01,
            "step_s_per_sequence": 2e-4,
            "step_s_per_context_token": 1e-7,
        },
        "objective": {"latency": 1.0, "makespan": 0.5, "padding": 0.001, "violation": 2.0},
    }


@pytest.fixture
def problem_document(executors_document: dict[str, Any]) -> dict[str, Any]:
    """Return a whole problem: five requests with arrivals, deadlines and weights."""
    return executors_document | {
        "requests": {
            "id": ["a", "b", "c", "d", 5],
            "prompt_tokens": [100, 200, 300, 400, 500],
            "output_tokens": [50, 40, 30, 20, 10],
            "arrival_s": [0.0, 0.1, 0.2, 0.3, 0.4],
            "deadline_s": [5.0, None, 0.2, 9.0, None],
            "weight": [1.0, 2.0, 1.0, 0.5, 1.0],
        }
    }


def random_problem(seed: int, *, size: int = 40, executors: int = 2, hard: bool = False) -> BatchingProblem:
    """Return a problem with arrivals, some deadlines, weights, and executors of unlike size and speed."""
    r = np.random.default_rng(seed)
    prompt, output = r.integers(1, 400, size), r.integers(1, 200, size)
    arrival = np.round(r.exponential(0.2, size).cumsum(), 3)
    deadline = np.where(r.random(size) < 0.5, np.inf, arrival + r.uniform(0.5, 30.0, size))
    machines = tuple(
        Executor(f"e{e}", float(r.integers(600, 3000)), int(r.integers(1, 9)), float(r.uniform(0.5, 2.0)))
        for e in range(executors)
    )
    return BatchingProblem(
        Requests.of(prompt, output, arrival_s=arrival, deadline_s=deadline, weight=r.uniform(0.0, 3.0, size)),
        machines,
        BatchTime(0.02, 2e-5, 0.01, 2e-4, 1e-6),
        BatchObjective(1.0, 0.5, 0.01, 3.0, "hard" if hard else "soft"),
    )


@pytest.fixture
def make_problem() -> Callable[..., BatchingProblem]:
    """Return the generator of random problems."""
    return random_problem


@pytest.fixture
def unit_problem() -> Callable[..., BatchingProblem]:
    """Problems where a batch takes as many seconds as its longest output has tokens."""

    def make(outputs: list[int], *, max_batch: int = 2, kv: float = 1e6, executors: int = 1, **columns: Any) -> Any:
        prompt = columns.pop("prompt_tokens", [1] * len(outputs))
        machines = tuple(Executor(f"e{e}", kv, max_batch) for e in range(executors))
        return BatchingProblem(Requests.of(prompt, outputs, **columns), machines, UNIT)

    return make


@pytest.fixture
def gpuplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command object in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*args: str | Path) -> Result:
        outcome = CliRunner().invoke(cli, [str(arg) for arg in args])
        if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception
        return outcome

    return invoke


@pytest.fixture(scope="session")
def batching_oracle() -> ModuleType:
    """Give the brute force over every batching plan, and its generator of small instances."""
    name = "brute_force_batching"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
