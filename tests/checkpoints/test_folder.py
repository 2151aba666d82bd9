"""A folder appears whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ttbench.checkpoints.folder import whole_folder
from ttbench.errors import CheckpointError


def break_off(folder: Path, error: BaseException) -> None:
    with whole_folder(folder) as building:
        (building / "file").write_text("text")
        raise error


def test_what_is_written_appears_at_the_end_and_can_be_read_by_everyone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with whole_folder(target) as building:
        (building / "file").write_text("text")
        assert not target.exists()
    assert (target / "file").read_text() == "text"
    assert (target.stat().st_mode & 0o777, (target / "file").stat().st_mode & 0o777) == (0o755, 0o644)
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with pytest.raises(CheckpointError, match="no room for"):
        break_off(tmp_path / "folder", OSError(number, os.strerror(number)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")], ids=repr)
def test_another_error_passes_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        break_off(tmp_path / "folder", error)
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="already holds something"), whole_folder(taken):
            pass
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as building:
        (building / "file").write_text("text")
    assert (tmp_path / "empty" / "file").is_file()


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(CheckpointError, match="cannot write to"), whole_folder(tmp_path / "file" / "folder"):
        pass
