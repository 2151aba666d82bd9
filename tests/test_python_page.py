"""docs/python.md is typed as it stands, in one process and an empty folder; docs/suites.md has every key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ttbench
from ttbench.errors import UsageError
from ttbench.runs.options import flags
from ttbench.runs.suite import load_suite

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_about_python_does_what_it_says(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.S))
    assert code.count("ttbench.") >= 7
    ends = """
assert set(rows["checkpoint"]) == {"ttt-linear"} and len(plan.cells) == 4
assert len(numbers) and {"value", "low", "high"} <= set(numbers.columns)
assert len(found) and {path.suffix for path in files} >= {".png", ".svg"} and all(path.is_file() for path in files)
assert logits.shape == (1, 257)
"""
    done = subprocess.run(
        [sys.executable, "-c", code + ends], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_page_about_suites_has_every_key_and_a_suite_that_reads(tmp_path: Path) -> None:
    page = (DOCS / "suites.md").read_text(encoding="utf-8")
    table = page[page.index("| key |") :]
    for name, flag in flags().items():
        assert f"`{name}`" in table, name
        assert f"`{flag.spelt(name)}" in table, name
    path = tmp_path / "x.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", page, re.S)[0])
    first, second = load_suite(path).tasks
    assert (first.options["seed"], second.options["batch_size"]) == ([0, 1], [1, 4])  # type: ignore[typeddict-item]


def test_compare_from_python_says_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no-such-model"):
        ttbench.compare("no-such-model", "ttt-linear")


def test_the_interface_is_what_the_package_says() -> None:
    assert all(callable(getattr(ttbench, name)) for name in ttbench.__all__ if name != "__version__")
