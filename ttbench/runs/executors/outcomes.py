"""What a cluster says of a task, as the status of the cells that it did not bring to an end.

Slurm's State and ExitCode tell the end. Its Reason says why a task waited, and is never read as a cause.
Source of states and exit codes: the manual pages squeue(1), "JOB STATE CODES", and sacct(1).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from ttbench.types import Status

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
FORGOTTEN = "cancelled before it started, or forgotten"
_ENDS: Mapping[str, tuple[Status, str]] = {
    "CANCELLED": ("killed", "it was cancelled"),
    "TIMEOUT": ("timeout", "it reached its time limit"),
    "DEADLINE": ("timeout", "it reached its deadline"),
    "OUT_OF_MEMORY": ("oom", "it used more memory than it had asked for"),
    "NODE_FAIL": ("killed", "its node failed"),
    "BOOT_FAIL": ("killed", "its node did not start"),
    "PREEMPTED": ("killed", "another task took its place"),
    "REVOKED": ("killed", "another cluster took it"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A task as its cluster sees it."""

    state: str  # in the cluster's own word; empty: it knows no such task
    exit_code: str = ""  # Slurm: code:signal
    node: str = ""
    waits_for: str = ""  # why it has not begun, in the cluster's own word

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def live(self) -> bool:
        return self.waiting or self.running


def read_outcome(state: str, *, exit_code: str = "", node: str = "", reason: str = "") -> Outcome:
    """From Slurm's words: `CANCELLED by 1000` and `CANCELLED+` are CANCELLED."""
    word = re.split(r"[ +]", state.strip(), maxsplit=1)[0].upper()
    waits = "" if reason in ("None", "(null)", "") or word not in WAITING else reason
    return Outcome(
        state=word, exit_code=exit_code, node="" if node in ("(null)", "None assigned") else node, waits_for=waits
    )


def end(found: Outcome, *, started: str = "") -> tuple[Status, str]:
    """Status and reason of the cells that a task which is over left without an end.

    Args:
        started: where and when the task began, as it noted itself; empty: it noted nothing.

    Raises ValueError for a task that is not over.
    """
    if found.live:
        raise ValueError(f"a task that is {found.state} has no end yet")
    if not found.state:
        return (
            "killed",
            f"Slurm knows nothing of its task: {f'it began {started}, and was forgotten' if started else FORGOTTEN}",
        )
    code, _, number = found.exit_code.partition(":")
    where = f" on {found.node}" if found.node else ""
    told = f"Slurm: {found.state}{f', exit code {found.exit_code}' if found.exit_code else ''}{where}"
    if found.state in _ENDS:
        status, words = _ENDS[found.state]
        if not started and found.state == "CANCELLED":
            words = "it was cancelled before it started"
        return status, f"{words} ({told})"
    if number.isdecimal() and int(number):
        return "killed", f"it was ended by {_signal(int(number))} ({told})"
    if code.isdecimal() and int(code) > 128:
        return "killed", f"it was ended by {_signal(int(code) - 128)} ({told})"
    if found.state == "COMPLETED":
        return "error", f"its task ended without it ({told}); see the task's log"
    return "error", f"its task failed ({told}); see the task's log"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
