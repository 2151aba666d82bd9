"""docs/add-an-architecture.md does what it says: its files are installed, and its commands typed, in order."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-an-architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (\S+\.\w+)\n", text))}
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, built by its own build backend and installed offline into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "ttbench_fading.py"):
        (source / name).write_text(FILES[name], encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return target


@pytest.fixture
def package(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed folder, on the path of this process and of its workers."""
    monkeypatch.syspath_prepend(str(installed))
    importlib.invalidate_caches()
    return installed


def test_the_page_has_its_files_and_ends_with_a_row() -> None:
    assert list(FILES) == ["pyproject.toml", "ttbench_fading.py", "recipe.yaml"]
    assert [line.split()[:2] for line in COMMANDS] == [
        ["pip", "install"],
        ["ttbench", "list"],
        ["ttbench", "check"],
        ["ttbench", "train"],
        ["ttbench", "check"],
        ["ttbench", "run"],
    ]


def test_its_commands_lead_from_the_package_to_a_row_in_the_table(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tests/training/test_train.py has the card, whose scores take most of the time
    monkeypatch.setattr("ttbench.training.card._scores", lambda checkpoint, kinds, context_len, share: "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(FILES["recipe.yaml"], encoding="utf-8")
    outputs: list[Any] = []
    for words in (shlex.split(line)[1:] for line in COMMANDS if line.startswith("ttbench")):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output, result.exception)
        outputs.append(result.output)
    listed, tiny, trained, checked, table = outputs
    assert "fading" in listed
    assert "write_and_load" in tiny
    assert "loss" in trained
    assert "perplexity" in checked
    # each has a number for each context in the table, which is what comes last; progress has numbers too
    bits = table.rpartition("bits per byte (lower is better)")[2]
    for name in ("fading", "ttt-linear"):
        assert re.search(rf"^ +(zoo/)?{name} .*\d\.\d\d+ .*\d\.\d\d+", bits, re.M), table
    assert "unsupported" not in table


def test_conformance_takes_it_up_by_itself(package: Path) -> None:
    path = os.pathsep.join([str(package), str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "tests/conformance", "-k", "fading"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "TTBENCH_TEST_PLUG_INS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    # each test that is given a model is given this one
    tree = ast.parse((ROOT / "tests/conformance/test_conformance.py").read_text("utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    wanted = {each.name for each in functions if {"case", "model"} & {argument.arg for argument in each.args.args}}
    passed = {match[1] for match in re.finditer(r"^PASSED \S*::(test_\w+)\[.*\bfading\b", done.stdout, re.MULTILINE)}
    # an oracle for it would be a file of the tests
    assert wanted - passed == {"test_logits_equal_those_of_the_numpy_oracle"}
    assert len(wanted) > 12
