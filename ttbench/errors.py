"""Every error a user can cause, as one tree.

    TtbenchError
    ├── UsageError                wrong use: exit code 2
    │   ├── UnknownNameError      a name that no registry has; suggests the nearest
    │   ├── PlugInError           another package's part that cannot be imported or used
    │   ├── SuiteError            a suite file that does not parse or validate
    │   ├── CheckpointError       a checkpoint that cannot be found, identified or read
    │   │   └── WeightsError      weights that do not fit their configuration
    │   └── CorpusError           a corpus that cannot be found or read
    ├── StoreError                a results folder that cannot be read or written: exit code 2
    ├── OutputError               stdout that cannot be written: exit code 2
    ├── CacheError                no folder to keep files in between runs: exit code 2
    ├── CellAnswer                not a failure: the cell's answer is a status other than ok
    │   ├── TooLongError          status too_long
    │   ├── TooShortError         status too_short
    │   └── UnsupportedError      status unsupported
    │       └── MissingDataError  status unsupported, and a CorpusError: data that are fetched once are not here
    ├── LeakError                 an engine that knows what it was not shown: status error
    ├── NotFiniteError            logits that are NaN or infinite: status error
    ├── CellsFailedError          cells ended killed, timeout or error: exit code 1
    └── GateError                 a gate that did not hold: exit code 3

Messages say what failed, the value given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable
from typing import ClassVar


class TtbenchError(Exception):
    """Root of the tree; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 2


class UsageError(TtbenchError):
    """The request cannot be carried out as written."""


class UnknownNameError(UsageError):
    """A name that its registry does not have.

    Args:
        noun: what the name should have named, such as "task".
        name: the name given.
        known: the names that exist.
        where: file and line, when the name came from a file.
    """

    def __init__(self, noun: str, name: str, *, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        place = f" in {where}" if where else ""
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        super().__init__(f"unknown {noun} '{name}'{place}{hint} available: {', '.join(known) or 'none'}")
        self.noun, self.name, self.known = noun, name, tuple(known)


class PlugInError(UsageError):
    """An architecture, task, engine or corpus of another package that cannot be imported."""


class SuiteError(UsageError):
    """A suite file that does not parse or validate."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be found, identified or read."""


class WeightsError(CheckpointError):
    """Weights that are broken or do not fit their configuration."""


class CorpusError(UsageError):
    """A corpus that cannot be found or read."""


class StoreError(TtbenchError):
    """A results folder that cannot be read or written."""


class OutputError(TtbenchError):
    """Stdout that cannot be written."""


class CacheError(TtbenchError):
    """No folder to keep files in between runs."""


class CellAnswer(TtbenchError):
    """Raised by a task to end its cell with a status that is an answer, not a failure."""

    status: ClassVar[str]


class TooLongError(CellAnswer):
    """The checkpoint cannot take this context length."""

    status = "too_long"


class TooShortError(CellAnswer):
    """The corpus has no text long enough for this context length."""

    status = "too_short"


class UnsupportedError(CellAnswer):
    """The combination asked for has no meaning or no implementation."""

    status = "unsupported"


class MissingDataError(CorpusError, UnsupportedError):
    """Data that a command fetches once are not on this machine; the message names the command."""


class LeakError(TtbenchError):
    """An engine answered with what stands nowhere in its prompt; its scores mean nothing."""

    exit_code = 1


class NotFiniteError(TtbenchError):
    """A model computed logits that are NaN or infinite; nothing that follows from them is an answer."""

    exit_code = 1


class CellsFailedError(TtbenchError):
    """Some cells ended killed, timeout or error."""

    exit_code = 1


class GateError(TtbenchError):
    """A claim or gate that did not hold."""

    exit_code = 3


_REASON_LEN = 300  # characters of a row's reason


def one_line(error: BaseException) -> str:
    """The first line of a message; the type before it when the message was not written for users."""
    text = next(iter(str(error).splitlines()), "")
    text = text if isinstance(error, TtbenchError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= _REASON_LEN else f"{text[: _REASON_LEN - 1]}…"


def raised(error: Exception, *, file: str) -> str:
    """What foreign code raised, in one line, with the last line of its `file` that was running."""
    words = next(iter(str(error).splitlines()), "")[:200]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({os.path.basename(file)}:{own[-1].lineno}, in {own[-1].name})" if own else ""
    return f"{type(error).__name__}{f': {words}' if words else ''}{place}"
