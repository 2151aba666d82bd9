"""What a system may refuse, and what costs time or comfort only, stops no measurement."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
from test_worker import follow, lay_out, start

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.checkpoints import checkpoint, files
from ttbench.errors import CacheError
from ttbench.machine import disk, doctor
from ttbench.machine import user_cache as cache
from ttbench.runs import worker


def refusing(number: int) -> Any:
    def refuse(*args: object, **options: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory, as platformdirs says it."""

    def lost(name: str) -> NoReturn:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lost)
    monkeypatch.setattr(files, "cache_folder", cache.cache_folder)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_worker_s_death_is_noticed_where_handles_of_processes_are_refused(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pidfd_open", refusing(number), raising=False)
    store, running = start(tmp_path, lay_out(fakes, params={"what": "exit", "at": 2048}))
    _, death = follow(running)
    assert death.returncode == 7
    assert len(store.done()) == 1


def test_a_read_only_proc_and_refused_limits_stop_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(Path, "write_text", refusing(errno.EROFS))
    monkeypatch.setattr(resource, "setrlimit", refusing(errno.EPERM))
    worker.limit_memory(2**40)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.usefixtures("homeless")
def test_without_a_home_digests_are_made_each_time_and_what_must_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    os.utime(tmp_path / "file", (1, 1))
    assert files.content_digest([tmp_path / "file"]) == files.content_digest([tmp_path / "file"])
    with pytest.raises(CacheError, match="set XDG_CACHE_HOME"):
        cache.cache_folder()
    found = doctor.check_cache()
    assert (found.ok, found.advice) == (False, "set XDG_CACHE_HOME to a folder that can be written")


@pytest.mark.usefixtures("homeless")
def test_a_tilde_without_a_home_is_a_letter() -> None:
    with pytest.raises(checkpoint.CheckpointError, match="no folder '~nobody/x' here"):
        checkpoint.resolve("~nobody/x")


@pytest.mark.parametrize("folder", [None, Path("/proc/nowhere")], ids=["no-home", "read-only"])
@pytest.mark.usefixtures("homeless")
def test_decompositions_are_computed_where_none_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, folder: Path | None
) -> None:
    monkeypatch.setattr("ttbench.adapt.decompositions.cache_folder", cache.cache_folder)
    held = DecompositionCache(folder)
    weight = torch.arange(12.0).reshape(4, 3)
    for number in (1, 2):
        parts = held.get(weight, dtype=torch.float64)
        torch.testing.assert_close((parts.U * parts.S) @ parts.Vt, weight.double())
        assert held.num_made == number


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    disk.sync(tmp_path)


def test_a_disk_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync(tmp_path)


def test_a_path_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(checkpoint.CheckpointError, match=r"caf\\xe9' is not UTF-8, .* ln -s \$'.*caf\\xe9' NAME"):
        checkpoint.resolve(str(folder))
