"""All flow solvers side by side, their registry, and the published model as a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.solvers.flow import FLOW_SOLVERS, list_flow_solvers
from gpuplan.solvers.flow.compare import compare_flow
from gpuplan.solvers.flow.milp import write_model
from gpuplan.solvers.limits import Limits


def test_registry_lists_what_solves() -> None:
    """Every flow solver has an entry with kind and words; auto is first."""
    entries = list_flow_solvers()
    assert [entry.name for entry in entries] == list(FLOW_SOLVERS)
    assert entries[0].name == "auto"
    assert {entry.kind for entry in entries} == {"bounded", "baseline"}
    assert all(entry.available() for entry in entries)


def test_rows_are_verified_and_none_beats_the_search(flows: ModuleType) -> None:
    """Each row with a plan is accepted by the verifier; the search, which proves its optimum, is not beaten."""
    problem = flows.random_problem(np.random.default_rng(6), nodes=4, layers=4, kinds=2)
    seen = []
    rows = compare_flow(problem, Limits(time_limit_s=20), 0, on_row=seen.append)
    assert [row.name for row in rows] == list(FLOW_SOLVERS)
    assert seen == rows
    assert rows[0].status == "optimal"
    assert rows[0].objective == pytest.approx(flows.optimum(problem))
    for row in rows:
        assert row.verified is (None if row.result.plan is None else True)
        assert row.objective is None or row.objective <= rows[0].objective * (1 + 1e-6)
        assert row.objective is not None or row.note


def test_refusals_are_rows(flows: ModuleType) -> None:
    """A solver that cannot keep to a limit is refused in its row; an unknown name is an error before anything runs."""
    problem = dataclasses.replace(flows.random_problem(np.random.default_rng(6), layers=4), max_hops=3)
    rows = compare_flow(problem, Limits(time_limit_s=5), solvers=["auto", "flow-milp"])
    assert [row.status == "refused" for row in rows] == [False, True]
    assert "hops" in rows[1].note
    with pytest.raises(UsageError, match="expected flow solvers"):
        compare_flow(problem, solvers=["auto", "best"])


def test_cancel_leaves_out_the_rest(flows: ModuleType) -> None:
    """After a cancellation the rows finished so far are returned."""
    problem = flows.random_problem(np.random.default_rng(6))
    assert len(compare_flow(problem, Limits(cancel=lambda: True))) == 1


def test_published_model_is_written(flows: ModuleType, tmp_path: Path) -> None:
    """The model is written as .lp or .mps; other suffixes and limits on hops are refused."""
    problem = flows.random_problem(np.random.default_rng(6))
    for name in ("model.lp", "model.mps"):
        write_model(problem, tmp_path / name)
        assert "held_0_1" in (tmp_path / name).read_text()
    with pytest.raises(UsageError, match=r"\.lp or \.mps"):
        write_model(problem, tmp_path / "model.txt")
    with pytest.raises(UnsupportedError, match="hops"):
        write_model(dataclasses.replace(problem, max_hops=2), tmp_path / "model.lp")
