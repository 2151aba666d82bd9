"""docs/ci.md: its commands are accepted, and its gate judges committed comparisons as the page says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from ttbench.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
(JOB,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
(GATE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
STEPS = {step["name"]: step.get("run") for step in yaml.safe_load(JOB)["jobs"]["compare"]["steps"] if "name" in step}


@pytest.fixture(scope="module")
def comparisons() -> list[dict[str, Any]]:
    """What `ttbench compare --json` prints of the zoo's published rows; the transformer is worse at every context."""
    words = ["compare", "transformer", "ttt-linear", "--run", str(ROOT / "results/bench/cpu"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["comparisons"]


def judge(comparisons: list[dict[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    """The step `gate` of the page, on these comparisons."""
    (folder / ".github").mkdir()
    (folder / ".github" / "gate.py").write_text(GATE, encoding="utf-8")
    (folder / "comparisons.json").write_text(json.dumps({"comparisons": comparisons}), encoding="utf-8")
    program, *words = shlex.split(STEPS["gate"])
    assert program == "python"
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)


def test_the_commands_of_the_job_are_accepted() -> None:
    group: Any = typer.main.get_command(app)
    commands = [shlex.split(STEPS[name].partition(" > ")[0]) for name in ("check", "measure", "compare")]
    assert [(words[0], words[1]) for words in commands] == [("ttbench", name) for name in ("check", "run", "compare")]
    for _, name, *rest in commands:
        group.commands[name].make_context(name, list(rest))


def test_a_candidate_that_is_worse_fails(comparisons: list[dict[str, Any]], tmp_path: Path) -> None:
    # the page's base is a; turned, these rows say that ttt-linear is the base and the transformer the candidate
    turned = {"a better": "b better", "b better": "a better"}
    done = judge([each | {"verdict": turned.get(each["verdict"], each["verdict"])} for each in comparisons], tmp_path)
    assert done.returncode == 1
    assert "the candidate is worse than the base" in done.stderr
    assert "bits_per_byte at 1024 tokens: a better" in done.stdout


def test_a_candidate_that_is_better_passes(comparisons: list[dict[str, Any]], tmp_path: Path) -> None:
    done = judge(comparisons, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte at 1024 tokens: b better" in done.stdout


@pytest.mark.parametrize("verdict", ["not judged", "not comparable"])
def test_what_cannot_be_judged_fails(comparisons: list[dict[str, Any]], tmp_path: Path, verdict: str) -> None:
    missing = {"verdict": verdict, "effect": None, "low": None, "high": None, "reason": "9 documents"}
    done = judge([each | missing for each in comparisons], tmp_path)
    assert done.returncode == 1
    assert f"tokens: {verdict} 9 documents" in done.stdout
    assert "not every comparison could be judged" in done.stderr


def test_nothing_in_common_fails(tmp_path: Path) -> None:
    assert judge([], tmp_path).returncode == 1


def test_the_page_names_fields_that_comparisons_have(comparisons: list[dict[str, Any]]) -> None:
    (table,) = re.findall(r"^## The fields of a comparison\n(.*)", PAGE, re.M | re.S)
    named = {word for row in re.findall(r"^\| (`.*?) \|", table, re.M) for word in re.findall(r"`(\w+)`", row)}
    assert len(named) > 15
    assert named <= set(comparisons[0])
