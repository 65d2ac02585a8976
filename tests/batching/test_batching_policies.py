"""Published policies against examples worked by hand, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuplan.errors import UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.plans.batch_solution_io import batching_solution_to_dict
from gpuplan.plans.verify.batching import verify_batching_solution
from gpuplan.profiles.problems.batching import BatchingProblem, Executor
from gpuplan.solvers.batching.policies.slo_odbs import Parameters
from gpuplan.solvers.batching.policies.tune import tune_parameters
from gpuplan.solvers.batching.registry import ENTRIES, find_batching
from gpuplan.solvers.batching.relax import relaxed
from gpuplan.solvers.batching.sequence import evaluate
from gpuplan.solvers.batching.solve import solve_batching
from gpuplan.solvers.limits import Budget, Limits

POLICIES = [entry.name for entry in ENTRIES if entry.kind == "baseline"]
Make = Callable[..., BatchingProblem]


def groups(problem: BatchingProblem, policy: str, **options: Any) -> list[list[int]]:
    """Return the batches of a policy in the order in which they start."""
    plan = solve_batching(problem, solver=policy, **options).require_plan()
    batches = [plan.rows[a:b].tolist() for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)]
    return [batches[m] for m in np.argsort(plan.start_s, kind="stable")]


def test_fifo_takes_arrivals_in_order(unit_problem: Make) -> None:
    """Rows 2 and 0 arrive first: at time 0 only row 2 is there, at its end (5 s) rows 0 and 1 are."""
    problem = unit_problem([3, 4, 5], arrival_s=[1.0, 2.0, 0.0])
    assert groups(problem, "fifo") == [[2], [0, 1]]


def test_fifo_never_waits_for_a_batch_to_fill(unit_problem: Make) -> None:
    """Row 1 arrives a second after row 0 has begun, so it gets a batch of its own."""
    problem = unit_problem([3, 3], arrival_s=[0.0, 1.0])
    plan = solve_batching(problem, solver="fifo").require_plan()
    assert plan.start_s.tolist() == [0.0, 3.0]


def test_kv_ends_a_batch(unit_problem: Make) -> None:
    """Lengths 1+4 and 1+9 in 19 tokens: two padded to 1+9 need 20, so each runs alone; 20 tokens hold both."""
    assert groups(unit_problem([4, 9], kv=19), "fifo") == [[0], [1]]
    assert groups(unit_problem([4, 9], kv=20), "fifo") == [[0, 1]]


def test_sjf_and_ljf_sort_by_batch_time(unit_problem: Make) -> None:
    """Outputs 5, 1, 4, 2 in pairs."""
    problem = unit_problem([5, 1, 4, 2])
    assert groups(problem, "sjf") == [[1, 3], [2, 0]]
    assert groups(problem, "ljf") == [[0, 2], [3, 1]]


def test_edf_puts_requests_without_deadline_last(unit_problem: Make) -> None:
    """Deadlines 30, none, 10, 20."""
    problem = unit_problem([1, 1, 1, 1], deadline_s=[30.0, np.inf, 10.0, 20.0])
    assert groups(problem, "edf") == [[2, 3], [0, 1]]


def test_priority_ages(unit_problem: Make) -> None:
    """While row 0 runs (10 s) rows 1 (weight 1, at 1 s) and 2 (weight 2, at 9 s) wait.

    Row 2 is ahead at 0.1/s (2 − 0.9 > 1 − 0.1), row 1 at 0.2/s (1 − 0.2 > 2 − 1.8).
    """
    problem = unit_problem([10, 1, 1], max_batch=1, arrival_s=[0.0, 1.0, 9.0], weight=[1.0, 1.0, 2.0])
    assert groups(problem, "priority", ageing_per_s=0.1) == [[0], [2], [1]]
    assert groups(problem, "priority", ageing_per_s=0.2) == [[0], [1], [2]]


def test_executors_free_first_serve_first(unit_problem: Make) -> None:
    """Outputs 5, 1, 1 on two executors: the second is free again at 1 s and takes the third request."""
    plan = solve_batching(unit_problem([5, 1, 1], max_batch=1, executors=2), solver="fifo").require_plan()
    assert [(batch.executor, batch.requests.tolist()) for batch in plan] == [(0, [0]), (1, [1]), (1, [2])]


def test_small_executors_leave_large_requests(unit_problem: Make) -> None:
    """The first executor has 5 tokens of KV, so the request of 1+9 waits for the second."""
    problem = unit_problem([9, 2]).replace(executors=(Executor("small", 5, 4), Executor("large", 100, 4)))
    plan = solve_batching(problem, solver="fifo").require_plan()
    assert [(batch.executor, batch.requests.tolist()) for batch in plan] == [(0, [1]), (1, [0])]


def test_slo_odbs_as_printed(unit_problem: Make) -> None:
    """SLOs 10, 20, 40 and outputs 5, 8, 6; w1 = 0.1, w2 = 1, threshold 12.

    Row 1: (0.1·(20+10) + (8−5))·2 = 12 ≤ 12 joins. Row 2: (0.1·(40+20) + (6−8))·3 = 12 ≤ 12 joins; with ``plus``
    row 1: (3 + 13)·2 = 32 does not, nor does row 2: (6 + 14)·2 = 40.
    """
    problem = unit_problem([5, 8, 6], max_batch=8, deadline_s=[10.0, 20.0, 40.0])
    given = {"threshold": 12.0, "w1": 0.1, "w2": 1.0}
    assert groups(problem, "slo-odbs-paper", **given) == [[0, 1, 2]]
    assert groups(problem, "slo-odbs-paper", **given | {"threshold": 11.9}) == [[0], [1, 2]]
    assert groups(problem, "slo-odbs-paper", **given, sign="plus") == [[0], [1], [2]]


def test_slo_odbs_scales_seconds_and_tokens(unit_problem: Make) -> None:
    """L1 and L2 multiply the two terms: (0.1·30·10 + 3·0)·2 = 60."""
    problem = unit_problem([5, 8], deadline_s=[10.0, 20.0])
    given = {"w1": 0.1, "w2": 1.0, "L1": 10.0, "L2": 0.0}
    assert groups(problem, "slo-odbs-paper", threshold=60.0, **given) == [[0, 1]]
    assert groups(problem, "slo-odbs-paper", threshold=59.0, **given) == [[0], [1]]


def test_slo_dbs_and_odbs_keep_one_term_in_either_reading(unit_problem: Make) -> None:
    """SLO term (10+20)·2 = 60, length term (8−5)·2 = 6: ``text`` swaps which of them a variant keeps."""
    problem = unit_problem([5, 8], deadline_s=[10.0, 20.0])
    for policy, weights, value in (
        ("slo-dbs-paper", "names", 60.0),
        ("slo-dbs-paper", "text", 6.0),
        ("odbs-paper", "names", 6.0),
        ("odbs-paper", "text", 60.0),
    ):
        given = {"w1": 1.0, "w2": 1.0, "weights": weights}
        assert groups(problem, policy, threshold=value, **given) == [[0, 1]]
        assert groups(problem, policy, threshold=value - 0.1, **given) == [[0], [1]]


def test_slo_odbs_as_coded(unit_problem: Make) -> None:
    """Keys SLO + 0.5·length: 10+0.5·40 = 30, 20+0.5·4 = 22, 25+0.5·2 = 26; SLO or length alone order otherwise."""
    problem = unit_problem([40, 4, 2], max_batch=1, deadline_s=[10.0, 20.0, 25.0])
    assert groups(problem, "slo-odbs-authors") == [[1], [2], [0]]
    assert groups(problem, "slo-dbs-authors") == [[0], [1], [2]]
    assert groups(problem, "odbs-authors") == [[2], [1], [0]]


def test_authors_hold_ten_and_their_threshold(unit_problem: Make) -> None:
    """At most 10 in a batch; a request 7000 tokens longer adds 7000·2·1.2 = 16800 > 15000 and opens the next."""
    assert [len(group) for group in groups(unit_problem([1] * 12, max_batch=32), "odbs-authors")] == [10, 2]
    assert groups(unit_problem([1, 7001], max_batch=32), "odbs-authors") == [[0], [1]]
    assert groups(unit_problem([1, 6001], max_batch=32), "odbs-authors") == [[0, 1]]


def test_s3_packs_decreasing_first_fit(unit_problem: Make) -> None:
    """Needs 10, 8, 5, 4 (prompt 1) in 20 tokens: 2·10 holds 10 and 8, then 2·5 and … 3·5 holds 5 and 4."""
    problem = unit_problem([4, 9, 3, 7], max_batch=8, kv=20)
    assert groups(problem, "s3", buckets=0) == [[1, 3], [0, 2]]


def test_s3_goes_past_what_does_not_fit(unit_problem: Make) -> None:
    """Need 12 = 11+1 first; 9 = 1+8 would make 2·(11+8) = 38 > 30, 8 = 6+2 makes 2·(11+2) = 26."""
    problem = unit_problem([1, 8, 2], max_batch=8, kv=30, prompt_tokens=[11, 1, 6])
    assert groups(problem, "s3", buckets=0) == [[0, 2], [1]]


def test_s3_reserves_the_bucket(unit_problem: Make) -> None:
    """Outputs 3 and 10 in two buckets of 5: 3 counts as 5. Outputs 3, 3 need 2·(1+5) = 12 tokens, not 8."""
    outputs = [3, 3, 10]
    assert groups(unit_problem(outputs, max_batch=8, kv=11), "s3", buckets=2) == [[2], [0], [1]]
    assert groups(unit_problem(outputs, max_batch=8, kv=12), "s3", buckets=2) == [[2], [0, 1]]


def test_s3_nextfit_fills_a_budget(unit_problem: Make) -> None:
    """Outputs by rising length 2, 3, 5, 9 under a budget of 10: 2+3+5, then 9; at most two: 2+3, 5, 9."""
    problem = unit_problem([9, 5, 2, 3], max_batch=8)
    assert groups(problem, "s3-nextfit", output_budget=10) == [[2, 3, 1], [0]]
    assert groups(problem, "s3-nextfit", output_budget=10, size_limit=2) == [[2, 3], [1], [0]]


def test_multi_bin_batches_like_lengths(unit_problem: Make) -> None:
    """Outputs 1, 9, 1, 9 in two bins: the short bin fills first (row 2), then the long one (row 3)."""
    assert groups(unit_problem([1, 9, 1, 9]), "multi-bin", bins=2) == [[0, 2], [1, 3]]
    assert groups(unit_problem([1, 9, 9, 1]), "multi-bin", bins=2) == [[1, 2], [0, 3]]


def test_multi_bin_serves_the_oldest_when_none_is_full(unit_problem: Make) -> None:
    """Four requests, batches of four: no bin fills, so the bin of row 0 goes first."""
    assert groups(unit_problem([9, 1, 9, 1], max_batch=4), "multi-bin", bins=2) == [[0, 2], [1, 3]]


def test_tuning_beats_both_ends(make_problem: Make) -> None:
    """The tuned rule is no worse than filling batches and than serving one by one in the same order."""
    problem = make_problem(3, size=120)
    tuned = solve_batching(problem, solver="slo-odbs")
    for threshold in (0.0, 1e12):
        plain = solve_batching(problem, solver="slo-odbs-paper", threshold=threshold)
        assert tuned.objective <= plain.objective * (1 + 1e-12)  # type: ignore[operator]
    assert "chosen by tuning" in tuned.report.notes[0]


def test_tuning_a_large_workload_uses_a_sample(make_problem: Make) -> None:
    """Ten thousand requests are tuned on two thousand, the same ones each time."""
    problem = make_problem(5, size=10_000)
    start = Parameters(0.0)
    first, again = (tune_parameters(problem, start, Budget(Limits()), tune_weights=False) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), size=st.integers(1, 40), executors=st.integers(1, 3))
def test_every_plan_holds(policy: str, make_problem: Make, seed: int, size: int, executors: int) -> None:
    """Every request once, KV and size limits kept, times and values right: the verifier agrees with every policy."""
    problem = make_problem(seed, size=size, executors=executors)
    result = solve_batching(problem, solver=policy)
    verdict = verify_batching_solution(batching_solution_to_dict(result, problem), problem)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_starts_while_it_could_have_started_earlier(policy: str, make_problem: Make) -> None:
    """One executor never idles while a request waits (no policy waits for a batch to fill)."""
    problem = make_problem(11, size=60, executors=1)
    plan = solve_batching(problem, solver=policy).require_plan()
    assert isinstance(plan, BatchSolution)
    idle_from = np.concatenate([[0.0], plan.finish_s[:-1]])
    for m in np.flatnonzero(plan.start_s > idle_from + 1e-12):
        later = plan.rows[plan.offsets[m] :]
        assert problem.requests.arrival_s[later].min() == pytest.approx(plan.start_s[m])


def test_hard_deadlines_that_a_policy_misses_are_no_plan(unit_problem: Make) -> None:
    """FIFO finishes the second request at 4 s, after its hard deadline at 3 s; EDF serves it first."""
    problem = unit_problem([2, 2], max_batch=1, deadline_s=[np.inf, 3.0])
    hard = problem.replace(objective=type(problem.objective)(deadlines="hard"))
    missed = solve_batching(hard, solver="fifo")
    assert (missed.status, missed.plan) == ("no_solution", None)
    assert "request 1 by 1 s" in missed.reasons[0]
    assert solve_batching(hard, solver="edf").status == "feasible"


def test_hard_deadlines_that_nobody_can_meet_are_infeasible(unit_problem: Make) -> None:
    """A deadline a second too early for the request alone is infeasible, named, and by how much."""
    problem = unit_problem([5], deadline_s=[4.0])
    hard = problem.replace(objective=type(problem.objective)(deadlines="hard"))
    result = solve_batching(hard, solver="fifo")
    assert result.status == "infeasible"
    assert "request 0 by 1 s" in result.reasons[0]
    assert "--relax-deadlines" in result.reasons[0]


def test_relaxed_violations_outweigh_the_rest(unit_problem: Make) -> None:
    """Relaxed, one violation costs more than the whole FIFO plan otherwise."""
    problem = unit_problem([5, 5, 5], deadline_s=[4.0, 6.0, 9.0])
    soft = relaxed(problem.replace(objective=type(problem.objective)(deadlines="hard")))
    terms = evaluate(soft, solve_batching(soft, solver="fifo").require_plan())
    assert soft.objective.deadlines == "soft"
    assert soft.objective.violation > 10 * (terms.total - terms.violation) - 1e-9


def test_options_are_checked(three_requests: BatchingProblem) -> None:
    """Unknown names and options, and values out of range, say what there is."""
    with pytest.raises(UsageError, match="did you mean s3"):
        find_batching("s33")
    with pytest.raises(UsageError, match="fifo has no option 'bins'; its options are none"):
        solve_batching(three_requests, solver="fifo", bins=3)
    with pytest.raises(UsageError, match="bins of at least 1, got 0"):
        solve_batching(three_requests, solver="multi-bin", bins=0)
    with pytest.raises(UsageError, match="threshold to be a finite number"):
        solve_batching(three_requests, solver="slo-odbs-paper", threshold=-1.0)
    with pytest.raises(UsageError, match="sign plus or minus"):
        solve_batching(three_requests, solver="odbs", threshold=1.0, sign="times")


def test_best_policy_is_the_best_of_them(make_problem: Make) -> None:
    """The portfolio is no worse than any policy it tries."""
    problem = make_problem(7)
    best = solve_batching(problem, solver="best-policy").objective
    assert isinstance(best, float)
    for policy in ("fifo", "sjf", "edf", "multi-bin"):
        other = solve_batching(problem, solver=policy).objective
        assert isinstance(other, float)
        assert best <= other
