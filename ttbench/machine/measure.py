"""Clocks, memory counters and the machine: what every row says about where and how it was made.

Torch-free at import; only `flush_denormals` and `prepare_process` import torch. Times are seconds, sizes bytes.

Traps this file exists for:
  - `ru_maxrss` is inherited through fork and exec, so a small child of a fat parent shows the parent's peak. VmHWM
    starts afresh at exec, and writing 5 to /proc/self/clear_refs resets it between phases (man 5 proc).
  - Denormals slow float32 arithmetic by an order of magnitude. The processor flag that flushes them belongs to a
    thread and is inherited when a thread is made: set it before the first parallel operation, or part of the work
    misses it.
  - One warm-up call is not enough, and a fixed number is either too many or too few: warm up until times are steady.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ttbench.errors import UsageError
from ttbench.machine import cgroups
from ttbench.machine.allocation import allocation, installed_cores, installed_memory_bytes
from ttbench.machine.gpu.accelerators import accelerators
from ttbench.machine.software import PACKAGES, VARIABLES, kernel_variables
from ttbench.registry import ARCHITECTURES
from ttbench.types import Environment, canonical_json, digest
from ttbench.version import __version__

GIB = 1024**3
# What may be freed, or lie in the kernel's per-core counts, between a reset of the peak and its reading.
_RESET_SLACK_BYTES = 4 * 1024**2
_PROC = Path("/proc")


# Threads and floating-point mode


def worker_variables(threads: int) -> dict[str, str]:
    """Environment variables that a measuring process must be started with; too late once its libraries are loaded.

    One malloc arena, because glibc otherwise keeps one per thread and peak memory depends on which thread freed what.
    A thread that waits for another one asks again for a third of a millisecond, then sleeps, unless the user has set
    how it waits: longer than the pause between two parallel operations, so that timings of an idle machine stay as
    they are, and not the 10 ms of GNU's default, in which a busy machine hardly lets the other one run.
    """
    count = str(threads)
    waits = {} if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ) else {"GOMP_SPINCOUNT": "10000"}
    return {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count),
        "MALLOC_ARENA_MAX": "1",
        **waits,
    }


def pin_threads(threads: int) -> None:
    """Fix the number of compute threads of this process and of the processes it starts.

    Raises UsageError when `threads` is less than 1.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1; got {threads}")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
        # torch refuses once inter-op work has begun; eager models never start any, so nothing is lost
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)


def flush_denormals() -> bool:
    """Make this thread, and those it starts from now on, treat denormal floats as zero; whether it could.

    Imports torch. Call it before the first parallel operation: threads that exist already keep their own mode.
    """
    done = bool(importlib.import_module("torch").set_flush_denormal(True))
    os.environ["TTBENCH_FLUSH_DENORMALS"] = str(int(done))
    return done


def prepare_process() -> None:
    """Flush denormals and import all that opening a checkpoint imports, so that a measured load is its own."""
    flush_denormals()
    importlib.import_module("ttbench.checkpoints.loading")
    for _ in ARCHITECTURES.usable():
        pass


def denormals_flushed() -> bool | None:
    """Whether arithmetic on this thread really flushes denormals, by trying it; None while torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    # 2^-126 is the least normal float32; its half is denormal
    return bool((torch.tensor(2.0**-126) * 0.5 == 0).item())


# Clocks


def load_average() -> float | None:
    """Mean number of runnable processes on the machine over the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def steal_seconds() -> float | None:
    """Core-seconds that a hypervisor has given to others since boot, over all cores; None where it is not told."""
    try:
        fields = (_PROC / "stat").read_text().splitlines()[0].split()
    except OSError:
        return None
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None


class Stopwatch:
    """Times a `with` block: wall and processor seconds, with what the machine was doing meanwhile.

    The garbage collector is off inside the block, so a collection started by other code's garbage is not charged to
    it. Reading the counters is outside the timed interval; the clocks themselves cost under a microsecond.
    """

    wall_s: float = 0.0  # seconds
    cpu_s: float = 0.0  # processor seconds of this process, all threads
    load: float | None = None  # one-minute load average at the start
    steal_s: float | None = None  # core-seconds stolen by a hypervisor during the block, all cores
    throttled_s: float | None = None  # seconds of the block in which a CPU quota made the process wait

    def __enter__(self) -> Self:
        self.load, self._steal_start = load_average(), steal_seconds()
        self._throttled_start = cgroups.throttled_seconds()
        self._gc_was_on = gc.isenabled()
        gc.disable()
        self._cpu_start = time.process_time()
        self._wall_start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._wall_start
        self.cpu_s = time.process_time() - self._cpu_start
        if self._gc_was_on:
            gc.enable()
        steal = steal_seconds()
        self.steal_s = None if steal is None or self._steal_start is None else steal - self._steal_start
        throttled, start = cgroups.throttled_seconds(), self._throttled_start
        self.throttled_s = None if throttled is None or start is None else throttled - start


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """How a warm-up ended."""

    num_calls: int
    seconds: float  # wall
    steady: bool  # False: the time cap came first


def warm_up(observe: Callable[[], float], *, cap_s: float, window: int = 5, tolerance: float = 0.02) -> WarmUp:
    """Call `observe` until its times are steady or `cap_s` seconds have passed; not at all when `cap_s` is 0 or less.

    Steady: the median of the last `window` times differs from the median of the `window` before by less than
    `tolerance` of the latter. `observe` returns the wall seconds of what it timed; the cap counts everything, and a
    call that is under way when it runs out is finished.

    Source: hyperfine and optimum-benchmark stop on counts and durations only; llama.cpp pull request 21282 shows
    why a single warm-up is not enough.
    """
    times: list[float] = []
    start, steady = time.perf_counter(), False
    while not steady and time.perf_counter() - start < cap_s:
        times.append(observe())
        if len(times) >= 2 * window:
            before = statistics.median(times[-2 * window : -window])
            steady = abs(statistics.median(times[-window:]) - before) < tolerance * before
    return WarmUp(num_calls=len(times), seconds=time.perf_counter() - start, steady=steady)


# Memory


def _proc_bytes(file: Path, field: str) -> int | None:
    """A `Name:   123 kB` field of a /proc file, in bytes."""
    try:
        match = re.search(rf"^{field}:\s+(\d+) kB", file.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None


def rss() -> int:
    """Resident bytes of this process now."""
    value = _proc_bytes(_PROC / "self/status", "VmRSS")
    return importlib.import_module("psutil").Process().memory_info().rss if value is None else value


def peak_rss() -> int:
    """Highest resident bytes of this process since exec or the last `reset_peak_rss`; see `peak_rss_method`."""
    value = _proc_bytes(_PROC / "self/status", "VmHWM")
    return _peak_rss_elsewhere() if value is None else value


def peak_rss_method() -> str:
    """Which counter `peak_rss` reads: `vmhwm`, or `peak_wset`, `ru_maxrss`, which cannot be reset."""
    if _proc_bytes(_PROC / "self/status", "VmHWM") is not None:
        return "vmhwm"
    return "peak_wset" if sys.platform == "win32" else "ru_maxrss"


def _peak_rss_elsewhere() -> int:
    if sys.platform == "win32":
        return importlib.import_module("psutil").Process().memory_info().peak_wset
    resource = importlib.import_module("resource")
    # bytes on macOS, KiB on the other systems
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release_freed() -> bool:
    """Give freed memory back to the system, so that one phase's leavings are not the next one's; whether it can.

    glibc keeps what was freed between blocks in use, and resident; only its `malloc_trim` lets go of that.
    """
    gc.collect()
    if sys.platform == "win32":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def reset_peak_rss() -> bool:
    """Let the peak start again from what is resident now; whether it did, as the counter itself shows.

    Some sandboxes take the request and do nothing, so the counter is read afterwards.
    """
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return peak_rss_method() == "vmhwm" and peak_rss() - rss() <= _RESET_SLACK_BYTES


def says_out_of_memory(text: str) -> bool:
    """Whether an error's message is the system's own for ENOMEM, or that of torch's CPU allocator."""
    return os.strerror(errno.ENOMEM) in text or "DefaultCPUAllocator: can't allocate memory" in text


# The machine


def num_cores() -> int:
    """Cores this process may run on; a quota (`cpu_quota`) may allow it less than all of their time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Cores' worth of time that control groups allow this process; None: no less than its cores have."""
    quota = cgroups.cpu_quota()
    return None if quota is None or quota >= num_cores() else quota


def default_threads() -> int:
    """Compute threads where no option asks for any: one per core, fewer under a CPU quota or OMP_NUM_THREADS.

    More threads than the quota allows spend it early in each period, and then all of them wait for the next one; more
    than there are cores wait for each other, so OMP_NUM_THREADS can only lower the number.
    """
    quota = cpu_quota()
    most = num_cores() if quota is None else max(1, int(quota))
    return min(most, asked_threads() or most)


def asked_threads() -> int | None:
    """The threads that OMP_NUM_THREADS asks for; None where it asks for none, or cannot be read."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and int(first) > 0 else None


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its control group's limit when that is lower."""
    total = _proc_bytes(_PROC / "meminfo", "MemTotal")
    total = importlib.import_module("psutil").virtual_memory().total if total is None else total
    return min(total, cgroups.memory_limit() or total)


def available_bytes() -> int:
    """Memory that can still be taken without swapping: the machine's, or what its control group still allows."""
    free = _proc_bytes(_PROC / "meminfo", "MemAvailable")
    free = importlib.import_module("psutil").virtual_memory().available if free is None else free
    left = cgroups.memory_left()
    return free if left is None else min(free, left)


def processor() -> str:
    """Model name, with family, model and stepping where known: virtual machines hide the name."""
    fields = processor_fields()
    name = fields.get("model name") or platform.processor() or platform.machine()
    ids = [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
    return f"{name} ({', '.join(ids)})" if ids else name


def processor_fields() -> dict[str, str]:
    """First processor's fields of /proc/cpuinfo; empty elsewhere."""
    try:
        first = (_PROC / "cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def accelerator() -> str | None:
    """Names of the GPUs that the driver shows, whether or not torch can use them; None: none."""
    return ", ".join(each.name for each in accelerators(proc=_PROC)) or None


def machine_fingerprint() -> str:
    """Digest of processor, installed cores and memory (whole GiB), and GPUs; timings compare only within one.

    Of a GPU its name, driver, memory, highest clocks and power limit count. What this process may use of the machine
    does not: see `ttbench.machine.allocation`.
    """
    facts: list[Any] = [processor(), installed_cores(), round(installed_memory_bytes() / GIB), accelerator()]
    # GPUs are appended only where there are some, so that machines without any keep the fingerprint they had.
    gpus = [each.facts for each in accelerators(proc=_PROC)]
    return digest(canonical_json([*facts, gpus] if gpus else facts))[:16]


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Capture what this process runs on and with.

    Args:
        variables: environment variables of the measuring process when it is not this one.
    """
    values = os.environ if variables is None else variables
    return Environment(
        machine=machine_fingerprint(),
        processor=processor(),
        num_cores=num_cores(),
        memory_bytes=memory_bytes(),
        accelerator=accelerator(),
        accelerators=tuple(each.to_json() for each in accelerators(proc=_PROC)),
        platform=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=package_versions(),
        ttbench=__version__,
        commit=source_commit(Path(__file__).resolve().parents[2]),
        variables=told_variables(values),
        allocation=allocation(),
    )


def told_variables(values: Mapping[str, str]) -> dict[str, str]:
    """Those of the environment variables that can change a number or a timing."""
    return {name: values[name] for name in (*VARIABLES, *kernel_variables(values)) if name in values}


def package_versions() -> dict[str, str]:
    """Version of each installed distribution that can change a number, a timing or a file."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def source_commit(root: Path) -> str | None:
    """Commit of the checkout at `root`, with "+dirty" when package files differ from it; None outside a checkout."""
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # results and runs are written while measuring; only what is measured with counts as dirty
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", "ttbench", "suites") else "")
    except (OSError, subprocess.SubprocessError):
        return None
