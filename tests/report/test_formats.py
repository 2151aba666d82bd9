"""Tables for papers and pages: what a format reads back is what the summary holds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from rows import TTT, make_rows, needle_rows, perplexity_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.report.formats import formatted
from ttbench.report.table import summarise

ROOT = Path(__file__).parents[2]
ODD = "a_b|c & 5% \\x ~^#"


@pytest.fixture(scope="module")
def odd() -> pd.DataFrame:
    rows = make_rows(perplexity_rows([TTT], (512,), num_documents=12), needle_rows([TTT], (512,)))
    rows["checkpoint"] = ODD
    return summarise(rows)


def test_csv_is_read_back_without_rounding(odd: pd.DataFrame) -> None:
    found = list(csv.DictReader(io.StringIO(formatted(odd, "csv"))))
    assert [float(row["value"]) for row in found if row["value"]] == odd["value"].dropna().tolist()
    assert {row["checkpoint"] for row in found} == {ODD, ""}


def test_names_cannot_break_a_markdown_table(odd: pd.DataFrame) -> None:
    lines = formatted(odd, "markdown").splitlines()
    assert len(lines) == len(odd) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}


def test_latex_is_booktabs_with_every_special_letter_escaped(odd: pd.DataFrame) -> None:
    text = formatted(odd, "latex")
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(word) == 1
    assert r"a\_b|c \& 5\% \textbackslash{}x \textasciitilde{}\textasciicircum{}\#" in text
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(body) == len(odd)
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1


def test_the_command_prints_published_results_and_refuses_what_is_no_format() -> None:
    bench = str(ROOT / "results/bench/cpu")
    done = CliRunner().invoke(app, ["show", bench, "--format", "csv"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("task,metric,checkpoint")
    assert "did you mean 'latex'" in CliRunner().invoke(app, ["show", bench, "--format", "latx"]).stderr
    assert CliRunner().invoke(app, ["show", bench, "--format", "csv", "--json"]).exit_code == 2
