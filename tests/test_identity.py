"""What a stranger does to names, code and files, and which number he is shown then."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from ttbench.cli import gather as reading
from ttbench.cli.commands import result_commands as results
from ttbench.errors import StoreError, UsageError
from ttbench.machine.software import kernel_variables, software
from ttbench.report.comparison.compare import compare
from ttbench.report.comparison.variants import read_variant
from ttbench.report.table import summarise
from ttbench.runs.options import Options
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import run_cells
from ttbench.store.cells import read_cell
from ttbench.store.earlier import origins
from ttbench.store.record import cell_text, parse_cell
from ttbench.store.store import Store, find_done, run_folders
from ttbench.types import Cell, Checkpoint, digest

ZOO = Path(__file__).parents[1] / "ttbench" / "zoo"


def lay_out(fakes: ModuleType, *checkpoints: Checkpoint, task: str = "fake-quality", **options: Any) -> Any:
    given = checkpoints or (fakes.checkpoint("a"),)
    return plan_task(task, Options(checkpoints=given, threads=1, ctx="1k", **options), out="absent")


@pytest.fixture
def run(fakes: ModuleType, tmp_path: Path) -> Callable[..., Store]:
    def measure(*checkpoints: Checkpoint, fresh: bool = False, **options: Any) -> Store:
        plan = lay_out(fakes, *checkpoints, **options)
        return Store(run_cells(plan, out=tmp_path / "runs", fresh=fresh).folder)

    return measure


# Code


def test_changed_code_never_answers_with_an_old_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in is changed and installed again: the same run measures again, in processes as a user starts them."""
    shutil.copytree(Path(__file__).parent / "fakes", tmp_path / "site")
    plug_in = tmp_path / "site" / "ttbench_fakes.py"
    script = (
        "import sys, ttbench_fakes as fakes; from ttbench.runs.sweep import run_task\n"
        "rows = run_task('fake-quality', checkpoints=[fakes.checkpoint('a')], ctx='1k', out=sys.argv[1])\n"
        "print(rows['trials'].iloc[0], len(set(rows['run_id'])), rows['code_digest'].iloc[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def measured() -> list[str]:
        command = [sys.executable, "-c", script, str(tmp_path / "runs")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    before = measured()
    assert before[0] == "255"
    assert measured() == before
    plug_in.write_text(plug_in.read_text().replace('"trials": 255', '"trials": 254'))
    after = measured()
    assert after[0] == "254"
    assert after[2] != before[2]
    assert len(run_folders(tmp_path / "runs")) == 2  # the same again makes no folder
    plug_in.write_text(plug_in.read_text().replace('"trials": 254', '"trials": 255'))
    assert measured() == before


def test_code_that_changes_between_plan_and_worker_is_a_failure_and_no_number(
    fakes: ModuleType, tmp_path: Path
) -> None:
    plan = lay_out(fakes)
    stale = dataclasses.replace(plan.cells[0], code_digest=digest("other code"))
    changed = dataclasses.replace(plan, cells=(stale,), estimates={stale.cell_id: next(iter(plan.estimates.values()))})
    result = run_cells(changed, out=tmp_path)
    record = Store(result.folder).read(stale.cell_id)
    assert record.status == "error"
    assert "has changed; run the command again" in (record.reason or "")


def test_timing_cells_are_known_by_what_chooses_their_kernels(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids(task: str) -> set[str]:
        return {cell.cell_id for cell in lay_out(fakes, task=task).cells}

    for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_PROC_BIND", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        before, quality = ids("fake-timing"), ids("fake-quality")
        with monkeypatch.context() as patch:
            patch.setenv(name, "default")
            assert not ids("fake-timing") & before, name
            assert ids("fake-quality") == quality
            patch.setenv(name, "")
            assert ids("fake-timing") == before
        # The worker's own are set anew in each: the number of threads says what they are.
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert ids("fake-timing") == before


def test_software_is_told_in_words() -> None:
    values = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "HOME": "/", "MKL_CBWR": ""}
    assert kernel_variables(values) == ["ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS"]
    text = software(values, ours={"OMP_NUM_THREADS": "2"})
    assert re.fullmatch(r"torch \S+ CPython 3\.\d+ ATEN_CPU_CAPABILITY=default", text)


def test_fresh_measures_again_and_the_newest_answers_from_then_on(run: Callable[..., Store], tmp_path: Path) -> None:
    first = run()
    assert set(run().rows()["run_id"]) == {first.run_id}
    third = run(fresh=True)
    assert set(third.rows()["run_id"]) == {third.run_id}
    again = run()
    assert set(again.rows()["run_id"]) == {third.run_id}
    done = find_done(tmp_path / "runs", again.done())
    assert [(origin.run_id, origin.num_cells) for origin in origins(done.values())] == [(third.run_id, 1)]


def test_before_and_after_of_one_checkpoint_are_compared_by_run_and_by_code(
    run: Callable[..., Store], tmp_path: Path
) -> None:
    first, second = run(), run(fresh=True)
    texts = [f"a@run={store.run_id}" for store in (first, second)]
    one, two = reading.rows_of([read_variant(text) for text in texts], runs=(), root=tmp_path / "runs")
    found = compare(one, *texts, rows_b=two)
    assert found["effect"].tolist() == [0.0]
    taken_over = run()
    texts = [f"a@run={store.run_id}" for store in (first, second)]
    assert set(taken_over.rows()["run_id"]) == {second.run_id}

    rows = first.rows()
    other = rows.assign(code_digest="f" * 32, cell_id="x", hits=rows["hits"] - 1, started="2999-01-01")
    both = pd.concat([rows, other])
    both.attrs = rows.attrs
    code = rows["code_digest"].iloc[0][:6]
    found = compare(both, f"a@code={code}", "a@code=ffff")
    assert found["effect"].tolist() == pytest.approx([1 / 255])
    # A name alone means the newest code, and says what it leaves out.
    third = rows.assign(checkpoint="b", weights_digest="b", cell_id="b")
    three = pd.concat([both, third])
    three.attrs = rows.attrs
    found = compare(three, "a", "b")
    assert found["value_a"].tolist() == pytest.approx([(rows["hits"].sum() - len(rows)) / (255 * len(rows))])
    assert f"a@code={code} (fake-quality, measured" in found.attrs["left_out"][0]


# Names


def test_two_names_of_one_content_are_both_shown_and_said_to_be_one(
    fakes: ModuleType, run: Callable[..., Store]
) -> None:
    link = fakes.checkpoint("link", weights_digest=fakes.checkpoint("a").weights_digest)
    rows = run(fakes.checkpoint("a"), link, fakes.checkpoint("b")).rows()
    assert list(dict.fromkeys(rows["checkpoint"])) == ["a", "b", "link"]
    table = summarise(rows)
    assert table["checkpoint"].tolist() == ["a", "b", "link"]
    values: list[float] = table["value"].tolist()
    assert values[0] == values[2] != values[1]
    assert table.attrs["notes"] == [
        "a and link are one checkpoint (the same weights, config and tokenizer), measured once"
    ]
    assert {(entry["a"], entry["b"]) for entry in table.attrs["comparisons"]} == {("a", "b")}
    with pytest.raises(UsageError, match="'a' and 'link' stand for the same measurements"):
        compare(rows, "a", "link")


def test_a_cell_of_an_earlier_run_is_shown_under_the_name_asked_for_now(
    fakes: ModuleType, run: Callable[..., Store]
) -> None:
    first = run(fakes.checkpoint("a", path="/old/a"))
    renamed = fakes.checkpoint("b", weights_digest=fakes.checkpoint("a").weights_digest, path="/new/b", revision="r")
    second = run(renamed)
    rows = second.rows()
    assert set(rows["checkpoint"]) == {"b"}
    assert set(rows["revision"]) == {"r"}
    assert set(rows["run_id"]) == {first.run_id}
    (cell_id,) = second.done()
    assert second.read(cell_id).cell.checkpoint.path == "/new/b"
    assert first.read(cell_id).cell.checkpoint.name == "a"


def test_folders_that_share_their_last_name_stay_apart_in_rows(fakes: ModuleType, run: Callable[..., Store]) -> None:
    places = [fakes.checkpoint("m", path=f"/{part}/m", weights_digest=part) for part in "xy"]
    assert list(dict.fromkeys(run(*places).rows()["checkpoint"])) == ["x/m", "y/m"]


def test_swapped_folders_are_compared_by_what_they_hold(
    fakes: ModuleType, run: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttbench.checkpoints.naming import digests_of

    for name, other in (("ttt-linear", "transformer"), ("transformer", "ttt-linear")):
        shutil.copytree(ZOO / name, tmp_path / "swap" / other)
    (tmp_path / "swap" / "link").symlink_to(tmp_path / "swap" / "transformer")
    held = {name: fakes.checkpoint(name, **digests_of(ZOO / name)) for name in ("ttt-linear", "transformer")}
    rows = run(*held.values()).rows()
    held_hits = zip(rows["weights_digest"], rows["hits"], strict=True)
    hits: dict[str, list[float]] = {}
    for weights, value in held_hits:
        hits.setdefault(weights, []).append(value / 255)
    values = {weights: sum(found) / len(found) for weights, found in hits.items()}
    monkeypatch.chdir(tmp_path)

    def sides(*texts: str) -> list[float]:
        rows = reading.rows_of([read_variant(text) for text in texts], runs=(), root=tmp_path / "runs")
        found = compare(rows[0], *texts, rows_b=rows[1])
        assert (found["a"].iloc[0], found["b"].iloc[0]) == texts
        return [found["value_a"].iloc[0], found["value_b"].iloc[0]]

    inside = [values[held[name].weights_digest] for name in ("transformer", "ttt-linear")]
    assert sides("swap/ttt-linear", "swap/transformer") == pytest.approx(inside)
    assert sides("swap/ttt-linear", "swap/link") == pytest.approx(inside)
    with pytest.raises(UsageError, match="'swap/transformer' and 'swap/link' stand for the same measurements"):
        sides("swap/transformer", "swap/link")
    shutil.copytree(ZOO / "transformer", tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    (tmp_path / "new" / "config.json").write_text(json.dumps({**config, "train_ctx": 7}))
    with pytest.raises(UsageError, match=r"no rows of '\./new'|no rows of the checkpoint in"):
        sides("./new", "swap/link")


def test_a_name_of_the_zoo_and_of_a_folder_is_said_to_be_the_zoo_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ttbench.checkpoints import checkpoint

    shutil.copytree(ZOO / "ttt-linear", tmp_path / "transformer")
    monkeypatch.chdir(tmp_path)
    checkpoint._say.cache_clear()
    assert checkpoint.resolve("transformer").architecture == "transformer"
    assert caplog.messages == [
        "'transformer' is the zoo's checkpoint here; for the folder of that name write ./transformer"
    ]
    assert checkpoint.resolve("./transformer").architecture == "ttt-linear"


# Files


@pytest.fixture
def stored(fakes: ModuleType, run: Callable[..., Store]) -> tuple[Store, list[Path]]:
    store = run(fakes.checkpoint("a"), fakes.checkpoint("b"))
    return store, [store.cell_path(cell_id) for cell_id in store.done()]


def nan_with_its_checksum(text: str) -> str:
    head = re.sub(r'"hits":\d+', '"hits":NaN', text[: text.rindex('{"checksum"')])
    return head + json.dumps({"checksum": digest(head)}, separators=(",", ":")) + "\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: re.sub(r'"hits":(\d)', lambda match: f'"hits":{9 - int(match[1])}', text, count=1),
        lambda text: re.sub(r'"cell_s":\d', '"cell_s":9', text),
        lambda text: re.sub(r'"hits":\d+', '"hits":"many"', text, count=1),
        lambda text: text[: text.rindex('{"checksum"')],
        nan_with_its_checksum,
        lambda text: text + "\n",
    ],
    ids=["flipped digit", "header", "text", "no checksum", "NaN", "a line too many"],
)
def test_a_changed_cell_is_measured_again(
    stored: tuple[Store, list[Path]], fakes: ModuleType, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    _, (path, other) = stored
    text = damage(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    assert find_done(tmp_path / "runs", [path.stem, other.stem]) == {other.stem: other}
    result = run_cells(lay_out(fakes, fakes.checkpoint("a"), fakes.checkpoint("b")), out=tmp_path / "runs")
    assert result.num_reused == 1
    assert read_cell(result.folder / "cells" / path.name).status == "ok"


def test_a_copied_cell_answers_nothing(stored: tuple[Store, list[Path]], tmp_path: Path) -> None:
    _, (path, other) = stored
    shutil.copyfile(other, tmp_path / "copy")
    path.unlink()
    shutil.move(tmp_path / "copy", path)
    assert find_done(tmp_path / "runs", [path.stem]) == {}
    with pytest.raises(StoreError, match="its cell is not the one that its name says"):
        read_cell(path)


def test_bytes_that_are_no_text_are_damage(stored: tuple[Store, list[Path]], tmp_path: Path) -> None:
    _, (path, _) = stored
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert find_done(tmp_path / "runs", [path.stem]) == {}


def test_a_damaged_cell_is_said_in_one_line_and_hides_no_other(
    stored: tuple[Store, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, (path, other) = stored
    path.write_text("")
    assert [record.cell.cell_id for record in store.survey().records] == [other.stem]
    assert set(reading.rows_of_runs([store.folder])["cell_id"]) == {other.stem}
    assert f"left out, damaged: {store.run_id} ({path.stem[:8]})" in capsys.readouterr().err.replace("\n", "")
    results.show(str(store.folder), None, sample=None, root=tmp_path / "runs", as_json=False)
    shown = capsys.readouterr()
    assert "damaged" in shown.out
    assert other.stem[:8] in shown.out
    results.list_nouns("runs", root=tmp_path / "runs", as_json=False)
    listed = capsys.readouterr().out
    assert "1 ok, 1" in listed
    assert "damaged" in listed


def test_evidence_that_was_changed_is_not_shown(stored: tuple[Store, list[Path]], tmp_path: Path) -> None:
    store, (path, _) = stored
    evidence = store.folder / "evidence" / path.name
    evidence.write_text(evidence.read_text().replace("trial 0", "trial 9"))
    with pytest.raises(StoreError, match="is not the evidence that its cell was stored with"):
        results.show(str(store.folder), path.stem, sample=0, root=tmp_path / "runs", as_json=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 10**22}, "seed is 10000000000000000000000; rows hold whole numbers"),
        ({"params": {"at": 2**70}}, "parameter 'at' is"),
        ({"params": {"sleep_s": float("inf")}}, "parameter 'sleep_s' is inf; rows hold finite numbers"),
    ],
    ids=["seed", "whole parameter", "infinite parameter"],
)
def test_what_rows_cannot_hold_is_refused_before_anything_is_measured(
    fakes: ModuleType, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        lay_out(fakes, **change)


def test_a_training_context_beyond_64_bits_is_refused(fakes: ModuleType) -> None:
    with pytest.raises(UsageError, match=f"train_ctx of checkpoint 'a' is {2**70}"):
        lay_out(fakes, fakes.checkpoint("a", train_ctx=2**70))


# Schemas, seeds


def as_schema_1(path: Path) -> Cell:
    """The file as the version before wrote it, under the name that the cell had then."""
    record = read_cell(path)
    cell = dataclasses.replace(record.cell, schema=1, code_digest=None, software=None)
    *lines, _ = cell_text(record).splitlines()
    header = json.loads(lines[0])
    for name in ("ttbench", "evidence_digest"):
        del header[name]
    for name in ("schema", "code_digest", "software"):
        del header["cell"][name]
    lines[0] = json.dumps({**header, "schema": 1, "cell_id": cell.cell_id})
    path.unlink()
    path.with_name(f"{cell.cell_id}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return cell


def test_a_run_of_the_schema_before_is_read_and_answers_nothing(
    stored: tuple[Store, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, paths = stored
    before = store.rows()
    old = {path.stem: as_schema_1(path).cell_id for path in paths}
    text = (store.folder / "run.json").read_text().replace('"schema": 2', '"schema": 1')
    for new, cell_id in old.items():
        text = text.replace(new, cell_id)
    (store.folder / "run.json").write_text(text)
    rows = reading.rows_of_runs([store.folder])
    assert rows["hits"].tolist() == before["hits"].tolist()
    assert set(rows["schema"]) == {1}
    assert find_done(tmp_path / "runs", old.keys()) == {}
    reading.say_age(rows, "these")
    assert "these: some rows are of schema 1 (they do not say which code measured them)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_schema_to_come_is_refused_in_words(stored: tuple[Store, list[Path]]) -> None:
    _, (path, _) = stored
    with pytest.raises(ValueError, match="it is of schema 3, and this version of ttbench reads 2"):
        parse_cell(path.read_text().replace('"schema":2', '"schema":3'), cell_id=path.stem)


def test_seeds_are_lines_of_their_own_and_never_pooled(run: Callable[..., Store], fakes: ModuleType) -> None:
    pair = (fakes.checkpoint("a"), fakes.checkpoint("b"))
    parts = [run(*pair, seed=seed).rows() for seed in (0, 1)]
    both = pd.concat(parts)
    both.attrs = parts[0].attrs
    table = summarise(both)
    assert list(zip(table["checkpoint"], table["seed"], strict=True)) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    for part, seed in zip(parts, (0, 1), strict=True):
        alone = summarise(part)
        assert "seed" not in alone
        assert table[table["seed"] == seed]["value"].tolist() == alone["value"].tolist()
    assert compare(both, "a", "b")["seed"].tolist() == [0, 1]
    found = compare(both, "a@seed=0", "b@seed=1")
    assert found["reason"].tolist() == ["the seeds differ, and each draws targets of its own"]
