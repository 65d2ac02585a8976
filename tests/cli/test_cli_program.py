"""The group: help, names, exit codes of errors."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from gpuplan import __version__
from gpuplan.cli.errors import ExitCode, exit_code, one_line
from gpuplan.cli.groups import CommandSpec, ProgramGroup
from gpuplan.cli.main import COMMANDS, cli
from gpuplan.errors import (
    GpuplanError,
    InfeasibleError,
    InputError,
    NoSolutionError,
    SolverUnavailableError,
    UnsupportedError,
    UsageError,
    VerificationError,
)


def test_version_is_printed(run):
    """``--version`` prints name and version."""
    assert run("--version").stdout == f"gpuplan {__version__}\n"


def test_help_lists_every_command(run):
    """``--help`` names all commands."""
    text = run("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_help_keeps_the_lines_to_paste(run):
    """The first commands stand in the help line by line."""
    lines = [line.strip() for line in run("--help").stdout.splitlines()]
    assert "Check it, run it:   gpuplan verify plan.json" in lines
    assert not any("\\b" in line for line in lines)


def test_no_command_shows_help_as_usage_error(run):
    """Without a command the help goes to stderr with exit 2."""
    outcome = run()
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "Commands:" in outcome.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name):
    """Each command loads and explains itself."""
    outcome = run(name, "--help")
    assert outcome.exit_code == 0
    assert "Usage: gpuplan" in outcome.stdout


def test_subcommand_without_name_shows_help(run):
    """A group without its command shows its help with exit 2."""
    outcome = run("topology")
    assert outcome.exit_code == 2
    assert "convert" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "closest"), [(("mpa",), "did you mean 'map'?"), (("topology", "shwo"), "did you mean 'show'?")]
)
def test_unknown_command_names_the_closest(refused, words, closest):
    """A mistyped command is answered with the nearest name."""
    assert closest in refused(2, *words)


def test_unknown_option_is_one_line(refused):
    """A mistyped option is a usage error in one line."""
    assert "no such option --bach; did you mean --balance or --batch?" in refused(2, "map", "a", "b", "--bach", "2")


def test_missing_argument_is_one_line(refused):
    """A forgotten CLUSTER is a usage error that names it."""
    assert "CLUSTER is missing" in refused(2, "map", "llama-3.1-70b")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (InputError("x"), 3),
        (InfeasibleError("x"), 4),
        (NoSolutionError("x"), 5),
        (VerificationError("x"), 6),
        (UnsupportedError("x"), 7),
        (SolverUnavailableError("x"), 7),
        (GpuplanError("x"), 1),
    ],
)
def test_exit_code_of_every_error(error, code):
    """Each branch of the error tree has the exit code of the documented table."""
    assert exit_code(error) == code


def test_messages_are_one_line():
    """Line breaks of a parser's message do not reach the terminal."""
    assert one_line("a\n  b\tc") == "a b c"


def _program_that_raises(error: BaseException) -> ProgramGroup:
    group = ProgramGroup("gpuplan", specs={"fail": CommandSpec("", "", "")})

    def fail() -> None:
        raise error

    group.get_command = lambda ctx, name: click.Command("fail", callback=fail)  # type: ignore[method-assign]
    return group


def test_a_bug_keeps_its_traceback():
    """An unexpected error passes through, so that Python prints its traceback and exits with 1."""
    with pytest.raises(ZeroDivisionError):
        _program_that_raises(ZeroDivisionError()).main(["fail"])


def test_ctrl_c_outside_a_search_is_130(capsys):
    """Ctrl-C while files are read ends with 130."""
    with pytest.raises(SystemExit) as ended:
        _program_that_raises(KeyboardInterrupt()).main(["fail"])
    assert ended.value.code == ExitCode.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_expected_error_is_one_line_and_its_code(capsys):
    """An error of ours is one line on stderr and no traceback."""
    with pytest.raises(SystemExit) as ended:
        _program_that_raises(InputError("expected a number,\ngot null", source="a.json")).main(["fail"])
    assert ended.value.code == ExitCode.INPUT
    assert capsys.readouterr().err == "gpuplan: a.json: expected a number, got null\n"


def test_bug_exits_with_one_in_a_process():
    """The whole program: a bug prints its traceback and exits 1."""
    code = "import gpuplan.cli.list as m, gpuplan.cli.main as p; m._SUBJECTS['gpus'] = lambda c: 1/0; p.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list", "gpus"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_group_is_a_click_command():
    """The command object can be tested and completed as any click command."""
    assert isinstance(cli, click.Group)


def test_missing_library_is_exit_7(capsys):
    """A library that is not there is named, with what to install; a missing module of ours is a fault."""
    from gpuplan.cli.groups import guarded

    def lacks(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert guarded(lambda: lacks("numba.core")) == 7
    assert "pip install numba" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        guarded(lambda: lacks("gpuplan.nowhere"))
