"""The reader of ``nvidia-smi topo -m``: shapes that terminals and editors leave behind, one malformed text a defect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.topology import load_topology
from gpuplan.topology.readers.nvidia_smi import parse_matrix

EXPECTED_NICS = {(0, "mlx5_0"): "PIX", (1, "mlx5_0"): "SYS"}


def test_the_smallest_matrix_is_read(two_gpus: str) -> None:
    """Two GPUs, one pair, one NIC."""
    matrix = parse_matrix(two_gpus)
    assert (matrix.gpus, dict(matrix.codes)) == ((0, 1), {(0, 1): "NV4"})
    assert (matrix.nics, dict(matrix.nic_codes)) == (("mlx5_0",), EXPECTED_NICS)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\t", "    "),
        lambda text: "\x1b[4m" + text.replace("NUMA Affinity\n", "NUMA Affinity\x1b[0m\n"),
        lambda text: "user@box:~$ nvidia-smi topo -m\n\n" + text + "user@box:~$\n",
        lambda text: text.split("\nLegend")[0],
        lambda text: text.replace("mlx5_0\tCPU Affinity", "\nmlx5_0\tCPU Affinity"),
        lambda text: text.replace("NV4\tPIX", "NV4\n\tPIX"),
        lambda text: text.replace("mlx5_0\tPIX\tSYS\t X \n", ""),
        lambda text: text.replace("mlx5_0\tPIX\tSYS\t X \n", "mlx5_0\tPIX\n"),
        lambda text: "".join(text.splitlines(keepends=True)[i] for i in (0, 2, 3, 1)),
        lambda text: re.sub(r"\tCPU Affinity\tNUMA Affinity|\t[0-9]+-[0-9]+\t[01]", "", text),
        lambda text: text.replace("\t0-15\t0", "\t0-15\t0\t\tN/A"),
        lambda text: "\n".join(line.strip() for line in text.splitlines()),
    ],
    ids=[
        "crlf", "spaces", "ansi", "prompts", "no legend", "wrapped header", "wrapped row", "no NIC row", "cut NIC row",
        "rows out of order", "no affinity", "GPU NUMA ID", "stripped",
    ],
)  # fmt: skip
def test_harmless_differences_change_nothing(two_gpus: str, change: Callable[[str], str]) -> None:
    """The same matrix comes out of every harmless variant of its text."""
    assert parse_matrix(change(two_gpus)) == parse_matrix(two_gpus)


def test_the_nic_legend_names_the_nics(two_gpus: str) -> None:
    """NIC0 is called by the name its legend gives."""
    text = two_gpus.replace("mlx5_0", "NIC0") + "\nNIC Legend:\n\n  NIC0: mlx5_bond_0\n"
    assert dict(parse_matrix(text).nic_codes) == {(0, "mlx5_bond_0"): "PIX", (1, "mlx5_bond_0"): "SYS"}


def test_a_single_gpu_is_a_matrix(two_gpus: str) -> None:
    """One GPU has no pairs and is no error."""
    assert parse_matrix("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n").gpus == (0,)


MALFORMED = {
    "no GPU rows": (lambda text: text.splitlines()[0] + "\n", "no GPU row", "line 1"),
    "row missing": (lambda text: text.replace("GPU1\tNV4\t X \tSYS\t16-31\t1\n", ""), "not square: GPU1", "line 1"),
    "column missing": (lambda text: text.replace("\tGPU0\tGPU1\t", "\tGPU0\t"), "not square: GPU1", "line 3"),
    "short row": (
        lambda text: text.replace("GPU1\tNV4\t X \tSYS\t16-31\t1", "GPU1\tNV4"),
        "ends before GPU1",
        "line 3",
    ),
    "not symmetric": (lambda text: text.replace("GPU1\tNV4", "GPU1\tSYS"), "not symmetric", "lines 2 and 3"),
    "unknown code": (lambda text: text.replace("NV4", "QPI"), "unknown link code 'QPI'", "line 2"),
    "zero links": (lambda text: text.replace("NV4", "NV0"), "unknown link code 'NV0'", "line 2"),
    "unknown NIC code": (lambda text: text.replace("PIX", "QPI"), "unknown link code 'QPI'", "line 2"),
    "duplicate row": (lambda text: text.replace("GPU1\tNV4", "GPU0\tNV4"), "GPU0 has a second row", "line 3"),
    "duplicate column": (lambda text: text.replace("\tGPU0\tGPU1", "\tGPU0\tGPU0"), "GPU0 appears twice", "line 1"),
    "no X on the diagonal": (lambda text: text.replace("GPU0\t X ", "GPU0\tSYS"), "expected X for GPU0", "line 2"),
    "X off the diagonal": (lambda text: text.replace("NV4", "X"), "expected a link code", "line 2"),
    "no header": (lambda text: text.split("\n", 1)[1], "expected a header", "line 1"),
}


@pytest.mark.parametrize("defect", MALFORMED, ids=str)
def test_a_defect_is_one_clear_sentence_with_its_line(
    two_gpus: str, defect: str, write: Callable[[str, str], Path]
) -> None:
    """Each malformed matrix is refused, naming the file, the line and the defect."""
    change, message, place = MALFORMED[defect]
    path = write("topo.txt", change(two_gpus))
    with pytest.raises(InputError, match=message) as caught:
        load_topology(path, gpu="a100-sxm4-40gb")
    assert (caught.value.source, caught.value.place) == (str(path), place)
    assert "\n" not in str(caught.value)


def test_a_text_without_kinds_asks_for_the_option(two_gpus: str, write: Callable[[str, str], Path]) -> None:
    """Without --gpu or --gpu-info the reader says which option names the kind."""
    with pytest.raises(UsageError, match=r"--gpu KIND .* --gpu-info FILE"):
        load_topology(write("topo.txt", two_gpus))


def test_kinds_go_to_the_gpus_they_name(two_gpus: str, write: Callable[[str, str], Path]) -> None:
    """Ranges win over the kind for all, and the link takes the slower NVLink rate (4 · 14.0625 GB/s)."""
    topology = load_topology(write("topo.txt", two_gpus), gpu=["a100-sxm4-40gb", "1=rtx-3090-24gb"])
    assert [device.kind.name for device in topology.devices] == ["a100-sxm4-40gb", "rtx-3090-24gb"]
    assert topology.links[0].bandwidth_bytes_per_s == 56.25e9


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (["h1000"], "did you mean h100"),
        (["0=l4"], "GPU1"),
        (["0-2=l4"], "not there"),
        (["1-0=l4"], "range"),
        (["0=l4", "0-1=t4"], "twice"),
        (["l4", "t4"], "twice"),
        (["x=l4"], "expected --gpu"),
        ([""], "unknown GPU kind"),
    ],
)
def test_a_bad_gpu_option_is_a_usage_error(
    two_gpus: str, write: Callable[[str, str], Path], gpu: list[str], message: str
) -> None:
    """Unknown kinds, GPUs that are not there and double naming are refused."""
    with pytest.raises(UsageError, match=message):
        load_topology(write("topo.txt", two_gpus), gpu=gpu)


def test_an_unknown_code_at_the_start_of_a_broken_row_is_still_an_error(two_gpus: str) -> None:
    """A text with a matrix but nonsense in the GPU block never passes."""
    with pytest.raises(InputError):
        parse_matrix(two_gpus.replace("NV4", "???"))
