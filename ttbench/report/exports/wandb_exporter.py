"""Weights & Biases, offline: a run for each checkpoint, which `wandb sync` uploads where that is wanted.

Numbers are curves over `context_len`, with `_low` and `_high` beside them; settings and units stand in the config,
statuses in the summary, everything in the table `numbers`. A file is whole only after W&B's service has ended: it goes
on writing for a moment after `finish`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttbench.report.exports.exported import STEP, ExportedModel, Exporter

PROJECT = "ttbench"


def write(models: Sequence[ExportedModel], folder: Path) -> list[Path]:
    """Write the models as offline runs below `folder`; returns the folder of each run."""
    # Late: an extra.
    wandb: Any = importlib.import_module("wandb")
    # Nothing of this machine or its code: what counts of them stands in the rows.
    quiet = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    written = []
    try:
        for model in models:
            config = {**model.config, "units": model.units}
            with wandb.init(
                project=PROJECT, name=model.name, dir=folder, config=config, mode="offline", settings=quiet
            ) as run:
                _log(run, model, wandb)
                written.append(Path(run.dir).parent)
    finally:
        wandb.teardown()
    return written


def _log(run: Any, model: ExportedModel, wandb: Any) -> None:
    for key in model.units:
        run.define_metric(key, step_metric=STEP)
    for at in dict.fromkeys(number.context_len for number in model.numbers):
        told: dict[str, float] = {STEP: at}
        for number in model.numbers:
            if number.context_len == at:
                ends = {"": number.value, "_low": number.low, "_high": number.high}
                told |= {number.key + end: value for end, value in ends.items() if value is not None}
        run.log(told)
    for status in model.statuses:
        run.summary[f"status/{status.key} at {status.context_len}"] = status.said
    names = list(model.table[0])
    rows = [[line[name] for name in names] for line in model.table]
    run.log({"numbers": wandb.Table(columns=names, data=rows, allow_mixed_types=True)})


EXPORTER = Exporter(extra="wandb", packages={"wandb": "wandb"}, write=write)
