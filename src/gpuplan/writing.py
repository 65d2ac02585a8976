"""Text files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from gpuplan.errors import UsageError


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write `text` to `path` through a temporary file beside it, so that no half-written file is ever seen.

    Raises
    ------
    UsageError
        The file cannot be written; nothing is left behind.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():
        _write_through(text, target)
        return
    try:
        _replace(text, target)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {_reason(error)}; name a writable file") from None


def _replace(text: str, target: Path) -> None:
    # A link keeps being a link: the file it leads to is replaced.
    target = target.resolve()
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    # Not tempfile: its files are private, and a plan is as readable as any file a person saves.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write_through(text: str, target: Path) -> None:
    # Pipes and devices such as /dev/stdout cannot be replaced, only written.
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {str(target)!r}: {_reason(error)}; name a writable file") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
