"""Plans and results of runs as plain data, for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ttbench.report import words
from ttbench.runs.estimate import CellEstimate
from ttbench.runs.plan import Plan
from ttbench.runs.sweep import RunResult
from ttbench.types import Cell

ESTIMATED = ("flops", "state_bytes", "seconds", "setup_s", "probes_s", "exact")  # of a cell


def plan_json(plan: Plan, *, done: Collection[str], command: str) -> dict[str, Any]:
    cells = [
        {**_cell_json(cell), **_estimate_json(plan.estimates[cell.cell_id]), "done": cell.cell_id in done}
        for cell in plan.cells
    ]
    skips = [{**_cell_json(skip.cell), "status": skip.status, "reason": skip.reason} for skip in plan.skips]
    return {
        "command": command,
        "cells": cells,
        "skips": skips,
        "notes": list(plan.notes),
        "twins": [_cell_json(cell) for cell in plan.twins],
        "flops": plan.flops,
        "state_bytes": plan.state_bytes,
        "seconds": plan.seconds_of([cell for cell in plan.cells if cell.cell_id not in done]),
    }


def _estimate_json(estimate: CellEstimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ESTIMATED}


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "cell_id": cell.cell_id,
        "task": cell.task,
        "checkpoint": cell.checkpoint.name,
        "weights_digest": cell.checkpoint.weights_digest,
        "code_digest": cell.code_digest,
        "revision": cell.checkpoint.revision,
        "context_len": cell.context_len,
        "params": dict(cell.params),
        "corpus": cell.corpus,
        "corpus_digest": cell.corpus_digest,
        "seed": cell.seed,
        "dtype": cell.dtype,
        "device": cell.device,
        "engine": cell.engine,
        "attention": cell.attention,
        "batch_size": cell.batch_size,
        "threads": cell.threads,
        "round": cell.round,
    }


def result_json(result: RunResult, *, table: pd.DataFrame, files: Iterable[Path]) -> dict[str, Any]:
    return {
        "run_id": result.folder.name,
        "folder": str(result.folder),
        "rows": str(result.folder / "rows.parquet"),
        "files": [str(path) for path in files],
        "statuses": dict(Counter(result.statuses.values())),
        "num_reused": result.num_reused,
        "num_failed": result.num_failed,
        "seconds": result.seconds,
        "summary": words.records(table),
        "comparisons": words.records(pd.DataFrame(table.attrs["comparisons"])),
    }
