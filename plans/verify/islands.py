"""Islands, found anew from the links a plan embeds: a stage's devices lie inside one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

#: Kinds of links that scale up begin so.
SCALE_UP = ("nvlink", "xgmi")

Graph = dict[str, list[str]]


def island_numbers(topology: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each device's island.

    Devices that NVLink (then XGMI) links join, directly or over switches, form an island. The others of a host do, as
    far as they reach each other over links that stay on the host and cross no device outside of the island.
    """
    names = [device["name"] for device in topology["devices"]]
    found: dict[str, int] = {}
    for kind in SCALE_UP:
        graph = _graph(link for link in topology["links"] if link["kind"].startswith(kind))
        # A device alone on its links is no island of their kind.
        _number(found, [group for group in _groups(_left(names, found), graph) if len(group) > 1])
    left = _left(names, found)
    _number(found, _groups(left, _graph(_links_inside_hosts(topology, left))))
    return found


def _left(names: Sequence[str], found: Mapping[str, int]) -> list[str]:
    return [name for name in names if name not in found]


def _number(found: dict[str, int], groups: Iterable[Sequence[str]]) -> None:
    first = len(set(found.values()))
    for number, group in enumerate(groups, start=first):
        found.update(dict.fromkeys(group, number))


def _links_inside_hosts(topology: Mapping[str, Any], names: Collection[str]) -> Iterable[Mapping[str, Any]]:
    components = topology.get("components", ())
    hosts = {part["name"]: part.get("host") for part in [*components, *topology["devices"]]}
    passed = {part["name"] for part in components if part.get("role") != "device"} | set(names)
    for link in topology["links"]:
        ends = link["a"], link["b"]
        if hosts.get(ends[0]) is not None and hosts[ends[0]] == hosts.get(ends[1]) and passed.issuperset(ends):
            yield link


def _graph(links: Iterable[Mapping[str, Any]]) -> Graph:
    graph: Graph = {}
    for link in links:
        graph.setdefault(link["a"], []).append(link["b"])
        graph.setdefault(link["b"], []).append(link["a"])
    return graph


def _groups(names: Sequence[str], graph: Graph) -> list[list[str]]:
    """Return `names` in groups that the graph joins."""
    group_of: dict[str, int] = {}
    groups: list[list[str]] = []
    for name in names:
        if name not in group_of:
            _reach(name, graph, len(groups), group_of)
            groups.append([])
        groups[group_of[name]].append(name)
    return groups


def _reach(first: str, graph: Graph, number: int, group_of: dict[str, int]) -> None:
    """Give all that the graph joins to `first` its group's number."""
    group_of[first] = number
    open_ = [first]
    while open_:
        for other in graph.get(open_.pop(), ()):
            if other not in group_of:
                group_of[other] = number
                open_.append(other)
