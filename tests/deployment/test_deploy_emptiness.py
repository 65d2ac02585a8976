"""Questions no replica answers, told by boxes: against every replica there is, and on clusters of hosts."""

from __future__ import annotations

import numpy as np
import pytest

from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.solvers.deployment.bounds import counts_of_kinds
from gpuplan.solvers.deployment.boxes import Maker
from gpuplan.solvers.deployment.emptiness import no_replica, reached_by_any
from gpuplan.solvers.deployment.solve import _Search
from gpuplan.solvers.deployment.switching import Switch
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.topology import load_topology

RACKS = """schema: gpuplan/topology/1
name: racks
hosts:
  - {name: a-, count: 4, devices: [{kind: h100-sxm5-80gb, count: 8}], nvswitch: 18, nics: per_device}
  - {name: b-, count: 4, devices: [{kind: a100-sxm4-80gb, count: 8}], nvswitch: 12, nics: per_device}
  - {name: c-, count: 4, devices: [{kind: l40s-48gb, count: 8}], default_link: SYS, nics: 1}
  - {name: d-, count: 4, devices: [{kind: l4-24gb, count: 8}], default_link: SYS, nics: 1}
fabric: infiniband-ndr
"""


def asked(rng):
    """Return a TTFT, a time between tokens or both, from easy to out of reach."""
    both = {"ttft_slo_s": float(rng.uniform(1.0, 7.0)), "tpot_slo_s": float(rng.uniform(0.5, 5.0))}
    return [both, {"ttft_slo_s": both["ttft_slo_s"]}, {"tpot_slo_s": both["tpot_slo_s"]}][int(rng.integers(3))]


@pytest.mark.parametrize("objective", ["requests", "throughput"])
def test_no_replica_is_ruled_out_that_there_is(objective, random_case, ideal_costs, oracle):
    """Boxes are empty only where enumeration finds no replica; most often they are empty then."""
    told = empty = held = 0
    for seed in range(60):
        model, topology = random_case(seed)
        problem = DeploymentProblem(
            model,
            topology,
            ideal_costs,
            Workload(2, 3, 4),
            tensor_parallel=((1,), (1, 2))[seed % 2],
            reserve_bytes=0.0,
            objective=objective,
            **asked(np.random.default_rng(seed)),
        )
        search = _Search(problem, Budget(Limits()), 0, None, Switch())
        counts = counts_of_kinds(search.fleet)
        ruled_out = no_replica(Maker(search.ceilings, counts), search.budget)
        there_is = bool(oracle.Oracle(problem, [2], list(problem.tensor_parallel)).best)
        assert not (ruled_out and there_is), seed
        told, empty, held = told + ruled_out, empty + (not there_is), held + there_is
        if there_is:
            assert reached_by_any(search.ceilings, counts).ttft_s <= (problem.ttft_slo_s or np.inf)
            assert reached_by_any(search.ceilings, counts).token_s <= (problem.tpot_slo_s or np.inf)
    assert held >= 15
    assert told >= 0.8 * empty >= 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ttft_slo_s": 1e-4}, "no replica has its first token within 100.0 µs: the least TTFT any could have is"),
        ({"tpot_slo_s": 1e-5}, "no replica keeps 10.0 µs between tokens: the least any could have is"),
        ({"ttft_slo_s": 1e-4, "objective": "devices", "demand_rps": 1.0}, "no replica has its first token within"),
        ({"objective": "devices", "demand_rps": 1e6}, "the demand is 1e+06 requests/s, but no deployment serves more"),
        ({"max_devices": 1, "tensor_parallel": (1,)}, "needs"),
    ],
)
def test_reasons_on_many_devices(changes, reason, tmp_path):
    """128 devices of four kinds, 70B: what is out of reach is proven so, with the reason, and not given up on."""
    file = tmp_path / "racks.yaml"
    file.write_text(RACKS, "utf-8")
    settings = {"workload": Workload(1, 1024, 128), "batch_auto": True, **changes}
    result = deploy(DeploymentProblem(load_model("llama-3.1-70b"), load_topology(file), **settings), time_limit_s=30)
    assert result.status == "infeasible"
    assert reason in result.reasons[0]
