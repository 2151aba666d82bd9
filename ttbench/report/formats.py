"""A table of results for papers and pages: Markdown, LaTeX (booktabs) or CSV, one row for each number."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from ttbench.report import words

FORMATS = ("markdown", "latex", "csv")
HEAD, TAIL = ("task", "metric", "checkpoint"), ("value", "low", "high", "unit", "status")
_MARKED = re.compile(r"([\\`*_\[\]<>|])")
_TEX: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def formatted(summary: pd.DataFrame, form: str) -> str:
    """The numbers of `ttbench.report.table.summarise` in one of FORMATS; in CSV unrounded, else to five digits."""
    entries = words.records(summary)
    axes = dict.fromkeys(axis for entry in entries for axis in entry["axes"].split(",") if axis)
    _, _, varying = words.settings(entries) if entries else ([], [], [])
    names = [*HEAD, *(name for name in varying if name not in axes), *axes, *TAIL]
    rows = [[entry.get(name) for name in names] for entry in entries]
    return _WRITERS[form](names, rows)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)


def _markdown(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    told = [[_MARKED.sub(r"\\\1", " ".join(_text(cell).split())) for cell in row] for row in rows]
    return line(names) + line(["---"] * len(names)) + "".join(map(line, told))


def _latex(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(''.join(_TEX.get(letter, letter) for letter in cell) for cell in cells)} \\\\\n"

    numeric = [any(isinstance(row[place], int | float) for row in rows) for place in range(len(names))]
    columns = "".join("r" if each else "l" for each in numeric)
    body = "".join(line([_text(cell) for cell in row]) for row in rows)
    head = line(names)
    return f"% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\\midrule\n{body}" + (
        "\\bottomrule\n\\end{tabular}\n"
    )


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([names, *rows])
    return file.getvalue()


_WRITERS: Mapping[str, Callable[[Sequence[str], Sequence[Sequence[Any]]], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
