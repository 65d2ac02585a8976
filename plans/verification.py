"""One door to the verifiers: the kind of the document decides which one checks it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gpuplan.errors import UsageError
from gpuplan.plans.kinds import BATCH_PLAN, document_kind

if TYPE_CHECKING:
    from gpuplan.plans.device_map import DeviceMap
    from gpuplan.plans.verify.findings import Verification
    from gpuplan.profiles.problems.batching import BatchingProblem
    from gpuplan.profiles.problems.build import PlacementProblem
    from gpuplan.profiles.problems.flow import FlowProblem
    from gpuplan.profiles.problems.placement import DensePlacement

    Problem = PlacementProblem | DensePlacement | FlowProblem | BatchingProblem

#: Kinds that answer a problem of their own file, and what verifies them: module and function.
_VERIFIERS: Final = {
    "gpuplan/device-map": ("gpuplan.plans.verify.device_map", "verify"),
    "gpuplan/deployment": ("gpuplan.plans.verify.deployment", "verify_deployment"),
    BATCH_PLAN: ("gpuplan.plans.verify.batching", "verify_batch_plan"),
    "gpuplan/batching-solution": ("gpuplan.plans.verify.batching", "verify_batching_solution"),
    "gpuplan/flow-solution": ("gpuplan.plans.verify.flow", "verify_flow_solution"),
    "gpuplan/placement-solution": ("gpuplan.plans.verify.solution", "verify_solution"),
}
#: Problem kinds: the solution that answers one, and what reads one (module, from a file, from a document).
_PROBLEMS: Final = {
    "gpuplan/batching-problem": (
        "gpuplan/batching-solution",
        ("gpuplan.profiles.problems.batching_io", "load_batching_problem", "batching_from_dict"),
    ),
    "gpuplan/flow-problem": (
        "gpuplan/flow-solution",
        ("gpuplan.profiles.problems.flow_io", "load_flow_problem", "flow_from_dict"),
    ),
    "gpuplan/placement-problem": (
        "gpuplan/placement-solution",
        ("gpuplan.profiles.problems.placement_io", "load_problem", "placement_from_dict"),
    ),
}


def verify_any(
    plan: DeviceMap | Mapping[str, Any] | str | os.PathLike[str],
    *,
    problem: Problem | Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> Verification:
    """Recompute a plan, or a solution of `problem`, with arithmetic of its own.

    Parameters
    ----------
    plan
        A device map, or the JSON object or the path of a file that holds one: ``gpuplan/device-map``,
        ``gpuplan/deployment``, ``gpuplan/batch-plan``, or a solution.
    problem
        What a solution answers (or whose requests a batch plan holds the digest of): a problem, its document or its
        file. Plans that embed their inputs need none.

    Returns
    -------
    Verification
        ``ok`` only if every constraint holds, every figure is within 1e-6 (relative) of the recomputed one, and the
        certificate is sound: objective, terms, bound on the valid side, gap, and no ``optimal`` without proof.

    Raises
    ------
    InputError
        A file or object of no such kind, or of another version.
    UsageError
        A solution without its problem.

    Notes
    -----
    Shares no code with any solver, nor with the cost, route and memory code a plan was built by.
    That a bound is proven cannot be seen from a plan; what is checked is that nothing in it contradicts it.
    """
    if not isinstance(plan, Mapping | str | os.PathLike):
        return _verifier("gpuplan/deployment" if hasattr(plan, "replicas") else "gpuplan/device-map")(plan)
    kind = document_kind(plan)
    if problem is None:
        if any(kind == solution for solution, _ in _PROBLEMS.values()):
            named = "this document" if isinstance(plan, Mapping) else os.fspath(plan)
            raise UsageError(f"{named} is a solution: name the problem it answers with --problem PROBLEM (problem=)")
        return _verifier(kind if kind in _VERIFIERS else "gpuplan/device-map")(plan)
    asked = _problem_kind(problem)
    answer = _PROBLEMS[asked][0]
    return _verifier(BATCH_PLAN if kind == BATCH_PLAN else answer)(plan, _read_problem(problem, asked))


def _verifier(kind: str) -> Callable[..., Verification]:
    module, function = _VERIFIERS[kind]
    found: Callable[..., Verification] = getattr(importlib.import_module(module), function)
    return found


def _problem_kind(problem: Any) -> str:
    if isinstance(problem, Mapping | str | os.PathLike):
        kind = document_kind(problem)
        # Whatever names no kind is read as a placement problem, whose reader says what is wrong with it.
        return kind if kind in _PROBLEMS else "gpuplan/placement-problem"
    from gpuplan.profiles.problems.batching import BatchingProblem
    from gpuplan.profiles.problems.build import PlacementProblem
    from gpuplan.profiles.problems.flow import FlowProblem
    from gpuplan.profiles.problems.placement import DensePlacement

    if isinstance(problem, BatchingProblem):
        return "gpuplan/batching-problem"
    if isinstance(problem, FlowProblem):
        return "gpuplan/flow-problem"
    if isinstance(problem, PlacementProblem | DensePlacement):
        return "gpuplan/placement-problem"
    raise UsageError(f"expected a problem, its document or the path of its file, got {type(problem).__name__}")


def _read_problem(problem: Any, kind: str) -> Any:
    _, (module, from_file, from_document) = _PROBLEMS[kind]
    if isinstance(problem, Mapping):
        return getattr(importlib.import_module(module), from_document)(problem)
    if isinstance(problem, str | os.PathLike):
        return getattr(importlib.import_module(module), from_file)(problem)
    return problem.dense() if hasattr(problem, "dense") else problem
