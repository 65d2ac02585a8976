"""Reader of Slurm's ``topology.conf``: the switches between hosts, as a tree or as blocks.

The file names hosts and switches. What a host is, and what the wires carry, comes from a cluster description or
options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gpuplan.errors import InputError

_STARTS: Final = re.compile(r"^[ \t]*(SwitchName|BlockName)[ \t]*=", re.IGNORECASE | re.MULTILINE)
_PAIR: Final = re.compile(r'(?<![A-Za-z])([A-Za-z]+)\s*=\s*("[^"]*"|\S+)')
_NAME: Final = re.compile(r"^[A-Za-z0-9_.:-]{1,128}$")
_MOST_NAMES: Final = 16384
_KEYS: Final = {
    "switchname": ("switchname", "nodes", "switches", "linkspeed"),
    "blockname": ("blockname", "nodes"),
    "blocksizes": ("blocksizes",),
}
#: Joins the blocks of a file that has blocks; Slurm gives it no name.
CORE: Final = "core"


@dataclass(frozen=True, slots=True)
class SwitchTree:
    """Switches between hosts.

    Parameters
    ----------
    nodes
        Host names in file order.
    parents
        Switch above each switch, None at the top; in file order.
    leaf_of
        Switch (or block) of each host.
    """

    nodes: tuple[str, ...]
    parents: Mapping[str, str | None]
    leaf_of: Mapping[str, str]

    def rack_of(self, node: str) -> str:
        """Return the failure domain of a host: its leaf switch or block."""
        return self.leaf_of[node]


def looks_like_slurm(content: str) -> bool:
    """Return whether a text has a line that starts with SwitchName= or BlockName=."""
    return _STARTS.search(content) is not None


def read_slurm(content: str) -> SwitchTree:
    """Return the switches of a ``topology.conf``.

    Raises
    ------
    InputError
        A line that is no such entry, a host or switch named twice, a switch that is not there, a loop.
    """
    switches: dict[str, tuple[int, list[str], list[str]]] = {}
    blocks, hosts = False, 0
    for number, values in _entries(content):
        kind = next(iter(values))
        place = f"line {number}"
        if kind == "blocksizes":
            continue
        blocks = blocks or kind == "blockname"
        (name,) = _single(values[kind], place)
        if name in switches:
            raise InputError(f"{name} appears twice; give each switch once", place=place)
        nodes = expand_names(values.get("nodes", ""), place)
        below = expand_names(values.get("switches", ""), place)
        hosts += len(nodes) + len(below)
        if hosts > 2 * _MOST_NAMES:
            raise InputError(f"expected at most {_MOST_NAMES} hosts, got more", place=place)
        if not nodes and not below:
            raise InputError(f"{name} has neither Nodes nor Switches", place=place)
        switches[name] = (number, nodes, below)
    kinds = {next(iter(values)) for _, values in _entries(content)} & {"switchname", "blockname"}
    if len(kinds) > 1:
        raise InputError("expected switches or blocks, got both; keep one of them")
    if not switches:
        raise InputError("expected at least one switch or block, got none")
    return _blocks(switches) if blocks else _tree(switches)


def _entries(content: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the keys (lower case) of each entry; comments and blank lines are left out."""
    lines = content.replace("\r\n", "\n").split("\n")
    number = 0
    while number < len(lines):
        start, line = number + 1, lines[number].partition("#")[0].rstrip()
        number += 1
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + " " + lines[number].partition("#")[0].rstrip()
            number += 1
        if line.strip():
            yield start, _entry(line, f"line {start}")


def _entry(line: str, place: str) -> dict[str, str]:
    values: dict[str, str] = {}
    rest = _PAIR.sub("", line).strip()
    for key, value in _PAIR.findall(line):
        if key.lower() in values:
            raise InputError(f"{key} appears twice in one line", place=place)
        values[key.lower()] = value.strip('"')
    first = next(iter(values), "")
    if rest or first not in _KEYS:
        shown = line.strip()[:60]
        message = f"expected SwitchName=…, BlockName=… or BlockSizes=…, got {shown!r}"
        raise InputError(message, place=place)
    for key in values:
        if key not in _KEYS[first]:
            raise InputError(f"unknown key {key!r}; expected {', '.join(_KEYS[first])}", place=place)
    return values


def _single(value: str, place: str) -> list[str]:
    names = expand_names(value, place)
    if len(names) != 1:
        raise InputError(f"expected one name, got {len(names)}", place=place)
    return names


def expand_names(text: str, place: str | None = None) -> list[str]:
    """Return the names of a Slurm list such as ``rack[0-1]n[08-10],login1``.

    >>> expand_names("n[08-10,12],x")
    ['n08', 'n09', 'n10', 'n12', 'x']
    """
    names: list[str] = []
    for part in _split(text, place):
        expanded = [""]
        for piece, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            choices = [piece] if piece else _range(ranges, place)
            if len(expanded) * len(choices) + len(names) > _MOST_NAMES:
                raise InputError(f"expected at most {_MOST_NAMES} names, got more in {part[:40]!r}", place=place)
            expanded = [start + choice for start in expanded for choice in choices]
        names += expanded
    for name in names:
        if not _NAME.match(name):
            raise InputError(f"expected a name, got {name[:40]!r}", place=place)
    return names


def _split(text: str, place: str | None) -> list[str]:
    """Return the comma-separated parts of a list, commas in brackets aside."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            raise InputError(f"expected brackets in pairs, got {text[:60]!r}", place=place)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    if depth:
        raise InputError(f"expected brackets in pairs, got {text[:60]!r}", place=place)
    return [found for found in (*parts, part) if found.strip()]


def _range(text: str, place: str | None) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = re.match(r"^([0-9]{1,9})(?:-([0-9]{1,9}))?$", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"expected a range such as [01-18], got [{text[:40]}]", place=place)
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= _MOST_NAMES:
            raise InputError(f"expected at most {_MOST_NAMES} names, got more in [{text[:40]}]", place=place)
        numbers += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return numbers


# ------------------------------------------------------------------------------------------------------------ building


def _leaves(switches: Mapping[str, tuple[int, list[str], list[str]]]) -> dict[str, str]:
    leaf_of: dict[str, str] = {}
    for name, (number, nodes, _) in switches.items():
        for node in nodes:
            if node in leaf_of:
                message = f"the host {node} is under {leaf_of[node]} and {name}; name each host once"
                raise InputError(message, place=f"line {number}")
            leaf_of[node] = name
    if not leaf_of:
        raise InputError("expected at least one host (Nodes=…), got none")
    return leaf_of


def _blocks(switches: Mapping[str, tuple[int, list[str], list[str]]]) -> SwitchTree:
    leaf_of = _leaves(switches)
    core = CORE
    while core in switches:
        core += "_"
    parents: dict[str, str | None] = {core: None} if len(switches) > 1 else {}
    parents |= dict.fromkeys(switches, core if len(switches) > 1 else None)
    return SwitchTree(tuple(leaf_of), parents, leaf_of)


def _tree(switches: Mapping[str, tuple[int, list[str], list[str]]]) -> SwitchTree:
    leaf_of = _leaves(switches)
    parents: dict[str, str | None] = dict.fromkeys(switches)
    for name, (number, _, below) in switches.items():
        for child in below:
            if child not in switches:
                raise InputError(f"{name} names the switch {child}, which is not there", place=f"line {number}")
            if parents[child] is not None or child == name:
                other = name if child == name else f"{parents[child]} and {name}"
                raise InputError(f"the switch {child} is under {other}; a tree has one above", place=f"line {number}")
            parents[child] = name
    for name in switches:
        _check_loop(name, parents, switches[name][0])
    return SwitchTree(tuple(leaf_of), parents, leaf_of)


def _check_loop(name: str, parents: Mapping[str, str | None], number: int) -> None:
    above: str | None = name
    steps = 0
    while above is not None:
        steps += 1
        if steps > 64:
            message = f"the switches above {name} form a loop or more than 64 levels"
            raise InputError(message, place=f"line {number}")
        above = parents[above]
