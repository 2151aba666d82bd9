"""Compare estimated with measured times: small requests of every task, with an empty runs folder and then again.

    python scripts/estimates.py --out FOLDER [--task NAME ...] [--restart]

Each request is planned with nothing known but this machine's rates (cold), run, and planned again under another seed
with its own run as history (warm). Measured is the wall time of the run, start-up included. One request after the other
is written to FOLDER/estimates.csv and .md; requests that stand there are not repeated, so the same command goes on.
Run it on a quiet machine: a busy one changes between the estimate and the run.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ttbench.cli import console
from ttbench.errors import TtbenchError, UsageError
from ttbench.machine import measure
from ttbench.runs.options import Options, given, to_json
from ttbench.runs.plan import Plan
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import run_cells
from ttbench.runs.times.calibration import with_times
from ttbench.store.files import write_whole

COLUMNS = ("task", "request", "cells", "cold_s", "warm_s", "measured_s", "cold_ratio", "warm_ratio", "machine", "load")
QUIET = 0.5  # load average for each core


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A small request, of half a minute or so."""

    task: str
    options: Options

    @property
    def words(self) -> str:
        """As the command line spells it."""
        asked = to_json(given(self.options))
        return " ".join(f"{name}={value}" for name, value in sorted(asked.items()) if name != "checkpoints")


def _request(task: str, ctx: str, *, checkpoints: tuple[str, ...] | None = None, **options: object) -> Request:
    return Request(task=task, options=Options(ctx=ctx, checkpoints=checkpoints, **options))  # type: ignore[arg-type]


REQUESTS = (
    _request("perplexity", "256,1k", limit=4),
    _request("perplexity", "4k", limit=2),
    _request("perplexity", "512", limit=1, protocol="packed", params={"limit": 1}),
    # A first score of weights that nobody has vouched for in this dtype: the probes are most of it, and then nothing.
    _request("perplexity", "4k", limit=1, dtype="float64", checkpoints=("transformer",)),
    _request("needle", "512,1k", limit=2),
    _request("recall", "256,512", limit=8),
    _request("latency", "512", params={"rounds": 1}),
    _request("memory", "512,2k", params={"rounds": 1}),
    _request(
        "adapt", "256", params={"rounds": 1, "limit": 2, "strategies": "base,prompt"}, checkpoints=("transformer",)
    ),
    _request("genomics", "256", limit=4),
)


def row_of(
    request: Request, *, cold_s: float | None, warm_s: float | None, measured_s: float, cells: int
) -> dict[str, str]:
    """A line of the table; a ratio is estimated over measured, and missing where nothing was estimated."""

    def ratio(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds / measured_s:.2f}"

    return {
        "task": request.task,
        "request": request.words,
        "cells": str(cells),
        "cold_s": "" if cold_s is None else f"{cold_s:.1f}",
        "warm_s": "" if warm_s is None else f"{warm_s:.1f}",
        "measured_s": f"{measured_s:.1f}",
        "cold_ratio": ratio(cold_s),
        "warm_ratio": ratio(warm_s),
        "machine": measure.machine_fingerprint(),
        "load": f"{measure.load_average() or 0.0:.2f}",
    }


def estimate(request: Request, runs: Path, **changes: object) -> tuple[Plan, float | None]:
    """The plan with its times, and the seconds of all of it."""
    plan = plan_task(request.task, cast(Options, {**request.options, **changes}), out=runs)
    plan = with_times(plan, plan.cells)
    return plan, plan.seconds


def compare(request: Request) -> dict[str, str]:
    """Estimate, run, and estimate again, in a runs folder of its own. Raises UsageError where no cell can run."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        plan, cold_s = estimate(request, runs)
        if not plan.cells:
            raise UsageError(f"nothing to measure: {plan.skips[0].reason}")
        began = time.perf_counter()
        run_cells(plan, out=runs, name=request.task)
        measured_s = time.perf_counter() - began
        _, warm_s = estimate(request, runs, seed=1)
        return row_of(request, cold_s=cold_s, warm_s=warm_s, measured_s=measured_s, cells=len(plan.cells))


def read(path: Path) -> list[dict[str, str]]:
    """The lines that an earlier run wrote."""
    with contextlib.suppress(FileNotFoundError), path.open(newline="") as file:
        return list(csv.DictReader(file))
    return []


def write(rows: Iterable[Mapping[str, str]], out: Path) -> None:
    """estimates.csv, and the same as a table for people."""
    rows = list(rows)
    lines = [",".join(COLUMNS), *(",".join(_quoted(row[name]) for name in COLUMNS) for row in rows)]
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "estimates.csv", ("\n".join(lines) + "\n").encode())
    shown = [name for name in COLUMNS if name != "machine"]
    table = [" | ".join(shown), " | ".join("---" for _ in shown)]
    table += [" | ".join(row[name] for name in shown) for row in rows]
    head = "Estimated and measured seconds of small requests on the zoo; a ratio is estimated over measured.\n\n"
    write_whole(out / "estimates.md", (head + "\n".join(f"| {line} |" for line in table) + "\n").encode())


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def main() -> None:
    """Read the options and do what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--task", action="append", help="only requests of this task; may be given again")
    parser.add_argument("--restart", action="store_true", help="begin a new table")
    options = parser.parse_args()
    path = options.out / "estimates.csv"
    rows = [] if options.restart else read(path)
    # Rates of an earlier day say nothing about how the first estimate on a machine does.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ttbench-estimates-")
    load = measure.load_average()
    if load is not None and load > QUIET * measure.num_cores():
        console.say(f"load {load:.1f}: this machine is not quiet, and the ratios will show it", style="yellow")
    known = {(row["task"], row["request"], row["machine"]) for row in rows}
    for request in REQUESTS:
        if (request.task, request.words, measure.machine_fingerprint()) in known:
            continue
        if options.task and request.task not in options.task:
            continue
        try:
            row = compare(request)
        # A corpus that is not on this machine: the other requests stand by themselves.
        except TtbenchError as error:
            console.say(f"{request.task}: {error}", style="yellow")
            continue
        rows.append(row)
        write(rows, options.out)
        words = (
            f"{name} {row[name] or '-'}" for name in ("cold_s", "warm_s", "measured_s", "cold_ratio", "warm_ratio")
        )
        console.say(f"{request.task} {request.words}: {', '.join(words)}")


if __name__ == "__main__":
    main()
