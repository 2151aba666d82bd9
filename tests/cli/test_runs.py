"""Runs as a user handles them: named, shown, listed, repeated, stopped and deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_home import RUN, lay_home
from typer.testing import CliRunner

import ttbench
from ttbench.cli.app import app
from ttbench.errors import UnknownNameError, UsageError
from ttbench.machine import devices
from ttbench.runs.sweep import find_target
from ttbench.store.store import Store, run_folders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny checkpoints that read bytes, and twelve documents of 600 bytes."""
    return lay_home(tmp_path_factory.mktemp("runs"), "tiny", "other")


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """A finished run, named `first`, of both checkpoints."""
    done = subprocess.run(
        [sys.executable, "-m", "ttbench", *RUN, "--checkpoint", "other", "--name", "first"], cwd=home, check=True
    )
    assert done.returncode == 0
    [found] = run_folders(home / "runs")
    return found


def test_a_run_has_the_name_that_it_is_given(folder: Path) -> None:
    assert folder.name[16:] == "first"
    assert "--name first" in Store(folder).run["command"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65, "-x"])
def test_a_name_that_is_no_part_of_a_folders_name_is_refused(here: Path, name: str) -> None:
    assert invoke(*RUN, f"--name={name}").exit_code == 2


def test_a_finished_command_shows_its_result_again_and_makes_no_folder(here: Path, folder: Path) -> None:
    again = invoke(*RUN, "--checkpoint", "other", "--name", "first")
    assert again.exit_code == 0, again.output
    assert run_folders(here / "runs") == [folder]
    assert "bits per byte" in again.stdout
    assert f"nothing new to measure: these are the results of {Path('runs') / folder.name}" in " ".join(
        again.stderr.split()
    )
    asked = {"checkpoints": ["tiny", "other"], "corpus": "text:text", "ctx": "64", "threads": 1}
    rows = ttbench.run("perplexity", params={"window": 32, "max_context": 64}, **asked, out="runs")  # type: ignore[arg-type]
    assert set(rows["checkpoint"]) == {"tiny", "other"}
    # Under another name it is another run, which measures nothing.
    newest = run_folders(here / "runs")[0]
    assert newest.name[16:] == "perplexity"
    assert {record.run_id for record in Store(newest).records()} == {folder.name}
    assert invoke("runs", "rm", newest.name, "--yes").exit_code == 0


def test_part_of_a_finished_run_is_a_run_of_its_own(here: Path, folder: Path) -> None:
    done = invoke(*RUN, "--name", "first")
    assert done.exit_code == 0
    newest = run_folders(here / "runs")[0]
    assert newest != folder
    assert [record.cell.checkpoint.name for record in Store(newest).records()] == ["tiny"]
    assert invoke("runs", "rm", str(Path("runs") / newest.name), "--yes").exit_code == 0


def test_show_prints_the_numbers_of_a_run_before_its_cells(here: Path, folder: Path) -> None:
    shown = invoke("show", "last").stdout
    assert 0 < shown.index("bits per byte") < shown.index("samples")


def test_the_list_of_runs_says_when_what_and_how_far(here: Path, folder: Path) -> None:
    shown = " ".join(invoke("list", "runs").stdout.split())
    assert f"{folder.name} {Store(folder).run['started'][:16].replace('T', ' ')} tiny, other 64 2 2 ok" in shown
    [entry] = json.loads(invoke("list", "runs", "--json").stdout)
    assert (entry["checkpoints"], entry["contexts"]) == (["tiny", "other"], [64])


def test_json_of_a_run_carries_its_comparisons(here: Path, folder: Path) -> None:
    found = json.loads(invoke(*RUN, "--checkpoint", "other", "--name", "first", "--json").stdout)
    [one] = [row for row in found["comparisons"] if row["metric"] == "bits_per_byte"]
    assert {one["a"], one["b"]} == {"tiny", "other"}
    assert one["verdict"]


def test_runs_are_deleted_by_name_and_never_without_being_asked(here: Path, folder: Path) -> None:
    done = invoke(*RUN, "--name", "second")
    assert done.exit_code == 0
    second = run_folders(here / "runs")[0]
    refused = invoke("runs", "rm", "second")
    assert refused.exit_code == 2
    assert "--yes" in refused.output + refused.stderr
    assert second.is_dir()
    assert invoke("runs", "rm", "second", "--yes").exit_code == 0
    assert run_folders(here / "runs") == [folder]
    # What the deleted run had taken over is where it was measured.
    assert [record.status for record in Store(folder).records()] == ["ok", "ok"]
    assert invoke("runs", "rm", "second", "--yes").exit_code == 2


def test_a_run_that_has_not_ended_is_not_deleted_unasked(here: Path, folder: Path) -> None:
    (folder / "rows.parquet").rename(folder / "kept")
    try:
        refused = invoke("runs", "rm", "first")
        assert (refused.exit_code, "has not ended" in refused.stderr) == (2, True)
    finally:
        (folder / "kept").rename(folder / "rows.parquet")


def test_a_task_and_a_suite_of_one_name_can_both_be_reached() -> None:
    assert find_target("needle") == ("task", "needle") == find_target("task:needle")
    assert find_target("suite:needle") == ("suite", "needle")
    assert find_target("bench") == ("suite", "bench")
    for name in ("task:bench", "needel", "suites:needle"):
        with pytest.raises(UnknownNameError):
            find_target(name)
    planned = json.loads(invoke("plan", "suite:memory", "--checkpoint", "transformer", "--json").stdout)
    assert planned["command"].startswith("ttbench run suite:memory ")


def test_a_device_that_is_not_there_is_refused_before_anything_is_kept(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    found = invoke(*RUN, "--device", "cuda")
    assert (found.exit_code, "device 'cuda' is not there" in found.stderr) == (2, True)
    assert run_folders(here / "runs") == [folder]
    for option in ("--dtype=float31", "--engine=graf", "--device=gpu"):
        assert invoke(*RUN, option).exit_code == 2
    assert run_folders(here / "runs") == [folder]
    with pytest.raises(UsageError, match="cuda"):
        ttbench.run("perplexity", checkpoints="tiny", corpus="text:text", ctx="64", device="cuda")


def test_term_is_taken_as_an_interrupt(home: Path) -> None:
    words = ["run", "latency", "--checkpoint", "tiny", "--ctx", "512", "--threads", "1", "--param", "rounds=30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ttbench", *words, "--out", "stopped"], cwd=home, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not list((home / "stopped").glob("*/cells/*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted: " in said
    assert "to go on where it stopped:" in said
    assert "Traceback" not in said
    [kept] = run_folders(home / "stopped")
    assert Store(kept).done()


def test_texts_too_few_for_an_interval_say_what_gives_one(here: Path, folder: Path) -> None:
    words = [word if word != "text:text" else "text:text/0.txt" for word in RUN]
    said = " ".join(invoke(*words, "--out", "few").stderr.split())
    assert "text:text/0.txt has 1 document, and an interval needs 10: give text:FOLDER with one file for each" in said


def test_published_results_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = invoke("compare", "ttt-linear", "transformer", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)
    assert os.listdir(tmp_path) == []
