"""Reads and writes `gpuplan/flow-problem/1`.

A pair of nodes without a link and a link of capacity 0 mean the same and read the same; the writer leaves both out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from gpuplan.errors import InputError
from gpuplan.profiles.problems.documents import read_document
from gpuplan.profiles.problems.fields import Fields
from gpuplan.profiles.problems.flow import FloatArray, FlowProblem, IntArray
from gpuplan.profiles.problems.placement_io import check_schema
from gpuplan.profiles.records import as_float, show

SCHEMA: Final = "gpuplan/flow-problem/1"
SOURCE: Final = "source"
SINK: Final = "sink"

_KEYS = ("schema", "name", "comment", "num_layers", "throughput_tokens_per_s", "nodes", "links", "max_hops")
_LINK_KEYS = ("from", "to", "capacity_tokens_per_s")


def load_flow_problem(path: str | Path) -> FlowProblem:
    """Read a flow-problem file (JSON or YAML).

    Raises
    ------
    InputError
        The file cannot be used; the message names the file and the JSON path.
    """
    return flow_from_dict(read_document(path), source=str(path))


def flow_from_dict(document: Any, source: str | None = None) -> FlowProblem:
    """Return the problem that a `gpuplan/flow-problem/1` document holds.

    Raises
    ------
    InputError
        With the JSON path of the first defect found.
    """
    check_schema(document, SCHEMA, source)
    root = Fields(document, source=source, keys=_KEYS)
    root.text("comment", "", empty=True)
    num_layers = root.whole("num_layers", minimum=1)
    kinds, throughput = _throughput(root)
    names, node_kinds = _nodes(root, kinds)
    links, from_source, to_sink = _links(root, names)
    return FlowProblem(
        num_layers=num_layers,
        kind_names=kinds,
        throughput_tokens_per_s=throughput,
        node_names=names,
        node_kinds=node_kinds,
        link_tokens_per_s=links,
        source_tokens_per_s=from_source,
        sink_tokens_per_s=to_sink,
        max_hops=_max_hops(root),
        name=root.text("name", "", empty=True),
    )


def _throughput(root: Fields) -> tuple[tuple[str, ...], tuple[FloatArray, ...]]:
    key = "throughput_tokens_per_s"
    value = root.get(key, "an object with one list a kind")
    if not isinstance(value, Mapping) or not value:
        root.fail(f"expected an object with at least one kind, got {show(value)}", key)
    for kind, row in value.items():
        if not isinstance(kind, str) or not kind:
            root.fail(f"expected kinds to be non-empty text, got {show(kind)}", key)
        if not isinstance(row, list):
            root.fail(f"expected a list of tokens/s for 1, 2, … layers, got {show(row)}", f"{key}.{kind}")
    table = Fields(value, path=f"$.{key}", source=root.source, keys=value)
    return tuple(value), tuple(table.vector(kind, len(row), "number of layers") for kind, row in value.items())


def _nodes(root: Fields, kinds: tuple[str, ...]) -> tuple[tuple[str, ...], IntArray]:
    numbers = {kind: k for k, kind in enumerate(kinds)}
    first: dict[str, int] = {}
    chosen = []
    for i, node in enumerate(root.records("nodes", ("name", "kind"), least=1)):
        name, kind = node.text("name"), node.text("kind")
        if name in (SOURCE, SINK):
            node.fail(f"expected a name other than {SOURCE!r} and {SINK!r}, got {name!r}; rename the node", "name")
        if name in first:
            node.fail(f"expected distinct node names, got {name!r} again (first at $.nodes[{first[name]}])", "name")
        if kind not in numbers:
            node.fail(f"expected one of the kinds {', '.join(kinds)}, got {show(kind)}", "kind")
        first[name] = i
        chosen.append(numbers[kind])
    return tuple(first), np.array(chosen, dtype=np.int64)


def _links(root: Fields, names: tuple[str, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the capacities node → node, source → node and node → sink."""
    size = len(names)
    table = np.zeros((size + 1, size + 1))  # row `size`: the source; column `size`: the sink
    senders = {name: i for i, name in enumerate(names)} | {SOURCE: size}
    receivers = {name: i for i, name in enumerate(names)} | {SINK: size}
    items = root.get("links", "a list of links")
    if not isinstance(items, list):
        root.fail(f"expected a list of links, got {show(items)}", "links")
    first: dict[tuple[int, int], int] = {}
    for index, item in enumerate(items):
        pair, capacity = _link(root, item, index, senders, receivers)
        if pair in first:
            message = f"expected at most one link a pair, got another one (first at $.links[{first[pair]}])"
            _fail_link(root, index, message)
        first[pair] = index
        table[pair] = capacity
    return table[:size, :size].copy(), table[size, :size].copy(), table[:size, size].copy()


def _link(
    root: Fields, item: Any, index: int, senders: Mapping[str, int], receivers: Mapping[str, int]
) -> tuple[tuple[int, int], float]:
    # Tens of thousands of links are common, so the usual case takes no detour through Fields.
    if type(item) is dict and len(item) == 3:
        pair = _known(senders, item.get("from")), _known(receivers, item.get("to"))
        capacity = as_float(item.get("capacity_tokens_per_s"))
        usual = capacity is not None and 0.0 <= capacity < float("inf") and None not in pair
        if usual and pair[0] != pair[1]:
            return pair, capacity  # type: ignore[return-value]
    raise _link_error(root, item, index, senders, receivers)


def _known(numbers: Mapping[str, int], name: Any) -> int | None:
    return numbers.get(name) if isinstance(name, str) else None


def _link_error(
    root: Fields, item: Any, index: int, senders: Mapping[str, int], receivers: Mapping[str, int]
) -> InputError:
    """Return what is wrong with a link that is not as usual."""
    fields = Fields(item, path=f"$.links[{index}]", source=root.source, keys=_LINK_KEYS)
    for key, known, word in (("from", senders, SOURCE), ("to", receivers, SINK)):
        name = fields.text(key)
        if name not in known:
            fields.fail(f"expected a node or {word!r}, got {show(name)}", key)
    fields.number("capacity_tokens_per_s")
    sender = fields.text("from")
    ends = f"one from {SOURCE!r} to {SINK!r}" if sender == SOURCE else f"one from {sender!r} to itself"
    message = f"expected a link between two nodes, or a node and one end, got {ends}; remove it"
    return InputError(message, source=root.source, place=fields.path)


def _fail_link(root: Fields, index: int, message: str) -> NoReturn:
    raise InputError(f"{message}; remove one", source=root.source, place=f"$.links[{index}]")


def _max_hops(root: Fields) -> int | None:
    value = root.value.get("max_hops")
    if value is None:
        return None
    number = as_float(value)
    if number is None or not number >= 0.0 or number != number // 1:
        root.fail(f"expected a whole number of at least 0, or null, got {show(value)}", "max_hops")
    return int(number)


def flow_to_dict(problem: FlowProblem) -> dict[str, Any]:
    """Return the `gpuplan/flow-problem/1` document of a problem; `flow_from_dict` takes it back."""
    names, kinds = problem.node_names, problem.kind_names
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "num_layers": problem.num_layers,
        "throughput_tokens_per_s": {
            kind: row.tolist() for kind, row in zip(kinds, problem.throughput_tokens_per_s, strict=True)
        },
        "nodes": [
            {"name": name, "kind": kinds[kind]} for name, kind in zip(names, problem.node_kinds.tolist(), strict=True)
        ],
        "links": _link_list(problem),
        "max_hops": problem.max_hops,
    }
    if problem.name:
        document["name"] = problem.name
    return document


def _link_list(problem: FlowProblem) -> list[dict[str, Any]]:
    names = problem.node_names
    links = [(SOURCE, name, c) for name, c in zip(names, problem.source_tokens_per_s.tolist(), strict=True)]
    links += [
        (names[i], names[j], float(problem.link_tokens_per_s[i, j]))
        for i, j in np.argwhere(problem.link_tokens_per_s > 0.0).tolist()
    ]
    links += [(name, SINK, c) for name, c in zip(names, problem.sink_tokens_per_s.tolist(), strict=True)]
    return [dict(zip(_LINK_KEYS, link, strict=True)) for link in links if link[2] > 0.0]
