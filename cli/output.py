"""Where things are printed: data on stdout, everything for a person beside it; files appear whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Output:
    """One command's output.

    Parameters
    ----------
    data
        Whether stdout carries data (one JSON document, or a file's text); tables and notes then go to stderr.
    """

    def __init__(self, *, data: bool) -> None:
        self.data = data

    def show(self, *renderables: RenderableType) -> None:
        """Print something for a person: stdout, or stderr when stdout is data."""
        console = make_console(sys.stderr if self.data else sys.stdout)
        for renderable in renderables:
            console.print(renderable)

    def lines(self, *lines: str) -> None:
        """Print lines for a person that are never wrapped, such as commands to paste."""
        for line in lines:
            click.echo(line, err=self.data)

    def note(self, text: str) -> None:
        """Print a remark for a person, always on stderr."""
        click.echo(f"note: {text}", err=True)

    def document(self, document: Any) -> None:
        """Print the one JSON document of stdout, when stdout is data."""
        if self.data:
            click.echo(to_json(document), nl=False)


def make_console(stream: Any) -> Console:
    """Return a console that prints plain text when `stream` is no terminal."""
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=False, emoji=False, markup=False)


def to_json(document: Any) -> str:
    """Return a document as JSON text, written as plan files are: sorted keys, exact numbers, no NaN."""
    from gpuplan.plans.canonical import pretty_json

    return pretty_json(document)


def write_text(path: str | Path, text: str) -> None:
    """Write a file through a temporary name beside it: all of it or nothing (UsageError)."""
    from gpuplan.writing import write_text as write

    write(text, path)


def check_writable(path: str | Path | None) -> None:
    """Refuse an output that cannot be written before any work is done for it (UsageError)."""
    if path is None:
        return
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise UsageError(f"cannot write {str(target)!r}: it is a folder; name a file in it")
    if not folder.is_dir():
        raise UsageError(f"cannot write {str(target)!r}: there is no folder {str(folder)!r}; make it first")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise UsageError(f"cannot write {str(target)!r}: permission denied; name a writable file")
