"""A worker process as its parent sees it: messages, timeouts, how it ended, and evidence of the cause.

The parent blocks in `next_message` until the worker says something, dies or is late; it never polls. A worker leads its
own process group, so that Ctrl-C reaches the parent alone and `stop` reaches everything the worker started.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttbench.machine import cgroups
from ttbench.machine.measure import available_bytes, worker_variables
from ttbench.packages import import_path
from ttbench.store.files import new_file, write_whole, writer_name
from ttbench.types import Cell, Environment, Status

_RESERVE_BYTES = 256 * 1024**2  # left to the parent and the rest of the machine
_LOG_TAIL_BYTES = 8192
_MEMINFO, _VMSTAT = Path("/proc/meminfo"), Path("/proc/vmstat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What `next_message` returns; `dead` and `late` are the parent's own observations."""

    kind: Literal["start", "progress", "end", "store_error", "dead", "late"]
    cell_id: str = ""
    status: Status = "ok"  # of a cell that ended
    reason: str | None = None  # one line
    done: int = 0  # samples
    total: int = 0  # samples
    setup_s: float = 0.0  # seconds of the cell so far in which its process opened what it needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a worker ended."""

    returncode: int  # negative: signal
    oom_killed: bool  # SIGKILL while the kernel's count of out-of-memory kills rose
    log: str  # end of its stderr

    @property
    def words(self) -> str:
        if self.oom_killed:
            return "the kernel killed the worker: out of memory"
        if self.returncode < 0:
            name = signal.Signals(-self.returncode).name
            return f"the worker was ended by {name}, with no evidence of missing memory"
        return f"the worker ended by itself with exit code {self.returncode}"


class WorkerProcess:
    """One running `python -m ttbench.runs.worker`."""

    def __init__(
        self,
        folder: Path,
        *,
        cells: Sequence[Cell],
        memory_limit: int | None,
        variables: Mapping[str, str] | None = None,
        environment: Environment | None = None,
        segment: str | None = None,
    ) -> None:
        """Start a worker for `cells`, which share `threads` and write to the run in `folder`.

        Args:
            memory_limit: bytes of data that it may allocate; None: no limit.
            variables: of its environment, beside this process's own.
            environment: of this process: the worker takes over what is true of the machine; None: it looks itself.
            segment: that the worker appends to in a run of many cells; None: one of its own.
        """
        spec = {
            "folder": str(folder.resolve()),
            "environment": None if environment is None else environment.to_json(),
            "segment": segment,
            "parent": os.getpid(),
            "memory_limit": memory_limit,
            "cells": [cell.to_json() for cell in cells],
        }
        # Logs of earlier workers are kept when they hold anything; workers of other machines may share the folder.
        name = writer_name()
        self._spec = folder / "workers" / f"{name}.json"
        self._log = folder / "workers" / f"{name}.log"
        write_whole(self._spec, json.dumps(spec).encode())
        self._oom_kills = oom_kills()
        with open(self._spec, "rb") as stdin, new_file(self._log) as stderr:
            self._process = subprocess.Popen(
                # -P: the current folder must not shadow modules.
                [sys.executable, "-P", "-m", "ttbench.runs.worker"],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**_environment(cells[0].threads), **(variables or {})},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        # A child of the worker may hold the pipe open after the worker's death; the handle tells all the same.
        self._handle = _death_handle(self._process.pid)
        if self._handle is not None:
            self._selector.register(self._handle, selectors.EVENT_READ)
        self._rest, self._lines, self._ended = b"", deque[bytes](), False

    @property
    def pid(self) -> int:
        return self._process.pid

    def next_message(self, deadline: float | None) -> Message:
        """Block until the worker speaks, ends ("dead") or `deadline` of time.monotonic() passes ("late")."""
        while True:
            if self._lines:
                return Message(**json.loads(self._lines.popleft()))
            if self._ended:
                return Message(kind="dead")
            ready = self._selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready:
                return Message(kind="late")
            self._ended = any(key.fd == self._handle for key, _ in ready)
            self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 65536):
                self._rest += chunk
            self._ended = True
        *lines, self._rest = self._rest.split(b"\n")
        self._lines.extend(lines)

    def kill(self) -> None:
        """End the worker and all it started, if they still live; whoever follows it hears of its death."""
        # Until `wait()` reaps the worker, its PID cannot be given to another process.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> Death:
        """As `kill`; say how the worker ended."""
        self.kill()
        returncode = self._process.wait()
        self._selector.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        oom_killed = returncode == -signal.SIGKILL and oom_kills() > self._oom_kills
        log = self._log.read_bytes()
        self._spec.unlink()
        if not log:
            self._log.unlink()
        return Death(returncode=returncode, oom_killed=oom_killed, log=log[-_LOG_TAIL_BYTES:].decode(errors="replace"))


def _death_handle(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none or a sandbox refuses.

    Without it the end of the pipe tells, which comes later only where a child of the worker holds the pipe open.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    # Kernels before 5.3 lack the call, and the filters of older containers refuse it.
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _environment(threads: int) -> dict[str, str]:
    """The parent's environment, import path included, with pinned threads and tracebacks of fatal signals."""
    return {**os.environ, **worker_variables(threads), "PYTHONPATH": import_path(), "PYTHONFAULTHANDLER": "1"}


def oom_kills() -> int:
    """How often the kernel has killed for memory: on the machine and, where it is told, in this control group."""
    machine = sum(int(line.split()[1]) for line in _lines(_VMSTAT) if line.startswith("oom_kill "))
    return machine + cgroups.oom_kills()


def free_memory_bytes() -> int | None:
    """Bytes a worker may use: what the machine has available or the control group still allows, less a reserve.

    None where the system does not say; only Linux does, and only Linux has a kernel that kills for memory.
    """
    if not any("MemAvailable" in line for line in _lines(_MEMINFO)):
        return None
    free = available_bytes()
    return max(free - max(_RESERVE_BYTES, free // 20), _RESERVE_BYTES)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
