"""GPUs are told by whoever knows most of them, and what nobody tells is missing and said to be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ttbench.machine import measure
from ttbench.machine.gpu import accelerators
from ttbench.machine.gpu.accelerators import Accelerator

SMI = "NVIDIA Example 80GB, 550.54.15, 81559, 1980, 2619, 700.00\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program `nvidia-smi` on the path that says something, or fails."""

    def install(said: str, *, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


class FakeNvml(ModuleType):
    """The package pynvml for one GPU that tells no memory clock."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *, works: bool = True) -> None:
        super().__init__("pynvml")
        self.works = works

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise self.NVMLError("driver not loaded")

    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"535.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA Library"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=8 * 1024**3)

    def nvmlDeviceGetMaxClockInfo(self, handle: int, clock: int) -> int:  # noqa: N802
        if clock == self.NVML_CLOCK_MEM:
            raise self.NVMLError("not supported")
        return 1410

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        return 250_000


def test_nvidia_smi_tells_driver_clocks_and_power(smi: Callable[..., None]) -> None:
    smi(SMI + "Other, 550.54.15, [N/A], [Not Supported], 5001, [N/A]\n")
    one, other = accelerators.by_nvidia_smi()
    assert one == Accelerator(
        name="NVIDIA Example 80GB",
        source="nvidia-smi",
        driver="550.54.15",
        memory_bytes=81559 * 1024**2,
        processor_clock_hz=1.98e9,
        memory_clock_hz=2.619e9,
        power_limit_w=700.0,
    )
    assert (other.memory_bytes, other.processor_clock_hz, other.power_limit_w) == (None, None, None)


def test_what_is_not_told_is_said() -> None:
    words = accelerators.words(Accelerator(name="X", source="torch", memory_bytes=2**34))
    assert words == "X, 16 GiB, not told by torch: driver, clock, memory clock, power limit"


def test_a_failing_program_tells_nothing(smi: Callable[..., None]) -> None:
    smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", code=9)
    assert accelerators.by_nvidia_smi() == ()
    assert accelerators.now() is None


def test_clocks_of_the_moment_are_numbers_or_the_words_of_the_program(smi: Callable[..., None]) -> None:
    smi("210, 405, 61.73, 31, [N/A], P8\n")
    found = accelerators.now()
    assert found is not None
    assert list(found.values()) == [210.0, 405.0, 61.73, 31.0, "[N/A]", "P8"]


def test_the_drivers_library_stands_in_for_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    (found,) = accelerators.by_pynvml()
    assert (found.name, found.source, found.driver) == ("NVIDIA Library", "pynvml", "535.1")
    assert (found.memory_bytes, found.processor_clock_hz, found.power_limit_w) == (2**33, 1.41e9, 250.0)
    assert found.memory_clock_hz is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(works=False))
    assert accelerators.by_pynvml() == ()


def test_proc_names_gpus_and_the_driver(tmp_path: Path) -> None:
    file = tmp_path / "driver/nvidia/gpus/0000:01:00.0/information"
    file.parent.mkdir(parents=True)
    file.write_text("Model: \t\t NVIDIA Example\n")
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    (tmp_path / "driver/nvidia/version").write_text(line)
    assert accelerators.by_proc(tmp_path) == (Accelerator(name="NVIDIA Example", source="proc", driver="550.54.15"),)


def test_properties_of_torch_may_lack_clocks() -> None:
    old = SimpleNamespace(name="Y", total_memory=2**35)
    new = SimpleNamespace(name="Y", total_memory=2**35, clock_rate=1_755_000, memory_clock_rate=1_593_000)
    assert accelerators.of_properties(old).processor_clock_hz is None
    assert accelerators.of_properties(new).processor_clock_hz == 1.755e9
    assert accelerators.of_properties(new).memory_clock_hz == 1.593e9


def test_the_first_that_names_a_gpu_is_believed(
    tmp_path: Path, smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    seen = (Accelerator(name="Z", source="torch"),)
    monkeypatch.setattr(accelerators, "by_torch", lambda: asked.append("torch") or seen)
    nothing = tmp_path / "nothing"
    monkeypatch.setenv("PATH", str(nothing))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert accelerators.accelerators(proc=nothing, dev=nothing) == ()
    # torch is not imported for a machine that has no sign of a GPU
    assert asked == []
    files = tmp_path / "dev"
    files.mkdir()
    (files / "nvidia0").touch()
    assert accelerators.accelerators(proc=nothing, dev=files) == seen
    smi(SMI)
    assert accelerators.accelerators(proc=tmp_path / "other", dev=files)[0].source == "nvidia-smi"


@pytest.mark.parametrize(
    "changed", [{"driver": "551.0"}, {"power_limit_w": 500.0}, {"processor_clock_hz": 1e9}, {"memory_clock_hz": 1e9}]
)
def test_the_fingerprint_moves_with_driver_clocks_and_power_limit(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {"name": "NVIDIA Example", "source": "nvidia-smi", "driver": "550.0", "power_limit_w": 700.0}

    def show(**facts: Any) -> tuple[str, Any]:
        monkeypatch.setattr(measure, "accelerators", lambda proc: (Accelerator(**facts),))
        return measure.machine_fingerprint(), measure.environment()

    before, environment = show(**gpu)
    assert environment.accelerator == "NVIDIA Example"
    assert environment.to_json()["accelerators"][0]["driver"] == "550.0"
    assert show(**gpu, **{"memory_bytes": None})[0] == before
    # another teller of the same facts is the same machine
    assert show(**{**gpu, "source": "pynvml"})[0] == before
    assert show(**{**gpu, **changed})[0] != before


def test_a_machine_without_a_gpu_keeps_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    from ttbench.types import canonical_json, digest

    monkeypatch.setattr(measure, "accelerators", lambda proc: ())
    memory_gib = round(measure.installed_memory_bytes() / measure.GIB)
    facts = [measure.processor(), measure.installed_cores(), memory_gib, None]
    assert measure.machine_fingerprint() == digest(canonical_json(facts))[:16]


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, ttbench.machine.gpu.accelerators; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
