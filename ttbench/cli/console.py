"""What a terminal shows: results on stdout, everything else that a human reads on stderr.

On a terminal the progress is one bar that is redrawn once a second, elsewhere plain lines. Units are made here: stored
values stay seconds, bytes and counts.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column as TableColumn
from rich.table import Table
from rich.text import Text

from ttbench.cli.widths import GAP, Column, fit, stacked, wrap
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Progress as RunProgress
from ttbench.runs.suite import format_len
from ttbench.types import Cell, Status

# Where there is no terminal, nothing should be cut to its width.
PIPE_WIDTH = 200
# A narrower terminal breaks lines itself.
NARROWEST = 24
REDRAWS_PER_S = 1.0
STATUS_STYLE = {"ok": "green", "killed": "red", "timeout": "red", "error": "red", "planned": "dim", "missing": "dim"}


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    console = Console(stderr=stderr, width=width, highlight=False, soft_wrap=False, emoji=False)
    if console.width < NARROWEST:
        console.width = NARROWEST
    return console


def out() -> Console:
    """For results."""
    return _console(stderr=False)


def err() -> Console:
    """For everything else."""
    return _console(stderr=True)


def say(text: str = "", *, style: str = "") -> None:
    """One paragraph for the human, on stderr. The text is not markup."""
    err().print(escape(text), style=style or None, soft_wrap=not sys.stderr.isatty())


def warn(text: str) -> None:
    """Something that was lost and hurts no number, on stderr."""
    say(f"warning: {text}", style="yellow")


def print_rich(table: Any) -> None:
    """A renderable that fits itself to the terminal, on stdout; what it cannot fit runs on, and is never cut."""
    out().print(table, overflow="ignore", crop=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout; missing is null, NaN is an error."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(json.dumps(value, allow_nan=False, ensure_ascii=ascii_only, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def ask(question: str) -> bool:
    """Whether a person at a terminal says yes; no where there is none."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def print_error(message: str) -> None:
    """The one message of a failed command."""
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=not sys.stderr.isatty())


def print_table(
    rows: Iterable[Sequence[Any]],
    columns: Sequence[Column],
    *,
    title: str = "",
    caption: str = "",
    stderr: bool = False,
    head: bool = True,
) -> None:
    """Draw rows under columns; None is printed as a dash.

    Where the terminal is too narrow, text is broken over lines, then each row is printed as lines of its own. No cell
    is cut.
    """
    console = err() if stderr else out()
    cells = [[_cell(value) for value in row] for row in rows]
    texts = [[cell.plain for cell in row] for row in cells]
    if title:
        console.print(Text("\n".join(wrap(title, console.width)), style="bold"))
    shown = columns if head else [dataclasses.replace(column, head="") for column in columns]
    widths = fit(shown, texts, room=console.width)
    if widths is None:
        lines = ["\n".join(stacked(shown, row, room=console.width)) for row in texts]
        console.print(Text(("\n\n" if head else "\n").join(lines)), overflow="ignore", crop=False, no_wrap=True)
    else:
        console.print(_table(cells, shown, widths, head=head))
    if caption:
        console.print(Text("\n".join(wrap(caption, console.width)), style="dim italic"))


def _table(cells: Sequence[Sequence[Text]], columns: Sequence[Column], widths: Sequence[int], *, head: bool) -> Table:
    table = Table(header_style="bold", show_header=head, box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        justify = "right" if column.numeric else "left"
        table.add_column("\n".join(wrap(column.head, width)), justify=justify, width=width, no_wrap=True)
    for row in cells:
        table.add_row(
            *(
                Text("\n".join(wrap(cell.plain, width)), style=cell.style)
                for cell, width in zip(row, widths, strict=True)
            )
        )
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    text = "-" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return Text(text, style=STATUS_STYLE.get(text, ""))


# Units


def count(number: float) -> str:
    """1234567 -> 1.23 M."""
    return _scaled(number, 1000.0, ("", " k", " M", " G", " T", " P", " E"))


def size(num_bytes: float) -> str:
    """1536 -> 1.5 KiB."""
    return _scaled(num_bytes, 1024.0, (" B", " KiB", " MiB", " GiB", " TiB"))


def flop(number: float) -> str:
    """2.5e12 -> 2.50 TFLOP."""
    return _scaled(number, 1000.0, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP", " EFLOP"))


def _scaled(number: float, base: float, units: Sequence[str]) -> str:
    power = 0
    while abs(number) >= base * 0.9995 and power < len(units) - 1:
        number, power = number / base, power + 1
    digits = 0 if power == 0 and float(number).is_integer() else max(0, 2 - int(math.log10(max(abs(number), 1.0))))
    return f"{number:.{digits}f}{units[power]}"


def span(seconds: float) -> str:
    """Seconds as a human says them: 0.25 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# Progress


class _Left(ProgressColumn):
    """Time left of the whole run."""

    def render(self, task: Any) -> Text:
        seconds = task.fields.get("left_s")
        return Text("" if seconds is None else f"{span(seconds)} left", style="cyan")


class RunDisplay:
    """A run's progress on stderr: a bar on a terminal, a line per finished cell elsewhere; a context manager.

    Implements `ttbench.runs.progress.Progress`. `number` says in words what a cell of a run's folder gave, if it gave a
    number: it stands in the cell's line, long before the tables.
    """

    def __init__(self, *, number: Callable[[str, Cell], str | None] = lambda folder, cell: None) -> None:
        self._number = number
        self.folder: str | None = None
        self._num_ended = self._num_cells = 0
        # Cell id -> its number, when it began, and the share that is done, of those that run.
        self._running: dict[str, tuple[int, float, float]] = {}
        self._said: set[str] = set()  # reasons that stand in an earlier cell's line
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_plan(self, plan: Plan, *, folder: str, num_reused: int) -> None:
        self.folder = folder
        self._num_cells = len(plan.cells) - num_reused
        if self._num_cells and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", table_column=TableColumn(no_wrap=True)),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[index]}/{task.fields[num_cells]} cells"),
                _Left(),
            )
            self._bar = Progress(*columns, console=err(), refresh_per_second=REDRAWS_PER_S, transient=True, expand=True)
            self._task = self._bar.add_task(
                "starting", total=self._num_cells, index=0, num_cells=self._num_cells, left_s=None
            )
            self._bar.start()

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
        self._num_cells = num_cells
        self._running[cell.cell_id] = (index, time.monotonic(), 0.0)
        self._draw(cell, left_s=seconds_left)

    def on_progress(self, cell: Cell, *, done: int, total: int, seconds_left: float | None) -> None:
        index, started, _ = self._running[cell.cell_id]
        self._running[cell.cell_id] = (index, started, done / total if total else 0.0)
        self._draw(cell, left_s=seconds_left)

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
        self._num_ended += 1
        # A worker may die before its first cell begins.
        index, started, _ = self._running.pop(cell.cell_id, (self._num_ended, time.monotonic(), 0.0))
        took = span(time.monotonic() - started)
        width = len(str(self._num_cells))
        words = f" {status}{': ' if reason else ''}{'as before' if reason in self._said else reason or ''}"
        self._said |= {reason} if reason else set()
        if status == "ok":
            number = self._number(self.folder, cell) if self.folder else None
            words = f"  {number}" if number else ""
        line = f"[{index:>{width}}/{self._num_cells}] {cell_words(cell)}  {took}{words}"
        if self._bar is not None:
            style = STATUS_STYLE.get(status, "yellow")
            self._bar.console.print(Text(line, style="" if status == "ok" else style), soft_wrap=True)
            self._draw(cell, left_s=seconds_left)
            return
        left = "" if seconds_left is None or self._num_ended == self._num_cells else f", {span(seconds_left)} left"
        say(line + left)

    def _draw(self, cell: Cell, *, left_s: float | None) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                description=escape(cell_words(cell)),
                completed=self._num_ended + sum(share for _, _, share in self._running.values()),
                index=min(self._num_ended + len(self._running), self._num_cells),
                num_cells=self._num_cells,
                left_s=left_s,
            )


class NotebookDisplay:
    """A run's progress in a notebook: a bar, and below it the cells that gave no number, with their reasons.

    One output is redrawn, in plain HTML, so that no widgets are needed.

    Implements `ttbench.runs.progress.Progress`. `show` is IPython's `display`.
    """

    def __init__(self, show: Callable[..., Any]) -> None:
        self._show, self._handle = show, None
        self._num_cells = 0
        self._statuses: Counter[str] = Counter()
        self._running: dict[str, tuple[str, float]] = {}  # cell id -> its words, the share of it that is done
        self._left_s: float | None = None
        self._told: list[str] = []

    def on_plan(self, plan: Plan, *, folder: str, num_reused: int) -> None:
        self._num_cells = len(plan.cells) - num_reused
        if self._num_cells:
            self._handle = self._show(self, display_id=True)

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
        self._num_cells = num_cells
        self._running[cell.cell_id] = (cell_words(cell), 0.0)
        self._draw(seconds_left)

    def on_progress(self, cell: Cell, *, done: int, total: int, seconds_left: float | None) -> None:
        self._running[cell.cell_id] = (cell_words(cell), done / total if total else 0.0)
        self._draw(seconds_left)

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
        # A worker may die before its first cell begins.
        self._running.pop(cell.cell_id, None)
        self._statuses[status] += 1
        if status != "ok":
            self._told.append(f"{cell_words(cell)}  {status}{': ' if reason else ''}{reason or ''}")
        self._draw(seconds_left)

    def _draw(self, left_s: float | None) -> None:
        self._left_s = left_s
        if self._handle is not None:
            self._handle.update(self)

    def _lines(self) -> list[str]:
        ended = self._statuses.total()
        if ended >= self._num_cells:
            counts = ", ".join(f"{number} {status}" for status, number in self._statuses.items())
            return [f"{self._num_cells} cell{'' if self._num_cells == 1 else 's'}: {counts}", *self._told]
        left = "" if self._left_s is None else f"  {span(self._left_s)} left"
        running = "; ".join(words for words, _ in self._running.values()) or "starting"
        return [f"{ended}/{self._num_cells} cells  {running}{left}", *self._told]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        done = self._statuses.total() + sum(share for _, share in self._running.values())
        bar = f'<progress value="{done:.3f}" max="{self._num_cells}"></progress> '
        lines = "<br>".join(html.escape(line) for line in self._lines())
        return f'<div style="font-family: monospace; white-space: pre-wrap">{bar}{lines}</div>'


def display_here() -> RunProgress | None:
    """A display for the notebook whose kernel this process is; None where it is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A shell in a terminal has no kernel.
    if ipython is None or getattr(shell, "kernel", None) is None:
        return None
    return NotebookDisplay(ipython.display.display)


def cell_words(cell: Cell) -> str:
    """A cell in a line: task, checkpoint, context, and the round of a timing cell."""
    text = f"{cell.task}  {cell.checkpoint.name}  {format_len(cell.context_len)}"
    return text if cell.machine is None else f"{text}  round {cell.round + 1}"
