"""Plans of groups on small clusters against every plan there is, built and priced apart from the solvers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import UsageError
from gpuplan.plans import verify
from gpuplan.plans.placement_solution import GroupStage, PlacementSolution
from gpuplan.profiles import AnalyticCosts, KvState, Layer, ModelProfile, Operator, PlacementProblem, Workload
from gpuplan.profiles.memory import stage_memory
from gpuplan.profiles.problems.placement import Objective
from gpuplan.solvers import pareto, solve
from gpuplan.solvers.external import cbc
from gpuplan.solvers.external.worker import kept_workers
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.groups import search as group_search
from gpuplan.solvers.placement.groups import solve as group_solve
from gpuplan.solvers.placement.groups.solve import write_model_of_groups
from gpuplan.solvers.registry import find_solver
from gpuplan.topology.graph import Component, Device, DeviceKind, Link, Topology
from gpuplan.topology.islands import islands
from gpuplan.topology.routes import Router

OBJECTIVES = ("latency", "throughput", "efficiency", "cost", "balanced", "kv-capacity")
DEGREES = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One plan in figures."""

    groups: tuple[tuple[int, ...], ...]
    latency: float
    bottleneck: float
    devices: int
    price: float
    tokens: int

    @property
    def uniform(self) -> bool:
        """Whether all stages have one size."""
        return len({len(group) for group in self.groups}) == 1


def random_model(draw: random.Random) -> ModelProfile:
    """Four to six layers, six KV heads, so that stages of 1, 2 and 3 devices are allowed."""
    layers = []
    count = draw.randint(4, 6)
    for k in range(count):
        kind: Any = "embedding" if k == 0 else "head" if k == count - 1 else "decoder"
        inner = kind == "decoder"
        weights = draw.choice([40, 60, 120])
        operators = (
            Operator("linear", "bf16", flops_per_token=float(draw.randint(1, 30)), weight_bytes=float(weights)),
            Operator("norm", "bf16", bytes_per_token=float(draw.randint(0, 3)), sharded=False),
        )
        kv = KvState(float(draw.choice([2, 6])), heads=draw.choice([1, 6])) if inner else KvState()
        boundary = 10.0 if kind != "head" else 0.0
        layers.append(
            Layer(
                f"l{k}", kind, (f"m{k}",), 1, weights, 10, kv, boundary, 2 if inner else 0, operators, 6 if inner else 0
            )
        )
    tied = draw.choice([0, 20])
    return ModelProfile(
        "tiny", "Hand", "hand", 6, 4, 6, 6, "bf16", "bf16", "bf16", tuple(layers), tied_bytes=tied, source="made up"
    )


def random_topology(draw: random.Random, hosts: int, per_host: int, *, alike: bool) -> Topology:
    """Hosts of NVLink-joined devices on one network; alike throughout, or every number drawn."""

    def some(*values: float) -> float:
        return values[0] if alike else draw.choice(values)

    kinds = [
        DeviceKind(f"k{i}", "nvidia", "t", 2000, 100.0 * (i + 1), {"bf16": 900.0}, 100.0, source="-") for i in (0, 1)
    ]
    memory = draw.choice([300, 400, 700])
    devices, links, components = [], [], []
    for h in range(hosts):
        for g in range(per_host):
            name = f"h{h}/gpu{g}"
            kind = kinds[0] if alike else draw.choice(kinds)
            size = memory + int(some(0, 60))
            devices.append(Device(name, f"h{h}", g, kind, size, price_per_hour=some(2.0, 3.0)))
            components.append(Component(name, "device", f"h{h}"))
            links.append(Link(name, f"h{h}/sw", "pcie", some(400.0, 200.0), some(0.002, 0.001)))
        components.append(Component(f"h{h}/sw", "pcie_switch", f"h{h}"))
        links.append(Link(f"h{h}/sw", "net", "network", some(100.0, 60.0), some(0.05, 0.02)))
        for a, b in itertools.combinations(range(per_host), 2):
            links.append(Link(f"h{h}/gpu{a}", f"h{h}/gpu{b}", "nvlink", some(1000.0, 500.0), some(0.001, 0.004)))
    components.append(Component("net", "network_switch"))
    return Topology("small", tuple(devices), tuple(components), tuple(links), "made up")


def random_problem(seed: int, *, hosts: int = 2, per_host: int = 3, alike: bool | None = None) -> PlacementProblem:
    """Return an instance of a seed."""
    draw = random.Random(seed)
    same = draw.random() < 0.5 if alike is None else alike
    workload = Workload(draw.randint(1, 2), draw.randint(2, 6), draw.randint(2, 6))
    return PlacementProblem(
        random_model(draw),
        random_topology(draw, hosts, per_host, alike=same),
        AnalyticCosts(),
        workload,
        return_hop=draw.random() < 0.7,
        reserve_bytes=10.0,
        max_devices=draw.choice([None, None, 4]),
        tensor_parallel=DEGREES,
    )


class Pricer:
    """Prices plans from the formulas of the model page, one number at a time."""

    def __init__(self, problem: PlacementProblem) -> None:
        self.problem = problem
        w, model = problem.workload, problem.model
        self.largest = max(layer.boundary_bytes_per_token for layer in model.layers)
        router = Router(problem.topology)
        self.tables = {
            "prefill": router.table(w.batch * w.prompt_tokens * self.largest),
            "decode": router.table(w.batch * self.largest),
            "return": router.table(4.0 * w.batch),
        }

    def pair(self, name: str, a: int, b: int, size: float) -> float:
        """Seconds of one message between two devices."""
        table = self.tables[name]
        return float(table.latency_s[a, b] + size * table.s_per_byte[a, b])

    def layers(self, group: tuple[int, ...], phase: str) -> list[float]:
        """Seconds of every layer on a group: the slowest member, plus two rings a decoder layer, one at the ends."""
        p, t = self.problem, len(group)
        w, model = p.workload, p.model
        own = [p.costs.layer_times(model, p.topology.devices[d], w, tensor_parallel=t) for d in group]
        seconds = np.max([getattr(times, f"{phase}_s") for times in own], axis=0).tolist()
        if t == 1:
            return [float(value) for value in seconds]
        table = self.tables[phase]
        alpha = max(float(table.latency_s[a, b]) for a in group for b in group if a != b)
        beta = max(float(table.s_per_byte[a, b]) for a in group for b in group if a != b)
        tokens = w.batch * (w.prompt_tokens if phase == "prefill" else 1)
        rings = []
        for layer in model.layers:
            m = w.batch * model.vocab_size * 4.0 if layer.kind == "head" else tokens * model.hidden_size * 2.0
            ring = 2 * (t - 1) / t * m * beta + 2 * (t - 1) * alpha
            rings.append(ring * (2 if layer.kind == "decoder" else 1))
        return [value + ring for value, ring in zip(seconds, rings, strict=True)]

    def hop(self, a: tuple[int, ...], b: tuple[int, ...], name: str, size: float) -> float:
        """Slowest of the pairs of ranks."""
        return max(self.pair(name, a[i % len(a)], b[i % len(b)], size) for i in range(max(len(a), len(b))))

    def price(self, groups: tuple[tuple[int, ...], ...], cuts: tuple[int, ...]) -> Plan | None:
        """Return a plan in figures, None when it does not fit."""
        p, w = self.problem, self.problem.workload
        devices = p.topology.devices
        ends = [0, *cuts, p.model.num_layers]
        steps = w.output_tokens - 1
        held = w.with_micro_batches(len(groups)) if p.micro_batches_from_stages else w
        latency, bottleneck, tokens = 0.0, 0.0, math.inf
        for k, group in enumerate(groups):
            start, stop, t = ends[k], ends[k + 1], len(group)
            use = stage_memory(p.model, start, stop, held, reserve_bytes=p.reserve_bytes, tensor_parallel=t)
            available = min(devices[d].available_bytes for d in group)
            if use.total_bytes > available * (1 + 1e-12):
                return None
            total = w.sequence_tokens
            kv = sum(layer.kv.bytes_for(total) / min(t, layer.kv.heads) for layer in p.model.layers[start:stop]) / total
            if kv > 0:
                tokens = min(tokens, (available - use.workspace_bytes - use.weights_bytes) / kv)
            prefill, decode = (sum(self.cached(group, phase)[start:stop]) for phase in ("prefill", "decode"))
            out = self.outgoing(groups, k, ends)
            latency += prefill + steps * decode + out[0] + steps * out[1]
            bottleneck = max(bottleneck, decode + out[1])
        used = [d for group in groups for d in group]
        paid = sum(devices[d].price_per_hour or 0.0 for d in used)
        return Plan(groups, latency, bottleneck, len(used), paid, math.floor(tokens))

    def outgoing(self, groups: tuple[tuple[int, ...], ...], k: int, ends: list[int]) -> tuple[float, float]:
        """Hop of a stage in the prefill and in a decode step."""
        w = self.problem.workload
        if k + 1 < len(groups):
            size = self.problem.model.layers[ends[k + 1] - 1].boundary_bytes_per_token * w.batch
            pair = groups[k], groups[k + 1]
            return self.hop(*pair, "prefill", size * w.prompt_tokens), self.hop(*pair, "decode", size)
        if len(groups) == 1 or not self.problem.return_hop:
            return 0.0, 0.0
        return 0.0, self.hop(groups[k], groups[0], "return", 4.0 * w.batch)

    def cached(self, group: tuple[int, ...], phase: str) -> list[float]:
        """As `layers`, each computed once."""
        store: dict[Any, list[float]] = self.__dict__.setdefault("store", {})
        if (group, phase) not in store:
            store[group, phase] = self.layers(group, phase)
        return store[group, phase]


def sequences(groups: list[tuple[int, ...]], most: int, budget: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield every ordered choice of up to `most` disjoint groups of at most `budget` devices in all."""

    def extend(chosen: tuple[tuple[int, ...], ...], used: frozenset[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if chosen:
            yield chosen
        if len(chosen) < most:
            for group in groups:
                if not used.intersection(group) and len(used) + len(group) <= budget:
                    yield from extend((*chosen, group), used | set(group))

    yield from extend((), frozenset())


def all_plans(problem: PlacementProblem, *, most_stages: int = 4) -> list[Plan]:
    """Return every plan of at most `most_stages` stages."""
    number = {device.name: k for k, device in enumerate(problem.topology.devices)}
    groups = [
        tuple(sorted(number[name] for name in chosen))
        for island in islands(problem.topology)
        for t in DEGREES
        for chosen in itertools.combinations(island.devices, t)
    ]
    pricer, n = Pricer(problem), problem.model.num_layers
    budget = problem.max_devices or len(number)
    plans = []
    for chosen in sequences(groups, min(n, most_stages), budget):
        for cuts in itertools.combinations(range(1, n), len(chosen) - 1):
            plan = pricer.price(chosen, cuts)
            if plan is not None:
                plans.append(plan)
    return plans


def best_value(plans: list[Plan], objective: str) -> Any:
    """Return the optimum of an objective, pairs compared lexicographically, the first key to 1e-9."""
    if objective == "latency":
        return min(plan.latency for plan in plans)
    if objective == "balanced":
        latency, devices = min(plan.latency for plan in plans), min(plan.devices for plan in plans)
        return min(10.0 * plan.latency / latency + plan.devices / devices for plan in plans)
    keys = {
        "throughput": lambda plan: plan.bottleneck,
        "efficiency": lambda plan: plan.devices,
        "cost": lambda plan: plan.price,
        "kv-capacity": lambda plan: -plan.tokens,
    }
    key = keys[objective]
    least = min(key(plan) for plan in plans)
    return least, min(plan.latency for plan in plans if key(plan) <= least + 1e-9 * abs(least))


def asked(problem: PlacementProblem, objective: str, *, uneven: bool) -> PlacementProblem:
    """Return the problem with an objective."""
    name: Any = Objective("balanced", 10.0, 1.0) if objective == "balanced" else objective
    return problem.replace(objective=name, uneven_tensor_parallel=uneven)


def check(problem: PlacementProblem, plans: list[Plan], objective: str, *, uneven: bool, **options: Any) -> None:
    """Solve and compare with the best of all plans; every plan found is verified."""
    allowed = plans if uneven else [plan for plan in plans if plan.uniform]
    result = solve(asked(problem, objective, uneven=uneven), **options)
    if not allowed:
        assert result.status == "infeasible"
        assert result.reasons
        return
    assert result.status == "optimal", result.report
    assert result.objective == pytest.approx(best_value(allowed, objective), rel=1e-9)
    assert result.bound == pytest.approx(result.objective, rel=1e-9)
    assert result.report.bound_kind
    assert result.report.proof
    plan = result.require_plan()
    assert verify(plan).ok, [finding.message for finding in verify(plan).problems]


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_every_objective_equals_brute_force(seed: int, uneven: bool) -> None:
    """Two hosts of two devices, alike or not: the best of all plans under every objective."""
    problem = random_problem(seed, per_host=2)
    plans = all_plans(problem)
    for objective in OBJECTIVES:
        check(problem, plans, objective, uneven=uneven)


@pytest.mark.parametrize("seed", range(100, 104))
def test_three_devices_a_host_equal_brute_force(seed: int) -> None:
    """Groups of 1, 2 and 3 of three devices, up to four stages where memory allows no more: latency and devices."""
    problem = random_problem(seed).replace(max_devices=4)
    plans = all_plans(problem)
    for objective in ("latency", "efficiency", "throughput"):
        for uneven in (False, True):
            check(problem, plans, objective, uneven=uneven)


@pytest.mark.parametrize("seed", range(200, 206))
def test_kinds_of_hosts_equal_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that are alike, searched by kind of host: the same optima, rings around the first host among them."""
    monkeypatch.setattr(group_solve, "FEW_ISLANDS", 1)
    problem = random_problem(seed, hosts=2 + seed % 2, per_host=2, alike=True)
    plans = all_plans(problem, most_stages=6)
    for objective in OBJECTIVES:
        for uneven in (False, True):
            check(problem, plans, objective, uneven=uneven)


@pytest.mark.parametrize("seed", range(350, 354))
def test_as_many_micro_batches_as_stages(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """KV of as many micro-batches as the plan has stages, whatever their sizes; on hosts alike and by kind of host."""
    monkeypatch.setattr(group_solve, "FEW_ISLANDS", 1)
    problem = random_problem(seed, per_host=2).replace(objective="throughput", micro_batches_from_stages=True)
    plans = all_plans(problem)
    for uneven in (False, True):
        check(problem, plans, "throughput", uneven=uneven)


@pytest.mark.parametrize("engine", ["dp", "labels"])
def test_engines_agree_on_groups(engine: str) -> None:
    """Both exact engines find the optimum by name."""
    for seed in (300, 301):
        problem = random_problem(seed, per_host=2)
        plans = all_plans(problem)
        check(problem, plans, "latency", uneven=True, solver=engine)
        check(problem, plans, "efficiency", uneven=True, solver=engine)


@pytest.mark.parametrize("seed", range(500, 506))
def test_bounds_without_a_key_stay_below_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modes too many for a key: the bound is never above the optimum, the plan never below it."""
    monkeypatch.setattr(group_search, "SMALL_CELLS", 0)
    monkeypatch.setattr(group_search, "Settings", lambda threads: Settings(threads, key_bits=1))
    problem = random_problem(seed, per_host=2)
    plans = all_plans(problem)
    for objective, uneven in itertools.product(OBJECTIVES, (False, True)):
        allowed = plans if uneven else [plan for plan in plans if plan.uniform]
        result = solve(asked(problem, objective, uneven=uneven))
        if not allowed:
            assert result.plan is None
            continue
        assert result.status != "infeasible"
        best = np.atleast_1d(best_value(allowed, objective)) if objective != "balanced" or result.bound else None
        if result.bound is not None:
            assert not_above(np.atleast_1d(result.bound), best)
        if result.objective is not None and objective != "balanced":
            assert not_above(best, np.atleast_1d(result.objective))
            assert verify(result.require_plan()).ok


@pytest.mark.parametrize("seed", range(600, 608))
def test_best_cases_bound_unlike_islands(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many unlike groups: plans over neighbours, whose bound by best-case groups is never above the optimum."""
    monkeypatch.setattr(group_solve, "MOST_MODES", 0)
    problem = random_problem(seed, hosts=2 + seed % 2, per_host=2, alike=False)
    plans = all_plans(problem, most_stages=6)
    for objective, uneven in itertools.product(sorted({*OBJECTIVES} - {"balanced"}), (False, True)):
        allowed = plans if uneven else [plan for plan in plans if plan.uniform]
        result = solve(asked(problem, objective, uneven=uneven))
        if result.plan is None:
            assert result.status != "infeasible" or not allowed
            continue
        best = np.atleast_1d(best_value(allowed, objective))
        assert result.bound is not None
        assert not_above(np.atleast_1d(result.bound), best)
        assert not_above(best, np.atleast_1d(result.objective))
        assert verify(result.require_plan()).ok


def not_above(low: Any, high: Any) -> bool:
    """Whether one value is at most another, pairs by their first key and then, where these agree, by the second."""
    for a, b in zip(low, high, strict=True):
        if abs(a - b) > 1e-9 * max(abs(a), abs(b)):
            return bool(a < b)
    return True


def front_of(plans: list[Plan]) -> list[tuple[float, float, int]]:
    """Return the non-dominated figures by rising latency; of those equal to 1e-9 in some, the better in the others."""
    kept: list[tuple[float, float, int]] = []
    routed = (plan for plan in plans if math.isfinite(plan.latency))
    for plan in sorted(routed, key=lambda plan: (plan.latency, plan.bottleneck, plan.devices)):
        figures = (plan.latency, plan.bottleneck, plan.devices)
        if not any(drops(other, figures) for other in kept):
            kept = [other for other in kept if not drops(figures, other)] + [figures]
    return kept


def drops(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether a point of a front leaves no room for another."""
    return all(a <= b * (1 + 1e-9) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", range(400, 403))
def test_fronts_equal_brute_force(seed: int) -> None:
    """The front over latency, bottleneck and devices holds every non-dominated plan of groups and no other."""
    problem = random_problem(seed, per_host=2)
    plans = all_plans(problem)
    for uneven in (False, True):
        allowed = plans if uneven else [plan for plan in plans if plan.uniform]
        result = pareto(problem.replace(uneven_tensor_parallel=uneven))
        if not allowed:
            assert result.status == "infeasible"
            continue
        assert result.status == "optimal"
        found = [(point.latency_s, point.bottleneck_s, point.devices) for point in result.require_plan().points]
        assert [pytest.approx(figures, rel=1e-9) for figures in front_of(allowed)] == found


GENERIC = ("milp-blocks", "milp-blocks-cbc", "milp-layers", "cp-sat", "cp-sat-positions")


@functools.cache
def known_plans(seed: int) -> list[Plan]:
    """Return every plan of an instance, priced once for all models."""
    return all_plans(random_problem(seed, per_host=2))


def check_generic(solver: str, seeds: Iterable[int]) -> int:
    """Compare a generic model with the best of all plans, every objective, sizes even or not; return how many."""
    proven = 0
    for seed in seeds:
        problem = random_problem(seed, per_host=2)
        plans = known_plans(seed)
        for uneven, objective in itertools.product((False, True), OBJECTIVES[:-1]):
            allowed = plans if uneven else [plan for plan in plans if plan.uniform]
            result = solve(asked(problem, objective, uneven=uneven), solver=solver)
            if not allowed:
                assert result.status == "infeasible", (seed, objective)
                assert result.reasons
                continue
            assert result.status == "optimal", (seed, objective, uneven, result.reasons)
            assert result.objective == pytest.approx(best_value(allowed, objective), rel=1e-6)
            assert verify(result.require_plan()).ok
            proven += 1
    return proven


@pytest.mark.parametrize("solver", GENERIC)
def test_generic_models_equal_brute_force(solver: str) -> None:
    """One model in which groups share devices: alike islands and unlike ones, one size and several."""
    with kept_workers():
        assert check_generic(solver, (607, 612, 602)) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("solver", GENERIC)
def test_more_generic_models_equal_brute_force(solver: str) -> None:
    """The same on 12 more instances."""
    with kept_workers():
        assert check_generic(solver, range(613, 625)) >= 40


@pytest.mark.parametrize("solver", ["auto", "milp-blocks", "milp-layers", "cp-sat"])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_plan_of_groups_is_never_left_for_a_worse_one(solver: str, uneven: bool) -> None:
    """Started from the optimum every solver ends with it; with no time to speak of, auto hands it back as it is."""
    problem = asked(random_problem(612, per_host=2), "latency", uneven=uneven)
    best = solve(problem)
    with kept_workers():
        again = solve(problem, solver=solver, warm_start=best.require_plan())
    assert again.objective == pytest.approx(best.objective, rel=1e-9)
    hurried = solve(problem, solver=solver, time_limit_s=1e-4, warm_start=best.require_plan())
    assert hurried.objective == pytest.approx(best.objective, rel=1e-9)
    assert verify(hurried.require_plan()).ok


def test_a_start_of_other_groups_is_refused() -> None:
    """A stage of two devices where one a stage is asked for; two sizes where one for all is."""
    problem = random_problem(612, per_host=2)
    groups = (GroupStage((0, 1), 0, 2), GroupStage((2,), 2, problem.model.num_layers))
    with pytest.raises(UsageError, match="a stage has 2 devices"):
        solve(problem.replace(tensor_parallel=(1, 3)), warm_start=PlacementSolution(groups))
    with pytest.raises(UsageError, match="one size for all"):
        solve(problem, warm_start=PlacementSolution(groups))
    twice = (GroupStage((0, 1), 0, 2), GroupStage((1, 2), 2, problem.model.num_layers))
    with pytest.raises(UsageError, match="used twice"):
        solve(problem, warm_start=PlacementSolution(twice))


def test_a_written_model_of_groups_has_the_optimum(tmp_path: Path) -> None:
    """CBC, run on the file alone, finds the optimum that the exact search proves, in seconds."""
    problem = asked(random_problem(612, per_host=2), "latency", uneven=True)
    entry, target = find_solver("milp-blocks"), tmp_path / "groups.lp"
    write_model_of_groups(problem, entry, target)
    done = subprocess.run([cbc.program(), str(target), "solve"], capture_output=True, text=True, check=True)
    value = float(next(line.split()[-1] for line in done.stdout.splitlines() if "Objective value:" in line))
    assert value == pytest.approx(solve(problem).objective, rel=1e-6)
