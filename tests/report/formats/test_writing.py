"""Tables for papers and pages: what a format reads back is what the summary holds, whatever the names are."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rows import TTT, make_rows, needle_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.report.formats.number_sheets import number_sheet
from ttbench.report.formats.writing import Printed, RecordSheet, written
from ttbench.report.table import summarise

ROOT = Path(__file__).parents[3]
ODD = "[a_b|c] & 5% *\\x ~^#<y>"


@pytest.fixture(scope="module")
def odd() -> pd.DataFrame:
    rows = make_rows(
        perplexity_rows([TTT], (512,), num_documents=12), needle_rows([TTT], (512,)), timing_rows([TTT], (512,))
    )
    rows["checkpoint"] = ODD
    return summarise(rows)


def test_csv_is_read_back_without_rounding(odd: pd.DataFrame) -> None:
    found = list(csv.DictReader(io.StringIO(written([number_sheet(odd)], "csv"))))
    assert [float(row["value"]) for row in found if row["value"]] == odd["value"].dropna().tolist()
    assert [row["unit"] for row in found] == odd["unit"].tolist()
    assert {row["checkpoint"] for row in found} == {ODD, ""}


def test_names_cannot_break_a_markdown_table(odd: pd.DataFrame) -> None:
    tables = written([number_sheet(odd)], "markdown").split("\n**")
    assert len(tables) == len(odd[["task", "metric"]].drop_duplicates())
    rows = 0
    for table in tables:
        _, _, *lines = table.splitlines()
        rows += len(lines) - 2
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert rows == len(odd)


def test_latex_is_booktabs_with_every_special_letter_escaped(odd: pd.DataFrame) -> None:
    text = written([number_sheet(odd)], "latex")
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(word) == len(odd[["task", "metric"]].drop_duplicates())
    assert text.count("usepackage") == 1
    escaped = r"{[}a\_b\textbar{}c] \& 5\% {*}\textbackslash{}x "
    escaped += r"\textasciitilde{}\textasciicircum{}\#\textless{}y\textgreater{}"
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        lines = body.strip().splitlines()
        assert len({line.replace(r"\&", "").count("&") for line in lines}) == 1
        assert all(line.startswith(escaped) for line in lines if "{[}" in line)


def test_a_column_has_one_unit_and_says_it(odd: pd.DataFrame) -> None:
    heads = {table.title.partition(" (")[0]: table.heads for table in number_sheet(odd).printed}
    assert [head for head in heads["needle: needles retrieved"] if "%" in head] == ["value (%)", "low (%)", "high (%)"]
    assert "value (ms)" in heads["latency: prefill"]
    assert "value (bits per byte)" in heads["perplexity: bits per byte"]
    (prefill,) = (table for table in number_sheet(odd).printed if table.title.startswith("latency: prefill (ms"))
    raw = odd.loc[odd["metric"] == "prefill_s", "value"].tolist()
    assert [float(row[prefill.heads.index("value (ms)")]) for row in prefill.rows] == pytest.approx(
        [1000 * value for value in raw], rel=1e-2
    )


def test_what_has_no_number_is_told_by_its_status_and_never_by_a_number(odd: pd.DataFrame) -> None:
    lost = odd.copy()
    lost.attrs = odd.attrs
    for name, value in {"value": pd.NA, "low": pd.NA, "high": pd.NA, "status": "oom", "reason": "3 GiB"}.items():
        lost.loc[lost["metric"] == "prefill_s", name] = value
    (row,) = next(table for table in number_sheet(lost).printed if table.title.startswith("latency: prefill (")).rows
    assert row[-1] == "oom: 3 GiB"
    assert set(row[2:-1]) == {""}


def test_what_must_be_said_of_a_number_stands_beside_it() -> None:
    rows = make_rows(perplexity_rows([TTT], (512, 8192), num_documents=12))
    rows["checked"] = "unchecked"
    bits = number_sheet(summarise(rows)).printed[0]
    assert bits.title.startswith("perplexity: bits per byte")
    assert [row[-1] for row in bits.rows if row[0] == TTT.name] == [
        "unchecked",
        "beyond the training context; unchecked",
    ]


def test_minus_is_a_sign_in_latex_and_empty_columns_are_left_out() -> None:
    table = Printed(title="t", heads=["a", "b", "c"], rows=[["-1.5", "", "x-y"], ["2,000", "", ""]])
    text = written([RecordSheet(kind="number", records=[], printed=[table])], "latex")
    assert "\\begin{tabular}{rl}" in text
    assert "$-$1.5 & x-y \\\\\n2,000 &  \\\\" in text


def test_several_sheets_are_one_csv_table() -> None:
    sheets = [
        RecordSheet(kind="one", records=[{"a": 1, "b": 0.1}], printed=[]),
        RecordSheet(kind="two", records=[{"b": 0.2, "c": "x"}], printed=[]),
    ]
    assert written(sheets, "csv") == "table,a,b,c\none,1,0.1,\ntwo,,0.2,x\n"


def test_the_command_prints_published_results_and_refuses_what_is_no_format() -> None:
    bench = str(ROOT / "results/bench/cpu")
    done = CliRunner().invoke(app, ["show", bench, "--format", "csv", "--checkpoint", "ttt-linear"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("task,metric,checkpoint")
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["checkpoint"] for row in found} == {"ttt-linear", ""}
    for words, told in {
        ("--format", "latx"): "did you mean 'latex'",
        ("--format", "csv", "--json"): "leave out CELL, --sample and --json",
        ("--format", "csv", "--checkpoint", "ttt-linea"): "did you mean 'ttt-linear'",
        ("--checkpoint", "ttt-linear"): "add --format markdown|latex|csv|model-index",
    }.items():
        refused = CliRunner().invoke(app, ["show", bench, *words])
        assert refused.exit_code == 2
        assert told in " ".join(refused.stderr.split())
        assert refused.stdout == ""
