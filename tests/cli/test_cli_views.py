"""What a person reads: tables in 80 columns, certificates, progress, the picture of a front."""

from __future__ import annotations

import io
import json
import time

import pytest

from gpuplan.cli.certificate import certificate, format_value
from gpuplan.cli.front_view import front_svg, front_table
from gpuplan.cli.map_view import map_view
from gpuplan.cli.output import Output, make_console
from gpuplan.cli.progress import SearchProgress
from gpuplan.cli.solving import failure_document, value_to_json
from gpuplan.cli.style import bar, bullets
from gpuplan.cli.topology_view import topology_view
from gpuplan.plans.device_map import (
    DeviceMap,
    Hop,
    LayerSpan,
    Metrics,
    ModelRef,
    PlanResult,
    Provenance,
    Stage,
    StageMemory,
    TopologyRef,
    WorkloadPoint,
)
from gpuplan.plans.placement_solution import FrontPoint, PlacementFront, StageRange
from gpuplan.solvers.limits import Progress
from gpuplan.solvers.result import Report, Result
from gpuplan.units import GIB


def render(*renderables, width=80) -> str:
    """Return what a terminal of `width` columns without colours shows."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    for renderable in renderables:
        console.print(renderable)
    return stream.getvalue()


def _stage(name: str, start: int, stop: int, used_gib: float, hop: Hop | None) -> Stage:
    memory = StageMemory((used_gib - 2) * GIB, GIB, GIB, 20 * GIB)
    return Stage((name,), 1, LayerSpan(start, stop), ("m",), memory, 0.2, 0.01, hop)


@pytest.fixture
def plan() -> DeviceMap:
    """Return two stages: 15 of 20 GiB and 19.8 of 20 GiB, hops of 1 ms and 20 µs."""
    return DeviceMap(
        model=ModelRef("tiny", 10, "x"),
        topology=TopologyRef("pair", 2, "y"),
        workload=WorkloadPoint(1, 1024, 128, 1),
        stages=(
            _stage("host0/gpu0", 0, 6, 15.0, Hop(1, ("host0/gpu0", "host0/gpu1"), 1e-3, 2e-5)),
            _stage("host0/gpu1", 6, 10, 19.8, Hop(0, ("host0/gpu1", "host0/gpu0"), 0.0, 1e-5)),
        ),
        metrics=Metrics(0.401, 0.02003, 2.945, 0.01002, 49.9, 12345, 2, 0.87),
        result=PlanResult("optimal", 2.945, {}, 2.945, 0.0, "auto", {}, 0, "0.1.0"),
        provenance=Provenance(0, 0, 0, 1, ()),
        inputs={},
    )


KINDS = {"host0/gpu0": "a100-sxm4-80gb", "host0/gpu1": "rtx-6000-ada-48gb"}
LIMITS = [("bandwidth", ""), ("overhead", "memory full")]


def test_map_view_fits_eighty_columns(plan):
    """The stages, with the longest kind and limits, stand in 80 columns and nothing is broken over lines."""
    text = render(*map_view(plan, kinds=KINDS, limits=LIMITS))
    assert max(map(len, text.splitlines())) <= 80
    stages = ("host0/gpu1", "rtx-6000-ada-48gb", "19.8/20.0 GiB", "memory full", "6 layers", "→ 1.0 ms", "↩ 10.0 µs")
    metrics = ("TTFT 401.0 ms", "TPOT 20.0 ms", "latency 2.94", "bottleneck 10.0 ms", "49.9 tokens/s", "12,345 tokens")
    assert [word for word in (*stages, *metrics) if word not in text] == []


def test_map_view_without_colour_has_no_control_codes(plan):
    """Off a terminal the table is plain text."""
    stream = io.StringIO()
    make_console(stream).print(*map_view(plan, kinds=KINDS, limits=LIMITS))
    assert "\x1b" not in stream.getvalue()


def test_bars_are_clamped_and_fine():
    """A bar shows eighths of a cell, and never runs over."""
    assert bar(0.0, 4) == "░░░░"
    assert bar(1 / 32, 4) == "▏░░░"
    assert bar(7.0, 4) == "████"


def test_brackets_in_names_are_not_markup():
    """A model name with brackets is printed as it is."""
    stream = io.StringIO()
    make_console(stream).print("org/model[red]x")
    assert stream.getvalue() == "org/model[red]x\n"


def test_bullets_stay_indented():
    """A long sentence wraps under its first word."""
    lines = render(bullets(["word " * 30]), width=40).splitlines()
    assert lines[0].startswith("• word")
    assert all(line.startswith("  word") for line in lines[1:])


def _result(status, objective, bound, gap, **report) -> Result[object]:
    return Result(status, object(), objective, bound, gap, Report("auto", wall_time_s=0.012, **report))


def test_certificate_of_a_proven_plan():
    """The line says that it is proven, by which bound, and how long it took."""
    text = render(certificate(_result("optimal", 1.5, 1.5, 0.0), "latency"))
    assert "optimal: no better map exists (proven, bound = 1.50 s, 12.0 ms)" in text


def test_certificate_of_a_gap():
    """The gap is said in percent and never rounded to nothing."""
    text = render(certificate(_result("feasible", 1.0, 0.996, 0.004), "latency", stopped="Ctrl-C"))
    assert "within 0.40 % of the best possible (bound = 996.0 ms" in text
    assert "stopped by Ctrl-C" in text
    assert "within 0.00001 %" in render(certificate(_result("feasible", 1.0, 1.0, 1e-7), "latency"))


def test_certificate_without_a_bound_claims_nothing():
    """A rule of thumb promises nothing."""
    text = render(certificate(_result("feasible", 1.0, None, None), "latency"))
    assert "no bound is known" in text
    assert "optimal" not in text


def test_certificate_of_a_front():
    """A complete front says so, a partial one says so too."""
    assert "no point is missing" in render(certificate(_result("optimal", None, None, None), "latency", what="front"))
    assert "not proven" in render(certificate(_result("feasible", None, None, None), "latency", what="front"))


@pytest.mark.parametrize(
    ("value", "objective", "text"),
    [
        (1.5, "latency", "1.50 s"),
        ((0.5, 1.5), "throughput", "500.0 ms, 1.50 s"),
        ((1.0, 1.5), "efficiency", "1 device, 1.50 s"),
        ((3.2, 1.5), "cost", "3.2 per hour, 1.50 s"),
        ((-2048.0, 1.5), "kv-capacity", "2,048 tokens, 1.50 s"),
        (11.0, "balanced", "11"),
        (None, "latency", "unknown"),
    ],
)
def test_values_carry_their_units(value, objective, text):
    """Each objective's value is written with the units of its components."""
    assert format_value(value, objective) == text


@pytest.fixture
def front() -> PlacementFront:
    """Return two points: one device, then two."""
    return PlacementFront(
        (
            FrontPoint(1.0, 0.2, 1, (StageRange(0, 0, 10),)),
            FrontPoint(1.25, 0.1, 2, (StageRange(1, 0, 5), StageRange(0, 5, 10))),
        )
    )


def test_front_table(front):
    """Points stand by rising latency with their stages; the only host's name is left out."""
    text = render(front_table(front, ["host0/gpu0", "host0/gpu1"]))
    assert "1.250 s  100.000 ms        2  gpu1\N{NO-BREAK SPACE}0-4 · gpu0\N{NO-BREAK SPACE}5-9" in text


def test_front_picture(front):
    """The picture is XML with a mark for each point, inside the frame, and its title escaped."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(front_svg(front, "a & b"))
    titles = [title.text for title in root.findall(".//{*}title")]
    assert titles == [
        "latency 1.000 s, bottleneck 200.000 ms, devices 1",
        "latency 1.250 s, bottleneck 100.000 ms, devices 2",
    ]
    circles = root.findall(".//{*}circle")
    assert all(0 < float(circle.get("cx")) < 720 and 0 < float(circle.get("cy")) < 440 for circle in circles)


def test_front_of_one_point_is_drawn(front):
    """A single point needs no range of values."""
    assert "<circle" in front_svg(PlacementFront(front.points[:1]), "one")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_line():
    """The line names the phase, the incumbent, the bound and the gap."""
    line = SearchProgress("searching", stream=io.StringIO()).line(Progress("beam", 1.0, 0.9))
    assert line == "searching: beam · best 1.00 s · bound 900.0 ms · gap 10.00%"
    assert SearchProgress("searching").line(None) == "searching …"


def test_progress_is_silent_off_a_terminal_and_when_quick(monkeypatch):
    """Nothing is printed into a pipe, nor on a terminal for quick work."""
    monkeypatch.setattr("gpuplan.cli.progress.QUIET_S", 0.0)
    pipe = io.StringIO()
    with SearchProgress("searching", stream=pipe) as progress:
        progress(Progress("beam", 1.0, None))
        time.sleep(0.05)
    assert pipe.getvalue() == ""
    monkeypatch.setattr("gpuplan.cli.progress.QUIET_S", 60.0)
    terminal = _Terminal()
    with SearchProgress("searching", stream=terminal) as progress:
        progress(Progress("beam", 1.0, None))
    assert terminal.getvalue() == ""


def test_progress_appears_on_a_terminal(monkeypatch):
    """Long work shows a living line."""
    monkeypatch.setattr("gpuplan.cli.progress.QUIET_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    with SearchProgress("searching", stream=terminal) as progress:
        progress(Progress("beam", 1.0, 0.9))
        deadline = time.monotonic() + 10
        while "searching" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "searching" in terminal.getvalue()


def test_data_on_stdout_sends_the_rest_to_stderr(capsys):
    """With data on stdout, tables and notes go to stderr; without, tables go to stdout."""
    output = Output(data=True)
    output.show("a table")
    output.note("a remark")
    output.document({"b": 1, "a": [2]})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": [2], "b": 1}
    assert printed.err == "a table\nnote: a remark\n"
    Output(data=False).show("a table")
    Output(data=False).document({"never": "printed"})
    assert capsys.readouterr().out == "a table\n"


def test_failure_document_holds_status_and_reasons():
    """JSON without a plan still has status and reasons, at the top and where a plan has its result."""
    result = Result("infeasible", None, None, float("inf"), None, Report("auto"), reasons=("short",))
    document = failure_document(result)
    assert (document["status"], document["reasons"]) == ("infeasible", ["short"])
    assert document["result"]["status"] == "infeasible"
    assert document["result"]["bound"] is None


def test_values_as_json():
    """Pairs become lists, infinity becomes null."""
    assert value_to_json((1.0, float("inf"))) == [1.0, None]


# ---------------------------------------------------------------------------------------------------------- topology


def test_topology_of_too_many_devices_shows_no_routes():
    """Where routes are left out no matrix claims that there are none, and alike hosts share a line."""
    devices = [
        {"name": f"host{h}/gpu{g}", "host": f"host{h}", "index": g, "kind": "l4-24gb", "available_bytes": 20 * GIB}
        for h in range(20)
        for g in range(2)
    ]
    text = render(*topology_view("big", {"devices": devices, "pairs": [], "islands": [], "classes": []}))
    assert "none" not in text
    assert "routes are left out" in text
    assert "host0/gpu0 … host19/gpu1 (40 devices)" in text
