"""The catalogue: published values, names as people type them, a user's own entries."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import DeviceKind, device_kind, list_clusters, list_kinds, list_link_kinds, load_topology
from gpuplan.units import DTYPE_BYTES, MIB


def test_there_are_at_least_40_kinds() -> None:
    """Every accelerator a person is likely to have, from V100 to GB300, MI355X and Gaudi 3."""
    names = {kind.name for kind in list_kinds()}
    assert len(names) >= 40
    assert names >= {
        "v100-sxm2-16gb", "v100-sxm2-32gb", "v100-pcie-16gb", "v100-pcie-32gb", "t4-16gb", "a100-sxm4-40gb",
        "a100-sxm4-80gb", "a100-pcie-40gb", "a100-pcie-80gb", "a10-24gb", "a10g-24gb", "a30-24gb", "a40-48gb",
        "a6000-48gb", "l4-24gb", "l40s-48gb", "rtx-3090-24gb", "rtx-4090-24gb", "rtx-5090-32gb", "rtx-pro-6000-96gb",
        "h100-sxm5-80gb", "h100-pcie-80gb", "h100-nvl-94gb", "h200-sxm5-141gb", "b200-sxm6-180gb", "gb200-186gb",
        "mi210-64gb", "mi250x-gcd-64gb", "mi300x-192gb", "v100-sxm3-32gb", "b300-sxm6-270gb", "gb300-279gb",
        "rtx-3090-ti-24gb", "rtx-4080-16gb", "rtx-5070-ti-16gb", "rtx-5080-16gb", "h20-sxm5-96gb", "mi250-gcd-64gb",
        "mi300a-128gb", "mi325x-256gb", "mi350x-288gb", "mi355x-288gb", "gaudi2-96gb", "gaudi3-128gb", "gb10-128gb",
    }  # fmt: skip


@pytest.mark.parametrize("kind", list_kinds(), ids=lambda kind: kind.name)
def test_a_kind_is_complete_and_plausible(kind: DeviceKind) -> None:
    """Names are canonical, numbers positive and finite, memory whole MiB near the name's figure, the source given."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-[0-9]+gb", kind.name)
    assert set(kind.flops_per_s) <= set(DTYPE_BYTES)
    assert {"fp16"} if kind.vendor == "intel" else {"fp16", "fp32"} <= set(kind.flops_per_s)
    numbers = [kind.memory_bandwidth_bytes_per_s, kind.power_w]
    assert (kind.pcie_bandwidth_bytes_per_s > 0) == (kind.vendor != "apple")
    assert all(math.isfinite(value) and value > 0 for value in [*numbers, *kind.flops_per_s.values()])
    assert kind.memory_bytes % MIB == 0
    said = int(kind.name.rsplit("-", 1)[1].removesuffix("gb"))
    # Metal lets a GPU have three quarters of the unified memory that the name says.
    least = 0.74 if kind.vendor == "apple" else 0.9
    assert least * said * 2**30 <= kind.memory_bytes <= 1.1 * said * 2**30
    assert (kind.nvlink_links > 0) == (kind.nvlink_bandwidth_bytes_per_s > 0)
    # Dense rates: 8-bit never above 4.1 times 16-bit (GeForce fp16 counts fp32 accumulation, int8 runs at full rate).
    assert kind.flops_per_s.get("int8", 0.0) <= 4.1 * kind.flops_per_s["fp16"]
    assert kind.source


PUBLISHED = [
    # kind, bytes the driver reports, memory bandwidth, dtype, dense FLOP/s, NVLink bytes/s one way: data sheets
    ("v100-sxm2-32gb", 32510 * MIB, 900e9, "fp16", 125e12, 6 * 25e9),
    ("t4-16gb", 15360 * MIB, 320e9, "fp16", 65e12, 0.0),
    ("a100-sxm4-40gb", 40960 * MIB, 1555e9, "bf16", 312e12, 12 * 25e9),
    ("a100-sxm4-80gb", 81920 * MIB, 2039e9, "int8", 624e12, 12 * 25e9),
    ("l4-24gb", 23034 * MIB, 300e9, "fp8", 242.5e12, 0.0),
    ("rtx-3090-24gb", 24576 * MIB, 936e9, "bf16", 71e12, 4 * 14.0625e9),
    ("rtx-4090-24gb", 24564 * MIB, 1008e9, "fp16", 165.2e12, 0.0),
    ("h100-sxm5-80gb", 81559 * MIB, 3350e9, "fp8", 1978.9e12, 18 * 25e9),
    ("h200-sxm5-141gb", 143771 * MIB, 4800e9, "bf16", 989.4e12, 18 * 25e9),
    ("b200-sxm6-180gb", 183359 * MIB, 7700e9, "bf16", 2250e12, 18 * 50e9),
    ("gb200-186gb", 189471 * MIB, 8000e9, "mxfp4", 10000e12, 18 * 50e9),
    ("mi300x-192gb", 196592 * MIB, 5300e9, "bf16", 1307.4e12, 7 * 64e9),
    ("rtx-5080-16gb", 16303 * MIB, 960e9, "fp16", 112.6e12, 0.0),
    ("gb300-279gb", 284208 * MIB, 8000e9, "mxfp4", 15000e12, 18 * 50e9),
    ("mi355x-288gb", 294896 * MIB, 8000e9, "fp8", 5033.2e12, 7 * 76.8e9),
    ("gaudi3-128gb", 131072 * MIB, 3700e9, "bf16", 1835e12, 0.0),
    ("h20-sxm5-96gb", 97871 * MIB, 4000e9, "bf16", 148e12, 18 * 25e9),
]


@pytest.mark.parametrize(("name", "memory", "bandwidth", "dtype", "flops", "nvlink"), PUBLISHED)
def test_published_values(name: str, memory: int, bandwidth: float, dtype: str, flops: float, nvlink: float) -> None:
    """Well-known figures of vendors' data sheets, and memory as the driver prints it."""
    kind = device_kind(name)
    assert (kind.memory_bytes, kind.memory_bandwidth_bytes_per_s, kind.flops_per_s[dtype]) == (memory, bandwidth, flops)
    assert kind.nvlink_links * kind.nvlink_bandwidth_bytes_per_s == nvlink


def test_dtypes_that_tensor_cores_lack_are_absent() -> None:
    """No bf16 on V100 and T4, no fp8 on A100, no int4 on H100."""
    assert "bf16" not in device_kind("v100-sxm2-16gb").flops_per_s
    assert "bf16" not in device_kind("t4").flops_per_s
    assert "fp8" not in device_kind("a100-sxm4-80gb").flops_per_s
    assert "int4" not in device_kind("h100").flops_per_s


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a100_pcie", "a100-pcie-80gb"),
        ("a100_sxm", "a100-sxm4-80gb"),
        ("a30", "a30-24gb"),
        ("b200_sxm", "b200-sxm6-180gb"),
        ("b300_sxm", "b300-sxm6-270gb"),
        ("gb300", "gb300-279gb"),
        ("gb200", "gb200-186gb"),
        ("h100_pcie", "h100-pcie-80gb"),
        ("h100_sxm", "h100-sxm5-80gb"),
        ("h200_sxm", "h200-sxm5-141gb"),
        ("l4", "l4-24gb"),
        ("l40s", "l40s-48gb"),
    ],
)
def test_kinds_agree_with_a_second_source(shared_data: Path, file: str, name: str) -> None:
    """Bandwidth, dense 16-bit rate and power agree within 1 %, memory within 7 % (there the figure on the box)."""
    other = yaml.safe_load((shared_data / "specs" / "aic-systems" / f"{file}.yaml").read_text())["gpu"]
    kind = device_kind(name)
    assert kind.memory_bandwidth_bytes_per_s == pytest.approx(other["mem_bw"], rel=0.01)
    assert kind.flops_per_s["bf16"] == pytest.approx(other["bfloat16_tc_flops"], rel=0.01)
    assert kind.power_w == pytest.approx(other["power"], rel=0.01)
    assert kind.memory_bytes == pytest.approx(other["mem_capacity"], rel=0.07)


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a100-sxm4-80gb", "a100-sxm4-80gb"),
        ("h200", "h200-sxm5-141gb"),  # a unique prefix
        ("a100-sxm-80gb", "a100-sxm4-80gb"),  # sxm for sxmN
        ("v100-sxm-16gb", "v100-sxm2-16gb"),
        ("h100-sxm", "h100-sxm5-80gb"),  # both
        ("h100", "h100-sxm5-80gb"),  # ambiguous by form only: the SXM form
        ("h100-p", "h100-pcie-80gb"),  # a unique prefix that ends inside a word
        ("l4", "l4-24gb"),  # a whole part before parts of words: not l40
        ("l40", "l40-48gb"),
        ("mi250", "mi250-gcd-64gb"),  # a whole part before parts of words: not mi250x
        ("rtx-3090", "rtx-3090-24gb"),  # only a memory size is open: not the 3090 Ti
        ("rtx-4080", "rtx-4080-16gb"),
        ("gb300", "gb300-279gb"),
        ("a10", "a10-24gb"),  # not a10g, not a100
        ("gb200", "gb200-186gb"),
        ("mi300x", "mi300x-192gb"),
        ("H100-SXM5-80GB", "h100-sxm5-80gb"),
        ("rtx 4090", "rtx-4090-24gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),  # the driver's own name
    ],
)
def test_names_as_people_type_them(typed: str, meant: str) -> None:
    """Unique prefixes, ``sxm`` for ``sxmN``, the SXM form, the driver's name."""
    assert device_kind(typed).name == meant


@pytest.mark.parametrize(
    ("typed", "candidates"),
    [
        ("a100", {"a100-sxm4-40gb", "a100-sxm4-80gb", "a100-pcie-40gb", "a100-pcie-80gb"}),
        ("a100-sxm", {"a100-sxm4-40gb", "a100-sxm4-80gb"}),
        ("v100-pcie", {"v100-pcie-16gb", "v100-pcie-32gb"}),
        ("mi300", {"mi300a-128gb", "mi300x-192gb"}),
        ("rtx", {"rtx-3090-24gb", "rtx-4090-24gb", "rtx-5090-32gb", "rtx-pro-6000-96gb"}),
    ],
)
def test_ambiguous_names_list_the_candidates(typed: str, candidates: set[str]) -> None:
    """A name that memory or model leaves open is refused with all it may mean."""
    with pytest.raises(UsageError, match="ambiguous") as caught:
        device_kind(typed)
    assert all(name in str(caught.value) for name in candidates)


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("h101", "h100"),
        ("a100-80gb", "a100-sxm4-80gb"),
        ("rtx4090", "rtx-4090"),
        ("rtx-3070", "rtx-3090"),
        ("hh100", "h100"),
    ],
)
def test_unknown_names_suggest_the_closest(typed: str, near: str) -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        device_kind(typed)


@pytest.mark.parametrize("typed", ["h100-sxm4-80gb", "", "   ", "zzzzzz"])
def test_a_wrong_or_empty_name_is_unknown(typed: str) -> None:
    """An SXM form the model does not have, or no name at all, is no kind."""
    with pytest.raises(UsageError, match="unknown GPU kind"):
        device_kind(typed)


# -------------------------------------------------------------------------------------------------------------- links


def test_links_are_positive_and_later_generations_faster() -> None:
    """Every link has a bandwidth and a latency; PCIe doubles by generation and slows with what it traverses."""
    links = {link.name: link for link in list_link_kinds()}
    assert all(link.bandwidth_bytes_per_s > 0 and link.latency_s > 0 for link in links.values())
    for code, slower in (("pix", "pxb"), ("pxb", "phb"), ("phb", "node"), ("node", "sys")):
        for generation in (3, 4, 5, 6):
            near, far = links[f"pcie{generation}-{code}"], links[f"pcie{generation}-{slower}"]
            assert near.bandwidth_bytes_per_s > far.bandwidth_bytes_per_s
            assert near.latency_s < far.latency_s
    for generation in (3, 4, 5):
        now, later = links[f"pcie{generation}-pix"], links[f"pcie{generation + 1}-pix"]
        assert 1.8 < later.bandwidth_bytes_per_s / now.bandwidth_bytes_per_s < 2.1


# ----------------------------------------------------------------------------------------------------- user catalogue

OWN_GPUS = """schema: gpuplan/gpus/1
kinds:
  toy-8gb:
    memory_bytes: 8GiB
    memory_bandwidth_bytes_per_s: 1e11
    flops_per_s: {fp16: 1e13}
    power_w: 100
    driver_names: [ACME Toy]
"""
OWN_CLUSTER = "schema: gpuplan/topology/1\nname: bench\ndevices:\n  - {kind: toy, count: 2}\ndefault_link: slow\n"
OWN_LINKS = """schema: gpuplan/links/1
links:
  slow: {class: pcie, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder with one kind, one link and one cluster of a user's own."""
    (tmp_path / "clusters").mkdir()
    (tmp_path / "gpus.yaml").write_text(OWN_GPUS)
    (tmp_path / "links.yaml").write_text(OWN_LINKS)
    (tmp_path / "clusters" / "bench.yaml").write_text(OWN_CLUSTER)
    return tmp_path


def test_a_user_catalogue_adds_kinds_links_and_clusters(own: Path) -> None:
    """Its names work beside the shipped ones, which stay as they are."""
    assert device_kind("toy", catalog=own).memory_bytes == 8 * 2**30
    assert device_kind("ACME Toy", catalog=own).name == "toy-8gb"
    assert device_kind("t4", catalog=own).name == "t4-16gb"
    assert "bench" in list_clusters(catalog=own)
    assert "bench" not in list_clusters()
    topology = load_topology("bench", catalog=own)
    assert [link.bandwidth_bytes_per_s for link in topology.links] == [1e9]


def test_a_missing_catalogue_is_a_usage_error(tmp_path: Path) -> None:
    """The option must name a folder."""
    with pytest.raises(UsageError, match="--catalog"):
        device_kind("t4", catalog=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda text: text.replace("1e11", "-1"), "$.kinds.toy-8gb.memory_bandwidth_bytes_per_s"),
        (lambda text: text.replace("1e11", ".nan"), "$.kinds.toy-8gb.memory_bandwidth_bytes_per_s"),
        (lambda text: text.replace("fp16: 1e13", "fp17: 1e13"), "$.kinds.toy-8gb.flops_per_s.fp17"),
        (lambda text: text.replace("fp16: 1e13", ""), "$.kinds.toy-8gb.flops_per_s"),
        (lambda text: text.replace("power_w", "watts"), "$.kinds.toy-8gb.watts"),
        (lambda text: text.replace("gpus/1", "gpus/9"), "$.schema"),
        (lambda text: text.replace("    power_w: 100\n", ""), "$.kinds.toy-8gb"),
    ],
)
def test_a_bad_entry_of_a_catalogue_names_its_place(own: Path, change, place: str) -> None:  # type: ignore[no-untyped-def]
    """Files of a user's catalogue are checked like any input."""
    path = own / "gpus.yaml"
    path.write_text(change(OWN_GPUS))
    with pytest.raises(InputError) as caught:
        device_kind("toy", catalog=own)
    assert (caught.value.source, caught.value.place) == (str(path), place)
