"""Files of cells: one record each, its evidence, and the records that came second."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbench.errors import StoreError
from ttbench.store.files import store_error
from ttbench.store.record import CellRecord, parse_cell
from ttbench.types import ANSWERS, LASTING, Status, digest


def read_cell(path: Path) -> CellRecord:
    """Read a cell's file. Raises StoreError when it is missing, damaged, misplaced or of an unknown schema."""
    try:
        # In `others/` the name goes on with its writer's.
        return parse_cell(path.read_text(encoding="utf-8"), cell_id=path.name.partition(".")[0])
    except OSError as error:
        raise store_error("read", path, error) from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged or not a cell's file ({error}); the same run measures it again") from error


def read_evidence(path: Path, record: CellRecord) -> list[dict[str, Any]]:
    """The evidence of a cell, one entry per line; empty where none was kept. Raises StoreError when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; the row stands without it") from error
    # Cells of schema 1 do not say what their evidence was.
    if record.cell.schema > 1 and record.evidence_digest != (digest(text) if text else None):
        raise StoreError(f"{path} is not the evidence that its cell was stored with; the row stands without it")
    # Not splitlines: answers may hold other line separators.
    return [json.loads(line) for line in text.split("\n") if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The records of one cell, the one that stands first."""

    records: tuple[CellRecord, ...]
    error: StoreError | None  # of the last file that is damaged


def read_ends(paths: Iterable[Path]) -> Ends:
    """Read the records of one cell: answers stand before failures, and of equals the first."""
    records, error = [], None
    for path in paths:
        try:
            records.append(read_cell(path))
        except StoreError as damage:
            error = damage
    return Ends(records=tuple(sorted(records, key=lambda record: rank(record.status))), error=error)


def rank(status: Status) -> int:
    return 0 if status in LASTING else 1 if status in ANSWERS else 2


def others(folder: Path) -> dict[str, list[Path]]:
    """Files in `others/` by cell id."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "others").glob("[!.]*.jsonl")):
        found.setdefault(path.name.partition(".")[0], []).append(path)
    return found
