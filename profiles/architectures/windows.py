"""Which layers attend to a sliding window only."""

from __future__ import annotations

from gpuplan.profiles.architectures.fields import ConfigFields, describe

_KINDS = ("full_attention", "sliding_attention")


def read_windows(fields: ConfigFields, depth: int, *, first: int = 0, default: int | None = None) -> list[int | None]:
    """Return each layer's window, None for full attention.

    Parameters
    ----------
    fields
        ``layer_types`` (a kind per layer) decides where it is given; else layers from `first` on slide.
    depth
        Number of layers.
    default
        The window where the config has no field ``sliding_window`` at all (null switches it off).
    """
    window = fields.optional_integer("sliding_window") if "sliding_window" in fields.config else default
    kinds = fields.strings("layer_types")
    if kinds:
        return _from_kinds(fields, kinds, depth, window)
    return [window if index >= first else None for index in range(depth)]


def _from_kinds(fields: ConfigFields, kinds: tuple[str, ...], depth: int, window: int | None) -> list[int | None]:
    if len(kinds) != depth:
        raise fields.error(f"expected one kind for each of the {depth} layers, got {len(kinds)}", "layer_types")
    for index, kind in enumerate(kinds):
        if kind not in _KINDS:
            raise fields.error(
                f"expected {' or '.join(_KINDS)}, got {describe(kind)}; this family has no such layers",
                f"layer_types[{index}]",
            )
    if window is None and "sliding_attention" in kinds:
        raise fields.error("expected the window of the sliding layers, found none; add it", "sliding_window")
    return [window if kind == "sliding_attention" else None for kind in kinds]
