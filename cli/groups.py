"""Command groups: unknown names get the closest one, and the top group imports a command when it is called."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from gpuplan.cli.errors import ExitCode, click_message, exit_code, say_error
from gpuplan.errors import GpuplanError


class SuggestingGroup(click.Group):
    """A group that shows its help when no command is named and suggests the closest of an unknown one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("invoke_without_command", True)
        options.setdefault("no_args_is_help", False)
        super().__init__(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the named command; without one, print the help and end as a usage error."""
        # Click keeps the words it has not yet handed on in one of these two, by version.
        if not (getattr(ctx, "_protected_args", None) or ctx.args):
            click.echo(ctx.get_help(), err=True)
            ctx.exit(ExitCode.USAGE)
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one names the closest."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            closest = difflib.get_close_matches(args[0], names, n=1)
            mend = f"did you mean {closest[0]!r}?" if closest else f"the commands are {', '.join(names)}"
            raise click.UsageError(f"no such command {args[0]!r}; {mend}", ctx)
        return super().resolve_command(ctx, args)


class CommandSpec(NamedTuple):
    """Where a command lives, and its line of help (kept here so that ``--help`` imports nothing)."""

    module: str
    attribute: str
    help: str


class ProgramGroup(SuggestingGroup):
    """The top group: commands load when they are called; expected failures are one line and an exit code."""

    def __init__(self, *args: Any, specs: Mapping[str, CommandSpec], **options: Any) -> None:
        super().__init__(*args, **options)
        self._specs = specs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order a journey uses them."""
        return list(self._specs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None."""
        spec = self._specs.get(cmd_name)
        if spec is None:
            return None
        command = getattr(importlib.import_module(spec.module), spec.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, spec.help) for name, spec in self._specs.items()])

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run, turning every expected failure into one line on stderr and its exit code."""
        extra["standalone_mode"] = False
        extra["obj"] = list(sys.argv[1:] if args is None else args)  # what was typed, for the lines to paste next
        sys.exit(guarded(functools.partial(super().main, args, prog_name or "gpuplan", **extra)))


def guarded(run: Callable[[], Any]) -> int:
    """Run and return the exit code; an unexpected error passes through with its traceback."""
    try:
        code = run()
    except click.ClickException as error:
        say_error(click_message(error))
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted before a plan was found")
        return ExitCode.INTERRUPTED
    except GpuplanError as error:
        say_error(str(error))
        return exit_code(error)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "gpuplan"):  # a fault of our own
            raise
        say_error(f"{missing} is needed here and is not installed; install it with pip install {missing}")
        return ExitCode.UNSUPPORTED
    return code if isinstance(code, int) else ExitCode.DONE
