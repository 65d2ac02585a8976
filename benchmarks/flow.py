"""Flow placement: values, bounds and times of the search and of every rule, verified before they are reported.

    python benchmarks/flow.py [--data ../shared/data/helix] [--time-limit 30] [--seeds 2] [--only NAME] [--rules]
        [--trade]

Instances:

* the two published ones (`--data`/instances);
* `published-24-3-regions-s`: the 24 nodes of `single24-70b`, published throughputs, in the three regions of the
  published cluster; links between regions all 12.5 MB/s for seed 0, else drawn with seed s;
* `like-…`: clusters in their manner: the published node counts, throughputs made from the measured tables of `--data`
  by the rule of `table_of` (the published ones also use constants of their runs, so values differ from theirs), every
  model of `--data`; `like-24-3-regions-…-s` has links between regions drawn with seed s;
* `wide-200-s`: 200 nodes of 8 kinds in 4 regions, 32 layers, seed s, links between regions so slow that they bind;
  `deep-200-s`: the same with 80 layers, where one region has few nodes a layer and the link-free bound is far.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuplan.plans.flow_solution import FlowSolution, flow_solution_to_dict
from gpuplan.plans.verify.flow import verify_flow_solution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.profiles.problems.flow_io import load_flow_problem
from gpuplan.solvers.flow import FLOW_SOLVERS, solve_flow
from gpuplan.solvers.limits import Limits
from gpuplan.solvers.result import Result

#: GPU memory of the machines of the tables, GB, and a share of it that weights and KV can fill.
MEMORY_GB = {"a100": 40, "v100": 16, "l4": 24, "l4x2": 48, "t4": 16, "t4x2": 32, "t4x4": 64}
FILLED = 0.859
#: Machines of the published clusters.
SINGLE24 = {"a100": 4, "t4": 12, "l4": 8}
MIXED42 = {"a100": 4, "v100": 6, "l4": 8, "l4x2": 4, "t4": 10, "t4x2": 6, "t4x4": 4}
THREE_REGIONS: Sequence[Mapping[str, int]] = ({"a100": 4}, {"l4": 2, "t4": 8}, {"l4": 6, "t4": 4})
#: Mean tokens of a prompt and an answer in the published traces.
PROMPT, OUTPUT = 763, 232


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the tables: layers, bytes of a layer, KV bytes a token and layer, activation bytes a token."""

    folder: str
    num_layers: int
    layer_bytes: float
    kv_bytes: float
    activation_bytes: float


MODELS = {
    "70b": Model("llama2_70b", 80, 1.711e9, 4096.0, 16384.0),
    "30b": Model("llama1_30b", 60, 1.07e9, 26624.0, 13312.0),
}


def table_of(data: Path, model: Model, machine: str) -> np.ndarray:
    """Return T(k), tokens/s: what a machine passes that runs one prompt and its answers in turn, KV full, k layers.

    KV room divided by the tokens of a request gives the requests in flight; a share k/L of them is on the machine.
    """
    prompt, decode = (_measured(data, model, machine, kind) for kind in ("prompt", "decode"))
    memory = MEMORY_GB[machine] * 1e9
    rates = []
    for layers in range(1, int(memory / 2 / model.layer_bytes) + 1):
        room = (FILLED * memory - layers * model.layer_bytes) / (model.kv_bytes * layers)
        batch = room / (PROMPT + OUTPUT) * layers / model.num_layers
        seconds = layers * (np.interp(PROMPT, *prompt) + OUTPUT / batch * np.interp(batch, *decode)) / 1e3
        rates.append((PROMPT + OUTPUT) / seconds)
    return np.array(rates)


def _measured(data: Path, model: Model, machine: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    path = data / "model_manager" / model.folder / machine / f"{kind}_bs2time.csv"
    with path.open(encoding="utf-8") as stream:
        rows = np.array([[float(cell) for cell in row] for row in csv.reader(stream)])
    return rows[:, 0], rows[:, 1]


def helix_like(data: Path, model: Model, regions: Sequence[Mapping[str, int]], seed: int = 0) -> FlowProblem:
    """Return a cluster in the published manner: 1.25 GB/s inside a region, 12.5 ± 2.5 MB/s between regions."""
    rng = np.random.default_rng(seed)
    machines = sorted({machine for region in regions for machine in region})
    nodes = [
        (machine, r) for r, region in enumerate(regions) for machine, count in region.items() for _ in range(count)
    ]
    region = np.array([r for _, r in nodes])
    slow = np.maximum(rng.normal(12.5e6, 2.5e6, (len(nodes), len(nodes))), 1e6)
    links = np.where(region[:, None] == region[None, :], 1.25e9, slow) / model.activation_bytes
    np.fill_diagonal(links, 0.0)
    return FlowProblem(
        model.num_layers,
        tuple(machines),
        tuple(table_of(data, model, machine) for machine in machines),
        tuple(f"node{i}" for i in range(len(nodes))),
        np.array([machines.index(machine) for machine, _ in nodes]),
        links,
        np.full(len(nodes), 5e8),
        np.full(len(nodes), 5e8),
    )


def published_in_regions(data: Path, seed: int) -> FlowProblem:
    """Return `single24-70b` in three regions: 12.5 MB/s between regions, ± 2.5 MB/s but for seed 0."""
    published = load_flow_problem(data / "instances" / "single24-70b.json")
    number = {name.lower(): kind for kind, name in enumerate(published.kind_names)}
    links = helix_like(data, MODELS["70b"], THREE_REGIONS, seed)
    kinds = np.array([number[links.kind_names[kind].lower()] for kind in links.node_kinds])
    slow = links.link_tokens_per_s
    if seed == 0:
        slow = np.where(slow < slow.max(), 12.5e6 / MODELS["70b"].activation_bytes, slow)
        np.fill_diagonal(slow, 0.0)
    return dataclasses.replace(published, node_kinds=kinds, link_tokens_per_s=slow)


def wide_cluster(seed: int, *, nodes: int = 200, kinds: int = 8, regions: int = 4, num_layers: int = 32) -> FlowProblem:
    """Return a cluster of several regions whose nodes are dealt out at random; links between regions bind.

    A kind of strength s holds 3 to 16 layers and passes about 2,000·s / k^1.1 tokens/s, not quite monotone in k; a link
    between regions takes 20 to 60 tokens/s.
    """
    rng = np.random.default_rng(seed)
    most = rng.integers(3, 17, kinds)
    strength = rng.uniform(0.4, 6.0, kinds)
    tables = tuple(
        2000.0 * s / np.arange(1, m + 1) ** 1.1 * rng.uniform(0.93, 1.07, m)
        for s, m in zip(strength, most, strict=True)
    )
    region = rng.integers(0, regions, nodes)
    links = np.where(region[:, None] == region[None, :], 1e5, rng.uniform(20.0, 60.0, (nodes, nodes)))
    np.fill_diagonal(links, 0.0)
    wide = np.full(nodes, 1e6)
    names = tuple(f"node{i}" for i in range(nodes))
    return FlowProblem(
        num_layers,
        tuple(f"kind{k}" for k in range(kinds)),
        tables,
        names,
        rng.integers(0, kinds, nodes),
        links,
        wide,
        wide,
    )


def instances(data: Path, seeds: int) -> Iterator[tuple[str, FlowProblem]]:
    """Yield every instance with its name; those of `--data` only where it is there; `seeds` of each drawn at random."""
    if data.is_dir():
        for name in ("quality10-30b", "single24-70b"):
            yield name, load_flow_problem(data / "instances" / f"{name}.json")
        for seed in range(seeds):
            yield f"published-24-3-regions-{seed}", published_in_regions(data, seed)
        for name, model in MODELS.items():
            yield f"like-24-{name}", helix_like(data, model, [SINGLE24])
            yield f"like-42-{name}", helix_like(data, model, [MIXED42])
            for seed in range(seeds):
                yield f"like-24-3-regions-{name}-{seed}", helix_like(data, model, THREE_REGIONS, seed)
    for seed in range(seeds):
        yield f"wide-200-{seed}", wide_cluster(seed)
        yield f"deep-200-{seed}", wide_cluster(seed, num_layers=80)


def row(name: str, problem: FlowProblem, label: str, result: Result[FlowSolution], seconds: float) -> str:
    """Verify an answer and return its row of the table."""
    if result.plan is not None:
        verdict = verify_flow_solution(flow_solution_to_dict(result, problem), problem)
        assert verdict.ok, f"{name}, {label}: {verdict}"
    cells = [
        name,
        label,
        result.status,
        "" if result.objective is None else f"{result.objective:,.3f}",
        "" if result.bound is None else f"{result.bound:,.3f}",
        "" if result.gap is None else f"{100 * result.gap:.3f} %",
        str(int(result.terms["hops"])) if result.terms else "",
        str(int(result.terms["layers_on_one_node"])) if result.terms else "",
        f"{seconds:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def measure(name: str, problem: FlowProblem, solver: str, time_limit_s: float) -> str:
    """Solve and return a row of the table."""
    started = time.perf_counter()
    result = solve_flow(problem, solver=solver, limits=Limits(time_limit_s=time_limit_s))
    return row(name, problem, solver, result, time.perf_counter() - started)


def trade(name: str, problem: FlowProblem, time_limit_s: float) -> Iterator[str]:
    """Yield rows of what limits on hops, and on layers held by one node, cost."""
    limits = Limits(time_limit_s=time_limit_s)
    for hops in (20, 16, 12, 10, 8, 6):
        limited = dataclasses.replace(problem, max_hops=hops)
        started = time.perf_counter()
        yield row(name, limited, f"max_hops {hops}", solve_flow(limited, limits=limits), time.perf_counter() - started)
    for share in (0.5, 0.25, 0.0):
        started = time.perf_counter()
        result = solve_flow(problem, limits=limits, max_single_share=share)
        yield row(name, problem, f"single {share:.0%}", result, time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("--data", type=Path, default=here / "shared" / "data" / "helix")
    parser.add_argument("--time-limit", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=2, help="instances of each random family")
    parser.add_argument("--only", default="", help="instances whose name holds this")
    parser.add_argument("--rules", action="store_true", help="also the rules and the mixed-integer model")
    parser.add_argument("--trade", action="store_true", help="limits on hops and single holders instead")
    arguments = parser.parse_args()
    columns = ("instance", "solver", "status", "tokens/s", "bound", "gap", "hops", "on one node", "s")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for name, problem in instances(arguments.data, arguments.seeds):
        if arguments.only not in name:
            continue
        limit = 2 * arguments.time_limit if "200" in name else arguments.time_limit
        if arguments.trade:
            for line in trade(name, problem, limit):
                print(line, flush=True)
            continue
        for solver in FLOW_SOLVERS if arguments.rules else ["auto"]:
            print(measure(name, problem, solver, limit), flush=True)


if __name__ == "__main__":
    main()
