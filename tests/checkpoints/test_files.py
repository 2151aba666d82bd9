"""Strict JSON, digests that follow content, and their cache."""

from __future__ import annotations

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ttbench.checkpoints import files
from ttbench.checkpoints.files import content_digest, json_digest, plain_json, read_json
from ttbench.errors import CheckpointError


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "cache" / "ttbench")
    return tmp_path / "cache" / "ttbench" / "digests"


def made(path: Path, content: bytes) -> Path:
    """A file with this content."""
    path.write_bytes(content)
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file count as old enough."""
    monkeypatch.setattr(files, "SETTLED_S", -1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"[1]", "holds a JSON list; expected an object"),
        (b"null", "expected an object"),
        (b'{"a": 1, "a": 2}', r"\['a'\] stand twice"),
        (b'{"a":' * 100000, "not valid JSON|nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
        (b'{"a": "' + b"x" * 2000 + b'"}', "larger than 1000 bytes"),
    ],
    ids=range(10),
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    limit = 1000 if b"xxx" in content else files.MAX_CONFIG_BYTES
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path, max_bytes=limit)
    assert str(path) in str(caught.value)


def test_numbers_that_json_lacks_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": {"__float__": "Infinity"}, "b": [{"__float__": "-Infinity"}], "c": {"__float__": "NaN"}}')
    value = read_json(path, max_bytes=1000)
    assert value["a"] == math.inf
    assert value["b"] == [-math.inf]
    assert math.isnan(value["c"])
    assert json.loads(json.dumps(plain_json(value), allow_nan=False)) == json.loads(path.read_text())


def test_a_digest_of_json_ignores_spelling_only(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{ "b": [1, 2],\n "a": Infinity}')
    bare = read_json(path, max_bytes=1000)
    path.write_text('{"a":{"__float__":"Infinity"},"b":[1,2]}')
    assert json_digest(bare) == json_digest(read_json(path, max_bytes=1000))
    assert json_digest(bare) != json_digest({**bare, "b": [2, 1]})


def test_a_digest_follows_content_and_not_names_or_order(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", b"1"), made(tmp_path / "two", b"2")
    first = content_digest([one, two])
    assert content_digest([two, one]) == first
    three = one.rename(tmp_path / "three")
    assert content_digest([two, three]) == first
    assert content_digest([two]) != first
    # two files are never the same as one that holds both
    assert content_digest([made(tmp_path / "both", b"12")]) != first
    three.write_bytes(b"3")
    assert content_digest([two, three]) != first


@pytest.mark.usefixtures("settled")
def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, notes: Path) -> None:
    path = made(tmp_path / "weights", b"first")
    found = content_digest([path])
    (note,) = notes.iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "digest": "remembered"}))
    assert content_digest([path]) == files.digest("remembered")
    stat = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_digest([path]) not in (found, files.digest("remembered"))


def test_a_file_that_may_still_change_is_not_remembered(tmp_path: Path, notes: Path) -> None:
    path = made(tmp_path / "weights", b"first")
    os.utime(path, (time.time(), time.time()))
    content_digest([path])
    assert not notes.exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"file": 1, "digest": "0"}'], ids=range(4))
def test_a_damaged_note_is_no_answer(tmp_path: Path, notes: Path, damage: bytes) -> None:
    path = made(tmp_path / "weights", b"first")
    found = content_digest([path])
    for note in notes.iterdir():
        note.write_bytes(damage)
    assert content_digest([path]) == found


@pytest.mark.usefixtures("settled")
def test_many_at_once_agree_and_leave_one_whole_note(tmp_path: Path, notes: Path) -> None:
    path = made(tmp_path / "weights", bytes(100_000))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: content_digest([path]), range(32)))
    assert len(found) == 1
    (note,) = notes.iterdir()
    assert json.loads(note.read_text())["file"]["size"] == 100_000


@pytest.mark.usefixtures("settled", "notes")
def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = made(tmp_path / "weights", b"first")
    assert content_digest([path]) == content_digest([path])


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "weights", b"first")
    answers = iter([{"mtime_ns": 0, "ctime_ns": 0, "size": 5}, {"mtime_ns": 1, "ctime_ns": 1, "size": 6}])
    monkeypatch.setattr(files, "_identity", lambda path: next(answers))
    with pytest.raises(CheckpointError, match="changed while it was read"):
        content_digest([path])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        content_digest([tmp_path / "nothing"])
