"""Time and memory of large clusters: `python benchmarks/topology_scale.py [--markdown]`.

Each case runs in a process of its own: a cluster file is written, loaded, its routes for one decode message and its
classes of exchangeable devices and hosts are computed; the median of five runs is printed with the peak memory. The
answer is checked first: sampled pairs against a search in the graph. Limits: 2 s and 1 GB for 4,096 devices, 50 ms for
64; the exit code is 1 when one is broken.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpuplan.topology import (
    Router,
    Topology,
    exchangeable_classes,
    exchangeable_hosts,
    failure_domains,
    islands,
    load_topology,
)

MESSAGE = 16384.0
DGX = "devices: [{kind: h100-sxm5-80gb, count: 8}]\nnvswitch: 18\nnics: per_device\n"


def cases() -> dict[str, dict[str, str]]:
    """Return the files of each case; the first is the cluster."""
    head = "schema: gpuplan/topology/1\n"
    leaves = "".join(f"SwitchName=leaf{n} Nodes=n[{8 * n}-{8 * n + 7}]\n" for n in range(64))
    spines = "".join(f"SwitchName=spine{n} Switches=leaf[{8 * n}-{8 * n + 7}]\n" for n in range(8))
    tree = leaves + spines + "SwitchName=core Switches=spine[0-7]\n"
    mixed = "hosts:\n" + "".join(
        f"  - {{name: p{n}-, count: 64, devices: [{{kind: {kind}, count: 8}}], default_link: SYS,"
        f" links: [{{between: [gpu0, gpu1, gpu2, gpu3], kind: {near}}}], nics: {nics}}}\n"
        for n, (kind, near, nics) in enumerate(
            (kind, near, nics)
            for kind in ("l4", "l40s", "a10g", "rtx-4090")
            for near in ("NODE", "PHB")
            for nics in (1,)
        )
    )
    return {
        "64: 8 hosts of 8, one network": {"c.yaml": f"{head}hosts: 8\n{DGX}fabric: infiniband-ndr\n"},
        "64: 8 DGX-1, one network": {"c.yaml": f"{head}hosts: 8\nfile: dgx-1-v100\nfabric: infiniband-edr\n"},
        "4,096: 512 hosts of 8, one network": {
            "c.yaml": f"{head}hosts: 512\nracks: 64\n{DGX}fabric: infiniband-ndr\n"
        },
        "4,096: 512 hosts of 8, 64 leaves, 8 spines": {
            "c.yaml": f"{head}{DGX}fabric: {{kind: infiniband-ndr, file: topology.conf}}\n",
            "topology.conf": tree,
        },
        "4,104: 57 NVL72 racks": {
            "c.yaml": f"{head}hosts: 1026\nracks: 57\ndevices: [{{kind: gb200-186gb, count: 4}}]\ndefault_link: none\n"
            "nics: per_device\nrack_fabric: nvlink5\nfabric: infiniband-ndr\n"
        },
        "4,096: 512 DGX-1, one network": {
            "c.yaml": f"{head}hosts: 512\nfile: dgx-1-v100\nfabric: infiniband-edr\n"
        },
        "4,096: 8 designs of PCIe hosts": {"c.yaml": f"{head}{mixed}fabric: ethernet-100\n"},
        "16,384: 2,048 hosts of 8, one network": {
            "c.yaml": f"{head}hosts: 2048\nracks: 256\n{DGX}fabric: infiniband-ndr\n"
        },
    }  # fmt: skip


def check(topology: Topology, router: Router) -> None:
    """Compare sampled pairs of the compact table with a search in the graph."""
    table, chance = router.compact_table(MESSAGE), random.Random(1)
    for _ in range(6):
        a = chance.randrange(topology.num_devices)
        targets = [chance.randrange(topology.num_devices) for _ in range(10)] + [a ^ 1]
        found = router.routes_from(router.devices[a], MESSAGE, [router.devices[b] for b in targets if b != a])
        for b in targets:
            if b != a:
                way = found[router.devices[b]]
                assert table.numbers(a, b) == (way.latency_s, 1.0 / way.bandwidth_bytes_per_s), (a, b, way)


def run(path: Path) -> dict[str, float]:
    """Load one cluster and compute everything, five times; return medians in s and the peak memory in MB."""
    load_topology("8xl4")  # the shipped catalogue is read once a process
    times: dict[str, list[float]] = {"load": [], "routes": [], "classes": []}
    for _ in range(5):
        start = time.perf_counter()
        topology = load_topology(path)
        loaded = time.perf_counter()
        router = Router(topology)
        router.compact_table(MESSAGE)
        routed = time.perf_counter()
        classes = exchangeable_classes(topology, router=router)
        hosts = exchangeable_hosts(topology, router=router)
        islands(topology), failure_domains(topology, "rack")
        done = time.perf_counter()
        for key, value in zip(times, (loaded - start, routed - loaded, done - routed), strict=True):
            times[key].append(value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    check(topology, router)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        **medians, "total": sum(medians.values()), "peak_mb": peak,
        "devices": topology.num_devices, "links": len(topology.links), "class_count": len(classes),
        "host_classes": len(hosts), "groups": len(router.compact().between[0]),
    }  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for file, content in cases()[name].items():
            (Path(folder) / file).write_text(content)
        command = [sys.executable, __file__, "--one", str(Path(folder) / "c.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    """Print the table."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run(Path(sys.argv[2]))))
        return 0
    print("| devices: cluster | links | route groups | classes | load | routes | classes | all | peak |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    broken = False
    for name in cases():
        found = measure(name)
        limit = 0.05 if found["devices"] <= 64 else 2.0 if found["devices"] <= 4104 else float("inf")
        broken = broken or found["total"] > limit or found["peak_mb"] > 1024
        spent = " | ".join(f"{1e3 * found[key]:.1f} ms" for key in ("load", "routes", "classes", "total"))
        print(
            f"| {name} | {found['links']:,} | {found['groups']} | {found['class_count']:,} | {spent}"
            f" | {found['peak_mb']:.0f} MB |"
        )
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
