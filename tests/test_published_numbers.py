"""Published numbers have one form, whatever paper they are from."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "results" / "published"
COLUMNS = ["paper", "table", "model", "method", "variant", "benchmark", "metric", "value", "unit", "num_params"]
COLUMNS += ["source", "evidence"]
KEY = ("table", "model", "method", "variant", "benchmark", "metric")
FILES = sorted(FOLDER.glob("*.csv"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_one_number_with_its_source(path: Path) -> None:
    rows = read(path)
    assert rows
    for row in rows:
        assert row["paper"] == path.stem
        assert re.fullmatch(r"-?\d+(\.\d+)?", row["value"]), row
        assert re.fullmatch(r"\d*", row["num_params"]), row
        assert row["source"].startswith(("arXiv ", "https://")), row
        assert row["evidence"] in ("read", "second-hand"), row
        assert all(row[name] for name in ("table", "method", "benchmark", "metric", "unit")), row
        assert row["unit"] != "%" or 0 <= float(row["value"]) <= 100
    keys = [tuple(row[name] for name in KEY) for row in rows]
    assert len(set(keys)) == len(keys), "a number is given twice"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_in_the_index(path: Path) -> None:
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_svf_keeps_what_the_base_can_do_and_lora_loses_some_of_it() -> None:
    rows = [row for row in read(FOLDER / "transformer-squared.csv") if row["table"] == "1"]
    values = {(row["method"], row["model"], row["benchmark"]): float(row["value"]) for row in rows}
    base = {key[1:]: value for key, value in values.items() if key[0] == "base"}
    svf, lora = ([values[name, *key] / value for key, value in base.items()] for name in ("svf", "lora"))
    assert len(base) == 9
    # gains nearly everywhere and no loss beyond a hundredth, while LoRA falls on the largest model
    assert min(svf) > 0.99
    assert sum(ratio > 1 for ratio in svf) >= 7
    assert max(lora[6:8]) < 0.92


def test_the_tables_on_adaptation_have_no_holes() -> None:
    rows = read(FOLDER / "transformer-squared.csv")
    held: dict[tuple[str, str, str, str], set[str]] = {}
    for row in rows:
        if row["unit"] == "%" and row["table"] != "text":
            held.setdefault((row["table"], row["model"], row["method"], row["variant"]), set()).add(row["benchmark"])
    wanted = {
        "1": {"GSM8K", "MBPP-Pro", "ARC-Easy"},
        "2": {"MATH", "HumanEval", "ARC-Challenge"},
        "4": {"GSM8K", "MATH"},
    }
    assert {line: found for line, found in held.items() if found != wanted[line[0]]} == {}
    # three models with base, LoRA and SVF; two with five lines and one with three; eight lines of the ablation
    assert [sum(line[0] == table for line in held) for table in wanted] == [9, 13, 8]
