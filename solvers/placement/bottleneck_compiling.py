"""The kernels of the search over caps, as a set to make ready; see `gpuplan.solvers.compiling`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuplan.solvers.compiling import KernelSet


def _dispatchers() -> tuple[Any, ...]:
    from gpuplan.solvers.placement import bottleneck_kernels as kernels
    from gpuplan.solvers.placement import bottleneck_part  # noqa: F401  # its other modules take their time, too

    prices = (kernels.reaches, kernels.raise_prices, kernels.stage_prices)
    return (*prices, kernels.best_of_sequence, kernels.expand)


def _exercise() -> Iterator[None]:
    """Search the caps of a tiny core."""
    from gpuplan.solvers.limits import Budget, Limits
    from gpuplan.solvers.placement.bottleneck_bounds import CapBounds
    from gpuplan.solvers.placement.bottleneck_core import cap_core
    from gpuplan.solvers.placement.bottleneck_search import CapSearch, pack_keys
    from gpuplan.solvers.placement.compiling import tiny_tables
    from gpuplan.solvers.placement.core import Query, make_core

    core = cap_core(make_core(tiny_tables(), Query(bottleneck=True), 1))
    bounds = CapBounds(core, Budget(Limits(None)))
    cap = bounds.cap(core.highest)
    yield
    priced = bounds.price(cap, 1)
    yield
    bounds.plan(core.stock.home[:2])
    yield
    keys = pack_keys(core.stock.capacity, core.num_classes)
    CapSearch(bounds, keys, cap, priced, strict=True).run(1, 0.0, core.first)
    yield


#: Kernels of the search over caps.
CAPS = KernelSet("bottleneck", _dispatchers, _exercise)
