"""Options that several commands share, each group collected into one frozen value.

A decorator such as `topology_options` adds its options to a command and hands the command one argument (``where``)
instead of one for each option.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from gpuplan.cli.values import Balance, Fraction, MicroBatches, Seconds, Size, TensorParallel, Whole
from gpuplan.units import DTYPE_BYTES, GIB

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

OBJECTIVES = ("latency", "throughput", "efficiency", "balanced", "cost", "kv-capacity")
_DTYPES = click.Choice(list(DTYPE_BYTES))


@dataclass(frozen=True, slots=True)
class TopologyOptions:
    """How a CLUSTER is read."""

    gpu: tuple[str, ...] = ()
    gpu_info: str | None = None
    memory_fraction: float = 0.9
    exclude: tuple[str, ...] = ()
    catalog: str | None = None


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a MODEL is read."""

    dtype: str | None = None
    kv_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class ProblemOptions:
    """What is asked of a plan."""

    objective: str = "latency"
    batch: int = 1
    prompt: int = 1024
    output: int = 128
    micro_batches: int | Literal["stages"] = 1
    balance: tuple[float, float] = (10.0, 1.0)
    return_hop: bool = True
    max_devices: int | None = None
    reserve: int = GIB
    runtime: str | None = None
    tensor_parallel: tuple[int, ...] | Literal["auto"] = (1,)
    uneven_tensor_parallel: bool = False
    costs: tuple[str, ...] = ()
    costs_fallback: bool = False
    extrapolate: bool = False


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How the answer is looked for."""

    solver: str = "auto"
    time_limit: float = 60.0
    work_limit: int | None = None
    threads: int = 1
    memory_limit: int | None = None
    seed: int = 0
    warm_start: str | None = None
    write_model: str | None = None
    stats: str | None = None


def collected(kind: type, argument: str, *options: Decorator) -> Callable[[Command], Command]:
    """Return a decorator that adds `options` and hands them on as one `kind` value named `argument`."""
    names = [field.name for field in fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(*args: Any, **values: Any) -> Any:
            chosen = {name: values.pop(name) for name in names if name in values}
            return command(*args, **{argument: kind(**chosen)}, **values)

        decorated: Any = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


_CATALOG = click.option(
    "--catalog",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Folder with more GPU kinds, models and clusters.",
)

topology_options = collected(
    TopologyOptions,
    "where",
    click.option("--gpu", multiple=True, metavar="[0-1=]KIND", help="GPU kind, where the file does not say."),
    click.option("--gpu-info", metavar="FILE", help="CSV of nvidia-smi --query-gpu=index,name,memory.total,…"),
    click.option(
        "--memory-fraction", type=Fraction(), default=0.9, show_default=True, help="Share of a GPU's memory to use."
    ),
    click.option("--exclude", multiple=True, metavar="DEVICE", help="Leave a device out; repeatable."),
    _CATALOG,
)

catalog_option = _CATALOG

model_options = collected(
    ModelOptions,
    "shape",
    click.option("--dtype", type=_DTYPES, help="Type of the decoder weights.  [default: the config's]"),
    click.option("--kv-dtype", type=_DTYPES, help="Type of the KV cache.  [default: like the activations]"),
)

#: What a request is; what runs and what it is priced by; whether the sampled tokens return: for every planning command.
request_options = (
    click.option("--prompt", type=Whole(), default=1024, show_default=True, help="Prompt tokens of a sequence."),
    click.option("--output", type=Whole(), default=128, show_default=True, help="Output tokens of a sequence."),
)
placing_options = (
    click.option("--reserve", type=Size(), default="1GiB", show_default=True, help="Memory kept free on each device."),
    click.option("--for", "runtime", metavar="RUNTIME", help="Keep to what this runtime can hold."),
    click.option(
        "--costs",
        multiple=True,
        metavar="SOURCE",
        help="Measured times: a table, a fit, or aiconfigurator; repeatable.",
    ),
    click.option("--costs-fallback", is_flag=True, help="Let the roofline fill in what --costs does not have."),
    click.option("--extrapolate", is_flag=True, help="Read cost tables beyond what they measured."),
)
return_hop_option = click.option(
    "--return-hop/--no-return-hop", default=True, help="Count the last stage's hop to the first."
)


def tensor_parallel_option(default: str, shown: str) -> Decorator:
    """Return ``--tensor-parallel``, its value shown as `shown`."""
    return click.option(
        "--tensor-parallel",
        type=TensorParallel(),
        metavar=shown,
        default=default,
        show_default=True,
        help="Devices in a stage: the sizes to try.",
    )


def micro_batches_option(default: str, what: str) -> Decorator:
    """Return ``--micro-batches``."""
    return click.option(
        "--micro-batches", type=MicroBatches(), metavar="N|stages", default=default, show_default=True, help=what
    )


problem_options = collected(
    ProblemOptions,
    "ask",
    click.option("--objective", type=click.Choice(OBJECTIVES), default="latency", show_default=True),
    click.option("--batch", type=Whole(), default=1, show_default=True, help="Sequences in a batch."),
    *request_options,
    tensor_parallel_option("1", "1|auto|1,2,4"),
    click.option("--uneven-tensor-parallel", is_flag=True, help="Let stages of one plan differ in size."),
    micro_batches_option("1", "Batches in flight (objective throughput)."),
    click.option(
        "--balance",
        type=Balance(),
        metavar="A:B",
        default="10:1",
        show_default=True,
        help="Weights latency:devices (objective balanced).",
    ),
    return_hop_option,
    click.option("--max-devices", type=Whole(), help="Most devices a plan may use."),
    *placing_options,
)

_LIMITS = (
    click.option("--time-limit", type=Seconds(), default=60.0, show_default=True, help="Seconds to search at most."),
    click.option("--work-limit", type=Whole(), help="Labels or nodes to expand at most (repeatable, unlike time)."),
    click.option("--threads", type=Whole(), default=1, show_default=True),
    click.option("--memory-limit", type=Size(), metavar="SIZE", help="Refuse what would take more memory, e.g. 8GiB."),
    click.option("--seed", type=Whole(0), default=0, show_default=True),
)

search_options = collected(
    SearchOptions,
    "search",
    click.option("--solver", default="auto", show_default=True, metavar="NAME", help="See gpuplan list solvers."),
    *_LIMITS,
    click.option("--warm-start", metavar="PLAN", help="Start from this plan."),
    click.option(
        "--write-model", metavar="FILE", help="Also write the problem: .json; .lp/.mps as a MILP, .pb/.txt for CP-SAT."
    ),
    click.option("--stats", metavar="FILE", help="Also write times and work as JSON."),
)

limit_options = collected(SearchOptions, "search", *_LIMITS)

format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="What to print."
)


def output_option(what: str, *, required: bool = False) -> Decorator:
    """Return the ``-o FILE`` option."""
    path = click.Path(path_type=Path)
    return click.option("-o", "output_path", metavar="FILE", type=path, required=required, help=what)
