"""Fuzz the topology readers with atheris: `python tests/topology/fuzz_readers.py xml|text CORPUS [libFuzzer options]`.

Not collected by pytest. Anything but an answer, an InputError or a UsageError is a finding; findings become files under
`tests/topology/seeds`, which a test replays. Needs `pip install atheris` and an importable gpuplan.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gpuplan", "defusedxml", "xml.etree"]):
    from gpuplan.errors import InputError, UsageError
    from gpuplan.topology import islands, topology_to_dict
    from gpuplan.topology.catalog import load_catalog
    from gpuplan.topology.documents import decode
    from gpuplan.topology.readers.gpu_info import parse_gpu_info
    from gpuplan.topology.readers.read import Reading, read_content

CATALOG = load_catalog()
WITHOUT, NAMED = Reading(CATALOG), Reading(CATALOG, gpu=("a100-sxm4-40gb",))
RANGED = Reading(CATALOG, gpu=("0-3=mi300x",), fabric="infiniband-ndr")


def one_sentence(error: Exception) -> None:
    """Refuse a message of several lines."""
    assert "\n" not in str(error), f"not one sentence: {error}"


def read_one(raw: bytes, xml: bool) -> None:
    """Read some bytes in every way a person can ask for."""
    try:
        content = decode(raw, "input")
    except InputError:
        return
    for options in (WITHOUT, NAMED, RANGED):
        try:
            topology, _ = read_content(content, Path("input"), options)
            islands(topology)
            topology_to_dict(topology)
        except (InputError, UsageError) as error:
            one_sentence(error)
    if not xml:
        try:
            parse_gpu_info(content, CATALOG, "input")
        except (InputError, UsageError) as error:
            one_sentence(error)


def main() -> None:
    """Fuzz what the first argument names."""
    xml = sys.argv.pop(1) == "xml"
    atheris.Setup(sys.argv, lambda raw: read_one(raw, xml))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
