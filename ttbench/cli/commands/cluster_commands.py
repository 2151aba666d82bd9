"""`ttbench status | cancel | collect`: runs whose cells a cluster measures, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.text import Text

from ttbench.cli import console, listing
from ttbench.names import quote
from ttbench.report.published import write_derived
from ttbench.report.table import render, summarise
from ttbench.runs.executors import detached
from ttbench.runs.executors.detached import RunState
from ttbench.runs.executors.tasks import read_submission
from ttbench.runs.sweep import RunResult
from ttbench.store.store import Store
from ttbench.types import ANSWERS, FAILURES


def say_submitted(result: RunResult, *, as_json: bool) -> None:
    """What was handed to a cluster, and what to type next."""
    store = Store(result.folder)
    found = read_submission(store)
    jobs = () if found is None else found.jobs
    data: dict[str, Any] = {"folder": str(result.folder), "num_pending": result.num_pending}
    data |= {"num_reused": result.num_reused, "jobs": [job_id for job_id, _, _ in jobs]}
    if as_json:
        console.print_json(data)
    tasks = sum(num for _, _, num in jobs)
    words = f"{result.num_pending} cells in {tasks} tasks submitted"
    console.say(f"{words}: job {', '.join(data['jobs'])}" if jobs else words)
    console.say(f"how far it is:       {_command('status', result.folder)}")
    console.say(f"to take what ended:  {_command('collect', result.folder)}")
    console.say(f"to stop it:          {_command('cancel', result.folder)}")


def _command(verb: str, folder: Path) -> str:
    return f"ttbench {verb} {quote(str(folder))}"


def status(run: str, *, root: Path, as_json: bool) -> None:
    """Print how far a run is."""
    store = Store(listing.find_run(run, root))
    found = detached.state(store)
    if as_json:
        console.print_json(_data(store, found))
        return
    for line in _lines(store, found):
        console.print_rich(Text(line))


def _data(store: Store, found: RunState) -> dict[str, Any]:
    tasks = {
        str(index): {"state": each.state, "exit_code": each.exit_code, "node": each.node, "waits_for": each.waits_for}
        for index, each in found.tasks.items()
    }
    return {
        "run_id": store.run_id,
        "executor": found.executor,
        "num_cells": found.num_cells,
        "statuses": dict(Counter(found.statuses.values())),
        "num_held": found.held,
        "tasks": tasks,
    }


def _lines(store: Store, found: RunState) -> list[str]:
    lines = [f"run {store.run_id}: {found.num_cells} cells, {_ended(found)}"]
    if found.executor is None:
        return [*lines, "it was submitted to no cluster"]
    counts = found.counts()
    words = ", ".join(f"{counts[word]} {word}" for word in ("waiting", "running", "over") if word in counts)
    lines.append(f"tasks of {found.executor}: {words}")
    waits = Counter(each.waits_for for each in found.tasks.values() if each.waits_for)
    lines += [f"  {number} wait: {reason}" for reason, number in waits.items()]
    ends = Counter(
        f"{each.state or 'unknown to the cluster'}{f', exit code {each.exit_code}' if each.exit_code else ''}"
        for each in found.tasks.values()
        if not each.live
    )
    lines += [f"  {number} over: {word}" for word, number in ends.items()]
    left = found.num_cells - len(found.statuses) - found.held
    lines += [f"{left} cells have no end and no task any more: {_command('collect', store.folder)}"] if left else []
    return lines


def _ended(found: RunState) -> str:
    counts = Counter(found.statuses.values())
    words = ", ".join(f"{counts[status]} {status}" for status in (*ANSWERS, *FAILURES) if counts[status])
    return f"{len(found.statuses)} ended{f': {words}' if words else ''}"


def cancel(run: str, *, root: Path) -> None:
    """Cancel what a run has submitted."""
    store = Store(listing.find_run(run, root))
    detached.cancel(store)
    console.say(f"cancelled what {store.run_id} had submitted; cells that ended are kept")
    console.say(f"to give the others a status: {_command('collect', store.folder)}")


def collect(run: str, *, root: Path, as_json: bool) -> int:
    """Collect a run and print its tables; the exit code."""
    store = Store(listing.find_run(run, root))
    found = detached.collect(store)
    failed = sum(status in FAILURES for status in found.statuses.values())
    table = summarise(store.rows())
    files: Iterable[Path] = write_derived(table, store.folder, warn=console.warn)
    if as_json:
        console.print_json({**_data(store, found), "files": [str(path) for path in files]})
    else:
        console.print_rich(render(table))
    console.say(f"{found.num_cells} cells: {_ended(found)}{f', {found.held} to come' if found.held else ''}")
    console.say(f"rows     {store.folder / 'rows.parquet'}")
    if failed:
        console.say(f"{failed} cells failed; details: {_command('show', store.folder)}", style="red")
        console.say(f"to submit them again: {store.run['command']}")
    return 1 if failed else 0
