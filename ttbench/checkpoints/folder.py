"""A folder that appears whole or not at all. Torch-free."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttbench.errors import CheckpointError
from ttbench.machine.disk import sync


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write files into; it becomes `folder` when the block ends well.

    When the block raises, nothing is left. The files are flushed to disk and readable by everyone.

    Raises:
        CheckpointError: `folder` holds something already, or the disk is full or not writable.
    """
    folder = Path(os.path.abspath(folder))
    refuse_taken(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise CheckpointError(f"cannot write to '{folder.parent}': {error.strerror}; choose another folder") from error
    try:
        yield building
        for path in (*building.iterdir(), building):
            path.chmod(0o755 if path is building else 0o644)
            sync(path)
        os.rename(building, folder)
        sync(folder.parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise CheckpointError(
            f"no room for '{folder}': {error.strerror}; nothing was left there. Free some space or choose another disk"
        ) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def refuse_taken(folder: Path) -> None:
    """Raise CheckpointError when `folder` is anything but absent or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"'{folder}' already holds something; remove it or choose another folder")
