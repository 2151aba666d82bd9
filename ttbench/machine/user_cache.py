"""The user's cache folder: what can be made or fetched again, outside of any run."""

from __future__ import annotations

from pathlib import Path

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
