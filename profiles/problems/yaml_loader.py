"""A YAML loader that reads ``1e9`` as a number and refuses a key given twice."""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml

# YAML 1.1 wants a dot and a signed exponent in a float, so that `1e9` would be a string; YAML 1.2 and people do not.
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


@functools.cache
def strict_loader() -> type[Any]:
    """Return the loader class (libyaml's where it is built in, several times faster)."""
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class StrictLoader(base):  # type: ignore[misc]
        """Safe loading, no key twice, floats as in YAML 1.2."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"expected text as a key, got {key!r}", key_node.start_mark
                    )
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} stands here twice", key_node.start_mark
                    )
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return StrictLoader
