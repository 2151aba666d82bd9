"""Clocks, counters and the machine: what they see, and what must not fool them."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ttbench.errors import UsageError
from ttbench.machine import measure
from ttbench.machine.measure import Stopwatch, warm_up
from ttbench.types import canonical_json

MIB = 1024**2
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run_python(code: str, **variables: str) -> str:
    """Standard output of `code` in an exec'd interpreter."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


# Clocks


def test_a_stopwatch_tells_waiting_from_working() -> None:
    with Stopwatch() as waiting:
        time.sleep(0.05)
    with Stopwatch() as working:
        spin(0.05)
    assert waiting.wall_s >= 0.05
    assert waiting.cpu_s < 0.03
    assert working.cpu_s >= 0.05
    assert working.wall_s >= 0.9 * working.cpu_s


@linux_only
def test_a_stopwatch_says_what_the_machine_was_doing() -> None:
    with Stopwatch() as watch:
        pass
    assert watch.load is not None
    assert watch.load >= 0
    assert watch.steal_s is not None
    assert watch.steal_s >= 0


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_while_a_stopwatch_runs_and_as_before_afterwards(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with Stopwatch():
            inside = gc.isenabled()
        assert (inside, gc.isenabled()) == (False, enabled)
    finally:
        (gc.enable if was else gc.disable)()


def times(values: list[float]) -> Iterator[float]:
    yield from values
    while True:
        yield values[-1]


def test_warm_up_ends_when_five_times_agree_with_the_five_before() -> None:
    slow_start = times([8.0, 4.0, 3.0, 2.0, 1.5, 1.0])
    ended = warm_up(lambda: next(slow_start), cap_s=60)
    # medians of five: 3.0 after call 5; the first pair of windows that agree is calls 4-8 and 9-13
    assert ended.steady
    assert ended.num_calls == 13


def test_warm_up_of_steady_times_needs_two_windows() -> None:
    ended = warm_up(lambda: 1.0, cap_s=60)
    assert (ended.num_calls, ended.steady) == (10, True)


def test_warm_up_that_never_settles_ends_at_its_cap() -> None:
    growing = iter(range(1, 10**9))

    def observe() -> float:
        time.sleep(0.002)
        return 1.1 ** next(growing)

    ended = warm_up(observe, cap_s=0.1)
    assert not ended.steady
    assert ended.seconds >= 0.1
    assert ended.num_calls >= 1


@pytest.mark.parametrize("cap_s", [0.0, -3.0])
def test_without_time_there_is_no_warm_up(cap_s: float) -> None:
    ended = warm_up(lambda: pytest.fail("called"), cap_s=cap_s)
    assert (ended.num_calls, ended.steady) == (0, False)


# Memory

PHASES = """
import json, numpy as np
from ttbench.machine import measure
seen = {"start": measure.peak_rss()}
block = np.ones(200 * 2**20, dtype=np.uint8)
seen["with"] = measure.rss()
del block
seen["after"], seen["peak"] = measure.rss(), measure.peak_rss()
seen["reset"] = measure.reset_peak_rss()
seen["again"] = measure.peak_rss()
print(json.dumps(seen))
"""


@linux_only
def test_the_peak_sees_200_mib_and_its_reset_forgets_them_even_below_a_fat_parent() -> None:
    fat = np.ones(400 * MIB, dtype=np.uint8)
    seen = json.loads(run_python(PHASES))
    assert measure.peak_rss() > fat.nbytes
    # the child's peak is its own, not the 400 MiB of the parent that started it
    assert seen["start"] < 200 * MIB
    assert seen["with"] - seen["start"] > 190 * MIB
    assert seen["peak"] - seen["start"] == pytest.approx(200 * MIB, rel=0.05)
    assert seen["after"] < seen["with"] - 190 * MIB
    assert seen["reset"] is True
    assert seen["again"] < seen["peak"] - 190 * MIB


FREED = """
import json
import numpy as np
from ttbench.machine import measure
held = [np.ones(65536, dtype=np.uint8) for _ in range(2000)]
full = measure.rss()
# the last block pins the top of the heap, so that glibc cannot shrink it by itself
del held[:-1]
freed = measure.rss()
given_back = measure.release_freed()
print(json.dumps({"full": full, "freed": freed, "after": measure.rss(), "given_back": given_back}))
"""


@linux_only
def test_freed_memory_that_the_allocator_keeps_is_given_back() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("malloc_trim is glibc's")
    seen = json.loads(run_python(FREED))
    assert seen["given_back"] is True
    assert seen["full"] - seen["freed"] < 20 * MIB
    assert seen["freed"] - seen["after"] > 100 * MIB


@linux_only
def test_the_counter_is_named() -> None:
    assert measure.peak_rss_method() == "vmhwm"
    assert 0 < measure.rss() <= measure.peak_rss()


def test_without_proc_the_counter_is_another_one_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PROC", tmp_path)
    assert measure.peak_rss_method() == "ru_maxrss"
    assert measure.peak_rss() > 10 * MIB
    assert measure.rss() > 10 * MIB
    assert measure.memory_bytes() > 100 * MIB
    assert measure.reset_peak_rss() is False
    assert measure.steal_seconds() is None
    assert measure.processor_fields() == {}
    assert measure.processor()


QUOTAS = [(None, 8), (0.2, 1), (1.0, 1), (2.7, 2), (8.0, 8), (64.0, 8)]


@pytest.mark.parametrize(("quota", "threads"), QUOTAS)
def test_threads_by_default_are_the_cores_that_the_quota_keeps_running(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(measure, "num_cores", lambda: 8)
    monkeypatch.setattr(measure.cgroups, "cpu_quota", lambda: quota)
    assert measure.default_threads() == threads


def test_the_fingerprint_is_the_machine_s_whatever_a_process_is_given_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = {measure.machine_fingerprint()}
    monkeypatch.setattr(measure, "num_cores", lambda: 1)
    monkeypatch.setattr(measure, "memory_bytes", lambda: 1 * measure.GIB)
    monkeypatch.setattr(measure.cgroups, "cpu_quota", lambda: 0.2)
    prints.add(measure.machine_fingerprint())
    assert len(prints) == 1


def test_available_memory_is_never_more_than_the_control_group_still_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    free = measure.available_bytes()
    assert free > 0
    monkeypatch.setattr(measure.cgroups, "memory_left", lambda: 3 * MIB)
    assert measure.available_bytes() == 3 * MIB
    monkeypatch.setattr(measure.cgroups, "memory_left", lambda: 2**62)
    assert measure.available_bytes() < 2**62


def test_a_reset_that_the_system_takes_and_does_not_do_is_no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "peak_rss", lambda: 500 * MIB)
    monkeypatch.setattr(measure, "rss", lambda: 100 * MIB)
    assert measure.reset_peak_rss() is False


def test_a_stopwatch_tells_the_waits_for_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([1.25, 1.75])
    monkeypatch.setattr(measure.cgroups, "throttled_seconds", lambda: next(waits))
    with Stopwatch() as watch:
        pass
    assert watch.throttled_s == 0.5


# Threads and floating-point mode


THREADS = """
import json, os
from ttbench.machine import measure
seen = {"without torch": measure.denormals_flushed()}
measure.pin_threads(2)
seen["flush"] = measure.flush_denormals()
import torch
seen["pinned before"] = torch.get_num_threads()
least = torch.full((2_000_000,), 2.0**-126)
seen["denormals left"] = int((least * 0.5).count_nonzero())
seen["flushed"] = measure.denormals_flushed()
measure.pin_threads(1)
seen["pinned after"] = torch.get_num_threads()
seen["variables"] = dict(measure.environment().variables)
measure.prepare_process()
import sys
seen["imported"] = {"ttbench.checkpoints.loading", "ttbench.models.transformer"} <= set(sys.modules)
print(json.dumps(seen))
"""


def test_a_process_is_prepared_threads_pinned_and_denormals_flushed_on_all_of_them() -> None:
    seen = json.loads(run_python(THREADS))
    assert seen["without torch"] is None
    assert (seen["pinned before"], seen["pinned after"]) == (2, 1)
    # both threads share the two million products
    assert (seen["flush"], seen["flushed"], seen["denormals left"]) == (True, True, 0)
    assert seen["variables"]["TTBENCH_FLUSH_DENORMALS"] == "1"
    assert seen["imported"] is True
    assert seen["variables"]["OMP_NUM_THREADS"] == seen["variables"]["MKL_NUM_THREADS"] == "1"


def test_less_than_one_thread_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="at least 1; got 0"):
        measure.pin_threads(0)


def test_a_worker_starts_with_one_malloc_arena_its_threads_and_a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert measure.worker_variables(3) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "MALLOC_ARENA_MAX": "1",
        "GOMP_SPINCOUNT": "10000",
    }
    assert set(measure.worker_variables(1)) <= set(measure.VARIABLES)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_the_user_lets_threads_wait_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, "3")
    assert "GOMP_SPINCOUNT" not in measure.worker_variables(2)


# The machine


def test_importing_the_module_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, ttbench.machine.measure; print([m for m in ('torch', 'pandas', 'psutil') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_the_environment_is_plain_data_and_names_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    found = measure.environment()
    assert json.loads(canonical_json(found.to_json())) == found.to_json()
    assert found.packages["numpy"] == np.__version__
    assert found.variables["OMP_NUM_THREADS"] == "7"
    assert "hidden" not in canonical_json(found.to_json())
    assert found.num_cores >= 1
    assert found.machine == measure.machine_fingerprint()
    assert found == measure.environment()
    assert found != replace(found, num_cores=found.num_cores + 1)


def test_the_environment_of_another_process_is_described_by_its_variables() -> None:
    assert measure.environment({"MALLOC_ARENA_MAX": "1", "HOME": "x"}).variables == {"MALLOC_ARENA_MAX": "1"}


@pytest.mark.parametrize(
    ("fact", "other"),
    [
        ("installed_cores", 999),
        ("installed_memory_bytes", 7 * measure.GIB),
        ("processor", "Another 9000"),
        ("accelerator", "GPU X"),
    ],
)
def test_the_fingerprint_moves_with_each_fact_of_the_machine(
    fact: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measure.machine_fingerprint()
    assert before == measure.machine_fingerprint()
    monkeypatch.setattr(measure, fact, lambda: other)
    assert measure.machine_fingerprint() != before


def test_the_fingerprint_does_not_move_with_some_mib_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "installed_memory_bytes", lambda: 24 * measure.GIB)
    before = measure.machine_fingerprint()
    monkeypatch.setattr(measure, "installed_memory_bytes", lambda: 24 * measure.GIB - 100 * MIB)
    assert measure.machine_fingerprint() == before


def test_gpus_are_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        file = tmp_path / "driver/nvidia/gpus" / bus / "information"
        file.parent.mkdir(parents=True)
        file.write_text("Model: \t\t NVIDIA Example\nIRQ:   \t\t 30\n")
    monkeypatch.setattr(measure, "_PROC", tmp_path)
    assert measure.accelerator() == "NVIDIA Example, NVIDIA Example"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_dirty_only_through_files_that_are_measured_with(tmp_path: Path) -> None:
    assert measure.source_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    (tmp_path / "ttbench").mkdir()
    source = tmp_path / "ttbench/a.py"
    source.write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/table.csv").write_text("1\n")
    assert measure.source_commit(tmp_path) == commit
    source.write_text("a = 2\n")
    assert measure.source_commit(tmp_path) == f"{commit}+dirty"


def test_a_broken_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert measure.source_commit(tmp_path) is None
