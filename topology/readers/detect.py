"""Which format a text is in, from its content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from gpuplan.errors import InputError
from gpuplan.topology.readers.nvidia_smi import looks_like_topo
from gpuplan.topology.readers.slurm import looks_like_slurm

Format = Literal["gpuplan", "nvidia-smi", "nccl", "hwloc", "slurm"]


def _looks_native(content: str) -> bool:
    """Return whether a text is a JSON object, or YAML with one of the keys every topology has."""
    start = content.lstrip()
    return start.startswith("{") or re.search(r"^(schema|devices|hosts)\s*:", content, re.MULTILINE) is not None


_TEXTS: Final[tuple[tuple[Format, str, Callable[[str], bool]], ...]] = (
    ("gpuplan", "gpuplan YAML or JSON", _looks_native),
    ("nvidia-smi", "nvidia-smi topo -m text", looks_like_topo),
    ("slurm", "Slurm topology.conf", looks_like_slurm),
)
#: XML formats, by root element.
_ROOTS: Final[Mapping[str, Format]] = {"system": "nccl", "graphs": "nccl", "topology": "hwloc"}
_TRIED: Final = ", ".join([title for _, title, _ in _TEXTS] + ["NCCL topology XML", "hwloc XML"])
_BLANK: Final = re.compile(r"\s*")
_ROOT: Final = re.compile(r"<([A-Za-z_][\w.:-]*)")


def detect(content: str) -> Format:
    """Return the format of a text.

    Raises
    ------
    InputError
        No format or more than one fits (the message lists what was tried).
    """
    if content.lstrip().startswith("<"):
        return _detect_xml(content)
    fitting = [(name, title) for name, title, fits in _TEXTS if fits(content)]
    if len(fitting) == 1:
        return fitting[0][0]
    if fitting:
        titles = " and ".join(title for _, title in fitting)
        raise InputError(f"the content is ambiguous: it fits {titles}; keep one of them (tried {_TRIED})")
    raise InputError(f"the format is not known; tried {_TRIED}")


def _detect_xml(content: str) -> Format:
    """Return the format of XML by its root element."""
    root = _ROOT.match(content, _end_of_prologue(content))
    if root is None or root[1] not in _ROOTS:
        what = f"XML with the root <{root[1][:40]}>" if root else "XML without a root element"
        raise InputError(f"the format is not known: {what}; tried {_TRIED}")
    return _ROOTS[root[1]]


def _end_of_prologue(content: str) -> int:
    """Return where the root element may start: after a declaration, comments and a document type."""
    position = 0
    while True:
        blank = _BLANK.match(content, position)
        position = blank.end() if blank else position
        for start, end in (("<?", "?>"), ("<!--", "-->"), ("<!DOCTYPE", ">")):
            if content.startswith(start, position):
                closing = _end_of_doctype(content, position) if end == ">" else content.find(end, position) + len(end)
                if closing <= position:
                    return len(content)
                position = closing
                break
        else:
            return position


def _end_of_doctype(content: str, position: int) -> int:
    """Return where a document type ends, 0 when it does not; what it declares stands in brackets."""
    closing, bracket = content.find(">", position), content.find("[", position)
    if -1 < bracket < closing:
        closing = content.find(">", content.find("]", bracket)) if "]" in content[bracket:] else -1
    return closing + 1
