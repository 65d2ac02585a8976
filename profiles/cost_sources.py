"""From what a user names to one cost profile: tables, fits, aiconfigurator's data, several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.costs import CostProfile, LayerTimes
from gpuplan.profiles.fitted import FittedCosts
from gpuplan.profiles.model import ModelProfile
from gpuplan.profiles.roofline import AnalyticCosts
from gpuplan.profiles.tables.costs import TableCosts, embedded
from gpuplan.profiles.tables.readers import load_cost_source
from gpuplan.profiles.tables.readers.detect import CostSource
from gpuplan.profiles.workload import Workload
from gpuplan.topology.graph import Device

#: ``aiconfigurator``, ``aiconfigurator:vllm`` or ``aiconfigurator:vllm:0.24.0``.
AICONFIGURATOR = "aiconfigurator"

_Part = TableCosts | FittedCosts
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CombinedCosts:
    """Several sources: for each device the first that was measured on its kind and holds for the model."""

    parts: tuple[_Part, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The device kinds that were measured."""
        return tuple(dict.fromkeys(kind for part in self.parts for kind in part.kinds))

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading the sources assumed or changed."""
        return tuple(note for part in self.parts for note in part.notes)

    @property
    def sources(self) -> tuple[str, ...]:
        """Citations carried into a plan's provenance."""
        return tuple(dict.fromkeys(source for part in self.parts for source in part.sources))

    def layer_times(
        self, model: ModelProfile, device: Device, workload: Workload, *, tensor_parallel: int = 1
    ) -> LayerTimes:
        """Return the times of all layers; InputError when no source has them."""
        t = tensor_parallel
        return self._answer(model, device, t, lambda part: part.layer_times(model, device, workload, tensor_parallel=t))

    def to_inputs(
        self,
        model: ModelProfile,
        devices: tuple[Device, ...],
        workload: Workload | None = None,
        *,
        tensor_parallel: int = 1,
    ) -> dict[str, Any]:
        """Return the entries and coefficients that the times of `workload` follow from."""
        if workload is None:
            raise UsageError("expected the workload whose entries are to be embedded, got none")
        return embedded(self, model, devices, workload, tensor_parallel)

    def device_inputs(
        self, model: ModelProfile, device: Device, workload: Workload, tensor_parallel: int = 1
    ) -> dict[str, Any]:
        """Return what the times of one device follow from."""
        t = tensor_parallel
        return self._answer(model, device, t, lambda part: part.device_inputs(model, device, workload, t))

    def _answer(self, model: ModelProfile, device: Device, tensor_parallel: int, ask: Callable[[_Part], T]) -> T:
        # Whoever measured this model on this kind answers before a roofline that would fill in.
        own = [part for part in self.parts if part.holds(model, device, tensor_parallel)]
        error: InputError | None = None
        for part in [*own, *(part for part in self.parts if part not in own)]:
            try:
                return ask(part)
            except InputError as refused:
                error = error or refused
        assert error is not None
        raise error


def load_costs(
    sources: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    fallback: bool = False,
    extrapolate: bool = False,
) -> CostProfile:
    """Return the cost profile that `sources` make together; none: the analytic one.

    Parameters
    ----------
    sources
        Paths as `gpuplan.profiles.tables.readers.load_cost_source` takes them, or
        ``aiconfigurator[:backend[:version]]``.
    kinds
        Device kinds of the cluster; what aiconfigurator's data are read for.
    fallback
        Let the roofline fill what tables do not have.
    extrapolate
        Read tables outside of what they measured.
    """
    if not sources:
        return AnalyticCosts()
    read = [read_source(source, kinds) for source in sources]
    tables = tuple(table for source in read for table in source.tables)
    fits = tuple(fit for source in read for fit in source.fits)
    roofline = AnalyticCosts() if fallback or any(map(_is_aiconfigurator, sources)) else None
    parts: list[_Part] = []
    if tables or roofline is not None:
        parts.append(TableCosts(tables, roofline, extrapolate))
    if fits:
        parts.append(FittedCosts(fits))
    return parts[0] if len(parts) == 1 else CombinedCosts(tuple(parts))


def read_source(source: str, kinds: Sequence[str] = ()) -> CostSource:
    """Return the tables or fits of one source; `kinds` are what aiconfigurator's data are read for."""
    if not _is_aiconfigurator(source):
        return load_cost_source(source)
    from gpuplan.profiles.aiconfigurator import aiconfigurator_source

    return aiconfigurator_source(source, kinds)


def _is_aiconfigurator(source: str) -> bool:
    return source.split(":", 1)[0] == AICONFIGURATOR
