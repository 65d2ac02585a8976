"""Search keys of several words: the same answers as on one word, brute force and a MILP, and proofs above 64 bits."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import numpy as np
import pytest

from gpuplan.profiles.problems.placement import DensePlacement, HopTable, Timing
from gpuplan.solvers import solve
from gpuplan.solvers.limits import Budget, Limits
from gpuplan.solvers.placement import large, small
from gpuplan.solvers.placement.core import Core, CoreOutcome, Query, bits_of, make_core
from gpuplan.solvers.placement.effort import Effort, Settings
from gpuplan.solvers.placement.labels import key_layout
from gpuplan.solvers.placement.ladder import LadderSearch
from gpuplan.solvers.placement.tables import class_tables
from gpuplan.solvers.placement.unlike import solve as unlike_solve
from gpuplan.solvers.placement.unlike.solve import minimise_unlike

#: Labels without truncation; a beam of two.
EXHAUSTIVE, NARROW = (Effort(0, 0), Effort(0, None)), (Effort(5, 0), Effort(0, 2))


def _no_limit() -> Budget:
    return Budget(Limits(None))


def _core(problem: DensePlacement, query: Query | None = None) -> Core:
    micro_batches = problem.micro_batches if isinstance(problem.micro_batches, int) else 1
    return make_core(class_tables(problem), query or Query(), micro_batches)


def _cores(instances: ModuleType, exact_checks: ModuleType, count: int) -> list[Core]:
    """Cores of random problems and of twin hosts; every third counts devices instead of seconds."""
    problems = [instances.random_problem(seed) for seed in range(count)]
    problems += [exact_checks.twin_hosts(seed) for seed in range(count)]
    cores = []
    for k, problem in enumerate(problems):
        classes = class_tables(problem).num_classes
        query = Query(time_weight=0.0, entry=(1.0,) * classes) if k % 3 == 0 else Query()
        cores.append(_core(problem, query))
    return [core for core in cores if core.max_stages >= 2]


def _unlike(devices: int, layers: int, room: float, seed: int) -> DensePlacement:
    """Devices and links that all differ by some per cent; a device holds `room` of the layers, give or take."""
    rng = np.random.default_rng([seed, devices])
    hop = rng.uniform(0.05, 0.3, (devices, devices))
    np.fill_diagonal(hop, 0.0)
    timing = Timing(
        rng.uniform(0.9, 1.4, (devices, 1)) * rng.uniform(0.9, 1.1, layers), HopTable(hop, 0.0 * hop), np.zeros(layers)
    )
    return DensePlacement(
        tuple(f"d{k}" for k in range(devices)),
        tuple(f"l{k}" for k in range(layers)),
        room * rng.uniform(0.9, 1.0, devices),
        np.ones(devices),
        np.ones(layers),
        np.zeros(layers),
        timing,
        timing,
    )


def test_no_counter_stands_in_two_words() -> None:
    """Counts 1, 3, 7, 1 need 1, 2, 3, 1 bits: words of three bits hold (1, 2), (3), (1)."""
    core = _core(_unlike(4, 8, 3.0, 1))
    layout = key_layout(dataclasses.replace(core, counts=np.array([1, 3, 7, 1])), 3)
    assert layout.word.tolist() == [0, 0, 1, 2]
    assert layout.shift.tolist() == [0, 1, 0, 0]
    assert layout.mask.tolist() == [1, 3, 7, 1]
    # Two stages on class 1 and five on class 2 count so in words 0 and 1, and nothing else does.
    added = layout.added(np.eye(4, dtype=np.int64))
    key = 2 * added[:, 1] + 5 * added[:, 2]
    assert ((key[layout.word] >> layout.shift) & layout.mask).tolist() == [0, 2, 5, 0]


def test_several_words_find_the_optimum(instances: ModuleType, exact_checks: ModuleType) -> None:
    """Words of one, two and three bits agree with the plain programme to 1e-9, exhaustive and along the ladder."""
    words = compared = 0
    for core in _cores(instances, exact_checks, 90):
        expected = small.minimise(core, math.inf, _no_limit())
        for word_bits in (1, 2, 3):
            words = max(words, int(key_layout(core, word_bits).word.max()) + 1)
            for ladder in (None, EXHAUSTIVE):
                found = large.minimise(core, math.inf, _no_limit(), Settings(1, ladder, word_bits=word_bits))
                assert found.proven
                assert found.value == pytest.approx(expected.value, rel=1e-9)
                assert found.path is None or core.holds(found.path)
                compared += 1
    assert words >= 5
    assert compared > 900


def test_words_do_not_change_a_truncated_search(instances: ModuleType, exact_checks: ModuleType) -> None:
    """A beam of two keeps labels of the same bound whatever the words: same value, same bound."""
    cut = 0
    for core in _cores(instances, exact_checks, 80):
        one, several = (
            LadderSearch(core, math.inf, _no_limit(), Settings(1, NARROW, word_bits=bits), None, {}).run()
            for bits in (64, 2)
        )
        assert several.bound == pytest.approx(one.bound, rel=1e-9)
        assert several.proven == one.proven
        cut += not one.proven
    assert cut >= 5


def test_threads_agree_on_several_words() -> None:
    """Two threads extend the same labels of two words as one."""
    core = _core(_unlike(14, 20, 3.6, 3))
    answers = [
        large.minimise(core, math.inf, _no_limit(), Settings(threads, EXHAUSTIVE, word_bits=7)) for threads in (1, 2)
    ]
    assert answers[0].proven
    assert answers[0].value == pytest.approx(answers[1].value, rel=1e-12)


def _check(core: Core, outcome: CoreOutcome, optimum: CoreOutcome) -> None:
    slack = 2e-9 * abs(optimum.value) if math.isfinite(optimum.value) else 0.0
    if outcome.path is not None:
        assert core.holds(outcome.path)
        assert outcome.value >= optimum.value - slack
    assert outcome.bound <= optimum.value + slack
    if outcome.proven:
        assert outcome.value <= optimum.value + slack


def test_endings_on_wide_keys_never_claim_too_much(
    instances: ModuleType, exact_checks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one word is narrower than what is left, several are tried once neighbourhoods are stuck; all is true."""
    monkeypatch.setattr(unlike_solve, "STUCK", 0)
    proven = 0
    for seed, core in enumerate(_cores(instances, exact_checks, 120)):
        rng = np.random.default_rng(seed)
        settings = Settings(key_bits=int(rng.integers(1, 4)), wide_bits=int(rng.integers(4, 12)), word_bits=3)
        outcome = minimise_unlike(
            core, math.inf, Budget(Limits(None, work_limit=int(rng.integers(20, 2_000)))), settings
        )
        _check(core, outcome, small.minimise(core, math.inf, _no_limit()))
        proven += outcome.proven
    assert proven > 60


def test_seventy_unlike_devices_on_two_words() -> None:
    """70 bits at once prove what reduced costs prove on 64: the same optimum to 1e-9."""
    core = _core(_unlike(70, 24, 5.2, 5))
    assert sum(bits_of(core.counts)) == 70
    wide = large.minimise(core, math.inf, _no_limit(), Settings(key_bits=128))
    narrow = large.minimise(core, math.inf, _no_limit(), Settings(wide_bits=64))
    assert wide.proven
    assert narrow.proven
    assert wide.value == pytest.approx(narrow.value, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_several_words_agree_with_a_milp(seed: int) -> None:
    """Ten unlike devices on words of three bits: the optimum of HiGHS to 1e-6."""
    problem = _unlike(10, 14, 3.4, seed)
    core = _core(problem)
    found = large.minimise(core, math.inf, _no_limit(), Settings(word_bits=3))
    checked = solve(problem, solver="milp-blocks", time_limit_s=60.0)
    assert found.proven
    assert checked.status == "optimal"
    assert found.value == pytest.approx(checked.objective, rel=1e-6)
