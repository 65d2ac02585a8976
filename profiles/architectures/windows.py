"""What kind each layer is, and which layers attend to a window only."""

from __future__ import annotations

from collections.abc import Sequence

from gpuplan.profiles.architectures.fields import ConfigFields, describe

FULL = "full_attention"
SLIDING = "sliding_attention"


def read_windows(
    fields: ConfigFields, depth: int, *, first: int = 0, default: int | None = None, every: int = 0
) -> list[int | None]:
    """Return each layer's window, None for full attention.

    Parameters
    ----------
    fields
        ``layer_types`` (a kind per layer) decides where it is given; else layers from `first` on slide.
    depth
        Number of layers.
    default
        The window where the config has no field ``sliding_window`` at all (null switches it off).
    every
        Without ``layer_types``, every so many-th layer attends to everything; 0 for none.
    """
    window = fields.optional_integer("sliding_window") if "sliding_window" in fields.config else default
    kinds = read_kinds(fields, depth, (FULL, SLIDING))
    if kinds is None:
        slides = [index >= first and not (every and (index + 1) % every == 0) for index in range(depth)]
        return [window if sliding else None for sliding in slides]
    if window is None and SLIDING in kinds:
        raise fields.error("expected the window of the sliding layers, found none; add it", "sliding_window")
    return [window if kind == SLIDING else None for kind in kinds]


def read_kinds(
    fields: ConfigFields, depth: int, allowed: Sequence[str], name: str = "layer_types"
) -> tuple[str, ...] | None:
    """Return the kind of each layer out of `allowed`, or None where the config has no such list."""
    kinds = fields.strings(name)
    if not kinds:
        return None
    if len(kinds) != depth:
        raise fields.error(f"expected one kind for each of the {depth} layers, got {len(kinds)}", name)
    for index, kind in enumerate(kinds):
        if kind not in allowed:
            raise fields.error(
                f"expected {' or '.join(allowed)}, got {describe(kind)}; this family has no such layers",
                f"{name}[{index}]",
            )
    return kinds
