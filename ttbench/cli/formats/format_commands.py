"""`--format` and `ttbench export`: what was measured, for papers, pages, model cards and other tools."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from ttbench.cli import console
from ttbench.cli import gather as reading
from ttbench.errors import UnknownNameError, UsageError
from ttbench.report.formats.model_index import MODEL_INDEX, model_index
from ttbench.report.formats.number_sheets import number_sheet
from ttbench.report.formats.writing import FORMATS, require_format, written
from ttbench.report.statistics.stats import counted
from ttbench.report.table import tabulate


def require_one_form(form: str | None, *, as_json: bool) -> None:
    """Raises UnknownNameError for a format that there is not, and UsageError for one beside --json."""
    if form is not None:
        require_format(form)
        if as_json:
            raise UsageError("--format and --json are two forms of one answer; leave one of them out")


def show_formatted(run: str, form: str | None, *, checkpoint: str | None, whole: bool, root: Path) -> None:
    """Print the table of a run in a format, and nothing else.

    Raises UnknownNameError for a format or a checkpoint that there is not, and UsageError beside a cell, for a
    checkpoint without a format, and for a model's metadata where the run holds several.
    """
    if form is None:
        raise UsageError(f"--checkpoint chooses what --format prints; add --format {'|'.join((*FORMATS, MODEL_INDEX))}")
    require_format(form, (*FORMATS, MODEL_INDEX))
    if not whole:
        raise UsageError("--format is for the table of a whole run; leave out CELL, --sample and --json")
    rows = reading.rows_named([run], root)
    reading.say_age(rows, run)
    if checkpoint is not None:
        rows = rows_of_checkpoint(rows, checkpoint, where=run)
    if form == MODEL_INDEX:
        _print_model_index(rows, run)
        return
    sys.stdout.write(written([number_sheet(tabulate(rows))], form))


def rows_of_checkpoint(rows: pd.DataFrame, name: str, *, where: str) -> pd.DataFrame:
    """The rows of one checkpoint. Raises UnknownNameError where there are none."""
    known = list(dict.fromkeys(rows["checkpoint"]))
    if name not in known:
        raise UnknownNameError("checkpoint", name, known=known, where=where)
    return rows.loc[rows["checkpoint"] == name]


def _print_model_index(rows: pd.DataFrame, run: str) -> None:
    names = list(dict.fromkeys(rows["checkpoint"]))
    if len(names) > 1:
        raise UsageError(
            f"a model card is of one model, and {run} holds {', '.join(names)}; name one: --checkpoint {names[0]}"
        )
    made = model_index(tabulate(rows))
    sys.stdout.write(made.text)
    lost = "".join(f", {counted(number, 'number')} {why}" for why, number in made.left_out.items())
    console.say(f"{counted(made.num_metrics, 'number')}; not in it, for want of a place: verdicts{lost}")
