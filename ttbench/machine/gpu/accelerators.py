"""The GPUs of a machine: name, driver, clocks and power limit, from whoever tells them. Torch-free at import.

    nvidia-smi    the driver's own program
    pynvml        the same library, where the program is not installed
    proc          /proc/driver/nvidia, which names GPUs and the driver and tells no clocks
    torch         what torch sees, where nobody else tells: virtual machines and containers have no such /proc

The first of them that names a GPU is believed. What it does not tell is None. A clock is the highest that the GPU may
run at, and the power limit the one that the driver enforces: both decide how fast it is, and neither moves by itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttbench.types import Scalar

_QUERY = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory", "enforced.power.limit")
_MIB, _MHZ, _KHZ = 1024**2, 1e6, 1e3
_SMI_TIMEOUT_S = 20.0  # the first call may load the driver
# Device files of a GPU: where there is none, torch is not imported to ask for one.
_SIGNS = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One GPU."""

    name: str
    source: str  # nvidia-smi | pynvml | proc | torch: who told
    driver: str | None = None  # its version
    memory_bytes: int | None = None
    processor_clock_hz: float | None = None  # highest
    memory_clock_hz: float | None = None  # highest
    power_limit_w: float | None = None

    def to_json(self) -> dict[str, Scalar]:
        return asdict(self)

    @property
    def facts(self) -> list[Scalar]:
        """All that decides how fast it is; who told it does not."""
        told = (self.name, self.driver, self.processor_clock_hz, self.memory_clock_hz, self.power_limit_w)
        return [*told, None if self.memory_bytes is None else round(self.memory_bytes / 1024**3)]


def accelerators(*, proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> tuple[Accelerator, ...]:
    """The GPUs that the driver shows, whether or not torch can use them; empty: there is none.

    Asked once in a process.
    """
    return _asked(proc, dev)


@functools.cache
def _asked(proc: Path, dev: Path) -> tuple[Accelerator, ...]:
    askers: tuple[Callable[[], tuple[Accelerator, ...]], ...] = (
        by_nvidia_smi,
        by_pynvml,
        lambda: by_proc(proc),
        lambda: by_torch() if has_device_files(dev) else (),
    )
    return next((found for found in (ask() for ask in askers) if found), ())


def words(found: Accelerator) -> str:
    """The GPU in one line, with what nobody tells: "NVIDIA Example, 80 GiB, driver 550.54, 1980 MHz, ..."."""
    told = [
        (found.memory_bytes, "size of memory", lambda value: f"{value / 1024**3:.0f} GiB"),
        (found.driver, "driver", lambda value: f"driver {value}"),
        (found.processor_clock_hz, "clock", lambda value: f"up to {value / _MHZ:.0f} MHz"),
        (found.memory_clock_hz, "memory clock", lambda value: f"memory up to {value / _MHZ:.0f} MHz"),
        (found.power_limit_w, "power limit", lambda value: f"limit {value:.0f} W"),
    ]
    absent = [noun for value, noun, _ in told if value is None]
    known = [shown(value) for value, _, shown in told if value is not None]
    missing = [f"not told by {found.source}: {', '.join(absent)}"] if absent else []
    return ", ".join([found.name, *known, *missing])


# Who tells


def by_nvidia_smi() -> tuple[Accelerator, ...]:
    """What the program `nvidia-smi` says; empty where there is none, or it fails."""
    return tuple(_told(parts) for parts in _ask_nvidia_smi(_QUERY))


def _ask_nvidia_smi(fields: Sequence[str]) -> list[list[str]]:
    """The values of these fields, a list for each GPU; empty where there is no such program, or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SMI_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = ([part.strip() for part in line.split(",")] for line in said.splitlines())
    return [parts for parts in found if len(parts) == len(fields)]


def _told(parts: Sequence[str]) -> Accelerator:
    name, driver, memory, clock, memory_clock, power = parts
    memory_mib = _number(memory)
    return Accelerator(
        name=name,
        source="nvidia-smi",
        driver=driver or None,
        memory_bytes=None if memory_mib is None else round(memory_mib * _MIB),
        processor_clock_hz=_times(_number(clock), _MHZ),
        memory_clock_hz=_times(_number(memory_clock), _MHZ),
        power_limit_w=_number(power),
    )


def _number(text: str) -> float | None:
    """A number; None for "[N/A]" and other words of nvidia-smi for what a GPU does not tell."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def by_pynvml() -> tuple[Accelerator, ...]:
    """What the driver's library says through the package pynvml; empty where there is no such package or driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except nvml.NVMLError:
            return None

    driver = _text(ask(nvml.nvmlSystemGetDriverVersion))
    found = []
    for index in range(ask(nvml.nvmlDeviceGetCount) or 0):
        handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
        name = None if handle is None else _text(ask(nvml.nvmlDeviceGetName, handle))
        if name is None:
            continue
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        found.append(
            Accelerator(
                name=name,
                source="pynvml",
                driver=driver,
                memory_bytes=None if memory is None else int(memory.total),
                processor_clock_hz=_times(ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM), _MHZ),
                memory_clock_hz=_times(ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM), _MHZ),
                power_limit_w=_times(ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1e-3),
            )
        )
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlShutdown()
    return tuple(found)


def _text(value: str | bytes | None) -> str | None:
    """Older versions of the package give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def by_proc(proc: Path) -> tuple[Accelerator, ...]:
    """What the NVIDIA driver writes below /proc; empty where it writes nothing."""
    names = []
    for file in sorted((proc / "driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s+(.+)$", file.read_text(), flags=re.MULTILINE)
        names += [match.group(1).strip()] if match else []
    try:
        version = re.search(r"Kernel Module[^\n]*?\s(\d+(?:\.\d+)+)\s", (proc / "driver/nvidia/version").read_text())
    except OSError:
        version = None
    driver = None if version is None else version.group(1)
    return tuple(Accelerator(name=name, source="proc", driver=driver) for name in names)


def has_device_files(dev: Path) -> bool:
    """Whether the system has a device file of a GPU."""
    return any(next(dev.glob(pattern), None) is not None for pattern in _SIGNS)


def by_torch() -> tuple[Accelerator, ...]:
    """What torch sees; empty where it is not installed, or sees none."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return ()
    if not torch.cuda.is_available():
        return ()
    return tuple(of_properties(torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count()))


def of_properties(properties: Any) -> Accelerator:
    """From `torch.cuda.get_device_properties`; older versions of torch tell no clocks, and none tells a power limit."""
    return Accelerator(
        name=properties.name,
        source="torch",
        memory_bytes=int(properties.total_memory),
        processor_clock_hz=_times(getattr(properties, "clock_rate", None), _KHZ),
        memory_clock_hz=_times(getattr(properties, "memory_clock_rate", None), _KHZ),
    )


# What moves by itself

_NOW = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu", "pstate")


def now() -> Mapping[str, Scalar] | None:
    """Clocks (MHz), power (W), temperature and use of the first GPU at this moment; None without nvidia-smi."""
    told = _ask_nvidia_smi(_NOW)
    if not told:
        return None
    pairs = zip(_NOW, told[0], strict=True)
    return {name: (number if (number := _number(text)) is not None else text) for name, text in pairs}
