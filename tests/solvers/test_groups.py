"""Groups of devices as stages: what they are, how they are packed, and how the search degenerates to today's."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from gpuplan import PlacementProblem, load_model, load_topology, solve
from gpuplan.errors import InputError, UnsupportedError, UsageError
from gpuplan.plans import verify
from gpuplan.profiles import AnalyticCosts
from gpuplan.profiles.problems.groups import compositions, count_compositions, count_modes
from gpuplan.profiles.problems.segments import find_segments
from gpuplan.solvers.placement.groups.packing import Run, pack_runs
from gpuplan.solvers.placement.modes import Modes
from gpuplan.topology.graph import Link

OBJECTIVES = ("latency", "throughput", "efficiency", "balanced", "kv-capacity")


def asked(model: str, cluster: str, **options: object) -> PlacementProblem:
    """Return a problem on shipped inputs."""
    return PlacementProblem(load_model(model), load_topology(cluster), **options)  # type: ignore[arg-type]


def test_segments_of_alike_and_unlike_islands() -> None:
    """Eight GPUs behind NVSwitches are one segment; on the hybrid mesh of a DGX-1 each is its own."""
    alike = find_segments(asked("llama-3.1-8b", "dgx-h100"))
    assert [len(group) for group in alike.devices] == [8]
    mesh = find_segments(asked("llama-3.1-8b", "dgx-1-v100"))
    assert [len(group) for group in mesh.devices] == [1] * 8
    assert count_modes(alike, (1, 2, 4, 8)) == 4
    assert count_modes(mesh, (1, 2, 4, 8)) == 8 + 28 + 70 + 1


def test_hosts_that_trade_places() -> None:
    """Two hosts alike have one leader."""
    assert find_segments(asked("llama-3.1-8b", "2x-dgx-h100")).leaders.tolist() == [0, 0]


def test_compositions_are_counted_as_they_are_made() -> None:
    """Random kinds: as many as `count_compositions` says, each once and of the right total."""
    draw = random.Random(7)
    for _ in range(50):
        counts = [draw.randint(0, 4) for _ in range(draw.randint(1, 4))]
        total = draw.randint(0, 6)
        made = list(compositions(counts, total))
        assert len(made) == len(set(made)) == count_compositions(counts, total)
        assert all(sum(taken) == total for taken in made)


def test_runs_are_packed_apart() -> None:
    """Neighbours never share an island; the ends of a ring do; what does not fit is not packed."""
    islands, sizes = ((0, 1),), (4,)
    assert pack_runs([Run(0, 4), Run(0, 4)], islands, sizes, apart=True) in ([0, 1], [1, 0])
    assert pack_runs([Run(0, 2), Run(0, 2), Run(0, 2)], islands, sizes, apart=True) is None  # ends must differ, too
    ends = pack_runs([Run(0, 2), Run(0, 2), Run(0, 2)], islands, sizes, apart=False)
    assert ends is not None
    assert ends[0] == ends[2] != ends[1]
    ring = pack_runs([Run(0, 2, ring=True), Run(0, 3), Run(0, 2, ring=True)], islands, sizes, apart=True)
    assert ring is not None
    assert ring[0] == ring[2] != ring[1]
    assert pack_runs([Run(0, 3, ring=True), Run(0, 3), Run(0, 2, ring=True)], islands, sizes, apart=True) is None


def test_weights_of_resources_follow_from_those_of_classes() -> None:
    """Groups of 1, 2 and 4 of one segment at 3 a device: the segment's price is 3; unrelated weights are refused."""
    modes = Modes(np.array([[1, 2, 4]]), np.array([8]), np.zeros(3, dtype=np.int64), np.full(3, -1))
    assert modes.per_resource(np.array([3.0, 6.0, 12.0])) == pytest.approx([3.0])
    assert modes.counts(5).tolist() == [5, 4, 2]
    with pytest.raises(ValueError, match="do not follow"):
        modes.per_resource(np.array([3.0, 6.0, 13.0]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_degree_one_is_the_plain_problem(objective: str) -> None:
    """Asking for degree 1 alone gives today's plan and value to the bit."""
    plain = solve(asked("llama-3.1-8b", "dgx-a100", objective=objective))
    one = solve(asked("llama-3.1-8b", "dgx-a100", objective=objective, tensor_parallel=(1,)))
    assert one.objective == plain.objective
    assert one.require_plan().stages == plain.require_plan().stages


@pytest.mark.parametrize("objective", ["latency", "throughput", "efficiency", "kv-capacity"])
def test_more_choice_is_never_worse(objective: str) -> None:
    """More sizes, and uneven ones on top, never raise the optimum."""
    values = []
    for degrees, uneven in (((1,), False), ((1, 2), False), ((1, 2, 4), False), ((1, 2, 4), True)):
        result = solve(
            asked(
                "llama-3.1-70b", "dgx-h100", objective=objective, tensor_parallel=degrees, uneven_tensor_parallel=uneven
            )
        )
        assert result.status == "optimal"
        assert verify(result.require_plan()).ok
        values.append(result.objective)
    pairs = [value if isinstance(value, tuple) else (value, 0.0) for value in values]
    assert pairs == sorted(pairs, reverse=True)


@pytest.mark.parametrize("solver", ["even", "beam", "labels", "dp"])
def test_other_solvers_take_one_size_at_a_time(solver: str) -> None:
    """Rules and engines by name give plans that verify and are no better than the proven optimum."""
    problem = asked("llama-3.1-70b", "2x-dgx-a100", tensor_parallel=(4, 8))
    best, other = solve(problem), solve(problem, solver=solver)
    assert verify(other.require_plan()).ok
    assert isinstance(best.objective, float)
    assert isinstance(other.objective, float)
    assert other.objective >= best.objective * (1.0 - 1e-9)


def test_what_other_solvers_refuse() -> None:
    """Uneven sizes, and islands whose devices differ, are refused with the mend by what needs devices apart."""
    uneven = asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(1, 2), uneven_tensor_parallel=True)
    with pytest.raises(UnsupportedError, match="use auto"):
        solve(uneven, solver="dp-naive")
    with pytest.raises(UnsupportedError, match="use auto"):
        solve(asked("llama-3.1-8b", "dgx-1-v100", tensor_parallel=(2,)), solver="dp-naive")


@pytest.mark.parametrize("solver", ["even", "bgs", "published"])
def test_rules_choose_groups_of_neighbours(solver: str) -> None:
    """Where sizes or devices may differ a rule still has a plan, without a bound, and no better than the optimum."""
    for problem in (
        asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(1, 2), uneven_tensor_parallel=True),
        asked("llama-3.1-8b", "dgx-1-v100", tensor_parallel=(2,)),
    ):
        best, other = solve(problem), solve(problem, solver=solver)
        assert (other.status, other.bound, other.gap) == ("feasible", None, None)
        assert verify(other.require_plan()).ok
        assert other.objective >= best.objective * (1.0 - 1e-9)


def test_infeasible_with_reasons() -> None:
    """No island of sixteen; a model too large for the one group of eight: both say so."""
    none = solve(asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(16,)))
    assert none.status == "infeasible"
    assert "no island has 16 devices" in none.reasons[0]
    large = solve(asked("llama-3.1-405b", "dgx-a100", tensor_parallel=(8,)))
    assert large.status == "infeasible"
    assert "with 8 devices a stage" in large.reasons[0]


def test_devices_are_counted_not_stages() -> None:
    """At most three devices: one group of two, or single ones; four a stage alone have no plan."""
    result = solve(asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(1, 2, 4), max_devices=3))
    assert result.require_plan().metrics.devices_used == 2
    assert solve(asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(4,), max_devices=3)).status == "infeasible"


def test_degrees_are_checked() -> None:
    """Degrees the model or the runtime does not allow are refused; a list is kept sorted, each once."""
    assert asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(4, 1, 4)).tensor_parallel == (1, 4)
    for wrong in ((), (0,), (3,), "all"):
        with pytest.raises(UsageError):
            asked("llama-3.1-8b", "dgx-a100", tensor_parallel=wrong)
    with pytest.raises(UsageError, match="sglang"):
        asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(1, 2), uneven_tensor_parallel=True, runtime="sglang")


class _WithoutDegree(AnalyticCosts):
    """Analytic times that know nothing of one degree, as a measured table without its rows."""

    missing = 4

    def layer_times(self, model, device, workload, *, tensor_parallel=1):  # type: ignore[no-untyped-def]
        if tensor_parallel == self.missing:
            raise InputError(f"expected times at degree {self.missing}, got none")
        return super().layer_times(model, device, workload, tensor_parallel=tensor_parallel)


def test_auto_leaves_out_degrees_without_times() -> None:
    """With ``auto`` a degree without measured times is left out and named; asked for, it is an error."""
    result = solve(asked("llama-3.1-8b", "dgx-a100", tensor_parallel="auto", costs=_WithoutDegree()))
    assert result.plan is not None
    assert result.report.notes[0].startswith("4 devices a stage are left out")
    assert verify(result.plan).ok
    with pytest.raises(InputError, match="degree 4"):
        solve(asked("llama-3.1-8b", "dgx-a100", tensor_parallel=(4,), costs=_WithoutDegree()))


@pytest.mark.parametrize("objective", ["latency", "throughput", "efficiency", "balanced", "kv-capacity"])
def test_small_messages_take_their_own_slowest_pair(objective: str) -> None:
    """Objective, figures and verifier agree where the slowest pair of ranks depends on the cut's message.

    One pair: 1 us and 1e6 bytes/s, the other 2 ms and 1e11 bytes/s. At the embedding's 16,384 bytes the first is the
    slower (16 ms), at a cut of 164 bytes the second (0.16 ms against 2 ms).
    """
    big, model = load_topology("2x-dgx-a100"), load_model("llama-3.1-70b")
    names = ("host0/gpu0", "host0/gpu1", "host1/gpu0", "host1/gpu1")
    links = (
        Link(names[0], names[1], "nvlink", 3e11, 1e-6),
        Link(names[2], names[3], "nvlink", 3e11, 1e-6),
        Link(names[0], names[2], "ethernet", 1e6, 1e-6),
        Link(names[1], names[3], "ethernet", 1e11, 2e-3),
    )
    topology = dataclasses.replace(
        big,
        devices=tuple(
            dataclasses.replace(device, available_bytes=int(0.9 * device.available_bytes))
            for device in big.devices
            if device.name in names
        ),
        components=tuple(component for component in big.components if component.name in names),
        links=links,
    )
    layers = [
        dataclasses.replace(layer, boundary_bytes_per_token=layer.boundary_bytes_per_token * (0.01 if k else 1.0))
        for k, layer in enumerate(model.layers)
    ]
    model = dataclasses.replace(model, layers=tuple(layers))
    problem = PlacementProblem(model, topology, objective=objective, tensor_parallel=(2,))  # type: ignore[arg-type]
    result = solve(problem)
    assert result.plan is not None
    assert verify(result.plan).problems == ()
    assert result.terms["latency_s"] == pytest.approx(result.plan.metrics.latency_s, rel=1e-12)
    assert result.bound is not None
    assert result.bound <= result.objective  # type: ignore[operator]
