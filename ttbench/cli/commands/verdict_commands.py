"""`ttbench compare`: what is shown of checkpoints by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttbench.cli import console
from ttbench.cli import gather as reading
from ttbench.report import words
from ttbench.report.comparison.compare import compare as compare_rows
from ttbench.report.comparison.compare import render_comparison
from ttbench.report.comparison.variants import read_variant


def compare(first: str, second: str, *, runs: Sequence[str], root: Path, as_json: bool) -> None:
    """Print what differs between two checkpoints or settings of one, from the runs named or from all."""
    one, two = reading.rows_of([read_variant(side) for side in (first, second)], runs=runs, root=root)
    found = compare_rows(one, first, second, rows_b=two)
    for text, rows in ((first, one), (second, two)):
        reading.say_age(rows.loc[rows["checkpoint"] == read_variant(text).name], text)
    for text in found.attrs["left_out"]:
        console.say(text, style="yellow")
    if as_json:
        console.print_json(words.records(found))
    elif len(found):
        console.print_rich(render_comparison(found))
    else:
        console.say(f"'{first}' and '{second}' have no metric in common yet", style="yellow")
