"""The user's cache folder: what can be made or fetched again, outside of any run."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttbench.errors import CacheError

try:
    import platformdirs
except ImportError:
    # Machines with a GPU that can fetch nothing lack it; only what is kept between runs needs it.
    platformdirs = None


def cache_folder() -> Path:
    """Where ttbench keeps what it can make or fetch again; the folder need not exist.

    Raises CacheError where the system names no home directory: a container's user without an entry in /etc/passwd; or
    where platformdirs is not installed.
    """
    if platformdirs is None:
        raise CacheError("there is no folder to keep files in: platformdirs is not installed; pip install platformdirs")
    try:
        return platformdirs.user_cache_path("ttbench")
    except RuntimeError as error:
        raise CacheError(
            "this user has no home directory to keep files in; set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def write_note(note: Path, data: Mapping[str, Any]) -> None:
    """Write a note whole or not at all. The cache only saves time: where it cannot be written, nothing is lost."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=note.parent, prefix=".note-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(data, file)
            os.replace(temporary, note)
        except OSError:
            os.unlink(temporary)
            raise
