"""Links: α and β found again, published tables, NCCL-tests output as it is pasted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuplan.errors import InputError
from gpuplan.profiles.link_fits import Transfers, fit_link, parse_nccl_tests, read_transfers

SIZES = np.array([1e3, 1e5, 1e7, 1e9])
ALL_REDUCE = """# nThread 1 nGpus 2 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
#  Rank  0 Group  0 Pid  4711 on host device  0 [0x07] NVIDIA A100-SXM4-80GB
#  Rank  1 Group  0 Pid  4711 on host device  1 [0x0a] NVIDIA A100-SXM4-80GB
#  Rank  2 Group  0 Pid  4711 on host device  2 [0x0b] NVIDIA A100-SXM4-80GB
#  Rank  3 Group  0 Pid  4711 on host device  3 [0x0c] NVIDIA A100-SXM4-80GB
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1000000        250000     float     sum      -1    135.0    7.41   11.11      0    134.0    7.41   11.11      0
  1000000000     250000000     float     sum      -1    15060    66.4    99.6      0    15000    66.4    99.6    N/A
# Out of bounds values : 0 OK
"""


def test_exact_transfers_give_their_numbers_back() -> None:
    """10 µs and 20 GB/s."""
    fit = fit_link(Transfers("x", SIZES, 1e-5 + SIZES / 2e10))
    assert (fit.latency_s, fit.bandwidth_bytes_per_s) == (pytest.approx(1e-5), pytest.approx(2e10))
    assert fit.worst_error < 1e-9


def test_a_ring_counts_its_steps() -> None:
    """Over 4 devices: 6·α + 1.5·m·β."""
    seconds = 6 * 1e-5 + 1.5 * SIZES / 1e11
    fit = fit_link(Transfers("x", SIZES, seconds, devices=4, all_reduce=True))
    assert (fit.latency_s, fit.bandwidth_bytes_per_s) == (pytest.approx(1e-5), pytest.approx(1e11))


def test_times_that_do_not_grow_have_no_end_of_bandwidth() -> None:
    """The same time at every size: β is 0."""
    fit = fit_link(Transfers("x", SIZES, np.full(4, 1e-5)))
    assert fit.bandwidth_bytes_per_s > 1e20


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([1.0], [1.0], "at least two sizes"),
        ([1.0, 1.0], [1.0, 2.0], "at least two sizes"),
        ([1.0, 2.0], [1.0, 0.0], "above 0"),
    ],
)
def test_too_little_is_refused(sizes: list[float], seconds: list[float], message: str) -> None:
    """One size, or a time of nothing."""
    with pytest.raises(InputError, match=message):
        fit_link(Transfers("x", np.array(sizes), np.array(seconds)))


def test_nccl_tests_all_reduce() -> None:
    """4 ranks: 135 µs = 6α + 1.5·1 MB·β and 15060 µs = 6α + 1.5·1 GB·β: β = 14925 µs / (1.5·999 MB), 100.4 GB/s."""
    transfers = parse_nccl_tests(ALL_REDUCE)
    assert (transfers.devices, transfers.all_reduce) == (4, True)
    assert transfers.seconds == pytest.approx([135e-6, 15060e-6])
    fit = fit_link(transfers)
    assert fit.bandwidth_bytes_per_s == pytest.approx(1.5 * 999e6 / 14925e-6, rel=1e-6)


def test_nccl_tests_sendrecv_without_redop_and_root() -> None:
    """Older output leaves the two columns out; a whole time is not taken for a root."""
    text = (
        "  1024  256  float  12.5  0.08  0.08  0e+00  12.4  0.08  0.08  0e+00\n"
        "  2048  512  float  13  0.1  0.1  0  13  0.1  0.1  0\n"
    )
    transfers = parse_nccl_tests(text)
    assert not transfers.all_reduce
    assert transfers.seconds == pytest.approx([12.5e-6, 13e-6])


def test_nccl_tests_sendrecv_with_none() -> None:
    """Newer output prints none and -1."""
    text = "  1024  256  float  none  -1  12.5  0.08  0.08  N/A  12.4  0.08  0.08  N/A\n" * 1 + (
        "  4096  1024  float  none  -1  14  0.3  0.3  0  14  0.3  0.3  0\n"
    )
    assert parse_nccl_tests(text).seconds == pytest.approx([12.5e-6, 14e-6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\nworld\n", "expected Vidur's network CSV or the output of NCCL-tests"),
        ("  1024  256  float  sum  -1  fast  1  1  0  1  1  1  0\n", "line 1: expected a row of NCCL-tests"),
        ("broadcast_perf\n  1024 256 float 12.5 1 1 0 12 1 1 0\n  2048 512 float 13 1 1 0 13 1 1 0\n",
         "expected sendrecv_perf or all_reduce_perf, got broadcast_perf"),
    ],
)  # fmt: skip
def test_other_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Text, a broken row, another operation."""
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_transfers(tmp_path / "x.txt")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "name", "low", "high"),
    [
        # NVLink 3 gives 300 GB/s each way, NVLink 4 450 GB/s; between hosts one NIC of 200 or 400 Gbit/s.
        ("a100_dgx/send_recv.csv", "send_recv over 2 devices of one host", 240e9, 300e9),
        ("h100_dgx/send_recv.csv", "send_recv over 2 devices of one host", 320e9, 450e9),
        ("a100_dgx/send_recv.csv", "send_recv over 2 devices of 2 hosts", 5e9, 25e9),
        ("h100_dgx/send_recv.csv", "send_recv over 2 devices of 2 hosts", 25e9, 50e9),
        ("h100_dgx/all_reduce.csv", "all_reduce over 8 devices of one host", 300e9, 450e9),
    ],
)
def test_vidur_tables(shared_data: Path, file: str, name: str, low: float, high: float) -> None:
    """The fitted bandwidth stays below the link's, latencies are tens of µs, half of the rows fit within 13 %."""
    found = read_transfers(shared_data / "vidur/profiling/network" / file)
    fit = fit_link(next(transfers for transfers in found if transfers.name == name))
    assert low < fit.bandwidth_bytes_per_s < high
    assert 1e-6 < fit.latency_s < 50e-6
    assert fit.median_error < 0.13
