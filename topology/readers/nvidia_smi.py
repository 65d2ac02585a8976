"""Reader of the matrix that ``nvidia-smi topo -m`` (or ``-mp``) prints.

The text names links, not GPUs: kinds come from `--gpu` or `--gpu-info`. Every pair of GPUs becomes one link with the
code's numbers (``NV12`` on A100 is 12 NVLinks of 25 GB/s each way); NIC columns become links from GPUs to NICs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuplan.errors import InputError
from gpuplan.topology.catalog import Catalog
from gpuplan.topology.graph import Component, Device, Link, Topology
from gpuplan.topology.link_numbers import PCIE_CODES, from_code, is_code, nvlink_count, nvlink_remark

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_GPU = re.compile(r"^GPU([0-9]+)$")
_AFFINITY = re.compile(r"^(?:[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*|N/A)$")
_LEGEND_NIC = re.compile(r"^\s*(NIC[0-9]+)\s*[:=]\s*(\S+)\s*$")
_SELF = "X"
#: A rack has 72 GPUs; more columns than this are no matrix.
_MOST = 1024


@dataclass(frozen=True, slots=True)
class Matrix:
    """What the text says, before any GPU kind is known.

    gpus
        Indices of the GPUs, ascending.
    codes
        Link code by (lower, higher) GPU index.
    nics
        Names of the NICs.
    nic_codes
        Link code by (GPU index, NIC name).
    """

    gpus: tuple[int, ...]
    codes: Mapping[tuple[int, int], str]
    nics: tuple[str, ...] = ()
    nic_codes: Mapping[tuple[int, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class _Row:
    label: str
    line: int
    cells: list[tuple[str, int]] = field(default_factory=list)


def looks_like_topo(content: str) -> bool:
    """Return whether some line starts with a GPU label, as only the matrix's do."""
    return any(re.match(r"^\s*GPU[0-9]+(\s|$)", _ANSI.sub("", line)) for line in content.splitlines())


def parse_matrix(content: str, source: str | None = None) -> Matrix:
    """Return the matrix that a text holds.

    ANSI colours, CRLF, blanks for tabs, wrapped lines, prompts before the matrix, missing or cut NIC rows, affinity
    columns and legends are taken as they come.

    Raises
    ------
    InputError
        The GPU block is not square or not symmetric, has an unknown code or a GPU twice; the line is named.
    """
    try:
        header, rows, legend = _split(content)
        return _checked_matrix(header, rows, legend)
    except InputError as error:
        raise error if source is None else error.at(source) from None


# ---------------------------------------------------------------------------------------------------------- splitting


def _split(content: str) -> tuple[list[tuple[str, int]], list[_Row], dict[str, str]]:
    """Return the column labels with their lines, the rows, and the NIC names of the legend."""
    lines = [_ANSI.sub("", line).strip() for line in content.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    legend = {match[1]: match[2] for match in map(_LEGEND_NIC.match, lines) if match}
    header: list[tuple[str, int]] = []
    rows: list[_Row] = []
    header_done = False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or (not header and not _GPU.match(words[0])):
            continue
        if re.match(r"^(NIC )?Legend", line):
            break
        if not rows and not _starts_row(words, header):
            header_done = _add_header(header, words, number, header_done)
        else:
            _add_cells(rows, words, number, {label for label, _ in header})
    return header, rows, legend


def _starts_row(words: Sequence[str], header: Sequence[tuple[str, int]]) -> bool:
    """Return whether a line can only be a row: its label is a column already, or an entry follows it."""
    labels = {label for label, _ in header}
    entries = [word for word in words[1:] if word == _SELF or is_code(word)]
    return bool(entries) or (words[0] in labels and (len(words) == 1 or words[1] not in labels))


def _add_header(header: list[tuple[str, int]], words: Sequence[str], number: int, done: bool) -> bool:
    """Add column labels up to the affinity columns; return whether those were reached."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        done = done or (word in ("CPU", "NUMA") and following == "Affinity") or (word, following) == ("GPU", "NUMA")
        if done or word == "Affinity":
            return True
        if len(header) >= _MOST:
            raise InputError(f"expected at most {_MOST} GPUs and NICs, got more", place=f"line {number}")
        if any(word == label for label, _ in header):
            raise InputError(f"the column {word} appears twice", place=f"line {number}")
        header.append((word, number))
    return done


def _add_cells(rows: list[_Row], words: Sequence[str], number: int, columns: set[str]) -> None:
    """Start a row, or go on with the one that a narrow terminal broke."""
    label = words[0]
    continues = rows and (label == _SELF or is_code(label) or _AFFINITY.match(label))
    if continues and not (label in columns and _GPU.match(label)):
        rows[-1].cells += [(word, number) for word in words]
    else:
        if len(rows) >= _MOST:
            raise InputError(f"expected at most {_MOST} rows, got more", place=f"line {number}")
        rows.append(_Row(label, number, [(word, number) for word in words[1:]]))


# ----------------------------------------------------------------------------------------------------------- checking


def _checked_matrix(header: list[tuple[str, int]], rows: list[_Row], legend: Mapping[str, str]) -> Matrix:
    labels = [label for label, _ in header]
    gpus = [label for label in labels if _GPU.match(label)]
    by_label: dict[str, _Row] = {}
    for row in rows:
        if row.label in by_label:
            raise InputError(f"{row.label} has a second row", place=f"line {row.line}")
        by_label[row.label] = row
    gpu_rows = [row for row in rows if _GPU.match(row.label)]
    _check_square(header, gpus, by_label, gpu_rows)
    codes = _gpu_codes(labels, gpus, by_label)
    nics = tuple(label for label in labels if not _GPU.match(label))
    nic_codes = _nic_codes(labels, gpus, nics, by_label)
    names = {nic: legend.get(nic, nic) for nic in nics}
    return Matrix(
        tuple(sorted(_index(gpu) for gpu in gpus)),
        codes,
        tuple(names.values()),
        {(gpu, names[nic]): code for (gpu, nic), code in nic_codes.items()},
    )


def _index(label: str) -> int:
    return int(label[3:])


def _check_square(
    header: list[tuple[str, int]], gpus: Sequence[str], rows: Mapping[str, _Row], gpu_rows: Sequence[_Row]
) -> None:
    if not gpu_rows:
        place = f"line {header[0][1]}" if header else None
        raise InputError("expected one row for each GPU, got no GPU row; save the whole output", place=place)
    if not gpus:
        raise InputError("expected a header with GPU0, GPU1, …, got none", place=f"line {gpu_rows[0].line}")
    lines = dict(header)
    for gpu in gpus:
        if gpu not in rows:
            message = f"the GPU block is not square: {gpu} has a column but no row; save the whole output"
            raise InputError(message, place=f"line {lines[gpu]}")
    for row in gpu_rows:
        if row.label not in lines:
            message = f"the GPU block is not square: {row.label} has a row but no column; save the whole output"
            raise InputError(message, place=f"line {row.line}")


def _cell(row: _Row, column: int, name: str) -> tuple[str, int]:
    """Return the entry of a GPU column and its line; short rows and unknown codes are refused."""
    if column >= len(row.cells) or _AFFINITY.match(row.cells[column][0]):
        message = f"the GPU block is not square: the row of {row.label} ends before {name}; save the whole output"
        raise InputError(message, place=f"line {row.line}")
    return row.cells[column]


def _check_code(code: str, line: int) -> None:
    if code != _SELF and not is_code(code):
        known = ", ".join(PCIE_CODES)
        raise InputError(f"unknown link code {code!r}; expected X, NV#, {known}", place=f"line {line}")


def _gpu_codes(labels: Sequence[str], gpus: Sequence[str], rows: Mapping[str, _Row]) -> dict[tuple[int, int], str]:
    column = {gpu: labels.index(gpu) for gpu in gpus}
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for a in gpus:
        for b in gpus:
            code, line = _cell(rows[a], column[b], b)
            _check_code(code, line)
            if (code == _SELF) != (a == b):
                wanted = "X" if a == b else "a link code"
                raise InputError(f"expected {wanted} for {a} and {b}, got {code!r}", place=f"line {line}")
            seen[a, b] = (code, line)
    codes: dict[tuple[int, int], str] = {}
    for (a, b), (code, line) in seen.items():
        other, other_line = seen[b, a]
        if code != other:
            low, high = sorted((line, other_line))
            message = f"the GPU block is not symmetric: {a} to {b} says {code}, {b} to {a} says {other}"
            raise InputError(message, place=f"lines {low} and {high}" if low != high else f"line {low}")
        if a != b:
            low, high = sorted((_index(a), _index(b)))
            codes[low, high] = code
    return dict(sorted(codes.items()))


def _nic_codes(
    labels: Sequence[str], gpus: Sequence[str], nics: Sequence[str], rows: Mapping[str, _Row]
) -> dict[tuple[int, str], str]:
    """Return the codes between GPUs and NICs, from the GPU rows, or from the NIC rows where those are cut."""
    codes: dict[tuple[int, str], str] = {}
    for nic in nics:
        for gpu in gpus:
            entry = _nic_cell(rows.get(gpu), labels.index(nic)) or _nic_cell(rows.get(nic), labels.index(gpu))
            if entry is not None:
                _check_code(*entry)
                if entry[0] != _SELF:
                    codes[_index(gpu), nic] = entry[0]
    return codes


def _nic_cell(row: _Row | None, column: int) -> tuple[str, int] | None:
    if row is None or column >= len(row.cells) or _AFFINITY.match(row.cells[column][0]):
        return None
    return row.cells[column]


# ----------------------------------------------------------------------------------------------------------- building


def build_topology(
    matrix: Matrix, device_of: Callable[[str, int], Device], catalog: Catalog, *, name: str, host: str = "host0"
) -> Topology:
    """Return the topology of one host from its matrix.

    Parameters
    ----------
    matrix
        What the text says.
    device_of
        Gives the device of a host and a GPU index.
    catalog
        Where link numbers come from.
    name
        Name of the topology.
    host
        Name of the host.
    """
    devices = {index: device_of(host, index) for index in matrix.gpus}
    links = [
        from_code(catalog, code, (devices[a].kind, devices[b].kind)).between(devices[a].name, devices[b].name)
        for (a, b), code in matrix.codes.items()
    ]
    links += [
        from_code(catalog, code, (devices[gpu].kind,)).between(devices[gpu].name, f"{host}/{nic}")
        for (gpu, nic), code in matrix.nic_codes.items()
    ]
    components = [Component(device.name, "device", host) for device in devices.values()]
    components += [Component(f"{host}/{nic}", "nic", host) for nic in matrix.nics]
    return Topology(
        name, tuple(devices.values()), tuple(components), tuple(links), "", _remarks(matrix, devices, links)
    )


def _remarks(matrix: Matrix, devices: Mapping[int, Device], links: Sequence[Link]) -> tuple[str, ...]:
    """Return what a person should know: links a kind cannot have, NVLink that the matrix does not show."""
    notes: list[str] = []
    warned: set[tuple[str, str]] = set()
    for pair, code in matrix.codes.items():
        for gpu in pair:
            kind = devices[gpu].kind
            remark = nvlink_remark(code, f"GPU{gpu}", kind)
            if remark and (kind.name, code) not in warned:
                warned.add((kind.name, code))
                notes.append(remark)
    bare = sorted({device.kind.name for device in devices.values() if device.kind.nvlink_links})
    if len(devices) > 1 and bare and not any(nvlink_count(code) for code in matrix.codes.values()):
        notes.append(
            f"the matrix shows no NVLink although {', '.join(bare)} can have it; `nvidia-smi topo -mp` hides it,"
            " `nvidia-smi topo -m` shows it"
        )
    return tuple(notes)
