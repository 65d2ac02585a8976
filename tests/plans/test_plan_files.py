"""Plan files: written whole or not at all, read with a place for every defect."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.plans import DeviceMap, device_map_from_dict, device_map_to_dict, load_plan, save_plan, verify
from gpuplan.plans.canonical import canonical_json, digest
from gpuplan.plans.files import read_document
from gpuplan.writing import write_text


def test_round_trip_is_byte_identical(hand_plan: DeviceMap, tmp_path: Path) -> None:
    """A plan that is read and written again gives the same bytes."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    save_plan(hand_plan, first)
    loaded = load_plan(first)
    save_plan(loaded, second)
    assert first.read_bytes() == second.read_bytes()
    assert device_map_to_dict(loaded) == device_map_to_dict(hand_plan)


def test_name_and_comment_are_kept(hand_document: dict[str, Any]) -> None:
    """Every file may have a name and a comment."""
    hand_document.update(name="first try", comment="für später")
    assert device_map_to_dict(device_map_from_dict(hand_document)) == hand_document


def test_keys_are_sorted(hand_plan: DeviceMap, tmp_path: Path) -> None:
    """Writers sort keys, so that equal plans are equal files."""
    save_plan(hand_plan, tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    assert list(document) == sorted(document)


def test_digest_is_that_of_the_canonical_json() -> None:
    """Canonical JSON: sorted keys, no spaces, repr floats, UTF-8; its SHA-256 does not depend on the order of keys."""
    assert canonical_json({"b": [1, 2.50], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    # printf '{"a":1}' | sha256sum
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_unwritable_folder_leaves_nothing(hand_plan: DeviceMap, tmp_path: Path) -> None:
    """A missing folder is one clear sentence, and nothing is written anywhere."""
    with pytest.raises(UsageError, match=r"cannot write .*no such file or directory"):
        save_plan(hand_plan, tmp_path / "missing" / "plan.json")
    with pytest.raises(UsageError, match="it is a folder"):
        save_plan(hand_plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(hand_plan: DeviceMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last step fails, the old file stands as it was and no temporary file is left."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "plan.json"
    target.write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UsageError, match="no space left on device"):
        save_plan(hand_plan, target)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert target.read_text() == "old"


def test_written_file_is_as_readable_as_any(tmp_path: Path) -> None:
    """A written file gets the permissions a plain new file gets."""
    (tmp_path / "plain").touch()
    write_text("text", tmp_path / "written")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert len(modes) == 1


def test_link_is_written_through(tmp_path: Path) -> None:
    """Writing to a symbolic link replaces the file it leads to, not the link."""
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text("new", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b" \n", "an empty file"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "a binary file"),
        (b"{", "line 1, column 2: expected JSON"),
        (b'{"a": 1} x', "line 1, column 10: expected JSON"),
        (b"[1]", r"\$: expected a JSON object, got a list"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": [1, NaN]}', r"\$\.a\[1\]: expected a finite number, got NaN"),
        (b'{"a": {"b": -Infinity}}', r"\$\.a\.b: expected a finite number"),
        (b'{"a": 1e999}', r"\$\.a: expected a finite number"),
        (b'{"a": ' + b"9" * 400 + b"}", r"\$\.a: expected a finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, message: str) -> None:
    """What is no JSON object of finite numbers is refused with its place."""
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_document(tmp_path / "plan.json")
    assert caught.value.source == str(tmp_path / "plan.json")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """A name that leads nowhere, or to a folder, is said so."""
    with pytest.raises(InputError, match=r"plan\.json: there is no such file"):
        load_plan(tmp_path / "plan.json")
    with pytest.raises(InputError, match="got a folder"):
        load_plan(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("$.schema", "gpuplan/device-map/2", "reads version 1 only"),
        ("$.schema", "gpuplan/topology/1", "name a file of that kind"),
        ("$.schema", ..., "got none"),
        ("$.luck", 1, "unknown key"),
        ("$.stages[1].luck", 1, "unknown key"),
        ("$.inputs.topology.links[0].luck", 1, "unknown key"),
        ("$.metrics", ..., "expected this key, got none"),
        ("$.stages[0].hop.decode_s", ..., "expected this key, got none"),
        ("$.stages", [], "expected at least 1 items"),
        ("$.stages", None, "expected a list, got null"),
        ("$.stages[0].devices[0]", 7, "expected text, got 7"),
        ("$.stages[0].devices[0]", "", "expected text that is not empty"),
        ("$.stages[0].layers.stop", 2.0, "expected a whole number, got 2.0"),
        ("$.stages[0].layers.stop", True, "expected a whole number, got true"),
        ("$.stages[0].layers.start", -1, "expected a number of at least 0, got -1"),
        ("$.stages[0].decode_s", "0.65", "expected a number, got '0.65'"),
        ("$.stages[0].decode_s", None, "expected a number, got null"),
        ("$.stages[0].hop", 3, "expected an object or null, got 3"),
        ("$.stages[0].decode_s", math.nan, "expected a finite number, got NaN"),
        ("$.metrics.latency_s", math.inf, "expected a finite number"),
        ("$.workload.batch", 10**400, "expected a finite number"),
        ("$.workload.batch", 0, "expected a number of at least 1, got 0"),
        ("$.result.status", "perfect", "expected one of 'optimal', 'feasible', got 'perfect'"),
        ("$.result.objective", [1.0], "expected at least 2 items"),
        ("$.model.digest", "abc", "expected text that matches"),
        ("$.inputs.topology.links[0].bandwidth_bytes_per_s", 0, "expected a number above 0, got 0"),
        ("$.inputs.model.layers[2].kv.heads", 0, "expected a number of at least 1"),
        ("$.inputs.costs.devices", [], "expected an object, got a list"),
        ("$.inputs.options.objective.name", "speed", "expected one of 'latency'"),
        ("$.inputs.options.micro_batches", "many", "expected text that matches"),
        ("$.inputs.model.activation_dtype", "bf17", "expected one of"),
    ],
)
def test_malformed_plans(hand_document: dict[str, Any], edit: Any, place: str, value: Any, message: str) -> None:
    """One defect a plan: reading and verifying refuse it at its place."""
    edit(hand_document, place, value)
    for read in (device_map_from_dict, verify):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            read(hand_document)
        assert caught.value.place == place


def test_first_defect_in_the_file_is_named(hand_document: dict[str, Any], edit: Any) -> None:
    """Of several defects the first by sorted keys and list position is named."""
    edit(hand_document, "$.stages[1].decode_s", None)
    edit(hand_document, "$.stages[0].prefill_s", None)
    with pytest.raises(InputError) as caught:
        device_map_from_dict(hand_document)
    assert caught.value.place == "$.stages[0].prefill_s"
