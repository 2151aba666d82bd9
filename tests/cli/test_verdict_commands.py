"""`ttbench compare` on made-up rows: any number of checkpoints, what it refuses, and what machines read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rows import TRANSFORMER, TTT, Model, make_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

import ttbench
from ttbench.cli.app import app
from ttbench.errors import UsageError
from ttbench.report.published import ROWS, rows_bytes

MIDDLE = Model(name="middle", bits=1.56, loss=0.3, speed=1.2)


def results(folder: Path, *records: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True)
    (folder / ROWS).write_bytes(rows_bytes(make_rows(*records)))
    return str(folder)


@pytest.fixture
def three(tmp_path: Path) -> str:
    models = [TRANSFORMER, TTT, MIDDLE]
    return results(
        tmp_path / "results/made/cpu", perplexity_rows(models, (512, 4096)), timing_rows(models, (512, 4096))
    )


def invoke(*words: str, width: int = 80) -> Any:
    return CliRunner().invoke(app, ["compare", *words], env={"COLUMNS": str(width), "TERM": "dumb"})


def test_without_names_all_are_compared_and_json_has_everything(three: str) -> None:
    told = json.loads(invoke("--run", three, "--json").stdout)
    assert told["names"] == ["transformer", "ttt-linear", "middle"]
    bits = [entry for entry in told["comparisons"] if entry["metric"] == "bits_per_byte"]
    assert {(entry["num_points"], entry["family"]) for entry in bits} == {(6, "perplexity: bits_per_byte")}
    assert {entry["said"] for entry in bits} <= {f"{name} better" for name in told["names"]} | {"no difference shown"}
    crossing = next(one for one in told["crossings"] if one["metric"] == "bits_per_byte" and one["context_len"])
    assert (crossing["first"], crossing["then"]) == ("transformer", "ttt-linear")
    assert 512 < crossing["low"] < crossing["context_len"] < crossing["high"] < 4096
    assert {place["name"] for place in told["leaderboard"][0]["places"]} == set(told["names"])
    assert {front["cost"] for front in told["fronts"]} >= {"prefill_s", "state_bytes"}
    names = invoke("middle", "transformer", "--run", three, "--json")
    assert json.loads(names.stdout)["names"] == ["middle", "transformer"]


@pytest.mark.parametrize("width", [60, 80])
def test_three_are_read_in_a_narrow_terminal(three: str, width: int) -> None:
    done = invoke("--run", three, width=width)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(done.stdout.split())
    assert "checkpoints that share a letter at a context are not shown to differ" in text
    assert "ttt-linear is better than transformer from" in text
    assert "(95% interval" in text


def test_help_says_that_names_may_be_left_out() -> None:
    assert "compare [OPTIONS] [NAME]" in invoke("--help").stdout


def test_one_name_is_refused(three: str) -> None:
    done = invoke("middle", "--run", three)
    assert done.exit_code == 2
    assert "'middle' alone cannot be compared" in " ".join(done.stderr.split())


def test_nothing_comparable_is_bad_input_and_something_is_an_answer(tmp_path: Path) -> None:
    other = dataclasses.replace(TTT, settings={"machine": "m2"})
    apart = results(tmp_path / "results/apart/cpu", timing_rows([TRANSFORMER, other], [512]))
    done = invoke("--run", apart)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "nothing of 'transformer' and 'ttt-linear' can be compared: settings differ: machine m1 and m2" in said
    lost = dataclasses.replace(TTT, failures={4096: ("oom", "MemoryError")})
    some = results(tmp_path / "results/some/cpu", perplexity_rows([TRANSFORMER, lost, MIDDLE], [512, 4096]))
    done = invoke("--run", some, width=200)
    assert done.exit_code == 0
    assert "not comparable at 4k, ttt-linear: oom" in done.stdout


def test_without_runs_it_says_how_to_start(tmp_path: Path) -> None:
    done = invoke("--out", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "nothing has been measured yet" in " ".join(done.stderr.split())


def test_python_gives_the_same(tmp_path: Path) -> None:
    rows = make_rows(perplexity_rows([TRANSFORMER, TTT, MIDDLE], (512, 4096)))
    found = ttbench.head_to_head(rows=rows)
    assert found.names == ("transformer", "ttt-linear", "middle")
    pair = ttbench.head_to_head(["transformer", "ttt-linear"], rows)
    both = ttbench.compare("transformer", "ttt-linear", rows)
    assert pair.verdicts["verdict"].tolist() == both["verdict"].tolist()
    assert pair.verdicts["joint_p"].tolist() == both["joint_p"].tolist()
    with pytest.raises(UsageError, match="nothing has been measured yet"):
        ttbench.head_to_head(out=tmp_path / "none")
