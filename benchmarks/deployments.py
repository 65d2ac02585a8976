"""Deployments: bound, gap and time over clusters alike and mixed: `python benchmarks/deployments.py [CASE …]`.

Every plan is verified before its row is printed; times are of the processor. Cases: ``scale`` (512 to 4,096 devices,
alike and of four and six kinds, alike within a host), ``asked`` (what may be asked of 4,096), ``mixed`` (8 to 28
unlike devices). Without a case all of them run. The limit is 60 s each (``--time-limit S``).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuplan.plans.verify.deployment import verify_deployment
from gpuplan.profiles import Workload, load_model
from gpuplan.profiles.problems.deployment import DeploymentProblem
from gpuplan.solvers import deploy
from gpuplan.topology import Topology, load_topology

HEAD = "schema: gpuplan/topology/1\nname: {name}\nhosts:\n"
HOST = "  - {{name: p{i}-, count: {count}, devices: [{devices}], {link}, nics: {nics}}}\n"
#: Kind of a host of eight, how its devices are joined, and its NICs.
RACKS = (
    ("h100-sxm5-80gb", "nvswitch: 18", "per_device"),
    ("a100-sxm4-80gb", "nvswitch: 12", "per_device"),
    ("l40s-48gb", "default_link: SYS", "1"),
    ("a100-pcie-40gb", "default_link: SYS", "1"),
    ("l4-24gb", "default_link: SYS", "1"),
    ("rtx-3090-24gb", "default_link: PHB", "1"),
)
SHORT = {
    "H": "h100-pcie-80gb",
    "A": "a100-pcie-80gb",
    "a": "a100-pcie-40gb",
    "s": "l40s-48gb",
    "l": "l4-24gb",
    "r": "rtx-3090-24gb",
}
#: Hosts of PCIe devices, one NIC a host: each word a host, each letter a device (see `SHORT`).
MIXED = {
    "8 of 4 kinds, 2 hosts": "HHaa llrr",
    "9 unlike, 3 hosts": "Hal Asr lrr",
    "12 of 3 kinds, 3 hosts": "HHHH aaaa llll",
    "16 of 4 kinds, 4 hosts": "HHHH aaaa llll rrrr",
    "16 of 6 kinds, 4 hosts": "Halr Halr Aslr Aslr",
    "28 of 4 kinds, 6 hosts": "HHHH aaaaaaaa llll llll rrrr rrrr",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A row: what it is called, model, cluster file, and what is asked."""

    name: str
    model: str
    cluster: str
    asked: dict[str, Any] = field(default_factory=dict)


def racks(devices: int, kinds: int) -> str:
    """Return the file of a cluster of hosts of eight, as many of each kind as can be."""
    hosts, text = devices // 8, HEAD.format(name=f"{devices}-{kinds}")
    for i, (kind, link, nics) in enumerate(RACKS[:kinds]):
        count = hosts // kinds + (i < hosts % kinds)
        text += HOST.format(i=i, count=count, devices=f"{{kind: {kind}, count: 8}}", link=link, nics=nics)
    return text + "fabric: infiniband-ndr\n"


def mixed(words: str) -> str:
    """Return the file of a cluster of unlike hosts."""
    text = HEAD.format(name="mixed")
    for i, word in enumerate(words.split()):
        runs = [f"{{kind: {SHORT[letter]}, count: {word.count(letter)}}}" for letter in dict.fromkeys(word)]
        text += HOST.format(i=i, count=1, devices=", ".join(runs), link="default_link: PHB", nics=1)
    return text + "fabric: ethernet-100\n"


def cases() -> dict[str, list[Case]]:
    """Return the cases by name."""
    sizes = (512, 1024, 2048, 4096)
    scale = [Case(f"{d:,}, {k} kinds", "llama-3.1-70b", racks(d, k)) for k in (1, 4, 6) for d in sizes]
    questions: dict[str, dict[str, Any]] = {
        "most tokens/s": {"objective": "throughput"},
        "TTFT ≤ 3 s": {"ttft_slo_s": 3.0},
        "TPOT ≤ 40 ms": {"tpot_slo_s": 0.04},
        "fewest for 2,000 requests/s": {"objective": "devices", "demand_rps": 2000.0},
    }
    return {
        "scale": scale,
        "asked": [
            Case(f"4,096, {k} kind{'s' * (k > 1)}: {name}", "llama-3.1-70b", racks(4096, k), asked)
            for k in (1, 4)
            for name, asked in questions.items()
        ],
        "mixed": [
            Case(name, model, mixed(words))
            for model in ("llama-3.1-8b", "llama-3.1-70b")
            for name, words in MIXED.items()
        ],
    }


def rows(chosen: list[Case], time_limit_s: float) -> Iterator[str]:
    """Yield a row of the table for every case."""
    for case in chosen:
        problem = DeploymentProblem(
            load_model(case.model), _load(case.cluster), workload=Workload(1, 1024, 128), batch_auto=True, **case.asked
        )
        start = time.process_time()
        result = deploy(problem, time_limit_s=time_limit_s)
        took = time.process_time() - start
        verdict = verify_deployment(result.require_plan())
        assert verdict.ok, verdict
        assert result.objective is not None
        assert result.bound is not None
        gap = "proven" if result.gap == 0.0 else f"{100 * (result.gap or 0.0):.2g} %"
        numbers = f"{result.objective:.5g} | {result.bound:.5g} | {gap} | {took:.1f}"
        yield f"| {case.name} | {case.model.removeprefix('llama-3.1-').upper()} | {numbers} |"


def _load(text: str) -> Topology:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_text(text, "utf-8")
        return load_topology(file)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", default=[], choices=[*cases(), []])
    parser.add_argument("--time-limit", type=float, default=60.0)
    asked = parser.parse_args()
    import scipy.optimize  # noqa: F401 (its import is not the search's)

    for name in asked.case or cases():
        print(f"\n{name}\n\n| devices | model | objective | bound | gap | s |\n| --- | --- | --- | --- | --- | --- |")
        for row in rows(cases()[name], asked.time_limit):
            print(row, flush=True)


if __name__ == "__main__":
    main()
