"""Runs of many cells: segments that each writer appends to, what kills and damaged disks leave, what is taken over."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import random
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from stored import fake_cells
from test_store import failure, record

from ttbench.errors import StoreError
from ttbench.machine.measure import environment
from ttbench.store import earlier, segments, store
from ttbench.store.cells import read_cell, read_evidence
from ttbench.store.files import write_whole
from ttbench.store.store import Store, find_done, find_finished
from ttbench.types import Cell, Sample


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, ...]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
    try:
        fakes = importlib.import_module("ttbench_fakes")
        return fake_cells([fakes.checkpoint("a"), fakes.checkpoint("b")], [512, 1024, 2048])
    finally:
        sys.path.remove(str(Path(__file__).parents[1] / "fakes"))


def create(root: Path, cells: tuple[Cell, ...], *, segmented: bool = True) -> Store:
    return Store.create(
        root,
        name="t",
        command="c",
        options={},
        cells=cells,
        environment=environment(),
        segmented=segmented,
    )


def filled(root: Path, cells: tuple[Cell, ...], *, segmented: bool = True) -> Store:
    """A run of which two writers have each written every other cell."""
    made = create(root, cells, segmented=segmented)
    writers = [made, made.writer()]
    for number, cell in enumerate(cells):
        writers[number % 2].write_cell(failure(cell, "oom") if number == 3 else record(cell))
    return made


def index_of(written: Store) -> Path:
    return written.folder / "segments" / f"{written.segment}.index"


def test_rows_are_the_same_whether_cells_are_files_or_in_segments(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    files, segmented = (filled(tmp_path / name, cells, segmented=name == "s") for name in "fs")
    # Two segments of three files each, and not a file for each cell.
    assert len(list((segmented.folder / "segments").iterdir())) == 6
    assert not list((segmented.folder / "cells").iterdir())
    pd.testing.assert_frame_equal(segmented.rows().drop(columns="run_id"), files.rows().drop(columns="run_id"))
    segmented.write_rows()
    assert segmented.done() == files.done() == {cell.cell_id: "oom" if cell is cells[3] else "ok" for cell in cells}
    found = segmented.read(cells[0].cell_id)
    assert [line["prompt"] for line in read_evidence(segmented.evidence_path(found), found)] == ["p0", "p1"]
    assert segmented.cell_ids() == sorted(cell.cell_id for cell in cells)
    assert find_finished(tmp_path / "s", cells, name="t", done=find_done(tmp_path / "s", segmented.done())) is not None
    assert len(earlier.timings(tmp_path / "s", machine=environment().machine, tasks=["fake-quality"])) == 5
    [origin] = earlier.origins(find_done(tmp_path / "s", segmented.done()).values())
    assert (origin.run_id, origin.num_cells) == (segmented.run_id, 6)


def test_a_large_run_has_segments_and_a_small_one_files(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Store:
        return Store.create(tmp_path, name="t", command="", options={}, cells=cells, environment=environment())

    assert not made().segmented
    monkeypatch.setattr(store, "MANY", len(cells) - 1)
    assert made().segmented
    assert [entry["cell_id"] for entry in made().run["cells"]] == [cell.cell_id for cell in cells]


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(bytes(data))


def cut(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda index: cut(index, 1), set()),
        (lambda index: cut(index, 40), {4}),
        (lambda index: index.write_bytes(b""), {0, 2, 4}),
        (lambda index: flip(index, 5), {0}),
        (lambda index: cut(index.with_suffix(".jsonl"), 7), {4}),
        (lambda index: index.with_suffix(".jsonl").write_bytes(b""), {0, 2, 4}),
        (lambda index: index.with_suffix(".jsonl").unlink(), {0, 2, 4}),
        (lambda index: flip(index.with_suffix(".jsonl"), 9), {0}),
        (lambda index: (index.parent / "foreign.index").write_bytes(random.Random(0).randbytes(4096)), set()),
        (lambda index: (index.parent / ".hidden.index").write_bytes(index.read_bytes()), set()),
    ],
    ids=[
        *("newline", "torn-line", "empty-index", "bit-in-index"),
        *("torn-text", "empty-text", "no-text", "bit-in-text", "foreign", "hidden"),
    ],
)
def test_what_is_damaged_is_measured_again_and_hides_nothing_else(
    tmp_path: Path, cells: tuple[Cell, ...], damage: Callable[[Path], object], lost: set[int]
) -> None:
    written = filled(tmp_path, cells)
    damage(index_of(written))
    left = {cell.cell_id for number, cell in enumerate(cells) if number not in lost}
    assert set(find_done(tmp_path, [cell.cell_id for cell in cells])) == left
    assert set(written.done()) == left
    assert {found.cell.cell_id for found in written.survey().records} == left
    again = written.writer()
    for number in lost:
        again.write_cell(record(cells[number]))
    assert len(written.done()) == len(cells)
    written.write_rows()


def test_a_cell_under_the_name_of_another_is_none(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    written = create(tmp_path, cells)
    written.write_cell(record(cells[0]))
    [entry] = segments.read_index(index_of(written))
    text = entry.read_bytes()
    # A whole text of one cell, indexed with all its checksums under another cell's name.
    segments.append(
        written.folder / "segments",
        "other",
        cell_id=cells[1].cell_id,
        status="ok",
        ended=entry.ended,
        environment=entry.environment,
        text=text,
        told=b"",
    )
    assert "its cell is not the one that its name says" in str(written.survey().damaged[cells[1].cell_id])
    with pytest.raises(StoreError, match="its cell is not the one"):
        written.rows()


def test_writing_goes_on_behind_what_a_killed_writer_left(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    written = create(tmp_path, cells)
    written.write_cell(record(cells[0]))
    index = index_of(written)
    with open(index.with_suffix(".jsonl"), "ab") as file:
        file.write(b'{"half a cell')
    with open(index, "ab") as file:
        file.write(b"half a li")
    # The process that followed the worker writes to its segment.
    follower = Store(written.folder, environment=environment(), segment=written.segment)
    assert follower.has(cells[0].cell_id)
    collector = Store(written.folder)
    assert (collector.has(cells[0].cell_id), collector.has(cells[1].cell_id)) == (True, False)
    follower.write_cell(failure(cells[1]))
    assert collector.has(cells[1].cell_id)
    assert written.done() == {cells[0].cell_id: "ok", cells[1].cell_id: "killed"}
    assert set(written.rows()["status"]) == {"ok", "killed"}


def test_a_full_disk_is_a_clear_error_and_what_follows_it_is_whole(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = create(tmp_path, cells)
    written.write_cell(record(cells[0]))
    for failing in (1, 2, 3):
        calls = iter(range(1, 9))

        def no_room(handle: int, failing: int = failing, calls: object = calls) -> None:
            if next(calls) == failing:  # type: ignore[call-overload]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_room)
            with pytest.raises(StoreError, match="no space left on the device; finished cells are kept"):
                written.write_cell(record(cells[1]))
    # A line that was written and not synced may have stayed: then its cell is whole.
    assert set(written.done()) <= {cells[0].cell_id, cells[1].cell_id}
    written.write_cell(record(cells[2]))
    assert {cells[0].cell_id, cells[2].cell_id} <= set(written.done())
    assert set(written.rows()["status"]) == {"ok"}


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("target", ["segments", "files"])
@pytest.mark.parametrize("source", ["segments", "files"])
def test_cells_are_taken_over_between_runs_of_either_kind(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch, source: str, target: str, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    one = filled(tmp_path, cells, segmented=source == "segments")
    rows = one.rows()
    two = create(tmp_path, cells, segmented=target == "segments")
    for place in find_done(tmp_path, [cell.cell_id for cell in cells]).values():
        two.adopt(place)
    shutil.rmtree(one.folder)
    pd.testing.assert_frame_equal(two.rows(), rows)
    assert two.rows().attrs["environments"].keys() == set(rows["environment"])
    found = two.read(cells[0].cell_id)
    assert len(read_evidence(two.evidence_path(found), found)) == 2
    assert not list(two.folder.rglob("*.tmp"))


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_failures_of_the_run_that_a_segment_comes_from_are_tried_again(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    one, two = create(tmp_path, cells), create(tmp_path, cells)
    one.write_cell(record(cells[0]))
    one.write_cell(failure(cells[1]))
    for place in find_done(tmp_path, [cell.cell_id for cell in cells]).values():
        two.adopt(place)
    assert two.has(cells[0].cell_id)
    assert not two.has(cells[1].cell_id)
    assert two.cell_ids() == [cells[0].cell_id]
    assert two.done() == {cells[0].cell_id: "ok"}
    two.write_cell(record(cells[1]))
    assert two.twice() == ()
    assert set(two.rows()["status"]) == {"ok"}
    # It goes on from run to run.
    three = create(tmp_path, cells)
    for place in find_done(tmp_path, [cell.cell_id for cell in cells]).values():
        three.adopt(place)
    assert set(three.done().values()) == {"ok"}
    assert len(three.done()) == 2


def late(cell: Cell) -> Sample:
    return Sample(keys={}, values={"hits": 7}, evidence={"prompt": "late"})


def test_of_two_answers_the_first_stands_and_goes_on_standing(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    written = create(tmp_path, cells[:1])
    [cell] = cells[:1]
    written.write_cell(failure(cell))
    written.writer().write_cell(record(cell))
    written.write_rows()
    assert written.read(cell.cell_id).status == "ok"
    # A second answer, by a clock that is an hour behind.
    behind = written.writer()
    behind.write_cell(record(cell, samples=(late(cell),)))
    index = index_of(behind)
    [entry] = segments.read_index(index)
    line = index.read_bytes().rstrip(b"\n").rpartition(b"\t")[0].replace(entry.ended.encode(), b"2020-01-01T00:00:00")
    write_whole(index, line + b"\t" + segments._checksum(line).encode() + b"\n")
    [shown] = written.survey().records
    assert [sample.values.get("hits") for sample in shown.samples] == [0, 1]
    assert sorted(other.status for other in written.survey().others[cell.cell_id]) == ["killed", "ok"]
    assert written.twice() == (cell.cell_id,)
    assert written.rows()["hits"].tolist() == [0, 1]
    [place] = find_done(tmp_path, [cell.cell_id]).values()
    assert len(read_cell(place).samples) == 2


def test_writers_append_at_once_each_to_its_own(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    many = tuple(dataclasses.replace(cells[0], seed=seed) for seed in range(40))
    written = create(tmp_path, many)

    def write(share: int) -> None:
        mine = written.writer()
        for cell in many[share::4]:
            mine.write_cell(record(cell))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(segments.indexes(written.folder)) == 4
    assert written.done() == dict.fromkeys((cell.cell_id for cell in many), "ok")
    assert written.twice() == ()
