"""Several writers in one run: what comes second is kept and reported, and each record tells what its writer ran on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import pytest
from stored import fake_cells
from test_store import failure, new_store, record

from ttbench.errors import StoreError
from ttbench.machine.measure import environment
from ttbench.store.cells import read_cell, read_evidence
from ttbench.store.record import CellRecord
from ttbench.store.store import Store, find_done, find_finished
from ttbench.types import Cell, Sample


@pytest.fixture
def cell(fakes: ModuleType) -> Cell:
    [found] = fake_cells([fakes.checkpoint("a")], [512])
    return found


def late(cell: Cell) -> CellRecord:
    return record(cell, samples=(Sample(keys={}, values={"hits": 7}, evidence={"prompt": "late"}),))


def test_a_second_answer_is_kept_beside_the_first_and_reported(tmp_path: Path, cell: Cell) -> None:
    store = new_store(tmp_path, (cell,))
    store.write_cell(record(cell))
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    other = Store(store.folder, environment=environment())
    other.write_cell(late(cell))
    assert {path: path.read_bytes() for path in before} == before
    survey = store.survey()
    assert [sample.values["hits"] for sample in survey.records[0].samples] == [0, 1]
    [second] = survey.others[cell.cell_id]
    assert second.samples[0].values == {"hits": 7}
    assert read_evidence(store.evidence_path(second), second) == [{"sample": 0, "prompt": "late"}]
    assert read_evidence(store.evidence_path(survey.records[0]), survey.records[0])[0]["prompt"] == "p0"
    assert find_done(tmp_path, [cell.cell_id]) == {cell.cell_id: store.cell_path(cell.cell_id)}


@pytest.mark.parametrize("before", ["killed", "torn"])
def test_an_answer_after_a_failure_or_a_torn_file_stands(tmp_path: Path, cell: Cell, before: str) -> None:
    store = new_store(tmp_path, (cell,))
    path = store.cell_path(cell.cell_id)
    store.write_cell(failure(cell) if before == "killed" else record(cell))
    if before == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    kept = path.read_bytes()
    store.write_cell(record(cell))
    assert path.read_bytes() == kept
    assert store.read(cell.cell_id).status == "ok"
    assert store.done() == {cell.cell_id: "ok"}
    assert store.survey().damaged == {}
    assert [other.status for other in store.survey().others.get(cell.cell_id, ())] == ["killed"] * (before == "killed")
    [place] = find_done(tmp_path, [cell.cell_id]).values()
    assert isinstance(place, Path)
    assert place.parent.name == "others"
    # A later run takes it over as any other.
    later = new_store(tmp_path, (cell,))
    later.adopt(place)
    assert later.read(cell.cell_id).status == "ok"
    assert read_cell(later.cell_path(cell.cell_id)).run_id == store.run_id
    found = later.read(cell.cell_id)
    assert len(read_evidence(later.evidence_path(found), found)) == 2


def test_evidence_without_its_cell_is_left_alone(tmp_path: Path, cell: Cell) -> None:
    store = new_store(tmp_path, (cell,))
    orphan = store.folder / "evidence" / f"{cell.cell_id}.jsonl"
    orphan.write_text("of a writer that was killed, or is still writing\n")
    store.write_cell(record(cell))
    assert orphan.read_text() == "of a writer that was killed, or is still writing\n"
    found = store.read(cell.cell_id)
    assert [line["prompt"] for line in read_evidence(store.evidence_path(found), found)] == ["p0", "p1"]


def test_each_record_tells_what_its_own_writer_ran_on(tmp_path: Path, cell: Cell) -> None:
    twin = dataclasses.replace(cell, seed=1)
    store = new_store(tmp_path, (cell, twin))
    store.write_cell(record(cell))
    node = dataclasses.replace(environment(), machine="another", allocation="cores 4-7 of 64")
    Store(store.folder, environment=node).write_cell(record(twin))
    rows = store.rows()
    assert list(rows["machine"].unique()) == [environment().machine, "another"]
    assert list(rows["allocation"].unique()) == [environment().allocation, "cores 4-7 of 64"]
    told = rows.attrs["environments"]
    assert {json.loads(told[name])["machine"] for name in rows["environment"]} == {environment().machine, "another"}
    # A run that takes the cell over takes the environment with it.
    later = new_store(tmp_path, (cell, twin))
    for path in find_done(tmp_path, [cell.cell_id, twin.cell_id]).values():
        later.adopt(path)
    assert later.rows().attrs["environments"].keys() == told.keys()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"cells": 3}', b"\xff\xfe"], ids=repr)
def test_a_list_of_cells_that_is_damaged_is_one_line_and_stops_no_other_run(
    tmp_path: Path, cell: Cell, text: bytes
) -> None:
    store = new_store(tmp_path, (cell,))
    store.write_cell(record(cell))
    (store.folder / "run.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"run\.json is damaged .*takes over what is finished there, and then delete"):
        Store(store.folder).survey()
    # Its cells answer all the same, and the same command looks for a finished run without stumbling.
    assert list(find_done(tmp_path, [cell.cell_id])) == [cell.cell_id]
    assert find_finished(tmp_path, [cell], name="test") is None


def test_an_environment_that_is_no_text_costs_no_rows(tmp_path: Path, cell: Cell) -> None:
    store = new_store(tmp_path, (cell,))
    store.write_cell(record(cell))
    (store.folder / "environments" / "0.json").write_bytes(b"\xff\xfe")
    assert store.rows()["status"].tolist() == ["ok", "ok"]


def test_a_run_from_before_allocations_were_told_is_read(tmp_path: Path, cell: Cell) -> None:
    store = new_store(tmp_path, (cell,))
    old = json.loads((store.folder / "environment.json").read_text())
    del old["allocation"]
    (store.folder / "environment.json").write_text(json.dumps(old))
    again = Store(store.folder)
    assert again.environment.allocation is None
    again.write_cell(record(cell))
    assert again.rows()["allocation"].isna().tolist() == [True, True]
