"""Limits from the command line: memory, matrix entries, Ctrl-C while solvers of others run, solvers that break."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXECUTORS = {
    "schema": "gpuplan/batching-problem/1",
    "executors": [{"name": "e0", "kv_capacity_tokens": 200000, "max_batch": 32}],
    "time": {
        "prefill_fixed_s": 0.02,
        "prefill_s_per_token": 2e-5,
        "step_fixed_s": 0.01,
        "step_s_per_sequence": 2e-4,
        "step_s_per_context_token": 1e-7,
    },
}


def _requests(count: int) -> str:
    draw = random.Random(1)
    rows = [f"r{k},{k / 2},{draw.randint(16, 2000)},{draw.randint(8, 800)}" for k in range(count)]
    return "\n".join(["id,arrival_s,prompt_tokens,output_tokens", *rows]) + "\n"


def _flow(nodes: int) -> dict[str, object]:
    """Return nodes of two kinds, every two of them linked, for eight layers."""
    draw = random.Random(2)
    names = [f"n{k}" for k in range(nodes)]
    ends = [(a, b) for a in names for b in names if a != b]
    ends += [("source", name) for name in names] + [(name, "sink") for name in names]
    return {
        "schema": "gpuplan/flow-problem/1",
        "num_layers": 8,
        "throughput_tokens_per_s": {"A": [90.0, 44.0, 29.0, 21.0], "B": [50.0, 24.0]},
        "nodes": [{"name": name, "kind": "AB"[k % 2]} for k, name in enumerate(names)],
        "links": [{"from": a, "to": b, "capacity_tokens_per_s": draw.uniform(2.0, 12.0)} for a, b in ends],
    }


def _packing(devices: int, layers: int) -> dict[str, object]:
    """Return unlike devices, filled to 85 %, that keep any solver busy for minutes."""
    draw = random.Random(3)
    sizes = [draw.uniform(0.5, 1.5) for _ in range(layers)]
    rooms = [draw.uniform(0.5, 1.5) for _ in range(devices)]
    scale = sum(sizes) / sum(rooms) / 0.85
    rows = [[0.0 if a == b else draw.uniform(0.1, 0.3) for b in range(devices)] for a in range(devices)]
    return {
        "schema": "gpuplan/placement-problem/1",
        "devices": [{"name": f"g{k}", "available_bytes": scale * room} for k, room in enumerate(rooms)],
        "layers": [{"name": f"l{k}", "memory_bytes": size, "boundary_bytes": 1.0} for k, size in enumerate(sizes)],
        "compute_s": [[draw.uniform(1.0, 2.0) for _ in sizes] for _ in rooms],
        "hop_latency_s": rows,
        "hop_s_per_byte": rows,
        "objective": {"name": "latency"},
    }


# ------------------------------------------------------------------------------------------------ memory and entries


@pytest.mark.parametrize(
    "words",
    [
        ("map", "llama-3.1-8b", "8xl4"),
        ("pareto", "llama-3.1-8b", "8xl4"),
        ("deploy", "llama-3.1-8b", "8xl4"),
        ("solve", "placement.json"),
        ("solve", "placement.json", "--solver", "labels"),
        ("solve", "flow.json"),
        ("solve", "flow.json", "--solver", "flow-milp"),
        ("batch", "requests.csv", "--executors", "executors.json"),
    ],
)
def test_what_would_take_more_memory_than_allowed_is_refused(refused, write, tmp_path, words):
    """One sentence with both amounts, exit code 7, nothing on stdout, nothing written."""
    write("placement.json", _packing(8, 12))
    write("flow.json", _flow(6))
    write("executors.json", EXECUTORS)
    (tmp_path / "requests.csv").write_text(_requests(30), encoding="utf-8")
    message = refused(7, *words, "--memory-limit", "1KiB")
    assert "of memory and --memory-limit is 1.0 KiB" in message


def test_a_comparison_refuses_solver_by_solver(run, write):
    """Rules take no memory to speak of and answer; a search that would take more is a row that says so."""
    write("placement.json", _packing(8, 12))
    arguments = ("--solvers", "labels,memory,bgs,random", "--memory-limit", "1KiB", "--format", "json")
    rows = json.loads(run("compare", "placement.json", *arguments).stdout)["solvers"]
    assert rows[0]["status"] == "refused"
    assert "--memory-limit is 1.0 KiB" in rows[0]["note"]
    assert {row["status"] for row in rows[1:]} <= {"feasible", "no_solution"}


def _unlike_cluster(hosts: int) -> str:
    """Return hosts of eight GPUs of which no two have the same memory, as YAML."""
    draw = random.Random(1)
    lines = ["schema: gpuplan/topology/1", "fabric: infiniband-ndr", "hosts:"]
    for host in range(hosts):
        lines += [f"  - name: host{host}", "    nvswitch: 18", "    nics: per_device", "    devices:"]
        lines += [
            f"      - {{kind: h100-sxm5-80gb, available_memory: {draw.randint(4 * 10**10, 7 * 10**10)}}}"
            for _ in range(8)
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_more_than_50_million_entries_are_refused(refused, run, write, tmp_path):
    """8,192 devices that all differ would need 67,108,864 entries a matrix."""
    (tmp_path / "many.yaml").write_text(_unlike_cluster(1024), encoding="utf-8")
    message = refused(7, "map", "llama-3.1-70b", "many.yaml")
    assert "at most 50 million matrix entries, got 67,108,864 for 8,192 classes of devices" in message
    (tmp_path / "fewer.yaml").write_text(_unlike_cluster(100), encoding="utf-8")
    outcome = run("map", "llama-3.1-70b", "fewer.yaml", "--time-limit", "5", "-o", "plan.json")
    assert outcome.exit_code == 0
    assert run("verify", "plan.json").exit_code == 0
    message = refused(7, "map", "llama-3.1-70b", "fewer.yaml", "--memory-limit", "16MiB")
    assert "a search over 800 classes of devices would take about" in message


# ------------------------------------------------------------------------------------------------------------ Ctrl-C


def _descendants(pid: int) -> set[int]:
    """Return the processes that a process started, and theirs (Linux)."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, left = set[int](), [pid]
    while left:
        children = parents.get(left.pop(), [])
        found.update(children)
        left += children
    return found


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _interrupted(folder: Path, words: tuple[str, ...], *, after_s: float, child: bool) -> subprocess.Popen[str]:
    """Run the program, send Ctrl-C once it searches (once a child of it runs), and wait for its end.

    Nothing that it started may be left.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuplan", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60.0
    while child and not _descendants(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(after_s)
    started = _descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.stdout_text, process.stderr_text = process.communicate(timeout=60)  # type: ignore[attr-defined]
    time.sleep(0.5)
    assert not [pid for pid in started if _running(pid)]
    return process


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes as Linux lists them")
@pytest.mark.parametrize("solver", ["milp-blocks", "milp-blocks-cbc", "cp-sat"])
def test_ctrl_c_ends_a_comparison_with_the_rows_so_far(tmp_path, write, solver):
    """While HiGHS, CBC or CP-SAT runs in a process of its own: it ends, and the rows before it are printed."""
    write("placement.json", _packing(14, 40))
    words = ("compare", "placement.json", "--solvers", f"auto,{solver},even", "--time-limit", "100")
    process = _interrupted(tmp_path, (*words, "--work-limit", "3000"), after_s=4.0, child=True)
    assert process.returncode in (0, 5), process.stderr_text
    assert "stopping with the solvers finished so far" in process.stderr_text
    assert "auto" in process.stdout_text
    assert "even" not in process.stdout_text.split("\n\n")[0]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes as Linux lists them")
@pytest.mark.parametrize(
    ("words", "child"),
    [
        (("solve", "flow.json"), False),
        (("solve", "flow.json", "--solver", "flow-milp"), True),
        (("batch", "requests.csv", "--executors", "executors.json"), False),
        (("map", "llama-3.1-405b", "cluster.yaml", "--objective", "balanced"), False),
        (("pareto", "llama-3.1-405b", "cluster.yaml"), False),
    ],
)
def test_ctrl_c_hands_over_what_there_is(tmp_path, write, words, child):
    """Exit 0 with a file, or 130 without a plan and without a file; it says that it stops; no process is left."""
    write("flow.json", _flow(40))
    write("executors.json", EXECUTORS)
    (tmp_path / "requests.csv").write_text(_requests(400), encoding="utf-8")
    (tmp_path / "cluster.yaml").write_text(_unlike_cluster(8), encoding="utf-8")
    command = (*words, "--time-limit", "100", "-o", "out.json")
    early = child or words[0] == "batch"  # whose neighbourhood search ends by itself after a few seconds
    process = _interrupted(tmp_path, command, after_s=3.0 if early else 6.0, child=child)
    assert process.returncode in (0, 130), process.stderr_text
    assert "stopping with" in process.stderr_text
    assert (process.returncode == 0) == (tmp_path / "out.json").exists()
    if process.returncode == 130:
        assert "interrupted before a plan was found" in process.stderr_text


# ------------------------------------------------------------------------------------------ solvers that break

BROKEN_CBC = {
    "crash": ("os.abort()", "CBC crashed (signal 6): it printed nothing"),
    "garbage": ("print('0x?!')", "CBC ended without an answer (exit code 0): its last words were '0x?!'"),
    "killer": ("os.kill(os.getppid(), 9)", "the process for CBC crashed (signal 9)"),
}


@pytest.mark.parametrize("way", BROKEN_CBC)
def test_a_cbc_that_breaks_is_told_and_the_others_answer(run, write, tmp_path, monkeypatch, way):
    """A CBC that crashes, prints garbage or takes its process down: a failed row; auto and HiGHS are not touched.

    Each solver's process runs Python, which imports `sitecustomize` first: there the fake takes CBC's place.
    """
    code, words = BROKEN_CBC[way]
    fake = tmp_path / "fake" / "cbc"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport os\n{code}\n", encoding="utf-8")
    fake.chmod(0o755)
    (fake.parent / "sitecustomize.py").write_text(
        f"import gpuplan.solvers.external.cbc as cbc\ncbc.program = lambda: {str(fake)!r}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(fake.parent)
    write("placement.json", _packing(4, 8))
    outcome = run("compare", "placement.json", "--solvers", "auto,milp-blocks,milp-blocks-cbc", "--format", "json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = {row["name"]: row for row in json.loads(outcome.stdout)["solvers"]}
    assert rows["auto"]["status"] == rows["milp-blocks"]["status"] == "optimal"
    assert rows["milp-blocks-cbc"]["status"] == "failed"
    assert words in rows["milp-blocks-cbc"]["note"]
    alone = run("solve", "placement.json", "--solver", "milp-blocks-cbc", "-o", "out.json")
    assert (alone.exit_code, words in alone.stderr) == (5, True)
    assert not (tmp_path / "out.json").exists()
