"""What narrower intervals would cost: their width if every document were scored, and how long that takes."""

from __future__ import annotations

import math
from typing import Any, cast

import pandas as pd

from ttbench.cli import console
from ttbench.report.columns import Part, all_rows
from ttbench.report.statistics.stats import MIN_CLUSTERS
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan
from ttbench.runs.request import NAMED, plan_task
from ttbench.runs.suite import format_len
from ttbench.runs.times.calibration import with_times
from ttbench.store.store import find_done
from ttbench.types import Cell


def price(plan: Plan, rows: pd.DataFrame, *, options: Options, out: str) -> list[str]:
    """Sentences for what a limit left out, one per task, corpus and number of documents.

    Half-widths go with one over the root of the number of documents. The time is the plan's for the same cells without
    a limit, made after the run, so that it goes by what has just been measured.

    Args:
        rows: of the run; `num_documents` says what the limit of a cell chose from.
        options: that the run was asked for with, for the time only.
        out: folder of the runs.
    """
    by_cell = {cell.cell_id: cell for cell in plan.cells if cell.params.get("limit") is not None}
    found: dict[tuple[str, str | None, int, int], list[Cell]] = {}
    measured = all_rows(rows).equal({"status": "ok"})
    for key, part in measured.select(measured.present("num_documents")).split(["cell_id"]):
        cell = by_cell.get(str(key["cell_id"]))
        used, given = len(set(part.values("document"))), int(part.floats("num_documents").max())
        if cell is not None and used < given:
            found.setdefault((cell.task, cell.corpus, used, given), []).append(cell)
    limited = [
        _sentence(cells, used=used, given=given, options=options, out=out, name_it=len(found) > 1)
        for (_, _, used, given), cells in found.items()
    ]
    return [*limited, *_too_few(measured)]


def _too_few(rows: Part) -> list[str]:
    """What gives an interval to texts of the user's own that are too few for one, all of which were read."""
    found = {}
    for key, part in rows.select(rows.present("num_documents")).split(["corpus"]):
        given = int(part.floats("num_documents").max())
        if str(key["corpus"]).startswith("text:") and given < MIN_CLUSTERS:
            found[key["corpus"]] = f"{given} document{'' if given == 1 else 's'}"
    return [
        f"{corpus} has {documents}, and an interval needs {MIN_CLUSTERS}: give text:FOLDER with one file for each"
        for corpus, documents in found.items()
    ]


def _sentence(cells: list[Cell], *, used: int, given: int, options: Options, out: str, name_it: bool) -> str:
    seconds = _seconds(cells, options, out=out)
    takes = "" if seconds is None else f" and take about {console.span(seconds)}"
    where = f" ({cells[0].task} on {cells[0].corpus})" if name_it else ""
    if used < MIN_CLUSTERS:
        return (
            f"the numbers rest on {used:,} of {given:,} documents{where}, and an interval needs {MIN_CLUSTERS}; "
            f"--limit all would read all{takes}"
        )
    return (
        f"95% intervals rest on {used:,} of {given:,} documents{where}; "
        f"--limit all would make them about {_share(math.sqrt(used / given))} as wide{takes}"
    )


def _share(share: float) -> str:
    return "half" if 0.45 <= share < 0.55 else f"{share:.1f} times"


def _seconds(cells: list[Cell], options: Options, *, out: str) -> float | None:
    """Seconds of the same cells with all documents; None while any is unknown. What was measured earlier costs none."""
    total = 0.0
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(tuple(sorted(f"{name}={value}" for name, value in cell.params.items())), []).append(cell)
    for part in alike.values():
        first = part[0]
        kept = {name: value for name, value in options.items() if name not in NAMED}
        given: dict[str, Any] = {
            **kept,
            "checkpoints": tuple(dict.fromkeys(cell.checkpoint for cell in part)),
            "ctx": ",".join(dict.fromkeys(format_len(cell.context_len) for cell in part)),
            "params": {**first.params, "limit": None},
            "batch_size": first.batch_size,
            "threads": first.threads,
        }
        if first.corpus is not None:
            given["corpus"] = first.corpus
        everything = plan_task(first.task, cast(Options, given), out=out)
        done = find_done(out, [cell.cell_id for cell in everything.cells])
        left = [cell for cell in everything.cells if cell.cell_id not in done]
        seconds = with_times(everything, left).seconds_of(left)
        if seconds is None:
            return None
        total += seconds
    return total
