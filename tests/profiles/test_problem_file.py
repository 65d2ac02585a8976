"""Reading and writing `gpuplan/placement-problem/1`: defaults, fallbacks, round trip, and one refusal a defect."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuplan.errors import InputError, UnsupportedError
from gpuplan.profiles import (
    DensePlacement,
    HopTable,
    Objective,
    Timing,
    load_problem,
    placement_from_dict,
    placement_to_dict,
)

INF = float("inf")
Document = dict[str, Any]


def minimal() -> Document:
    """Return two devices, two layers and only the required keys."""
    return {
        "schema": "gpuplan/placement-problem/1",
        "devices": [{"name": "g0", "available_bytes": 100}, {"name": "g1", "available_bytes": 50.5}],
        "layers": [
            {"name": "embed", "memory_bytes": 10, "boundary_bytes": 4},
            {"name": "head", "memory_bytes": 20, "boundary_bytes": 8},
        ],
        "compute_s": [[1, 2], [3, 4.5]],
        "hop_latency_s": [[None, 0.5], [0.25, None]],
        "hop_s_per_byte": [[None, 0.125], [0.0625, 0]],
        "objective": {"name": "latency"},
    }


def full() -> Document:
    """Return a document that uses every key."""
    return minimal() | {
        "name": "both",
        "comment": "every key",
        "devices": [
            {"name": "g0", "available_bytes": 100, "price_per_hour": 1.5},
            {"name": "g1", "available_bytes": 50, "price_per_hour": None},
        ],
        "layers": [
            {"name": "embed", "memory_bytes": 10, "boundary_bytes": 4, "kv_bytes_per_token": 2},
            {"name": "head", "memory_bytes": 20, "boundary_bytes": 8},
        ],
        "tokens_per_micro_batch": 7,
        "micro_batches": "stages",
        "fixed_bytes": 3,
        "single_stage_saving_bytes": 5,
        "return_hop": True,
        "return": {"latency_s": [[0, 1], [2, 0]], "s_per_byte": [[0, 3], [4, 0]], "bytes": 16},
        "cycle": {
            "compute_s": [[0.1, 0.2], [0.3, 0.4]],
            "hop_latency_s": [[0, 5], [6, 0]],
            "hop_s_per_byte": [[0, 7], [8, 0]],
            "boundary_bytes": [1, 2],
            "return": {"latency_s": [[0, 9], [10, 0]], "s_per_byte": [[0, 11], [None, 0]], "bytes": 32},
        },
        "objective": {"name": "balanced", "latency_weight": 3, "devices_weight": 2},
        "max_devices": 2,
        "front": False,
    }


def assert_same(left: Any, right: Any) -> None:
    """Compare two problems (or parts of one) field by field, arrays exactly."""
    if isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, (DensePlacement, Timing, HopTable)):
        for item in fields(left):
            assert_same(getattr(left, item.name), getattr(right, item.name))
    else:
        assert left == right


def test_defaults() -> None:
    """Every optional key has its documented default, and integers become floats."""
    problem = placement_from_dict(minimal())
    assert (problem.device_names, problem.layer_names) == (("g0", "g1"), ("embed", "head"))
    np.testing.assert_array_equal(problem.available_bytes, [100.0, 50.5])
    assert np.isnan(problem.price_per_hour).all()
    np.testing.assert_array_equal(problem.kv_bytes_per_token, [0.0, 0.0])
    np.testing.assert_array_equal(problem.latency.compute_s, [[1.0, 2.0], [3.0, 4.5]])
    # A diagonal is never read: null and 0 both become 0.
    np.testing.assert_array_equal(problem.latency.hop.latency_s, [[0.0, 0.5], [0.25, 0.0]])
    np.testing.assert_array_equal(problem.latency.hop.s_per_byte, [[0.0, 0.125], [0.0625, 0.0]])
    np.testing.assert_array_equal(problem.latency.boundary_bytes, [4.0, 8.0])
    assert problem.latency.return_hop is None
    assert problem.cycle is problem.latency
    assert (problem.tokens_per_micro_batch, problem.micro_batches, problem.fixed_bytes) == (0.0, 1, 0.0)
    assert (problem.single_stage_saving_bytes, problem.max_devices, problem.front) == (0.0, None, False)
    assert (problem.objective, problem.must_hold, problem.name) == (Objective("latency"), None, "")


def test_reads_every_key() -> None:
    """Each optional key lands where it belongs."""
    problem = placement_from_dict(full())
    assert problem.name == "both"
    np.testing.assert_array_equal(problem.price_per_hour, [1.5, np.nan])
    np.testing.assert_array_equal(problem.kv_bytes_per_token, [2.0, 0.0])
    assert (problem.tokens_per_micro_batch, problem.micro_batches) == (7.0, "stages")
    assert (problem.fixed_bytes, problem.single_stage_saving_bytes, problem.max_devices) == (3.0, 5.0, 2)
    assert problem.objective == Objective("balanced", 3.0, 2.0)
    latency, cycle = problem.latency, problem.cycle
    assert latency.return_hop is not None
    assert cycle.return_hop is not None
    np.testing.assert_array_equal(latency.return_hop.latency_s, [[0.0, 1.0], [2.0, 0.0]])
    assert (latency.return_bytes, cycle.return_bytes) == (16.0, 32.0)
    np.testing.assert_array_equal(cycle.compute_s, [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_array_equal(cycle.boundary_bytes, [1.0, 2.0])
    np.testing.assert_array_equal(cycle.hop.s_per_byte, [[0.0, 7.0], [8.0, 0.0]])
    # g1 → g0 has no route back: inf for any number of bytes.
    np.testing.assert_array_equal(cycle.return_hop.latency_s, [[0.0, 9.0], [INF, 0.0]])
    np.testing.assert_array_equal(cycle.return_hop.s_per_byte, [[0.0, 11.0], [0.0, 0.0]])


@pytest.mark.parametrize("document", [minimal(), full(), minimal() | {"return_hop": True, "front": True}])
def test_round_trip(document: Document) -> None:
    """Writing a problem and reading it back, through JSON text, changes nothing."""
    problem = placement_from_dict(document)
    text = json.dumps(placement_to_dict(problem), allow_nan=False)
    assert_same(problem, placement_from_dict(json.loads(text)))


def test_null_in_either_table_means_no_route() -> None:
    """A pair that lacks a number in one table has no route, whatever the other table says."""
    document = minimal()
    document["hop_s_per_byte"][0][1] = None
    hop = placement_from_dict(document).latency.hop
    np.testing.assert_array_equal(hop.latency_s, [[0.0, INF], [0.25, 0.0]])
    assert placement_to_dict(placement_from_dict(document))["hop_latency_s"][0][1] is None


def test_return_hop_uses_the_hop_tables_and_the_last_boundary() -> None:
    """`return_hop: true` alone: same tables, 8 bytes (the last layer's boundary), for latency and cycle alike."""
    problem = placement_from_dict(minimal() | {"return_hop": True})
    assert problem.latency.return_hop is problem.latency.hop
    assert problem.latency.return_bytes == 8.0
    assert problem.cycle is problem.latency


def test_absent_cycle_keys_take_latency_numbers() -> None:
    """A cycle that gives compute alone keeps latency's hops, boundaries and return hop."""
    problem = placement_from_dict(minimal() | {"return_hop": True, "cycle": {"compute_s": [[9, 9], [9, 9]]}})
    latency, cycle = problem.latency, problem.cycle
    np.testing.assert_array_equal(cycle.compute_s, np.full((2, 2), 9.0))
    assert cycle.hop is latency.hop
    assert cycle.boundary_bytes is latency.boundary_bytes
    assert cycle.return_hop is latency.return_hop
    assert cycle.return_bytes == 8.0


def test_cycle_with_own_hops_returns_over_them() -> None:
    """Without a `return`, the cycle's return hop is over the cycle's own tables, with its own last boundary."""
    own = {"hop_latency_s": [[0, 5], [6, 0]], "boundary_bytes": [1, 2]}
    problem = placement_from_dict(minimal() | {"return_hop": True, "cycle": own})
    back = problem.cycle.return_hop
    assert back is problem.cycle.hop
    np.testing.assert_array_equal(back.latency_s, [[0.0, 5.0], [6.0, 0.0]])
    np.testing.assert_array_equal(back.s_per_byte, problem.latency.hop.s_per_byte)
    assert (problem.cycle.return_bytes, problem.latency.return_bytes) == (2.0, 8.0)


def test_return_serves_the_cycle_that_has_none() -> None:
    """`return` alone asks for the return hop, and the cycle falls back to it."""
    back = {"latency_s": [[0, 1], [2, 0]], "s_per_byte": [[0, 0], [0, 0]], "bytes": 16}
    problem = placement_from_dict(minimal() | {"return": back, "cycle": {"hop_latency_s": [[0, 5], [6, 0]]}})
    assert problem.latency.return_bytes == problem.cycle.return_bytes == 16.0
    assert problem.cycle.return_hop is problem.latency.return_hop


def test_cycle_alone_may_return() -> None:
    """A return hop of the cycle leaves the latency without one."""
    back = {"latency_s": [[0, 1], [2, 0]], "s_per_byte": [[0, 0], [0, 0]], "bytes": 16}
    problem = placement_from_dict(minimal() | {"cycle": {"return": back}})
    assert problem.latency.return_hop is None
    assert problem.cycle.return_bytes == 16.0
    assert_same(problem, placement_from_dict(placement_to_dict(problem)))


def test_return_hop_false_leaves_a_return_unused() -> None:
    """`return_hop: false` means none, whatever numbers stand beside it."""
    back = {"latency_s": [[0, 1], [2, 0]], "s_per_byte": [[0, 0], [0, 0]], "bytes": 16}
    problem = placement_from_dict(minimal() | {"return_hop": False, "return": back, "cycle": {"return": back}})
    assert problem.latency.return_hop is None
    assert problem.cycle.return_hop is None


def test_front_may_leave_the_objective_out() -> None:
    """A front asks for every objective at once."""
    document = minimal() | {"front": True}
    del document["objective"]
    assert placement_from_dict(document).front is True


def test_balanced_weights_default_to_ten_and_one() -> None:
    """The weights of `balanced` are 10 and 1 unless given."""
    assert placement_from_dict(minimal() | {"objective": {"name": "balanced"}}).objective == Objective("balanced")


def test_whole_floats_are_counts() -> None:
    """`2.0` is a whole number."""
    problem = placement_from_dict(minimal() | {"micro_batches": 2.0, "max_devices": 1.0})
    assert (problem.micro_batches, problem.max_devices) == (2, 1)


def edit(*path: str | int, to: Any) -> Callable[[Document], None]:
    """Return a change that sets the value at `path`."""

    def change(document: Document) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = to

    return change


def drop(*path: str | int) -> Callable[[Document], None]:
    """Return a change that removes the value at `path`."""

    def change(document: Document) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


NAN = float("nan")
BAD_NUMBERS: list[Any] = [NAN, INF, -INF, -1, "1", None, True, [], 10**400]


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: str(value)[:8])
@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("devices", 1, "available_bytes"), "$.devices[1].available_bytes"),
        (("layers", 0, "memory_bytes"), "$.layers[0].memory_bytes"),
        (("layers", 1, "boundary_bytes"), "$.layers[1].boundary_bytes"),
        (("layers", 0, "kv_bytes_per_token"), "$.layers[0].kv_bytes_per_token"),
        (("tokens_per_micro_batch",), "$.tokens_per_micro_batch"),
        (("fixed_bytes",), "$.fixed_bytes"),
        (("single_stage_saving_bytes",), "$.single_stage_saving_bytes"),
        (("compute_s", 1, 0), "$.compute_s[1][0]"),
        (("cycle", "compute_s", 0, 1), "$.cycle.compute_s[0][1]"),
        (("cycle", "boundary_bytes", 1), "$.cycle.boundary_bytes[1]"),
        (("return", "bytes"), "$.return.bytes"),
        (("cycle", "return", "bytes"), "$.cycle.return.bytes"),
        (("objective", "latency_weight"), "$.objective.latency_weight"),
        (("micro_batches",), "$.micro_batches"),
    ],
)
def test_refuses_what_is_no_number(path: tuple[str | int, ...], place: str, value: Any) -> None:
    """NaN, infinite, negative, text, null, booleans, lists and giants are refused where a number belongs."""
    document = full()
    edit(*path, to=value)(document)
    with pytest.raises(InputError) as caught:
        placement_from_dict(document, source="problem.json")
    assert (caught.value.source, caught.value.place) == ("problem.json", place)


@pytest.mark.parametrize("value", [v for v in BAD_NUMBERS if v is not None], ids=lambda value: str(value)[:8])
@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("hop_latency_s", 0, 1), "$.hop_latency_s[0][1]"),
        (("hop_s_per_byte", 1, 0), "$.hop_s_per_byte[1][0]"),
        (("return", "latency_s", 0, 1), "$.return.latency_s[0][1]"),
        (("cycle", "hop_s_per_byte", 1, 0), "$.cycle.hop_s_per_byte[1][0]"),
        (("cycle", "return", "s_per_byte", 0, 1), "$.cycle.return.s_per_byte[0][1]"),
        (("devices", 0, "price_per_hour"), "$.devices[0].price_per_hour"),
        (("max_devices",), "$.max_devices"),
    ],
)
def test_refuses_what_is_neither_number_nor_null(path: tuple[str | int, ...], place: str, value: Any) -> None:
    """Where null has a meaning it is read, and everything else that is no number is refused."""
    document = full()
    edit(*path, to=value)(document)
    with pytest.raises(InputError) as caught:
        placement_from_dict(document)
    assert caught.value.place == place


DEFECTS: list[tuple[str, Callable[[Document], None], str, str]] = [
    ("no schema", drop("schema"), "$.schema", "the key is missing"),
    ("schema of another version", edit("schema", to="gpuplan/placement-problem/2"), "$.schema", "does not know"),
    ("schema of another kind", edit("schema", to="gpuplan/flow-problem/1"), "$.schema", "flow-problem"),
    ("schema that is no text", edit("schema", to=1), "$.schema", "got 1"),
    ("unknown key", edit("colour", to="red"), "$.colour", "unknown key"),
    ("unknown device key", edit("devices", 0, "memory", to=1), "$.devices[0].memory", "unknown key"),
    ("unknown layer key", edit("layers", 1, "flops", to=1), "$.layers[1].flops", "unknown key"),
    ("unknown cycle key", edit("cycle", "latency_s", to=1), "$.cycle.latency_s", "unknown key"),
    ("unknown return key", edit("return", "hop", to=1), "$.return.hop", "unknown key"),
    ("unknown objective key", edit("objective", "weight", to=1), "$.objective.weight", "unknown key"),
    ("no devices", edit("devices", to=[]), "$.devices", "an empty list"),
    ("devices that are no list", edit("devices", to={}), "$.devices", "an object"),
    ("device that is no object", edit("devices", 1, to="g1"), "$.devices[1]", "the text 'g1'"),
    ("no layers", edit("layers", to=[]), "$.layers", "an empty list"),
    ("duplicate device", edit("devices", 1, "name", to="g0"), "$.devices[1].name", "'g0' again"),
    ("empty device name", edit("devices", 1, "name", to=""), "$.devices[1].name", "non-empty text"),
    ("device name that is no text", edit("devices", 1, "name", to=3), "$.devices[1].name", "got 3"),
    ("no device memory", edit("devices", 0, "available_bytes", to=0), "$.devices[0].available_bytes", "above 0"),
    ("missing device memory", drop("devices", 0, "available_bytes"), "$.devices[0].available_bytes", "missing"),
    ("missing layer memory", drop("layers", 0, "memory_bytes"), "$.layers[0].memory_bytes", "missing"),
    ("missing compute", drop("compute_s"), "$.compute_s", "missing"),
    ("missing hops", drop("hop_s_per_byte"), "$.hop_s_per_byte", "missing"),
    ("row short in compute", edit("compute_s", 1, to=[1]), "$.compute_s[1]", "expected 2 numbers, one for each layer"),
    ("row missing in compute", edit("compute_s", to=[[1, 2]]), "$.compute_s", "expected 2 rows, one for each device"),
    ("compute that is no matrix", edit("compute_s", to=[1, 2]), "$.compute_s[0]", "expected 2 numbers"),
    ("hop row too long", edit("hop_latency_s", 0, to=[0, 1, 2]), "$.hop_latency_s[0]", "got 3"),
    ("null in compute", edit("compute_s", 0, 0, to=None), "$.compute_s[0][0]", "got null"),
    ("text on a diagonal", edit("hop_latency_s", 0, 0, to="-"), "$.hop_latency_s[0][0]", "number or null"),
    ("boundaries short", edit("cycle", "boundary_bytes", to=[1]), "$.cycle.boundary_bytes", "got 1"),
    ("null cycle", edit("cycle", to=None), "$.cycle", "expected an object, got null"),
    ("null return", edit("return", to=None), "$.return", "expected an object, got null"),
    ("missing return bytes", drop("return", "bytes"), "$.return.bytes", "missing"),
    ("return_hop that is a number", edit("return_hop", to=1), "$.return_hop", "true or false"),
    ("front that is null", edit("front", to=None), "$.front", "true or false"),
    ("missing objective", drop("objective"), "$.objective", "missing"),
    ("objective that is text", edit("objective", to="latency"), "$.objective", "expected an object"),
    ("unknown objective", edit("objective", "name", to="speed"), "$.objective.name", "latency, bottleneck"),
    ("throughput", edit("objective", to={"name": "throughput"}), "$.objective.name", "bottleneck"),
    ("weights of latency", edit("objective", "name", to="latency"), "$.objective.latency_weight", "balanced only"),
    ("two zero weights", edit("objective", to={"name": "balanced", "latency_weight": 0, "devices_weight": 0}),
     "$.objective.latency_weight", "above 0"),
    ("cost without a price", edit("objective", to={"name": "cost"}), "$.devices[1].price_per_hour", "price every"),
    ("no micro-batches", edit("micro_batches", to=0), "$.micro_batches", "at least 1"),
    ("half a micro-batch", edit("micro_batches", to=1.5), "$.micro_batches", "whole number"),
    ("micro-batches in words", edit("micro_batches", to="many"), "$.micro_batches", '"stages"'),
    ("no device allowed", edit("max_devices", to=0), "$.max_devices", "at least 1"),
    ("comment that is no text", edit("comment", to=5), "$.comment", "expected text"),
    ("name that is no text", edit("name", to=["a"]), "$.name", "expected text"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place", "match"), [d[1:] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_refuses_each_defect(change: Callable[[Document], None], place: str, match: str) -> None:
    """Each defect is one sentence with the JSON path."""
    document = full()
    change(document)
    with pytest.raises(InputError) as caught:
        placement_from_dict(document, source="problem.json")
    assert caught.value.place == place
    assert match in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], 3, "text", True])
def test_refuses_a_root_that_is_no_object(document: Any) -> None:
    """A document that is no object has no schema."""
    with pytest.raises(InputError, match=r"\$: expected an object"):
        placement_from_dict(document)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty file"),
        (b" \n\t", "empty file"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "binary data"),
        (b"PK\x03\x04\x00\x00", "binary data"),
        (b'{"schema": ', "stops being JSON"),
        (b'{"schema": 1, "schema": 2}', "'schema' twice"),
        (b"just words", "expected an object"),
        (b"[1, 2]", "expected an object"),
        (b"[" * 100_000, "JSON"),
        (b"a: [1, 2\n", "YAML"),
    ],
)
def test_refuses_a_file_that_holds_no_document(tmp_path: Path, content: bytes, match: str) -> None:
    """Empty, binary, broken and nested-to-death files are refused by name."""
    path = tmp_path / "problem.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        load_problem(path)
    assert caught.value.source == str(path)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """A path that is no file says so."""
    with pytest.raises(InputError, match="found none at this path"):
        load_problem(tmp_path / "none.json")
    with pytest.raises(InputError, match="found a folder"):
        load_problem(tmp_path)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_refuses_number_tokens_that_json_has_not(tmp_path: Path, token: str) -> None:
    """NaN and Infinity in the text are refused with their path, on a diagonal too."""
    path = tmp_path / "problem.json"
    for place in ("$.compute_s[1][1]", "$.hop_latency_s[1][1]"):
        document = copy.deepcopy(minimal())
        document[place.split("[")[0][2:]][1][1] = "@"
        path.write_text(json.dumps(document).replace('"@"', token))
        with pytest.raises(InputError) as caught:
            load_problem(path)
        assert caught.value.place == place


def test_reads_yaml(tmp_path: Path) -> None:
    """The same document as YAML gives the same problem; 1e2 is a number there too."""
    yaml = pytest.importorskip("yaml")
    path = tmp_path / "problem.yaml"
    path.write_text(yaml.safe_dump(minimal()).replace("available_bytes: 100", "available_bytes: 1e2"))
    assert_same(load_problem(path), placement_from_dict(minimal()))


def test_refuses_to_write_a_runtime_constraint() -> None:
    """The format has no word for `must_hold`."""
    problem = replace(placement_from_dict(minimal()), must_hold=np.array([True, False]))
    with pytest.raises(UnsupportedError, match="leave the runtime out"):
        placement_to_dict(problem)


def test_large_problems_read_fast() -> None:
    """256 devices × 130 layers are checked in well under a second (12 ms on the machine this was written on)."""
    rng = np.random.default_rng(0)
    size, count = 256, 130
    hops = rng.random((size, size)).tolist()
    document = minimal() | {
        "devices": [{"name": f"g{d}", "available_bytes": 1e9} for d in range(size)],
        "layers": [{"name": f"l{i}", "memory_bytes": 1, "boundary_bytes": 2} for i in range(count)],
        "compute_s": rng.random((size, count)).tolist(),
        "hop_latency_s": hops,
        "hop_s_per_byte": hops,
    }
    start = time.perf_counter()
    placement_from_dict(document)
    assert time.perf_counter() - start < 5.0


def test_the_example_of_the_docs_reads() -> None:
    """The document printed in docs/problem-files.md is a problem."""
    page = Path(__file__).parents[2] / "docs" / "problem-files.md"
    text = page.read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    problem = placement_from_dict(json.loads(example))
    assert (problem.num_devices, problem.num_layers) == (2, 3)
