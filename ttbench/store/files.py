"""Files that are there whole or not at all, also where several hosts write into one folder.

A temporary file is named by host, boot, process and random bits, so no two writers ever have the same one, on one
machine, in containers or over a network file system; a writer removes its own and no other. What a killed writer leaves
is hidden (it begins with a dot), is read by nobody, and goes with its folder.

Torch-free and free of pandas: workers, whose memory is measured, write with this.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ttbench.errors import StoreError
from ttbench.machine.disk import sync

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# File systems without hard links: FAT, some network and user-space ones.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAME_LEN = 48  # characters of a host's or a file's name within a temporary's, which has 255 bytes at most


@functools.cache
def node() -> str:
    """This host and its boot: `name-1a2b3c4d`. Process numbers are unique within it, or within a container of it."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()[:8]
    except (OSError, UnicodeDecodeError):
        boot = "unknown"
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', socket.gethostname())[:_NAME_LEN]}-{boot}"


def writer_name() -> str:
    """A name that no other writer has or will have: node, process number and 48 random bits."""
    return f"{node()}-{os.getpid()}-{secrets.token_hex(6)}"


def write_whole(path: Path, data: bytes) -> None:
    """Create `path` with `data`, or leave nothing. An existing file is replaced whole.

    Raises StoreError when the folder cannot be written or the disk is full.
    """
    _write(path, data, os.replace)


def write_new(path: Path, data: bytes) -> bool:
    """Create `path` with `data` where no file has the name; whether it did. An existing file is left as it is.

    Of several writers, on any host, one creates the file. Raises StoreError as `write_whole`.
    """
    created = True

    def link(temporary: Path, target: Path) -> None:
        nonlocal created
        try:
            os.link(temporary, target)
        except FileExistsError:
            # Over NFS a link that was made is reported so where the first answer was lost. Source: open(2), O_EXCL.
            created = os.path.samefile(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without links there is no way that is both whole and exclusive: a rename of what nobody else has made.
            created = not target.exists()
            if created:
                os.replace(temporary, target)

    _write(path, data, link)
    return created


def _write(path: Path, data: bytes, settle: Callable[[Path, Path], None]) -> None:
    temporary = path.parent / f".{path.name[:_NAME_LEN]}.{writer_name()}.tmp"
    made = False
    try:
        with open(temporary, "xb") as file:
            made = True
            file.write(data)
            file.flush()
            sync(file.fileno())
        settle(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise store_error("write", path, error) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def new_file(path: Path) -> BinaryIO:
    """Open a file for writing as it goes, for logs. Raises StoreError when it cannot be made."""
    try:
        return open(path, "wb")
    except OSError as error:
        raise store_error("write", path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there. Raises StoreError when it cannot be made."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise store_error("make", path, error) from error


def link_or_copy(source: Path, target: Path, *, data: bytes | None = None) -> None:
    """Let `target` be the same file as `source`, or a copy across devices; nothing where it exists.

    `data` is what a copy holds; None: what the file holds then.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        temporary = target.parent / f".{target.name[:_NAME_LEN]}.{writer_name()}.tmp"
        try:
            if data is None:
                shutil.copyfile(source, temporary)
            else:
                temporary.write_bytes(data)
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise store_error("write", target, error) from error


def store_error(verb: str, path: Path, error: OSError) -> StoreError:
    """What to tell the user of a failure of the system."""
    if error.errno in _FULL:
        return StoreError(
            f"cannot {verb} {path}: no space left on the device; finished cells are kept: free some space, "
            "then run the same command again"
        )
    hint = "" if verb in ("read", "delete") else "; choose another folder"
    return StoreError(f"cannot {verb} {path}: {error.strerror or error}{hint}")
