"""Writing that survives a power cut, where the file system can promise it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# Some network and user-space file systems cannot sync, folders above all; writing there is still writing.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def sync(path: Path | int) -> None:
    """Bring a file, or the names in a folder, from the system's memory to the disk.

    Raises OSError when the disk fails or is full.
    """
    try:
        handle = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
    except PermissionError:
        # A folder that may be written and not listed.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        if handle != path:
            os.close(handle)
