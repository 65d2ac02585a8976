"""Loading: shipped names, files of any content, exclusion, replication, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import (
    list_clusters,
    load_topology,
    replicate,
    route,
    topology_from_dict,
    topology_report,
    topology_to_dict,
)

BOX = "schema: gpuplan/topology/1\ndevices:\n  - {kind: l4, count: 2}\ndefault_link: PHB\n"

CLUSTERS = {
    # name: devices, hosts, kind of the first, route of the first pair: code or kind, bandwidth in bytes/s
    "dgx-a100": (8, 1, "a100-sxm4-80gb", "NV12", 300e9),
    "dgx-h100": (8, 1, "h100-sxm5-80gb", "NV18", 450e9),
    "hgx-h200": (8, 1, "h200-sxm5-141gb", "NV18", 450e9),
    "dgx-b200": (8, 1, "b200-sxm6-180gb", "NV18", 900e9),
    "dgx-1-v100": (8, 1, "v100-sxm2-32gb", "NV2", 50e9),
    "4x3090-uellm": (4, 1, "rtx-3090-24gb", "PIX", 26e9),
    "8xl4": (8, 1, "l4-24gb", "NODE", 19e9),
    "8xmi300x": (8, 1, "mi300x-192gb", "xgmi4", 64e9),
    "mixed-3090-4090-a100": (4, 1, "rtx-3090-24gb", "PHB", 22e9),
    "3-unlike": (3, 1, "rtx-4090-24gb", "PHB", 22e9),
    "2x-dgx-h100": (16, 2, "h100-sxm5-80gb", "NV18", 450e9),
    "2x-dgx-a100": (16, 2, "a100-sxm4-80gb", "NV12", 300e9),
    "gb200-nvl72": (72, 18, "gb200-186gb", "NV18", 900e9),
    "gb300-nvl72": (72, 18, "gb300-279gb", "NV18", 900e9),
    "2x-gb200-nvl72": (144, 36, "gb200-186gb", "NV18", 900e9),
    "8x-dgx-h100": (64, 8, "h100-sxm5-80gb", "NV18", 450e9),
    "dgx-2": (16, 1, "v100-sxm3-32gb", "NV6", 150e9),
    "dgx-b300": (8, 1, "b300-sxm6-270gb", "NV18", 900e9),
    "2x-dgx-spark": (2, 2, "gb10-128gb", "roce-200", 23e9),
    "8xmi355x": (8, 1, "mi355x-288gb", "xgmi5", 76.8e9),
    "8xgaudi2": (8, 1, "gaudi2-96gb", "gaudi2-roce", 34.5e9),
    "8xrtx-pro-6000": (8, 1, "rtx-pro-6000-96gb", "PIX", 52e9),
    "aws-g5-48xlarge": (8, 1, "a10g-24gb", "PHB", 22e9),
    "aws-p4d-24xlarge": (8, 1, "a100-sxm4-40gb", "NV12", 300e9),
    "aws-p4de-24xlarge": (8, 1, "a100-sxm4-80gb", "NV12", 300e9),
    "aws-p5-48xlarge": (8, 1, "h100-sxm5-80gb", "NV18", 450e9),
    "aws-p5en-48xlarge": (8, 1, "h200-sxm5-141gb", "NV18", 450e9),
    "2x-aws-p4d-24xlarge": (16, 2, "a100-sxm4-40gb", "NV12", 300e9),
    "azure-nc96ads-a100-v4": (4, 1, "a100-pcie-80gb", "NV12", 300e9),
    "azure-nd40rs-v2": (8, 1, "v100-sxm2-32gb", "NV2", 50e9),
    "azure-nd96asr-v4": (8, 1, "a100-sxm4-40gb", "NV12", 300e9),
    "azure-nd96amsr-a100-v4": (8, 1, "a100-sxm4-80gb", "NV12", 300e9),
    "azure-nd96isr-h100-v5": (8, 1, "h100-sxm5-80gb", "NV18", 450e9),
    "gcp-a2-highgpu-8g": (8, 1, "a100-sxm4-40gb", "NV12", 300e9),
    "gcp-a2-ultragpu-8g": (8, 1, "a100-sxm4-80gb", "NV12", 300e9),
    "gcp-a3-highgpu-8g": (8, 1, "h100-sxm5-80gb", "NV18", 450e9),
}


def test_every_shipped_cluster_is_listed_here() -> None:
    """No cluster ships untested."""
    assert set(list_clusters()) == set(CLUSTERS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_shipped_cluster_is_what_its_name_says(name: str) -> None:
    """Devices, hosts, kind and the first pair's route; every pair has a route; the document reads back."""
    devices, hosts, kind, code, bandwidth = CLUSTERS[name]
    topology = load_topology(name)
    report = topology_report(topology)
    assert (topology.name, topology.num_devices, len(topology.hosts)) == (name, devices, hosts)
    assert topology.devices[0].kind.name == kind
    assert (report["pairs"][0]["kind"], report["pairs"][0]["bandwidth_bytes_per_s"]) == (code, bandwidth)
    assert all(pair["kind"] for pair in report["pairs"])
    assert len(report["pairs"]) == devices * (devices - 1) // 2
    assert not topology.notes
    assert topology_from_dict(topology_to_dict(topology)) == topology


def test_the_uellm_host_has_its_power_caps_and_pairs() -> None:
    """350/300/250/150 W; 0-1 and 2-3 PIX, the other four pairs NODE."""
    topology = load_topology("4x3090-uellm")
    assert [device.power_cap_w for device in topology.devices] == [350.0, 300.0, 250.0, 150.0]
    pairs = topology_report(topology)["pairs"]
    assert [pair["kind"] for pair in pairs] == ["PIX", "NODE", "NODE", "NODE", "NODE", "PIX"]


def test_the_dgx_1_gives_every_gpu_six_nvlinks() -> None:
    """The hybrid cube mesh uses all six links of each V100."""
    topology = load_topology("dgx-1-v100")
    for device in topology.devices:
        codes = [link.code for link in topology.links if device.name in (link.a, link.b)]
        assert sum(int(code[2:]) for code in codes if code and code.startswith("NV")) == 6


def test_every_nic_of_two_dgx_h100_serves_its_own_gpu() -> None:
    """The route between hosts leaves by the NIC next to the sender and enters by the one next to the receiver."""
    way = route(load_topology("2x-dgx-h100"), "host0/gpu3", "host1/gpu5", 1e6)
    assert way.components == ("host0/gpu3", "host0/nic3", "network0", "host1/nic5", "host1/gpu5")
    assert way.bandwidth_bytes_per_s == 48e9


def test_the_report_of_a_cut_off_pair_is_null() -> None:
    """A pair without a route has null for kind, bandwidth and latency."""
    document = {"schema": "gpuplan/topology/1", "devices": [{"kind": "l4", "count": 2}], "default_link": "none"}
    (pair,) = topology_report(topology_from_dict(document))["pairs"]
    assert (pair["kind"], pair["bandwidth_bytes_per_s"], pair["latency_s"]) == (None, None, None)


def test_memory_fraction_scales_what_is_available() -> None:
    """Half of 81920 MiB."""
    assert load_topology("dgx-a100", memory_fraction=0.5).devices[0].available_bytes == 40960 * 2**20


def test_an_excluded_device_is_gone_and_relays_nothing() -> None:
    """Names may leave the host out where one host has them; indices of the others stay."""
    topology = load_topology("8xl4", exclude=["gpu0", "host0/gpu3"])
    assert [device.index for device in topology.devices] == [1, 2, 4, 5, 6, 7]
    assert all("host0/gpu0" not in (link.a, link.b) for link in topology.links)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dgx-a10", {}, "did you mean dgx-a100"),
        ("", {}, "unknown cluster"),
        ("8xl4", {"exclude": ["gpu9"]}, "no device"),
        ("2x-dgx-h100", {"exclude": ["gpu0"]}, "ambiguous"),
        ("3-unlike", {"exclude": ["gpu0", "gpu1", "gpu2"]}, "leaves no device"),
        ("8xl4", {"gpu": ["t4"]}, "leave it out"),
        ("8xl4", {"memory_fraction": 0.0}, "memory fraction"),
        ("8xl4", {"memory_fraction": 1.5}, "memory fraction"),
        ("8xl4", {"memory_fraction": float("nan")}, "memory fraction"),
        ("8xl4", {"hosts": 2}, "need a fabric"),
        ("8xl4", {"hosts": 0}, "at least 1 host"),
        ("8xl4", {"hosts": 2, "fabric": "infiniband"}, "unknown link kind"),
        ("8xl4", {"hosts": 2, "fabric": "nvlonk4"}, "did you mean nvlink4"),
        ("8xl4", {"hosts": 2, "fabric": "pcie4-pix"}, "does not join hosts"),
        ("2x-dgx-h100", {"hosts": 2, "fabric": "infiniband-ndr"}, "one host"),
        ("8xl4", {"catalog": "nowhere"}, "--catalog"),
    ],
)
def test_a_bad_option_is_a_usage_error(name: str, options: dict[str, object], message: str) -> None:
    """Unknown names suggest the closest; values out of range are named."""
    with pytest.raises(UsageError, match=message):
        load_topology(name, **options)  # type: ignore[arg-type]


def test_a_host_without_nics_gets_one_for_the_fabric() -> None:
    """Eight L4 on each of three hosts reach each other over one NIC a host."""
    topology = load_topology("8xl4", hosts=3, fabric="ethernet-25")
    assert [part.name for part in topology.components if part.role == "nic"] == [
        "host0/nic0",
        "host1/nic0",
        "host2/nic0",
    ]
    assert route(topology, "host0/gpu0", "host2/gpu7", 1e6).bandwidth_bytes_per_s == 2.8e9


def test_replicating_keeps_everything_within_a_host() -> None:
    """Each copy has the original's devices and links; one host is returned as it is."""
    single = load_topology("dgx-1-v100")
    assert replicate(single, 1, "roce-100") is single
    double = replicate(single, 2, "roce-100")
    assert double.num_devices == 16
    inside = [link for link in double.links if link.a.startswith("host1/gpu") and link.b.startswith("host1/gpu")]
    assert len(inside) == len(single.links)


# ------------------------------------------------------------------------------------------------------------- content

CONTENT = {
    "empty": (b"", "empty file"),
    "blank": (b" \n\t\n", "empty file"),
    "binary": (b"\x7fELF\x02\x01\x00\x00", "binary"),
    "not UTF-8": (b"GPU0 \xff\xfa\xfb", "binary"),
    "prose": (b"Dear colleague, our server has four GPUs.", "tried gpuplan YAML or JSON, nvidia-smi topo -m text"),
    "both formats": (BOX.encode() + b"\tGPU0\nGPU0\t X \n", "ambiguous.*gpuplan YAML or JSON and nvidia-smi"),
    "other XML": (b"<html></html>", "the root <html>; tried"),
    "broken YAML": (b"schema: [1, 2\ndevices: 3", "not valid YAML"),
    "broken JSON": (b'{"schema": "gpuplan/topology/1", "devices": [}', "not valid JSON"),
    "NaN in JSON": (b'{"schema": NaN}', "finite number"),
    "key twice in YAML": (BOX.encode() + b"name: a\nname: b\n", "'name' appears twice"),
    "key twice in JSON": (b'{"schema": 1, "schema": 2}', "'schema' appears twice"),
    "deep JSON": (b'{"a":' + b"[" * 100000, "not valid"),
}


@pytest.mark.parametrize("defect", CONTENT, ids=str)
def test_content_that_is_no_topology_is_refused(defect: str, write: Callable[[str, bytes], Path]) -> None:
    """Each is one sentence that names the file."""
    content, message = CONTENT[defect]
    path = write("cluster", content)
    with pytest.raises(InputError, match=message) as caught:
        load_topology(path)
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    """What looks like a path and is no file is a bad file, not an unknown name."""
    with pytest.raises(InputError, match="no such file"):
        load_topology(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="no such file"):
        load_topology("none.txt")
    with pytest.raises(InputError, match="folder"):
        load_topology(str(tmp_path))


def test_a_file_from_a_windows_shell_is_read(write: Callable[[str, bytes], Path]) -> None:
    """UTF-16 with its mark, UTF-8 with its mark, CRLF."""
    for raw in (BOX.encode("utf-16"), b"\xef\xbb\xbf" + BOX.encode(), BOX.replace("\n", "\r\n").encode()):
        assert load_topology(write("cluster.yaml", raw)).num_devices == 2


def test_importing_the_room_is_light() -> None:
    """Neither YAML nor XML nor a graph library nor SciPy is loaded before it is needed."""
    heavy = {"yaml", "networkx", "scipy", "click", "rich", "defusedxml"}
    code = f"import sys, gpuplan.topology; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
