"""Readers on what nobody meant to be read: mutated captures, random text, and what fuzzing found before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import islands, topology_from_dict, topology_to_dict
from gpuplan.topology.catalog import shipped_catalog
from gpuplan.topology.documents import decode, parse_document
from gpuplan.topology.readers.gpu_info import parse_gpu_info
from gpuplan.topology.readers.read import Reading, read_content

SEEDS = sorted((Path(__file__).parent / "seeds").iterdir())
CATALOG = shipped_catalog()
OPTIONS = (
    Reading(CATALOG),
    Reading(CATALOG, gpu=("a100-sxm4-40gb",)),
    Reading(CATALOG, gpu=("0-3=mi300x",), fabric="infiniband-ndr"),
)


def read_every_way(raw: bytes) -> list[str]:
    """Read bytes as every kind of file; return the sentence of each refusal, empty where there was an answer."""
    try:
        content = decode(raw, "input")
    except InputError as error:
        return [str(error)]
    told = [
        answer_or_sentence(lambda options=options: topology_to_dict(_usable(content, options))) for options in OPTIONS
    ]
    told.append(answer_or_sentence(lambda: parse_gpu_info(content, CATALOG, "input")))
    told.append(answer_or_sentence(lambda: parse_document(content, "input")))
    return told


def _usable(content: str, options: Reading):  # type: ignore[no-untyped-def]
    topology, _ = read_content(content, Path("input"), options)
    islands(topology)
    return topology


def answer_or_sentence(read) -> str:  # type: ignore[no-untyped-def]
    """Return the sentence of one of the two errors, or nothing for an answer; any other error passes on."""
    try:
        read()
    except (InputError, UsageError) as error:
        return str(error)
    return ""


def each_is_one_line(told: list[str]) -> bool:
    """Return whether something was told, on one line each."""
    return bool(told) and not any("\n" in sentence for sentence in told)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.name)
def test_what_fuzzing_found_stays_mended(seed: Path) -> None:
    """Inputs that once raised something else (found by fuzz_readers.py) end in an answer or a sentence."""
    assert each_is_one_line(read_every_way(seed.read_bytes()))


NCCL = (
    b'<system version="1"><cpu numaid="0"><pci busid="0000:01:00.0" class="0x060400" link_speed="16 GT/s"'
    b' link_width="16"><pci busid="0000:02:00.0" class="0x030200"><gpu dev="0" sm="80"><nvlink target="0000:03:00.0"'
    b' count="4" tclass="0x030200"/></gpu></pci><pci busid="0000:03:00.0" class="0x030200"><gpu dev="1" sm="80"/></pci>'
    b'<pci busid="0000:04:00.0" class="0x020700"><nic><net name="mlx5_0" speed="200000" port="1"/></nic></pci></pci>'
    b"</cpu></system>"
)
HWLOC = (
    b'<topology version="2.0"><object type="Machine"><object type="Package" os_index="0" gp_index="1"><object'
    b' type="Bridge" bridge_type="0-1"><object type="PCIDev" gp_index="2" pci_busid="0000:01:00.0" pci_type="0302'
    b' [10de:20b0] [0000:0000] a1" pci_link_speed="31.5"><object type="OSDev" gp_index="3" name="nvml0"><info'
    b' name="GPUModel" value="NVIDIA A40"/></object></object></object></object></object><distances2 type="OSDev"'
    b' nbobjs="1" name="NVLinkBandwidth"><indexes>3</indexes><u64values>0</u64values></distances2></topology>'
)
SMI = b"\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU0\t X \tNV4\tPIX\t0-3\nGPU1\tNV4\t X \tSYS\t0-3\nNIC0\tPIX\tSYS\t X \n"
SLURM = b"SwitchName=a Nodes=n[0-3]\nSwitchName=b Nodes=m[0-3]\nSwitchName=c Switches=[a-b],a,b\n"
YAML = (
    b"schema: gpuplan/topology/1\nhosts: 2\nracks: 2\ndevices:\n  - {kind: l4, count: 2, power_cap_w: 60}\n"
    b"default_link: PHB\nlinks:\n  - {between: [gpu0, gpu1], kind: NODE}\nnics: per_device\nfabric: roce-100\n"
)
INFO = b"index, name, memory.total [MiB], power.limit [W]\n0, NVIDIA L4, 23034 MiB, 72.00 W\n"
WORDS = [
    b"", b"0", b"-1",
    b"1e999", b"nan", b"9" * 400, b"\t", b"\n", b" ", b"X", b"NV99", b"GPU0", b"GPU1", b"<", b">", b'"',
    b"&amp;", b"</cpu>", b"<gpu/>", b"0000:01:00.0", b"0x068000", b"[", b"]", b"{", b"}", b":", b",", b"- ", b"null",
    b"*a", b"&a ", b"!!python/object:os.system", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"count", b"none", b"nvlink5",
]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Draw a small valid file with a few pieces cut, doubled or replaced."""
    raw = draw(st.sampled_from([NCCL, HWLOC, SMI, SLURM, YAML, INFO]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        stop = min(start + draw(st.integers(0, 24)), len(raw))
        piece = draw(st.sampled_from([*WORDS, raw[start:stop] * 2]) | st.binary(max_size=6))
        raw = raw[:start] + piece + raw[stop:]
    return raw


@settings(max_examples=600, deadline=None)
@given(mutations())
@example(b"<" * 5000)
@example(b"GPU0 " * 5000)
@example(b"SwitchName=a Nodes=" + b"[0-9]" * 400)
@example(b"<system>" + b"<!-- " * 5000)
@example(b"<!DOCTYPE a [" + b"[" * 5000)
def test_mutated_files_end_in_an_answer_or_a_sentence(raw: bytes) -> None:
    """Cut, doubled and replaced pieces of every format."""
    assert each_is_one_line(read_every_way(raw))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_random_bytes_end_in_an_answer_or_a_sentence(raw: bytes) -> None:
    """Anything at all."""
    assert each_is_one_line(read_every_way(raw))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
    ["l4", "PHB", "NV4", "none", "per_device", "roce-100", "nvlink5", "gpu0", "host0", "20GiB", 1, 2]
)  # fmt: skip
KEYS = st.sampled_from(
    ["devices", "kind", "count", "name", "links", "between", "a", "b", "hosts", "fabric", "nics", "nic_link", "rack",
     "racks", "nvswitch", "default_link", "kinds", "file", "gpu", "rack_fabric", "components", "available_memory"]
)  # fmt: skip
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_document_ends_in_an_answer_or_a_sentence(document: dict[str, object]) -> None:
    """Known keys with values of any shape."""
    base = {"schema": "gpuplan/topology/1", "devices": [{"kind": "l4", "count": 2}], **document}
    assert each_is_one_line([answer_or_sentence(lambda: topology_from_dict(base))])


# ------------------------------------------------------------------------------------- small files that ask for much

HEAD = "schema: gpuplan/topology/1\n"
ALIASES = "".join(
    f"- &a{level} [{', '.join([f'*a{level - 1}'] * 10 if level else ['x'] * 10)}]\n" for level in range(9)
)
GPU = '<pci busid="{:04x}:00:00.0" class="0x030200"/>'
GREEDY = {
    "document type of brackets": ("<!DOCTYPE " + "[]" * 60, "root"),
    "open document type": ("<!DOCTYPE topology [" * 1000, "root"),
    "letters without end": ("SwitchName=a Nodes=n\n" + "a" * 300_000, "expected SwitchName"),
    "blank lines": ("\n" * 200_000 + "x", "not known"),
    "hosts by the million": ("".join(f"SwitchName=s{n} Nodes=x{n}n[0-9999]\n" for n in range(3000)), "at most 16384"),
    "columns": (" ".join(f"GPU{n}" for n in range(100_000)) + "\n", "at most 1024 GPUs and NICs"),
    "rows": ("GPU0\n" + "".join(f"GPU{n} X\n" for n in range(100_000)), "at most 1024 rows|not square"),
    "aliases": (f"{HEAD}devices: [{{kind: l4}}]\nname:\n{ALIASES}", "expected non-empty text"),
    "aliases as devices": (f"{HEAD}devices:\n{ALIASES}", "expected a mapping"),
    "16 million devices": (
        f"{HEAD}hosts: 16384\ndevices: [{{kind: l4, count: 1024}}]\ndefault_link: none\nfabric: none\n",
        "at most 65536 devices in all"),
    "devices of a host": (f"{HEAD}devices: [{', '.join(['{kind: l4, count: 1024}'] * 99)}]\n", "at most 1024 devices"),
    "meshes": (
        f"{HEAD}hosts: 600\ndevices: [{{kind: l4, count: 100}}]\nfabric: none\n", "at most 2097152 links in all"),
    "NICs": (f"{HEAD}nvswitch: 1\ndevices: [{{kind: h100, count: 999}}]\nnics: 999\n", "at most 65536 links between"),
    "a number of 5,000 digits in JSON": ('{"schema": ' + "9" * 5000 + "}", "4300 digits"),
    "a number of 5,000 digits in YAML": (f"{HEAD}devices: [{{kind: l4, count: {'9' * 5000}}}]\n", "not valid YAML"),
    "a hexadecimal one": (f"{HEAD}devices: [{{kind: l4, count: 0x{'f' * 5000}}}]\n", "more than 300 digits"),
    "sockets": (
        "<system>" + "".join(f'<cpu numaid="{n}">{GPU.format(n)}</cpu>' for n in range(300)) + "</system>",
        "at most 256 NUMA nodes"),
    "NICs of NCCL": (
        f"<system><cpu>{GPU.format(1)}<nic>{'<net/>' * 2000}</nic></cpu></system>", "at most 1024 NICs"),
}  # fmt: skip


@pytest.mark.parametrize("what", GREEDY)
def test_a_small_file_cannot_ask_for_much(what: str) -> None:
    """Each once took minutes or all memory; now one sentence within a second or so."""
    content, message = GREEDY[what]
    start = time.perf_counter()
    with pytest.raises((InputError, UsageError), match=message) as caught:
        read_content(content, Path("input"), Reading(CATALOG))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.perf_counter() - start < 10.0
