"""Segments: files that one writer appends cells to, for runs of more cells than a folder should hold files.

    segments/<writer>.jsonl           texts of cells, one after the other, each as a file of its own would hold it
             <writer>.evidence.jsonl  their evidence likewise
             <writer>.index           a line per cell: see `IndexEntry`; the last field is a checksum of the line

A cell is stored when its line in the index is on the disk: evidence, text and line are synced in this order. What a
killed writer or a full disk left between two lines belongs to no cell and is passed over. A line whose checksum, or a
text whose digest, is another one is damaged, and its cell is measured again.

Segments of other runs stand in `taken/`. Of these only lasting answers count: what failed there is tried here.

A segment has one writer at a time, which is what network file systems ask of a file that is appended to: a worker
appends to the segment of the process that follows it, which writes there itself only after the worker's death.

Torch-free and free of pandas, as `ttbench.store.store`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, get_args

from ttbench.machine.disk import sync
from ttbench.machine.measure import num_cores
from ttbench.store.files import link_or_copy, make_folder, store_error
from ttbench.types import LASTING, Status, digest

_STATUSES = frozenset(get_args(Status))
_NUM_FIELDS = 9
TAKEN = "taken"  # folder of a run with the segments that it took over
_AT_ONCE_BYTES = 64 * 1024**2
_NUM_READERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Part of a file, read as a file of its own would be."""

    path: Path
    offset: int  # bytes
    length: int  # bytes

    def __str__(self) -> str:
        return f"{self.path} (bytes {self.offset} to {self.offset + self.length})"

    def is_file(self) -> bool:
        return self.path.is_file()

    def read_bytes(self) -> bytes:
        with open(self.path, "rb") as file:
            return self.read_from(file)

    def read_from(self, file: BinaryIO) -> bytes:
        """The same from the file that was opened already."""
        file.seek(self.offset)
        return file.read(self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A line of an index: a cell, what became of it, and where it is."""

    cell_id: str
    status: Status
    ended: str  # ISO 8601, UTC, by its writer's clock
    digest: str  # of the cell's text
    environment: str  # digest of what its writer ran on
    text: Stretch
    evidence: Stretch | None  # None: there is none

    @property
    def index(self) -> Path:
        """The index that the entry is in."""
        return self.text.path.with_suffix(".index")

    def read_bytes(self) -> bytes:
        """The cell's text. Raises ValueError when it is not what was written, OSError when it is not there."""
        with open(self.text.path, "rb") as file:
            return self.read_from(file)

    def read_from(self, file: BinaryIO) -> bytes:
        """The same from the segment's file, open."""
        data = self.text.read_from(file)
        if digest(data) != self.digest:
            raise ValueError(f"{self.text} is not what the index says")
        return data


def append(
    folder: Path, writer: str, *, cell_id: str, status: Status, ended: str, environment: str, text: bytes, told: bytes
) -> None:
    """Append a cell, with `told` as its evidence, to a writer's segment. Raises StoreError when that fails."""
    evidence_at = _append(folder / f"{writer}.evidence.jsonl", told) if told else 0
    text_at = _append(folder / f"{writer}.jsonl", text)
    places = (str(text_at), str(len(text)), str(evidence_at), str(len(told)))
    line = "\t".join((cell_id, status, ended, digest(text), environment, *places))
    _append(folder / f"{writer}.index", f"{line}\t{_checksum(line.encode())}\n".encode(), own_line=True)


def _append(path: Path, data: bytes, *, own_line: bool = False) -> int:
    """Append and sync; return where the data begin. With `own_line` after a line that was cut off, on a new one."""
    try:
        new = not path.exists()
        with open(path, "ab+") as file:
            start = file.seek(0, os.SEEK_END)
            if own_line and start:
                file.seek(start - 1)
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)
            file.flush()
            sync(file.fileno())
        if new:
            sync(path.parent)
    except OSError as error:
        raise store_error("write", path, error) from error
    return start


def _checksum(line: bytes) -> str:
    return digest(line)[:16]


def indexes(run: Path) -> list[Path]:
    """The indexes of a run's segments, its own first."""
    return [index for part in ("segments", TAKEN) for index in sorted((run / part).glob("[!.]*.index"))]


def read_index(path: Path) -> Iterator[IndexEntry]:
    """The entries of an index, in the order in which they were written; damaged lines are passed over.

    Of a segment that was taken over, entries that are no lasting answers are passed over, too. Raises StoreError when
    the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise store_error("read", path, error) from error
    yield from _entries(path, data)


def _entries(path: Path, data: bytes) -> Iterator[IndexEntry]:
    """The entries in lines of an index."""
    foreign = path.parent.name == TAKEN
    cells, evidence = path.with_suffix(".jsonl"), path.with_suffix(".evidence.jsonl")
    for line in data.split(b"\n"):
        head, _, checksum = line.rpartition(b"\t")
        if not head or checksum.decode("ascii", "replace") != _checksum(head):
            continue
        fields = head.decode().split("\t")
        if len(fields) != _NUM_FIELDS or fields[1] not in (LASTING if foreign else _STATUSES):
            continue
        cell_id, status, ended, found, environment = fields[:5]
        start, length, told_start, told_length = map(int, fields[5:])
        yield IndexEntry(
            cell_id=cell_id,
            status=status,  # type: ignore[arg-type]  # one of the words, as looked up above
            ended=ended,
            digest=found,
            environment=environment,
            text=Stretch(path=cells, offset=start, length=length),
            evidence=Stretch(path=evidence, offset=told_start, length=told_length) if told_length else None,
        )


class Listed:
    """Cells in the segments of a run while it grows: of each index only what was added is read again."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._ends: dict[Path, int] = {}  # bytes of each index that were read, up to the end of a line
        self._entries: dict[str, list[IndexEntry]] = {}

    def entries(self, cell_id: str) -> list[IndexEntry]:
        """The entries of a cell. Raises StoreError when an index cannot be read."""
        for index in indexes(self._run):
            start = self._ends.get(index, 0)
            try:
                with open(index, "rb") as file:
                    file.seek(start)
                    data = file.read()
            except OSError as error:
                raise store_error("read", index, error) from error
            end = data.rfind(b"\n") + 1
            for entry in _entries(index, data[:end]):
                self._entries.setdefault(entry.cell_id, []).append(entry)
            self._ends[index] = start + end
        return self._entries.get(cell_id, [])


def whole(entries: Iterable[IndexEntry]) -> Iterator[IndexEntry]:
    """Those of the entries whose cells are what was written, looked at segment by segment, some at once."""
    by_path: dict[Path, list[IndexEntry]] = {}
    for entry in entries:
        by_path.setdefault(entry.text.path, []).append(entry)
    # Reading and digests, which are nearly all of it, leave Python to other threads.
    with ThreadPoolExecutor(max_workers=min(_NUM_READERS, num_cores())) as readers:
        for found in readers.map(_whole_of, by_path, by_path.values()):
            yield from found


def _whole_of(path: Path, held: Sequence[IndexEntry]) -> list[IndexEntry]:
    """The entries of one segment whose cells are what was written. One that cannot be read answers nothing."""
    found: list[IndexEntry] = []
    with contextlib.suppress(OSError), open(path, "rb") as file:
        # Together where they fit: a call of the system for each cell takes as long as its digest.
        data = memoryview(file.read()) if len(held) > 1 and path.stat().st_size < _AT_ONCE_BYTES else None
        for entry in held:
            place = entry.text
            text = place.read_from(file) if data is None else data[place.offset : place.offset + place.length]
            if digest(text) == entry.digest:
                found.append(entry)
    return found


def take_over(index: Path, run: Path) -> None:
    """Make a segment of another run part of a run: by links, or copies across devices."""
    folder = run / TAKEN
    make_folder(folder)
    if (folder / index.name).exists():
        return
    # A copy of the index is taken first and shown last: what it lists is in the files that are copied after it.
    try:
        before = index.read_bytes()
    except OSError as error:
        raise store_error("read", index, error) from error
    for path in (index.with_suffix(".evidence.jsonl"), index.with_suffix(".jsonl")):
        if path.exists():
            link_or_copy(path, folder / path.name)
    link_or_copy(index, folder / index.name, data=before)
