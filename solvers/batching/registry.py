"""Every batching solver and policy by name: what it is, where it lives, whether it takes a problem.

A method is a module with

    solve(problem: BatchingProblem, limits: Limits, seed: int, **options) -> Result[BatchSolution]
    supports(problem: BatchingProblem) -> str | None      # optional: None, or one sentence why not, with the mend

and one line here. Modules load when they run.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, Protocol

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.batch_solution import BatchSolution
from gpuplan.profiles.problems.batching import BatchingProblem
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result

Kind = Literal["exact", "bounded", "heuristic", "baseline"]
_POLICIES = "gpuplan.solvers.batching.policies"


class BatchingSolver(Protocol):
    """What a method's ``solve`` looks like."""

    def __call__(self, problem: BatchingProblem, limits: Limits, seed: int, **options: Any) -> Result[BatchSolution]:
        """Return the answer to `problem`."""


@dataclass(frozen=True, slots=True)
class BatchingEntry:
    """One method.

    kind
        ``exact`` (proves its optimum, given time), ``bounded`` (a plan with a proven gap), ``heuristic`` (searches,
        proves nothing), ``baseline`` (a published rule).
    home
        Module with its ``solve``.
    options
        Names and defaults of what a caller may choose.
    preset
        Options that this name fixes.
    requires
        Modules that must be installed.
    """

    name: str
    kind: Kind
    doc: str
    home: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()

    def available(self) -> bool:
        """Whether everything it needs is installed; imports nothing."""
        return all(importlib.util.find_spec(module) is not None for module in self.requires)

    def module(self) -> ModuleType:
        """Return the module it lives in."""
        return importlib.import_module(self.home)

    def refusal(self, problem: BatchingProblem) -> str | None:
        """Return why it cannot take `problem`, or None."""
        supports = getattr(self.module(), "supports", None)
        reason = None if supports is None else supports(problem)
        assert reason is None or isinstance(reason, str)
        return reason

    def check(self, problem: BatchingProblem) -> None:
        """Refuse a problem the method cannot take, with the mend (SolverUnavailableError, UnsupportedError)."""
        if not self.available():
            missing = ", ".join(m for m in self.requires if importlib.util.find_spec(m) is None)
            raise SolverUnavailableError(f"solver {self.name} needs {missing}; install it with pip install {missing}")
        reason = self.refusal(problem)
        if reason is not None:
            raise UnsupportedError(f"solver {self.name} cannot take this problem: {reason}")

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return preset, defaults and `options` together; UsageError for an option it does not have."""
        for name in options:
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "none"
                raise UsageError(f"solver {self.name} has no option {name!r}; its options are {known}")
        return {**self.options, **options, **self.preset}

    def run(self, problem: BatchingProblem, limits: Limits, seed: int, **options: Any) -> Result[BatchSolution]:
        """Run the method; the caller has checked."""
        result: Result[BatchSolution] = self.module().solve(problem, limits, seed, **self.check_options(options))
        return result


def _policy(name: str, doc: str, module: str | None = None, **options: Any) -> BatchingEntry:
    home = f"{_POLICIES}.{module or name.replace('-', '_')}"
    return BatchingEntry(name=name, kind="baseline", doc=doc, home=home, options=options)


_WEIGHTS: dict[str, Any] = {"threshold": None, "w1": None, "w2": None, "L1": 1.0, "L2": 1.0}
_READINGS: dict[str, Any] = {"sign": "minus", "weights": "names"}


def _uellm(variant: str, form: str, doc: str) -> BatchingEntry:
    return BatchingEntry(
        name=variant if form == "tuned" else f"{variant}-{form}",
        kind="baseline",
        doc=doc,
        home=f"{_POLICIES}.slo_odbs",
        options={} if form == "authors" else _WEIGHTS | _READINGS,
        preset={"variant": variant, "form": form},
    )


_EXACT = "gpuplan.solvers.batching.exact"
_HEURISTICS = "gpuplan.solvers.batching.heuristics"

ENTRIES: tuple[BatchingEntry, ...] = (
    BatchingEntry(
        name="auto",
        kind="bounded",
        doc="dp, subset-dp, colgen, or constructions with bound and search, by the problem",
        home="gpuplan.solvers.batching.auto",
        options={"seconds": 5.0},
    ),
    BatchingEntry(
        name="dp", kind="exact", doc="one length key: contiguous batches, a million in 0.1 s", home=f"{_EXACT}.dp"
    ),
    BatchingEntry(
        name="subset-dp",
        kind="exact",
        doc="every set of up to 13-18 requests, any objective",
        home=f"{_EXACT}.subset_dp",
    ),
    BatchingEntry(
        name="colgen",
        kind="exact",
        doc="column generation with branching and boxes, up to 600 requests",
        home=f"{_EXACT}.colgen",
        options={"close": True},
        requires=("scipy",),
    ),
    BatchingEntry(
        name="ilp",
        kind="exact",
        doc="leader form on HiGHS or CBC (PuLP), up to about 50 requests",
        home=f"{_EXACT}.ilp",
        options={"engine": None},
        requires=("scipy", "pulp"),
    ),
    BatchingEntry(
        name="cp-sat",
        kind="exact",
        doc="optional intervals: executors, arrivals, deadlines, few requests",
        home=f"{_EXACT}.cp_sat",
        requires=("ortools",),
    ),
    BatchingEntry(
        name="bands",
        kind="bounded",
        doc="band orders, deadline blocks or dispatching, with a bound; any size",
        home=f"{_HEURISTICS}.construct",
        options={"bound": True},
    ),
    BatchingEntry(
        name="lns",
        kind="bounded",
        doc="neighbourhood search from the best construction, with a bound",
        home=f"{_HEURISTICS}.lns",
        options={"seconds": 5.0, "bound": True},
    ),
    BatchingEntry(
        name="best-policy",
        kind="heuristic",
        doc="the best of nine policies",
        home="gpuplan.solvers.batching.portfolio",
    ),
    _policy("fifo", "requests in order of arrival, batches filled to the limits"),
    _policy("sjf", "shortest predicted job first"),
    _policy("ljf", "longest predicted job first"),
    _policy("edf", "earliest deadline first"),
    _policy("priority", "highest weight first, with ageing", ageing_per_s=0.01),
    _uellm("slo-odbs", "tuned", "UELLM: SLO and output length, threshold and weights tuned"),
    _uellm("slo-odbs", "paper", "UELLM as printed, threshold tuned unless given"),
    _uellm("slo-odbs", "authors", "UELLM as coded by its authors"),
    _uellm("slo-dbs", "tuned", "UELLM's SLO term alone, threshold tuned"),
    _uellm("slo-dbs", "paper", "UELLM's SLO term alone, as printed"),
    _uellm("slo-dbs", "authors", "UELLM's code, sorted by SLO alone"),
    _uellm("odbs", "tuned", "UELLM's output-length term alone, threshold tuned"),
    _uellm("odbs", "paper", "UELLM's output-length term alone, as printed"),
    _uellm("odbs", "authors", "UELLM's code, sorted by output length alone"),
    _policy("s3", "decreasing first fit on predicted KV memory, in buckets", buckets=10),
    _policy("s3-nextfit", "next fit by rising output, as UELLM ran S³", output_budget=1024, size_limit=20),
    _policy("multi-bin", "batches within bins of like output length", bins=8),
)


def batching_names() -> tuple[str, ...]:
    """Return every name, in the order of the registry."""
    return tuple(entry.name for entry in ENTRIES)


def find_batching(name: str) -> BatchingEntry:
    """Return the entry called `name`; UsageError with the closest one when there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    close = difflib.get_close_matches(name, batching_names(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(batching_names())}"
    raise UsageError(f"no batching solver or policy is called {name!r}; {hint}")
