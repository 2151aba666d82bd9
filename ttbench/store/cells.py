"""What a run's folder holds of each cell: files, records that came second, and entries of segments."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ttbench.errors import StoreError
from ttbench.store.files import store_error
from ttbench.store.record import CellRecord, parse_cell
from ttbench.store.segments import IndexEntry, Stretch, indexes, read_index, whole
from ttbench.types import ANSWERS, LASTING, Status, digest

# Where the record of a cell is: in a file of its own, or in a segment.
Place = Path | IndexEntry
# A planned cell as run.json lists it, and where its records are.
Wanted = tuple[Mapping[str, Any], Sequence[Place]]
# Fields of a checkpoint that belong to the request, not to what was measured.
ASKED = ("name", "path", "provenance", "revision")


def cell_id_of(place: Place) -> str:
    """The cell whose record the place holds. In `others/` a file's name goes on with its writer's."""
    return place.cell_id if isinstance(place, IndexEntry) else place.name.partition(".")[0]


def path_of(place: Place) -> Path:
    """The file that holds the record, alone or with others."""
    return place.text.path if isinstance(place, IndexEntry) else place


def read_cell(place: Place) -> CellRecord:
    """Read a cell. Raises StoreError when it is missing, damaged, misplaced or of an unknown schema."""
    where = path_of(place)
    try:
        return parse_cell(place.read_bytes().decode("utf-8"), cell_id=cell_id_of(place))
    except OSError as error:
        raise store_error("read", where, error) from error
    except ValueError as error:
        raise StoreError(
            f"{where} is damaged or not a cell's file ({error}); the same run measures it again"
        ) from error


def read_evidence(path: Path | Stretch, record: CellRecord) -> list[dict[str, Any]]:
    """The evidence of a cell, one entry per line; empty where none was kept. Raises StoreError when it is damaged."""
    try:
        text = path.read_bytes().decode("utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; the row stands without it") from error
    # Cells of schema 1 do not say what their evidence was.
    if record.cell.schema > 1 and record.evidence_digest != (digest(text) if text else None):
        raise StoreError(f"{path} is not the evidence that its cell was stored with; the row stands without it")
    # Not splitlines: answers may hold other line separators.
    return [json.loads(line) for line in text.split("\n") if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The records of one cell that can be read, the one that stands first."""

    records: tuple[CellRecord, ...]
    error: StoreError | None  # of the last place that is damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run's folder holds."""

    records: tuple[CellRecord, ...]
    damaged: Mapping[str, StoreError]  # by cell id
    others: Mapping[str, tuple[CellRecord, ...]] = field(default_factory=dict)  # records that do not stand, by cell id


def rank(status: Status) -> int:
    """Answers stand before what is asked again, and both before failures."""
    return 0 if status in LASTING else 1 if status in ANSWERS else 2


class Holdings:
    """What a run's folder held when it was looked at, by cell id. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Files of cells: the cell's own, then those in `others/`."""
        found = {path.stem: [path] for path in (self._folder / "cells").glob("[!.]*.jsonl")}
        for path in sorted((self._folder / "others").glob("[!.]*.jsonl")):
            found.setdefault(cell_id_of(path), []).append(path)
        return found

    @cached_property
    def entries(self) -> dict[str, list[IndexEntry]]:
        """Entries of segments, the one that stands first, if it is whole."""
        found: dict[str, list[IndexEntry]] = {}
        for index in indexes(self._folder):
            for entry in read_index(index):
                found.setdefault(entry.cell_id, []).append(entry)
        settled = self._settled() if any(len(several) > 1 for several in found.values()) else {}
        for cell_id, several in found.items():
            if len(several) > 1:
                first = settled.get(cell_id)
                # Clocks of several nodes differ: what was shown once stays, and they decide only before that.
                several.sort(key=lambda each: (rank(each.status), each.digest != first, each.ended, each.text.path))
        return found

    def _settled(self) -> dict[str, str]:
        try:
            lines = (self._folder / "settled").read_text(encoding="ascii").split("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        return {cell_id: found for cell_id, tab, found in (line.partition("\t") for line in lines) if tab}

    @property
    def cell_ids(self) -> set[str]:
        """Cells that something is held of, whether or not it can be read."""
        return self.files.keys() | self.entries.keys()

    def places(self, cell_id: str) -> list[Place]:
        """Where the records of a cell are: files before segments."""
        return [*self.files.get(cell_id, ()), *self.entries.get(cell_id, ())]

    def ends(self, cell_id: str) -> Ends:
        """Read the records of a cell."""
        records, error = [], None
        for place in self.places(cell_id):
            try:
                records.append(read_cell(place))
            except StoreError as damage:
                error = damage
        return Ends(records=tuple(sorted(records, key=lambda record: rank(record.status))), error=error)

    def statuses(self, cell_ids: Iterable[str]) -> Iterator[tuple[Place, Status]]:
        """The place of the record that stands, and what became of the cell, for those that can be read.

        Cells in segments are looked at, and not parsed: their digests say that they are what was written.
        """
        alone: list[IndexEntry] = []
        for cell_id in cell_ids:
            places = self.places(cell_id)
            if len(places) == 1 and isinstance(places[0], IndexEntry):
                alone.append(places[0])
                continue
            found: list[tuple[Place, Status]] = []
            for place in places:
                try:
                    found.append((place, read_cell(place).status))
                except StoreError:
                    continue
            yield from sorted(found, key=lambda each: rank(each[1]))[:1]
        for entry in whole(alone):
            yield entry, entry.status


def standing(places: Iterable[Place]) -> tuple[Place, CellRecord] | None:
    """Of the records of one cell the one that stands, and its place; None: there is none.

    Raises StoreError when none of those there can be read.
    """
    found: list[tuple[Place, CellRecord]] = []
    damage: StoreError | None = None
    for place in places:
        try:
            found.append((place, read_cell(place)))
        except StoreError as error:
            damage = error
    if damage is not None and not found:
        raise damage
    return min(found, key=lambda each: rank(each[1].status), default=None)


def named(record: CellRecord, entry: Mapping[str, Any]) -> CellRecord:
    """A record under the name and place asked for in the run that lists it."""
    asked = {"name": entry["checkpoint"], **{name: entry[name] for name in ASKED if name in entry}}
    checkpoint = record.cell.checkpoint
    if all(getattr(checkpoint, name) == value for name, value in asked.items()):
        return record
    return dataclasses.replace(record, cell=record.cell.named_as(**asked))


def wanted_records(wanted: Iterable[Wanted], shown: dict[str, str]) -> Iterator[CellRecord]:
    """The records of planned cells, one in memory at a time. Raises StoreError, after the last, at one that is damaged.

    What is given from segments is put into `shown`: cell id -> digest of its text.
    """
    damage: StoreError | None = None
    for entry, places in wanted:
        try:
            found = standing(places)
        except StoreError as error:
            damage = damage or error
            continue
        if found is not None:
            place, record = found
            if isinstance(place, IndexEntry):
                shown[place.cell_id] = place.digest
            yield named(record, entry)
    if damage is not None:
        raise damage
