"""MLflow's file store: an experiment `ttbench` with a run for each checkpoint.

Numbers are metrics whose step is the context, with `_low` and `_high` beside them; settings are params, units and
statuses tags, and `numbers.csv` is an artifact with everything. Without a server `mlflow-skinny` can write files only
(a database needs sqlalchemy, which it leaves out). MLflow no longer develops that store, and 3.17 refuses it unless a
variable switches it on. Whoever exports decides that, since what reads the folder needs the variable too.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttbench.errors import UsageError
from ttbench.report.exports.exported import ExportedModel, Exporter
from ttbench.report.formats.writing import csv_text

EXPERIMENT = "ttbench"
SWITCH = "MLFLOW_ALLOW_FILE_STORE"
MOST = 100  # params and tags that one request may hold; of metrics ten times as many


def write(models: Sequence[ExportedModel], folder: Path) -> list[Path]:
    """Write the models as runs into the store in `folder`; returns the folder of each run.

    Raises UsageError where MLflow refuses to keep files.
    """
    # Late: an extra, and seconds.
    mlflow: Any = importlib.import_module("mlflow")
    folder = folder.resolve()
    try:
        client = mlflow.MlflowClient(tracking_uri=folder.as_uri())
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
    except mlflow.MlflowException as error:
        raise UsageError(
            f"MLflow keeps no files in {folder}: {str(error).splitlines()[0].partition('. ')[0]}; set {SWITCH}=true, "
            "for this command and for what reads the folder"
        ) from error
    return [folder / experiment / _run(client, experiment, model, mlflow.entities) for model in models]


def _run(client: Any, experiment: str, model: ExportedModel, entities: Any) -> str:
    now = int(time.time() * 1000)
    run = client.create_run(experiment, start_time=now, run_name=model.name)
    metrics = [
        entities.Metric(number.key + end, value, now, number.context_len)
        for number in model.numbers
        for end, value in (("", number.value), ("_low", number.low), ("_high", number.high))
        if value is not None
    ]
    params = [entities.Param(name, str(value)) for name, value in _flat(model.config).items()]
    tags = [entities.RunTag(f"unit/{key}", unit) for key, unit in model.units.items()]
    tags += [entities.RunTag(f"status/{status.key} at {status.context_len}", status.said) for status in model.statuses]
    for start in range(0, len(metrics), 10 * MOST):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 10 * MOST])
    for start in range(0, max(len(params), len(tags)), MOST):
        client.log_batch(run.info.run_id, params=params[start : start + MOST], tags=tags[start : start + MOST])
    client.log_text(run.info.run_id, csv_text(list(model.table[0]), model.table), "numbers.csv")
    client.set_terminated(run.info.run_id)
    return run.info.run_id


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of tasks under `task.name`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= (
            {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return found


EXPORTER = Exporter(extra="mlflow", packages={"mlflow": "mlflow-skinny"}, write=write)
