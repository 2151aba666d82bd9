"""Folders of runs: how they are named, made and found."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from ttbench.errors import StoreError
from ttbench.machine.disk import sync
from ttbench.store.cells import Place, path_of
from ttbench.store.files import store_error

_REMEDY = "ask for the same again, which takes over what is finished there, and then delete the folder"
# What every run.json says, of the run and of each of its cells.
_KEYS, _CELL_KEYS = ("command", "started"), ("cell_id", "task", "checkpoint", "context_len")


def new_folder(root: Path, name: str) -> Path:
    """Make `root/<time>-<name>/`, with a number where that is taken. Raises StoreError when it cannot be made."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}"
    for attempt in itertools.count(1):
        folder = root / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            # mkdir fails when the name is taken: two runs can never share a folder.
            folder.mkdir()
            sync(root)
            return folder
        except FileExistsError as error:
            if not folder.is_dir():
                raise store_error("make", folder, error) from error
        except OSError as error:
            raise store_error("make", folder, error) from error
    raise AssertionError("unreachable")


def run_of(place: Place) -> Path:
    """The folder of the run that a cell is in."""
    return path_of(place).parent.parent


def runs_of(places: Iterable[Place]) -> set[Path]:
    """The folders of the runs that cells are in."""
    # Cells of a segment share one path, and thousands of cells a few segments.
    return {path.parent.parent for path in set(map(path_of, places))}


def run_folders(root: Path | str) -> list[Path]:
    """The run folders below `root`, newest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    # By time, then by the number that tells runs of one second apart: -10 comes after -2.
    names = sorted(
        (path.parent.name for path in root.glob("*/run.json")), key=lambda name: (name[:15], len(name), name)
    )
    return [root / name for name in reversed(names)]


def read_run(folder: Path) -> Mapping[str, Any]:
    """What a run's run.json says. Raises StoreError when it is damaged."""
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise store_error("read", path, error) from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {_REMEDY}") from error
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        raise StoreError(f"{path} is damaged (no list of cells); {_REMEDY}")
    lacking = [name for name in _KEYS if name not in found]
    lacking += [name for name in _CELL_KEYS if any(name not in cell for cell in found["cells"])]
    if lacking:
        raise StoreError(f"{path} is damaged (no {', '.join(lacking)}); {_REMEDY}")
    return found


def read_environment(folder: Path) -> Mapping[str, Any]:
    """What a run's environment.json says. Raises StoreError."""
    path = folder / "environment.json"
    try:
        return cast(Mapping[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}); a run is shown with its whole folder, and compared without it: "
            f"ttbench compare --run {folder}"
        ) from error
