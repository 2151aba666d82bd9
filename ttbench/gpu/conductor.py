"""The parent of the stages: one process each, ended when its time is over, and a short table at the end. Torch-free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ttbench.gpu.final_table import final_table
from ttbench.gpu.lines import Lines, read_lines
from ttbench.gpu.stage import STAGES, TOTAL_S, Stage

GRACE_S = 3.0  # that a stage has beyond its time to end by itself
NO_GPU = 2  # exit code
_TAIL = 2000  # letters of a dead stage's last words
_START_S = 60.0  # that the first look for a GPU may take: a driver may have to be loaded
_LOOK = "import torch; print(torch.__version__, torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def conduct(
    *,
    device: str,
    budget_s: float,
    report: Path,
    only: Sequence[str] = (),
    say: Callable[[str], None] = print,
    program: Sequence[str] = (sys.executable, "-m", "ttbench.gpu"),
) -> int:
    """Run the stages one after another and print the table; the exit code.

    Args:
        device: cuda; cpu is for tests of the stages themselves.
        budget_s: wall seconds of all stages; each has its share.
        report: file that lines are appended to.
        only: names of stages; empty: all.
        say: is told what happens.
        program: what runs one stage.
    """
    if device == "cuda":
        why = missing_gpu()
        if why is not None:
            Lines(report, stage="start", seconds=0).write("absent", "gpu", why=why)
            say(f"no GPU to try: {why}; nothing was measured. Report: {report}")
            return NO_GPU
    began = time.monotonic()
    say(f"first use of {device}: {budget_s:.0f} s at most; every line is in {report}")
    for stage in STAGES:
        if only and stage.name not in only:
            continue
        left = budget_s - (time.monotonic() - began)
        seconds = min(stage.seconds * budget_s / TOTAL_S, left)
        if seconds <= 0:
            Lines(report, stage=stage.name, seconds=0).write("ended", "stage", how="out_of_time", seconds=0.0)
            say(f"  {stage.name:10} no time left")
            continue
        _run(stage, device=device, seconds=seconds, report=report, say=say, program=program)
    say("")
    text = final_table(list(read_lines(report)))
    Lines(report, stage="table", seconds=0).write("fact", "table", text=text.splitlines())
    say(text)
    say(f"\nreport: {report}; send it back, whatever it says")
    return 0


def missing_gpu() -> str | None:
    """Why there is no GPU to try; None where torch sees one."""
    try:
        done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=_START_S)
    except subprocess.TimeoutExpired:
        return f"torch did not answer in {_START_S:.0f} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return f"torch cannot be imported by {sys.executable}: {last[0]}"
    version, count = done.stdout.split()[-2:]
    return None if int(count) else f"torch {version} sees 0 CUDA devices"


def _run(
    stage: Stage, *, device: str, seconds: float, report: Path, say: Callable[[str], None], program: Sequence[str]
) -> None:
    """One stage in a process of its own; how it ended is a line."""
    command = [*program, "--stage", stage.name, "--device", device, "--seconds", f"{seconds:.1f}", "--out", str(report)]
    began, lines = time.monotonic(), Lines(report, stage=stage.name, seconds=seconds)
    # A file, not a pipe: a stage that is killed with children of its own leaves nobody to read one.
    with tempfile.TemporaryFile() as errors:
        # A group of its own, so that what a stage has started ends with it.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            code, how = process.wait(seconds + GRACE_S), "done"
        except subprocess.TimeoutExpired:
            _kill(process)
            code, how = process.wait(), "killed"
        except BaseException:
            _kill(process)
            raise
        errors.seek(0)
        words = errors.read().decode("utf-8", "replace")[-_TAIL:]
    spent = time.monotonic() - began
    how = "died" if how == "done" and code else how
    last = {} if how == "done" else {"exit_code": code, "stderr": words.splitlines()}
    lines.write("ended", "stage", how=how, seconds=round(spent, 2), **last)
    mine = [line for line in read_lines(report) if line.get("stage") == stage.name]
    counts = {kind: sum(line.get("kind") == kind for line in mine) for kind in ("measured", "verdict", "failed")}
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    say(f"  {stage.name:10} {how:6} {spent:6.1f} s  {told}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
