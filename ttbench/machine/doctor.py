"""What can distort measurements on this machine, found before a run starts: the data behind `ttbench doctor`.

Each check says what was found and, when that is not good, what to do. Nothing is changed, and nothing is asked of
the network unless `hub` is true. Torch is imported only when the checks run.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ttbench.errors import CacheError, TtbenchError
from ttbench.machine import cgroups, measure
from ttbench.machine.gpu import accelerators
from ttbench.machine.user_cache import cache_folder
from ttbench.registry import CORPORA

PYTHONS = ((3, 11), (3, 14))  # first supported, first unsupported
VECTOR_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
MIN_FREE_BYTES = measure.GIB
MIN_AVAILABLE_BYTES = 2 * measure.GIB
COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    value: str  # what was found
    advice: str = ""  # what to do; empty when ok


def examine(*, runs: Path = Path("runs"), hub: bool = False) -> tuple[Check, ...]:
    """Look at the interpreter, the libraries, the machine and the data, in this order.

    Args:
        runs: folder that will hold the runs; need not exist.
        hub: also ask the Hugging Face hub whether it answers.
    """
    checks: list[Callable[[], Check | Iterable[Check]]] = [
        *(check_python, check_torch, check_triton, check_compiler, check_accelerator),
        *(check_processor, check_processor_limit, check_vectors, check_threads, check_load, check_governor),
        *(check_memory, check_memory_limit, check_swap, check_counters),
        *(lambda: check_disk(runs), check_cache, check_corpora),
        *([check_hub] if hub else []),
    ]
    found: list[Check] = []
    for check in checks:
        result = check()
        found += [result] if isinstance(result, Check) else list(result)
    return tuple(found)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / measure.GIB:.1f} GiB"


# Interpreter and libraries


def check_python() -> Check:
    version = sys.version_info[:2]
    return Check(
        name="python",
        ok=PYTHONS[0] <= version < PYTHONS[1],
        value=f"{platform.python_implementation()} {platform.python_version()}",
        advice="" if PYTHONS[0] <= version < PYTHONS[1] else "use Python 3.11, 3.12 or 3.13",
    )


def check_torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(name="torch", ok=False, value="not installed", advice="run `make setup` or `pip install torch`")
    import torch

    parts = [torch.__version__, f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"]
    parts.append(f"kernels for {torch.backends.cpu.get_cpu_capability()}")
    parts += [
        name for name, have in (("MKL", torch.backends.mkl), ("OpenMP", torch.backends.openmp)) if have.is_available()
    ]
    return Check(name="torch", ok=True, value=", ".join(parts))


def check_triton() -> Check:
    """Triton is optional: without it, or without a GPU, the chunked torch kernels run."""
    found = importlib.util.find_spec("triton") is not None
    value = importlib.metadata.version("triton") if found else "not installed; the torch kernels run"
    if os.environ.get("TRITON_INTERPRET") == "1":
        advice = "unset TRITON_INTERPRET: it runs kernels thousands of times slower, for tests only"
        return Check(name="triton", ok=False, value=f"{value}, interpreting", advice=advice)
    return Check(name="triton", ok=True, value=value)


def check_compiler() -> Check:
    """A C++ compiler is needed by torch.compile only, which no default uses."""
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    return Check(name="compiler", ok=True, value=found or "none; only torch.compile would need one")


def check_accelerator() -> Check:
    seen = measure.accelerator()
    torch = sys.modules.get("torch")
    usable = torch is not None and torch.cuda.is_available()
    if usable or seen is None:
        told = "; ".join(accelerators.words(each) for each in accelerators.accelerators())
        name = torch.cuda.get_device_name() if usable and torch is not None else "none; runs use the processor"
        return Check(name="accelerator", ok=True, value=told or name)
    return Check(
        name="accelerator",
        ok=False,
        value=f"{seen}, which this torch cannot use",
        advice="set up again with `make setup TORCH=cuda`, or check the driver and CUDA_VISIBLE_DEVICES",
    )


# The machine


def check_processor() -> Check:
    total = os.cpu_count() or 1
    usable = measure.num_cores()
    value = f"{measure.processor()}, {usable} of {total} cores, fingerprint {measure.machine_fingerprint()}"
    return Check(name="processor", ok=True, value=value)


def check_vectors() -> Check:
    fields = measure.processor_fields()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    have = [flag for flag in VECTOR_FLAGS if flag in flags]
    if not flags:
        return Check(name="vector units", ok=True, value="not told by this system")
    ok = "avx2" in have or "asimd" in have
    advice = "" if ok else "expect slow arithmetic: torch's kernels are made for AVX2 or better"
    return Check(name="vector units", ok=ok, value=" ".join(have) or "none", advice=advice)


def check_processor_limit() -> Check:
    """A quota below one core makes every timing wait, whatever the number of threads."""
    quota, cores = measure.cpu_quota(), measure.num_cores()
    if quota is None:
        return Check(name="processor limit", ok=True, value="none set by control groups")
    ok = quota >= 1
    advice = "" if ok else "timings would include waits for the quota: allow the container at least one core"
    return Check(name="processor limit", ok=ok, value=f"{quota:g} of {cores} cores (control group)", advice=advice)


def check_threads() -> Check:
    """What a run takes unless --threads says otherwise."""
    default, asked = measure.default_threads(), measure.asked_threads()
    ok = asked is None or asked <= default
    value = f"{default} by default for {measure.num_cores()} cores"
    value += "" if asked is None else f", OMP_NUM_THREADS={asked}"
    advice = "" if ok else f"more threads than cores wait for each other: use --threads {default} or fewer"
    return Check(name="threads", ok=ok, value=value, advice=advice)


def check_load() -> Check:
    """Other work on a small machine has changed timings 25-fold (docs/footguns.md)."""
    load, cores = measure.load_average(), measure.num_cores()
    if load is None:
        return Check(name="load", ok=True, value="not told by this system")
    ok = load <= 0.5 * cores
    advice = "" if ok else "stop other work before timing; quality tasks are only slower, latency rows will be noisy"
    return Check(name="load", ok=ok, value=f"{load:.2f} on {cores} cores", advice=advice)


def check_governor(root: Path = Path("/sys/devices/system/cpu")) -> Check:
    names = {file.read_text().strip() for file in root.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if not names:
        return Check(name="clock governor", ok=True, value="not told by this system (usual in virtual machines)")
    ok = names == {"performance"}
    advice = "" if ok else "for steadier timings: sudo cpupower frequency-set --governor performance"
    return Check(name="clock governor", ok=ok, value=", ".join(sorted(names)), advice=advice)


def check_memory() -> Check:
    available = measure.available_bytes()
    ok = available >= MIN_AVAILABLE_BYTES
    advice = "" if ok else "close other programs, or choose shorter contexts with --ctx"
    value = f"{_gib(available)} available of {_gib(measure.memory_bytes())}"
    return Check(name="memory", ok=ok, value=value, advice=advice)


def check_memory_limit() -> Check:
    limit = cgroups.memory_limit()
    if limit is None:
        return Check(name="memory limit", ok=True, value="none set by control groups")
    ok = limit >= MIN_AVAILABLE_BYTES
    advice = "" if ok else "raise the container's memory limit, or choose shorter contexts with --ctx"
    return Check(name="memory limit", ok=ok, value=f"{_gib(limit)} (control group)", advice=advice)


def check_swap() -> Check:
    import psutil

    swap = psutil.swap_memory()
    ok = swap.used < 0.1 * measure.GIB
    advice = "" if ok else "pages in swap are not in peak memory and slow everything: free memory or run swapoff"
    return Check(name="swap", ok=ok, value=f"{_gib(swap.used)} used of {_gib(swap.total)}", advice=advice)


def check_counters() -> Check:
    """Whether peak memory can be told by phase."""
    method = measure.peak_rss_method()
    ok = measure.reset_peak_rss()
    advice = (
        ""
        if ok
        else "the memory task will have no peaks by phase; it needs Linux with a writable /proc/self/clear_refs"
    )
    return Check(name="peak memory counter", ok=ok, value=f"{method}, {'resettable' if ok else 'fixed'}", advice=advice)


# Files and data


def check_disk(runs: Path) -> Check:
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    free, writable = shutil.disk_usage(folder).free, os.access(folder, os.W_OK)
    ok = free >= MIN_FREE_BYTES and writable
    advice = "" if ok else "free some space or write elsewhere with --out" if writable else "write elsewhere with --out"
    value = f"{_gib(free)} free under {runs}" + ("" if writable else ", not writable")
    return Check(name="disk", ok=ok, value=value, advice=advice)


def check_cache() -> Check:
    """Training checkpoints and remembered digests live outside the tree, in the user's cache folder."""
    try:
        folder = cache_folder()
    except CacheError as error:
        reason, _, advice = str(error).partition("; ")
        return Check(name="cache", ok=False, value=reason, advice=advice)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "make it writable, or set XDG_CACHE_HOME to a folder that is"
        return Check(name="cache", ok=False, value=f"{folder}: {error.strerror or error}", advice=advice)
    return Check(name="cache", ok=True, value=f"{folder}, writable")


def check_corpora() -> Iterable[Check]:
    """Open every registered corpus."""
    for name in CORPORA:
        try:
            corpus = CORPORA.load(name)()
            texts = corpus.documents("test")
        except (TtbenchError, ImportError) as error:
            advice = "do as it says, run `make setup`, or use --corpus text:PATH"
            yield Check(name=f"corpus {name}", ok=False, value=str(error), advice=advice)
            continue
        size = sum(len(document.text) for document in texts)
        value = f"{len(texts)} test documents, {size / 1024**2:.1f} MiB, digest {corpus.digest[:12]}"
        yield Check(name=f"corpus {name}", ok=True, value=value)


def check_hub(timeout_s: float = 10.0) -> Check:
    """One small request to the hub that HF_ENDPOINT names."""
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    offline = "zoo checkpoints and local folders work without it; behind a mirror set HF_ENDPOINT"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Check(name="hub", ok=False, value="HF_HUB_OFFLINE is set", advice=offline)
    if not url.startswith(("https://", "http://")):
        return Check(name="hub", ok=False, value=url, advice="HF_ENDPOINT must be an http or https address")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s) as answer:
            return Check(name="hub", ok=True, value=f"{url} answers {answer.status}")
    except urllib.error.HTTPError as error:
        ok = error.code < 500
        return Check(name="hub", ok=ok, value=f"{url} answers {error.code}", advice="" if ok else offline)
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Check(name="hub", ok=False, value=f"{url}: {reason}", advice=offline)
