"""Why a bound on a batching plan holds, by its kind, in a sentence for the certificate."""

from __future__ import annotations

from typing import Final

PROOFS: Final = {
    "no requests": "there is nothing to serve",
    "every set of requests": "a dynamic programme over every set of requests",
    "exact": "a dynamic programme over contiguous batches by length: with one length key some best plan is of these",
    "optimum without deadlines": "the optimum with the deadlines left out, which only helps",
    "LP over all batches": "the linear programme over all possible batches: no batch that is left out would lower it",
    "feasible duals": "prices per request that no batch outweighs, from a linear programme over batches stopped early",
    "LP by number of batches": "the linear programme over all batches, once with fewer and once with more than its "
    "broken number of them",
    "LP by number of batches, integer programmes over boxes": "the linear programme over all batches by their number, "
    "and integer programmes over what a better plan could still use",
    "Lagrangian split": "prompts and outputs batched apart, each at its best: together they cost at most what any plan "
    "does",
    "column generation": "prices per request that no batch outweighs, from the linear programme over batches",
    "box prices": "prices per request whose sum in any box of lengths stays below the cost of a batch of that box",
    "preemptive machine": "each request's least share of work, on one machine as fast as all executors that may "
    "interrupt it",
    "preemptive machine with LP shares": "shares of work from a linear programme over batches, on one machine as fast "
    "as all executors that may interrupt them",
    "overfull intervals": "more work due within some interval than all executors do in it, so that some requests are "
    "late",
    "dual bound of CP-SAT, rounding included": "clause learning and LP relaxation by CP-SAT, times rounded down to "
    "whole numbers",
    "dual bound of HiGHS": "LP relaxation of the leader form, branch and bound of HiGHS",
    "dual bound of CBC": "LP relaxation of the leader form, branch and bound of CBC",
}


def proof_of(kind: str | None) -> str:
    """Return how a bound of some kind (``A + B``: a sum of two) was proven; empty without one.

    >>> proof_of("optimum without deadlines + no requests")
    'the optimum with the deadlines left out, which only helps; and there is nothing to serve'
    """
    if kind is None:
        return ""
    return "; and ".join(PROOFS.get(part, part) for part in kind.split(" + "))
