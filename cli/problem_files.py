"""``--write-model``: the problem itself as a file, plain numbers or a MILP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.cli.output import to_json, write_text
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.profiles import PlacementProblem
    from gpuplan.profiles.problems.placement import DensePlacement
    from gpuplan.solvers.registry import SolverEntry


def write_problem(problem: DensePlacement, path: str, solver: str = "auto") -> None:
    """Write a problem as `gpuplan/placement-problem/1` (.json), or as the model of a solver that writes that ending.

    `solver` decides where it writes such files itself; else .lp and .mps are of milp-blocks, .pb and .txt of cp-sat.
    """
    if Path(path).suffix.lower() == ".json":
        from gpuplan.profiles import placement_to_dict

        write_text(path, to_json(placement_to_dict(problem)))
        return
    _writer(path, solver).write_model(problem, path)


def write_any_problem(problem: PlacementProblem, path: str, solver: str = "auto") -> None:
    """Write a problem of single devices or of groups."""
    if problem.single_devices:
        write_problem(problem.dense(), path, solver)
    else:
        _write_groups(problem, path, solver)


def _write_groups(problem: PlacementProblem, path: str, solver: str) -> None:
    """Write a problem whose stages are groups as the model of a solver: `gpuplan/placement-problem/1` has none."""
    if Path(path).suffix.lower() == ".json":
        raise UsageError(
            "--write-model: a problem file knows stages of single devices, not groups; write .lp, .mps, .pb or .txt, "
            "or use --tensor-parallel 1"
        )
    from gpuplan.solvers.placement.groups.solve import write_model_of_groups

    write_model_of_groups(problem, _writer(path, solver), path)


def _writer(path: str, solver: str) -> SolverEntry:
    """Return the solver whose model a file holds: `solver` where it writes such files, else the first that does."""
    from gpuplan.solvers.registry import list_solvers

    suffix = Path(path).suffix.lower()
    writers = {entry.name: entry for entry in list_solvers() if suffix in entry.model_suffixes}
    entry = writers.get(solver) or next(iter(writers.values()), None)
    if entry is None:
        raise UsageError(f"--write-model: expected a file ending in .json, .lp, .mps, .pb or .txt, got {path!r}")
    return entry
