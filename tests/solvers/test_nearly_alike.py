"""ε-classes: rounded problems relax the true one, their bounds are valid, their stages become plans."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import numpy as np
import pytest

from gpuplan.errors import UnsupportedError
from gpuplan.plans import solution_to_dict, verify_solution
from gpuplan.profiles.problems import hops
from gpuplan.profiles.problems.hops import unit_hops
from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Objective, Timing
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import small
from gpuplan.solvers.placement.core import Core, Query, make_core
from gpuplan.solvers.placement.effort import Settings
from gpuplan.solvers.placement.query import Session
from gpuplan.solvers.placement.tables import class_tables
from gpuplan.solvers.placement.unlike import nearly, rounding
from gpuplan.solvers.placement.unlike.nearly import find_nearly_alike, minimise_nearly_alike
from gpuplan.solvers.placement.unlike.rounding import Rounding


def _disturbed(problem: DensePlacement, seed: int, share: float) -> DensePlacement:
    """Return a problem whose times, memory, prices and links are off by up to a share, device by device."""
    rng = np.random.default_rng([3, seed])
    D, n = problem.num_devices, problem.num_layers

    def off(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return rng.uniform(1.0 - share, 1.0 + share, shape)

    made: dict[int, HopTable] = {}

    def moved(table: HopTable | None) -> HopTable | None:
        if table is None:
            return None
        if id(table) not in made:
            made[id(table)] = HopTable(table.latency_s * off(D, D), table.s_per_byte * off(D, D))
        return made[id(table)]

    def timing(numbers: Timing) -> Timing:
        return dataclasses.replace(
            numbers,
            compute_s=numbers.compute_s * off(D, n),
            hop=moved(numbers.hop),
            return_hop=moved(numbers.return_hop),
        )

    latency = timing(problem.latency)
    return dataclasses.replace(
        problem,
        latency=latency,
        cycle=latency if problem.cycle is problem.latency else timing(problem.cycle),
        available_bytes=problem.available_bytes * off(D),
        price_per_hour=problem.price_per_hour * off(D),
    )


def _queries(problem: DensePlacement, rng: np.random.Generator) -> list[Query]:
    """Latency, devices, latency and an entry cost; at a limit of devices, within a budget."""
    classes = class_tables(problem, with_price=problem.objective.name == "cost").num_classes
    weights = tuple(rng.uniform(1.0, 5.0, classes))
    return [
        Query(),
        Query(time_weight=0.0, entry=(1.0,) * classes),
        Query(entry=weights),
        Query(max_stages=2),
        Query(budget=(weights, float(rng.uniform(3.0, 12.0)))),
    ]


def _session(problem: DensePlacement, work: int | None = None) -> Session:
    tables = class_tables(problem, with_price=problem.objective.name == "cost")
    return Session(tables, "auto", Budget(Limits(None, work_limit=work)), Settings())


def _core(session: Session, query: Query) -> Core:
    return make_core(session.tables, query, 1)


def _force(monkeypatch: pytest.MonkeyPatch, *, few: bool = False) -> None:
    """Round small problems, too, whatever they gain by it; with `few`, search a few of their classes first."""
    if few:
        monkeypatch.setattr(nearly, "MANY_CLASSES", 0)
        monkeypatch.setattr(nearly, "FEW_CLASSES", 3)
    monkeypatch.setattr(nearly, "FEWEST_CLASSES", 1)
    monkeypatch.setattr(nearly, "SHARE_GONE", 1.0)
    monkeypatch.setattr(rounding, "FEW_VALUES", 0)


def test_a_group_is_as_good_as_its_best() -> None:
    """Times (10, 20) and (10.2, 19.8) s, links 1 and 1.01 s: the least of each, and ε is the worst change."""
    latency = np.array([[0.0, 1.0, 1.01], [1.0, 0.0, 5.0], [1.01, 5.0, 0.0]])
    compute = np.array([[10.0, 20.0], [10.2, 19.8], [40.0, 80.0]])
    timing = Timing(compute, HopTable(latency, np.zeros((3, 3))), np.ones(2))
    room, prices = np.array([5.0, 5.1, 9.0]), np.array([2.0, 1.9, 1.0])
    names = ("a", "b", "c"), ("x", "y")
    problem = DensePlacement(*names, room, prices, np.ones(2), np.zeros(2), timing, timing)
    made = Rounding(problem)
    group = made.groups(0.03)
    assert group is not None
    # Totals are 30, 30 and 120 s; layer by layer the first two are 0.4 s of 30 s apart, 1.3 %.
    assert group.tolist() == [0, 0, 1]
    down = made.rounded(group, 0.03)
    assert down.problem.latency.compute_s.tolist() == [[10.0, 19.8], [10.0, 19.8], [40.0, 80.0]]
    assert down.problem.available_bytes.tolist() == [5.1, 5.1, 9.0]
    assert down.problem.price_per_hour.tolist() == [1.9, 1.9, 1.0]
    # Few different links are left as they are; device times fell from 30 to 29.8 s.
    assert down.problem.latency.hop is not problem.latency.hop
    assert down.problem.latency.hop.unit_latency_s.tolist() == latency.tolist()
    assert down.epsilon == pytest.approx(0.2 / 30.0)
    up = made.rounded(group, 0.03, up=True).problem
    assert up.latency.compute_s.tolist() == [[10.2, 20.0], [10.2, 20.0], [40.0, 80.0]]
    assert up.available_bytes.tolist() == [5.0, 5.0, 9.0]


def test_links_fall_to_the_least_of_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2 %: 1, 1.01 and 1.02 become 1; 1.03 begins the next stretch; no route stays none."""
    monkeypatch.setattr(rounding, "FEW_VALUES", 0)
    values = np.array([[0.0, 1.0, 1.01], [1.02, 0.0, 1.03], [1.05, np.inf, 0.0]])
    timing = Timing(np.ones((3, 2)), HopTable(values, np.zeros((3, 3))), np.ones(2))
    names = ("a", "b", "c"), ("x", "y")
    problem = DensePlacement(*names, np.ones(3), np.ones(3), np.ones(2), np.zeros(2), timing, timing)
    made = Rounding(problem)
    down = made.rounded(np.arange(3), 0.02)
    assert down.problem.latency.hop.unit_latency_s.tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 1.03], [1.03, np.inf, 0.0]]
    assert down.epsilon == pytest.approx(0.02 / 1.02)
    up = made.rounded(np.arange(3), 0.02, up=True).problem.latency.hop
    assert up.unit_latency_s.tolist() == [[0.0, 1.02, 1.02], [1.02, 0.0, 1.05], [1.05, np.inf, 0.0]]


@pytest.mark.slow
def test_rounded_problems_bound_the_true_one(instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 3,000 small cases: the optimum rounded down is at most the true one, rounded up at least."""
    monkeypatch.setattr(rounding, "FEW_VALUES", 0)
    compared = lower = 0
    for seed in range(320):
        rng = np.random.default_rng(seed)
        plain: DensePlacement = instances.random_problem(seed)
        problem = dataclasses.replace(_disturbed(plain, seed, float(rng.choice([0.01, 0.03]))), micro_batches=1)
        session, made = _session(problem), Rounding(problem, with_price=bool(seed % 2))
        epsilon = float(rng.choice([0.02, 0.08, 0.3]))
        group = made.groups(epsilon)
        assert group is not None
        for query in _queries(problem, rng):
            true = small.minimise(_core(session, query), math.inf, session.budget)
            for up in (False, True):
                rounded = made.rounded(group, epsilon, up=up)
                inner = _session(rounded.problem)
                finest = nearly.Finest(made, rounded, epsilon, inner.tables)
                found = nearly.NearlyAlike(finest, inner, _home(session))
                restated = found._restated(query, inner.tables)
                answer = small.minimise(_core(inner, restated), math.inf, session.budget)
                if up and query.entry is None and query.budget is None:
                    assert answer.value >= true.value * (1.0 - 1e-12), seed
                elif not up:
                    assert answer.value <= true.value * (1.0 + 1e-12) or math.isinf(true.value)
                    lower += answer.value < true.value
                compared += 1
    assert compared >= 3000
    assert lower > 400


def _home(session: Session) -> tuple[int, ...]:
    return tuple(
        next(c for c, members in enumerate(session.tables.members) if device in members)
        for device in range(session.tables.problem.num_devices)
    )


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, 6))])
def test_answers_with_epsilon_classes_never_claim_too_much(
    instances: ModuleType, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Over 1,200 forced small cases in all, most cut short by a work limit: plans hold, bounds and proofs are true."""
    _force(monkeypatch, few=bool(block % 2))
    used = bounded = 0
    for seed in range(45 * block, 45 * (block + 1)):
        rng = np.random.default_rng(seed)
        problem = dataclasses.replace(
            _disturbed(instances.random_problem(seed), seed, 0.02), micro_batches=1, must_hold=None
        )
        for query in _queries(problem, rng):
            session = _session(problem, int(rng.integers(1, 60)))
            core = _core(session, query)
            if core.max_stages < 2:
                continue
            true = small.minimise(core, math.inf, Budget(Limits(None)))
            # Where values are whole steps, so is the value of any plan there is to beat.
            share = float(rng.uniform(0.9, 1.2)) if core.step == 0.0 else 1.0
            upper = math.inf if seed % 3 else share * true.value
            outcome = minimise_nearly_alike(session, query, 1, core, upper, None)
            best = min(true.value, upper)
            slack = 2e-9 * abs(best) if math.isfinite(best) else 0.0
            if outcome.path is not None:
                assert core.holds(outcome.path)
                assert outcome.value == pytest.approx(core.value(outcome.path), rel=1e-12)
            assert outcome.value >= true.value - slack
            assert outcome.bound <= best + slack
            if outcome.proven:
                assert min(outcome.value, upper) <= best + slack
            used += session.nearly_alike() is not None
            bounded += session.settings.trace.kind == "ε-classes"
    assert used > 180
    assert bounded > 25


def _cluster(hosts: int, share: float, seed: int, objective: str = "latency") -> DensePlacement:
    """Hosts of four devices of two kinds, in racks of four; every device off by up to a share."""
    rng = np.random.default_rng(seed)
    host = np.arange(4 * hosts) // 4
    kind = np.arange(hosts) % 2
    near = np.arange(hosts)[:, None] // 4 == np.arange(hosts) // 4
    latency = np.where(near, 0.03, 0.08)
    np.fill_diagonal(latency, 0.01)
    table = unit_hops(host, latency, np.zeros((hosts, hosts)))
    layers = rng.uniform(0.9, 1.1, 40)
    compute = np.array([1.0, 1.6])[kind][host][:, None] * layers * rng.uniform(1.0 - share, 1.0 + share, (4 * hosts, 1))
    timing = Timing(compute, table, np.ones(40))
    return DensePlacement(
        tuple(f"g{d}" for d in range(4 * hosts)),
        tuple(f"l{i}" for i in range(40)),
        np.array([4.0, 7.0])[kind][host],
        np.array([2.0, 1.0])[kind][host],
        np.ones(40),
        np.ones(40),
        timing,
        timing,
        objective=Objective(objective),
    )


def test_the_finest_rounding_that_leaves_the_hosts_is_taken() -> None:
    """±1 %: 2 % join the devices of a host, and all hosts of a kind; ε is just below 2 %, the classes are the hosts."""
    session = _session(_cluster(16, 0.01, 1))
    found = find_nearly_alike(session)
    assert found is not None
    assert session.tables.num_classes == 64
    assert found.session.tables.num_classes == 16
    assert 0.015 < found.finest.rounded.epsilon < 0.0199
    assert "2 kinds in 16 ε-classes" in found.finest.describe()


def test_devices_that_differ_much_are_left_alone() -> None:
    """±30 %: no rounding of a few per cent makes half the classes go."""
    assert find_nearly_alike(_session(_cluster(16, 0.3, 1))) is None


@pytest.mark.parametrize("objective", ["latency", "efficiency", "cost", "balanced"])
def test_a_certificate_names_epsilon(objective: str) -> None:
    """Stopped early, the bound is that of ε-classes, and says so; the plan passes the verifier."""
    problem = _cluster(24, 0.01, 2, objective)
    result = solve(problem, work_limit=40, time_limit_s=None)
    assert verify_solution(solution_to_dict(result, problem), problem).ok
    assert any("ε-classes" in note for note in result.report.notes)
    if objective == "latency":
        assert result.status == "feasible"
        assert result.report.bound_kind == "ε-classes"
        assert "as fast as the fastest of its kind" in result.report.proof
        # Rounding lowers no plan by more than ε, 2 %, and the plan is the rounded one's.
        assert result.gap is not None
        assert 0.0 < result.gap < 0.02


def test_memory_that_differs_a_little_still_gives_a_plan() -> None:
    """Some devices of a kind hold a layer less: what the roomiest could hold is planned again for the least roomy."""
    problem = _cluster(16, 0.005, 3)
    room = np.where(np.arange(64) % 5 == 0, 0.99, 1.0) * problem.available_bytes
    problem = dataclasses.replace(problem, available_bytes=room)
    session = _session(problem)
    found = session.nearly_alike()
    assert found is not None
    core = _core(session, Query())
    bound, path = found.ask(Query(), 1, core, math.inf)
    assert path is not None
    assert core.holds(path)
    assert bound <= core.value(path)


def test_one_work_limit_one_answer() -> None:
    """The same work gives the same plan and bound."""
    problem = _cluster(24, 0.02, 4)
    first, second = (solve(problem, work_limit=500, time_limit_s=None) for _ in range(2))
    assert first.plan == second.plan
    assert first.bound == second.bound


def test_more_unlike_devices_than_tables_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 unlike devices where tables hold 2,000 entries: one sentence, no rounding in their place."""
    monkeypatch.setattr(hops, "MOST_ENTRIES", 2_000)
    with pytest.raises(UnsupportedError, match="no two are alike"):
        solve(_cluster(16, 0.3, 1))
