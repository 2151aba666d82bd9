"""A model that looks ahead gets no score; by --unchecked it gets one that every table and figure marks."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.cli.app import app
from ttbench.cli.commands.run_command import Request
from ttbench.engines import findings, probing
from ttbench.errors import CacheError, SuiteError, UnsupportedError, UsageError
from ttbench.lmeval.opening import Settings, open_parts
from ttbench.machine import measure
from ttbench.models.transformer import Transformer
from ttbench.report import words
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.table import render, summarise
from ttbench.runs.options import Options
from ttbench.runs.request import plan_task
from ttbench.runs.suite import load_suite
from ttbench.runs.worker import Channel, Group, run_cell
from ttbench.store import collected, rows
from ttbench.store.record import CellRecord
from ttbench.types import Cell

METRIC = "bits_per_byte"
CHEATS = Path(__file__).parent / "fakes" / "cheats"


class Silent(Channel):
    """Nobody listens."""

    def __init__(self) -> None: ...

    def send(self, kind: str, **fields: Any) -> None: ...

    def progress(self, cell_id: str, done: int, total: int, setup_s: float) -> None: ...


@pytest.fixture(autouse=True)
def plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plug-in is installed, findings are kept in a folder of the test, and this process keeps its threads."""
    monkeypatch.syspath_prepend(str(CHEATS))
    importlib.import_module("ttbench_cheats")
    monkeypatch.setattr(findings, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(measure, "pin_threads", lambda threads: None)
    monkeypatch.setattr(measure, "flush_denormals", lambda: None)


def folder(parent: Path, model_type: str) -> Path:
    """A tiny checkpoint of an architecture, with byte tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer.tiny(conv_kernel=0, tie_word_embeddings=True)
    save_checkpoint(model, parent / model_type, dtype="float32", extra={"tokenizer": "bytes", "train_ctx": 1024})
    path = parent / model_type / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": model_type}))
    return parent / model_type


def cells(path: Path, *, ctx: str = "1k", unchecked: bool = False) -> tuple[Cell, ...]:
    text = path.parent / "text.txt"
    text.write_bytes(bytes(range(97, 123)) * 120)
    params = {"protocol": "packed", "limit": 1}
    asked = Options(checkpoints=(str(path),), ctx=ctx, corpus=f"text:{text}", params=params, unchecked=unchecked)
    return plan_task("perplexity", asked).cells


def run(path: Path, *, ctx: str = "1k", unchecked: bool = False) -> CellRecord:
    asked = cells(path, ctx=ctx, unchecked=unchecked)
    return run_cell(asked[-1], group=Group(asked), channel=Silent())


def test_a_model_that_looks_ahead_from_token_600_is_refused_by_the_probe_s_name(tmp_path: Path) -> None:
    record = run(folder(tmp_path, "looks-ahead"))
    assert (record.status, record.samples, record.checked) == ("unsupported", (), "failed")
    assert str(record.reason).startswith("probe 'later_tokens' failed: losses of 1024 tokens up to token ")
    assert "--unchecked" in str(record.reason)
    assert not record.evidence


def test_a_sound_model_is_scored_and_its_row_says_how_far_was_looked(tmp_path: Path) -> None:
    record = run(folder(tmp_path, "llama"))
    assert (record.status, record.checked, record.kernel_path["probed_tokens"]) == ("ok", "passed", "1024")


def test_what_a_plug_in_raises_is_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    record = run(folder(tmp_path, "raises"))
    assert (record.status, record.evidence) == ("unsupported", ())
    assert str(record.reason).startswith("probe 'interface' failed: the model raised TypeError: unsupported operand;")


def test_what_is_asked_for_unchecked_is_scored_and_marked(tmp_path: Path) -> None:
    path = folder(tmp_path, "looks-ahead")
    record = run(path, unchecked=True)
    assert (record.status, record.checked) == ("ok", "unchecked")
    frame = rows.frame(collected.table([record]))
    assert frame["checked"].tolist() == ["unchecked"] * len(frame)
    table = summarise(frame)
    assert set(table.loc[table["checkpoint"].notna(), "checked"]) == {"unchecked"}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(table))
    text = console.export_text()
    assert "!" in next(line for line in text.splitlines() if "looks-ahead" in line)
    assert "! unchecked: scored on request" in " ".join(text.split())


def test_the_figure_of_an_unchecked_model_says_so(tmp_path: Path) -> None:
    path = folder(tmp_path, "llama")
    records = [run(path, ctx=ctx, unchecked=True) for ctx in ("256", "512")]
    drawn = draw_curves(
        "bits per byte",
        [
            entry
            for entry in words.records(summarise(rows.frame(collected.table(records))))
            if entry["metric"] == METRIC
        ],
        beneath=(),
        names=["llama"],
        log_y=False,
    )
    text = [each.get_text() for each in (*drawn.texts, *drawn.axes[0].texts)]
    assert any(each.startswith("llama") and each.endswith(" !") for each in text)
    assert any("! unchecked: scored on request" in each for each in text)


def test_what_was_measured_unchecked_is_not_pooled_with_the_same_after_its_probes(tmp_path: Path) -> None:
    path = folder(tmp_path, "llama")
    both = rows.frame(collected.table([run(path), run(path, unchecked=True)]))
    alone = rows.frame(collected.table([run(path)]))
    assert (
        summarise(both)
        .loc[:, ["value", "num_samples", "checked"]]
        .equals(summarise(alone).loc[:, ["value", "num_samples", "checked"]])
    )


def test_lm_eval_refuses_what_looks_ahead(tmp_path: Path) -> None:
    path = folder(tmp_path, "looks-ahead")
    with pytest.raises(UnsupportedError, match="probe 'later_tokens' failed"):
        open_parts(Settings(checkpoint=str(path)))
    assert open_parts(Settings(checkpoint=str(path), unchecked=True)).engine.name == "eager"
    with pytest.raises(UsageError, match="unchecked=perhaps must be True or False"):
        Settings.read({"checkpoint": str(path), "unchecked": "perhaps"}, {})


def test_an_unchecked_cell_never_answers_for_a_checked_one(tmp_path: Path) -> None:
    path = folder(tmp_path, "llama")
    asked, unchecked = cells(path)[0], cells(path, unchecked=True)[0]
    assert asked.cell_id != unchecked.cell_id
    assert "unchecked" not in asked.identity()
    assert Cell.from_json(json.loads(json.dumps(unchecked.to_json()))) == unchecked


def test_a_finding_is_kept_and_asked_again_only_where_more_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = probing.probe

    def counting(engine: Any, **options: Any) -> Any:
        asked.append(options["looked"])
        return whole(engine, **options)

    monkeypatch.setattr(probing, "probe", counting)
    path = folder(tmp_path, "looks-ahead")
    assert run(path, ctx="512").checked == "passed"
    assert run(path, ctx="512").checked == "passed"
    assert asked == [512]
    assert run(path, ctx="1k").checked == "failed"
    assert asked == [512, 1024]
    # what failed fails however far is looked
    assert run(path, ctx="512").checked == "failed"
    assert asked == [512, 1024]
    notes = list((tmp_path / "cache").rglob("findings/*.json"))
    assert len(notes) == 1
    # a note that somebody wrote over is no finding
    notes[0].write_text(notes[0].read_text().replace('"later_tokens"', "null"))
    assert run(path, ctx="1k").checked == "failed"
    assert asked == [512, 1024, 1024]


def test_without_a_folder_that_can_be_written_every_process_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise CacheError("no home")

    (tmp_path / "file").write_text("")
    path = folder(tmp_path, "looks-ahead")
    for place in (lambda: tmp_path / "file", nowhere):
        monkeypatch.setattr(findings, "cache_folder", place)
        assert run(path).checked == "failed"


def test_probes_read_a_twentieth_of_the_run_or_the_near_text() -> None:
    # 4,096 tokens are always affordable
    assert findings.affordable(600, num_tokens=1000) == 600
    assert findings.affordable(33_000, num_tokens=1000) == 4096
    for reach, num_tokens in ((33_000, 10**6), (33_000, 2 * 10**6), (131_072, 10**7)):
        looked = findings.affordable(reach, num_tokens=num_tokens)
        assert 4096 < looked <= reach
        # three readings of the near text, one of the rest, and what is repeated of it
        assert 3 * 4096 + 1.3 * looked <= 0.05 * num_tokens + 1


def test_a_cell_that_reads_further_than_was_looked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "affordable", lambda reach, num_tokens: 500)
    record = run(folder(tmp_path, "looks-ahead"))
    assert (record.status, record.checked, record.kernel_path["probed_tokens"]) == ("ok", "partly", "500")
    table = summarise(rows.frame(collected.table([record])))
    assert set(table.loc[table["checkpoint"].notna(), "checked"]) == {"partly"}


def test_rows_from_before_the_probes_make_the_same_table_as_ever() -> None:
    frame = pd.DataFrame({"task": ["t"], "checkpoint": ["a"], "status": ["ok"], "hits": [1], "trials": [2]})
    metric = {"name": "hits", "label": "hits", "unit": "1", "better": "higher", "statistic": "ratio"}
    metric |= {"numerator": "hits", "denominator": "trials", "axes": [], "where": {}, "scale": 1.0, "cluster": None}
    frame["cell_id"], frame["sample"] = "c", 0
    frame.attrs["metrics"] = {"t": [metric]}
    assert "checked" not in summarise(frame)


def test_the_command_line_suites_and_python_say_unchecked_alike(tmp_path: Path) -> None:
    request = Request(target="perplexity", options=Options(unchecked=True), out=Path("runs"))
    assert request.command() == "ttbench run perplexity --unchecked"
    suite = tmp_path / "s.yaml"
    suite.write_text("title: t\nunchecked: true\ntasks:\n  - task: needle\n")
    assert load_suite(suite).tasks[0].options.get("unchecked") is True
    suite.write_text("title: t\nunchecked: maybe\ntasks:\n  - task: needle\n")
    with pytest.raises(SuiteError, match="'unchecked' must be true or false"):
        load_suite(suite)
    command = ["plan", "latency", "--checkpoint", "ttt-linear", "--ctx", "1k", "--unchecked", "--json"]
    shown = CliRunner().invoke(app, command)
    assert json.loads(shown.stdout)["command"].endswith("--unchecked")
