"""The verifier of flow solutions: accepts what holds, catches every tampering at its place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError
from gpuplan.plans.flow_solution import (
    flow_solution_from_dict,
    flow_solution_to_dict,
    load_flow_solution,
    save_flow_solution,
)
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow import solve_flow


def problem(max_hops: int | None = None) -> FlowProblem:
    """Three nodes of up to 2 layers over 3 layers: T(1) = 30, T(2) = 10; x, y feed z over links of 8 and 7."""
    links = np.array([[0.0, 9.0, 8.0], [0.0, 0.0, 7.0], [0.0, 0.0, 0.0]])
    ends = np.full(3, 50.0)
    return FlowProblem(
        3, ("a",), (np.array([30.0, 10.0]),), ("x", "y", "z"), np.zeros(3, dtype=np.int64), links, ends, ends, max_hops
    )


#: x and y hold layers 0-1, z layer 2: 8 + 7 tokens/s.
SOLUTION: dict[str, Any] = {
    "schema": "gpuplan/flow-solution/1",
    "status": "feasible",
    "objective": 15.0,
    "terms": {"nodes": 3, "hops": 1, "layers_on_one_node": 1},
    "bound": 30.0,
    "gap": 1.0,
    "solver": "hand",
    "seed": 0,
    "placement": {"x": {"start": 0, "stop": 2}, "y": {"start": 0, "stop": 2}, "z": {"start": 2, "stop": 3}},
    "flows": [
        {"from": "source", "to": "x", "tokens_per_s": 8.0},
        {"from": "source", "to": "y", "tokens_per_s": 7.0},
        {"from": "x", "to": "z", "tokens_per_s": 8.0},
        {"from": "y", "to": "z", "tokens_per_s": 7.0},
        {"from": "z", "to": "sink", "tokens_per_s": 15.0},
    ],
}


def changed(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a tampering that sets the value at a path."""

    def apply(document: dict[str, Any]) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return apply


def less_flow(document: dict[str, Any]) -> None:
    """Claim a consistent but smaller flow than the placement allows."""
    for index, value in ((0, 6.0), (2, 6.0), (4, 13.0)):
        document["flows"][index]["tokens_per_s"] = value
    document["objective"] = 13.0
    document["gap"] = 17.0 / 13.0


TAMPERINGS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("a range too long", changed("placement", "z", value={"start": 0, "stop": 3}), "$.placement.z"),
    ("a range past the end", changed("placement", "z", value={"start": 2, "stop": 4}), "$.placement.z"),
    ("a range turned round", changed("placement", "z", value={"start": 2, "stop": 2}), "$.placement.z"),
    ("an unknown node", changed("placement", "w", value={"start": 0, "stop": 1}), "$.placement.w"),
    ("a missing node", lambda d: d["placement"].pop("y"), "$.flows[1]"),
    ("a flow to a wrong start", changed("placement", "y", value={"start": 1, "stop": 2}), "$.flows[1]"),
    ("a flow out of a wrong stop", changed("placement", "z", value={"start": 1, "stop": 2}), "$.flows[2]"),
    ("a flow over no link", changed("flows", 3, "from", value="z"), "$.flows[3]"),
    ("a flow twice", lambda d: d["flows"].append(dict(d["flows"][0])), "$.flows[5]"),
    ("a flow too wide", changed("flows", 2, "tokens_per_s", value=8.5), "$.flows[2].tokens_per_s"),
    ("tokens that vanish", changed("flows", 4, "tokens_per_s", value=14.0), "$.flows"),
    ("tokens from nowhere", changed("flows", 0, "tokens_per_s", value=7.0), "$.flows"),
    ("a larger objective", changed("objective", value=16.0), "$.objective"),
    ("a smaller objective", changed("objective", value=14.0), "$.objective"),
    ("less flow than possible", less_flow, "$.objective"),
    ("a bound below", changed("bound", value=14.0), "$.bound"),
    ("a wrong gap", changed("gap", value=0.5), "$.gap"),
    ("no gap", changed("gap", value=None), "$.gap"),
    ("optimal without proof", changed("status", value="optimal"), "$.bound"),
    ("wrong hops", changed("terms", "hops", value=2), "$.terms.hops"),
    ("wrong single layers", changed("terms", "layers_on_one_node", value=2), "$.terms.layers_on_one_node"),
    ("wrong nodes", changed("terms", "nodes", value=2), "$.terms.nodes"),
    ("an unknown term", changed("terms", "speed", value=2), "$.terms.speed"),
    ("no placement", lambda d: d.pop("placement"), "$.placement"),
    ("no flows", lambda d: d.pop("flows"), "$.flows"),
    ("no plan", changed("status", value="no_solution"), "$.status"),
]


def test_accepts_what_holds() -> None:
    """The hand-made solution holds; so does the same placement with no bound at all."""
    assert verify_flow_solution(SOLUTION, problem()).ok, str(verify_flow_solution(SOLUTION, problem()))
    assert verify_flow_solution({**SOLUTION, "bound": None, "gap": None}, problem()).ok


@pytest.mark.parametrize(("name", "tamper", "place"), TAMPERINGS, ids=[name for name, _, _ in TAMPERINGS])
def test_catches_every_tampering(name: str, tamper: Callable[[dict[str, Any]], Any], place: str) -> None:
    """One tampering a case, found at its place."""
    document = copy.deepcopy(SOLUTION)
    tamper(document)
    verdict = verify_flow_solution(document, problem())
    assert place in [finding.place for finding in verdict.problems], str(verdict)


def test_holds_chains_to_the_limit_on_hops() -> None:
    """One hop is in use: a limit of 1 holds, a limit of 0 does not."""
    assert verify_flow_solution(SOLUTION, problem(1)).ok
    verdict = verify_flow_solution(SOLUTION, problem(0))
    assert any("1 hops" in finding.message for finding in verdict.problems)


def test_refuses_what_does_not_follow_the_schema() -> None:
    """A wrong type or an unknown key is an InputError with its place."""
    for path, value in ((("flows", 0, "tokens_per_s"), "8"), (("extra",), 1), (("placement", "x", "start"), 0.5)):
        document = copy.deepcopy(SOLUTION)
        changed(*path, value=value)(document)
        with pytest.raises(InputError):
            verify_flow_solution(document, problem())


def test_files_round_trip(tmp_path: Path) -> None:
    """A solved plan written to a file verifies from the file and reads back as the same plan."""
    result = solve_flow(problem())
    path = tmp_path / "solution.json"
    save_flow_solution(result, problem(), path)
    assert verify_flow_solution(path, problem()).ok
    read = load_flow_solution(path, problem())
    assert read.plan == result.plan
    assert read.status == result.status
    assert read.objective == result.objective
    strange = copy.deepcopy(SOLUTION)
    changed("placement", "w", value={"start": 0, "stop": 1})(strange)
    with pytest.raises(InputError, match="nodes of the problem"):
        flow_solution_from_dict(strange, problem())
    assert flow_solution_to_dict(result, problem())["schema"] == "gpuplan/flow-solution/1"
