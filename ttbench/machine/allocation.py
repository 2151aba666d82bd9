"""What a machine has, and what a scheduler or a container gives this process of it. Torch-free.

A machine is known by what is installed in it, so that `taskset`, a job of two cores and a container see one machine;
what they were given of it, the allocation, is told beside each row. An allocation that gives a timing cell less than
its threads need would change its number: `shortage` says so, and the words enter the identity of the cell.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ttbench.machine import cgroups

ONLINE = Path("/sys/devices/system/cpu/online")
_MEMINFO = Path("/proc/meminfo")
_GIB = 1024**3


def installed_cores() -> int:
    """Cores of the machine that are switched on, whatever this process may use of them."""
    try:
        # Not os.cpu_count: some versions of glibc answer it by the affinity, and a variable can change it.
        return len(_numbers(ONLINE.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return os.cpu_count() or 1


def installed_memory_bytes() -> int:
    """Memory of the machine, bytes, whatever this process may use of it."""
    try:
        match = re.search(r"^MemTotal:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), flags=re.MULTILINE)
    except OSError:
        match = None
    return importlib.import_module("psutil").virtual_memory().total if match is None else int(match.group(1)) * 1024


def allocation() -> str:
    """What this process was given: "cores 0-3 of 64, time of 1.5 cores, 8.0 of 256.0 GiB", as far as it is told."""
    cores = _affinity()
    said = [f"cores {'?' if cores is None else _ranges(cores)} of {installed_cores()}"]
    quota = cgroups.cpu_quota()
    if quota is not None and quota < _num_cores(cores):
        said.append(f"time of {quota:g} cores")
    limit, total = cgroups.memory_limit(), installed_memory_bytes()
    if limit is not None and limit < total:
        said.append(f"{limit / _GIB:.1f} of {total / _GIB:.1f} GiB")
    return ", ".join(said)


def shortage(threads: int) -> str | None:
    """How the allocation falls short of what so many threads need; None: it does not."""
    cores, quota = _num_cores(_affinity()), cgroups.cpu_quota()
    if quota is not None and quota < min(threads, cores):
        return f"{threads} threads on the time of {quota:g} cores"
    return f"{threads} threads on {cores} cores" if threads > cores else None


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _num_cores(cores: list[int] | None) -> int:
    return installed_cores() if cores is None else len(cores)


def _numbers(text: str) -> list[int]:
    """The numbers in a kernel's list, such as "0-3,8"."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as the kernel lists them: "0-3,8"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
