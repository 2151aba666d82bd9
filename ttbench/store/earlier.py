"""What earlier runs tell: who measured the cells that are taken over, and how long cells took."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ttbench.store.cells import Holdings, Place, read_cell
from ttbench.store.folders import run_folders, run_of
from ttbench.store.segments import IndexEntry
from ttbench.types import Cell

ENOUGH = 5000  # cells that an estimate goes by


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A run that answered cells, as their files say it."""

    run_id: str
    date: str  # ISO 8601, UTC, of the first of them
    num_cells: int


def origins(places: Iterable[Place]) -> list[Origin]:
    """Which runs measured the cells in these places, newest first."""
    started: dict[str, list[str]] = {}
    for place in places:
        if isinstance(place, IndexEntry):
            # Segments are taken over whole, and not each record is read.
            started.setdefault(run_of(place).name, []).append(place.ended)
            continue
        record = read_cell(place)
        started.setdefault(record.run_id, []).append(record.started)
    found = [Origin(run_id=run, date=min(dates)[:10], num_cells=len(dates)) for run, dates in started.items()]
    return sorted(found, key=lambda origin: (origin.date, origin.run_id), reverse=True)


def timings(root: Path | str, *, machine: str, tasks: Iterable[str]) -> list[tuple[Cell, float]]:
    """Cells of these tasks measured on this machine with their wall seconds, newest first, for the plan's estimate.

    Seconds in which a process opened its engine and corpus are not among them. The newest `ENOUGH` are given: an
    estimate, which is a median, does not move by more.
    """
    tasks = set(tasks)
    found: dict[str, tuple[Cell, float]] = {}
    for folder in run_folders(root):
        held = Holdings(folder)
        for cell_id in sorted(held.cell_ids - found.keys()):
            if len(found) >= ENOUGH:
                return list(found.values())
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                header = json.loads(held.places(cell_id)[0].read_bytes().split(b"\n", 1)[0])
                if header["status"] == "ok" and header["machine"] == machine and header["cell"]["task"] in tasks:
                    own_s = max(0.0, header["cell_s"] - (header.get("setup_s") or 0.0))
                    found[cell_id] = (Cell.from_json(header["cell"]), own_s)
    return list(found.values())
