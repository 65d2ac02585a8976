"""Every placement solver by name: what it is, what it supports, whether it can run here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from gpuplan.errors import SolverUnavailableError, UnsupportedError, UsageError
from gpuplan.plans.placement_solution import PlacementSolution
from gpuplan.profiles.problems.placement import DensePlacement, ObjectiveName
from gpuplan.solvers.result import Result

if TYPE_CHECKING:
    from gpuplan.solvers.placement.cross_checks import CrossCheck

Kind = Literal["exact", "bounded", "baseline"]
PlacementSolver = Callable[..., Result[PlacementSolution]]

_ALL: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
_MILP: tuple[ObjectiveName, ...] = ("latency", "bottleneck", "efficiency", "balanced", "cost")


@dataclass(frozen=True, slots=True)
class SolverEntry:
    """One solver.

    kind
        ``exact`` (proves its optimum, given time), ``bounded`` (a plan with a proven gap), ``baseline`` (a rule).
    objectives
        Dense objectives it takes; `front` says whether it finds whole fronts, `warm_start` whether it takes a plan
        to start from.
    home, engine
        Module with its ``solve(problem, limits, seed)``, or the engine of the exact solver.
    requires
        Modules that must be installed.
    options
        Further arguments of its ``solve``.
    model_suffixes
        Endings of the model files its module writes (``write_model(problem, path)``).
    """

    name: str
    kind: Kind
    doc: str
    objectives: tuple[ObjectiveName, ...] = _ALL
    front: bool = False
    warm_start: bool = False
    home: str | None = None
    engine: str | None = None
    requires: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    model_suffixes: tuple[str, ...] = ()

    def available(self) -> bool:
        """Whether everything it needs is installed; imports nothing."""
        return all(importlib.util.find_spec(module) is not None for module in self.requires)

    def check(self, problem: DensePlacement) -> None:
        """Refuse a problem the solver cannot take, with the mend."""
        if not self.available():
            missing = ", ".join(m for m in self.requires if importlib.util.find_spec(m) is None)
            install = missing.replace(",", "")
            raise SolverUnavailableError(f"solver {self.name} needs {missing}; install it with pip install {install}")
        if problem.front and not self.front:
            raise UnsupportedError(f"solver {self.name} gives one plan, not a front; use auto, dp or labels")
        if not problem.front and problem.objective.name not in self.objectives:
            raise UnsupportedError(
                f"solver {self.name} does not take the objective {problem.objective.name}; use auto, dp or labels"
            )

    def solver(self) -> PlacementSolver:
        """Return the callable ``(problem, limits, seed) -> Result``."""
        if self.home is None:
            raise UnsupportedError(f"solver {self.name} runs through gpuplan.solvers.solve")
        solve: PlacementSolver = importlib.import_module(self.home).solve
        return partial(solve, **self.options) if self.options else solve

    def cross_check(self) -> CrossCheck | None:
        """Return the generic model behind it, which takes groups of devices, too; None for other solvers."""
        if self.home is None or not self.model_suffixes:
            return None
        method: CrossCheck = importlib.import_module(self.home).METHOD
        return method

    def write_model(self, problem: DensePlacement, path: str | Path) -> None:
        """Write the solver's model of a problem to a file that ends as one of `model_suffixes`."""
        if self.home is None or not self.model_suffixes:
            raise UnsupportedError(f"solver {self.name} has no model to write; use milp-blocks, milp-layers or cp-sat")
        importlib.import_module(self.home).write_model(problem, path, **self.options)


def _rule(name: str, module: str, doc: str) -> SolverEntry:
    return SolverEntry(name, "baseline", doc, home=f"gpuplan.solvers.placement.baselines.{module}")


def _linear(name: str, module: str, doc: str) -> tuple[SolverEntry, SolverEntry]:
    """Return a linear form on HiGHS and on CBC."""
    highs = SolverEntry(
        name,
        "exact",
        f"{doc}, solved by HiGHS",
        _MILP,
        warm_start=True,
        home=f"gpuplan.solvers.placement.{module}",
        requires=("scipy",),
        model_suffixes=(".lp", ".mps"),
    )
    on_cbc = {
        "name": f"{name}-cbc",
        "doc": f"{doc}, solved by CBC",
        "requires": ("pulp",),
        "options": {"engine": "cbc"},
    }
    return highs, replace(highs, **on_cbc)  # type: ignore[arg-type]


def _constraint() -> tuple[SolverEntry, SolverEntry]:
    """Return the constraint programme over a circuit of devices, and over their positions."""
    circuit = SolverEntry(
        "cp-sat",
        "exact",
        "constraint programme over a circuit of devices, solved by OR-Tools CP-SAT",
        _MILP,
        warm_start=True,
        home="gpuplan.solvers.placement.constraint",
        requires=("ortools",),
        model_suffixes=(".pb", ".txt"),
    )
    doc = "the same over the devices' positions in the pipeline"
    return circuit, replace(circuit, name="cp-sat-positions", doc=doc, options={"form": "positions"})


_ENTRIES: tuple[SolverEntry, ...] = (
    SolverEntry(
        "auto",
        "exact",
        "dp, quotient or labels, by size and structure of the problem",
        front=True,
        warm_start=True,
        engine="auto",
    ),
    SolverEntry(
        "dp", "exact", "vector-label dynamic programme without pruning", front=True, warm_start=True, engine="dp"
    ),
    SolverEntry(
        "labels",
        "exact",
        "Lagrangian bound, beam, then a pruned label search",
        front=True,
        warm_start=True,
        engine="labels",
        requires=("numba",),
    ),
    SolverEntry(
        "quotient",
        "exact",
        "kinds of hosts in racks instead of devices, for clusters with a hierarchy; labels where there is none",
        front=True,
        warm_start=True,
        engine="quotient",
        requires=("numba",),
    ),
    SolverEntry(
        "beam",
        "bounded",
        "Lagrangian bound and beams of up to 1,000 labels: a plan with a proven gap",
        warm_start=True,
        engine="beam",
        requires=("numba",),
    ),
    *_linear("milp-blocks", "milp", "mixed-integer programme over blocks and links"),
    *_linear("milp-layers", "milp_layers", "mixed-integer programme layer by layer, the compact form"),
    *_constraint(),
    SolverEntry(
        "dp-naive",
        "exact",
        "textbook dynamic programme over sets of devices, plain Python, up to 12 devices",
        _MILP,
        warm_start=True,
        home="gpuplan.solvers.placement.dp_naive",
    ),
    _rule("even", "even", "equally many layers on every device, in device order"),
    _rule("memory", "memory", "layers in proportion to memory (llama.cpp's rule)"),
    _rule("accelerate-sequential", "accelerate_sequential", "fill each device before the next (accelerate)"),
    _rule("accelerate-balanced", "accelerate_balanced", "fill devices up to an equal share (accelerate's default)"),
    _rule("bgs", "best_first", "greedy best-first search"),
    _rule("published", "published", "the published HELR procedure, repaired"),
    _rule("random", "random_plans", "best of random plans"),
)


def list_solvers() -> tuple[SolverEntry, ...]:
    """Return every solver whose code ships, exact ones first."""
    return tuple(entry for entry in _ENTRIES if entry.home is None or importlib.util.find_spec(entry.home) is not None)


def find_solver(name: str) -> SolverEntry:
    """Return a solver by name; UsageError with the closest name for an unknown one."""
    for entry in list_solvers():
        if entry.name == name:
            return entry
    import difflib

    names = [entry.name for entry in list_solvers()]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; the solvers are {', '.join(names)}"
    raise UsageError(f"expected the name of a solver, got {name!r}{hint}")
