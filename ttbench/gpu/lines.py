"""The report: one JSON object per line, each on the disk before the next thing is tried.

    {"stage": "decode", "kind": "measured", "what": "decode_step", "at_s": 12.31, "checkpoint": "random:...", ...}

    kind        fact        what is there
                measured    a number, with all that it is a number of
                verdict     whether something holds: `ok` true or false
                absent      what could not be tried because it is not there: a package, a program, an engine
                failed      an error, with its type and message; the stage went on
                ended       a stage is over: `how` is done, out_of_time, killed or died, and `seconds` how long it took

A line is written by one call and flushed to the disk, so that a machine that dies leaves all lines but the last whole.
Torch-free.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class Lines:
    """Appends the lines of one stage to the report."""

    def __init__(self, path: Path, *, stage: str, seconds: float) -> None:
        """`seconds`: that the stage may take; `left` counts them down."""
        self.path, self.stage, self._seconds = path, stage, seconds
        self._began = time.monotonic()

    def write(self, kind: str, what: str, **values: Any) -> None:
        """Append one line and wait until it is on the disk."""
        at_s = round(time.monotonic() - self._began, 3)
        line = {"stage": self.stage, "kind": kind, "what": what, "at_s": at_s, **_plain(values)}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode("utf-8", "backslashreplace"))
            os.fsync(handle)
        finally:
            os.close(handle)

    def failed(self, what: str, error: BaseException, **values: Any) -> None:
        """Append what went wrong, its first line only."""
        message = next(iter(str(error).splitlines()), "")
        self.write("failed", what, error=type(error).__name__, message=message[:500], **values)

    @property
    def left(self) -> float:
        """Seconds until the stage's time is over; negative afterwards."""
        return self._seconds - (time.monotonic() - self._began)


def _plain(value: Any) -> Any:
    """As strict JSON has it: no NaN, no infinity, no objects."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def read_lines(path: Path) -> Iterator[Line]:
    """The whole lines of a report; one that was cut off is left out."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
