"""Options of ``gpuplan deploy``, collected into one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from gpuplan.cli.options import (
    collected,
    micro_batches_option,
    placing_options,
    request_options,
    return_hop_option,
    tensor_parallel_option,
)
from gpuplan.cli.values import Seconds, Whole
from gpuplan.units import GIB

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # older versions of click have no type parameter here
    _Type = click.ParamType

OBJECTIVES = ("requests", "throughput", "devices", "cost")


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What is asked of a deployment; an objective of None is ``requests``, or ``devices`` under a demand."""

    objective: str | None = None
    demand_rps: float | None = None
    batch: int | Literal["auto"] = "auto"
    prompt: int = 1024
    output: int = 128
    micro_batches: int | Literal["stages"] = "stages"
    tensor_parallel: tuple[int, ...] | Literal["auto"] = "auto"
    ttft_slo: float | None = None
    tpot_slo: float | None = None
    max_devices: int | None = None
    max_replicas: int | None = None
    return_hop: bool = True
    reserve: int = GIB
    runtime: str | None = None
    costs: tuple[str, ...] = ()
    costs_fallback: bool = False
    extrapolate: bool = False
    current: str | None = None
    move_cost: float = 0.0
    hysteresis: float = 0.05
    method: str = "replicas"


class Number(_Type):
    """A finite number of at least 0, or above `above`."""

    name = "number"

    def __init__(self, above: float | None = None) -> None:
        self.above = above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        good = math.isfinite(number) and (number >= 0.0 if self.above is None else number > self.above)
        if not good:
            least = "of at least 0" if self.above is None else f"above {self.above:g}"
            self.fail(f"expected a number {least}, got {str(value)!r}", param, ctx)
        return number


class BatchSize(Whole):
    """A whole number of at least 1, or ``auto``."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``"auto"``."""
        if value == "auto":
            return "auto"
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number of at least 1, or 'auto', got {str(value)!r}", param, ctx)


#: Adds the options to a command and hands them on as one `DeployOptions` named ``ask``.
deploy_options = collected(
    DeployOptions,
    "ask",
    click.option(
        "--objective",
        type=click.Choice(OBJECTIVES),
        help="Most requests/s or tokens/s; under a demand fewest devices or lowest price."
        "  [default: requests, devices with --demand-rps]",
    ),
    click.option("--demand-rps", type=Number(above=0.0), metavar="R", help="Requests/s to serve."),
    click.option(
        "--batch",
        type=BatchSize(),
        metavar="N|auto",
        default="auto",
        show_default=True,
        help="Sequences in a batch; auto: the best power of two for each replica.",
    ),
    *request_options,
    micro_batches_option("stages", "Batches in flight."),
    tensor_parallel_option("auto", "auto|1|1,2,4"),
    click.option("--ttft-slo", type=Seconds(), metavar="S", help="Most seconds to the first token, without queueing."),
    click.option("--tpot-slo", type=Seconds(), metavar="S", help="Most seconds between tokens."),
    click.option("--max-devices", type=Whole(), help="Most devices in use."),
    click.option("--max-replicas", type=Whole(), help="Most replicas."),
    return_hop_option,
    *placing_options,
    click.option("--current", metavar="DEPLOYMENT", help="The deployment in place, to change as little as needed."),
    click.option(
        "--move-cost",
        type=Number(),
        metavar="C",
        default=0.0,
        show_default=True,
        help="Units of the objective that each byte moved costs.",
    ),
    click.option(
        "--hysteresis",
        type=Number(),
        default=0.05,
        show_default=True,
        help="Share of the objective that a change has to gain.",
    ),
    click.option(
        "--method",
        type=click.Choice(["replicas", "flow"]),
        default="replicas",
        show_default=True,
        help="flow: layer ranges of devices may overlap; tokens take any way through them.",
    ),
)
