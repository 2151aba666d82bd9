"""ttbench: a benchmark of pretrained sequence models for long-context quality, speed and memory.

    load       a checkpoint as an Engine
    plan, run  what a task or suite would measure; its tidy rows
    measure    a model in memory: an Engine, or one of transformers
    table      the numbers of rows with their intervals
    compare    two checkpoints on the same targets
    head_to_head   all pairs of several: verdicts, leaderboard, crossings, fronts
    figure     figures of rows

Nothing heavy is imported before one of them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from typing_extensions import Unpack

    from ttbench.engines.engine import Engine
    from ttbench.report.head_to_head.verdicts import HeadToHead
    from ttbench.runs.options import Options
    from ttbench.runs.plan import Plan
    from ttbench.runs.progress import Progress

from ttbench.version import __version__

__all__ = ["__version__", "compare", "figure", "head_to_head", "load", "measure", "plan", "run", "table"]


def load(
    checkpoint: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str | None = None,
    engine: str = "eager",
    unchecked: bool = False,
    device_map: str | None = None,
) -> Engine:
    """Open a checkpoint (zoo name, local folder, or hub id with `@revision`) as an Engine.

    `engine` "hf" runs any model of transformers through its own code; `attention` is sdpa, eager or flash, None the
    checkpoint's default. `unchecked` lets engine hf score a model that looks ahead. `device_map` spreads a model of
    engine hf over devices, memory and disk: "auto", "balanced", "sequential", or a JSON file of modules and devices.

    Raises CheckpointError when it cannot be found, identified or read. A folder without a tokenizer loads too.
    """
    from ttbench.engines.kinds import load_engine, read_device_map

    return load_engine(
        checkpoint,
        device=device,
        dtype=dtype,
        attention=attention,
        engine=engine,
        unchecked=unchecked,
        device_map=read_device_map(device_map, engine=engine, device=device),
    )


def run(
    target: str | Path,
    *,
    out: str | Path = "runs",
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Measure a task, or a suite by name or path, as `ttbench run` does; return its tidy rows.

    Args:
        out: folder of the runs. What earlier runs there answered is not measured again.
        fresh: measure it again all the same.
        progress: is told what happens meanwhile; None: a bar in a notebook, nothing elsewhere.
        options: those of the command line by name, as in `ctx="1k,4k"`; see `ttbench.runs.options.Options`.

    Raises UsageError when the request has no meaning, StoreError when `out` cannot be written, RunInterrupted on
    Ctrl-C. A cell that fails raises nothing: its row says so in `status` and `reason`.
    """
    from ttbench.cli.console import display_here
    from ttbench.runs.sweep import run

    return run(target, out=out, fresh=fresh, progress=progress or display_here(), **options)


def plan(target: str | Path, *, out: str | Path = "runs", **options: Unpack[Options]) -> Plan:
    """The cells that `run` would measure, with estimates of FLOP, bytes and seconds; starts nothing.

    Raises UsageError when the request has no meaning.
    """
    from ttbench.runs.options import validated
    from ttbench.runs.sweep import plan_target

    return plan_target(str(target), validated(options), out=out)


def measure(
    task: str, model: Any, *, tokenizer: Any = None, name: str = "model", **options: Unpack[Options]
) -> pd.DataFrame:
    """Measure one task on a model in memory, in this process, and return its tidy rows; nothing is stored.

    Args:
        model: an Engine, a model of an architecture here, or a causal language model of transformers.
        tokenizer: "bytes", a folder with a tokenizer.json, or a fast tokenizer of transformers.
        name: what the rows call the model.
        options: as of `run`; the model decides device, dtype, engine, attention and threads.

    Raises UsageError when the request has no meaning, or the task measures processes of its own (latency, memory).
    """
    from ttbench.runs.in_memory import measure
    from ttbench.runs.options import validated

    return measure(task, model, tokenizer=tokenizer, name=name, options=validated(options))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers of rows, one a line, each with its 95 % interval (`low`, `high`); see docs/columns.md.

    Raises UsageError for a DataFrame that is not the rows of a run.
    """
    from ttbench.report.table import summarise

    return summarise(rows)


def compare(a: str, b: str, rows: pd.DataFrame | None = None, *, out: str | Path = "runs") -> pd.DataFrame:
    """What differs between two checkpoints, or settings of one (NAME@dtype=bfloat16), on the same targets.

    Args:
        rows: of a run; None: the runs below `out` in which both were measured, else the published results.

    Raises UsageError when one of them was not measured.
    """
    from ttbench.report.comparison.compare import compare as compare_rows
    from ttbench.report.comparison.variants import read_variant

    if rows is not None:
        return compare_rows(rows, a, b)
    from pathlib import Path

    from ttbench.cli.gather import rows_of

    one, two = rows_of([read_variant(a), read_variant(b)], runs=(), root=Path(out))
    return compare_rows(one, a, b, rows_b=two)


def head_to_head(
    names: Sequence[str] | None = None, rows: pd.DataFrame | None = None, *, out: str | Path = "runs"
) -> HeadToHead:
    """Every pair of checkpoints, judged together: `verdicts` (a DataFrame), `boards`, `crossings`, `fronts`.

    Args:
        names: checkpoints, or settings of one; None: all that the rows or runs have.
        rows: of a run; None: the runs below `out`, for names that none of them has the published results.

    Raises UsageError when there are fewer than two checkpoints, or one was not measured.
    """
    from ttbench.report.head_to_head.verdicts import head_to_head as judge

    if rows is not None:
        return judge(rows, names)
    from pathlib import Path

    from ttbench.cli.gather import rows_of, rows_of_all

    if names is None:
        return judge(rows_of_all((), root=Path(out)))
    from ttbench.report.comparison.variants import read_variant

    return judge(rows_of([read_variant(name) for name in names], runs=(), root=Path(out)), names)


def figure(rows: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw every figure that the rows have numbers for into a folder, the overview first; returns the files."""
    from pathlib import Path

    from ttbench.report.published import draw_all, without_further_seeds
    from ttbench.report.table import tabulate

    Path(folder).mkdir(parents=True, exist_ok=True)
    return draw_all(without_further_seeds(tabulate(rows)), Path(folder))
