"""Tables of requests as traces hold them: lengths, arrivals, service levels, tenants.

A table is what a file says; `RequestTable.to_requests` makes of it what a batching problem needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from gpuplan.errors import InputError
from gpuplan.profiles.problems.batching import (
    MOST_TOKENS,
    BatchTime,
    FloatArray,
    IdArray,
    IntArray,
    Requests,
    first_repeated,
    id_column,
)

#: Columns of whole tokens, of times in seconds, and of text.
TOKEN_COLUMNS: Final = ("prompt_tokens", "output_tokens", "predicted_output_tokens")
TIME_COLUMNS: Final = ("arrival_s", "deadline_s", "slo_s", "ttft_slo_s", "tpot_slo_s")
TEXT_COLUMNS: Final = ("tenant", "class")
#: Every column a table may have, by its name in files.
COLUMNS: Final = ("id", *TOKEN_COLUMNS, "output_bucket", *TIME_COLUMNS, "weight", *TEXT_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class RequestTable:
    """A checked table of N ≥ 1 requests by column; optional columns are None where the file has none.

    Parameters
    ----------
    id
        Distinct names: whole numbers or text.
    prompt_tokens, output_tokens
        Tokens; `output_tokens` actual or predicted.
    arrival_s
        Arrival from the start of the trace, s.
    predicted_output_tokens, output_bucket
        A predictor's length and bucket beside the actual one.
    deadline_s
        When a request must be finished, s; inf where there is none.
    slo_s
        End-to-end service level from arrival, s; NaN where there is none.
    ttft_slo_s, tpot_slo_s
        Service levels of the first and of each further token, s; NaN where there is none.
    weight
        Share in latency and violations.
    tenant, request_class
        Text (the column ``class`` in files).
    layout
        Name of the layout the table was read as.
    """

    id: IdArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    arrival_s: FloatArray
    predicted_output_tokens: IntArray | None = None
    output_bucket: IntArray | None = None
    deadline_s: FloatArray | None = None
    slo_s: FloatArray | None = None
    ttft_slo_s: FloatArray | None = None
    tpot_slo_s: FloatArray | None = None
    weight: FloatArray | None = None
    tenant: IdArray | None = None
    request_class: IdArray | None = None
    layout: str = "gpuplan"

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", id_column(self.id))
        if not len(self.prompt_tokens):
            raise InputError("expected at least one request, got an empty table")
        row = first_repeated(self.id)
        if row is not None:
            raise InputError(
                f"expected distinct ids, got {self.id.tolist()[row]!r} again; name every request once",
                place=f"row {row + 1}",
            )
        late = self._deadlines() < self.arrival_s
        if late.any():
            row = int(np.argmax(late))
            raise InputError(
                f"expected a deadline no earlier than the arrival, got {self._deadlines()[row]:g} s for request "
                f"{self.id[row]}, which arrives at {self.arrival_s[row]:g} s; deadline_s is an absolute time, slo_s "
                "counts from arrival",
                place=f"row {row + 1}",
            )

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def take(self, rows: ArrayLike) -> RequestTable:
        """Return the requests of `rows` (indices or a mask), in that order."""
        index = np.asarray(rows)
        columns: dict[str, Any] = {
            item.name: None if getattr(self, item.name) is None else getattr(self, item.name)[index]
            for item in dataclasses.fields(self)
            if item.name != "layout"
        }
        return RequestTable(**columns, layout=self.layout)

    def to_requests(self, *, ignore_arrivals: bool = False, slo_s: float | None = None) -> Requests:
        """Return the requests as a batching problem holds them.

        Parameters
        ----------
        ignore_arrivals
            Everything is there at time 0; service levels then count from 0, absolute deadlines stay.
        slo_s
            End-to-end service level of the requests that have no deadline of their own, s.
        """
        deadline = self._deadlines(ignore_arrivals)
        arrival = np.zeros(len(self)) if ignore_arrivals else self.arrival_s
        if slo_s is not None:
            deadline = np.where(np.isinf(deadline), arrival + slo_s, deadline)
        return Requests(
            id=self.id,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            arrival_s=arrival,
            deadline_s=deadline,
            weight=np.ones(len(self)) if self.weight is None else self.weight,
        )

    def _deadlines(self, ignore_arrivals: bool = False) -> FloatArray:
        """Return the earlier of `deadline_s` and arrival + `slo_s`, inf where there is neither, s."""
        deadline: FloatArray = np.full(len(self), np.inf)
        if self.deadline_s is not None:
            deadline = np.where(np.isnan(self.deadline_s), np.inf, self.deadline_s)
        if self.slo_s is not None:
            start = 0.0 if ignore_arrivals else self.arrival_s
            relative = np.where(np.isnan(self.slo_s), np.inf, self.slo_s + start)
            deadline = np.minimum(deadline, relative)
        return deadline


def checked_tokens(column: FloatArray, name: str) -> IntArray:
    """Return token counts as whole numbers; InputError with the row of the first that is none."""
    with np.errstate(invalid="ignore"):
        good = (column >= 0) & (column < MOST_TOKENS) & (column == np.floor(column))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"expected a whole number of tokens of at least 0 in column {name}, got {_cell(column[row])}",
            place=f"row {row + 1}",
        )
    return column.astype(np.int64)


def checked_numbers(column: FloatArray, name: str, *, blanks: bool, negative: bool = False) -> FloatArray:
    """Return times or weights; InputError with the row of the first that is infinite, negative or blank."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(column) & ((column >= 0.0) | negative)
    if blanks:
        good |= np.isnan(column)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"expected a finite number of at least 0 in column {name}, got {_cell(column[row])}",
            place=f"row {row + 1}",
        )
    return column


def _cell(value: float) -> str:
    return "an empty cell or NaN" if np.isnan(value) else f"{value:g}"


#: Above these medians, s, a column of seconds looks like milliseconds.
_LOOKS_LIKE_MS: Final = {"slo_s": 1000.0, "ttft_slo_s": 100.0, "tpot_slo_s": 5.0}
#: From this mean distance of arrivals on, s, whole numbers look like milliseconds.
_GAP_LOOKS_LIKE_MS: Final = 100.0
#: Coefficients from these on look like milliseconds: a decode step of a second, a tenth of a second a token.
_TIME_LOOKS_LIKE_MS: Final = {
    "step_fixed_s": 1.0,
    "step_s_per_sequence": 0.1,
    "step_s_per_context_token": 0.01,
    "prefill_s_per_token": 0.1,
}


def unit_warnings(table: RequestTable) -> tuple[str, ...]:
    """Return a sentence for each column of seconds that looks like milliseconds."""
    return tuple(_table_warnings(table))


def time_warnings(time: BatchTime) -> tuple[str, ...]:
    """Return a sentence for each coefficient of a batch time that looks like milliseconds."""
    return tuple(
        f"{name} is {getattr(time, name):g} s, which looks like milliseconds; coefficients are seconds"
        for name, limit in _TIME_LOOKS_LIKE_MS.items()
        if getattr(time, name) >= limit
    )


def _table_warnings(table: RequestTable) -> Iterator[str]:
    for name, limit in _LOOKS_LIKE_MS.items():
        column = getattr(table, name)
        known = np.empty(0) if column is None else column[np.isfinite(column)]
        if len(known) and float(np.median(known)) >= limit:
            yield _looks(name, f"the median is {np.median(known):g} s")
    arrival = table.arrival_s
    if len(table) >= 10 and bool((arrival == np.floor(arrival)).all()):
        gap = float(arrival.max() - arrival.min()) / (len(table) - 1)
        if gap >= _GAP_LOOKS_LIKE_MS:
            yield _looks("arrival_s", f"requests are {gap:.3g} s apart on average, all at whole seconds")


def _looks(name: str, why: str) -> str:
    other = name.removesuffix("_s") + "_ms"
    return f"{name} looks like milliseconds ({why}); if it is, read it with --column {other}=COLUMN"
