"""Measure the reference results again, and publish them in results/: `make results`.

    python scripts/results.py [NAME ...] [--runs FOLDER] [--to FOLDER]

Each is a suite on checkpoints of the zoo. Cells that an earlier run answered are not measured again, so the same
command goes on where it was stopped. Times are measured on a quiet machine alone: on a busy one they are left out,
which is said at the end with exit code 1, and the same command measures them later.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import ttbench
from ttbench.cli import console
from ttbench.errors import TtbenchError
from ttbench.names import quote
from ttbench.report.published import write_results
from ttbench.runs.options import Options
from ttbench.runs.times.calibration import busy

ROOT = Path(__file__).parents[1]
DEVICE = "cpu"  # the last folder of a result's path
PYTHON_NAMES = {"checkpoint": "checkpoints"}  # options of the command line that Python calls otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published result: the suite of its name, and what `ttbench run` is told beside it."""

    name: str  # of its folder too
    options: Mapping[str, str | int] = field(default_factory=dict)
    timed: bool = False  # whether its numbers are times

    @property
    def target(self) -> str:
        """The suite, for a task may have its name."""
        return f"suite:{self.name}"

    @property
    def words(self) -> list[str]:
        """The options as the command line takes them."""
        return [word for name, value in self.options.items() for word in (f"--{name}", str(value))]

    @property
    def python_options(self) -> Options:
        """The options as `ttbench.run` takes them."""
        return cast(Options, {PYTHON_NAMES.get(name, name): value for name, value in self.options.items()})


ZOO = {"checkpoint": "zoo"}
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
    Reference(name="latency", options={**ZOO, "ctx": "512,2k,8k"}, timed=True),
    Reference(name="memory", options=ZOO, timed=True),
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


def publish(reference: Reference, *, runs: Path, to: Path) -> list[Path]:
    """Measure what is missing, and write rows, tables and figures; returns the files.

    Raises TtbenchError when the request has no meaning or the rows are too many, and CalledProcessError when the run
    was stopped or could not begin.
    """
    words = ["run", reference.target, *reference.words, "--out", str(runs)]
    console.say(" ".join(map(quote, ("ttbench", *words))), style="bold")
    # The command shows how far it is; the rows come from what it left, without measuring.
    ttbench_command(words)
    rows = ttbench.run(reference.target, out=runs, **reference.python_options)
    lost = rows.loc[rows["status"] != "ok", ["checkpoint", "task", "context_len", "status"]].drop_duplicates()
    for entry in lost.to_dict("records"):
        console.say(
            f"{entry['checkpoint']}, {entry['task']} at {entry['context_len']}: {entry['status']}", style="yellow"
        )
    return write_results(rows, to / reference.name / DEVICE)


def main(arguments: Sequence[str] | None = None, *, is_quiet: Callable[[], bool] = quiet) -> int:
    """Read the options, and measure and publish what they name. Returns the exit code."""
    names = [reference.name for reference in REFERENCES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; all without")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default runs)")
    parser.add_argument("--to", type=Path, default=ROOT / "results", help="folder of the results (default results)")
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
            files = publish(reference, runs=options.runs, to=options.to)
        except TtbenchError as error:
            console.say(f"error: {reference.name}: {error}", style="red")
            return 1
        except subprocess.CalledProcessError as error:
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
