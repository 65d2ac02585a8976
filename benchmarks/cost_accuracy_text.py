"""The text of the cost accuracy report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cost_accuracy as accuracy
import numpy as np
from cost_accuracy import PHASES, FloatArray, Group, Measured

from gpuplan.profiles.tables import CostTable

Tables = dict[str, list[CostTable]]

_HEAD = """# How accurate the costs are

Written by `python benchmarks/cost_accuracy.py --data FOLDER -o docs/cost-accuracy.md`; FOLDER holds the published
tables of Vidur (microsoft/vidur 7d47513, MIT), LLMServingSim (casys-kaist/LLMServingSim 5daddb2, MIT) and Helix
(Thesys-lab/Helix-ASPLOS25 148b733, Apache-2.0); aiconfigurator-core (Apache-2.0) is the pip package. All errors are
absolute relative ones, |predicted − measured| / measured; *p90* is what nine of ten stay below.
"""

_HELD_OUT = """
## Interpolation, held out

Every fifth row, drawn at random, never one on the edge of its table, is left out and read from the others: five times,
so that each inner row is left out once. What it should have been is the row as it was measured, not smoothed.
"""

_ROOFLINE = """
## The roofline, before and after calibration

Time of one decoder layer (the operators a table times) for batches of 1 to 128 at contexts of 256 to 4096 tokens
(decode) and eight prompts of 256 to 4096 tokens in batches of 1 to 16 (prefill), as far as the tables reach.

* *before*: 0.8 of peak and bandwidth, 3 µs a kernel, for every device;
* *shipped*: `profiles/data/efficiency.yaml`, calibrated on these tables (least mean absolute log error; every table
  and phase weighs alike; overhead within 1-8 µs; rounded);
* *unseen*: calibrated on the group's other tables only, each table predicted by factors that have not seen it (blank
  where a group has one table).

| devices | tables | pass | passes | before | shipped | p90 | worst | unseen |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

_BY_TABLE = """
The same by table, with the shipped factors; the sign says which way (+ slower than measured).

| table | model | prefill median | signed | decode median | signed |
| --- | --- | --- | --- | --- | --- |
"""

_PAIRS = """
## Two sources on the same device

Both tables on the same passes, over the operators both time; differences relative to the first. They bound what any
prediction can promise: two careful measurements of the same kernels on the same device differ by this much, through
library versions, clocks and how time was taken.

| device | model | first | second | prefill median | worst | decode median | worst |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

_END = """
## What this does not show

* Kernels alone: no launch gaps between them, no scheduler, no sampling, no communication.
* bf16 and fp16 only; quantised kernels have no table here.
* AMD devices and many older ones have no public table: their factors are guesses, marked so in the data file.
"""


def report(tables: Tables, rows: Sequence[Measured]) -> str:
    """Return the report as Markdown."""
    return "".join(
        [
            _HEAD,
            *_summary(rows),
            _HELD_OUT,
            "\n| table | times of | inner rows | median | p90 | worst |\n| --- | --- | --- | --- | --- | --- |\n",
            *_held_out_lines(tables),
            _ROOFLINE,
            *(line for group in accuracy.groups(rows) for line in _group_lines(group)),
            _BY_TABLE,
            *map(_table_line, rows),
            _PAIRS,
            *_pair_lines(tables),
            _END,
        ]
    )


def _summary(rows: Sequence[Measured]) -> Iterator[str]:
    """Yield the figures for A100 and H100 against the aim."""
    yield "\nThe roofline's aim on A100 and H100 is a median error under 20 % (decode) and 25 % (prefill). With the"
    yield "\nshipped factors it is\n\n| device | prefill | decode |\n| --- | --- | --- |\n"
    for kind in ("a100-sxm4-80gb", "a100-sxm4-40gb", "h100-sxm5-80gb"):
        own = [row for row in rows if row.kind.name == kind]
        if own:
            cells = [_median(accuracy.group_errors(own, accuracy.shipped_factors, phase)) for phase in PHASES]
            yield f"| {kind} | {cells[0]} | {cells[1]} |\n"


def _held_out_lines(tables: Tables) -> Iterator[str]:
    everything: list[FloatArray] = []
    for name, own in tables.items():
        for table in own[:1]:
            for series in table.series:
                errors = np.concatenate([accuracy.held_out(series, fold) for fold in range(5)])
                if len(errors):
                    everything.append(errors)
                    yield f"| {name} | {series.name} | {len(errors)} | {_three(errors)} |\n"
    total = np.concatenate(everything)
    medians = np.array([np.median(np.abs(errors)) for errors in everything])
    yield f"| **all** | {len(everything)} series | {len(total)} | {_three(total)} |\n"
    middle, worst = np.median(medians), medians.max()
    yield f"\nThe median series is off by {middle:.1%} at its median row, the worst by {worst:.1%}.\n"


def _three(errors: FloatArray) -> str:
    size = np.abs(errors)
    return f"{np.median(size):.1%} | {np.percentile(size, 90):.1%} | {size.max():.0%}"


def _group_lines(group: Group) -> Iterator[str]:
    unseen = accuracy.left_out_factors(group)
    for phase in PHASES:
        before = accuracy.group_errors(group.passes, accuracy.UNCALIBRATED, phase)
        after = np.abs(accuracy.group_errors(group.passes, accuracy.shipped_factors, phase))
        left_out = "" if unseen is None else _median(accuracy.group_errors(group.passes, unseen, phase))
        yield (
            f"| {group.name} | {len(group.passes)} | {phase} | {len(after)} | {_median(before)} |"
            f" **{_median(after)}** | {np.percentile(after, 90):.1%} | {after.max():.0%} | {left_out} |\n"
        )


def _median(errors: FloatArray) -> str:
    return f"{np.median(np.abs(errors)):.1%}"


def _table_line(row: Measured) -> str:
    cells = []
    for phase in PHASES:
        errors = row.errors(accuracy.shipped_factors(row), phase)
        cells += [_median(errors), f"{np.median(errors):+.1%}"] if len(errors) else ["", ""]
    return f"| {row.source} | {row.model} | {' | '.join(cells)} |\n"


def _pair_lines(tables: Tables) -> Iterator[str]:
    for pair in accuracy.pairs(tables):
        cells = []
        for phase in PHASES:
            found = pair.differences[phase]
            cells += [_median(found), f"{np.abs(found).max():.0%}"] if len(found) else ["", ""]
        yield f"| {pair.kind} | {pair.model} | {pair.first} | {pair.second} | {' | '.join(cells)} |\n"
