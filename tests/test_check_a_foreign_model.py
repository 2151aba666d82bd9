"""docs/check-a-foreign-model.md: its package is installed, and finds in stand-ins the faults that it found in others.

The stand-ins (tests/fakes/peers) have the names, calls and faults of the packages. `make peers` runs the real ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app

ROOT = Path(__file__).parents[1]
STAND_INS = ("titans", "titans_pytorch")


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    """scripts/peers.py, which reads the page."""
    spec = importlib.util.spec_from_file_location("peers", ROOT / "scripts" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def installed(peers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, built by its own build backend and installed offline into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    peers.write_files(source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return target


@pytest.fixture
def stand_ins(installed: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The modules that stand in, with the page's package and its entry points in sight."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "fakes" / "peers"))
    for name in (*STAND_INS, "ttbench_peers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    found = {name: importlib.import_module(name) for name in STAND_INS}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def check(name: str) -> tuple[Any, list[dict[str, Any]]]:
    result = CliRunner().invoke(app, ["check", f"architecture:{name}", "--json"])
    return result, json.loads(result.stdout)


def failed(results: list[dict[str, Any]]) -> set[str]:
    return {result["name"] for result in results if result["passed"] is False}


def test_the_page_has_the_models_that_are_expected_to_fail_and_those_that_are_not(peers: ModuleType) -> None:
    files = peers.files()
    assert list(files) == ["pyproject.toml", "peers.txt", "ttbench_peers.py"]
    assert set(re.findall(r'^([\w-]+) = "ttbench_peers:', files["pyproject.toml"], re.M)) == set(peers.EXPECTED)
    pinned = re.findall(r"^(\S+)==\S+$", files["peers.txt"], re.M)
    assert pinned[:2] == ["titans-pytorch", "titans-memory"]
    table = (ROOT / "docs" / "check-a-foreign-model.md").read_text(encoding="utf-8").partition("## What was found")[2]
    for name, expected in peers.EXPECTED.items():
        row = re.search(rf"^\| `{name}` \|.*$", table, re.M)
        assert row, name
        assert set(re.findall(r"`(\w+)` [\d.]", row[0])) == expected.failed, name


def test_a_cache_that_keeps_a_window_across_segments_is_found_by_long_prompts_alone(
    stand_ins: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, results = check("titans-pytorch-mac")
    assert result.exit_code == 3
    assert "fails 1 of 9 probes: long_prompt" in result.stderr
    assert failed(results) == {"long_prompt"}
    found = next(result for result in results if result["name"] == "long_prompt")
    assert found["measured"] > 1e-3
    assert "; wrong after 129, 253, 513" in found["explanation"]
    monkeypatch.setattr(stand_ins["titans_pytorch"], "FAULTY", False)
    result, results = check("titans-pytorch-mac")
    assert result.exit_code == 0, results


def test_a_sliding_window_has_no_such_fault(stand_ins: dict[str, Any]) -> None:
    assert check("titans-pytorch-sliding-alone")[0].exit_code == 0


def test_a_memory_read_at_the_end_of_its_chunk_is_found_to_leak(
    peers: ModuleType, stand_ins: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, results = check("titans-memory-lmm")
    assert result.exit_code == 3
    assert not peers.surprises("titans-memory-lmm", results)
    found = next(result for result in results if result["name"] == "causality")
    assert "61 of them move, that of token 0 first" in found["explanation"]
    monkeypatch.setattr(stand_ins["titans"], "FAULTY", False)
    result, results = check("titans-memory-lmm")
    assert result.exit_code == 0, results


def test_make_peers_is_not_content_with_other_findings(peers: ModuleType) -> None:
    leak = [{"name": probe, "passed": False, "measured": 0.5} for probe in peers.LEAK.failed]
    assert not peers.surprises("titans-memory-mac", leak)
    assert peers.surprises("titans-memory-mac", leak[1:]) == [f"titans-memory-mac: {leak[0]['name']} passed"]
    weak = [{**leak[0], "measured": 1e-6}, *leak[1:]]
    assert "failed by 1e-06" in peers.surprises("titans-memory-mac", weak)[0]
    assert peers.surprises("titans-pytorch-sliding-alone", leak[:1]) == [
        f"titans-pytorch-sliding-alone: {leak[0]['name']} failed"
    ]
