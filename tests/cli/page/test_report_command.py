"""`ttbench report`: what it reads, what it writes, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from rows import Model, make_rows, perplexity_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.cli.page import report_command, sample_views
from ttbench.report.page import libraries
from ttbench.report.page.libraries import Libraries
from ttbench.report.published import rows_bytes
from ttbench.runs import evidence
from ttbench.store.record import CellRecord, cell_text, evidence_lines, parse_cell
from ttbench.types import Cell, Checkpoint, Sample, digest


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["report", *words])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published results, in a working folder of its own, with stand-ins for the libraries."""
    scripts = Libraries(charts="globalThis.ttbenchEmbed = 0;", tables="globalThis.ttbenchTables = 0;")
    monkeypatch.setattr(libraries, "installed", lambda: scripts)
    monkeypatch.setattr(libraries, "require_installed", lambda: None)
    monkeypatch.chdir(tmp_path)
    rows = make_rows(perplexity_rows([Model(name="a"), Model(name="b", bits=1.6)], [512, 1024], num_documents=10))
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(rows_bytes(rows))
    return folder


def test_published_results_become_a_page_that_says_that_it_has_no_prompts(published: Path) -> None:
    done = invoke(str(published), "--out", "page.html", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    page = Path("page.html").read_text(encoding="utf-8")
    assert told == {"file": "page.html", "bytes": len(page.encode()), "samples_with_text": 0}
    assert "published rows hold no prompts" in page.lower()
    assert "b needs 0.1" in page
    again = invoke("--out", "again.html")
    assert again.exit_code == 0, again.output
    assert "results/mine" in Path("again.html").read_text(encoding="utf-8")


def test_what_is_no_html_file_is_not_written(published: Path) -> None:
    done = invoke(str(published), "--out", "runs")
    assert done.exit_code == 2
    assert "--out 'runs' is no HTML file; name one, such as --out runs.html" in " ".join(done.stderr.split())
    assert not Path("runs").exists()


def test_a_folder_that_is_not_there_is_one_line(published: Path) -> None:
    done = invoke(str(published), "--out", "nowhere/page.html")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_run_and_nothing_at_all_are_one_line(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = invoke("no-such-run")
    assert (done.exit_code, "no run named 'no-such-run'" in done.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(report_command, "package_folder", lambda name: tmp_path / "empty")
    done = invoke()
    assert (done.exit_code, "there is nothing to report" in done.stderr) == (2, True)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(libraries, "PACKAGES", {"altair": "altair", "no_such_module": "vl-convert-python"})
    done = invoke("--out", "page.html")
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert (
        "a report needs vl-convert-python, which is not installed; install with: pip install 'ttbench[report]'" in said
    )


class Folder:
    """A run's folder as the command reads it: two cells with the evidence of their samples."""

    def __init__(self, path: Path, samples: int) -> None:
        (path / "evidence").mkdir(parents=True)
        self.path, self.records = path, [self._record(path, seed, samples) for seed in (0, 1)]

    def _record(self, path: Path, seed: int, num_samples: int) -> CellRecord:
        told: dict[str, Any] = dict.fromkeys(
            each.name for each in dataclasses.fields(Checkpoint) if each.default is dataclasses.MISSING
        )
        told |= {"name": "tiny", "path": str(path), "architecture": "transformer", "weights_digest": "w"}
        told |= {"architecture_version": 1, "dialect": "own", "provenance": "local", "config_digest": "c"}
        told |= {"vocab_size": 257, "num_params": 1, "num_params_non_embedding": 1, "weight_bytes": 4}
        checkpoint = Checkpoint(**told)
        settings = {"dtype": "float32", "device": "cpu", "engine": "eager", "attention": "sdpa"}
        cell = Cell(
            **{"task": "gone", "task_version": 1, "checkpoint": checkpoint, "context_len": 64, "params": {}},
            **{"corpus": None, "corpus_digest": None, "seed": seed, "batch_size": 1, "threads": 1, **settings},
        )
        letters = digest(str(seed)) * 40
        samples = [
            Sample(keys={}, values={"nats": 1.0}, evidence={"answer": f"{digest(letters + str(index))}{index}"})
            for index in range(num_samples)
        ]
        record = CellRecord(
            **{"cell": cell, "status": "ok", "reason": None, "started": "2026-01-01T00:00:00.000+00:00"},
            **{"cell_s": 1.0, "cell_cpu_s": 1.0, "load_average": 0.0, "engine": "eager", "kernel_path": {}},
            **{"metrics": (), "samples": tuple(samples)},
        )
        text = "".join(f"{line}\n" for line in evidence_lines(record))
        (path / "evidence" / f"{cell.cell_id}.jsonl").write_text(text, encoding="utf-8")
        record = dataclasses.replace(record, evidence_digest=digest(text))
        return parse_cell(cell_text(record), cell_id=cell.cell_id)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    made = Folder(tmp_path / "run", samples=20)

    class Stored:
        def __init__(self, path: Path) -> None:
            assert path == made.path

        def survey(self) -> Any:
            return type("Survey", (), {"records": tuple(made.records)})

        def evidence_path(self, record: CellRecord) -> Path:
            return made.path / "evidence" / f"{record.cell.cell_id}.jsonl"

    monkeypatch.setattr(sample_views, "Store", Stored)
    return made


def test_samples_are_taken_from_every_cell_in_turn_until_the_page_is_full(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {record.cell.cell_id for record in folder.records}
    whole = sample_views.views_of([folder.path], cells)
    assert {cell: sorted(found) for cell, found in whole.items()} == {cell: list(range(20)) for cell in cells}
    monkeypatch.setattr(sample_views, "EVIDENCE_BYTES", 1500)
    some = sample_views.views_of([folder.path], cells)
    counts = [len(found) for found in some.values()]
    assert len(counts) == 2
    assert 0 < min(counts) <= max(counts) < 20
    assert max(counts) - min(counts) <= 1
    one = next(iter(cells))
    assert set(sample_views.views_of([folder.path], {one})) == {one}


def test_damaged_evidence_is_said_and_costs_its_cell_alone(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [record.cell.cell_id for record in folder.records]
    (folder.path / "evidence" / f"{cells[0]}.jsonl").write_text("{}\n")
    found = sample_views.views_of([folder.path], set(cells))
    assert set(found) == {cells[1]}
    assert "is not the evidence" in " ".join(capsys.readouterr().err.split())


def test_open_samples_gives_what_open_sample_gives(folder: Folder) -> None:
    record = folder.records[0]
    path = folder.path / "evidence" / f"{record.cell.cell_id}.jsonl"
    found = list(evidence.open_samples(record, path))
    assert found[3] == evidence.open_sample(record, path, 3)
    assert len(found) == 20


def test_the_page_carries_the_samples_it_was_given(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = {"recipe": None, "evidence": {"prompt_start": "once"}, "rebuilt": None, "view": [], "rebuilt_view": []}
    cell = {"c1": {4: {**view, "sample": 4, "not_rebuilt": None}}}
    monkeypatch.setattr(report_command, "_sources", lambda names, root: ([published], []))
    monkeypatch.setattr(report_command, "views_of", lambda folders, wanted: cell)
    monkeypatch.setattr(report_command.reading, "rows_of_runs", lambda folders: _rows())
    assert invoke("--out", "page.html").exit_code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    packed = re.search(r'id="data-samples">([^<]*)<', page)
    assert packed is not None
    assert json.loads(gzip.decompress(b64decode(packed[1])))["c1"]["4"]["prompt"] == {"prompt_start": "once"}
    assert "1 of 20 samples open down to their prompt and nats" in page


def _rows() -> Any:
    return make_rows(perplexity_rows([Model(name="a")], [512], num_documents=10))
