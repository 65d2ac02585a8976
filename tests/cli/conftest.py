"""Helpers of the command-line tests: the program in process and installed, small problems, hand-made plans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpuplan.cli.main import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command object in an empty folder; the outcome has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*args: str | Path) -> Result:
        outcome = CliRunner().invoke(cli, [str(arg) for arg in args])
        if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception
        return outcome

    return invoke


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed program in an empty folder."""

    def invoke(*args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpuplan", *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return invoke


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Run something that must fail: check the code, the single line on stderr, that nothing was written or printed."""

    def invoke(code: int, *args: str | Path) -> str:
        before = _files(tmp_path)
        outcome = run(*args)
        lines = [line for line in outcome.stderr.splitlines() if not line.startswith("note: ")]
        assert outcome.exit_code == code, outcome.stderr
        assert outcome.stdout == ""
        assert len(lines) == 1, outcome.stderr
        assert lines[0].startswith("gpuplan: ")
        assert _files(tmp_path) == before
        return lines[0]

    return invoke


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def examples() -> Path:
    """Return the folder of shipped examples."""
    return EXAMPLES


@pytest.fixture
def three_devices() -> dict[str, Any]:
    """Return the shipped problem of three unlike devices and 12 equal layers."""
    document: dict[str, Any] = json.loads((EXAMPLES / "three-unlike-devices" / "problem.json").read_text("utf-8"))
    return document


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a file into the test's folder: text as it is, bytes as they are, the rest as JSON."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return to_file
