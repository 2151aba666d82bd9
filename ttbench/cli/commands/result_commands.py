"""`ttbench list` and `show`: what there is, and what was found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.cli import console, listing, published_cells
from ttbench.cli import gather as reading
from ttbench.cli.console import Column
from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.published import ROWS
from ttbench.report.table import render, summarise
from ttbench.runs.suite import format_len
from ttbench.store.collected import table
from ttbench.store.rows import frame, read_rows
from ttbench.store.store import Store, delete_run
from ttbench.types import RANDOM

if TYPE_CHECKING:
    import pandas as pd


def list_nouns(noun: str | None, *, root: Path, as_json: bool) -> None:
    """Print the entries of one noun, or all nouns in short."""
    if noun is not None:
        entries = listing.of(noun, root)
        if as_json:
            console.print_json(entries)
        elif entries:
            _print_entries(noun, entries)
        else:
            console.say(f"no {noun} yet{f' in {root}/' if noun == 'runs' else ''}")
        return
    found = listing.everything(root)
    if as_json:
        console.print_json(found)
        return
    rows = []
    for name, entries in found.items():
        # Runs pile up: the newest five are enough here.
        shown = entries[:5] if name == "runs" else entries
        for index, entry in enumerate(shown):
            words = entry.get("description") or entry.get("title") or entry.get("command") or ""
            rows.append((name if index == 0 else "", entry["name"], words))
        if len(entries) > len(shown):
            rows.append(("", f"... {len(entries) - len(shown)} more", f"ttbench list {name}"))
    console.print_table(rows, [Column("noun"), Column("name"), Column("what", wrap=True)])


def _print_entries(noun: str, entries: Sequence[Mapping[str, Any]]) -> None:
    if noun == "checkpoints":
        _print_checkpoints(entries)
        return
    if noun == "suites":
        columns = [Column("name"), Column("title", wrap=True), Column("tasks", wrap=True)]
        rows: list[Sequence[Any]] = [(entry["name"], entry["title"], ", ".join(entry["tasks"])) for entry in entries]
    elif noun == "papers":
        columns = [Column("name"), Column("title", wrap=True), Column("figures", wrap=True)]
        rows = [(entry["name"], entry["title"], ", ".join(entry["figures"])) for entry in entries]
    elif noun == "runs":
        columns = [Column("run"), Column("started"), Column("checkpoints", wrap=True), Column("contexts", wrap=True)]
        columns += [Column("cells", numeric=True), Column("status"), Column("command", wrap=True)]
        rows = [
            (
                entry["name"],
                (entry["started"] or "")[:16].replace("T", " "),
                ", ".join(entry["checkpoints"]),
                ", ".join(map(format_len, entry["contexts"])),
                entry["cells"],
                _statuses(entry),
                entry["command"] or f"cannot be read: {entry['reason']}",
            )
            for entry in entries
        ]
    elif noun == "experts":
        columns = [Column("name"), Column("how", wrap=True), Column("domain"), Column("parameters", numeric=True)]
        rows = [
            (
                entry["name"],
                f"{' '.join(filter(None, (entry['method'], entry['form'])))}, {entry['objective']}",
                entry["domain"],
                console.count(entry["num_params"]),
            )
            for entry in entries
        ]
    elif noun == "tasks":
        columns = [Column("name"), Column("default --ctx"), Column("what", wrap=True), Column("parameters", wrap=True)]
        rows = [
            (
                entry["name"],
                entry["default_ctx"],
                entry["description"],
                " ".join(f"{name}={'none' if value is None else value}" for name, value in entry["params"].items()),
            )
            for entry in entries
        ]
    else:
        columns = [Column("name"), Column("what", wrap=True), Column("defined in", wrap=True)]
        rows = [(entry["name"], entry["description"], entry["target"]) for entry in entries]
    console.print_table(rows, columns)


def remove_runs(names: Sequence[str], *, root: Path, yes: bool) -> None:
    """Delete runs. Cells that other runs have taken over stay with them.

    Raises UsageError for a run that has not ended, and where nobody can be asked and `yes` is not given.
    """
    folders = list(dict.fromkeys(listing.find_run(name, root) for name in names))
    for folder in folders:
        if not (folder / ROWS).is_file() and not yes:
            raise UsageError(f"{folder} has not ended, or was cut off: it has no {ROWS}; to delete it anyway add --yes")
    if not yes:
        console.say("\n".join(map(str, folders)))
        if not console.ask(f"delete {len(folders)} run{'' if len(folders) == 1 else 's'}?"):
            raise UsageError("nothing was deleted; to delete without being asked add --yes")
    for folder in folders:
        delete_run(folder)
        console.say(f"deleted {folder}")


WIDEST = 24  # letters that a column of samples makes room for; longer texts are wrapped
STATES = {
    "cached": "cached",
    "convert": "cached, to convert",
    "partial": "cached, not whole",
    "download": "hub",
    "package": "package",
    "unpublished": "unpublished",
}


def _print_checkpoints(entries: Sequence[Mapping[str, Any]]) -> None:
    """Two tables: what ships with the package, and what others published."""
    zoo = [entry for entry in entries if entry["state"] == "zoo"]
    columns = [Column("name"), Column("architecture"), Column("params", numeric=True)]
    columns += [Column("non-embed", numeric=True), Column("trained", numeric=True), Column("weights")]
    rows: list[Sequence[Any]] = [
        (
            entry["name"],
            entry["architecture"],
            console.count(entry["num_params"]),
            console.count(entry["num_params_non_embedding"]),
            _context(entry),
            entry["weights_digest"][:8],
        )
        for entry in zoo
    ]
    console.print_table(rows, columns, title="here, in the zoo")
    columns = [Column("name"), Column("by", wrap=True), Column("params", numeric=True)]
    columns += [Column("trained", numeric=True), Column("download", numeric=True), Column("where", wrap=True)]
    rows = [
        (
            entry["name"],
            entry.get("provenance"),
            None if entry.get("num_params") is None else console.count(entry["num_params"]),
            _context(entry),
            None if entry.get("download_bytes") is None else console.size(entry["download_bytes"]),
            STATES[entry["state"]] + (", gated" if entry.get("gated") else ""),
        )
        for entry in entries
        if entry["state"] not in ("zoo", RANDOM)
    ]
    console.out().print()
    console.print_table(
        rows, columns, title="published", caption="-: not known; ttbench list checkpoints --json has more"
    )
    for entry in entries:
        if entry["state"] == RANDOM:
            console.out().print()
            console.print_rich(words.Paragraph(_sizes(entry)))


def _sizes(entry: Mapping[str, Any]) -> str:
    """Random weights in one sentence, since a table of sizes would be longer than all others: `mamba-130m|370m`."""
    families: dict[str, list[str]] = {}
    for name in entry["sizes"]:
        family, _, size = name.rpartition("-")
        families.setdefault(family, []).append(size)
    listed = ", ".join(f"{family}-{'|'.join(sizes)}" for family, sizes in families.items())
    return f"{entry['name']} has random weights of a published size, for latency and memory; NAME is one of {listed}"


def _context(entry: Mapping[str, Any]) -> str | None:
    return None if entry.get("train_ctx") is None else format_len(entry["train_ctx"])


def _statuses(entry: Mapping[str, Any]) -> str:
    counts = {**entry["statuses"], "missing": entry["missing"]}
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number)


def show(run: str, cell: str | None, *, sample: int | None, root: Path, as_json: bool) -> None:
    """Print a run, one of its cells, or a sample of one; of published results, their table.

    Raises UsageError for a sample of no cell.
    """
    published = reading.published_at(run)
    if published is not None:
        _show_published(run, read_rows(published), cell, sample=sample, as_json=as_json)
        return
    folder = listing.find_run(run, root)
    if sample is not None:
        if cell is None:
            raise UsageError(f"--sample {sample} needs a cell; ttbench show {run} lists them: ttbench show {run} CELL")
        from ttbench.cli.sample import print_sample
        from ttbench.runs.evidence import open_sample

        cell_id = listing.find_cell(folder, cell)
        store = Store(folder)
        record = store.read(cell_id)
        found = open_sample(record, store.evidence_path(record), sample)
        console.print_json(found) if as_json else print_sample(found)
        return
    if cell is not None:
        view = listing.view_cell(folder, cell)
        console.print_json(view) if as_json else _print_cell(view)
        return
    seen = listing.view_run(folder)
    if as_json:
        document = {"folder": str(folder), "run": dict(seen.run), "environment": dict(seen.environment)}
        console.print_json({**document, "cells": list(seen.cells)})
        return
    environment = seen.environment
    facts = [
        ("run", str(folder)),
        ("command", seen.run["command"]),
        ("started", seen.run["started"]),
        ("ttbench", f"{environment['ttbench']}, commit {environment['commit'] or 'unknown'}"),
        ("machine", f"{environment['processor']}, {environment['num_cores']} cores ({environment['machine']})"),
        ("memory", console.size(environment["memory_bytes"])),
        ("accelerator", environment["accelerator"]),
        ("python", f"{environment['python']}, torch {environment['packages'].get('torch', 'unknown')}"),
    ]
    console.print_table(facts, [Column(""), Column("", wrap=True)], head=False)
    reading.say_odd(seen)
    if any(entry["status"] == "ok" for entry in seen.cells):
        console.out().print()
        console.print_rich(render(summarise(frame(table(seen.records)))))
    columns = [Column("cell"), Column("task"), Column("checkpoint"), Column("context", numeric=True)]
    columns += [Column("status"), Column("samples", numeric=True), Column("time", numeric=True), Column("code")]
    rows = [
        (
            entry["cell_id"][:8],
            entry["task"],
            entry["checkpoint"],
            format_len(entry["context_len"]),
            entry["status"],
            entry["samples"],
            None if entry["cell_s"] is None else console.span(entry["cell_s"]),
            None if entry["code_digest"] is None else entry["code_digest"][:6],
        )
        for entry in seen.cells
    ]
    console.out().print()
    console.print_table(rows, columns)
    reasons = {entry["cell_id"][:8]: f"{entry['status']}: {entry['reason']}" for entry in seen.cells if entry["reason"]}
    if reasons:
        console.out().print()
        console.print_table(reasons.items(), [Column("cell"), Column("why", wrap=True)])


def _show_published(run: str, rows: pd.DataFrame, cell: str | None, *, sample: int | None, as_json: bool) -> None:
    """Published results: their table and what they ran on, one of their cells, or a sample of one."""
    if cell is None and sample is not None:
        raise UsageError(f"--sample {sample} needs a cell; column cell_id of {run}/{ROWS} has them")
    if cell is None:
        reading.say_age(rows, run)
        summary = summarise(rows)
        console.print_json(words.records(summary)) if as_json else console.print_rich(render(summary))
        for line in published_cells.environments(rows):
            console.say(line)
        return
    cell_id = listing.match_cell(cell, list(dict.fromkeys(rows["cell_id"])), where=run)
    if sample is not None:
        from ttbench.cli.sample import print_sample

        found = published_cells.open_sample(rows, cell_id, sample)
        console.print_json(found) if as_json else print_sample(found)
        if not as_json:
            console.say(published_cells.NOT_STORED)
        return
    view = published_cells.view_cell(rows, cell_id)
    console.print_json(view) if as_json else _print_cell(view)
    if not as_json:
        console.say("\n".join(published_cells.environments(rows.loc[rows["cell_id"] == cell_id])))


def _print_cell(view: Mapping[str, Any]) -> None:
    cell = view["cell"]
    checkpoint = cell["checkpoint"]
    facts = [
        ("cell", view["cell_id"]),
        ("task", f"{cell['task']} (version {cell['task_version']})"),
        (
            "checkpoint",
            f"{checkpoint['name']} ({checkpoint['architecture']}, weights {checkpoint['weights_digest'][:12]})",
        ),
        ("code", None if cell["code_digest"] is None else cell["code_digest"][:12]),
        ("software", cell["software"]),
        ("context", f"{format_len(cell['context_len'])} tokens"),
        ("parameters", " ".join(f"{name}={value}" for name, value in cell["params"].items())),
        ("corpus", cell["corpus"]),
        ("ran as", f"{cell['device']}, {cell['dtype']}, batch size {cell['batch_size']}, {cell['threads']} threads"),
        ("kernels", ", ".join(f"{op}: {how}" for op, how in view["kernel_path"].items()) or view["engine"]),
        ("choices", " ".join(f"{name}={value}" for name, value in view["choices"].items()) or None),
        ("measured", f"{view['started']}, by run {view['run_id']} with ttbench {view['ttbench'] or 'of schema 1'}"),
        ("took", _took(view)),
        ("status", view["status"] if view["reason"] is None else f"{view['status']}: {view['reason']}"),
        ("traceback in" if view["status"] == "error" else "evidence", view["evidence"]),
    ]
    console.print_table(facts, [Column(""), Column("", wrap=True)], head=False)
    _print_samples(view["samples"])


def _print_samples(samples: Sequence[Mapping[str, Any]]) -> None:
    """What tells the samples apart as tables as wide as the terminal; before them what is the same in all."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    # Columns without a single value say nothing here, and a recipe is for --sample.
    told = [name for name in names if name != "recipe" and any(sample.get(name) is not None for sample in samples)]
    same = [name for name in told if len(samples) > 1 and len({repr(sample.get(name)) for sample in samples}) == 1]
    if same:
        console.out().print()
        rows = [(name, _short(samples[0][name])) for name in same]
        console.print_table(rows, [Column(""), Column("", wrap=True)], head=False, title="in every sample")
    columns = {name: [_short(sample.get(name)) for sample in samples] for name in told if name not in same}
    for block in _blocks(columns, room=console.out().width):
        heads = [Column("sample", numeric=True)]
        for name, wide in block.items():
            numeric = all(isinstance(sample.get(name), int | float | None) for sample in samples)
            head = "\n".join(textwrap.wrap(name.replace("_", " "), wide))
            heads.append(Column(head, numeric=numeric, wrap=wide == WIDEST))
        rows = enumerate(zip(*(columns[name] for name in block), strict=True))
        console.out().print()
        console.print_table([(index, *cells) for index, cells in rows], heads)


def _blocks(columns: Mapping[str, Sequence[Any]], *, room: int) -> Iterator[dict[str, int]]:
    """Columns that stand side by side, with their widths, in as many tables as it takes."""
    block: dict[str, int] = {}
    for name, values in columns.items():
        wide = min(max(map(len, [*name.split("_"), *map(str, values)])), WIDEST)
        if block and len("sample") + sum(block.values()) + wide + 2 * (len(block) + 1) > room:
            yield block
            block = {}
        block[name] = wide
    if block:
        yield block


def _took(view: Mapping[str, Any]) -> str:
    parts = [console.span(view["cell_s"])]
    if view["cell_cpu_s"] is not None:
        parts.append(f"{console.span(view['cell_cpu_s'])} of processor time")
    if view["load_average"] is not None:
        parts.append(f"load {view['load_average']:.2f} at the start")
    return ", ".join(parts)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
