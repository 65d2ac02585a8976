"""Which format a text is in, from its content."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

from gpuplan.errors import InputError
from gpuplan.topology.readers.nvidia_smi import looks_like_topo

Format = Literal["gpuplan", "nvidia-smi"]


def _looks_native(content: str) -> bool:
    """Return whether a text is a JSON object, or YAML with one of the keys every topology has."""
    start = content.lstrip()
    return start.startswith("{") or re.search(r"^(schema|devices|hosts)\s*:", content, re.MULTILINE) is not None


_READABLE: Final[tuple[tuple[Format, str, Callable[[str], bool]], ...]] = (
    ("gpuplan", "gpuplan YAML or JSON", _looks_native),
    ("nvidia-smi", "nvidia-smi topo -m text", looks_like_topo),
)
#: Formats that are recognised by their root element, so that the message can say what the file is.
_LATER: Final = (
    ("NCCL topology XML", re.compile(r"<\s*(system|graphs)\b")),
    ("hwloc XML", re.compile(r"<!DOCTYPE\s+topology|<\s*topology\b")),
)
_TRIED: Final = ", ".join([title for _, title, _ in _READABLE] + [title for title, _ in _LATER])


def detect(content: str) -> Format:
    """Return the format of a text.

    Raises
    ------
    InputError
        No format or more than one fits (the message lists what was tried), or one that is not read yet.
    """
    if content.lstrip().startswith("<"):
        for title, root in _LATER:
            if root.search(content):
                raise InputError(f"{title} is not read yet; give gpuplan YAML or the text of nvidia-smi topo -m")
        raise InputError(f"the format is not known; tried {_TRIED}")
    fitting = [(name, title) for name, title, fits in _READABLE if fits(content)]
    if len(fitting) == 1:
        return fitting[0][0]
    if fitting:
        titles = " and ".join(title for _, title in fitting)
        raise InputError(f"the content is ambiguous: it fits {titles}; keep one of them (tried {_TRIED})")
    raise InputError(f"the format is not known; tried {_TRIED}")
