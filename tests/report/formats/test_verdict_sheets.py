"""`ttbench compare --format` and `ttbench figures --format`: the tables and nothing else, in one unit a column."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, Model, make_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.report import words
from ttbench.report.formats.verdict_sheets import comparison_sheet, verdict_sheets
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head
from ttbench.report.published import ROWS, rows_bytes

MIDDLE = Model(name="middle", bits=1.56, loss=0.3, speed=1.2)
MODELS = [TRANSFORMER, TTT, MIDDLE]
FOREIGN = Path(__file__).parents[2] / "golden" / "foreign"


def made(models: list[Model] = MODELS) -> pd.DataFrame:
    contexts = (512, 4096)
    return make_rows(perplexity_rows(models, contexts, num_documents=12), timing_rows(models, contexts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("results") / "made" / "cpu"
    place.mkdir(parents=True)
    (place / ROWS).write_bytes(rows_bytes(made()))
    return place


@pytest.fixture(scope="module")
def found() -> HeadToHead:
    return head_to_head(made())


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "40"})


def test_csv_holds_every_comparison_unrounded_and_the_leaderboard_beside_them(folder: Path, found: HeadToHead) -> None:
    done = invoke("compare", "--run", str(folder), "--format", "csv")
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(dict.fromkeys(line["table"] for line in lines)) == ["comparison", "place", "crossing", "front"]
    told = json.loads(invoke("compare", "--run", str(folder), "--json").stdout)
    comparisons = [line for line in lines if line["table"] == "comparison"]
    assert [(line["a"], line["b"], line["metric"], line["verdict"]) for line in comparisons] == [
        (entry["a"], entry["b"], entry["metric"], entry["verdict"]) for entry in told["comparisons"]
    ]
    assert [float(line["effect"]) for line in comparisons] == [entry["effect"] for entry in told["comparisons"]]
    places = [line for line in lines if line["table"] == "place"]
    assert [(line["checkpoint"], float(line["value"]), int(line["worst"])) for line in places] == [
        (place["name"], place["value"], place["worst"]) for board in told["leaderboard"] for place in board["places"]
    ]
    assert len([line for line in lines if line["table"] == "crossing"]) == len(found.crossings)
    fronts = [line for line in lines if line["table"] == "front"]
    assert len(fronts) == sum(len(front.members) for front in found.fronts)
    assert {line["cost_unit"] for line in fronts if line["cost"] == "prefill_s"} == {"s"}


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_output_is_tables_alone_and_remarks_go_elsewhere(folder: Path, form: str) -> None:
    done = invoke("compare", "--run", str(folder), "--format", form)
    assert done.exit_code == 0, done.output
    allowed = r"(\|.*\||\*\*.*\*\*|)" if form == "markdown" else r"(%.*|\\(begin|end)\{tabular\}.*|\\\w+rule|.*\\\\|)"
    assert [line for line in done.stdout.splitlines() if not re.fullmatch(allowed, line)] == []
    assert "training noise not known" in " ".join(done.stderr.split())
    assert "leaderboard: bits per byte at 512 tokens" in done.stdout


def test_a_pair_has_no_leaderboard_and_says_what_is_compared(folder: Path) -> None:
    done = invoke("compare", "ttt-linear", "transformer", "--run", str(folder), "--format", "markdown")
    assert "leaderboard" not in done.stdout
    assert "| value of a (bits per byte) | value of b (bits per byte) | a - b (bits per byte) |" in done.stdout
    assert "| value of a (ms) | value of b (ms) | a / b (times) | low (times) | high (times) |" in done.stdout


def test_verdicts_name_the_winner_and_a_restated_metric_is_judged_once(found: HeadToHead) -> None:
    tables = {table.title.partition(" (")[0]: table for table in verdict_sheets(found)[0].printed}
    bits = tables["perplexity: bits per byte"]
    verdicts = {row[bits.heads.index("verdict")] for row in bits.rows}
    assert verdicts <= {f"{model.name} better" for model in MODELS} | {"no difference shown"}


def test_a_metric_that_restates_another_one_says_where_it_is_judged(found: HeadToHead) -> None:
    entries = words.records(found.verdicts)
    restated = [
        entry
        | ({"restates": "bits_per_byte", "verdict": "see bits_per_byte"} if entry["metric"] == "perplexity" else {})
        for entry in entries
        if entry["task"] == "perplexity"
    ]
    bits, other = comparison_sheet(restated).printed
    assert {row[other.heads.index("verdict")] for row in other.rows} == {"see bits per byte"}
    assert "see bits per byte" not in {row[bits.heads.index("verdict")] for row in bits.rows}


def test_crossings_stand_apart_from_pairs_without_one(found: HeadToHead) -> None:
    shown, none = verdict_sheets(found)[2].printed
    assert len(shown.rows) == sum(one.context_len is not None for one in found.crossings) > 0
    assert len(shown.rows) + len(none.rows) == len(found.crossings)
    assert "ahead before" not in none.heads
    assert [head for head in shown.heads if "(tokens)" in head] == [
        f"{name} (tokens)" for name in ("crossing", "low", "high", "compared from", "compared to")
    ]


def test_what_could_not_be_compared_has_no_number() -> None:
    apart = made([TRANSFORMER, TTT])
    apart.loc[(apart["checkpoint"] == TTT.name) & (apart["task"] == "latency"), "machine"] = "another"
    (prefill,) = (
        table
        for table in verdict_sheets(head_to_head(apart))[0].printed
        if table.title.startswith("latency: prefill (")
    )
    place = prefill.heads.index("verdict")
    assert all(row[place].startswith("not comparable (") for row in prefill.rows)
    assert all(row[place - 3 : place] == ["", "", ""] for row in prefill.rows)


def test_logs_of_other_tools_have_the_same_formats() -> None:
    sides = [str(path) for path in sorted((FOREIGN / "lm-eval").iterdir()) if path.is_dir()][:2]
    done = invoke("compare", "--from", *sides, "--format", "csv")
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    told = json.loads(invoke("compare", "--from", *sides, "--json").stdout)["comparisons"]
    assert [(line["benchmark"], line["metric"], float(line["effect"])) for line in lines] == [
        (entry["benchmark"], entry["metric"], entry["effect"]) for entry in told
    ]
    text = invoke("compare", "--from", *sides, "--format", "latex").stdout
    assert text.count(r"\toprule") == len({line["metric"] for line in lines})
    assert "benchmark" in text


@pytest.mark.parametrize("words", [("compare",), ("figures",)])
def test_a_format_that_there_is_not_is_refused_before_anything_is_read(words: tuple[str, ...]) -> None:
    done = invoke(*words, "--format", "markdow")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "did you mean 'markdown'" in " ".join(done.stderr.split())


def test_compare_gives_one_form_at_a_time(folder: Path) -> None:
    done = invoke("compare", "--run", str(folder), "--format", "csv", "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "leave one of them out" in " ".join(done.stderr.split())


def test_figures_write_their_tables_in_a_format_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttbench.report.published.draw_all", lambda table, folder, warn, failed: [])
    rows = make_rows(perplexity_rows([TRANSFORMER, TTT], (512,), num_documents=12))
    (tmp_path / ROWS).write_bytes(rows_bytes(rows))
    short = {path.name: path.read_bytes() for path in _listed("figures", str(tmp_path))}
    files = {path.name: path.read_bytes() for path in _listed("figures", str(tmp_path), "--format", "latex")}
    assert files.keys() - short.keys() == {"table.tex", "comparisons.tex"}
    assert {name: files[name] for name in short} == short
    assert b"a - b (bits per byte)" in files["comparisons.tex"]
    whole = {path.name: path.read_text() for path in _listed("figures", str(tmp_path), "--format", "csv")}
    # tables of the earlier call would stand beside numbers of this one
    assert not list(tmp_path.glob("*.tex"))
    assert whole.keys() == short.keys()
    rounded = pd.read_csv(io.StringIO(short["table.csv"].decode()))["value"]
    exact = pd.read_csv(io.StringIO(whole["table.csv"]))["value"]
    assert exact.map("{:.6g}".format).astype(float).tolist() == rounded.tolist() != exact.tolist()


def _listed(*words: str) -> list[Path]:
    done = invoke(*words, "--json")
    assert done.exit_code == 0, done.output
    return list(map(Path, json.loads(done.stdout)))
