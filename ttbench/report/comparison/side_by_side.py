"""Rows of text in columns that lose no letter in a narrow terminal: heads break first, then the last column moves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

INDENT, GAP = 2, 2


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A head and rows of equally many cells: the first and the last column to the left, the others to the right.

    Where the terminal is too narrow, heads are broken at hyphens and blanks; where that does not do, the last cell of
    each row stands beneath it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # one at least

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        beneath = self._total(widths) > options.max_width
        heads = [textwrap.wrap(text, width) or [""] for text, width in zip(self.head, widths, strict=True)]
        if beneath:
            heads = heads[:-1]
        for line in zip_longest(*heads, fillvalue=""):
            yield _line(line, widths, style="dim", last=not beneath)
        for row in self.rows:
            yield _line(row[:-1] if beneath else row, widths, style="", last=not beneath)
            if beneath:
                yield Text(" " * (INDENT + widths[0] + GAP) + f"{self.head[-1]}: {row[-1]}")

    def _widths(self, room: int) -> list[int]:
        """As wide as cells and heads are; heads give way from the widest on, as far as their longest piece."""
        cells = [max(len(row[index]) for row in self.rows) for index in range(len(self.head))]
        least = [
            max(wide, *map(len, textwrap.wrap(text, 1, break_long_words=False)), 0)
            for wide, text in zip(cells, self.head, strict=True)
        ]
        widths = [max(wide, len(text)) for wide, text in zip(cells, self.head, strict=True)]
        while self._total(widths) > room and widths != least:
            widest = max(
                (index for index in range(len(widths)) if widths[index] > least[index]), key=lambda i: widths[i]
            )
            widths[widest] -= 1
        return widths

    def _total(self, widths: Sequence[int]) -> int:
        return INDENT + sum(widths) + GAP * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int], *, style: str, last: bool) -> Text:
    made = [
        cell.ljust(width) if index == 0 or (last and index == len(cells) - 1) else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ]
    return Text((" " * INDENT + (" " * GAP).join(made)).rstrip(), style=style, no_wrap=True)
