"""Static batching as plain numbers: which requests run together, on which executor, in which order.

A batch of b requests padded to S prompt and O output tokens takes

    P = (prefill_fixed + prefill_s_per_token·b·S + Σ_{k=1..O−1} (step_fixed + step_s_per_sequence·b
         + step_s_per_context_token·b·(S+k))) / speed                                                       seconds,

holds when b·(S+O) ≤ kv_capacity_tokens and b ≤ max_batch, and starts no earlier than its last arrival and the end of
the batch before it on its executor. Every request is in exactly one batch. Minimised is

    latency·Σ w(C−arrival) + makespan·max C + padding·Σ_batches (b·(S+O) − Σ(s+o))
    + violation·Σ w·[C > deadline + 1e-9].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuplan.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Distinct names of requests: whole numbers, or objects (text, or text and whole numbers mixed).
IdArray = NDArray[Any]
Deadlines = Literal["soft", "hard"]

#: A finish this much after a deadline, s, still counts as on time.
DEADLINE_SLACK_S: Final = 1e-9
#: Counts of tokens stay below this, so that sums of millions of them stay exact.
MOST_TOKENS: Final = 2**40
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """A table of requests by column, all of length N.

    Parameters
    ----------
    id
        Distinct names: whole numbers or text.
    prompt_tokens, output_tokens
        Tokens, at least 0.
    arrival_s
        When a request may start at the earliest, s.
    deadline_s
        When it must be finished, s; inf where there is none.
    weight
        Its share in latency and violations, at least 0.

    Raises
    ------
    InputError
        Columns of unequal length, a value out of range, an id twice, a deadline before its arrival; the place is the
        JSON path of the value in a problem file.
    """

    id: IdArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    arrival_s: FloatArray
    deadline_s: FloatArray
    weight: FloatArray

    def __post_init__(self) -> None:
        set_column = object.__setattr__
        set_column(self, "id", id_column(self.id))
        for name in ("prompt_tokens", "output_tokens"):
            set_column(self, name, _tokens(getattr(self, name), name))
        for name in ("arrival_s", "deadline_s", "weight"):
            set_column(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float64))
        self._check_lengths()
        self._check_range("arrival_s", np.isfinite(self.arrival_s) & (self.arrival_s >= 0.0))
        self._check_range("weight", np.isfinite(self.weight) & (self.weight >= 0.0))
        self._check_deadlines()
        self._check_distinct()

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @classmethod
    def of(
        cls,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        id: ArrayLike | None = None,  # noqa: A002
        arrival_s: ArrayLike | None = None,
        deadline_s: ArrayLike | None = None,
        weight: ArrayLike | None = None,
    ) -> Requests:
        """Return requests with the defaults of the file format: numbered from 0, at time 0, no deadline, weight 1."""
        size = len(np.atleast_1d(np.asarray(prompt_tokens)))
        return cls(
            id=np.arange(size) if id is None else np.asarray(id),
            prompt_tokens=np.asarray(prompt_tokens),
            output_tokens=np.asarray(output_tokens),
            arrival_s=np.zeros(size) if arrival_s is None else np.asarray(arrival_s, dtype=np.float64),
            deadline_s=np.full(size, np.inf) if deadline_s is None else np.asarray(deadline_s, dtype=np.float64),
            weight=np.ones(size) if weight is None else np.asarray(weight, dtype=np.float64),
        )

    def take(self, rows: ArrayLike) -> Requests:
        """Return the requests of `rows` (indices or a mask), in that order."""
        index = np.asarray(rows)
        return Requests(*(getattr(self, item.name)[index] for item in dataclasses.fields(self)))

    def _check_lengths(self) -> None:
        for item in dataclasses.fields(self):
            column = getattr(self, item.name)
            if column.ndim != 1 or len(column) != len(self.prompt_tokens):
                raise InputError(
                    f"expected {len(self.prompt_tokens)} values, one for each prompt_tokens, got {len(column)}",
                    place=f"$.requests.{item.name}",
                )

    def _check_range(self, name: str, good: NDArray[np.bool_]) -> None:
        if not good.all():
            row = int(np.argmin(good))
            value = float(getattr(self, name)[row])
            raise InputError(
                f"expected a finite number of at least 0, got {value} (request {self.id[row]})",
                place=f"$.requests.{name}[{row}]",
            )

    def _check_deadlines(self) -> None:
        late = ~(self.deadline_s >= self.arrival_s)
        if late.any():
            row = int(np.argmax(late))
            raise InputError(
                f"expected a deadline no earlier than the arrival, got {self.deadline_s[row]} s for request "
                f"{self.id[row]}, which arrives at {self.arrival_s[row]} s; deadlines are absolute times",
                place=f"$.requests.deadline_s[{row}]",
            )

    def _check_distinct(self) -> None:
        row = first_repeated(self.id)
        if row is not None:
            raise InputError(
                f"expected distinct ids, got {self.id.tolist()[row]!r} again; name every request once",
                place=f"$.requests.id[{row}]",
            )


@dataclass(frozen=True, slots=True)
class Executor:
    """A model replica that runs one batch at a time.

    Parameters
    ----------
    kv_capacity_tokens
        Tokens of KV cache: b·(S+O) of a batch stays within it.
    max_batch
        Requests in a batch at most.
    speed
        Divides every batch time.
    """

    name: str
    kv_capacity_tokens: float
    max_batch: int = 32
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.kv_capacity_tokens) and self.kv_capacity_tokens >= 0.0):
            raise InputError(
                f"expected a finite KV capacity of at least 0 tokens, got {self.kv_capacity_tokens} "
                f"(executor {self.name})"
            )
        if self.max_batch < 1:
            raise InputError(f"expected max_batch of at least 1, got {self.max_batch} (executor {self.name})")
        if not (np.isfinite(self.speed) and self.speed > 0.0):
            raise InputError(f"expected a finite speed above 0, got {self.speed} (executor {self.name})")

    @property
    def kv_tokens(self) -> int:
        """Whole tokens of KV cache: b·(S+O) is a whole number, so this is the same limit, exactly."""
        return min(int(self.kv_capacity_tokens), 2**62)

    def room(self, tokens: ArrayLike) -> IntArray:
        """Return how many requests padded to `tokens` = S+O each may share a batch: KV and `max_batch` together."""
        padded = np.maximum(np.asarray(tokens, dtype=np.int64), 1)
        return np.asarray(np.minimum(self.kv_tokens // padded, self.max_batch))


@dataclass(frozen=True, slots=True)
class BatchTime:
    """The five coefficients of the batch time, each at least 0, s."""

    prefill_fixed_s: float = 0.0
    prefill_s_per_token: float = 0.0
    step_fixed_s: float = 0.0
    step_s_per_sequence: float = 0.0
    step_s_per_context_token: float = 0.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not (np.isfinite(value) and value >= 0.0):
                raise InputError(f"expected a finite number of at least 0, got {value}", place=f"$.time.{item.name}")

    def prefill_s(self, b: ArrayLike, S: ArrayLike, speed: ArrayLike = 1.0) -> FloatArray:
        """Return the time to the first token of b sequences of S prompt tokens, s."""
        tokens = np.multiply(b, S, dtype=np.float64)
        return np.asarray((self.prefill_fixed_s + self.prefill_s_per_token * tokens) / np.asarray(speed, float))

    def batch_s(self, b: ArrayLike, S: ArrayLike, O: ArrayLike, speed: ArrayLike = 1.0) -> FloatArray:  # noqa: E741
        """Return the time of batches of b requests padded to S prompt and O output tokens, s.

        ``(prefill_fixed + prefill_per_token·b·S + (O−1)(step_fixed + step_seq·b)
        + step_ctx·b·((O−1)·S + O(O−1)/2)) / speed``; no steps when O is 0. Arguments broadcast.
        """
        size, prompt = np.asarray(b, dtype=np.float64), np.asarray(S, dtype=np.float64)
        output = np.asarray(O, dtype=np.float64)
        steps = np.maximum(output - 1.0, 0.0)
        context = size * (steps * prompt + steps * output / 2.0)
        total = (
            self.prefill_fixed_s
            + self.prefill_s_per_token * size * prompt
            + steps * (self.step_fixed_s + self.step_s_per_sequence * size)
            + self.step_s_per_context_token * context
        )
        return np.asarray(total / np.asarray(speed, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class BatchObjective:
    """Weights of the objective: 1/s·s of latency and makespan, s per padded token, s per violation."""

    latency: float = 1.0
    makespan: float = 0.0
    padding: float = 0.0
    violation: float = 0.0
    deadlines: Deadlines = "soft"

    def __post_init__(self) -> None:
        for name in ("latency", "makespan", "padding", "violation"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise InputError(f"expected a finite weight of at least 0, got {value}", place=f"$.objective.{name}")
        if self.deadlines not in ("soft", "hard"):
            raise InputError(f"expected soft or hard, got {self.deadlines!r}", place="$.objective.deadlines")


@dataclass(frozen=True, slots=True, eq=False)
class BatchingProblem:
    """Requests, executors, batch time and objective.

    Raises
    ------
    InputError
        No executors, two of one name, or a request larger than every executor's KV capacity.
    """

    requests: Requests
    executors: tuple[Executor, ...]
    time: BatchTime
    objective: BatchObjective = field(default_factory=BatchObjective)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "executors", tuple(self.executors))
        check_executors(self.executors)
        rows = unservable(self.requests, self.executors)
        if len(rows):
            raise InputError(unservable_message(self.requests, self.executors, rows), place="$.requests")

    @property
    def num_requests(self) -> int:
        """Number of requests N."""
        return len(self.requests)

    @property
    def num_executors(self) -> int:
        """Number of executors E."""
        return len(self.executors)

    @property
    def kv_capacity_tokens(self) -> FloatArray:
        """KV capacity by executor, tokens, shape (E,)."""
        return np.array([executor.kv_capacity_tokens for executor in self.executors], dtype=np.float64)

    @property
    def max_batch(self) -> IntArray:
        """Largest batch by executor, shape (E,)."""
        return np.array([executor.max_batch for executor in self.executors], dtype=np.int64)

    @property
    def speed(self) -> FloatArray:
        """Speed by executor, shape (E,)."""
        return np.array([executor.speed for executor in self.executors], dtype=np.float64)

    @property
    def hard(self) -> bool:
        """Whether deadlines are constraints and some request has one."""
        return self.objective.deadlines == "hard" and bool(np.isfinite(self.requests.deadline_s).any())

    def replace(self, **changes: Any) -> BatchingProblem:
        """Return the problem with some parts changed."""
        return dataclasses.replace(self, **changes)

    def earliest_finish_s(self) -> FloatArray:
        """Return when each request is finished at the earliest in any plan: alone, at once, on the best executor."""
        requests = self.requests
        best: FloatArray = np.full(len(requests), np.inf)
        for executor in self.executors:
            alone = self.time.batch_s(1, requests.prompt_tokens, requests.output_tokens, executor.speed)
            fits = executor.room(requests.prompt_tokens + requests.output_tokens) >= 1
            best = np.where(fits, np.minimum(best, alone), best)
        finish: FloatArray = requests.arrival_s + best
        return finish

    def unmet(self) -> IntArray:
        """Return the rows of the requests whose deadline no plan can meet, rising."""
        late = self.earliest_finish_s() > self.requests.deadline_s + DEADLINE_SLACK_S
        return np.flatnonzero(late).astype(np.int64)


def unservable(requests: Requests, executors: Sequence[Executor]) -> IntArray:
    """Return the rows of requests that fit no executor's KV cache alone, rising."""
    capacity = max(executor.kv_tokens for executor in executors)
    return np.flatnonzero(requests.prompt_tokens + requests.output_tokens > capacity).astype(np.int64)


def unservable_message(requests: Requests, executors: Sequence[Executor], rows: IntArray) -> str:
    """Return the sentence that names requests larger than every executor."""
    capacity = max(executor.kv_capacity_tokens for executor in executors)
    needed = requests.prompt_tokens + requests.output_tokens
    named = ", ".join(f"{requests.id[row]} ({needed[row]} tokens)" for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return (
        f"expected requests that fit an executor's KV cache (largest: {capacity:g} tokens), got {named}{more}; "
        "remove them, or plan the rest with --skip-unservable"
    )


def check_executors(executors: Sequence[Executor]) -> None:
    """Refuse an empty list of executors, and a name twice (InputError)."""
    if not executors:
        raise InputError("expected at least one executor, got none", place="$.executors")
    seen: set[str] = set()
    for i, executor in enumerate(executors):
        if executor.name in seen:
            raise InputError(
                f"expected distinct executor names, got {executor.name!r} again", place=f"$.executors[{i}].name"
            )
        seen.add(executor.name)


def id_column(values: Any) -> IdArray:
    """Return ids as a column: int64 where all are whole numbers, objects else.

    >>> id_column([3, 1]).dtype, id_column(["a", 1]).dtype
    (dtype('int64'), dtype('O'))
    """
    column = np.asarray(values) if isinstance(values, np.ndarray) else np.asarray(list(values), dtype=object)
    if column.dtype.kind in "iu":
        return np.ascontiguousarray(column, dtype=np.int64)
    if column.dtype.kind == "O":
        items = column.tolist()
        if items and set(map(type, items)) == {int} and min(items) > -(2**62) and max(items) < 2**62:
            return np.array(items, dtype=np.int64)
        return column
    return column.astype(object)


def first_repeated(column: IdArray) -> int | None:
    """Return the row of the first value that stands in the column before, or None.

    >>> first_repeated(np.array([4, 5, 4])), first_repeated(np.array([4, 5]))
    (2, None)
    """
    if column.dtype.kind in "iu":
        order = np.argsort(column, kind="stable")
        again = column[order][1:] == column[order][:-1]
        return int(order[1:][again].min()) if again.any() else None
    if len(set(column.tolist())) == len(column):
        return None
    seen: set[Any] = set()
    for row, value in enumerate(column.tolist()):
        if value in seen:
            return row
        seen.add(value)
    return None


def _tokens(values: Any, name: str) -> IntArray:
    column = np.asarray(values)
    if column.ndim != 1:
        raise InputError(f"expected one column, got an array of {column.ndim} axes", place=f"$.requests.{name}")
    if column.dtype.kind == "b" or (column.dtype.kind not in "iuf" and len(column)):
        raise InputError("expected whole numbers, got something else", place=f"$.requests.{name}")
    with np.errstate(invalid="ignore"):
        good = (column >= 0) & (column < MOST_TOKENS)
        if column.dtype.kind == "f":
            good &= column == np.floor(column)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"expected a whole number of tokens of at least 0, got {column[row]}", place=f"$.requests.{name}[{row}]"
        )
    return np.ascontiguousarray(column, dtype=np.int64)
