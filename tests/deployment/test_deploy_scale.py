"""Clusters of thousands of devices: planned by islands, verified, without a table of pairs."""

from __future__ import annotations

import pytest

from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.topology import load_topology

ALIKE = """schema: gpuplan/topology/1
name: alike
hosts: {hosts}
devices: [{{kind: h100-sxm5-80gb, count: 8}}]
nvswitch: 18
nics: per_device
fabric: infiniband-ndr
"""
HOST = "  - {{name: {name}-, count: {hosts}, devices: [{{kind: {kind}, count: 8}}], {link}, nics: 1}}\n"
KINDS = (
    ("h100-sxm5-80gb", "nvswitch: 18"),
    ("a100-sxm4-80gb", "nvswitch: 12"),
    ("l40s-48gb", "default_link: SYS"),
    ("l4-24gb", "default_link: SYS"),
)


def problem(path, **changes):
    """Return 70B over the cluster in a file, 1024 → 128 tokens."""
    settings = {"workload": Workload(1, 1024, 128), "batch_auto": True, **changes}
    return DeploymentProblem(load_model("llama-3.1-70b"), load_topology(path), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ttft_slo_s": 3.0}, {"objective": "devices", "demand_rps": 4000.0}])
def test_thousands_of_devices(changes, tmp_path, monkeypatch):
    """4,096 alike devices: proven within 0.1 % of the best, verified, and no table of pairs is made."""
    from gpuplan.topology.routes import Router

    def refuse(*_):
        raise AssertionError("a table of pairs")

    monkeypatch.setattr(Router, "table", refuse)
    file = tmp_path / "alike.yaml"
    file.write_text(ALIKE.format(hosts=512), "utf-8")
    result = deploy(problem(file, **changes), time_limit_s=None)
    assert result.gap is not None
    assert result.gap <= 1e-3
    assert str(verify_deployment(result.require_plan())) == "every number and constraint holds"


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "changes", "gap"), [(16, {}, 0.03), (1, {"ttft_slo_s": 3.0}, 0.005)])
def test_mixed_racks(hosts, changes, gap, tmp_path):
    """Four kinds, alike within a host, 512 devices and 32 under a TTFT that few chains keep to: close to the best."""
    rows = [HOST.format(name=f"p{i}", hosts=hosts, kind=kind, link=link) for i, (kind, link) in enumerate(KINDS)]
    file = tmp_path / "mixed.yaml"
    file.write_text(
        f"schema: gpuplan/topology/1\nname: mixed\nhosts:\n{''.join(rows)}fabric: infiniband-ndr\n", "utf-8"
    )
    result = deploy(problem(file, **changes), time_limit_s=None)
    assert result.gap is not None
    assert result.gap < gap
    assert str(verify_deployment(result.require_plan())) == "every number and constraint holds"


def test_more_devices_than_tables_of_pairs_hold(tmp_path):
    """2,056 devices are planned; a limit on memory below what that takes is refused in a sentence."""
    from gpuplan.errors import UnsupportedError

    file = tmp_path / "alike.yaml"
    file.write_text(ALIKE.format(hosts=257), "utf-8")
    asked = problem(file, tensor_parallel=(4,), batch_auto=False)
    assert deploy(asked, work_limit=12).require_plan().metrics.devices_used > 0
    with pytest.raises(UnsupportedError, match="memory"):
        deploy(asked, memory_limit_bytes=1 << 20)


@pytest.mark.parametrize("changes", [{"tensor_parallel": (2,)}, {"tensor_parallel": (4,)}])
def test_replicas_alike_are_figured_once(changes, tmp_path, monkeypatch):
    """Figures of replicas alike, found once and carried over, are those that each of them has by itself."""
    from gpuplan.plans.stage_times import Ways

    rows = [HOST.format(name=f"p{i}", hosts=2, kind=kind, link=link) for i, (kind, link) in enumerate(KINDS[1:3])]
    file = tmp_path / "mixed.yaml"
    file.write_text(f"schema: gpuplan/topology/1\nname: m\nhosts:\n{''.join(rows)}fabric: infiniband-ndr\n", "utf-8")
    asked = problem(file, batch_auto=False, workload=Workload(16, 1024, 128), **changes)
    shared = deploy(asked, work_limit=40, time_limit_s=None)
    monkeypatch.setattr(Ways, "likeness", lambda *_: object())
    alone = deploy(asked, work_limit=40, time_limit_s=None)
    assert len(shared.require_plan().replicas) > 4
    assert shared.require_plan() == alone.require_plan()
