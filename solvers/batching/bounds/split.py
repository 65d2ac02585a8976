"""The Lagrangian split: one programme for prompts and one for outputs, agreeing only on how many batches there are.

    cost(b, S, O) = [k1·b·S + k5·b·S + µ1] + [(O−1)(k2 + k3·b) + k4·b·(O−1)·O/2 + k5·b·O + µ2] + [k4·b·(O−1)·S + µ3]

with µ1 + µ2 + µ3 = k0. Each bracket has one key (prompt; output; s·(o−1), whose maximum is at most S·(O−1)), so its
least sum over *all* partitions is a contiguous programme (see `exact.dp`), and the three least sums together are at
most the cost of any plan: a valid bound for every µ. The best µ makes the programmes agree on the number of batches.
The same holds for the n smallest keys: work[n] is a bound on the cost of any n requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuplan.profiles.problems.batching import FloatArray, IntArray
from gpuplan.solvers.batching.exact import loops
from gpuplan.solvers.batching.exact.additive import Additive
from gpuplan.solvers.batching.exact.speed import fast

#: Sums of many doubles: what rounding can cost.
ROUNDING = 1e-11


@dataclass(slots=True, eq=False)
class _Key:
    """One bracket over requests sorted by its key: fixed + b·each + µ, at most `room` requests."""

    fixed: FloatArray
    each: FloatArray
    room: IntArray
    f: FloatArray
    mu: float = 0.0
    batches: float = 0.0

    def solve(self, mu: float, steps: float) -> None:
        """Fill f and count its batches."""
        most = int(self.room.max(initial=1))
        h, counts = np.full(most + 1, mu), np.zeros(most + 1)
        fast(loops.sized, steps, relaxed=True)(self.fixed, self.each, self.room, h, self.f)
        fast(loops.sized_counts, steps)(self.fixed, self.each, self.room, h, self.f, counts)
        self.mu, self.batches = mu, float(counts.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What the split proves: `bound` on Σ cost of all requests, `work[n]` on that of any n of them, shape (N+1,)."""

    bound: float
    work: FloatArray


def _keys(form: Additive) -> list[_Key]:
    k, n = form.k, len(form.prompt)
    prompt, output = np.sort(form.prompt), np.sort(form.output)
    S, O = prompt.astype(np.float64), output.astype(np.float64)  # noqa: E741
    steps, nothing = np.maximum(O - 1.0, 0.0), np.zeros(n)
    room_by_prompt, room_by_output = form.room(prompt + output[0]), form.room(output + prompt[0])
    keys = [
        _Key(nothing, (k[1] + k[5]) * S, room_by_prompt, np.empty(n + 1)),
        _Key(k[2] * steps, k[3] * steps + k[4] * steps * O / 2.0 + k[5] * O, room_by_output, np.empty(n + 1)),
    ]
    if k[4] > 0.0:
        product = np.sort(form.prompt.astype(np.float64) * np.maximum(form.output - 1.0, 0.0))
        room = np.full(n, int(room_by_prompt[0]), dtype=np.int64)
        keys.append(_Key(nothing, k[4] * product, room, np.empty(n + 1)))
    return keys


def split(form: Additive, *, rounds: int = 12) -> Split:
    """Return the split bound of `form` (without its constant); `rounds` programmes for each multiplier."""
    n = len(form.prompt)
    if n == 0:
        return Split(0.0, np.zeros(1))
    keys, work = _keys(form), np.zeros(n + 1)
    steps = float(n * form.limit * rounds * 2)
    for key in keys:
        key.solve(0.0, steps)
    lead = keys[1]  # takes what the others leave of k0: outputs pay for most of a batch
    passes = 1 if len(keys) == 2 else 2
    for _ in range(passes):
        for key in (keys[0], *keys[2:]):
            _balance(key, lead, keys, form, work, rounds, steps)
    return Split(float(work[n]) * (1.0 - ROUNDING), work * (1.0 - ROUNDING))


def _balance(
    key: _Key, lead: _Key, keys: list[_Key], form: Additive, work: FloatArray, rounds: int, steps: float
) -> None:
    """Bisect on the multiplier of `key` until it and `lead` want the same number of batches."""
    others = sum(other.mu for other in keys if other is not key and other is not lead)
    best, best_mu = -np.inf, 0.0
    low = 0.0
    high = 2.0 * (float(form.k[0]) + float(key.each.mean()) * form.limit + float(lead.fixed.mean()))
    for _ in range(rounds):
        middle = (low + high) / 2.0
        key.solve(middle, steps)
        lead.solve(float(form.k[0]) - others - middle, steps)
        total = sum(other.f for other in keys)
        np.maximum(work, total, out=work)
        if float(np.asarray(total)[-1]) > best:
            best, best_mu = float(np.asarray(total)[-1]), middle
        if key.batches > lead.batches:
            low = middle
        else:
            high = middle
    key.solve(best_mu, steps)
    lead.solve(float(form.k[0]) - others - best_mu, steps)
