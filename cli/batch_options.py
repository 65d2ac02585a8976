"""Options of everything that reads REQUESTS: which executors, which objective, which columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from gpuplan.cli.values import Fraction, Seconds, Whole
from gpuplan.errors import UsageError

WEIGHTS = ("latency", "makespan", "padding", "violation")


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What is asked of a batch plan, and how REQUESTS is read."""

    plan_file: str | None = None
    executors: str | None = None
    max_batch: int | None = None
    ignore_arrivals: bool = False
    slo_s: float | None = None
    weights: str | None = None
    deadlines: str | None = None
    predictions: str | None = None
    quantile: float = 0.5
    epsilon: float | None = None
    buckets: str | None = None
    output_limit: int | None = None
    column: tuple[str, ...] = ()
    skip_unservable: bool = False
    relax_deadlines: bool = False


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--plan", "plan_file", metavar="PLAN", help="Run on the device map in this file (one executor, e0)."),
    click.option("--executors", metavar="FILE", help="Run on these: a batching-problem file without requests."),
    click.option("--max-batch", type=Whole(), help="Requests in a batch at most.  [default: 32, or the executors']"),
    click.option("--ignore-arrivals", is_flag=True, help="Take all requests as present at time 0."),
    click.option("--slo-s", type=Seconds(), help="Deadline from arrival for requests that have none, s."),
    click.option(
        "--weights", metavar="NAME=X,…", help="Objective: latency, makespan, padding (s/token), violation (s)."
    ),
    click.option("--deadlines", type=click.Choice(["soft", "hard"]), help="Whether deadlines may be missed."),
    click.option("--predictions", metavar="FILE", help="Plan with these output lengths: a table by id."),
    click.option("--quantile", type=Fraction(), default=0.5, show_default=True, help="Of a predicted distribution."),
    click.option("--epsilon", type=Fraction(), help="Most probability that predicted lengths overflow a batch's KV."),
    click.option("--buckets", metavar="EDGE,…", help="Upper edges of predicted buckets.  [default: 8,16,…,2048]"),
    click.option("--output-limit", type=Whole(), help="Longest output: where mass above the last quantile sits."),
    click.option(
        "--column", multiple=True, metavar="NAME=COLUMN", help="Which column of REQUESTS is NAME; repeatable."
    ),
    click.option("--skip-unservable", is_flag=True, help="Leave out requests larger than every executor."),
    click.option(
        "--relax-deadlines", is_flag=True, help="Hard deadlines that cannot all hold: miss as few as possible."
    ),
)
_NAMES = tuple(BatchOptions.__dataclass_fields__)


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; it gets them as one argument, ``batch``."""
    import functools

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        chosen = {name: values.pop(name) for name in _NAMES if name in values}
        return command(*args, batch=BatchOptions(**chosen), **values)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def parse_pairs(items: tuple[str, ...] | list[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE items as a mapping; UsageError for one that is none, or a name twice."""
    pairs: dict[str, str] = {}
    for item in items:
        name, sign, value = (part.strip() for part in item.partition("="))
        if not (sign and name and value):
            raise UsageError(f"{option}: expected NAME=VALUE, got {item!r}")
        if name in pairs:
            raise UsageError(f"{option}: expected {name} once, got it twice")
        pairs[name] = value
    return pairs


def parse_weights(text: str) -> dict[str, float]:
    """Return the weights of ``latency=1,padding=0.001``; the others are 0."""
    weights = dict.fromkeys(WEIGHTS, 0.0)
    for name, value in parse_pairs([item for item in text.split(",") if item.strip()], "--weights").items():
        if name not in weights:
            raise UsageError(f"--weights: no term is called {name!r}; the terms are {', '.join(WEIGHTS)}")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = -1.0
        if not 0.0 <= weights[name] < float("inf"):
            raise UsageError(f"--weights: expected a finite number of at least 0 for {name}, got {value!r}")
    return weights


def parse_settings(items: tuple[str, ...]) -> dict[str, Any]:
    """Return ``--set NAME=VALUE`` items, numbers as numbers."""
    return {name: _plain(value) for name, value in parse_pairs(items, "--set").items()}


def _plain(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
