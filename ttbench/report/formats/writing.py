"""A table before it has a format, and what writes it as Markdown, LaTeX (booktabs) or CSV.

RecordSheet  -- records, raw and unrounded: CSV, with a column `unit`
      '-- printed: tables of one metric each, scaled and rounded, one unit to a column: Markdown and LaTeX
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttbench.errors import UnknownNameError
from ttbench.report.words import Record
from ttbench.store.files import write_whole

MARKDOWN, LATEX, CSV = "markdown", "latex", "csv"
SUFFIXES: Mapping[str, str] = {MARKDOWN: ".md", LATEX: ".tex", CSV: ".csv"}
FORMATS = tuple(SUFFIXES)
_NUMBER = re.compile(r"-?[\d,]*\.?\d+(e[-+]?\d+)?")
_MARKED = re.compile(r"([\\`*_\[\]<>|~$])")
# What LaTeX reads as something else, and what its oldest font encoding draws as another letter.
_TEX: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "µ": r"\textmu{}",
    # after the end of a row a bracket is its option, and a star its form
    "[": "{[}",
    "*": "{*}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A table for people: every cell as it stands on paper."""

    title: str
    heads: Sequence[str]  # with the unit of the column
    rows: Sequence[Sequence[str]]

    def columns(self) -> list[tuple[str, list[str], bool]]:
        """Head, cells, and whether they are numbers; columns without a single entry are left out."""
        whole = [(head, [row[place] for row in self.rows]) for place, head in enumerate(self.heads)]
        return [(head, cells, all(map(_is_number, filter(None, cells)))) for head, cells in whole if any(cells)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSheet:
    """Records of one kind, and the tables that people read of them."""

    kind: str  # what a record is: number, comparison, place, crossing, front
    records: Sequence[Record]  # raw values; all have the same keys
    printed: Sequence[Printed]


def require_format(form: str, known: Sequence[str] = FORMATS) -> None:
    """Raises UnknownNameError for a format that there is not."""
    if form not in known:
        raise UnknownNameError("format", form, known=known)


def written(sheets: Sequence[RecordSheet], form: str) -> str:
    """Sheets as one text in one of FORMATS.

    CSV is one table: of several sheets the column `table` tells their kinds apart, and a column that a kind does not
    have is empty.
    """
    if form == CSV:
        several = len(sheets) > 1
        records = [{"table": sheet.kind, **entry} if several else entry for sheet in sheets for entry in sheet.records]
        names = dict.fromkeys(name for entry in records for name in entry)
        return csv_text(list(names), records)
    tables = [table for sheet in sheets for table in sheet.printed if table.rows]
    return _HEADS[form] + "\n".join(_TABLES[form](table) for table in tables)


def write_sheet(sheet: RecordSheet, path: Path, form: str) -> Path:
    """Write a sheet beside what else is called `path`, with the suffix of its format; returns the file."""
    file = path.with_name(path.name + SUFFIXES[form])
    write_whole(file, written([sheet], form).encode())
    return file


def csv_text(names: Sequence[str], records: Sequence[Record]) -> str:
    """Records as CSV: numbers with every digit that they have, nothing where nothing is known."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([names, *([entry.get(name) for name in names] for entry in records)])
    return file.getvalue()


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _markdown(table: Printed) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    columns = table.columns()
    rule = ["---:" if numeric else "---" for _, _, numeric in columns]
    body = zip(*([_marked(cell) for cell in cells] for _, cells, _ in columns), strict=True)
    return f"**{_marked(table.title)}**\n\n{line([_marked(head) for head, _, _ in columns])}{line(rule)}" + "".join(
        map(line, body)
    )


def _marked(text: str) -> str:
    return _MARKED.sub(r"\\\1", " ".join(text.split()))


def _latex(table: Printed) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(cells)} \\\\\n"

    columns = table.columns()
    kinds = "".join("r" if numeric else "l" for _, _, numeric in columns)
    body = zip(*([_tex(cell, numeric) for cell in cells] for _, cells, numeric in columns), strict=True)
    head = line([_tex(head, False) for head, _, _ in columns])
    title = " ".join(table.title.split())
    return (
        f"% {title}\n\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{head}\\midrule\n{''.join(map(line, body))}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def _tex(text: str, numeric: bool) -> str:
    told = "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))
    # a hyphen is no minus
    return f"$-${told[1:]}" if numeric and told.startswith("-") else told


_TABLES: Mapping[str, Callable[[Printed], str]] = {MARKDOWN: _markdown, LATEX: _latex}
_HEADS: Mapping[str, str] = {MARKDOWN: "", LATEX: "% needs \\usepackage{booktabs}\n"}
