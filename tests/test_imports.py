"""Importing gpuplan stays light: heavy packages load in the functions that need them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "numba", "networkx", "scipy", "pulp", "ortools", "rich", "yaml", "jsonschema", "click")


def _loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_import_gpuplan_loads_nothing_heavy():
    """``import gpuplan`` loads none of the numeric, solver or terminal packages."""
    assert _loaded("import gpuplan").isdisjoint(HEAVY)


def test_help_loads_no_command():
    """``gpuplan --help`` needs click alone: no command, no NumPy."""
    loaded = _loaded("from gpuplan.cli.main import cli\ntry: cli(['--help'])\nexcept SystemExit: pass")
    assert loaded.isdisjoint(set(HEAVY) - {"click"})
    assert "gpuplan.cli.map" not in loaded


COMMANDS = (
    *("map", "pareto", "compare", "solve", "verify", "export", "topology", "model", "list"),
    *("batch", "predict", "iteration", "profile", "deploy"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_no_solver(command):
    """Each command's help comes without its back ends."""
    loaded = _loaded(f"from gpuplan.cli.main import cli\ntry: cli(['{command}', '--help'])\nexcept SystemExit: pass")
    assert loaded.isdisjoint(set(HEAVY) - {"click"})


def test_every_public_name_loads():
    """Each name of ``gpuplan.__all__`` can be taken from the package."""
    import gpuplan

    assert all(getattr(gpuplan, name) is not None for name in gpuplan.__all__)
