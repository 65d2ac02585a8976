"""The verifier stands on its own: no solver, and none of the code the figures were computed with."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import resources

ALLOWED = ("gpuplan.errors", "gpuplan.units", "gpuplan.plans.")
BUILDERS = ("gpuplan.plans.build",)


def runtime_imports(source: str) -> set[str]:
    """Return the gpuplan modules that a source file imports, those for type checkers left out."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in typing_only]
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in names if name.startswith("gpuplan")}


def test_verifier_imports_no_cost_route_or_solver_code() -> None:
    """Every module of the verifier imports only errors, units, and the plans' own types and files."""
    for file in resources.files("gpuplan.plans.verify").iterdir():
        if file.name.endswith(".py"):
            for name in runtime_imports(file.read_text(encoding="utf-8")):
                assert name.startswith(ALLOWED), (file.name, name)
                assert not name.startswith(BUILDERS), (file.name, name)


def test_verifier_loads_alone() -> None:
    """Loading the verifier loads neither profiles nor topology nor solvers, nor the schema library."""
    code = (
        "import sys, gpuplan.plans\n"
        "heavy = ('gpuplan.profiles', 'gpuplan.topology', 'gpuplan.solvers', 'jsonschema', 'networkx', 'scipy')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
