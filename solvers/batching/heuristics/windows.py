"""Requests that arrive over time, planned window by window: wait for a window's requests, then batch them by likeness.

Serving as soon as anyone waits makes small, badly padded batches, and on a busy executor the work so wasted comes back
as queueing. Waiting for W seconds' worth of requests gives batches of like lengths; the best W balances the two waits,
and is found by trying.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from gpuplan.profiles.problems.batching import BatchingProblem, IntArray
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.heuristics.assign import Groups, assign
from gpuplan.solvers.batching.heuristics.bands import Bands, cut

#: Windows that the arrivals are cut into.
COUNTS: Final = (2, 3, 5, 8, 12, 18, 27, 40, 60, 90)
_BANDS_A_BATCH: Final = 1.4


def windows(problem: BatchingProblem, form: Additive, counts: tuple[int, ...] = COUNTS) -> Iterator[tuple[str, Groups]]:
    """Yield plans by windows of arrival; batches of a window run by Smith's ratio, windows one after the other.

    `form` says what a batch costs while it is cut from an order. O(N·B) a plan.
    """
    arrival = problem.requests.arrival_s
    begin, span = float(arrival.min()), float(np.ptp(arrival))
    for count in counts:
        window = np.minimum(((arrival - begin) / span * count).astype(np.int64), count - 1)
        order = np.argsort(window, kind="stable")
        ends = np.flatnonzero(np.diff(window[order])) + 1
        batches = [batch for rows in np.split(order, ends) for batch in _cut(form, rows, times=10 * count)]
        groups = assign(problem, _by_smith(problem, batches, window), "given")
        if groups is not None:
            yield f"{count} windows of {span / count:.3g} s", groups


def _cut(form: Additive, rows: IntArray, *, times: int) -> list[IntArray]:
    """Return the batches of one window."""
    prompt, output = form.prompt[rows], form.output[rows]
    number = max(1, round(_BANDS_A_BATCH * (len(rows) / form.limit) ** 0.5))
    part = Additive(prompt, output, form.k, form.capacity, form.limit, 0.0)
    return [rows[batch] for batch in cut(part, Bands(prompt, output).order(number, 0.5), times=times).groups()]


def _by_smith(problem: BatchingProblem, batches: list[IntArray], window: IntArray) -> list[IntArray]:
    """Return batches window by window, in each by time over weight."""
    requests = problem.requests
    size = np.array([len(batch) for batch in batches])
    prompt = np.array([requests.prompt_tokens[batch].max() for batch in batches])
    output = np.array([requests.output_tokens[batch].max() for batch in batches])
    weight = np.array([requests.weight[batch].sum() for batch in batches])
    took = problem.time.batch_s(size, prompt, output)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(weight > 0.0, took / weight, np.inf)
    order = np.lexsort((ratio, np.array([window[batch[0]] for batch in batches])))
    return [batches[m] for m in order.tolist()]
