"""The published JSON Schema of cluster descriptions: what ships follows it, what the reader refuses does not."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from gpuplan.errors import InputError
from gpuplan.topology import list_clusters, topology_from_dict
from gpuplan.topology.catalog import shipped_catalog

CLUSTERS = shipped_catalog().clusters


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """Return a validator of the hand-written form, found by its anchor as an editor finds it."""
    text = resources.files("gpuplan.plans").joinpath("schemas", "topology-1.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    registry: Registry[Any] = Registry().with_resource(schema["$id"], Resource.from_contents(schema))
    return Draft202012Validator({"$ref": f"{schema['$id']}#cluster"}, registry=registry)


@pytest.mark.parametrize("name", list_clusters())
def test_every_shipped_cluster_follows_the_schema(validator: Draft202012Validator, name: str) -> None:
    """Each file as it stands, before the reader fills it in."""
    document = yaml.safe_load(Path(CLUSTERS[name]).read_text(encoding="utf-8"))
    assert [error.message for error in validator.iter_errors(document)] == []


HEAD = {"schema": "gpuplan/topology/1"}
DEVICES = [{"kind": "l4", "count": 2}]
GOOD: list[dict[str, Any]] = [
    {"file": "topo.txt", "gpu": "a100-sxm4-80gb", "hosts": 16, "racks": 2, "nics": "per_device", "fabric": "roce-100"},
    {"hosts": [{"name": "a", "file": "topo.xml", "gpu": ["0-3=l4", "4=t4"], "gpu_info": "i.csv"}], "fabric": "none"},
    {"devices": DEVICES, "hosts": 2, "fabric": {"kind": "infiniband-ndr", "file": "topology.conf"}},
    {"devices": DEVICES, "fabric": {"bandwidth_bytes_per_s": 1e9, "latency_s": 0}, "hosts": 2},
    {"devices": [{"kind": "own-8gb"}], "kinds": {"own-8gb": {"memory_bytes": "8GiB", "power_w": 9,
     "memory_bandwidth_bytes_per_s": 1e11, "flops_per_s": {"fp16": 1e13}}}},
]  # fmt: skip


@pytest.mark.parametrize("document", GOOD, ids=range(len(GOOD)))
def test_descriptions_of_the_docs_follow_the_schema(
    validator: Draft202012Validator, document: dict[str, Any]
) -> None:  # fmt: skip
    """Host files, racks, Slurm fabrics, kinds of one's own."""
    assert [error.message for error in validator.iter_errors({**HEAD, **document})] == []


BAD: dict[str, dict[str, Any]] = {
    "no devices": {},
    "devices and file": {"devices": DEVICES, "file": "x.xml"},
    "unknown key": {"devices": DEVICES, "colour": "red"},
    "unknown device key": {"devices": [{"kind": "l4", "watts": 3}]},
    "no kind": {"devices": [{"count": 3}]},
    "negative power": {"devices": [{"kind": "l4", "power_cap_w": -1}]},
    "two memories": {"devices": [{"kind": "l4", "available_memory": "1GiB", "available_bytes": 5}]},
    "zero hosts": {"devices": DEVICES, "hosts": 0, "fabric": "roce-100"},
    "host key beside a list": {"hosts": [{"devices": DEVICES}], "devices": DEVICES},
    "slash in a host name": {"hosts": [{"name": "a/b", "devices": DEVICES}]},
    "link without kind": {"devices": DEVICES, "links": [{"between": ["gpu0", "gpu1"]}]},
    "link with one end": {"devices": DEVICES, "links": [{"a": "gpu0", "kind": "PIX"}]},
    "far NIC": {"devices": DEVICES, "nics": 1, "nic_link": "NV4"},
    "zero NVLinks": {"devices": DEVICES, "nvswitch": 0},
}


@pytest.mark.parametrize("defect", BAD)
def test_reader_and_schema_refuse_the_same(validator: Draft202012Validator, defect: str) -> None:
    """What an editor marks is what the reader refuses."""
    document = {**HEAD, **BAD[defect]}
    assert list(validator.iter_errors(document))
    with pytest.raises(InputError):
        topology_from_dict(document)
