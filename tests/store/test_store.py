from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from stored import fake_cells

import ttbench
from ttbench.errors import StoreError
from ttbench.machine.measure import environment
from ttbench.names import as_text
from ttbench.store.cells import read_cell
from ttbench.store.earlier import timings
from ttbench.store.files import write_whole
from ttbench.store.record import CellRecord
from ttbench.store.rows import COLUMNS, METRICS_KEY, read_rows
from ttbench.store.store import Store, find_done
from ttbench.types import Cell, Metric, Sample


@pytest.fixture
def cells(fakes: ModuleType) -> tuple[Cell, ...]:
    return fake_cells([fakes.checkpoint("a"), fakes.checkpoint("b", train_ctx=None)], [512, 2048], params={"limit": 2})


def new_store(root: Path, cells: tuple[Cell, ...]) -> Store:
    return Store.create(root, name="test", command="c", options={}, cells=cells, environment=environment())


def record(cell: Cell, **changes: Any) -> CellRecord:
    samples = tuple(
        Sample(keys={"trial": i, "text": "a\u2028b"}, values={"hits": i, "share": i / 3}, evidence={"prompt": f"p{i}"})
        for i in range(2)
    )
    values: dict[str, Any] = {
        "cell": cell,
        "status": "ok",
        "reason": None,
        "started": "2026-01-01T00:00:00.000+00:00",
        "cell_s": 0.1,
        "cell_cpu_s": 0.2,
        "load_average": None,
        "engine": "eager",
        "kernel_path": {"attention": "sdpa"},
        "metrics": (Metric(name="h", label="h", unit="1", better="higher", statistic="ratio", numerator="hits"),),
        "samples": samples,
    }
    return CellRecord(**{**values, **changes})


def failure(cell: Cell, status: str = "killed") -> CellRecord:
    return record(cell, status=status, reason="why", samples=(), evidence=({"stderr": "boom"},))


@pytest.mark.parametrize(
    "text",
    ["a\u2028b", os.fsdecode(b"caf\xe9"), "back\\udce9", '"\t\x00\x7f', "\U0001f40d", "NaN"],
    ids=["line separator", "bytes that are no UTF-8", "a backslash", "control characters", "beyond 16 bits", "a word"],
)
def test_text_and_numbers_of_every_kind_read_back(tmp_path: Path, cells: tuple[Cell, ...], text: str) -> None:
    values = {"big": 2**63 - 1, "small": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3, "minus": -0.0}
    samples = (Sample(keys={"text": text}, values=values),)
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0], samples=samples))
    assert repr(read_cell(store.cell_path(cells[0].cell_id)).samples) == repr(samples)
    assert store.rows()["text"].tolist() == [as_text(text)]


def test_a_cell_reads_back_as_it_was_written(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0]))
    found = read_cell(store.cell_path(cells[0].cell_id))
    bare = tuple(dataclasses.replace(sample, evidence=None) for sample in record(cells[0]).samples)
    assert found == dataclasses.replace(
        record(cells[0]),
        samples=bare,
        run_id=store.run_id,
        environment=found.environment,
        machine=found.machine,
        allocation=found.allocation,
        ttbench=ttbench.__version__,
        evidence_digest=found.evidence_digest,
    )
    assert found.machine == environment().machine
    assert store.done() == {cells[0].cell_id: "ok"}
    assert [path.name for path in (store.folder / "cells").iterdir()] == [f"{cells[0].cell_id}.jsonl"]


def test_evidence_is_a_file_of_its_own_keyed_by_sample(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0]))
    store.write_cell(failure(cells[1]))
    texts = [(store.folder / "evidence" / f"{cell.cell_id}.jsonl").read_text() for cell in cells[:2]]
    lines = [[json.loads(line) for line in text[:-1].split("\n")] for text in texts]
    assert lines == [
        [{"sample": 0, "prompt": "p0"}, {"sample": 1, "prompt": "p1"}],
        [{"sample": None, "stderr": "boom"}],
    ]
    assert "prompt" not in store.cell_path(cells[0].cell_id).read_text()


def test_rows_have_fixed_columns_then_the_task_s_own(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0]))
    store.write_cell(failure(cells[1], "oom"))
    store.write_cell(record(cells[2]))
    rows = store.rows()
    parameters = [f"param_{name}" for name in cells[0].params]
    assert list(rows.columns) == [*COLUMNS, *parameters, "sample", "trial", "text", "hits", "share"]
    assert list(rows["status"]) == ["ok", "ok", "oom", "ok", "ok"]
    assert list(rows["sample"]) == [0, 1, 0, 0, 1]
    assert rows["hits"].tolist() == [0, 1, pd.NA, 0, 1]
    assert rows["hits"].dtype == pd.Int64Dtype()
    assert rows["context_len"].dtype == np.int64
    assert rows["extrapolated"].tolist() == [False, False, True, pd.NA, pd.NA]
    assert rows.loc[2, ["hits", "share", "trial"]].isna().all()
    assert rows.loc[2, "reason"] == "why"
    assert rows.attrs["metrics"] == {"fake-quality": [record(cells[0]).metrics[0].to_json()]}


@pytest.mark.parametrize(("reach", "extrapolated"), [(None, False), (1024, False), (1025, True)])
def test_a_row_is_extrapolated_when_its_longest_sequence_is_longer_than_the_training_context(
    tmp_path: Path, cells: tuple[Cell, ...], reach: int | None, extrapolated: bool
) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(dataclasses.replace(cells[0], reach=reach)))
    assert set(store.rows()["extrapolated"]) == {extrapolated}


def test_parquet_is_derived_and_can_be_made_again(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    store = new_store(tmp_path, cells)
    for cell in cells:
        store.write_cell(record(cell))
    path = store.write_rows()
    first = path.read_bytes()
    pd.testing.assert_frame_equal(read_rows(path), store.rows())
    assert read_rows(path).attrs == store.rows().attrs
    assert METRICS_KEY in pq.read_schema(path).metadata
    path.unlink()
    assert Store(store.folder).write_rows().read_bytes() == first
    path.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot read rows"):
        read_rows(path)


def test_numpy_values_are_stored_as_plain_numbers(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    values: Any = {"nats": np.float64(1.5), "count": np.int64(3), "hit": np.bool_(True)}
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0], samples=(Sample(keys={}, values=values, evidence={"ids": np.arange(2)}),)))
    rows = store.rows()
    assert rows[["nats", "count", "hit"]].iloc[0].tolist() == [1.5, 3, True]
    assert rows["hit"].dtype == bool


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, cells: tuple[Cell, ...], value: float) -> None:
    store = new_store(tmp_path, cells)
    with pytest.raises(ValueError, match="sample 0 holds a number that is not finite"):
        store.write_cell(record(cells[0], samples=(Sample(keys={}, values={"nats": value}),)))
    assert store.done() == {}


def test_columns_that_disagree_or_clash_are_refused(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0], samples=(Sample(keys={"where": 1}, values={}),)))
    store.write_cell(record(cells[1], samples=(Sample(keys={"where": "here"}, values={}),)))
    with pytest.raises(StoreError, match=r"column 'where' holds values of several kinds \(int, str\)"):
        store.rows()
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0], samples=(Sample(keys={"status": 1}, values={}),)))
    with pytest.raises(StoreError, match="names a sample's column 'status', which rows have"):
        store.rows()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[: text.rindex("{")],
        lambda text: "",
        lambda text: "{}\n",
        lambda text: "[]\n",
        lambda text: text.replace('"context_len":512', '"context_len":513'),
        lambda text: text.replace('"schema":2', '"schema":3'),
    ],
    ids=["cut-newline", "cut-sample", "empty", "no-header", "a-list", "another-cell", "another-schema"],
)
def test_a_damaged_cell_file_is_an_error_and_no_answer(tmp_path: Path, cells: tuple[Cell, ...], damage: Any) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0]))
    path = store.cell_path(cells[0].cell_id)
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match=r"damaged or not a cell.s file.*the same run measures it again"):
        store.rows()
    assert find_done(tmp_path, [cells[0].cell_id]) == {}


def test_answers_are_found_across_runs_and_failures_are_not(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    one, two = new_store(tmp_path, cells), new_store(tmp_path, cells)
    one.write_cell(record(cells[0]))
    one.write_cell(failure(cells[1], "too_long"))
    one.write_cell(record(cells[2]))
    two.write_cell(failure(cells[2], "killed"))
    two.write_cell(failure(cells[3], "timeout"))
    found = find_done(tmp_path, [cell.cell_id for cell in cells])
    assert found == {cell.cell_id: one.cell_path(cell.cell_id) for cell in cells[:3]}
    assert find_done(tmp_path / "absent", ["x"]) == {}
    machine = environment().machine
    known = timings(tmp_path, machine=machine, tasks=["fake-quality"])
    assert sorted(cell.cell_id for cell, _ in known) == sorted([cells[0].cell_id, cells[2].cell_id])
    assert timings(tmp_path, machine="other", tasks=["fake-quality"]) == []
    assert timings(tmp_path, machine=machine, tasks=["other"]) == []


@pytest.mark.parametrize("links", [True, False], ids=["link", "copy"])
def test_a_run_that_takes_over_cells_stands_on_its_own(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    one = new_store(tmp_path, cells)
    one.write_cell(record(cells[0]))
    rows = one.rows()
    two, three = new_store(tmp_path, cells), new_store(tmp_path, cells)
    two.adopt(one.cell_path(cells[0].cell_id))
    two.adopt(one.cell_path(cells[0].cell_id))
    three.adopt(two.cell_path(cells[0].cell_id))
    subprocess.run(["rm", "-r", str(one.folder), str(two.folder)], check=True)
    pd.testing.assert_frame_equal(three.rows(), rows)
    assert (three.folder / "evidence" / f"{cells[0].cell_id}.jsonl").is_file()
    assert (three.folder / "environments" / f"{rows['environment'][0]}.json").is_file()
    assert not list(three.folder.rglob("*.tmp"))


def test_runs_started_at_the_same_moment_get_folders_of_their_own(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    stores = [new_store(tmp_path, cells) for _ in range(5)]
    assert len({store.run_id for store in stores}) == 5


def test_processes_that_write_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from ttbench.store.folders import new_folder; from ttbench.store.files import write_whole\n"
        "for i in range(40):\n"
        "    new_folder(Path(sys.argv[1]), 'r')\n"
        "    write_whole(Path(sys.argv[1], 'one'), sys.argv[2].encode() * 5000)\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), letter]) for letter in "abc"]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 120
    text = (tmp_path / "one").read_text()
    assert text in {letter * 5000 for letter in "abc"}


class FullDisk:
    """`open` for writing works; writing does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.code = code
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, handle: int) -> None:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_a_clear_error_and_costs_nothing_that_was_stored(
    tmp_path: Path, cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0]))
    words = "choose another folder" if code == errno.EIO else "no space left on the device; finished cells are kept"
    with monkeypatch.context() as patch:
        FullDisk(patch, code)
        for write in (lambda: store.write_cell(record(cells[1])), store.write_rows, lambda: new_store(tmp_path, cells)):
            with pytest.raises(StoreError, match=words):
                write()
    assert store.done() == {cells[0].cell_id: "ok"}
    assert not list(tmp_path.rglob("*.tmp"))
    store.write_cell(record(cells[1]))
    assert store.done() == {cells[0].cell_id: "ok", cells[1].cell_id: "ok"}


def test_a_write_that_dies_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    with pytest.raises(StoreError, match=r"is not a run's folder"):
        Store(tmp_path)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StoreError, match="cannot make"):
        new_store(blocked, cells)


def test_the_store_brings_no_heavy_package_into_a_worker() -> None:
    code = (
        "import sys, ttbench.runs.worker; print(sorted({'torch', 'pandas', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
