"""Large clusters: thousands of devices without a D×D matrix."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuplan.topology import (
    Router,
    exchangeable_classes,
    exchangeable_hosts,
    load_topology,
    topology_report,
)

CLUSTER = (
    "schema: gpuplan/topology/1\nhosts: 512\nracks: 64\ndevices: [{kind: h100-sxm5-80gb, count: 8}]\nnvswitch: 18\n"
    "nics: per_device\nfabric: infiniband-ndr\n"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a cluster of 4,096 devices."""
    file = tmp_path_factory.mktemp("scale") / "c.yaml"
    file.write_text(CLUSTER)
    return file


def test_4096_devices_are_loaded_routed_and_classified_in_two_seconds(path: Path) -> None:
    """Best of three: a busy machine does not matter."""
    load_topology("dgx-h100")
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        topology = load_topology(path)
        router = Router(topology)
        router.compact_table(16384.0)
        classes = exchangeable_classes(topology, router=router)
        exchangeable_hosts(topology, router=router)
        spent.append(time.perf_counter() - start)
    assert [len(group) for group in classes] == [8] * 512
    assert min(spent) < 2.0


def test_4096_devices_need_no_matrix(path: Path) -> None:
    """A D×D matrix of numbers alone would take 134 MB; everything together takes less."""
    tracemalloc.start()
    topology = load_topology(path)
    router = Router(topology)
    table = router.compact_table(16384.0)
    exchangeable_classes(topology, router=router)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert table.between_latency_s.shape == (1, 1)


def test_numbers_of_a_large_cluster(path: Path) -> None:
    """NVLink inside (5 µs, 450 GB/s), 19 µs and 48 GB/s between hosts; a row has 7 and 4,088 of them."""
    topology = load_topology(path)
    table = Router(topology).compact_table(16384.0)
    assert table.numbers(0, 7) == pytest.approx((5e-6, 1 / 450e9))
    assert table.numbers(0, 4095) == pytest.approx((19e-6, 1 / 48e9))
    latency, slowness = table.row(100)
    assert (slowness == 1 / 450e9).sum() == 7
    assert (slowness == 1 / 48e9).sum() == 4088
    assert latency[100] == slowness[100] == 0.0


def test_sixty_four_devices_take_well_under_50_ms(write: Callable[[str, str], Path]) -> None:
    """Loading, routes and classes together, best of five."""
    file = write("c.yaml", CLUSTER.replace("512", "8").replace("64", "2"))
    load_topology(file)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        topology = load_topology(file)
        router = Router(topology)
        router.table(16384.0)
        exchangeable_classes(topology, router=router)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.05


def test_the_report_of_a_large_cluster_leaves_out_single_pairs(path: Path) -> None:
    """Eight million pairs are no report; a note says so."""
    report = topology_report(load_topology(path))
    assert report["pairs"] == []
    assert any("too many devices" in note for note in report["notes"])
    assert len(report["classes"]) == 512
