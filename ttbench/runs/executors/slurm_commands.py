"""Slurm's own commands, as far as they are needed: sbatch, scontrol, squeue, scancel, and sacct where it answers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ttbench.errors import UsageError
from ttbench.runs.executors.outcomes import Outcome, read_outcome

LEAST_ARRAY = 1001  # MaxArraySize where nothing says another
_FIELD = re.compile(r"(?:^|\s)([A-Za-z]+)=")
TIMEOUT_S = 120.0
# What commands say of a job that is no longer in slurmctld's memory.
_UNKNOWN = ("Invalid job id", "not found")


def require_slurm() -> None:
    """Raise UsageError where Slurm's commands are not installed."""
    missing = [name for name in ("sbatch", "scontrol", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise UsageError(
            f"executor slurm needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not on the PATH: "
            "run on a node that submits to Slurm, or use --executor local"
        )


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"{words[0]} did not answer within {TIMEOUT_S:g} s; is slurmctld there? sinfo tells"
        ) from error
    except OSError as error:
        raise UsageError(f"{words[0]} cannot be started: {error.strerror}") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    text = done.stderr.strip() or done.stdout.strip()
    return " ".join(text.split()) or f"exit code {done.returncode}"


def submit(script: Path) -> str:
    """Submit a batch script; the job's id. Raises UsageError with what sbatch said."""
    done = _run(["sbatch", "--parsable", str(script)])
    job_id = done.stdout.strip().partition(";")[0]
    if done.returncode or not job_id.isdecimal():
        raise UsageError(f"sbatch refused {script}: {_said(done)}")
    return job_id


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that are over or unknown need nothing. Raises UsageError."""
    done = _run(["scancel", *job_ids])
    if done.returncode and not any(each in done.stderr for each in _UNKNOWN):
        raise UsageError(f"scancel refused: {_said(done)}")


def max_array_size() -> int:
    """How many tasks an array may have. Raises UsageError when slurmctld does not answer."""
    done = _run(["scontrol", "show", "config"])
    if done.returncode:
        raise UsageError(f"Slurm does not answer: {_said(done)}; run on a node that submits to it, or --executor local")
    found = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", done.stdout, re.MULTILINE)
    return int(found[1]) if found else LEAST_ARRAY


def outcomes(job_id: str, indices: Sequence[int]) -> dict[int, Outcome]:
    """What Slurm says of tasks of an array: from slurmctld's memory, then from accounting where there is any.

    A task that is missing is one that Slurm does not know. Raises UsageError when slurmctld does not answer.
    """
    done = _run(["scontrol", "show", "job", job_id, "-o"])
    if done.returncode and not any(each in done.stderr for each in _UNKNOWN):
        raise UsageError(f"scontrol cannot tell what became of job {job_id}: {_said(done)}")
    found = dict(read_jobs(done.stdout.splitlines()))
    if any(index not in found for index in indices) and shutil.which("sacct") is not None:
        told = _run(["sacct", "-j", job_id, "-n", "-P", "-X", "-o", "JobID,State,ExitCode,NodeList"])
        # Without accounting it says so and ends with 1.
        if told.returncode == 0:
            found = {**dict(read_accounts(told.stdout.splitlines())), **found}
    return {index: found[index] for index in indices if index in found}


def read_jobs(lines: Iterable[str]) -> Iterator[tuple[int, Outcome]]:
    """Tasks and outcomes from `scontrol show job -o`; tasks that wait stand in one line together."""
    for line in lines:
        fields = read_fields(line)
        if "JobState" not in fields:
            continue
        outcome = read_outcome(
            fields["JobState"],
            exit_code=fields.get("ExitCode", ""),
            node=fields.get("NodeList", ""),
            reason=fields.get("Reason", ""),
        )
        for index in expand(fields.get("ArrayTaskId", "0")):
            yield index, outcome


def read_fields(line: str) -> Mapping[str, str]:
    """`Name=value` pairs of a line of scontrol's; values may hold spaces and equals signs."""
    places = list(_FIELD.finditer(line))
    ends = [*(place.start() for place in places), len(line)][1:]
    pairs = [(place[1], line[place.end() : end].strip()) for place, end in zip(places, ends, strict=True)]
    # A command line may hold words like JobState=: the first of a name is Slurm's.
    return {name: value for name, value in reversed(pairs)}


def read_accounts(lines: Iterable[str]) -> Iterator[tuple[int, Outcome]]:
    """Tasks and outcomes from sacct's parsable lines: `12_3|TIMEOUT|0:15|n1`, `12_[4-9%2]|PENDING|0:0|...`."""
    for line in lines:
        job, *rest = line.split("|")
        _, mark, index = job.partition("_")
        if not mark or len(rest) < 3:
            continue
        outcome = read_outcome(rest[0], exit_code=rest[1], node=rest[2])
        for each in expand(index.strip("[]")):
            yield each, outcome


def expand(text: str) -> list[int]:
    """Tasks of an array as Slurm writes them: `3`, `5-19%10`, `1,4-6:2`."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        if first.isdecimal() and (not dash or last.isdecimal()):
            found += range(int(first), int(last or first) + 1, int(step) if step.isdecimal() and int(step) else 1)
    return found
