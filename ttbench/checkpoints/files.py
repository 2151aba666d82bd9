"""Reading a checkpoint folder that somebody else made: plain files inside it, strict JSON, content digests.

Nothing here trusts a name or a size that a file states: names must be plain and stay inside the folder, links may
not leave it, JSON is size-limited and parsed strictly. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ttbench.errors import CacheError, CheckpointError
from ttbench.machine.user_cache import cache_folder, write_note
from ttbench.types import canonical_json, digest

MAX_CONFIG_BYTES = 4 * 1024**2
MAX_INDEX_BYTES = 64 * 1024**2
MAX_TOKENIZER_BYTES = 256 * 1024**2
READ_BYTES = 4 * 1024**2

# A file this young may still change without its timestamp moving, so its digest is not remembered.
SETTLED_S = 2.0

# How a file begins that Git LFS has not brought yet: a few lines that name the real one.
# Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER = b"version https://git-lfs.github.com/spec/"

_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def member(folder: Path, name: str) -> Path | None:
    """The regular file `name` directly inside `folder`; None when there is none.

    Links are followed only inside the folder, or inside the repository folder of the hub's cache layout
    (`<repository>/snapshots/<commit>/`, whose files are links to `<repository>/blobs/`).

    Raises:
        CheckpointError: the name is not plain, is a dangling link, is no regular file, or leads outside.
    """
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise CheckpointError(
            f"'{folder}' refers to the file {name!r}; only plain file names inside the checkpoint folder are followed"
        )
    path = folder / name
    if not os.path.lexists(path):
        return None
    real, home = (Path(os.path.realpath(each)) for each in (path, folder))
    if home.parent.name == "snapshots" and (home.parent.parent / "blobs").is_dir():
        home = home.parent.parent
    if not real.is_relative_to(home):
        raise CheckpointError(
            f"'{path}' is a link to '{real}', outside the checkpoint folder; copy the file into the folder"
        )
    if not real.exists():
        raise CheckpointError(f"'{path}' is a link to nothing; download or copy the file again")
    if not real.is_file():
        raise CheckpointError(f"'{path}' is not a regular file; a checkpoint holds plain files only")
    return path


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """The file's content. Raises CheckpointError when it is larger than `max_bytes` or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    if len(data) > max_bytes:
        raise CheckpointError(f"'{path}' is larger than {max_bytes} bytes, which no file of its kind needs; not read")
    return data


def read_json(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file; see `parse_json`. Raises CheckpointError."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), where=path)


def parse_json(data: bytes, *, where: Path) -> dict[str, Any]:
    """A JSON object, strictly: UTF-8, no key twice, transformers 5's {"__float__": "Infinity"} as floats.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deeply, a key twice, not an object, or a pointer of Git LFS.
    """
    refuse_pointer(data, where=where)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"'{where}' is not valid JSON: {error}; download or write it again") from error
    except RecursionError as error:
        raise CheckpointError(f"'{where}' is nested too deeply to be a checkpoint's JSON; not read") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"'{where}' holds a JSON {type(value).__name__}; expected an object with named fields")
    return value


def refuse_pointer(start: bytes, *, where: Path) -> None:
    """Raise CheckpointError when a file that begins with `start` only names the real one for Git LFS."""
    if start.startswith(_POINTER):
        raise CheckpointError(
            f"'{where}' is a pointer of Git LFS, not the file itself; in its folder type: git lfs pull"
        )


def _unique(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"the keys {twice} stand twice in one object")
    if found.keys() == {"__float__"} and found["__float__"] in _FLOATS:
        return _FLOATS[found["__float__"]]
    return found


def plain_json(value: Any) -> Any:
    """`value` with infinities and NaN spelled as transformers 5 does, so that strict JSON can hold them."""
    if isinstance(value, Mapping):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        spelled = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {"__float__": spelled}
    return value


def json_digest(value: Mapping[str, Any]) -> str:
    """Digest of a JSON object that does not depend on key order, spacing or the spelling of infinity."""
    return digest(canonical_json(plain_json(value)))


def content_digest(paths: Iterable[Path]) -> str:
    """Digest of what files hold. Their names, order and place do not matter.

    A file's own digest is remembered in the user's cache folder under its path, size, times and inode.

    Raises:
        CheckpointError: a file cannot be read or changes while it is read.
    """
    return digest("".join(sorted(_file_digest(path.resolve()) for path in paths)))


def _file_digest(path: Path) -> str:
    before = _identity(path)
    note = _note(before)
    known = None if note is None else _recall(note, before)
    if known is not None:
        return known
    state = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                state.update(block)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    if _identity(path) != before:
        raise CheckpointError(f"'{path}' changed while it was read; wait until whatever writes it has finished")
    found = state.hexdigest()
    if note is not None and time.time() - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > SETTLED_S:
        write_note(note, {"file": before, "digest": found})
    return found


def _identity(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    return {
        "path": os.fspath(path),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _note(identity: Mapping[str, Any]) -> Path | None:
    """Where a digest is remembered; None where there is no place to: the file is then read each time."""
    try:
        return cache_folder() / "digests" / f"{digest(canonical_json(identity))}.json"
    except CacheError:
        return None


def _recall(note: Path, identity: Mapping[str, Any]) -> str | None:
    """The remembered digest; None when there is no whole and matching note."""
    try:
        data = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("file") != identity or not isinstance(data.get("digest"), str):
        return None
    return data["digest"]
