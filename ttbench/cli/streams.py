"""The process's stdin, stdout and stderr, made safe once at the start of the command line.

A daemon or cron may have closed them, a disk or a pipe behind them may fail, and a plain C locale cannot spell every
letter. Afterwards: a closed stream reads and writes nothing; a letter that the encoding lacks is spelt in ASCII; stdout
that cannot be written raises one `OutputError`; stderr that cannot be written costs what it would have said.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from ttbench.errors import OutputError

# Signs of our own tables, in ASCII; other letters become \u escapes.
_PLAIN = {"±": "+-", "·": "|", "…": "...", "→": "->"}
_ERRORS = "ttbench.plain"


def run(command: Callable[[], object]) -> None:
    """Run a command line behind guarded streams; stdout that fails ends it with one line and exit code 2."""
    guard()
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except OutputError as error:
        # Late: rich.
        from ttbench.cli.console import print_error

        print_error(str(error))
        sys.exit(error.exit_code)


def guard() -> None:
    """Replace sys.stdin, sys.stdout and sys.stderr; before anything is printed."""
    codecs.register_error(_ERRORS, _spell)
    for number in (0, 1, 2):
        _occupy(number)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = _writer(1, sys.stdout, _refuse)
    sys.stderr = _writer(2, sys.stderr, _ignore)


def _occupy(number: int) -> None:
    """Put the null device in place of a closed descriptor, which the next opened file would otherwise take."""
    try:
        os.fstat(number)
    except OSError:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)
        os.set_inheritable(number, True)


def _writer(number: int, before: Any, failed: Callable[[OSError], None]) -> io.TextIOWrapper:
    encoding = "utf-8" if before is None else before.encoding
    buffer = io.BufferedWriter(_Outlet(number, failed))
    return io.TextIOWrapper(buffer, encoding=encoding, errors=_ERRORS, line_buffering=number == 2 or os.isatty(number))


class _Outlet(io.FileIO):
    """A descriptor whose first failure is told to `failed`, and which writes to the null device from then on."""

    def __init__(self, number: int, failed: Callable[[OSError], None]) -> None:
        super().__init__(number, "wb", closefd=False)
        self._failed = failed

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            # What is still buffered must not fail again when the interpreter ends.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            self._failed(error)
            return len(memoryview(data).cast("B"))


def _refuse(error: OSError) -> None:
    reason = {
        errno.EPIPE: "what reads it has ended",
        errno.ENOSPC: "no space left on device",
    }.get(error.errno or 0, error.strerror or str(error))
    raise OutputError(f"cannot write the output: {reason}") from error


def _ignore(error: OSError) -> None:
    """There is no place left to say it."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    spelt = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(spelt), error.end
