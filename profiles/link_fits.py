"""Links: latency and bandwidth fitted to measured transfers, with the residuals they leave.

A message of m bytes takes ``α + m·β`` between two devices; a ring all-reduce over t of them
``2(t−1)·α + 2(t−1)/t·m·β`` (the form plans use for tensor parallelism). Both are linear in α (s) and β (s/byte), found
by non-negative least squares on relative errors, so that small messages settle α and large ones β.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuplan.errors import InputError

FloatArray = NDArray[np.float64]

_MS = 1e-3
_US = 1e-6
#: A row of NCCL-tests output: size, count, type, redop, root, then time (µs), algbw, busbw, #wrong out of place, and
#: again in place. Operations without a reduction or a root print fewer columns.
_NCCL_ROW = re.compile(r"^\s*(\d+)\s+(\d+)\s+([a-z_0-9]+)\s+(.*)$")
_NCCL_NAME = re.compile(r"(sendrecv|all_reduce|all_gather|reduce_scatter|broadcast|alltoall)_perf")
_NCCL_RANK = re.compile(r"^#\s+Rank\s+(\d+)\s")


@dataclass(frozen=True, slots=True, eq=False)
class Transfers:
    """Measured transfers: bytes and seconds, shape (R,), and how many devices took part (2 for a point-to-point)."""

    name: str
    message_bytes: FloatArray
    seconds: FloatArray
    devices: int = 2
    all_reduce: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LinkFit:
    """α and β, and what they miss.

    Parameters
    ----------
    latency_s, bandwidth_bytes_per_s
        α, and 1/β; an infinite bandwidth means that no time grew with the message.
    predicted_s
        α + β times the bytes of each transfer; shape (R,).
    """

    transfers: Transfers
    latency_s: float
    bandwidth_bytes_per_s: float
    predicted_s: FloatArray

    @property
    def relative_errors(self) -> FloatArray:
        """(predicted − measured) / measured; shape (R,)."""
        return np.asarray(self.predicted_s / self.transfers.seconds - 1.0, dtype=np.float64)

    @property
    def median_error(self) -> float:
        """Median absolute relative error."""
        return float(np.median(np.abs(self.relative_errors)))

    @property
    def worst_error(self) -> float:
        """Largest absolute relative error."""
        return float(np.max(np.abs(self.relative_errors)))


def fit_link(transfers: Transfers) -> LinkFit:
    """Return the latency and bandwidth that explain measured transfers best.

    Raises
    ------
    InputError
        There are fewer than two sizes, or a time that is not above 0.

    Examples
    --------
    >>> sizes = np.array([1e3, 1e6, 1e9])
    >>> fit = fit_link(Transfers("exact", sizes, 1e-5 + sizes / 2e10))
    >>> round(fit.latency_s * 1e6, 3), round(fit.bandwidth_bytes_per_s / 1e9, 3)
    (10.0, 20.0)
    """
    from scipy.optimize import nnls

    sizes, seconds = transfers.message_bytes, transfers.seconds
    if len(np.unique(sizes)) < 2:
        raise InputError(f"expected transfers of at least two sizes to fit a link, got {len(np.unique(sizes))}")
    if not ((seconds > 0.0) & np.isfinite(seconds)).all():
        raise InputError(f"expected times above 0 in {transfers.name}, got one that is not")
    steps = 2.0 * (transfers.devices - 1) if transfers.all_reduce else 1.0
    matrix = np.column_stack([np.full(len(sizes), steps), sizes * (steps / transfers.devices if steps > 1.0 else 1.0)])
    relative = matrix / seconds[:, None]
    scale = np.linalg.norm(relative, axis=0)
    solution = nnls(relative / scale, np.ones(len(seconds)))[0] / scale
    bandwidth = 1.0 / solution[1] if solution[1] > 0.0 else float("inf")
    return LinkFit(transfers, float(solution[0]), float(bandwidth), matrix @ solution)


def read_transfers(path: str | Path) -> list[Transfers]:
    """Read measured transfers: Vidur's ``send_recv.csv`` or ``all_reduce.csv``, or pasted output of NCCL-tests.

    Returns
    -------
    list of Transfers
        One for each way the devices were placed (Vidur: devices and hosts of them).

    Raises
    ------
    InputError
        The file is neither, or malformed.
    """
    from gpuplan.profiles.tables.data_files import read_columns

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("there is no such file; check the name", source=str(path)) from None
    except (OSError, UnicodeDecodeError):
        raise InputError("expected a text file", source=str(path)) from None
    if "time_stats." in text.split("\n", 1)[0]:
        return _vidur(read_columns(file))
    return [parse_nccl_tests(text, source=str(path))]


def _vidur(data: object) -> list[Transfers]:
    from gpuplan.profiles.tables.data_files import Columns

    assert isinstance(data, Columns)
    data.require(["collective", "size", "num_workers", "devices_per_node"])
    collective = data.text("collective", 0)
    if collective not in ("send_recv", "all_reduce"):
        raise InputError(f"expected send_recv or all_reduce, got {collective!r}", source=data.source)
    column = f"time_stats.{collective}.median"
    data.require([column])
    groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in range(data.rows):
        key = int(data.number("num_workers", row)), int(data.number("devices_per_node", row))
        groups.setdefault(key, []).append((data.number("size", row), _MS * data.number(column, row)))
    made = []
    for (workers, per_host), rows in sorted(groups.items()):
        sizes, seconds = np.array(sorted(rows)).T
        hosts = max(1, workers // max(per_host, 1))
        where = "one host" if hosts == 1 else f"{hosts} hosts"
        name = f"{collective} over {workers} devices of {where}"
        made.append(Transfers(name, sizes, seconds, workers, collective == "all_reduce"))
    return made


def parse_nccl_tests(text: str, *, source: str | None = None) -> Transfers:
    """Read the output of NCCL-tests' ``sendrecv_perf`` or ``all_reduce_perf`` as it is printed.

    The out-of-place times are taken. Which test it was follows from the command or the binary's name in the text; else
    a reduction (``sum``) means all_reduce and none means sendrecv.
    """
    sizes, seconds, reduced = [], [], False
    for number, line in enumerate(text.splitlines(), start=1):
        match = None if line.lstrip().startswith("#") else _NCCL_ROW.match(line)
        if match is None:
            continue
        rest = match.group(4).split()
        words = [word for word in rest if re.fullmatch(r"[a-z]+", word) and word not in ("nan", "inf")]
        reduced = reduced or any(word in ("sum", "prod", "min", "max", "avg") for word in words)
        numbers = [word for word in rest if word not in words]
        time = _nccl_time(numbers)
        if time is None:
            raise InputError(
                f"expected a row of NCCL-tests (size, count, type, …, time, algbw, busbw), got {line.strip()!r}",
                source=source, place=f"line {number}",
            )  # fmt: skip
        if int(match.group(1)) > 0 and time > 0.0:
            sizes.append(float(match.group(1)))
            seconds.append(_US * time)
    if len(sizes) < 2:
        raise InputError(
            "expected Vidur's network CSV or the output of NCCL-tests with at least two sizes, got neither",
            source=source,
        )
    ranks = {match.group(1) for line in text.splitlines() if (match := _NCCL_RANK.match(line))}
    named = _NCCL_NAME.search(text)
    test = named.group(1) if named else "all_reduce" if reduced else "sendrecv"
    if test not in ("sendrecv", "all_reduce"):
        raise InputError(f"expected sendrecv_perf or all_reduce_perf, got {test}_perf", source=source)
    devices = max(2, len(ranks))
    return Transfers(
        f"NCCL-tests {test}, {devices} devices", np.array(sizes), np.array(seconds),
        devices if test == "all_reduce" else 2, test == "all_reduce",
    )  # fmt: skip


def _nccl_time(cells: Sequence[str]) -> float | None:
    # Before the time may stand the root, a whole number or -1; times, algbw and busbw follow, then #wrong.
    try:
        numbers = [float(cell) for cell in cells if cell != "N/A"]
    except ValueError:
        return None
    whole = bool(cells) and re.fullmatch(r"-?\d+", cells[0]) is not None
    # With a root the row has one number more than twice (time, algbw, busbw, #wrong).
    rooted = whole and len(cells) in (9, 7, 5)
    values = numbers[1:] if rooted else numbers
    return values[0] if len(values) >= 3 and values[0] >= 0.0 else None
