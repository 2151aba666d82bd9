"""docs/add-a-task.md does what it says: its files are installed, and its commands run, in order."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (\S+\.\w+)\n", text))}
COMMANDS = [shlex.split(line) for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's package, built by its own build backend, installed offline, and on the path of this process."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(target))
    importlib.invalidate_caches()
    return target


def test_the_page_leads_from_a_package_to_a_comparison(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(FILES) == ["pyproject.toml", "ttbench_twice.py"]
    assert COMMANDS[0] == ["pip", "install", "--no-deps", "."]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outputs = []
    for program, *words in COMMANDS[1:]:
        assert program == "ttbench"
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        outputs.append(done.output)
    listed, _, compared = outputs
    assert "twice" in listed
    assert "bits per byte, second reading" in compared
    (path,) = (tmp_path / "runs").glob("*/rows.parquet")
    rows = read_rows(path)
    assert len(rows) == 2 * 2 * 12
    # 255 bytes in two halves, the first byte of each left out; a model that can copy needs less for the second
    assert {row["num_bytes"] for row in rows.to_dict("records") if row["context_len"] == 256} == {126}
    first, second = (sum(rows[name].tolist()) for name in ("first_nats", "second_nats"))
    assert second < first
