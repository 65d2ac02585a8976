"""The answer to a batching problem: batches by column, so that a million requests stay a few arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch: requests (rows of the problem) that run together on executor number `executor`."""

    executor: int
    requests: IntArray
    prompt_tokens: int
    output_tokens: int
    start_s: float
    finish_s: float


@dataclass(frozen=True, slots=True, eq=False)
class BatchSolution:
    """Batches 0..M−1, those of executor 0 first, each executor's in start order.

    Parameters
    ----------
    executor
        Executor number of each batch, shape (M,), rising.
    offsets
        Batch m holds ``rows[offsets[m]:offsets[m+1]]``, shape (M+1,).
    rows
        Rows of the requests, batch after batch, shape (N,).
    prompt_tokens, output_tokens
        Padded lengths S and O of each batch, shape (M,).
    start_s, finish_s
        When each batch runs, s, shape (M,).
    unmet
        Rows of the requests whose deadline no plan can meet (they are batched all the same), rising.
    """

    executor: IntArray
    offsets: IntArray
    rows: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    start_s: FloatArray
    finish_s: FloatArray
    unmet: IntArray

    @property
    def num_batches(self) -> int:
        """Number of batches M."""
        return len(self.executor)

    @property
    def sizes(self) -> IntArray:
        """Requests in each batch, shape (M,)."""
        return np.diff(self.offsets)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches one by one (for small plans and views)."""
        return tuple(self)

    def __iter__(self) -> Iterator[Batch]:
        for m in range(self.num_batches):
            yield Batch(
                executor=int(self.executor[m]),
                requests=self.rows[self.offsets[m] : self.offsets[m + 1]],
                prompt_tokens=int(self.prompt_tokens[m]),
                output_tokens=int(self.output_tokens[m]),
                start_s=float(self.start_s[m]),
                finish_s=float(self.finish_s[m]),
            )

    def batch_of_request(self) -> IntArray:
        """Return the batch number of each request by row, shape (N,)."""
        owner = np.empty(len(self.rows), dtype=np.int64)
        owner[self.rows] = np.repeat(np.arange(self.num_batches), self.sizes)
        return owner

    def completion_s(self) -> FloatArray:
        """Return when each request is finished, by row, s, shape (N,)."""
        finish = np.empty(len(self.rows))
        finish[self.rows] = np.repeat(self.finish_s, self.sizes)
        return finish

    def groups(self, num_executors: int) -> list[list[IntArray]]:
        """Return the batches as ordered lists of rows, one list an executor: what `schedule` takes."""
        groups: list[list[IntArray]] = [[] for _ in range(num_executors)]
        for m, executor in enumerate(self.executor.tolist()):
            groups[executor].append(self.rows[self.offsets[m] : self.offsets[m + 1]])
        return groups


def flatten(groups: Sequence[Sequence[Sequence[int] | IntArray]]) -> tuple[IntArray, IntArray, IntArray]:
    """Return (executor, offsets, rows) of ordered groups, one list of groups an executor; empty groups vanish."""
    kept = [(e, np.asarray(group, dtype=np.int64)) for e, own in enumerate(groups) for group in own if len(group)]
    executor = np.array([e for e, _ in kept], dtype=np.int64)
    offsets = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum([len(group) for _, group in kept], out=offsets[1:])
    rows = np.concatenate([group for _, group in kept]) if kept else np.empty(0, dtype=np.int64)
    return executor, offsets, rows
