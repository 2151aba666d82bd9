"""`ttbench compare`: what is shown of checkpoints by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttbench.cli import console
from ttbench.cli import gather as reading
from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.comparison.variants import read_variant
from ttbench.report.head_to_head.rendering import render
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head


def compare(names: Sequence[str], *, runs: Sequence[str], root: Path, as_json: bool) -> None:
    """Print what differs between checkpoints or settings of one, from the runs named or from all.

    Args:
        names: two or more; none: every checkpoint of the runs.

    Raises UsageError for one name alone, and where no two of them can be compared in anything.
    """
    if len(names) == 1:
        raise UsageError(f"'{names[0]}' alone cannot be compared; name two checkpoints, or none to compare all")
    if names:
        frames = reading.rows_of([read_variant(name) for name in names], runs=runs, root=root)
        found = head_to_head(frames, names)
        for text, rows in zip(names, frames, strict=True):
            reading.say_age(rows.loc[rows["checkpoint"] == read_variant(text).name], text)
    else:
        rows = reading.rows_of_all(runs, root=root)
        found = head_to_head(rows)
        reading.say_age(rows, "of these runs")
    for text in found.left_out:
        console.say(text, style="yellow")
    if not found.num_comparable:
        raise UsageError(_nothing(found))
    console.print_json(found.to_json()) if as_json else console.print_rich(render(found))


def _nothing(found: HeadToHead) -> str:
    """Why no two checkpoints can be compared in anything, and what to do."""
    told = " and ".join(f"'{name}'" for name in found.names)
    reasons = dict.fromkeys(str(entry["reason"]) for entry in words.records(found.verdicts))
    why = "; ".join(list(reasons)[:3]) or "they have no metric in common yet"
    return f"nothing of {told} can be compared: {why}; measure them alike: ttbench run TASK {_flags(found)}"


def _flags(found: HeadToHead) -> str:
    return " ".join(f"--checkpoint {name}" for name in dict.fromkeys(read_variant(name).name for name in found.names))
