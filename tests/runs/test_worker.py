from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.errors import CheckpointError, TooLongError, one_line
from ttbench.machine.measure import environment
from ttbench.runs.executors.local import cause
from ttbench.runs.plan import plan
from ttbench.runs.process import Death, WorkerProcess, free_memory_bytes, oom_kills
from ttbench.runs.worker import Group, is_out_of_memory, run_cell
from ttbench.store.store import Store
from ttbench.types import Cell

LINUX = sys.platform == "linux"


def lay_out(fakes: ModuleType, task: str = "fake-quality", **changes: Any) -> tuple[Cell, ...]:
    request = {
        "checkpoints": [fakes.checkpoint("a")],
        "context_lens": [1024, 2048, 4096],
        "params": {},
        "corpus": "fake-corpus",
        "corpus_digest": fakes.fake_corpus().digest,
        "seed": 0,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "batch_size": None,
        "threads": 1,
        "machine": "m",
    }
    return plan(task, **{**request, **changes}).cells


def start(root: Path, cells: tuple[Cell, ...], memory_limit: int | None = None) -> tuple[Store, WorkerProcess]:
    store = Store.create(root, name="t", command="c", options={}, cells=cells, environment=environment())
    return store, WorkerProcess(store.folder, cells=cells, memory_limit=memory_limit)


def follow(worker: WorkerProcess, seconds: float = 60) -> tuple[list[tuple[str, str, str | None]], Death]:
    """Everything a worker says until it is dead: kind, status, reason; and how it ended."""
    said = []
    while True:
        message = worker.next_message(time.monotonic() + seconds)
        if message.kind in ("dead", "late"):
            assert message.kind == "dead", said
            return said, worker.stop()
        said.append((message.kind, message.status, message.reason))


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends, or is a zombie, within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_group_shares_one_process_and_stores_each_cell_as_it_ends(fakes: ModuleType, tmp_path: Path) -> None:
    cells = lay_out(fakes, params={"what": "pid"})
    store, worker = start(tmp_path, cells)
    said, death = follow(worker)
    assert [kind for kind, *_ in said if kind != "progress"] == ["start", "end"] * 3
    assert death == Death(returncode=0, oom_killed=False, log="")
    pids = {sample.keys["pid"] for record in store.records() for sample in record.samples}
    assert pids == {worker.pid}
    assert store.done() == {cell.cell_id: "ok" for cell in cells}
    assert not list((store.folder / "workers").iterdir())


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("too_long", "too_long", "the model takes at most 512 tokens"),
        ("too_short", "too_short", "no document has 1 GiB"),
        ("unsupported", "unsupported", "not on Tuesdays"),
        ("error", "error", "ZeroDivisionError: first line"),
        ("modules", "unsupported", "loaded: []"),
        ("environment", "unsupported", "OMP_NUM_THREADS=1, MKL_NUM_THREADS=1"),
    ],
)
def test_what_a_task_raises_becomes_a_status_and_the_next_cell_runs(
    fakes: ModuleType, tmp_path: Path, what: str, status: str, reason: str
) -> None:
    cells = lay_out(fakes, params={"what": what, "at": 2048})
    store, worker = start(tmp_path, cells)
    said, _ = follow(worker)
    assert [entry[1:] for entry in said if entry[0] == "end"] == [("ok", None), (status, reason), ("ok", None)]
    record = store.read(cells[1].cell_id)
    assert (record.status, record.reason, record.samples) == (status, reason, ())
    evidence = store.folder / "evidence" / f"{cells[1].cell_id}.jsonl"
    if status == "error":
        assert "ZeroDivisionError: first line\nsecond line" in json.loads(evidence.read_text())["traceback"]
    else:
        assert not evidence.exists()


def test_a_task_without_samples_is_an_error(fakes: ModuleType, tmp_path: Path) -> None:
    _, worker = start(tmp_path, lay_out(fakes, params={"limit": 0}, context_lens=[1024]))
    said, _ = follow(worker)
    assert said[-1][:2] == ("end", "error")
    assert "gave no sample" in str(said[-1][2])


def test_values_that_are_not_finite_make_an_error_of_the_cell(fakes: ModuleType, tmp_path: Path) -> None:
    cells = lay_out(fakes, params={"what": "nan", "at": 2048})
    store, worker = start(tmp_path, cells)
    follow(worker)
    assert list(store.done().values()) == ["ok", "error", "ok"]
    assert "not finite" in str(store.read(cells[1].cell_id).reason)


def test_memory_beyond_the_limit_is_an_oom_and_the_rest_asks_for_a_fresh_process(
    fakes: ModuleType, tmp_path: Path
) -> None:
    cells = lay_out(fakes, params={"what": "hog", "at": 2048})
    store, worker = start(tmp_path, cells, memory_limit=2**30)
    said, death = follow(worker)
    assert [entry[1] for entry in said if entry[0] == "end"] == ["ok", "oom"]
    assert death.returncode == 0
    assert store.done() == {cells[0].cell_id: "ok", cells[1].cell_id: "oom"}


def test_what_a_task_prints_goes_to_the_log_and_not_to_the_parent(fakes: ModuleType, tmp_path: Path) -> None:
    _, worker = start(tmp_path, lay_out(fakes, params={"what": "print"}, context_lens=[1024]))
    said, death = follow(worker)
    assert [kind for kind, *_ in said if kind != "progress"] == ["start", "end"]
    assert "nobody" in death.log


@pytest.mark.parametrize(
    ("what", "returncode", "words"),
    [
        ("kill", -signal.SIGKILL, "SIGKILL, with no evidence of missing memory"),
        ("crash", -signal.SIGSEGV, "SIGSEGV"),
        ("exit", 7, "exit code 7"),
        ("fork", -signal.SIGKILL, "SIGKILL"),
    ],
)
def test_a_worker_s_death_is_noticed_even_when_its_child_holds_the_pipe(
    fakes: ModuleType, tmp_path: Path, what: str, returncode: int, words: str
) -> None:
    store, worker = start(tmp_path, lay_out(fakes, params={"what": what, "at": 2048}))
    said, death = follow(worker)
    assert [kind for kind, *_ in said if kind != "progress"] == ["start", "end", "start"]
    assert death.returncode == returncode
    assert not death.oom_killed
    assert words in death.words
    assert len(store.done()) == 1
    if what == "crash":
        assert "Segmentation fault" in death.log


def test_a_worker_that_is_late_is_stopped_with_all_it_started(fakes: ModuleType, tmp_path: Path) -> None:
    _, worker = start(tmp_path, lay_out(fakes, params={"what": "hang"}))
    assert worker.next_message(None).kind == "start"
    assert worker.next_message(time.monotonic() + 0.05).kind == "late"
    assert worker.stop().returncode == -signal.SIGKILL
    assert gone(worker.pid)


def test_a_kill_counts_as_out_of_memory_only_when_the_kernel_says_so(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, worker = start(tmp_path, lay_out(fakes, params={"what": "kill"}))
    counted = oom_kills()
    monkeypatch.setattr("ttbench.runs.process.oom_kills", lambda: counted + 1)
    _, death = follow(worker)
    assert death.oom_killed
    assert "out of memory" in death.words


@pytest.mark.skipif(not LINUX, reason="the tie to the parent is asked of Linux here")
def test_a_worker_dies_with_its_parent_and_is_the_kernel_s_first_choice(fakes: ModuleType, tmp_path: Path) -> None:
    cells = lay_out(fakes, params={"what": "hang"})
    spec = tmp_path / "cells.json"
    spec.write_text(json.dumps([cell.to_json() for cell in cells]))
    code = (
        "import json, sys, time; from pathlib import Path; from ttbench.types import Cell\n"
        "from ttbench.runs.process import WorkerProcess; from ttbench.store.store import Store\n"
        "from ttbench.machine.measure import environment\n"
        "cells = tuple(Cell.from_json(c) for c in json.loads(Path(sys.argv[1]).read_text()))\n"
        "store = Store.create(sys.argv[2], name='t', command='', options={}, cells=cells, environment=environment())\n"
        "worker = WorkerProcess(store.folder, cells=cells, memory_limit=2**31)\n"
        "worker.next_message(None); print(worker.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(spec), str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert resource.prlimit(pid, resource.RLIMIT_DATA)[0] == 2**31
        assert os.getpgid(pid) == pid
        parent.kill()
    assert gone(pid)


def test_a_corpus_that_has_changed_since_the_plan_is_an_error(fakes: ModuleType, tmp_path: Path) -> None:
    good = lay_out(fakes, "fake-text", context_lens=[1024])
    stale = lay_out(fakes, "fake-text", context_lens=[2048], corpus_digest="stale")
    _, worker = start(tmp_path, good + stale)
    said, _ = follow(worker)
    ends = [entry for entry in said if entry[0] == "end"]
    assert [entry[1] for entry in ends] == ["ok", "error"]
    assert "corpus 'fake-corpus' has changed since the plan" in str(ends[1][2])


def test_a_full_disk_in_the_worker_reaches_the_parent_as_words(fakes: ModuleType, tmp_path: Path) -> None:
    store, worker = start(tmp_path, lay_out(fakes, params={"what": "no room", "at": 2048}))
    said, _ = follow(worker)
    assert said[-1][0] == "store_error"
    assert "no space left on the device" in str(said[-1][2])
    assert list(store.done().values()) == ["ok"]


def test_a_reason_is_one_short_line() -> None:
    assert one_line(TooLongError("a\nb")) == "a"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(CheckpointError("")) == "CheckpointError"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_torch_s_own_words_for_missing_memory_are_understood() -> None:
    text = "[enforce fail at alloc_cpu.cpp:129] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."
    assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


MAPPING = "unable to mmap 163238800 bytes from file </big/model.safetensors>: Cannot allocate memory (12)"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(MAPPING),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mapping_that_fails_for_memory_is_out_of_memory_even_inside_another_error(error: Exception) -> None:
    assert is_out_of_memory(error)
    outer = CheckpointError("cannot read the weights")
    outer.__cause__ = error
    assert is_out_of_memory(outer)
    assert not is_out_of_memory(OSError(2, "No such file or directory"))


def test_a_worker_that_lacked_memory_before_its_first_cell_is_out_of_memory() -> None:
    def death(log: str) -> Death:
        return Death(returncode=1, oom_killed=False, log=log)

    assert cause(death("Traceback (most recent call last):\n  ...\nMemoryError\n"))[0] == "oom"
    assert cause(death(f"Traceback ...\nRuntimeError: {MAPPING}"))[0] == "oom"
    assert cause(death("Traceback ...\nKeyError: 'MemoryError'"))[0] == "error"


def test_the_memory_a_worker_may_use_is_less_than_the_machine_has() -> None:
    free = free_memory_bytes()
    if LINUX:
        assert free is not None
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert 0 < free < total


# The machine that a timing cell was planned for


@pytest.mark.parametrize(
    ("planned", "words"),
    [
        ({"machine": "a machine of another class"}, "planned for machines of class a machine of another class"),
        ({"software": "torch 2.13.0 CPython 3.11 [2 threads on 1 cores]"}, "planned for 2 threads on 1 cores, and"),
        ({"threads": 4096}, "has 4096 threads on"),
    ],
    ids=["machine", "planned with too few cores", "too few cores here"],
)
def test_a_timing_cell_is_refused_where_it_was_not_planned_for(
    fakes: ModuleType, tmp_path: Path, planned: dict[str, Any], words: str
) -> None:
    here = environment()
    request: dict[str, Any] = {"machine": here.machine, "software": "torch 2.13.0 CPython 3.11", **planned}
    threads = request.pop("threads", 1)
    [cell] = lay_out(fakes, "fake-timing", context_lens=[1024], threads=threads, **request)
    group = Group([cell], machine=here.machine)
    refused = run_cell(cell, group=group, channel=None)  # type: ignore[arg-type]
    assert refused.status == "error"
    assert words in str(refused.reason)


def test_a_worker_tells_its_own_variables_and_the_machine_of_its_parent(fakes: ModuleType, tmp_path: Path) -> None:
    cells = lay_out(fakes, context_lens=[1024])
    seen = dataclasses.replace(
        environment(), processor="as the parent saw it", allocation="of the parent", variables={}
    )
    store = Store.create(tmp_path, name="t", command="c", options={}, cells=cells, environment=seen)
    follow(WorkerProcess(store.folder, cells=cells, memory_limit=None, environment=store.environment))
    [name] = {found.environment for found in store.records()}
    told = json.loads((store.folder / "environments" / f"{name}.json").read_text())
    assert told["processor"] == "as the parent saw it"
    assert told["allocation"] == environment().allocation
    assert told["variables"]["OMP_NUM_THREADS"] == "1"
