"""How good cost predictions are: tables held out, the roofline before and after calibration, two sources compared.

    python benchmarks/cost_accuracy.py --data ../shared/data [-o docs/cost-accuracy.md] [--factors]

reads published tables (Vidur, LLMServingSim, Helix under the data folder; aiconfigurator-core where it is installed)
and writes the report. `--factors` prints the calibrated factors as `profiles/data/efficiency.yaml` holds them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import GpuplanError
from gpuplan.profiles import AnalyticCosts, ModelProfile, Workload, load_model
from gpuplan.profiles.efficiency import Efficiency, Factors, shipped_efficiency
from gpuplan.profiles.model import Layer
from gpuplan.profiles.tables import CostTable, Series, series_from_rows
from gpuplan.profiles.tables.coordinates import steps
from gpuplan.profiles.tables.costs import operator_seconds
from gpuplan.profiles.tables.interpolation import look_up
from gpuplan.profiles.tables.readers import load_cost_source
from gpuplan.profiles.tables.terms import layer_terms
from gpuplan.topology import device_kind
from gpuplan.topology.graph import Device, DeviceKind

FloatArray = NDArray[np.float64]
PHASES = ("prefill", "decode")

#: What a user would have without any measurement: aiconfigurator-core's 0.8 and 3 µs, and the same share of the peak.
UNCALIBRATED = Factors(0.8, 0.8, 3e-6)
#: Shapes of the comparison: passes an engine runs.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (256, 1024, 4096)
PROMPTS = ((1, 256), (1, 512), (1, 1024), (1, 2048), (1, 4096), (4, 512), (4, 2048), (16, 512))

VIDUR = "vidur/profiling/compute/{gpu}/meta-llama/{model}"
SIM = "llmservingsim/profiler/perf/{gpu}/{model}/bf16"
HELIX = "helix/model_manager/{model}/{gpu}"
FILES = (
    VIDUR.format(gpu="a100", model="Llama-2-7b-hf"),
    VIDUR.format(gpu="a100", model="Llama-2-70b-hf"),
    VIDUR.format(gpu="a100", model="Meta-Llama-3-8B"),
    VIDUR.format(gpu="h100", model="Llama-2-7b-hf"),
    VIDUR.format(gpu="h100", model="Llama-2-70b-hf"),
    SIM.format(gpu="RTX4090", model="meta-llama/Llama-3.1-8B"),
    SIM.format(gpu="RTXPRO6000", model="meta-llama/Llama-3.1-8B"),
    SIM.format(gpu="RTXPRO6000", model="Qwen/Qwen3-32B"),
    SIM.format(gpu="RTXPRO6000", model="Qwen/Qwen3-30B-A3B-Instruct-2507"),
    *(HELIX.format(gpu=gpu, model="llama2_70b") for gpu in ("a100", "v100", "t4", "l4")),
)
ATTENTION = "vidur/history/a100_attention.csv"
AIC_KINDS = (
    "a100-sxm4-80gb", "h100-sxm5-80gb", "h200-sxm5-141gb", "l40s-48gb", "rtx-pro-6000-96gb", "b200-sxm6-180gb",
    "gb200-186gb",
)  # fmt: skip
AIC_MODELS = ("llama-3.1-8b", "llama-2-70b", "qwen3-32b", "qwen2.5-7b")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Passes of one model's decoder layer on one kind, as one source timed them.

    Parameters
    ----------
    phase
        Of every pass; length R.
    seconds
        Of the operators that the source times; shape (R,).
    compute_s, memory_s
        The roofline of these operators at full peak and bandwidth; R arrays, one number an operator.
    """

    source: str
    model: str
    kind: DeviceKind
    phase: tuple[str, ...]
    seconds: FloatArray
    compute_s: tuple[FloatArray, ...]
    memory_s: tuple[FloatArray, ...]
    labels: tuple[tuple[str, int, int], ...]

    def predicted(self, factors: Factors) -> FloatArray:
        """Return Σ overhead + max(compute/η_f, memory/η_b) of every pass; shape (R,)."""
        return np.array(
            [
                len(c) * factors.overhead_s
                + np.maximum(c / factors.compute_efficiency, m / factors.memory_efficiency).sum()
                for c, m in zip(self.compute_s, self.memory_s, strict=True)
            ]
        )

    def errors(self, factors: Factors, phase: str) -> FloatArray:
        """Return predicted over measured, minus one, of the passes of a phase."""
        chosen = np.array([p == phase for p in self.phase])
        return np.asarray((self.predicted(factors) / self.seconds - 1.0)[chosen], dtype=np.float64)


def main() -> int:
    """Write the report."""
    from cost_accuracy_text import report  # beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of published tables")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write; stdout by default")
    parser.add_argument("--factors", action="store_true", help="also print the calibrated factors as YAML")
    options = parser.parse_args()
    tables = read_tables(options.data)
    rows = [measured for name, own in tables.items() for measured in measured_passes(name, own)]
    text = report(tables, rows)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    if options.factors:
        print_factors(rows)
    return 0


def read_tables(folder: Path) -> dict[str, list[CostTable]]:
    """Return the tables of every source at degree 1, by the source's name."""
    found: dict[str, list[CostTable]] = {}
    for file in FILES:
        own = [table for table in load_cost_source(folder / file).tables if table.tensor_parallel == 1]
        found[own[0].name] = own
    for kind in AIC_KINDS:
        table = _aiconfigurator(kind)
        if table is not None:
            found[table.name] = [table]
    attention = load_cost_source(folder / ATTENTION).tables
    found[attention[0].name] = list(attention)
    return found


def _aiconfigurator(kind: str, backend: str = "vllm") -> CostTable | None:
    from gpuplan.profiles.aiconfigurator import read_system

    try:
        return read_system(kind, backend)
    except GpuplanError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None


# Interpolation, held out


def held_out(series: Series, fold: int, folds: int = 5) -> FloatArray:
    """Return the relative errors at rows left out: every `folds`-th row inside the range, read from the others."""
    count = len(series.seconds)
    if count < 2 * folds:
        return np.empty(0)
    order = np.random.default_rng(0).permutation(count)
    edges = _edges(series.points)
    left_out = np.array([row for row in order[fold::folds] if not edges[row]], dtype=np.intp)
    kept = np.setdiff1d(np.arange(count), left_out)
    rows = np.column_stack([series.points[kept], series.measured[kept]])
    rest = series_from_rows(series.covers, series.phase, series.axes, rows.tolist())
    found = [(row, look_up(rest, tuple(series.points[row]))) for row in left_out]
    pairs = [(lookup.seconds, series.measured[row]) for row, lookup in found if lookup is not None]
    errors = [read / true - 1.0 for read, true in pairs if true > 0.0]
    return np.array(errors)


def _edges(points: FloatArray) -> NDArray[np.bool_]:
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((((points == low) | (points == high)) & (low < high)).any(axis=1))


# The roofline


def measured_passes(source: str, tables: Sequence[CostTable]) -> Iterator[Measured]:
    """Yield the passes of every model a source can time."""
    table = tables[0]
    models = AIC_MODELS if table.model is None else (table.model,)
    if table.tensor_parallel != 1:
        return
    for name in models:
        made = _passes(source, tables, load_model(name), device_kind(table.device_kind))
        if made is not None:
            yield made


def _passes(source: str, tables: Sequence[CostTable], model: ModelProfile, kind: DeviceKind) -> Measured | None:
    layer = next(layer for layer in model.layers if layer.kind == "decoder")
    device = Device("host0/gpu0", "host0", 0, kind, kind.memory_bytes)
    phases: list[str] = []
    seconds: list[float] = []
    sums: list[tuple[FloatArray, FloatArray]] = []
    labels: list[tuple[str, int, int]] = []
    for phase, batch, length in shapes(tables):
        point = Workload(batch, length, 1) if phase == "prefill" else Workload(batch, length - 1, 2)
        found = timed(tables, model, layer, point, phase)
        if found is None:
            continue
        value, names = found
        phases.append(phase)
        seconds.append(value)
        labels.append((phase, batch, length))
        sums.append(_bounds(model, layer, names, device, point, phase))
    if not seconds:
        return None
    compute, memory = (tuple(pair[i] for pair in sums) for i in (0, 1))
    return Measured(source, model.name, kind, tuple(phases), np.array(seconds), compute, memory, tuple(labels))


def shapes(tables: Sequence[CostTable]) -> Iterator[tuple[str, int, int]]:
    """Yield phase, batch and length (prompt or context); one context where the source times none."""
    by_context = any("context" in s.axes and s.phase == "decode" for table in tables for s in table.series)
    for batch, prompt in PROMPTS:
        yield "prefill", batch, prompt
    for batch, context in itertools.product(BATCHES, CONTEXTS if by_context else (576,)):
        yield "decode", batch, context


def timed(
    tables: Sequence[CostTable], model: ModelProfile, layer: Layer, point: Workload, phase: str
) -> tuple[float, tuple[str, ...]] | None:
    """Return the seconds a source gives the operators it times, and their names; None where none is in range."""
    step = steps(point)[0 if phase == "prefill" else 1]
    terms, _ = layer_terms(tables, model, layer, step, 1, beyond=False)
    products = any({"qkv_proj", "down_proj"} & set(term.covers) for term in terms)
    if not terms or not products:
        return None
    names = tuple(dict.fromkeys(name for term in terms for name in term.covers))
    return sum(term.seconds for term in terms), names


def _bounds(
    model: ModelProfile, layer: Layer, names: Sequence[str], device: Device, point: Workload, phase: str
) -> tuple[FloatArray, FloatArray]:
    """Return the seconds of operators at full peak alone, and at full bandwidth alone."""
    operators = [operator for operator in layer.operators if operator.name in names]
    kind = device.kind
    huge = dict.fromkeys(kind.flops_per_s, 1e30)
    full = Efficiency(Factors(1.0, 1.0, 0.0), {}, {}, shipped_efficiency().power)
    free_memory = replace(device, kind=replace(kind, memory_bandwidth_bytes_per_s=1e30))
    free_compute = replace(device, kind=replace(kind, flops_per_s=huge))
    index = 0 if phase == "prefill" else 1
    compute, memory = (
        operator_seconds(AnalyticCosts(full), model, layer, operators, chosen, point)[index]
        for chosen in (free_memory, free_compute)
    )
    return compute, memory


def calibrate(passes: Sequence[Measured]) -> Factors:
    """Return the factors with the least mean |log(predicted / measured)|, sources, models and phases weighing alike."""
    from scipy.optimize import minimize

    def loss(values: FloatArray) -> float:
        factors = _factors(values)
        parts = [np.abs(np.log1p(p.errors(factors, phase))) for p in passes for phase in PHASES]
        return float(np.mean([part.mean() for part in parts if len(part)]))

    starts = [np.array([f, b, o]) for f in (0.55, 0.8) for b in (0.7, 0.9) for o in (2.0, 5.0)]
    fits = [minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}) for start in starts]
    return _factors(min(fits, key=lambda fit: float(fit.fun)).x)


def _factors(values: FloatArray) -> Factors:
    # Tables of whole layers hardly tell an overhead from a slower memory: it stays within what launches can take.
    compute, memory, overhead = (float(value) for value in values)
    return Factors(_within(compute, 0.05, 1.0), _within(memory, 0.05, 1.0), 1e-6 * _within(overhead, 1.0, 8.0))


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that share factors: a family, or a kind with factors of its own."""

    name: str
    passes: tuple[Measured, ...]


def groups(rows: Sequence[Measured]) -> list[Group]:
    """Return the measured passes by the entry of the factors file they calibrate."""
    own = shipped_efficiency().kinds
    made: dict[str, list[Measured]] = {}
    for row in rows:
        name = row.kind.name if row.kind.name in own else row.kind.family
        made.setdefault(name, []).append(row)
    return [Group(name, tuple(passes)) for name, passes in made.items()]


def group_errors(
    passes: Sequence[Measured], factors: Factors | Callable[[Measured], Factors], phase: str
) -> FloatArray:
    """Return the relative errors of all passes of a phase."""
    chosen = factors if callable(factors) else lambda _: factors
    parts = [row.errors(chosen(row), phase) for row in passes]
    return np.concatenate(parts) if parts else np.empty(0)


def left_out_factors(group: Group) -> Callable[[Measured], Factors] | None:
    """Return, for each table of a group, the factors calibrated on the others; None where there is only one."""
    if len(group.passes) < 2:
        return None
    made = {id(row): calibrate([other for other in group.passes if other is not row]) for row in group.passes}
    return lambda row: made[id(row)]


def shipped_factors(row: Measured) -> Factors:
    """Return the factors that ship for a device."""
    return shipped_efficiency().factors(row.kind)


# Two sources on one device


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sources on the same kind and model, over the operators both time: relative differences by phase."""

    kind: str
    model: str
    first: str
    second: str
    differences: dict[str, FloatArray]


def pairs(tables: dict[str, list[CostTable]]) -> Iterator[Pair]:
    """Yield every two sources that time the same kind: published tables against aiconfigurator, and its back ends."""
    sources = list(tables.values())
    for backend in ("sglang", "trtllm"):
        for kind in ("a100-sxm4-80gb", "h100-sxm5-80gb"):
            table = _aiconfigurator(kind, backend)
            if table is not None:
                sources.append([table])
    for first, second in itertools.combinations(sources, 2):
        a, b = first[0], second[0]
        if a.device_kind != b.device_kind or a.tensor_parallel != 1 or b.tensor_parallel != 1:
            continue
        names = {a.model, b.model} - {None}
        if len(names) > 1:
            continue
        model = load_model(str(next(iter(names), "llama-3.1-8b")))
        differences = {phase: _differences(first, second, model, phase) for phase in PHASES}
        if any(len(values) for values in differences.values()):
            yield Pair(a.device_kind, model.name, _label(a), _label(b), differences)


def _label(table: CostTable) -> str:
    return table.name.partition(" on ")[0]


def _differences(
    first: Sequence[CostTable], second: Sequence[CostTable], model: ModelProfile, phase: str
) -> FloatArray:
    layer = next(layer for layer in model.layers if layer.kind == "decoder")
    found = []
    for own, batch, length in shapes([*first, *second]):
        if own != phase:
            continue
        point = Workload(batch, length, 1) if phase == "prefill" else Workload(batch, length - 1, 2)
        times = [_by_operator(tables, model, layer, point, phase) for tables in (first, second)]
        shared = set(times[0]) & set(times[1])
        if {"qkv_proj", "down_proj"} & shared:
            a, b = (sum(each[name] for name in shared) for each in times)
            found.append(b / a - 1.0)
    return np.array(found)


def _by_operator(
    tables: Sequence[CostTable], model: ModelProfile, layer: Layer, point: Workload, phase: str
) -> dict[str, float]:
    step = steps(point)[0 if phase == "prefill" else 1]
    terms, _ = layer_terms(tables, model, layer, step, 1, beyond=False)
    seconds: dict[str, float] = {}
    for term in terms:
        key = "+".join(term.covers)
        seconds[key] = seconds.get(key, 0.0) + term.seconds
    return seconds


def print_factors(rows: Sequence[Measured]) -> None:
    """Print the calibrated factors of every group as YAML, with the error they leave."""
    for group in groups(rows):
        made = calibrate(group.passes)
        left = {phase: np.median(np.abs(group_errors(group.passes, made, phase))) for phase in PHASES}
        print(
            f"  {group.name}: {{compute_efficiency: {made.compute_efficiency:.2f}, memory_efficiency:"
            f" {made.memory_efficiency:.2f}, overhead_s: {made.overhead_s:.1e}}}"
            f"  # median error: prefill {left['prefill']:.0%}, decode {left['decode']:.0%}"
        )


if __name__ == "__main__":
    sys.exit(main())
