"""`ttbench export`: the numbers of a run for tools that keep track of experiments."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ttbench.cli import console
from ttbench.cli import gather as reading
from ttbench.cli.formats.format_commands import rows_of_checkpoint
from ttbench.errors import UsageError
from ttbench.report.exports.exported import exported, find_exporter
from ttbench.report.statistics.stats import counted
from ttbench.report.table import tabulate

FOLDER = Path("exports")  # one for each tool, where no other is named


def export(run: str, *, to: str, folder: Path | None, checkpoint: str | None, root: Path, as_json: bool) -> None:
    """Write what was measured in a run, or published, into a folder of another tool's.

    Raises UnknownNameError for a tool, run or checkpoint that there is not, and UsageError where the tool is not
    installed, refuses, or the folder cannot be made.
    """
    exporter = find_exporter(to)
    rows = reading.rows_named([run], root)
    reading.say_age(rows, run)
    if checkpoint is not None:
        rows = rows_of_checkpoint(rows, checkpoint, where=run)
    models = exported(tabulate(rows))
    if not models:
        raise UsageError(f"{run} holds no number and no status of a checkpoint yet; see: ttbench show {run}")
    place = folder or FOLDER / to
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"exports cannot go into {place}: {error.strerror}; name a folder with --dir DIR") from error
    try:
        files = exporter.write(models, place)
    except UsageError:
        # What was refused leaves nothing behind; a folder that holds something stays.
        with contextlib.suppress(OSError):
            place.rmdir()
        raise
    if as_json:
        console.print_json([str(path) for path in files])
    else:
        console.out().print("\n".join(map(str, files)), soft_wrap=True)
    numbers, lost = sum(len(model.numbers) for model in models), sum(len(model.statuses) for model in models)
    told = f"; {lost} did not end ok and stand there as statuses" if lost else ""
    what = f"{counted(len(models), 'checkpoint')}, {counted(numbers, 'number')}"
    console.say(f"{what}{told}; verdicts have no place there: ttbench compare")
