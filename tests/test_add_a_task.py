"""docs/add-a-task.md does what it says: its files are installed, and its commands typed, in order."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (\S+\.\w+)\n", text))}
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's package, built by its own build backend, on the path of this process and of its workers."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(target))
    importlib.invalidate_caches()


def test_its_commands_lead_from_the_package_to_a_table_a_figure_and_one_sample(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(FILES) == ["pyproject.toml", "ttbench_echo.py"]
    monkeypatch.chdir(tmp_path)
    outputs: list[Any] = []
    for words in (shlex.split(line)[1:] for line in COMMANDS if line.startswith("ttbench")):
        (rows,) = [*tmp_path.glob("runs/*-first/rows.parquet")] or [None]
        cell = "" if rows is None else read_rows(rows)["cell_id"].iloc[0]
        result = CliRunner().invoke(app, [cell if word == "CELL" else word for word in words])
        assert result.exit_code == 0, (words, result.output, result.exception)
        outputs.append(result.output)
    listed, table, shown, sample = outputs
    assert "echo" in listed
    for text in (table, shown):
        assert "repeated tokens recognised (%, higher is better)" in text
        assert re.search(r"transformer repetition 3 .*\d", text)
    (folder,) = tmp_path.glob("runs/*-first")
    assert {"echo.png", "echo_by_repetition.png", "table.csv"} <= {path.name for path in folder.iterdir()}
    # Whoever has the rows alone has the figures and knows the columns.
    rows = read_rows(folder / "rows.parquet")
    assert [figure["name"] for figure in rows.attrs["figures"]["echo"]] == ["echo", "echo_by_repetition"]
    assert rows["num_tokens"].tolist() == [16] * 12 + [32] * 12
    assert sum(rows["hits"].tolist()) > 0
    # 16 tokens of the block stand under each other, with what they cost, and the block itself beneath.
    block = re.search(r"block +([a-z]{16})\b", sample)
    assert block
    assert [int(code) for code in re.findall(r"^ *(\d+) +\d+\.\d{4} *$", sample, re.M)] == list(block[1].encode())
