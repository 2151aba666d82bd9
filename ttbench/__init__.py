"""ttbench: a benchmark of pretrained sequence models for long-context quality, speed and memory.

`load` opens a checkpoint as an Engine; `run` measures and returns tidy rows. Both import torch only when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from typing_extensions import Unpack

    from ttbench.engines.engine import Engine
    from ttbench.runs.options import Options
    from ttbench.runs.progress import Progress

from ttbench.version import __version__

__all__ = ["__version__", "load", "run"]


def load(
    checkpoint: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str | None = None,
    engine: str = "eager",
    unchecked: bool = False,
) -> Engine:
    """Open a checkpoint (zoo name, local folder, or hub id with `@revision`) as an Engine.

    `engine` "hf" runs any model of transformers through its own code; `attention` is sdpa, eager or flash, None the
    checkpoint's default. `unchecked` lets engine hf score a model that looks ahead.

    Raises CheckpointError when it cannot be found, identified or read. A folder without a tokenizer loads too.
    """
    from ttbench.engines.kinds import load_engine

    return load_engine(checkpoint, device=device, dtype=dtype, attention=attention, engine=engine, unchecked=unchecked)


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
        progress: is told what happens meanwhile.
        options: those of the command line by name, as in `ctx="1k,4k"`; see `ttbench.runs.options.Options`.

    Raises UsageError when the request has no meaning, StoreError when `out` cannot be written, RunInterrupted on
    Ctrl-C. A cell that fails raises nothing: its row says so in `status` and `reason`.
    """
    from ttbench.runs.sweep import run

    return run(target, out=out, fresh=fresh, progress=progress, **options)
