"""The doctor: every check says what it found, and what to do when that is not good."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ttbench.corpora.corpus import Document, make_corpus
from ttbench.errors import CorpusError
from ttbench.machine import doctor, measure
from ttbench.machine.doctor import Check, examine

NAMES = (
    *("python", "torch", "triton", "compiler", "accelerator", "processor", "processor limit", "vector units"),
    *("threads", "load", "clock governor", "memory", "memory limit", "swap", "peak memory counter", "disk", "cache"),
    *("corpus code", "corpus code-foreign", "corpus kjv", "corpus languages", "corpus cipher", "corpus renamed"),
    *("corpus genomes", "corpus genomes-strain"),
)


def test_every_check_has_a_name_a_value_and_advice_only_when_it_is_not_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny = make_corpus("tiny", {"test": [Document(name="a", text=b"text")]}, source="a test")
    monkeypatch.setattr(doctor.CORPORA, "load", lambda name: lambda: tiny)
    checks = examine(runs=tmp_path / "runs")
    assert tuple(check.name for check in checks) == NAMES
    for check in checks:
        assert check.value
        assert (check.advice == "") is check.ok, check
    assert not (tmp_path / "runs").exists()


def test_importing_the_doctor_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, ttbench.machine.doctor; print([m for m in ('torch', 'pandas', 'datasets') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fact", "value", "check", "words"),
    [
        ("load_average", 7.0, doctor.check_load, "stop other work"),
        ("default_threads", 1, doctor.check_threads, "use --threads 1 or fewer"),
        ("cpu_quota", 0.2, doctor.check_processor_limit, "at least one core"),
        ("reset_peak_rss", False, doctor.check_counters, "no peaks by phase"),
        ("accelerator", "NVIDIA Example", doctor.check_accelerator, "make setup TORCH=cuda"),
        ("processor_fields", {"flags": "fpu sse2"}, doctor.check_vectors, "AVX2"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_would_spoil_a_run_is_found(
    fact: str, value: object, check: Callable[[], Check], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(measure, fact, lambda: value)
    found = check()
    assert not found.ok
    assert words in found.advice


def test_a_small_memory_limit_is_found_and_bounds_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.cgroups, "memory_limit", lambda: 400 * 1024**2)
    monkeypatch.setattr(measure.cgroups, "memory_left", lambda: 300 * 1024**2)
    assert "raise the container's memory limit" in doctor.check_memory_limit().advice
    assert doctor.check_memory().value == "0.3 GiB available of 0.4 GiB"


def test_an_unsupported_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHONS", ((4, 0), (4, 1)))
    assert not doctor.check_python().ok


def test_a_missing_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = doctor.check_torch()
    assert (found.ok, found.value) == (False, "not installed")
    assert "make setup" in found.advice


def test_triton_left_in_its_interpreter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert doctor.check_triton().ok
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = doctor.check_triton()
    assert not found.ok
    assert "unset TRITON_INTERPRET" in found.advice


@pytest.mark.parametrize(("governors", "ok"), [(["performance"] * 2, True), (["performance", "powersave"], False)])
def test_the_governors_of_all_cores_are_read(governors: list[str], ok: bool, tmp_path: Path) -> None:
    for core, governor in enumerate(governors):
        file = tmp_path / f"cpu{core}/cpufreq/scaling_governor"
        file.parent.mkdir(parents=True)
        file.write_text(f"{governor}\n")
    found = doctor.check_governor(tmp_path)
    assert found.ok is ok
    assert set(governors) == set(found.value.split(", "))


def test_a_machine_without_governors_is_fine(tmp_path: Path) -> None:
    assert doctor.check_governor(tmp_path).ok


def test_used_swap_and_little_memory_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=3 * 2**30, total=4 * 2**30))
    monkeypatch.setattr(measure, "available_bytes", lambda: 2**20)
    assert doctor.check_swap().value == "3.0 GiB used of 4.0 GiB"
    assert not doctor.check_swap().ok
    assert not doctor.check_memory().ok


def test_a_full_disk_is_found_without_making_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "not/there/yet"
    assert doctor.check_disk(runs).ok
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    found = doctor.check_disk(runs)
    assert not found.ok
    assert "--out" in found.advice
    assert not runs.exists()


def test_a_cache_that_cannot_be_made_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path / "file" / "ttbench")
    found = doctor.check_cache()
    assert not found.ok
    assert "XDG_CACHE_HOME" in found.advice


def test_a_corpus_that_cannot_be_opened_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Callable[[], object]:
        def missing() -> None:
            raise CorpusError("the package is not installed")

        texts = [Document(name="a", text=b"x" * 2**20)]
        return missing if name == "code" else lambda: make_corpus(name, {"test": texts}, source="a test")

    monkeypatch.setattr(doctor.CORPORA, "load", load)
    code, kjv, *_ = doctor.check_corpora()
    assert not code.ok
    assert code.value == "the package is not installed"
    assert kjv.ok
    assert kjv.value.startswith("1 test documents, 1.0 MiB")


@pytest.fixture
def hub() -> Iterator[tuple[str, list[int]]]:
    """A hub of this machine: its address, and the status codes it will answer with."""
    codes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(codes.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", codes
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("code", "ok"), [(200, True), (404, True), (503, False)])
def test_the_hub_is_asked_once_at_the_address_given(
    code: int, ok: bool, hub: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, codes = hub
    codes.append(code)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = doctor.check_hub()
    assert found.ok is ok
    assert str(code) in found.value
    assert (found.advice == "") is ok
    assert codes == []


def test_offline_means_that_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    found = doctor.check_hub()
    assert (found.ok, found.value) == (False, "HF_HUB_OFFLINE is set")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://127.0.0.1:1"])
def test_an_address_that_is_none_or_does_not_answer_is_found(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = doctor.check_hub(timeout_s=2)
    assert not found.ok
    assert found.advice
