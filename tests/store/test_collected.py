"""Rows of a large run are made by several processes, and are those that one process makes."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from stored import fake_cells
from test_store import failure, record

from ttbench.errors import StoreError
from ttbench.machine.measure import environment
from ttbench.store import collected
from ttbench.store.collected import Collected, collect_slice, num_processes
from ttbench.store.store import Store
from ttbench.types import Cell, Sample


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, ...]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
    try:
        fakes = importlib.import_module("ttbench_fakes")
        return fake_cells([fakes.checkpoint(name) for name in "abcd"], [512, 1024, 2048])
    finally:
        sys.path.remove(str(Path(__file__).parents[1] / "fakes"))


def create(root: Path, cells: tuple[Cell, ...]) -> Store:
    return Store.create(root, name="t", command="c", options={}, cells=cells, environment=environment(), segmented=True)


def stored(root: Path, cells: tuple[Cell, ...], *, odd: int | None = None) -> Store:
    """A run in segments: a failure among its cells and, where asked, one whose column holds another kind of value."""
    made = create(root, cells)
    for number, cell in enumerate(cells):
        found = failure(cell, "oom") if number == 3 else record(cell)
        if number == odd:
            found = record(cell, samples=(Sample(keys={"text": 7}, values={"hits": 1}),))
        made.write_cell(found)
    return made


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Slices of two cells, shared by three processes."""
    monkeypatch.setattr(collected, "SLICE_CELLS", 2)
    monkeypatch.setattr(collected, "num_processes", lambda num_cells: 3)
    return monkeypatch


def test_several_processes_write_the_bytes_that_one_writes(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run = stored(tmp_path, cells)
    by_three = run.write_rows().read_bytes()
    settled = (run.folder / "settled").read_bytes()
    sliced.setattr(collected, "num_processes", lambda num_cells: 1)
    assert run.write_rows().read_bytes() == by_three
    assert (run.folder / "settled").read_bytes() == settled
    # A slice has rows of its own in the file, in the order of the plan, and they are those of the cells.
    file = pq.ParquetFile(run.folder / "rows.parquet")
    assert file.num_row_groups == len(cells) // 2
    assert list(dict.fromkeys(file.read(["cell_id"]).column(0).to_pylist())) == [cell.cell_id for cell in cells]
    assert file.read().equals(collected.table(run.records()).cast(file.schema_arrow))


def test_a_small_run_is_one_slice_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "num_cores", lambda: 64)
    counts = {1: 1, 2500: 1, 2501: 1, 7500: 1, 7501: 2, 100_000: 8}
    assert {cells: num_processes(cells) for cells in counts} == counts
    monkeypatch.setattr(collected, "num_cores", lambda: 2)
    assert num_processes(100_000) == 2


def test_what_a_process_refuses_is_said_as_one_process_says_it(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run = stored(tmp_path, cells, odd=5)
    said = []
    for processes in (3, 1):
        sliced.setattr(collected, "num_processes", lambda num_cells, n=processes: n)
        with pytest.raises(StoreError, match="column 'text' holds values of several kinds") as refused:
            run.write_rows()
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert not (run.folder / "rows.parquet").exists()


def test_a_damaged_cell_is_told_and_no_file_is_left(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run = stored(tmp_path, cells)
    text = run.folder / "segments" / f"{run.segment}.jsonl"
    data = bytearray(text.read_bytes())
    data[-40] ^= 1  # in the last cell
    text.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="is damaged or not a cell's file"):
        run.write_rows()
    assert not (run.folder / "rows.parquet").exists()


def test_a_process_that_is_killed_is_told_and_the_others_end(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run = stored(tmp_path, cells)
    started: list[subprocess.Popen[Any]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[Any]:
        process = popen(command, **options)
        if not started:
            os.kill(process.pid, signal.SIGKILL)
        started.append(process)
        return process

    sliced.setattr(collected.subprocess, "Popen", start)
    with pytest.raises(StoreError, match=r"ended early, with exit code -9 .*the same command collects them again"):
        run.write_rows()
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)
    sliced.undo()
    assert pq.ParquetFile(run.write_rows()).metadata.num_rows == len(run.rows())


def asked(request: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """What a collector says to a request whose answers nobody reads."""
    answers, theirs = os.pipe()
    os.close(answers)
    command = [sys.executable, "-P", "-m", "ttbench.store.collector", str(theirs)]
    try:
        return subprocess.run(
            command, input=request, pass_fds=[theirs], capture_output=True, timeout=60, check=False, **options
        )
    finally:
        os.close(theirs)


def test_a_process_ends_when_nobody_reads_or_asks(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    request = pickle.dumps([stored(tmp_path, cells)._wanted()] * 50)
    for sent in (request, request[:100], b""):
        found = asked(sent)
        assert (found.returncode, found.stderr) == (0, b"")


def sleepers(patch: pytest.MonkeyPatch, *, at_third: Callable[[], None]) -> list[subprocess.Popen[Any]]:
    """Processes that answer nothing stand in for collectors, as they are started; `at_third` goes before the third."""
    started, popen = list[subprocess.Popen[Any]](), subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[Any]:
        if len(started) == 2:
            at_third()
        started.append(popen(["sleep", "60"], **options))
        return started[-1]

    patch.setattr(collected.subprocess, "Popen", start)
    return started


def test_an_interrupted_collection_leaves_no_process(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run = stored(tmp_path, cells)
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    started = sleepers(sliced, at_third=interrupt.start)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.write_rows()
    assert time.monotonic() - began < 20
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 3


def test_a_process_that_cannot_be_started_leaves_none(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BlockingIOError("no more processes")

    run = stored(tmp_path, cells)
    started = sleepers(sliced, at_third=refuse)
    with pytest.raises(BlockingIOError, match="no more processes"):
        run.write_rows()
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_what_modules_print_and_where_they_are_found_does_not_matter(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    run, noise = stored(tmp_path / "runs", cells), tmp_path / "noise"
    noise.mkdir()
    (noise / "sitecustomize.py").write_text("print('cgarbage\\nx\\n', flush=True)\n")
    sliced.setenv("PYTHONUNBUFFERED", "1")
    # Only sys.path leads to it, as in a notebook that adds a checkout.
    sliced.syspath_prepend(str(noise))
    sliced.setenv("PYTHONPATH", "")
    assert pq.ParquetFile(run.write_rows()).metadata.num_rows == len(run.rows())


def test_an_error_that_nobody_foresaw_is_raised_as_one_process_raises_it(
    tmp_path: Path, cells: tuple[Cell, ...], sliced: pytest.MonkeyPatch
) -> None:
    made = create(tmp_path, cells)
    for cell in cells:
        made.write_cell(record(cell, choices={"k": 2**70}))
    for processes in (3, 1):
        sliced.setattr(collected, "num_processes", lambda num_cells, n=processes: n)
        with pytest.raises(StoreError, match="column 'choice_k' holds values of several kinds"):
            made.write_rows()


LARGE = 2**53 + 1  # which no real number is


@pytest.mark.parametrize(
    ("declared", "first", "second"),
    [
        ({"w": "text"}, None, 3),
        ({"w": "text"}, None, True),
        ({"w": "truth"}, None, 3),
        ({"w": "whole"}, None, 1.5),
        ({"w": "real"}, None, "words"),
        ({}, LARGE, 1.5),
        ({"w": "real"}, None, LARGE),
    ],
)
@pytest.mark.parametrize("slice_cells", [1, 2500])
def test_a_column_holds_what_it_says_or_is_refused(
    tmp_path: Path,
    cells: tuple[Cell, ...],
    monkeypatch: pytest.MonkeyPatch,
    declared: dict[str, Any],
    first: Any,
    second: Any,
    slice_cells: int,
) -> None:
    """Two versions of a task: one declares a column, the other gives it undeclared, in this slice or the next."""
    monkeypatch.setattr(collected, "SLICE_CELLS", slice_cells)
    made = create(tmp_path, cells[:2])
    keys = {} if first is None else {"w": first}
    made.write_cell(record(cells[0], samples=(Sample(keys=keys, values={}),), columns=declared))
    made.write_cell(record(cells[1], samples=(Sample(keys={"w": second}, values={}),)))
    for collect in (made.write_rows, made.rows):
        with pytest.raises(StoreError, match="column 'w' holds values of several kinds"):
            collect()


def test_slices_are_joined_as_their_cells_would_be(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    run = stored(tmp_path, cells)
    wanted = run._wanted()
    whole, joined = Collected(run.records()), Collected()
    for start in range(0, len(wanted), 5):
        joined.extend(collect_slice(wanted[start : start + 5])[0])
    assert joined.schema({}).equals(whole.schema({}), check_metadata=True)
