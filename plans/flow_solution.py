"""The answer to a flow problem (`gpuplan/flow-solution/1`): layer ranges of nodes and the flow over links."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gpuplan.errors import InputError
from gpuplan.plans.answers import Answer, ResultLike, answer_from_dict, answer_to_dict
from gpuplan.plans.files import read_document, write_document
from gpuplan.plans.validation import check_document

if TYPE_CHECKING:
    from gpuplan.profiles.problems.flow import FlowProblem

SCHEMA: Final = "gpuplan/flow-solution/1"
#: Node numbers that stand for the two ends of the flow.
SOURCE: Final = -1
SINK: Final = -2


@dataclass(frozen=True, slots=True)
class NodeRange:
    """Node number `node` of the problem holds layers ``start..stop−1``."""

    node: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LinkFlow:
    """Tokens/s over the link from `sender` to `receiver`: node numbers, `SOURCE` or `SINK`."""

    sender: int
    receiver: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class FlowSolution:
    """Ranges of the nodes that hold layers, by node number, and the links that carry flow."""

    placement: tuple[NodeRange, ...]
    flows: tuple[LinkFlow, ...]


#: A flow solution as read from a file.
FlowDocument = Answer[FlowSolution]


def flow_solution_to_dict(result: ResultLike, problem: FlowProblem) -> dict[str, Any]:
    """Return the `gpuplan/flow-solution/1` document of `result`, an answer to `problem`."""
    document = answer_to_dict(result, SCHEMA)
    plan = result.plan
    if isinstance(plan, FlowSolution):
        document["objective"] = result.objective
        document["placement"] = {
            problem.node_names[item.node]: {"start": item.start, "stop": item.stop} for item in plan.placement
        }
        document["flows"] = [
            {
                "from": _name(item.sender, problem),
                "to": _name(item.receiver, problem),
                "tokens_per_s": item.tokens_per_s,
            }
            for item in plan.flows
        ]
    return document


def flow_solution_from_dict(
    document: Mapping[str, Any], problem: FlowProblem, *, source: str | None = None
) -> FlowDocument:
    """Return the solution that `document` holds, its nodes as numbers of `problem`.

    Raises
    ------
    InputError
        The document does not follow its schema, or names a node that the problem does not have.
    """
    check_document(document, SCHEMA, source=source)
    return answer_from_dict(document, _plan(document, problem, source))


def save_flow_solution(result: ResultLike, problem: FlowProblem, path: str | os.PathLike[str]) -> None:
    """Write the document of `result` to `path`, whole or not at all; UsageError when it cannot be written."""
    write_document(flow_solution_to_dict(result, problem), path)


def load_flow_solution(path: str | os.PathLike[str], problem: FlowProblem) -> FlowDocument:
    """Read the solution of `problem` at `path`; InputError when the file cannot be used."""
    return flow_solution_from_dict(read_document(path), problem, source=os.fspath(path))


def _name(node: int, problem: FlowProblem) -> str:
    return {SOURCE: "source", SINK: "sink"}.get(node) or problem.node_names[node]


def _plan(document: Mapping[str, Any], problem: FlowProblem, source: str | None) -> FlowSolution | None:
    if "placement" not in document:
        return None
    numbers = {name: i for i, name in enumerate(problem.node_names)}
    ranges = []
    for name, span in document["placement"].items():
        if name not in numbers:
            raise InputError(f"expected nodes of the problem, got {name!r}", source=source, place="$.placement")
        ranges.append(NodeRange(numbers[name], span["start"], span["stop"]))
    ends = numbers | {"source": SOURCE, "sink": SINK}
    flows = []
    for k, item in enumerate(document.get("flows", ())):
        for key in ("from", "to"):
            if item[key] not in ends:
                message = f"expected a node of the problem, source or sink, got {item[key]!r}"
                raise InputError(message, source=source, place=f"$.flows[{k}].{key}")
        flows.append(LinkFlow(ends[item["from"]], ends[item["to"]], item["tokens_per_s"]))
    return FlowSolution(tuple(sorted(ranges, key=lambda item: item.node)), tuple(flows))
