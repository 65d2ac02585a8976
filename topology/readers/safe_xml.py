"""XML from strangers: entities, external references, huge, deep and broken documents end in one sentence."""

from __future__ import annotations

from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from gpuplan.errors import InputError

#: Limits far above what real machines need: a host of 1,000 cores takes 2 MB and 30 levels.
_MOST_CHARACTERS: Final = 8 << 20
_MOST_LEVELS: Final = 100
_MOST_ELEMENTS: Final = 200_000


class _Limited(TreeBuilder):
    """A tree builder that stops at documents which are too deep or have too many elements."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._count = 0

    def start(self, tag: Any, attrs: Any, /) -> Element:
        """Begin an element, within the limits."""
        self._depth += 1
        self._count += 1
        if self._depth > _MOST_LEVELS:
            raise InputError(f"expected XML of at most {_MOST_LEVELS} levels, got more; no machine is nested so deep")
        if self._count > _MOST_ELEMENTS:
            raise InputError(f"expected XML of at most {_MOST_ELEMENTS} elements, got more; give one host's file")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Element:
        """End an element."""
        self._depth -= 1
        return super().end(tag)


def parse_xml(content: str) -> Element:
    """Return the root element of a document.

    Raises
    ------
    InputError
        XML that is not well-formed (with its line), declares entities, refers to external ones, or is too large.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    if len(content) > _MOST_CHARACTERS:
        mib = _MOST_CHARACTERS >> 20
        raise InputError(f"expected XML of at most {mib} MiB, got {len(content) / 2**20:.1f} MiB; give one host's file")
    # hwloc writes a DOCTYPE line, so that alone is no reason to refuse; nothing it names is ever opened.
    parser = DefusedXMLParser(target=_Limited(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(content)
        root: Element = parser.close()
    except ParseError as error:
        line = error.position[0]
        reason = str(error).partition(":")[0]
        raise InputError(f"not valid XML: {reason}; save the whole file again", place=f"line {line}") from None
    except DefusedXmlException as error:
        what = "declares an entity" if "Entities" in type(error).__name__ else "refers to something outside itself"
        raise InputError(f"expected plain XML, got a document that {what}; remove that and its DOCTYPE") from None
    except (ValueError, LookupError, AttributeError, AssertionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not valid XML: {str(error).splitlines()[0] if str(error) else 'no element'}") from None
    return root


def whole(element: Element, attribute: str, default: int, *, minimum: int = 0, maximum: int = 1 << 20) -> int:
    """Return an attribute as a whole number; absent or empty it is `default`."""
    raw = element.get(attribute, "").strip()
    if not raw:
        return default
    try:
        value = int(raw, 10)
    except ValueError:
        value = minimum - 1
    if len(raw) > 20 or not minimum <= value <= maximum:
        shown = raw if len(raw) <= 40 else raw[:37] + "..."
        message = (
            f"expected {attribute} of <{element.tag}> as a whole number from {minimum} to {maximum}, got {shown!r}"
        )
        raise InputError(message, place=f"<{element.tag} {attribute}>")
    return value
