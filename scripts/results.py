"""Measure the reference results again, and publish them in results/: `make results`.

    python scripts/results.py [NAME ...] [--runs FOLDER] [--to FOLDER] [--fresh]

Each is a suite on checkpoints of the zoo. Cells that an earlier run answered are not measured again, so the same
command goes on where it was stopped. Nor are the numbers of a checkpoint that are published already and that today's
code would measure alike (cells of the same id): a model that is new in the zoo is measured alone, and its rows are put
among those of the others. Times are never kept so: those of one result come from one run on one machine, and are
measured on a quiet one alone. On a busy machine they are left out, which is said at the end with exit code 1, and the
same command measures them later.

What is published has exactly the cells that were planned, and no number that was there is replaced by a cell without
one: a machine that cannot measure something publishes nothing of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pandas as pd

import ttbench
from ttbench.checkpoints.checkpoint import zoo_names
from ttbench.cli import console
from ttbench.errors import TtbenchError, UsageError
from ttbench.names import quote
from ttbench.report.published import ROWS, write_results
from ttbench.report.statistics.stats import counted
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan
from ttbench.runs.sweep import plan_target
from ttbench.runs.times.calibration import busy
from ttbench.store.rows import read_rows, together
from ttbench.training.recipe import first_seeds

ROOT = Path(__file__).parents[1]
DEVICE = "cpu"  # the last folder of a result's path
PYTHON_NAMES = {"checkpoint": "checkpoints"}  # options of the command line that Python calls otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published result: the suite of its name, and what `ttbench run` is told beside it."""

    name: str  # of its folder too
    options: Mapping[str, str | int | Sequence[str]] = field(default_factory=dict)
    timed: bool = False  # whether its numbers are times

    @property
    def target(self) -> str:
        """The suite, for a task may have its name."""
        return f"suite:{self.name}"

    @property
    def words(self) -> list[str]:
        """The options as the command line takes them."""
        each = {name: [value] if isinstance(value, str | int) else value for name, value in self.options.items()}
        return [word for name, values in each.items() for value in values for word in (f"--{name}", str(value))]

    @property
    def python_options(self) -> Options:
        """The options as `ttbench.run` takes them."""
        return cast(Options, {PYTHON_NAMES.get(name, name): value for name, value in self.options.items()})


ZOO = {"checkpoint": "zoo"}
# Times do not know with which seed a model was trained.
FIRST_SEEDS = {"checkpoint": first_seeds(zoo_names())}
# Quality first, in order of what is read first; times in one stretch at the end.
REFERENCES = (
    # the suite reads twelve documents, so that it takes minutes
    Reference(name="bench", options={**ZOO, "limit": 40}),
    Reference(name="long"),
    Reference(name="needle", options=ZOO),
    # of a hundred trials at up to 128k, what two cores do within an hour
    Reference(name="ruler", options={**ZOO, "ctx": "1k,4k", "limit": 10}),
    Reference(name="recall", options=ZOO),
    Reference(name="genomics"),
    # of contexts to 32k, what one core does within half an hour
    Reference(name="latency", options={**FIRST_SEEDS, "ctx": "512,2k,8k"}, timed=True),
    Reference(name="memory", options=FIRST_SEEDS, timed=True),
    Reference(name="attention", timed=True),
    Reference(name="adapt", timed=True),
)


def quiet(*, within_s: float = 180.0) -> bool:
    """Whether no other program runs; what ran a moment ago is waited for, since the load is a mean over a minute."""
    until = time.monotonic() + within_s
    while busy():
        if time.monotonic() > until:
            return False
        time.sleep(5.0)
    return True


def ttbench_command(words: Sequence[str]) -> None:
    """Run ttbench in a process of its own, in this terminal."""
    subprocess.run([sys.executable, "-m", "ttbench", *words], check=True)


def kept(plan: Plan, published: pd.DataFrame) -> set[str]:
    """The checkpoints of a plan whose every cell has its answer in these rows, and which have no other rows there."""
    planned: dict[str, set[str]] = {}
    for cell in plan.every_cell:
        planned.setdefault(cell.checkpoint.name, set()).add(cell.cell_id)
    skipped = [skip.cell.cell_id for skip in plan.skips]
    answered = (published["status"] == "ok") | published["cell_id"].isin(skipped)
    lost = set(published.loc[~answered, "checkpoint"])
    found = published.groupby("checkpoint")["cell_id"].agg(set)
    return {name for name, cells in planned.items() if found.get(name) == cells and name not in lost}


def publish(reference: Reference, *, runs: Path, to: Path, fresh: bool = False) -> list[Path]:
    """Measure what is missing, and write rows, tables and figures; returns the files.

    Args:
        fresh: keep no number, published or in `runs`.

    Raises TtbenchError when the request has no meaning, the rows are too many, are not those planned or lack numbers
    that are published, and CalledProcessError when the run was stopped or could not begin.
    """
    folder = to / reference.name / DEVICE
    # Suites that name checkpoints of their own may say more of each than its name.
    published = read_rows(folder / ROWS) if (folder / ROWS).is_file() else None
    whole = published is None or fresh or reference.timed or reference.options.get("checkpoint") != "zoo"
    if published is None or whole:
        rows = measured(reference, runs=runs, fresh=fresh or reference.timed)
    else:
        rows = completed(reference, published, runs=runs)
    require_planned(reference, rows, runs=runs)
    if published is not None:
        require_no_loss(rows, published)
    return write_results(rows, folder, warn=lambda text: console.say(text, style="yellow"))


def require_planned(reference: Reference, rows: pd.DataFrame, *, runs: Path) -> None:
    """Refuse rows of other cells than today's code would measure: code or the zoo changed while it was measured."""
    plan = plan_target(reference.target, reference.python_options, out=runs)
    wanted = {cell.cell_id for cell in plan.every_cell}
    other = set(rows["cell_id"]) ^ wanted
    if other:
        names = {cell.checkpoint.name for cell in plan.every_cell if cell.cell_id in other}
        names |= set(rows.loc[rows["cell_id"].isin(other), "checkpoint"])
        raise UsageError(
            f"{counted(len(other), 'cell')} of {', '.join(sorted(names))} are not those that this code plans: it or "
            "the zoo changed meanwhile; run the same command again"
        )


def _places(rows: pd.DataFrame) -> set[tuple[object, ...]]:
    """What the rows are numbers of: checkpoint, task, corpus, context, batch size; None where there is none."""
    named = rows.reindex(columns=["checkpoint", "task", "corpus", "context_len", "batch_size"]).astype(object)
    return {*named.where(named.notna(), None).itertuples(index=False, name=None)}


def require_no_loss(rows: pd.DataFrame, published: pd.DataFrame) -> None:
    """Refuse rows that have a status where a number is published of a checkpoint that is still measured."""
    held, made = (_places(frame.loc[frame["status"] == "ok"]) for frame in (published, rows))
    lost = _places(rows.loc[rows["status"] != "ok"]) & (held - made)
    if lost:
        told = sorted(f"{name}, {task} at {context_len}" for name, task, _, context_len, _ in lost)
        raise UsageError(
            f"{counted(len(lost), 'published number')} would be lost, of {'; '.join(told[:3])}: not measured here; "
            "what is published stays. Remove its folder to publish without"
        )


def completed(reference: Reference, published: pd.DataFrame, *, runs: Path) -> pd.DataFrame:
    """The rows of a reference of the zoo: those published that are kept, and what is measured of other checkpoints."""
    plan = plan_target(reference.target, reference.python_options, out=runs)
    held = kept(plan, published)
    if not held:
        return measured(reference, runs=runs)
    names = dict.fromkeys(cell.checkpoint.name for cell in plan.every_cell)
    console.say(f"{reference.name}: published, and kept: {', '.join(name for name in names if name in held)}")
    parts = [published[published["checkpoint"].isin(held)]]
    rest = [name for name in names if name not in held]
    if rest:
        parts.append(measured(replace(reference, options={**reference.options, "checkpoint": rest}), runs=runs))
    rows = together(parts)
    place = {cell.cell_id: index for index, cell in enumerate(plan.every_cell)}
    return rows.iloc[rows["cell_id"].map(place).argsort(kind="stable")]


def measured(reference: Reference, *, runs: Path, fresh: bool = False) -> pd.DataFrame:
    """The rows of a reference, after its command has measured what is missing in `runs`; `fresh`: all of it, anew."""
    words = ["run", reference.target, *reference.words, "--out", str(runs), *(["--fresh"] if fresh else [])]
    console.say(" ".join(map(quote, ("ttbench", *words))), style="bold")
    # The command shows how far it is; the rows come from what it left, without measuring.
    ttbench_command(words)
    rows = ttbench.run(reference.target, out=runs, **reference.python_options)
    lost = rows.loc[rows["status"] != "ok", ["checkpoint", "task", "context_len", "status"]].drop_duplicates()
    for entry in lost.to_dict("records"):
        console.say(
            f"{entry['checkpoint']}, {entry['task']} at {entry['context_len']}: {entry['status']}", style="yellow"
        )
    return rows


def main(arguments: Sequence[str] | None = None, *, is_quiet: Callable[[], bool] = quiet) -> int:
    """Read the options, and measure and publish what they name. Returns the exit code."""
    names = [reference.name for reference in REFERENCES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; all without")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default runs)")
    parser.add_argument("--to", type=Path, default=ROOT / "results", help="folder of the results (default results)")
    parser.add_argument("--fresh", action="store_true", help="measure everything again, whatever was measured before")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no reference result is called {', '.join(unknown)}; there are {', '.join(names)}")
    left = []
    for reference in REFERENCES:
        if options.names and reference.name not in options.names:
            continue
        if reference.timed and not is_quiet():
            left.append(reference.name)
            continue
        try:
            files = publish(reference, runs=options.runs, to=options.to, fresh=options.fresh)
        except TtbenchError as error:
            console.say(f"error: {reference.name}: {error}", style="red")
            return 1
        except subprocess.CalledProcessError as error:
            console.say(f"{reference.name}: stopped; the same command goes on with it", style="red")
            return error.returncode
        console.say(f"{reference.name}: {len(files)} files in {options.to / reference.name / DEVICE}")
    if left:
        console.say(
            f"not measured, because other programs run: {', '.join(left)}; the same command measures them on a quiet "
            "machine",
            style="yellow",
        )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
