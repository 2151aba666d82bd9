"""ttbench: a benchmark of pretrained sequence models for long-context quality, speed and memory.

`load` opens a checkpoint as an Engine; `run` measures and returns tidy rows. Both import torch only when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ttbench.engines.engine import Engine

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


def run(task: str, **options: Any) -> pd.DataFrame:
    """Run one task as `ttbench run` does and return its tidy rows; `ttbench.runs.sweep.run_task` has the options."""
    from ttbench.runs.sweep import run_task

    return run_task(task, **options)
