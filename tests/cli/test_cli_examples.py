"""The shipped examples run as their README says."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def copy(examples, tmp_path) -> Path:
    """Return a copy of the examples, so that what they write does not stay."""
    return Path(shutil.copytree(examples, tmp_path / "examples"))


def _commands(text: str) -> list[list[str]]:
    """Return the commands of the indented blocks, split into words."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [shlex.split(line) for line in lines if line]


def test_readme_commands_run(copy):
    """Every command of examples/README.md ends with 0 and an answer."""
    commands = _commands((copy / "README.md").read_text("utf-8"))
    assert len(commands) >= 6
    for words in commands:
        program = [sys.executable, "-m", "gpuplan"] if words[0] == "gpuplan" else [sys.executable]
        done = subprocess.run(
            [*program, *words[1:]], cwd=copy, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        assert done.stdout


def test_python_example_gives_the_plan_of_the_command_line(copy, run):
    """The Python example prints the lines the command line exports."""
    done = subprocess.run(
        [sys.executable, copy / "plan_from_python.py"], capture_output=True, text=True, timeout=120, check=True
    )
    folder = copy / "dgx-a100"
    planned = run("map", folder / "config.json", folder / "topo.txt", "--gpu", "a100-sxm4-80gb", "-o", "plan.json")
    assert planned.exit_code == 0, planned.stderr
    assert run("export", "plan.json", "--to", "vllm").stdout.strip() in done.stdout


def test_example_config_is_the_shipped_shape(run, examples):
    """The example's config.json is the shape that ships as llama-3.1-70b."""
    import gpuplan

    mine = gpuplan.load_model(examples / "dgx-a100" / "config.json")
    shipped = gpuplan.load_model("llama-3.1-70b")
    assert [layer.weight_bytes for layer in mine.layers] == [layer.weight_bytes for layer in shipped.layers]
    assert mine.kv_bytes_per_token == shipped.kv_bytes_per_token


def test_example_machine_is_the_shipped_cluster(examples):
    """The example's matrix gives the devices and link speeds of the shipped dgx-a100."""
    import gpuplan
    from gpuplan.topology import route

    mine = gpuplan.load_topology(examples / "dgx-a100" / "topo.txt", gpu=["a100-sxm4-80gb"])
    shipped = gpuplan.load_topology("dgx-a100")
    assert [device.available_bytes for device in mine.devices] == [device.available_bytes for device in shipped.devices]
    a, b = mine.devices[0].name, mine.devices[5].name
    c, d = shipped.devices[0].name, shipped.devices[5].name
    assert route(mine, a, b, 1e6).transfer_s(1e6) == pytest.approx(route(shipped, c, d, 1e6).transfer_s(1e6))
