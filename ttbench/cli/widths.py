"""Widths of a table's columns in a terminal that may be narrow: text is broken between its pieces, a number never."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

GAP = 2  # letters between columns
LONGEST_PIECE = 24  # letters; a longer piece, such as a digest, may be broken anywhere
# After a blank, within a name or a path, and after punctuation; not in 1e-5, 1,048,576 or 0.5.
_BREAKS = re.compile(r"(?<=\s)(?=\S)|(?<=\w-)(?=[^\W\d])|(?<=[/_=])(?=.)|(?<=[,;:])(?=[^\d\s])")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a printed table."""

    head: str
    numeric: bool = False
    wrap: bool = False  # breaks its cells over lines before other columns do


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, room: int) -> list[int] | None:
    """Letters of each column, so that all fit `room`; None where no widths do, and each row needs lines of its own."""
    texts = [[column.head, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    natural = [max(cell_len(line) for text in column for line in text.split("\n")) for column in texts]
    least = [max(min(_longest_piece(text), LONGEST_PIECE) for text in column) for column in texts]
    for foldable in (
        [column.wrap for column in columns],
        [not column.numeric for column in columns],
    ):
        floor = [low if may else wide for low, wide, may in zip(least, natural, foldable, strict=True)]
        left = room - GAP * (len(columns) - 1)
        if sum(floor) <= left:
            return _shrink(natural, floor, left)
    return None


def _shrink(widths: Sequence[int], floor: Sequence[int], room: int) -> list[int]:
    """The widest columns give way first, none below its floor."""
    widths = list(widths)
    while sum(widths) > room:
        spare = [index for index, wide in enumerate(widths) if wide > floor[index]]
        widths[max(spare, key=widths.__getitem__)] -= 1
    return widths


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters, broken between pieces; only pieces longer than LONGEST_PIECE are cut."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in _pieces(paragraph, max(width, LONGEST_PIECE)):
            if line and cell_len(line + piece.rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            line += piece
        lines.append(line.rstrip())
    return lines


def _pieces(text: str, longest: int) -> Iterator[str]:
    for piece in _BREAKS.split(text):
        for start in range(0, max(len(piece), 1), longest):
            yield piece[start : start + longest]


def _longest_piece(text: str) -> int:
    return max(cell_len(piece.rstrip()) for piece in _BREAKS.split(text))


def stacked(columns: Sequence[Column], row: Sequence[str], *, room: int) -> Iterator[str]:
    """A row as lines `head: cell`, the first column's as it stands and the others beneath it."""
    for index, (column, cell) in enumerate(zip(columns, row, strict=True)):
        head = f"{' '.join(column.head.split())}: " if column.head else ""
        margin = "" if index == 0 else "  "
        first, *others = wrap(head + cell, room - len(margin) - GAP)
        yield margin + first
        yield from (margin + " " * GAP + line for line in others)
