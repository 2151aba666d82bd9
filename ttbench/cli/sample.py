"""`ttbench show RUN CELL --sample N`: one score down to its prompt, tokens, answer and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.tasks.view import PROMPT

MOST_ROWS = 32  # printed of a table; --json has all


def print_sample(view: Mapping[str, Any]) -> None:
    """Print what `ttbench.runs.evidence.open_sample` found."""
    place = f"sample {view['sample']} of {view['num_samples']}, counted from 0"
    head = [("cell", view["cell_id"]), ("sample", place), ("checkpoint", view["checkpoint"])]
    head += [("task", f"{view['task']}, context {view['context_len']} tokens")]
    _print("", head)
    _print("recipe", (view["recipe"] or {}).items())
    _print("row", [(name, value) for name, value in {**view["keys"], **view["values"]}.items() if value is not None])
    kept, rebuilt = view["evidence"], view["rebuilt"]
    if rebuilt is not None or kept:
        _print_prompt(kept if rebuilt is None else rebuilt)
        for part in view["view"] if rebuilt is None else view["rebuilt_view"]:
            _print_part(part)
    elif not view["not_rebuilt"]:
        console.say("no text was kept of this sample")
    if view["not_rebuilt"]:
        console.say(f"the text cannot be shown: {view['not_rebuilt']}", style="yellow")


def _print_prompt(part: Mapping[str, Any]) -> None:
    rows = [(name.replace("_", " "), part.get(name)) for name in PROMPT]
    _print("prompt", [(name, value) for name, value in rows if value])


def _print_part(part: Mapping[str, Any]) -> None:
    """One part of what the task shows: a sentence, names with values, or a table."""
    if "text" in part:
        console.say(part["text"])
    elif "heads" in part:
        _table(part["title"], part["heads"], part["rows"])
    else:
        _print(part["title"], part["rows"])


def _print(title: str, rows: Any) -> None:
    rows = [(name, _plain(value)) for name, value in rows]
    if rows:
        console.out().print() if title else None
        console.print_table(rows, [Column(""), Column("", wrap=True)], head=False, title=title)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    made = [[_cell(head, value) for head, value in zip(heads, row, strict=True)] for row in rows[:MOST_ROWS]]
    console.out().print()
    columns = [Column(head, numeric="text" not in head, wrap="text" in head or head == "ids") for head in heads]
    console.print_table(made, columns, title=title)
    if len(rows) > MOST_ROWS:
        console.say(f"{len(rows) - MOST_ROWS} more in this table: --json")


def _cell(head: str, value: Any) -> Any:
    if "text" in head and isinstance(value, str):
        return f"'{_plain(value)}'"
    if isinstance(value, float):
        return f"{value:.4f}"
    return _plain(value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """Text as it stands, with line ends and what a terminal would obey spelled out; lists of ids with spaces."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value)
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else value
