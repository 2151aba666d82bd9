"""`ttbench lm-eval`: which arguments lm-eval gets, and what comes of its errors."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.cli.commands.lm_eval_command import complete
from ttbench.errors import UsageError
from ttbench.lmeval.evaluation import OWN_TASKS

OURS = ["--model", "ttbench", "--device", "cpu", "--include_path", str(OWN_TASKS)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--tasks", "piqa"], ["run", "--tasks", "piqa", *OURS]),
        (
            ["run", "--tasks=piqa", "--device", "cuda:1"],
            ["run", "--tasks=piqa", "--device", "cuda:1", *OURS[:2], *OURS[4:]],
        ),
        (["--model", "hf", "--tasks", "piqa"], ["run", "--model", "hf", "--tasks", "piqa", *OURS[4:]]),
        (
            ["run", "--tasks", "mine", "--include_path", "."],
            ["run", "--tasks", "mine", "--include_path", ".", *OURS[:4]],
        ),
        (["run", "--config", "x.yaml"], ["run", "--config", "x.yaml"]),
        (["ls", "tasks"], ["ls", "tasks", *OURS[4:]]),
        (["run", "--help"], ["run", "--help"]),
        (["-h"], ["-h"]),
    ],
)
def test_our_model_and_tasks_are_there_unless_others_are_named(given: list[str], expected: list[str]) -> None:
    assert complete(given) == expected


@pytest.mark.parametrize("given", [["--use_cache", "x"], ["run", "--tasks", "piqa", "-c", "x"], ["--use_cache=x"]])
def test_a_cache_that_forgets_which_model_answered_is_refused(given: list[str]) -> None:
    with pytest.raises(UsageError, match="a second checkpoint is given those of the first"):
        complete(given)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval without its 14,683 tasks of its own, whose index takes seconds."""
    import lm_eval.tasks

    only = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", only)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["lm-eval", "--", *words])


@pytest.mark.usefixtures("quick")
def test_lm_eval_runs_on_a_checkpoint_and_prints_its_own_table(task_folder: Path) -> None:
    before = sys.argv
    arguments = "checkpoint=ttt-linear,threads=1"
    found = invoke("run", "--model_args", arguments, "--tasks", "tiny_choice", "--include_path", str(task_folder))
    assert found.exit_code == 0, found.output
    # With the widths of the columns that its version gives them.
    assert re.search(r"\|tiny_choice\| *1\.5\|none *\| *0\|acc *\|↑ *\|", found.stdout)
    assert sys.argv is before


@pytest.mark.usefixtures("quick")
def test_names_that_lm_eval_does_not_know_are_a_usage_error(task_folder: Path) -> None:
    found = invoke("--model_args", "checkpoint=ttt-linear", "--tasks", "tiny", "--include_path", str(task_folder))
    assert found.exit_code == 2
    assert "lm-eval refuses this: Tasks not found: tiny" in " ".join(found.stderr.split())


def test_nothing_to_run_is_a_usage_error_with_an_example() -> None:
    found = CliRunner().invoke(app, ["lm-eval"])
    assert found.exit_code == 2
    assert "--model_args checkpoint=ttt-linear" in " ".join(found.stderr.split())
