"""Exit codes, and how an expected failure becomes one line on stderr.

* 0: done (also a feasible plan at a limit, or the incumbent after Ctrl-C; the output says so)
* 1: unexpected; the traceback is printed
* 2: usage: bad option value, unknown name or kind, unwritable output
* 3: bad input file
* 4: proven infeasible
* 5: limit reached, no plan
* 6: verification failed
* 7: a solver or extra is missing, or does not support this problem
* 130: Ctrl-C without a plan
"""

from __future__ import annotations

from enum import IntEnum

import click

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


class ExitCode(IntEnum):
    """What the program's exit status means."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    INPUT = 3
    INFEASIBLE = 4
    NO_SOLUTION = 5
    VERIFICATION = 6
    UNSUPPORTED = 7
    INTERRUPTED = 130


_CODES: tuple[tuple[type[GpuplanError], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (InputError, ExitCode.INPUT),
    (InfeasibleError, ExitCode.INFEASIBLE),
    (NoSolutionError, ExitCode.NO_SOLUTION),
    (VerificationError, ExitCode.VERIFICATION),
    (UnsupportedError, ExitCode.UNSUPPORTED),
    (SolverUnavailableError, ExitCode.UNSUPPORTED),
)


class InterruptedSearchError(GpuplanError):
    """Ctrl-C before any plan was found."""


def exit_code(error: GpuplanError) -> ExitCode:
    """Return the exit code an expected failure ends with."""
    if isinstance(error, InterruptedSearchError):
        return ExitCode.INTERRUPTED
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.UNEXPECTED


def one_line(message: str) -> str:
    r"""Return a message with its line breaks and runs of blanks collapsed.

    >>> one_line("bad file:\n   line 3")
    'bad file: line 3'
    """
    return " ".join(message.split())


def say_error(message: str) -> None:
    """Print one line on stderr, named after the program."""
    click.echo(f"gpuplan: {one_line(message)}", err=True)


def click_message(error: click.ClickException) -> str:
    """Return click's complaint in the form of ours: the option first, then the sentence."""
    if isinstance(error, click.MissingParameter):
        return f"{_name(error)} is missing; gpuplan {_path(error)} --help shows what it takes".replace("  ", " ")
    if isinstance(error, click.BadParameter):
        return f"{_name(error)}: {error.message}"
    if isinstance(error, click.NoSuchOption):
        closest = f"; did you mean {' or '.join(sorted(error.possibilities))}?" if error.possibilities else ""
        return f"no such option {error.option_name}{closest}"
    return error.format_message()


def _name(error: click.BadParameter) -> str:
    if error.param is None:
        return error.param_hint if isinstance(error.param_hint, str) else "a value"
    if isinstance(error.param, click.Argument):
        return error.param.human_readable_name
    return max(error.param.opts, key=len)


def _path(error: click.UsageError) -> str:
    return error.ctx.command_path.removeprefix("gpuplan").strip() if error.ctx else ""
