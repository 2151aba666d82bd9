"""Temporary files of several writers in one folder, on any host."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ttbench.errors import StoreError
from ttbench.store import files
from ttbench.store.files import write_new, write_whole, writer_name


@pytest.fixture(autouse=True)
def _no_cached_node() -> None:
    files.node.cache_clear()


def test_a_writer_s_name_tells_host_boot_process_and_chance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("1a2b3c4d-0000-0000-0000-000000000000\n")
    monkeypatch.setattr(files, "_BOOT_ID", tmp_path / "boot")
    monkeypatch.setattr(socket, "gethostname", lambda: "node/7 ä")
    first, second = writer_name(), writer_name()
    assert first.startswith(f"node_7__-1a2b3c4d-{os.getpid()}-")
    assert first != second
    files.node.cache_clear()
    monkeypatch.setattr(files, "_BOOT_ID", tmp_path / "absent")
    assert f"-unknown-{os.getpid()}-" in writer_name()
    files.node.cache_clear()


def test_names_of_temporary_files_fit_whatever_the_file_and_the_host_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 253)
    path = tmp_path / ("ä" * 120)
    write_whole(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_whole, write_new])
def test_a_file_of_another_writer_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], object]
) -> None:
    monkeypatch.setattr(files, "writer_name", lambda: "the-same")
    foreign = tmp_path / ".file.the-same.tmp"
    foreign.write_bytes(b"of another host")
    with pytest.raises(StoreError, match="File exists"):
        write(tmp_path / "file", b"mine")
    assert foreign.read_bytes() == b"of another host"
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_of_several_writers_one_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    path = tmp_path / "one"
    assert write_new(path, b"first")
    assert not write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_the_same_moment_agree_on_the_first(tmp_path: Path) -> None:
    path, barrier, won = tmp_path / "one", threading.Barrier(8), list[bytes]()

    def write(data: bytes) -> None:
        barrier.wait()
        if write_new(path, data):
            won.append(data)

    threads = [threading.Thread(target=write, args=(str(number).encode() * 5000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == won
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_whose_answer_was_lost_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def lost(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", lost)
    assert write_new(tmp_path / "one", b"mine")
    assert (tmp_path / "one").read_bytes() == b"mine"
