from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttbench.machine import allocation, measure


def given(
    monkeypatch: pytest.MonkeyPatch, *, cores: set[int], quota: float | None = None, limit: int | None = None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(allocation.cgroups, "cpu_quota", lambda: quota)
    monkeypatch.setattr(allocation.cgroups, "memory_limit", lambda: limit)
    monkeypatch.setattr(allocation, "installed_cores", lambda: 16)
    monkeypatch.setattr(allocation, "installed_memory_bytes", lambda: 64 * measure.GIB)


def test_an_allocation_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, cores=set(range(16)))
    assert allocation.allocation() == "cores 0-15 of 16"
    given(monkeypatch, cores={9, 0, 1, 2, 7}, quota=1.5, limit=8 * measure.GIB)
    assert allocation.allocation() == "cores 0-2,7,9 of 16, time of 1.5 cores, 8.0 of 64.0 GiB"
    given(monkeypatch, cores={3}, quota=2.0, limit=2**63 - 4096)
    assert allocation.allocation() == "cores 3 of 16"


@pytest.mark.parametrize(
    ("threads", "quota", "words"),
    [
        (2, None, None),
        (3, None, "3 threads on 2 cores"),
        (2, 2.0, None),
        (2, 1.5, "2 threads on the time of 1.5 cores"),
        (1, 1.5, None),
        (1, 0.5, "1 threads on the time of 0.5 cores"),
    ],
)
def test_what_is_too_little_for_the_threads_is_said(
    monkeypatch: pytest.MonkeyPatch, threads: int, quota: float | None, words: str | None
) -> None:
    given(monkeypatch, cores={0, 1}, quota=quota)
    assert allocation.shortage(threads) == words


@pytest.mark.parametrize(("text", "cores"), [("0-3\n", 4), ("0\n", 1), ("0-1,4,6-7\n", 5)])
def test_installed_cores_are_those_that_the_kernel_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    monkeypatch.setattr(allocation, "ONLINE", tmp_path / "online")
    (tmp_path / "online").write_text(text)
    assert allocation.installed_cores() == cores


def test_where_the_kernel_lists_none_python_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "ONLINE", tmp_path / "absent")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert allocation.installed_cores() == 12


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to cores here")
def test_a_process_on_one_core_sees_the_same_machine_and_another_allocation() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ttbench.machine import allocation, measure\n"
        "print(measure.machine_fingerprint(), allocation.shortage(2), allocation.allocation(), sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    machine, shortage, words = done.stdout.strip().split("|")
    assert machine == measure.machine_fingerprint()
    assert shortage == "2 threads on 1 cores"
    assert words.startswith(f"cores {min(os.sched_getaffinity(0))} of {allocation.installed_cores()}")
