"""`ttbench gate`: a run against a baseline, in words, files and an exit code; fresh rounds of what is slower."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.cli import console, listing
from ttbench.cli import gather as reading
from ttbench.cli.console import Column
from ttbench.errors import GateError, StoreError, UnknownNameError, UsageError
from ttbench.names import quote
from ttbench.report.gate import documents
from ttbench.report.gate.gate import Gate, Terms
from ttbench.report.gate.gate import gate as judge
from ttbench.report.gate.lines import SHOWN_ONLY, TO_CONFIRM
from ttbench.report.statistics.stats import counted
from ttbench.runs.executors.base import LOCAL
from ttbench.runs.options import validated
from ttbench.runs.sweep import placement_of, plan_target, run_cells
from ttbench.store.files import write_whole
from ttbench.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
# What GitHub Actions calls the machine of a job: its own, which other jobs use too, or one's own.
RUNNER, HOSTED = "RUNNER_ENVIRONMENT", "github-hosted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where the summary goes beside the terminal."""

    markdown: Path | None
    junit: Path | None
    step_summary: bool


def gate(
    run: str,
    baseline: str,
    *,
    tasks: Sequence[str],
    margins: Sequence[tuple[str | None, float]],
    timing: bool,
    again: str | None,
    files: Files,
    root: Path,
    as_json: bool,
) -> None:
    """Judge a run by a baseline.

    Raises:
        GateError: something is red.
        UsageError: what was given cannot be judged, or times that are slower could not be measured again.
    """
    summary_file = _step_summary() if files.step_summary else None
    rows, before = (_rows(name, tasks, root=root) for name in (run, baseline))
    reading.say_age(before, baseline)
    hosted = os.environ.get(RUNNER) == HOSTED
    terms = Terms(
        timing=timing,
        hosted=hosted,
        bits=next((size for name, size in margins if name is None), None),
        margins={name: size for name, size in margins if name is not None},
    )
    names = (run, baseline)
    fresh = None if again is None else _rows(again, tasks, root=root)
    found = judge(rows, before, names=names, terms=terms, again=fresh)
    if found.to_confirm and again is None:
        fresh = _measured_again(run, found, root=root)
        found = found if fresh is None else judge(rows, before, names=names, terms=terms, again=fresh)
    # The verdict first: a file that cannot be written must not cost it.
    console.print_json(found.to_json()) if as_json else _print(found)
    text = documents.markdown(found)
    if files.markdown is not None:
        write_whole(files.markdown, text.encode())
    if files.junit is not None:
        write_whole(files.junit, documents.junit(found))
    if summary_file is not None:
        _append(summary_file, text)
    if found.red:
        raise GateError(found.headline)
    if found.to_confirm:
        raise UsageError(
            f"{counted(len(found.to_confirm), 'time')} of {run} must be measured again before they can be judged; "
            "measure them with: ttbench run ... --fresh, and name that run by --again"
        )


def _rows(name: str, tasks: Sequence[str], *, root: Path) -> pd.DataFrame:
    """The rows of a run or of published results, of some tasks. Raises UnknownNameError for a task it does not have."""
    rows = reading.rows_named([name], root)
    if not tasks:
        return rows
    known = list(dict.fromkeys(rows["task"]))
    for task in tasks:
        if task not in known:
            raise UnknownNameError("task", task, known=known, where=name)
    return rows.loc[rows["task"].isin(list(tasks))]


def _step_summary() -> Path:
    """The file that GitHub Actions shows on the page of a job. Raises UsageError outside of one."""
    path = os.environ.get(STEP_SUMMARY)
    if not path:
        raise UsageError(f"--step-summary needs {STEP_SUMMARY}, which GitHub Actions sets; elsewhere: --markdown FILE")
    return Path(path)


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def _measured_again(run: str, found: Gate, *, root: Path) -> pd.DataFrame | None:
    """Fresh rounds of the cells that were slower, as the run asked for them.

    None where the run does not say how it was measured, or was measured by a cluster, which this process is no part of.
    """
    if reading.published_at(run) is not None:
        return None
    store = Store(listing.find_run(run, root))
    asked: Mapping[str, Any] = {name: _plain(value) for name, value in store.run["options"].items()}
    target = asked.get("target")
    if target is None:
        return None
    given = validated({name: value for name, value in asked.items() if name not in ("target", "out", "fresh")})
    if placement_of(target, given).executor != LOCAL:
        return None
    plan = plan_target(target, given, out=root)
    cells = tuple(cell for cell in plan.cells if cell.cell_id in found.slow_cells)
    lacking = found.slow_cells - {cell.cell_id for cell in cells}
    if lacking:
        raise UsageError(
            f"{counted(len(lacking), 'cell')} of {run} cannot be measured again: code or packages have changed since; "
            f"measure the run again with: {store.run['command']}"
        )
    console.say(f"{counted(len(found.to_confirm), 'time')} slower: measuring {counted(len(cells), 'cell')} again")
    command = f"{store.run['command']}{'' if asked.get('fresh') else ' --fresh'}"
    with console.RunDisplay(number=lambda folder, cell: None) as display:
        result = run_cells(
            dataclasses.replace(plan, cells=cells, skips=(), twins=()),
            out=root,
            name="again",
            command=command,
            options=dict(store.run["options"]),
            progress=display,
            fresh=True,
        )
    console.say(f"fresh rounds: {quote(str(result.folder))}")
    return result.rows()


def _plain(value: Any) -> Any:
    """A value of run.json as options have it: lists are tuples."""
    return tuple(value) if isinstance(value, list) else value


def _print(found: Gate) -> None:
    told = [line for line in found.lines if line.red or line.verdict in (TO_CONFIRM, SHOWN_ONLY)]
    columns = [Column("what", wrap=True), Column("verdict", wrap=True), Column("baseline → run"), Column("", wrap=True)]
    if told:
        rows = [(line.what, line.verdict, line.numbers, documents.why(line)) for line in told]
        console.print_table(rows, columns)
    console.out().print(found.headline, soft_wrap=True, markup=False, highlight=False)
