"""`dp`: exact batches for one length key, by a programme over sorted requests.

**Theorem.** Let a batch cost F(max key, size), F non-decreasing in the key for every size. Then some optimal set of
batches is contiguous in the order of the key. *Proof.* Take optimal batches with sizes b1, b2, … ordered by their
largest keys m1 ≤ m2 ≤ …. Deal the sorted requests out in that order: b1 to the first batch, and so on. The first
b1 + … + bk requests of the sorted order have a largest key of at most mk, because batches 1..k hold that many requests
with keys up to mk. So no batch's largest key has grown, sizes are as before, and limits of the form
size·key ≤ capacity still hold. ∎  Prompts and outputs that sort alike are one key.

Its scope, and what is refused: one executor, equal arrivals, objective makespan and padding. Not with two keys that
disagree, weights on latency (contiguous batches, but in Smith order; a prefix programme is wrong), soft deadlines, or
hard deadlines that do not rise with length.

    f[j] = min over b ≤ room_j of f[j−b] + cost(b, S_j, O_j)          f: least cost of the j shortest requests

Hard deadlines that rise with length, makespan alone: f[j] is the earliest finish that keeps them. When the batch time
does not depend on the size, swapping two neighbours that run in the wrong order (see the docs) makes any plan
contiguous, so this is exact. When it does, it need not be: keys 1, 6, 6, 6, 6, 10 with P = 10 + b·key and deadlines 30
for the first and 64 for the rest hold as {1, 10}, {6, 6, 6, 6} and in no contiguous plan. Then the optimum without
deadlines is the bound, meeting it is the proof, and failing is no proof of infeasibility.

`each` (cost per request) rises and windows shrink along the order, so the choices of b are Monge: O(N log B).
"""

from __future__ import annotations

import time

import numpy as np

from gpuplan.errors import UnsupportedError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem, FloatArray, IntArray
from gpuplan.solvers.batching.answer import answer, infeasible, no_solution
from gpuplan.solvers.batching.exact import loops
from gpuplan.solvers.batching.exact.additive import Additive, additive, deadlines_count, why_not_additive
from gpuplan.solvers.batching.exact.speed import PLAIN_STEPS, fast
from gpuplan.solvers.batching.sequence import schedule_flat
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result

NAME = "dp"
_MEND = "use auto, colgen, ilp or cp-sat"
#: Counting sort up to this many bins for each request.
_BINS_PER_REQUEST = 4


def sorted_order(prompt: IntArray, output: IntArray, deadline: FloatArray | None = None) -> IntArray:
    """Return the rows by (prompt, output, deadline) rising."""
    n = len(prompt)
    if deadline is None and n > PLAIN_STEPS // 32:
        bins = int(max(prompt.max(), output.max())) + 1
        if bins <= _BINS_PER_REQUEST * n:
            order, scratch = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
            fast(loops.rank, np.inf)(prompt, output, bins, np.empty(bins + 1, dtype=np.int64), scratch, order)
            return order
    keys = (output, prompt) if deadline is None else (deadline, output, prompt)
    return np.lexsort(keys).astype(np.int64)


def _deadlines(problem: BatchingProblem) -> FloatArray | None:
    return problem.requests.deadline_s if deadlines_count(problem) else None


def supports(problem: BatchingProblem) -> str | None:
    """Return why the theorem does not cover `problem`, with the mend, or None."""
    if why_not_additive(problem) is None and _constant(problem):
        return None  # no need to sort
    answered = _order(problem)
    return answered if isinstance(answered, str) else None


def _constant(problem: BatchingProblem) -> bool:
    """Whether prompts, or outputs, are all alike: one key, whatever the other."""
    requests = problem.requests
    columns = (requests.prompt_tokens, requests.output_tokens)
    return any(len(column) == 0 or bool((column == column[0]).all()) for column in columns)


def _order(problem: BatchingProblem) -> IntArray | str:
    """Return the rows in sorted order, or why the theorem does not cover the problem."""
    reason = why_not_additive(problem, deadlines=True)
    if reason is not None:
        return f"{reason}; {_MEND}"
    deadline = _deadlines(problem)
    if deadline is not None and problem.objective.deadlines == "soft":
        return f"violations of soft deadlines have a price, and contiguous batches may then be wrong; {_MEND}"
    if deadline is not None and problem.objective.padding > 0.0:
        return f"hard deadlines are exact for the makespan alone, and padding has a weight; {_MEND}"
    requests = problem.requests
    order = sorted_order(requests.prompt_tokens, requests.output_tokens, deadline)
    return _disagreement(problem, order, deadline) or order


def _disagreement(problem: BatchingProblem, order: IntArray, deadline: FloatArray | None) -> str | None:
    requests = problem.requests
    fall = np.flatnonzero(np.diff(requests.output_tokens[order]) < 0)
    if len(fall):
        a, b = (requests.id[order[fall[0] + step]] for step in (0, 1))
        return (
            f"prompts and outputs are two keys that disagree (request {b} has the longer prompt, request {a} the "
            f"longer output), and contiguous batches may then be wrong; {_MEND}"
        )
    if deadline is not None and bool((deadline[order][1:] < deadline[order][:-1]).any()):
        return f"a longer request has an earlier deadline, and contiguous batches may then be wrong; {_MEND}"
    return None


def solve(problem: BatchingProblem, limits: Limits, seed: int = 0) -> Result[BatchSolution]:
    """Solve exactly.

    Returns
    -------
    Result
        ``optimal``. With deadlines also ``feasible``, ``infeasible`` with the first requests by length whose deadlines
        cannot all hold, or ``no_solution`` where contiguous batches fail and the theorem does not cover the problem.

    Raises
    ------
    UnsupportedError
        The theorem does not cover the problem.

    Notes
    -----
    O(N log B) after a counting sort; O(N·B) with deadlines. The limits are not needed: it is over before they are.
    """
    started = time.perf_counter()
    order = _order(problem)
    if isinstance(order, str):
        raise UnsupportedError(f"solver {NAME} cannot take this problem: {order}")
    form = additive(problem)
    n = len(order)
    f, back = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64)
    contiguous(form, order, f, back)
    if _deadlines(problem) is not None:
        return _solve_late(problem, form, order, float(f[n]) + form.constant, started, seed)
    notes = ("one length key: contiguous batches in sorted order are optimal",)
    return answer(
        problem,
        cut(problem, order, back),
        solver=NAME,
        started=started,
        seed=seed,
        work=n,
        bound_kind="exact",
        proven=True,
        notes=notes,
    )


def _solve_late(
    problem: BatchingProblem, form: Additive, order: IntArray, bound: float, started: float, seed: int
) -> Result[BatchSolution]:
    """Solve with hard deadlines that rise with length; `bound` is the optimum without them."""
    n = len(order)
    f, back = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64)
    _with_deadlines(problem, form, order, f, back)
    exact = form_ignores_size(problem)
    if not np.isfinite(f[n]):
        told = _shortage(problem, form, order, f)
        if exact:
            return infeasible(problem, (told,), solver=NAME, started=started, seed=seed)
        told = (
            f"no plan of contiguous batches keeps the hard deadlines ({told}); another method may: use auto or cp-sat"
        )
        return no_solution(
            problem,
            solver=NAME,
            started=started,
            seed=seed,
            bound=bound,
            bound_kind="optimum without deadlines",
            reasons=(told,),
        )
    notes = (
        "deadlines rise with length: contiguous batches, " + ("exact" if exact else "exact when the bound is met"),
    )
    return answer(
        problem,
        cut(problem, order, back),
        solver=NAME,
        started=started,
        seed=seed,
        work=n,
        bound=bound * (1.0 - 1e-13),
        bound_kind="exact" if exact else "optimum without deadlines",
        proven=exact,
        notes=notes,
    )


def form_ignores_size(problem: BatchingProblem) -> bool:
    """Whether a batch of many requests takes no longer than one of few with the same largest lengths."""
    t = problem.time
    return t.prefill_s_per_token == t.step_s_per_sequence == t.step_s_per_context_token == 0.0


def contiguous(form: Additive, order: IntArray, f: FloatArray, back: IntArray) -> None:
    """Fill f and back for requests sorted by one key."""
    n = len(order)
    S, O = form.prompt[order].astype(np.float64), form.output[order].astype(np.float64)  # noqa: E741
    steps, k = np.maximum(O - 1.0, 0.0), form.k
    fixed = k[0] + k[2] * steps
    each = k[1] * S + k[3] * steps + k[4] * steps * (S + 0.5 * O) + k[5] * (S + O)
    room = form.room(form.prompt[order] + form.output[order])
    if n * form.limit <= PLAIN_STEPS:
        fast(loops.window, 0)(fixed, each, room, f, back)
        return
    queue, since = np.empty(n + 1, dtype=np.int64), np.empty(n + 1, dtype=np.int64)
    fast(loops.monge, np.inf)(fixed, each, room, f, back, queue, since)


def _with_deadlines(problem: BatchingProblem, form: Additive, order: IntArray, f: FloatArray, back: IntArray) -> None:
    requests, executor = problem.requests, problem.executors[0]
    k = np.append(_seconds(problem), 0.0)
    fast(loops.ordered_late, len(order) * executor.max_batch)(
        form.prompt[order],
        form.output[order],
        requests.deadline_s[order],
        k,
        form.capacity,
        form.limit,
        float(requests.arrival_s[order[0]]),
        f,
        back,
    )


def _seconds(problem: BatchingProblem) -> FloatArray:
    """Return the time coefficients on the one executor, s."""
    t, speed = problem.time, problem.executors[0].speed
    values = (
        t.prefill_fixed_s,
        t.prefill_s_per_token,
        t.step_fixed_s,
        t.step_s_per_sequence,
        t.step_s_per_context_token,
    )
    return np.array(values) / speed


def cut(problem: BatchingProblem, order: IntArray, back: IntArray) -> BatchSolution:
    """Return the plan that runs the batches of `back` one after the other in `order`, on executor 0."""
    n = len(order)
    sizes = np.empty(n, dtype=np.int64)
    first = fast(loops.unwind, n)(back, sizes)
    sizes = sizes[first:]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return schedule_flat(problem, np.zeros(len(sizes), dtype=np.int64), offsets, order)


def _shortage(problem: BatchingProblem, form: Additive, order: IntArray, f: FloatArray) -> str:
    """Say which requests cannot all be on time, and by how much at least."""
    requests, executor = problem.requests, problem.executors[0]
    j = int(np.argmin(np.isfinite(f)))  # the first j requests cannot all hold
    least, at = np.inf, order[j - 1]
    S, O, due, row = 0, 0, np.inf, order[j - 1]  # noqa: E741
    for b in range(1, min(form.limit, j) + 1):
        new = order[j - b]
        S, O = max(S, int(form.prompt[new])), max(O, int(form.output[new]))  # noqa: E741
        if requests.deadline_s[new] <= due:
            due, row = float(requests.deadline_s[new]), new
        if b * (S + O) > form.capacity:
            break
        over = float(f[j - b]) + float(problem.time.batch_s(b, S, O, executor.speed)) - due
        if over < least:
            least, at = over, row
    shown = ", ".join(str(requests.id[row]) for row in order[max(0, j - 5) : j])
    rest = "the " if j <= 5 else f"the {j} shortest requests, the last of them "
    return (
        f"{rest}requests {shown} cannot all meet their deadlines: when the shorter ones do, request "
        f"{requests.id[at]} ends at least {least:.6g} s late; "
        "--relax-deadlines gives the plan with the fewest violations"
    )
