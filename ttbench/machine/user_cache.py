"""The user's cache folder: what can be made or fetched again, outside of any run."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from ttbench.errors import CacheError


def cache_folder() -> Path:
    """Where ttbench keeps what it can make or fetch again; the folder need not exist.

    Raises CacheError where the system names no home directory: a container's user without an entry in /etc/passwd.
    """
    try:
        return platformdirs.user_cache_path("ttbench")
    except RuntimeError as error:
        raise CacheError(
            "this user has no home directory to keep files in; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
