"""`make results`: what it asks for can be planned, times wait for a quiet machine, and rows are published whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, perplexity_rows

from ttbench.registry import TASKS
from ttbench.report.published import ROWS, outdated
from ttbench.runs.suite import find_suite, load_suite
from ttbench.runs.sweep import plan_target
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import results  # noqa: E402

sys.path.pop(0)


def test_what_is_published_is_made_by_the_goal() -> None:
    published = {path.parent.parent.name for path in (ROOT / "results").rglob(ROWS)}
    assert published <= {reference.name for reference in results.REFERENCES}


@pytest.mark.parametrize("reference", results.REFERENCES, ids=lambda reference: reference.name)
def test_each_can_be_planned_and_what_holds_times_is_marked(reference: Any, tmp_path: Path) -> None:
    plan = plan_target(reference.target, reference.python_options, out=tmp_path)
    assert plan.cells or all("genomes" in skip.reason for skip in plan.skips)
    entries = load_suite(find_suite(reference.name)).tasks
    timed = any(metric.name.endswith("_s") for entry in entries for metric in TASKS.load(entry.task).metrics)
    # memory is measured in processes of its own, which others disturb
    assert reference.timed == (timed or any(entry.task == "memory" for entry in entries))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that were run; rows of two models come from none."""
    lines: list[list[str]] = []
    rows = make_rows(perplexity_rows([TRANSFORMER, TTT], (512,), num_documents=12))

    def run(target: str, **options: Any) -> pd.DataFrame:
        assert target == lines[-1][1]
        return rows

    monkeypatch.setattr(results, "ttbench_command", lines.append)
    monkeypatch.setattr(results.ttbench, "run", run)
    return lines


def test_rows_are_published_whole_and_times_wait_for_a_quiet_machine(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "results"
    words = ["bench", "latency", "--runs", str(tmp_path / "runs"), "--to", str(to)]
    assert results.main(words, is_quiet=lambda: False) == 1
    assert [line[1:] for line in asked] == [
        ["suite:bench", "--checkpoint", "zoo", "--limit", "40", "--out", str(tmp_path / "runs")]
    ]
    assert len(read_rows(to / "bench" / "cpu" / ROWS)) == 48
    assert outdated(to / "bench" / "cpu") == []
    assert "not measured, because other programs run: latency" in " ".join(capsys.readouterr().err.split())
    assert results.main(words, is_quiet=lambda: True) == 0
    assert [line[1] for line in asked[1:]] == ["suite:bench", "suite:latency"]


def test_a_run_that_was_stopped_publishes_nothing_and_keeps_its_exit_code(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(words: list[str]) -> None:
        raise subprocess.CalledProcessError(130, words)

    monkeypatch.setattr(results, "ttbench_command", stopped)
    assert results.main(["bench", "--to", str(tmp_path / "results")]) == 130
    assert not (tmp_path / "results").exists()


def test_an_unknown_name_is_refused_before_anything_is_measured(
    asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        results.main(["bensh"])
    assert raised.value.code == 2
    assert "no reference result is called bensh; there are bench, long" in capsys.readouterr().err
    assert asked == []


def test_a_load_of_our_own_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([True, True, False])
    monkeypatch.setattr(results, "busy", lambda: next(loads))
    monkeypatch.setattr(results.time, "sleep", lambda seconds: None)
    assert results.quiet()
    monkeypatch.setattr(results, "busy", lambda: True)
    assert not results.quiet(within_s=-1.0)
