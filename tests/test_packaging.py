"""The folders, the packaging table, the links for static tools and the built wheel are one list."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "plans", "profiles", "solvers", "topology")


def _setuptools() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def _packages_on_disk() -> dict[str, str]:
    inits = [path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    folders = [path.parent.relative_to(ROOT).as_posix() for path in inits]
    return {"gpuplan": "src/gpuplan", **{f"gpuplan.{folder.replace('/', '.')}": folder for folder in folders}}


def test_packages_and_mapping_list_every_folder() -> None:
    """A sub-package left out would work editable and be missing from the wheel without an error."""
    table = _setuptools()
    assert table["package-dir"] == _packages_on_disk()
    assert sorted(table["packages"]) == sorted(_packages_on_disk())  # type: ignore[arg-type]


def test_static_tools_find_each_folder_through_a_link() -> None:
    """Type checkers and the import contract read `src/gpuplan/<folder>`, a link to the real one."""
    for folder in FOLDERS:
        link = ROOT / "src" / "gpuplan" / folder
        assert link.is_symlink(), folder
        assert os.readlink(link) == f"../../{folder}"


@pytest.mark.slow
def test_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    """Build the wheel from a copy and look inside."""
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        path = ROOT / name
        if path.is_file() and not name.startswith(("src/gpuplan/cli", "src/gpuplan/plans")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip(f"the build back end cannot be fetched here: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("gpuplan-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"gpuplan/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".yaml", ".json"} and "__pycache__" not in path.parts
    }
    assert expected <= inside
    assert {"gpuplan/py.typed", "gpuplan/errors.py", "gpuplan/units.py", "gpuplan/__main__.py"} <= inside
